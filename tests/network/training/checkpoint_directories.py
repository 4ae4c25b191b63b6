"""Functions and callbacks for tests that look into the directory of a training's checkpoints."""

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
"""Settings of a training that is neither stopped early nor evaluated by a metric."""


@contextmanager
def memory_folder(tmp_path: Path) -> Iterator[Path]:
    """Yield a folder in memory if the system has such a file system, else `tmp_path`; flushing to a disk is slow."""
    memory = Path("/dev/shm")
    if not (memory.is_dir() and os.access(memory, os.W_OK)):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as name:
        yield Path(name)


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
