"""Check the output paths of a command before it does any work: each can be written and does not overwrite an input."""

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
"""The pattern of the names of the files that training writes to the directory of checkpoints."""


def require_output_paths(
    outputs: Mapping[str, Path | None],
    inputs: Iterable[Path] = (),
    *,
    checkpoints: Path | None = None,
    special: bool = False,
) -> None:
    """Raise an error if an output cannot be written, or would overwrite an input or another output.

    Files are compared by identity, so that different paths to the same file, such as links, are recognized.

    Parameters
    ----------
    outputs : mapping of str to Path or None
        The path to write, by option; None for an option that was not given.
    inputs : iterable of Path
        All files that the command reads, including companion files. Files that do not exist are ignored, since they
        cannot be overwritten.
    checkpoints : Path, optional
        A directory of checkpoints, which the command both reads and writes.
    special : bool, default False
        Whether an output may be a pipe, a device, or the file that stdout is redirected to.

    Raises
    ------
    ArgumentError
        If an output is the same file as an input or another output.
    DeepnotesError
        If an output cannot be written.
    """
    paths = {option: path for option, path in outputs.items() if path is not None}
    for option, path in paths.items():
        if checkpoints is None or os.path.lexists(checkpoints) or not _is_same_file(path.parent, checkpoints):
            _require_writable(path, special)  # otherwise, training creates the directory or reports the error
        _require_distinct(option, paths)
    inputs = [path for path in inputs if _exists(path)]
    if checkpoints is not None:
        inputs += _require_no_conflict(checkpoints, paths, inputs)
    for path in inputs:
        _require_unwritten(path, paths)
    if not special:
        _require_stdout_elsewhere(paths)


def _require_distinct(option: str, outputs: Mapping[str, Path]) -> None:
    """Raise ArgumentError if the output of `option` is the same file as the output of an earlier option."""
    path = outputs[option]
    for other, other_path in outputs.items():
        if other == option:
            return
        if _is_same_file(path, other_path):
            raise ArgumentError(f"{option} {path} and {other} {other_path} are the same file")


def _require_unwritten(path: Path, outputs: Mapping[str, Path]) -> None:
    """Raise ArgumentError if the command would write to its input `path`, as an output or as its stdout or stderr."""
    for option, output in outputs.items():
        if _is_same_file(output, path):
            raise ArgumentError(f"{option} {output} would overwrite {path}, which the command reads")
    if _is_stream(path, sys.stdout):
        raise ArgumentError(f"stdout is {path}, which the command reads")
    if _is_stream(path, sys.stderr):
        sys.stderr = sys.stdout  # otherwise, this error message would overwrite the input
        raise ArgumentError(f"stderr is {path}, which the command reads")


def _require_stdout_elsewhere(outputs: Mapping[str, Path]) -> None:
    """Raise ArgumentError if an output is the file that stdout is redirected to, even if given as /dev/stdout."""
    for option, path in outputs.items():
        if _is_stream(path, sys.stdout):
            raise ArgumentError(f"{option} {path} is the file that stdout is redirected to")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Convert an OSError or ValueError in the ``with`` block to an error that names the file to be written.

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
    """Raise DeepnotesError unless a file can be created that replaces `path`."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        status = None
    except (OSError, ValueError) as error:  # ValueError: an invalid path
        raise DeepnotesError(f"cannot write {path}: {reason(error)}") from None
    if status is not None and stat.S_ISDIR(status.st_mode):
        raise DeepnotesError(f"cannot write {path}: it is a directory")
    if status is not None and not stat.S_ISREG(status.st_mode):
        if not special:
            raise DeepnotesError(f"cannot write {path}: it is not a regular file")
        if not os.access(path, os.W_OK):
            raise DeepnotesError(f"cannot write {path}: Permission denied")
        return
    parent = Path(os.path.realpath(path)).parent  # if the path is a link, its target is replaced
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
        if status is not None and _is_protected(status, os.stat(parent)):
            raise PermissionError(1, "the file and its directory belong to other users")
    except OSError as error:
        raise DeepnotesError(f"cannot write {path}: {reason(error)}") from None


def _is_protected(file: os.stat_result, directory: os.stat_result) -> bool:
    """Return whether a sticky directory, such as /tmp, keeps this user from replacing a file in it."""
    if not directory.st_mode & stat.S_ISVTX or not hasattr(os, "geteuid"):
        return False
    return os.geteuid() not in (0, file.st_uid, directory.st_uid)


def _require_no_conflict(directory: Path, outputs: Mapping[str, Path], inputs: Iterable[Path]) -> list[Path]:
    """Raise ArgumentError if checkpoints in `directory` conflict with `outputs` or `inputs`.

    Returns
    -------
    list of Path
        The existing checkpoints.
    """
    real_directory = Path(os.path.realpath(directory))
    for option, path in outputs.items():
        if real_directory.is_relative_to(os.path.realpath(path)):
            raise ArgumentError(f"{option} {path} is a file, but --checkpoint {directory} needs a directory there")
    for path in (*outputs.values(), *inputs):
        real = Path(os.path.realpath(path))
        if _is_same_file(real.parent, real_directory) and _is_checkpoint(real.name):
            raise ArgumentError(f"{path} has the name of a checkpoint, and --checkpoint {directory} may remove it")
    try:
        return [path for path in directory.iterdir() if _is_checkpoint(path.name)]
    except OSError:  # the directory does not exist yet, or training reports the error
        return []


def _is_checkpoint(name: str) -> bool:
    return CHECKPOINT.fullmatch(name) is not None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _is_same_file(path: Path, other: Path) -> bool:
    """Return whether two paths lead to the same file, or would lead to it if it existed."""
    try:
        return os.path.samefile(path, other)
    except OSError:
        return os.path.realpath(path) == os.path.realpath(other)


def _is_stream(path: Path, stream: TextIO) -> bool:
    """Return whether a stream writes to the regular file `path`."""
    try:
        status, stream_status = os.stat(path), os.fstat(stream.fileno())
    except (OSError, ValueError, AttributeError):  # no such file, or the stream is closed or has no descriptor
        return False
    return stat.S_ISREG(status.st_mode) and os.path.samestat(status, stream_status)
