"""Atomic writing: a file is written completely or not at all."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any


@contextmanager
def replacing(path: Path, *, text: bool = False) -> Iterator[IO[Any]]:
    """Open a temporary file that replaces `path` if the block ends without an error, and is deleted otherwise.

    A device or a pipe is written to directly, since replacing it would destroy it; a link stays a link. A replaced file
    keeps its mode and, if permitted, its owner and group; a new file gets the mode that the umask determines.

    Parameters
    ----------
    path : Path
    text : bool, default False
        Whether to write UTF-8 text, with line endings unchanged, instead of bytes.

    Raises
    ------
    OSError
        If the file cannot be written; an existing file is unchanged.
    """
    options: dict[str, Any] = {"encoding": "utf-8", "newline": ""} if text else {}
    kind = "" if text else "b"
    if path.exists() and not path.is_file():
        with path.open(f"w{kind}", **options) as file:
            yield file
        return
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name[:40]}.{os.urandom(6).hex()}.tmp")
    try:
        with temporary.open(f"x{kind}", **options) as file:
            _copy_owner_and_mode(path, temporary)
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _copy_owner_and_mode(path: Path, temporary: Path) -> None:
    """Copy the owner, group and mode of `path` to the empty file that will replace it."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return
    mode = stat.S_IMODE(status.st_mode)
    if hasattr(os, "chown"):
        try:
            os.chown(temporary, status.st_uid, status.st_gid)
        except OSError:  # only a superuser may change the owner, and only a member of a group may set the group
            mode &= 0o777  # the set-user-ID bit of another user's file must not be set on ours
            with suppress(OSError):
                os.chown(temporary, -1, status.st_gid)
    with suppress(OSError):  # some file systems have no modes
        os.chmod(temporary, mode)


def _sync_directory(directory: Path) -> None:
    """Call fsync on a directory, if the system can open directories, so that a renaming in it survives a crash."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except PermissionError:  # Windows, or a directory that may be written to but not listed
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
