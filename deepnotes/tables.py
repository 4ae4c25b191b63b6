"""Data files as tables of named columns.

A table holds rows = samples, as files do. Nothing is guessed and nothing is dropped: a cell that cannot be used is an
error that says where it stands.
"""

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepnotes.errors import ArgumentError, DTypeError, ShapeError, TableError
from deepnotes.exchange import refuse_masked
from deepnotes.readings import Column, Content, Gap, Request, missing_in, require_names
from deepnotes.table_writing import write_table
from deepnotes.wording import listed, one_line, reason, shown

__all__ = ["Column", "Table", "read_table", "write_table"]

WANTED = ".csv, .parquet, .npz, .npy or the name of an IDX file"

FAST_FROM = 1 << 16
"""Bytes of a .csv from which on it is worth to import pyarrow."""


@dataclass(frozen=True, eq=False)
class Table:
    """Named columns of one length.

    Parameters
    ----------
    names : list of str
        The names of the columns, in order.
    columns : dict of str to array
        For each name a float64 array (numbers) or a unicode string array (text), each of shape (m,). NaN or an empty
        text stands where a value is missing.
    source : str
        Where the table comes from; error messages begin with it.
    lines : dict of str to int
        The line of `source` where each column's first value stands, as far as lines are known.
    gaps : dict of str to Gap
        Where values are missing, as far as that is known.
    others : list of str
        The names of further columns of `source`, that were not read.

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
    gaps: dict[str, Gap] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.names or self.names != list(self.columns):
            raise ArgumentError(
                f"names are {listed(self.names)} and columns are {listed(self.columns)}; "
                "the same names in the same order, at least one, were wanted"
            )
        for name, column in self.columns.items():
            refuse_masked(column, f"column {name!r}")
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
        self.require([name])
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
            self.require(exclude)
            names = [name for name in self.names if name not in exclude]
        self.require(names)
        if not names:
            raise TableError(f"{self.source}: no column is left to be a feature; columns: {listed(self.names)}")
        for name in names:
            if self.columns[name].dtype.kind == "U":
                raise TableError(
                    f"{self.place(name)}: column {name!r} is text, its first value is "
                    f"{shown(self.columns[name][0])}, and features must be numbers"
                )
        return np.column_stack([self.columns[name] for name in names]).astype(np.float64, copy=False), list(names)

    def require_complete(self, names: Iterable[str], hint: str = "") -> None:
        """Raise TableError if one of these columns misses a value; the message says where, and ends with `hint`."""
        for name in names:
            missing = missing_in(self.column(name))
            if missing.any():
                gap = self.gaps.get(name) or Gap.of_rows(missing, "no value where one was expected")
                raise TableError(f"{gap.words(self.source, name)}{f'; {hint}' if hint else ''}")

    def place(self, name: str) -> str:
        """Return where a column begins, as error messages say it."""
        return f"{self.source}:{self.lines[name]}" if name in self.lines else self.source

    def require(self, names: Iterable[str]) -> None:
        """Raise TableError unless there are columns of these names, with the nearest to each that there is not."""
        require_names(self.source, (name for name in names if name not in self.columns), [*self.names, *self.others])


def read_table(
    path: str | os.PathLike[str],
    *,
    columns: Collection[str] | None = None,
    exclude: Collection[str] = (),
    text: Collection[str] = (),
    missing: str = "error",
) -> Table:
    """Read a data file as a table.

    Parameters
    ----------
    path : path
        ``.csv``: comma-separated UTF-8 text, the first row holds the column names. A column whose first cell that is
        not missing is a number must hold finite numbers only; any other column is text. White space around a cell is
        dropped, blank lines are skipped. An empty cell is missing; among numbers, NA, N/A, NaN and null are, too. With
        the extra ``data``, pyarrow reads what it reads to the same result.

        ``.parquet``: columns of numbers and of text, with the extra ``data``.

        ``.npz``: a NumPy archive with ``X`` of shape (m, n) and perhaps ``y`` of shape (m,) or (m, k), of either
        case: the columns are x0, x1, ... and y, or y0, y1, ... where k > 1; other arrays are not looked at. Without
        an ``X`` each array of shape (m,) is a column of its own name.

        ``.npy``: an array X, and y in a file beside it: ``X_train.npy`` and ``y_train.npy``, ``images.npy`` and
        ``labels.npy``, ``features.npy`` and ``targets.npy``.

        IDX, the format of MNIST, plain or gzip: ``train-images-idx3-ubyte.gz`` with ``train-labels-idx1-ubyte.gz``
        beside it; the columns are pixel_ROW_COLUMN and label.
    columns : collection of str, optional
        Read only these columns; by default all.
    exclude : collection of str
        Columns that are not even looked at, whatever they hold.
    text : collection of str
        Columns of a .csv that are text even if they look like numbers.
    missing : {"error", "keep"}
        Whether a missing value is an error, or becomes NaN, or an empty text.

    Raises
    ------
    TableError
        If the file cannot be read, or does not hold such a table; one line that says where and what.
    ArgumentError

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
    if missing not in ("error", "keep"):
        raise ArgumentError(f"missing={missing!r}, wanted 'error' or 'keep'")
    request = Request(columns, exclude, text)
    path = as_path(path)
    source = one_line(path)
    reader = reader_of(path)
    try:
        if reader is None:
            with path.open("rb"):  # what cannot be opened is told in the words of the system
                pass
            raise TableError(f"{source}: the suffix is {path.suffix!r}; {WANTED} was wanted")
        content = reader(path, source, request)
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        if isinstance(error, TableError):
            raise
        raise TableError(f"{source}: cannot be read: {reason(error)}") from error
    except MemoryError as error:
        raise TableError(f"{source}: the table does not fit into memory") from error
    request.require_known(source, content.names)
    if not content.columns:
        raise TableError(f"{source}: no column is left to be read; columns: {listed(content.names)}")
    others = [name for name in content.names if name not in content.columns]
    table = Table(list(content.columns), content.columns, source, content.lines, content.gaps, others)
    if missing == "error":
        table.require_complete(table.names)
    return table


def reader_of(path: Path) -> Callable[[Path, str, Request], Content] | None:
    """Return the function that reads files of such a name, or None."""
    from deepnotes import idx_files, npy_files, npz_files, parquet_files

    suffix = path.suffix.lower()
    readers = {".csv": _read_csv, ".npz": npz_files.read, ".npy": npy_files.read, ".parquet": parquet_files.read}
    return idx_files.read if idx_files.is_idx(path) else readers.get(suffix)


def _read_csv(path: Path, source: str, request: Request) -> Content:
    from deepnotes import csv_arrow, csv_files

    with path.open("rb") as file:
        data = file.read()
    if len(data) >= FAST_FROM:
        csv_files.require_text(data, source)
        try:
            content = csv_arrow.read(data, source, request)
        except ImportError:
            content = None
        if content is not None:
            return content
    return csv_files.read(data, source, request)


def as_path(path: str | os.PathLike[str]) -> Path:
    """Return a path as one.

    Raises
    ------
    ArgumentError
    """
    try:
        return Path(path)
    except TypeError as error:
        raise ArgumentError(f"path is {path!r}; a path, as a string or os.PathLike, was wanted") from error
