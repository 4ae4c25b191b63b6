"""The fixtures of the tests of training."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def memory_folder(tmp_path: Path) -> Iterator[Path]:
    """Return a folder, in memory if the system has such a file system, since flushing to a disk is slow."""
    memory = Path("/dev/shm")
    if not (memory.is_dir() and os.access(memory, os.W_OK)):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as name:
        yield Path(name)


@pytest.fixture
def run(memory_folder: Path) -> Path:
    """Return the path of a checkpoint directory that does not exist yet."""
    return memory_folder / "run"
