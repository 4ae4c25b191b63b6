"""Files that are written whole or not at all."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any


@contextmanager
def replacing(path: Path, *, text: bool = False) -> Iterator[IO[Any]]:
    """Open a file that replaces `path` when the block ends without an error; otherwise nothing changes.

    A device or a pipe is written to directly, since replacing it would destroy it; a link stays a link. A replaced file
    keeps its mode and, where permitted, its owner and group; a new file gets the mode that the umask leaves.

    Parameters
    ----------
    path : Path
    text : bool, default False
        Whether to write UTF-8 text, line ends as given, instead of bytes.

    Raises
    ------
    OSError
        If it cannot be written; the existing file is untouched.
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
            _keep_owner_and_mode(path, temporary)
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _keep_names(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _keep_owner_and_mode(path: Path, temporary: Path) -> None:
    """Copy owner, group and mode of `path` to the file that will replace it, before anything is written to it."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return
    kept = stat.S_IMODE(found.st_mode)
    if hasattr(os, "chown"):
        try:
            os.chown(temporary, found.st_uid, found.st_gid)
        except OSError:  # only a superuser may change the owner, and only a member of a group may set it
            kept &= 0o777  # never set a set-user-ID bit that another user's file had
            with suppress(OSError):
                os.chown(temporary, -1, found.st_gid)
    with suppress(OSError):  # a file system that has no modes
        os.chmod(temporary, kept)


def _keep_names(directory: Path) -> None:
    """Call fsync on a directory, where the system allows opening it."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except PermissionError:  # a directory that may be written to but not listed, or Windows
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
