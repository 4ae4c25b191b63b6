"""Data files as tables of named columns: CSV and NumPy archives in, CSV out.

A table holds rows = samples, as files do. Nothing is guessed and nothing is dropped: a cell that cannot be used is an
error that says where it stands.
"""

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepnotes import csv_files, npz_files
from deepnotes.csv_files import Column, TextStream
from deepnotes.errors import ArgumentError, DTypeError, ShapeError, TableError
from deepnotes.wording import listed, one_line, reason, shown

__all__ = ["Column", "Table", "read_table", "write_table"]


@dataclass(frozen=True, eq=False)
class Table:
    """Named columns of one length.

    Parameters
    ----------
    names : list of str
        The names of the columns, in order.
    columns : dict of str to array
        For each name a float64 array (numbers) or a unicode string array (text), each of shape (m,).
    source : str
        Where the table comes from; error messages begin with it.
    lines : dict of str to int
        The line of `source` where each column's first value stands, as far as lines are known.

    Examples
    --------
    >>> table = Table(["a", "b", "kind"], {"a": np.ones(2), "b": np.zeros(2), "kind": np.array(["x", "y"])})
    >>> table.n_rows
    2
    >>> X, names = table.features(exclude=["kind"])
    >>> X.shape, names
    ((2, 2), ['a', 'b'])
    """

    names: list[str]
    columns: dict[str, Column]
    source: str = "table"
    lines: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.names or self.names != list(self.columns):
            raise ArgumentError(
                f"names are {listed(self.names)} and columns are {listed(self.columns)}; "
                "the same names in the same order, at least one, were wanted"
            )
        for name, column in self.columns.items():
            if column.dtype != np.float64 and column.dtype.kind != "U":
                raise DTypeError(f"column {name!r} has dtype {column.dtype}; float64 or unicode strings were wanted")
            if column.shape != (self.n_rows,) or not column.size:
                raise ShapeError(
                    f"column {name!r} has shape {column.shape}; (m,) was wanted, the same m for all, at least 1"
                )

    @property
    def n_rows(self) -> int:
        """The number of rows, m."""
        return int(self.columns[self.names[0]].size)

    def column(self, name: str) -> Column:
        """Return the column `name`, shape (m,).

        Raises
        ------
        TableError
            If there is none; the message has the nearest name, and the first ten.
        """
        self._require([name])
        return self.columns[name]

    def features(
        self, exclude: Sequence[str] = (), names: Sequence[str] | None = None
    ) -> tuple[NDArray[np.float64], list[str]]:
        """Return columns of numbers side by side.

        Parameters
        ----------
        exclude : sequence of str
            Columns to leave out when `names` is None, such as the target.
        names : sequence of str, optional
            Take exactly these columns, in this order, and nothing of the others.

        Returns
        -------
        X : float64 array, shape (m, n)
        names : list of str
            The n names of its columns.

        Raises
        ------
        TableError
            If a column does not exist, is text, or if none is left.
        ArgumentError
            If `exclude` or `names` is one string.
        """
        for argument, value in (("exclude", exclude), ("names", names)):
            if isinstance(value, str):
                raise ArgumentError(f"{argument} is the string {value!r}; a sequence of column names was wanted")
        if names is None:
            self._require(exclude)
            names = [name for name in self.names if name not in exclude]
        self._require(names)
        if not names:
            raise TableError(f"{self.source}: no column is left to be a feature; columns: {listed(self.names)}")
        for name in names:
            if self.columns[name].dtype.kind == "U":
                raise TableError(
                    f"{self._place(name)}: column {name!r} is text, its first value is "
                    f"{shown(self.columns[name][0])}, and features must be numbers"
                )
        return np.column_stack([self.columns[name] for name in names]).astype(np.float64, copy=False), list(names)

    def _require(self, names: Iterable[str]) -> None:
        if missing := [name for name in names if name not in self.columns]:
            told = ", ".join(f"no column {name!r}{self._nearest(name)}" for name in missing[:10])
            more = ", ..." if len(missing) > 10 else ""
            raise TableError(f"{self.source}: {told}{more}; columns: {listed(self.names)}")

    def _place(self, name: str) -> str:
        return f"{self.source}:{self.lines[name]}" if name in self.lines else self.source

    def _nearest(self, name: object) -> str:
        lower = {known.lower(): known for known in self.names}
        near = difflib.get_close_matches(str(name).lower(), lower, n=1, cutoff=0.5)
        return f" (did you mean {lower[near[0]]!r}?)" if near else ""


