"""A module for fork servers to preload, so that their processes need not import and compile everything again."""

from checkpointed import BACKENDS, fit, network

import deepnotes.network.training.checkpoints  # noqa: F401

for backend in BACKENDS:
    fit(network(backend), epochs=1)
