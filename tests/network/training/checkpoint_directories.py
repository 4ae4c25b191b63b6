"""Functions and callbacks for tests that look into the directory of a training's checkpoints."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from checkpointed import BATCH, SAMPLES

import deepnotes as dn
from deepnotes.network.training.checkpoints import list_checkpoints

UPDATES_PER_EPOCH = -(-SAMPLES // BATCH)
SIMPLE: dict[str, Any] = {"early_stopping": None, "metrics": ()}
"""Settings of a training that is neither stopped early nor evaluated by a metric."""


def epochs_in(run: Path) -> list[int]:
    """Return the epochs after which the checkpoints in a directory were written, the latest first."""
    return [int(path.stem.removeprefix("step-")) // UPDATES_PER_EPOCH for path in list_checkpoints(run)]


class AtEpoch(dn.Callback):
    """A callback that calls a function after one epoch."""

    def __init__(self, epoch: int, action: Callable[[], object]) -> None:
        self.epoch, self.action = epoch, action

    def on_epoch(self, training: Any) -> None:
        if training.epoch == self.epoch:
            self.action()


def fail() -> None:
    raise RuntimeError("stopped")
