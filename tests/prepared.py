"""What a server of processes imports before it makes copies of itself: all that they would import and compile."""

from checkpointed import BACKENDS, fit, network

import deepnotes.network.training.checkpoints  # noqa: F401

for backend in BACKENDS:
    fit(network(backend), epochs=1)
