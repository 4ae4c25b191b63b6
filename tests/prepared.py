"""Preloaded by a fork server, so that its processes need not import modules and compile kernels again."""

from checkpointed import BACKENDS, fit, network

import deepnotes.network.training.checkpoints  # noqa: F401

for backend in BACKENDS:
    fit(network(backend), epochs=1)