def read_table(path: str | os.PathLike[str]) -> Table:
    """Read a data file as a table.

    Parameters
    ----------
    path : path
        ``.csv``: comma-separated UTF-8 text, the first row holds the column names. A column whose first cell is a
        number must hold finite numbers only; any other column is text. White space around a cell is dropped, blank
        lines are skipped, no cell may be empty.

        ``.npz``: a NumPy archive with ``X`` of shape (m, n) and perhaps ``y`` of shape (m,) or (m, k), of either
        case: the columns are x0, x1, ... and y, or y0, y1, ... where k > 1; other arrays are not looked at. Without
        an ``X`` each array of shape (m,) is a column of its own name.

    Raises
    ------
    TableError
        If the file cannot be read, or does not hold such a table; one line that says where and what.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "flowers.csv")
    ...     _ = path.write_text("length,kind\\n1.5,rose\\n2,tulip\\n")
    ...     table = read_table(path)
    >>> table.column("length"), table.column("kind")
    (array([1.5, 2. ]), array(['rose', 'tulip'], dtype='<U5'))
    """
    path = _as_path(path)
    source = one_line(path)
    readers = {".csv": csv_files.read, ".npz": npz_files.read}
    reader = readers.get(path.suffix.lower())
    try:
        with path.open("rb") as file:
            data = file.read() if reader else b""
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        raise TableError(f"{source}: cannot be read: {reason(error)}") from error
    if reader is None:
        raise TableError(f"{source}: the suffix is {path.suffix!r}; {' or '.join(readers)} was wanted")
    try:
        columns, lines = reader(data, source)
    except MemoryError as error:
        raise TableError(f"{source}: the table does not fit into memory") from error
    return Table(list(columns), columns, source, lines)


def _as_path(path: str | os.PathLike[str]) -> Path:
    try:
        return Path(path)
    except TypeError as error:
        raise ArgumentError(f"path is {path!r}; a path, as a string or os.PathLike, was wanted") from error


def write_table(
    path_or_stream: str | os.PathLike[str] | TextStream,
    names: Sequence[str],
    columns: Mapping[str, ArrayLike] | Sequence[ArrayLike],
) -> None:
    """Write columns as CSV with a header row.

    Floats get the fewest digits that read back as the same number of their dtype, integers are written as integers,
    booleans as 0 and 1, and text as it is.

    Parameters
    ----------
    path_or_stream : path or text stream
        A path is written to all at once: it has the whole table, or what it had before.
    names : sequence of str
        The header: one name per column, none empty, none twice.
    columns : sequence of arrays, or mapping of names to arrays
        Numbers or text, each of shape (m,).

    Raises
    ------
    TableError
        If the file cannot be written. A stream's BrokenPipeError passes, for its owner to see.
    ArgumentError, ShapeError, DTypeError
        If `names` or `columns` do not make a table.

    Examples
    --------
    >>> import sys
    >>> write_table(sys.stdout, ["share", "kind"], [np.array([0.1, 2], np.float32), ["rose", "tulip, red"]])
    share,kind
    0.1,rose
    2.0,"tulip, red"
    """
    if isinstance(names, str) or not all(isinstance(name, str) for name in names) or not names:
        raise ArgumentError(f"names are {names!r}; a sequence of at least one column name was wanted")
    if fault := csv_files.fault_of(names):
        raise ArgumentError(f"names are {listed(names)}: {fault}")
    cells = _cells(names, columns)
    if isinstance(path_or_stream, str | os.PathLike):
        path = _as_path(path_or_stream)
        try:
            csv_files.write_file(path, names, cells)
        except (OSError, ValueError) as error:  # ValueError: a path that no file can have, text that UTF-8 has not
            raise TableError(f"{one_line(path)}: cannot be written: {reason(error)}") from error
    elif hasattr(path_or_stream, "write"):
        try:
            csv_files.write_rows(path_or_stream, names, cells)
        except BrokenPipeError:
            raise
        except (OSError, ValueError) as error:
            raise TableError(f"the stream cannot be written to: {reason(error)}") from error
    else:
        raise ArgumentError(f"path_or_stream is {path_or_stream!r}; a path or a text stream was wanted")


def _cells(names: Sequence[str], columns: Mapping[str, ArrayLike] | Sequence[ArrayLike]) -> list[list[object]]:
    """Return each column as a list of what the csv module writes as wanted."""
    if isinstance(columns, Mapping):
        if missing := [name for name in names if name not in columns]:
            raise ArgumentError(f"columns have no {listed(missing)}; a column for each of the names was wanted")
        columns = [columns[name] for name in names]
    if len(columns) != len(names):
        raise ArgumentError(f"columns are {len(columns)}; {len(names)} were wanted, one for each of the names")
    arrays = [_as_array(name, column) for name, column in zip(names, columns, strict=True)]
    for name, array in zip(names, arrays, strict=True):
        if array.ndim != 1 or array.size != arrays[0].size:
            raise ShapeError(f"column {name!r} has shape {array.shape}; shape (m,), the same m for all, was wanted")
    return [_exact(array) for array in arrays]


def _as_array(name: str, column: ArrayLike) -> NDArray[Any]:
    try:
        array = np.asarray(column)
    except (TypeError, ValueError) as error:
        raise ShapeError(f"column {name!r} is no array: {reason(error)}") from error
    if array.dtype.kind not in "biufU":
        raise DTypeError(f"column {name!r} has dtype {array.dtype}; real numbers or text were wanted")
    return array


def _exact(array: NDArray[Any]) -> list[object]:
    if array.dtype.kind == "b":
        array = array.astype(np.int8)
    if array.dtype.kind == "f" and array.dtype != np.float64:
        return [float(str(value)) for value in array]  # 0.1 for a float32, whose float64 value is 0.10000000149011612
    cells: list[object] = array.tolist()
    return cells
