"""The mode and owner of new and replaced model files and checkpoints."""

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from checkpoint_directories import memory_folder
from checkpointed import fit, network

from deepnotes.utils.atomic_files import replacing


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    """Yield the path of a checkpoint directory that does not exist yet."""
    with memory_folder(tmp_path) as folder:
        yield folder / "run"


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX file modes")
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o444, 0o755])
def test_a_replaced_file_keeps_its_mode_and_owner(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "model.safetensors"
    network().save(path)
    path.chmod(mode)
    if os.getuid() == 0:
        os.chown(path, 65534, 12345)
    before = path.stat()
    with replacing(path) as file:
        temporary_files = [*tmp_path.glob("*.tmp"), *tmp_path.glob(".*.tmp")]
        temporary_modes = {stat.S_IMODE(temporary.stat().st_mode) for temporary in temporary_files}
        file.write(b"new")
    after = path.stat()
    assert path.read_bytes() == b"new"
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert temporary_modes == {mode}  # a private file must be private while it is written


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX file modes")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_new_files_respect_the_umask(run: Path, umask: int) -> None:
    original = os.umask(umask)
    try:
        fit(network(), run, 1)
        network().save(run / "model.safetensors")
    finally:
        os.umask(original)
    for path in run.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX file modes")
def test_the_setuid_bit_is_dropped_if_the_owner_cannot_be_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o4750)
    monkeypatch.setattr(os, "chown", refuse)
    with replacing(path) as file:
        file.write(b"new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o750
