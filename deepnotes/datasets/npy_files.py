"""Data in ``.npy`` files: a memory-mapped matrix of samples, with optional targets in a companion file."""

import re
from pathlib import Path

import numpy as np

from deepnotes.datasets.npz_files import Header, matrix, read_header, require_matrix, select, targets
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
"""The words for targets in the names of companion files, by the word for samples in the name of the data file."""

SAMPLE_WORDS = "|".join(COMPANIONS)


def map_array(path: Path, source: str) -> np.ndarray:
    """Memory-map the array in a file; its values are read from disk only when they are used.

    Raises
    ------
    TableError
        If the file does not hold an array of real numbers or text, or is shorter than its header says.
    """
    with path.open("rb") as file:
        header = read_header(file, f"{source}: the file")
        start = file.tell()
    return map_values(path, header, start, source)


def map_values(path: Path, header: Header, start: int, source: str) -> np.ndarray:
    """Memory-map the array whose values begin at byte `start` of a file.

    Raises
    ------
    TableError
        If the file ends before the end of the array.
    """
    size = header.nbytes
    if start + size > path.stat().st_size:
        raise TableError(f"{source}: the file ends before the end of its array, which takes {size:,} bytes")
    if not size:
        return np.empty(header.shape, header.dtype)
    try:
        return np.memmap(path, header.dtype, "r", start, header.shape, "F" if header.fortran_order else "C")
    except (OSError, ValueError, OverflowError) as error:
        raise TableError(f"{source}: cannot be mapped into memory: {reason(error)}") from error


def find_companion(path: Path) -> Path | None:
    """Return the file of targets that belongs to a file of samples, such as y.npy for X.npy, or None if there is none.

    The name of the file of samples must begin or end with X, x, images, data or features, separated from the rest of
    the name by a character other than a letter. In the name of the file of targets, this word is y, labels or targets:
    the targets for ``X_train.npy`` are in ``y_train.npy``, and the targets for ``images-1.npy`` in ``labels-1.npy``.
    """
    match = re.fullmatch(rf"()({SAMPLE_WORDS})([^A-Za-z].*)?", path.stem) or re.fullmatch(
        rf"(.*[^A-Za-z])({SAMPLE_WORDS})()", path.stem
    )
    if not match:
        return None
    before, word, after = (part or "" for part in match.groups())
    for name in COMPANIONS[word]:
        candidate = path.with_name(f"{before}{name}{after}{path.suffix}")
        if candidate.is_file():
            return candidate
    return None


def read(path: Path, source: str, request: Request = EVERYTHING) -> Content:
    """Read the requested columns of a file, which holds a matrix, and of its companion file, which holds the targets.

    Raises
    ------
    TableError
    """
    X, y = matrix_and_targets(path, source)
    columns = matrix(X, "X", source)
    columns |= y
    return select(columns, request, list(columns), source)


def matrix_and_targets(path: Path, source: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the matrix in a file, mapped into memory, and the targets in its companion file, by column name.

    Raises
    ------
    TableError
    """
    X = map_array(path, source)
    if X.dtype.kind == "U" or X.ndim != 2:
        matrix(X, "X", source)  # raises the error
    require_matrix(X.shape, "X", source)
    y_path = find_companion(path)
    if y_path is None:
        return X, {}
    return X, targets(map_array(y_path, str(y_path)), "y", "X", len(X), str(y_path))
