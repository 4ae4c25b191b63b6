"""Imported by a fork server before it forks, so that the forks need not import and compile again."""

from checkpointed import BACKENDS, fit, network

import deepnotes.network.training.checkpoints  # noqa: F401

for backend in BACKENDS:
    fit(network(backend), epochs=1)
