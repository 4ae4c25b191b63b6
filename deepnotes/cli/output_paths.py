"""Output paths of a command: each is checked before any work is done, and no input is overwritten."""

import os
import re
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from deepnotes.utils.errors import ArgumentError, DeepnotesError
from deepnotes.utils.wording import reason

CHECKPOINT = re.compile(r"step-[0-9]{9,}\.safetensors|\.step-.*\.tmp|\.lock", re.DOTALL)
"""The names of the files that a training keeps in its directory of checkpoints."""


def require_output_paths(
    outputs: Mapping[str, Path | None],
    inputs: Iterable[Path] = (),
    *,
    checkpoints: Path | None = None,
    special: bool = False,
) -> None:
    """Raise an error if an output cannot be written, or would replace an input or another output.

    Files are compared as the system does, so links, hard or symbolic, and other spellings of a path do not matter.

    Parameters
    ----------
    outputs : mapping of str to Path or None
        The path to write, by option; None for an option that was not given.
    inputs : iterable of Path
        All files that the command reads, companion files included. Files that do not exist are ignored, since they
        cannot be lost.
    checkpoints : Path, optional
        A directory of checkpoints, which the command both reads and writes.
    special : bool, default False
        Whether an output may be a pipe or a device, stdout among them.

    Raises
    ------
    ArgumentError
        If two of them are the same file.
    DeepnotesError
        If one cannot be written.
    """
    given = {option: path for option, path in outputs.items() if path is not None}
    for option, path in given.items():
        if checkpoints is None or os.path.lexists(checkpoints) or not _same(path.parent, checkpoints):
            _require_writable(path, special)  # else the training reports it
        for other, place in given.items():
            if other == option:
                break
            if _same(path, place):
                raise ArgumentError(f"{option} {path} and {other} {place} are the same file")
    inputs = [path for path in inputs if _exists(path)]
    if checkpoints is not None:
        inputs += _require_apart(checkpoints, given, inputs)
    for path in inputs:
        for option, place in given.items():
            if _same(place, path):
                raise ArgumentError(f"{option} {place} is what the command reads, and would be lost: {path}")
        if _is_stream(path, sys.stdout):
            raise ArgumentError(f"stdout is {path}, which the command reads")
        if _is_stream(path, sys.stderr):
            sys.stderr = sys.stdout  # since this message would go to the file as well
            raise ArgumentError(f"stderr is {path}, which the command reads")
    for option, place in given.items():
        if _is_stream(place, sys.stdout) and not special:  # if /dev/stdout is also an output
            raise ArgumentError(f"{option} {place} is where stdout goes as well")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file in the error if it cannot be written.

    Raises
    ------
    DeepnotesError
    """
    try:
        yield
    except DeepnotesError:
        raise
    except (OSError, ValueError) as error:
        raise DeepnotesError(f"cannot write {path}: {reason(error)}") from error


def _require_writable(path: Path, special: bool) -> None:
    """Raise DeepnotesError unless a file can be made that replaces `path`."""
    try:
        there = os.stat(path)
    except FileNotFoundError:
        there = None
    except (OSError, ValueError) as error:  # ValueError: an invalid path
        raise DeepnotesError(f"cannot write {path}: {reason(error)}") from None
    if there is not None and stat.S_ISDIR(there.st_mode):
        raise DeepnotesError(f"cannot write {path}: it is a directory")
    if there is not None and not stat.S_ISREG(there.st_mode):
        if not special:
            raise DeepnotesError(f"cannot write {path}: it is no regular file")
        if not os.access(path, os.W_OK):
            raise DeepnotesError(f"cannot write {path}: Permission denied")
        return
    parent = Path(os.path.realpath(path)).parent  # a link stays a link: its target is written
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
        if there is not None and _belongs_to_another(there, os.stat(parent)):
            raise PermissionError(1, "it belongs to another user, and so does the directory")
    except OSError as error:
        raise DeepnotesError(f"cannot write {path}: {reason(error)}") from None


def _belongs_to_another(there: os.stat_result, parent: os.stat_result) -> bool:
    """Return whether a sticky directory, such as /tmp, keeps this user from replacing a file in it."""
    if not parent.st_mode & stat.S_ISVTX or not hasattr(os, "geteuid"):
        return False
    return os.geteuid() not in (0, there.st_uid, parent.st_uid)


def _require_apart(directory: Path, outputs: Mapping[str, Path], inputs: Iterable[Path]) -> list[Path]:
    """Raise ArgumentError if a file is in the way of checkpoints; return those that are there."""
    real = Path(os.path.realpath(directory))
    for option, path in outputs.items():
        if real.is_relative_to(os.path.realpath(path)):
            raise ArgumentError(f"{option} {path} is where --checkpoint {directory} needs a directory")
    for path in (*outputs.values(), *inputs):
        found = Path(os.path.realpath(path))
        if _same(found.parent, real) and _is_checkpoint(found.name):
            raise ArgumentError(f"{path} has the name of a checkpoint, and --checkpoint {directory} may remove it")
    try:
        return [path for path in directory.iterdir() if _is_checkpoint(path.name)]
    except OSError:  # it does not exist yet, or the training reports what is wrong with it
        return []


def _is_checkpoint(name: str) -> bool:
    return CHECKPOINT.fullmatch(name) is not None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _same(path: Path, other: Path) -> bool:
    """Return whether two paths lead to the same file, or will if neither exists yet."""
    try:
        return os.path.samefile(path, other)
    except OSError:
        return os.path.realpath(path) == os.path.realpath(other)


def _is_stream(path: Path, stream: TextIO) -> bool:
    """Return whether a stream writes to a file."""
    try:
        there, open_file = os.stat(path), os.fstat(stream.fileno())
    except (OSError, ValueError, AttributeError):  # it does not exist, or the stream is closed or not a file
        return False
    return stat.S_ISREG(there.st_mode) and os.path.samestat(there, open_file)
