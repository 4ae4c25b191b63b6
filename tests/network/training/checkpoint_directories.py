"""Helpers for tests that examine checkpoint directories."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from checkpointed import BATCH, SAMPLES

import deepnotes as dn
from deepnotes.network.training.checkpoints import list_checkpoints

UPDATES_PER_EPOCH = -(-SAMPLES // BATCH)
SIMPLE: dict[str, Any] = {"early_stopping": None, "metrics": ()}
"""Settings for training without early stopping and without metrics."""


@contextmanager
def memory_folder(tmp_path: Path) -> Iterator[Path]:
    """Yield a directory in /dev/shm if possible, else `tmp_path`: flushing files to a disk is slow."""
    memory = Path("/dev/shm")
    if not (memory.is_dir() and os.access(memory, os.W_OK)):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as name:
        yield Path(name)


def epochs_in(run: Path) -> list[int]:
    """Return the epochs of the checkpoints in the directory `run`, the latest first."""
    return [int(path.stem.removeprefix("step-")) // UPDATES_PER_EPOCH for path in list_checkpoints(run)]


class AtEpoch(dn.Callback):
    """A callback that calls `action` after the epoch with the number `epoch`."""

    def __init__(self, epoch: int, action: Callable[[], object]) -> None:
        self.epoch, self.action = epoch, action

    def on_epoch(self, training: Any) -> None:
        if training.epoch == self.epoch:
            self.action()


def fail() -> None:
    raise RuntimeError("stopped")
