"""Single NumPy arrays as data: a memory-mapped matrix of samples, with optional targets in a companion file."""

import re
from pathlib import Path

import numpy as np

from deepnotes.datasets.npz_files import chosen, matrix, read_header, require_matrix, targets
from deepnotes.datasets.reading import EVERYTHING, Content, Request
from deepnotes.utils.errors import TableError
from deepnotes.utils.wording import reason

COMPANIONS = {
    "X": ["y", "Y"],
    "x": ["y", "Y"],
    "images": ["labels"],
    "data": ["targets", "labels"],
    "features": ["targets", "labels"],
}
"""The names of targets, by the names of their samples."""

WORDS = "|".join(COMPANIONS)


def mapped(path: Path, source: str) -> np.ndarray:
    """Map the array of a file into memory, so that only the parts that are used are read.

    Raises
    ------
    TableError
        If the file holds no array, anything but real numbers or text, or less than its header says.
    """
    with path.open("rb") as file:
        header = read_header(file, f"{source}: the file")
        at = file.tell()
    return map_part(path, header.dtype, header.shape, at, header.by_column, source)


def map_part(path: Path, dtype: np.dtype, shape: tuple[int, ...], at: int, by_column: bool, source: str) -> np.ndarray:
    """Map an array that begins at byte `at` of a file into memory.

    Raises
    ------
    TableError
        If the file ends before the array.
    """
    size = dtype.itemsize
    for n in shape:
        size *= n
    if at + size > path.stat().st_size:
        raise TableError(f"{source}: the array takes {size:,} bytes, and the file ends before")
    if not size:
        return np.empty(shape, dtype)
    try:
        return np.memmap(path, dtype, "r", at, shape, "F" if by_column else "C")
    except (OSError, ValueError, OverflowError) as error:
        raise TableError(f"{source}: cannot be mapped into memory: {reason(error)}") from error


def companion(path: Path) -> Path | None:
    """Return the file of targets that belongs to a file of samples by name, such as y.npy for X.npy, or None.

    The letter X or x, or the words images, data or features, at the beginning or the end of the name and set apart
    from the rest, stand for y, labels or targets: ``X_train.npy`` has ``y_train.npy``, ``images-1.npy`` has
    ``labels-1.npy``.
    """
    found = re.fullmatch(rf"()({WORDS})([^A-Za-z].*)?", path.stem) or re.fullmatch(
        rf"(.*[^A-Za-z])({WORDS})()", path.stem
    )
    if not found:
        return None
    before, word, after = (part or "" for part in found.groups())
    for name in COMPANIONS[word]:
        there = path.with_name(f"{before}{name}{after}{path.suffix}")
        if there.is_file():
            return there
    return None


def read(path: Path, source: str, request: Request = EVERYTHING) -> Content:
    """Read what was requested of a matrix and of the targets in its companion file.

    Raises
    ------
    TableError
    """
    X, y = matrix_and_targets(path, source)
    columns = matrix(X, "X", source)
    columns |= y
    return chosen(columns, request, list(columns), source)


def matrix_and_targets(path: Path, source: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the matrix of a file, still mapped, and the columns of the targets in its companion file.

    Raises
    ------
    TableError
    """
    X = mapped(path, source)
    if X.dtype.kind == "U" or X.ndim != 2:
        matrix(X, "X", source)
    require_matrix(X.shape, "X", source)
    beside = companion(path)
    if beside is None:
        return X, {}
    return X, targets(mapped(beside, str(beside)), "y", "X", len(X), str(beside))
