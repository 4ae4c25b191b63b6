"""NumPy archives: columns out of the bytes of one."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from deepnotes.csv_files import Column
from deepnotes.errors import TableError
from deepnotes.wording import reason


def read(data: bytes, source: str) -> tuple[dict[str, Column], dict[str, int]]:
    """Return the columns in the `data` of a file by name, and no lines, since an archive has none.

    Raises
    ------
    TableError
        At the first fault; the message begins with `source`.
    """
    if not data.startswith(b"PK\x03\x04"):
        raise TableError(f"{source}: not a NumPy archive, as numpy.savez writes")
    try:
        archive = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # whatever a damaged file makes of zipfile
        raise TableError(f"{source}: the archive is damaged: {reason(error)}") from error
    names: list[str] = archive.files
    if not names:
        raise TableError(f"{source}: the archive has no arrays; an array X, or columns, were wanted")
    found = {letter: [name for name in names if name.lower() == letter] for letter in "xy"}
    for both in found.values():
        if len(both) > 1:
            raise TableError(f"{source}: the archive has {' and '.join(map(repr, both))}; one of them was wanted")
    if found["x"]:
        return _matrix_columns(archive, found["x"][0], found["y"], source), {}
    return _named_columns(archive, source), {}


def _matrix_columns(archive: Mapping[str, Any], x: str, ys: list[str], source: str) -> dict[str, Column]:
    X = _array(archive, x, source)
    if X.dtype.kind == "U":
        raise TableError(f"{source}: array {x!r} is text, and features must be numbers")
    if X.ndim != 2 or not X.size:
        raise TableError(f"{source}: array {x!r} has shape {X.shape}; (samples, features), both over 0, was wanted")
    columns: dict[str, Column] = {f"x{j}": X[:, j] for j in range(X.shape[1])}
    for name in ys:
        y = _array(archive, name, source)
        if y.ndim not in (1, 2) or not y.size or len(y) != len(X):
            m = len(X)
            raise TableError(
                f"{source}: array {name!r} has shape {y.shape}; ({m},) or ({m}, k) was wanted, as {x!r} has"
            )
        if y.size == len(X):
            columns["y"] = y.reshape(-1)
        else:
            columns.update({f"y{j}": y[:, j] for j in range(y.shape[1])})
    return columns


def _named_columns(archive: Mapping[str, Any], source: str) -> dict[str, Column]:
    columns: dict[str, Column] = {}
    for name in archive:
        column = _array(archive, name, source)
        if column.ndim != 1:
            raise TableError(
                f"{source}: array {name!r} has shape {column.shape}; an array X of shape (samples, features) was "
                "wanted, or else columns of shape (samples,) only"
            )
        columns[name] = column
        first = next(iter(columns))
        if not column.size or column.size != columns[first].size:
            wanted = "at least one" if name == first else f"{columns[first].size}, as {first!r} has,"
            raise TableError(f"{source}: array {name!r} has {column.size} values; {wanted} was wanted")
    return columns


def _array(archive: Mapping[str, Any], name: str, source: str) -> Column:
    """Return an array of finite float64 numbers or of text without empty cells."""
    try:
        array = archive[name]
    except MemoryError:
        raise
    except Exception as error:  # whatever a damaged or pickled array makes of zipfile and NumPy
        raise TableError(f"{source}: array {name!r} cannot be read: {reason(error)}") from error
    kind = array.dtype.kind if isinstance(array, np.ndarray) else "none"
    if kind not in "biufU":
        came = f"dtype {array.dtype}" if isinstance(array, np.ndarray) else "no array format"
        raise TableError(f"{source}: array {name!r} has {came}; real numbers or text were wanted")
    if kind == "U":
        wrong = array == ""
    else:
        with np.errstate(over="ignore"):  # a long double beyond float64 becomes infinite, which is told below
            array = array.astype(np.float64)
        wrong = ~np.isfinite(array)
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        told, wanted = ("an empty text", "a value") if kind == "U" else (array[at], "a finite number")
        raise TableError(f"{source}: array {name!r} has {told} at {list(at)} where {wanted} was expected")
    return array  # type: ignore[no-any-return]
