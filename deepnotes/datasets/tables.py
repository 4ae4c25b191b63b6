"""Data files as tables of named columns, whose rows are samples.

The error message for an invalid cell gives its line or row. Columns that are left out automatically, such as the index
of a pandas DataFrame, are listed in the notes of the table.
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from deepnotes.datasets.problems import Gap, Problems
from deepnotes.datasets.reading import Column, Content, Format, Request, gaps_of, labels_of, missing_in, require_names
from deepnotes.datasets.table_writing import write_table
from deepnotes.utils.array_checks import refuse_masked
from deepnotes.utils.errors import ArgumentError, DeepnotesError, DTypeError, ShapeError, TableError
from deepnotes.utils.wording import brief, join_names, one_line, quote, reason

__all__ = ["Column", "Table", "read_table", "write_table"]

CSV = (".csv", ".tsv")
"""The suffixes of CSV files; a second suffix, .gz, marks a compressed file."""

SUFFIXES = (
    ".csv, .tsv, .jsonl, .ndjson (also with .gz), .parquet, .feather, .arrow, .npz, .npy or the name of an IDX file"
)
"""The supported suffixes and names of files, for error messages."""

COMPRESSED = (".zip", ".gz", ".bz2", ".xz", ".zst", ".lz4", ".7z", ".rar", ".tar", ".tgz")
"""The suffixes of archives and compressed files, which are not supported (except gzip for text and IDX files)."""

TEXT = (".txt", ".dat", ".data", ".tab", ".text", ".psv", ".ssv")
"""The suffixes of unsupported files that may contain a table as text."""

PANDAS = {
    ".xlsx": "read_excel", ".xls": "read_excel", ".xlsm": "read_excel", ".xlsb": "read_excel", ".ods": "read_excel",
    ".json": "read_json", ".orc": "read_orc",
    ".h5": "read_hdf", ".hdf5": "read_hdf", ".hdf": "read_hdf", ".dta": "read_stata", ".sav": "read_spss",
    ".sas7bdat": "read_sas", ".xpt": "read_sas", ".xml": "read_xml",
}  # fmt: skip
"""The pandas functions that read unsupported formats, by suffix."""

TableLike: TypeAlias = Any
"""A table in memory: a DataFrame of pandas or polars, an Arrow table, a mapping of names to columns, or an ndarray."""

SHOWN = 5
"""The number of rows that a notebook shows."""


@dataclass(frozen=True, eq=False)
class Table:
    """Named columns of equal length.

    Parameters
    ----------
    names : list of str
        The names of the columns, in order.
    columns : dict of str to array
        The columns by name: float64 arrays (numbers) or unicode string arrays (text), each of shape (m,). A missing
        value is NaN or an empty string.
    source : str
        The origin of the table; error messages begin with it.
    lines : dict of str to int
        The line of the first value of each column in `source`, by column name, if known.
    gaps : dict of str to Gap
        The missing values of each column that has any, by column name, if known.
    others : list of str
        The names of further columns of `source` that were not read.
    spelled : dict of str to array
        The values as they are spelled in `source`, for the columns whose spelling was requested; see :meth:`labels`.
    notes : list of str
        Notes on columns that were left out automatically, such as an index.

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
    spelled: dict[str, NDArray[np.str_]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.names or self.names != list(self.columns):
            raise ArgumentError(
                f"names is {join_names(self.names)} and columns has {join_names(self.columns)}, "
                "wanted at least one name, and the same names in the same order"
            )
        rows = self.n_rows
        for name, column in self.columns.items():
            refuse_masked(column, f"column {name!r}")
            if column.dtype != np.float64 and column.dtype.kind != "U":
                raise DTypeError.of(f"column {name!r}", column.dtype, "float64 or unicode strings")
            if column.shape != (rows,) or not column.size:
                raise ShapeError.of(
                    f"column {name!r}", column.shape, "(m,) with the same m of at least 1 for all columns"
                )

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({one_line(self.source)}: {self.n_rows:,} rows, columns: {join_names(self.names)})"
        )

    def _repr_html_(self) -> str:
        """Return the first rows as HTML, for IPython."""
        from deepnotes.utils import html

        rows = min(self.n_rows, SHOWN)
        cells = [
            [f"{value:.6g}" for value in column[:rows]] if column.dtype.kind == "f" else [*map(str, column[:rows])]
            for column in self.columns.values()
        ]
        notes = f"{self.source}: {self.n_rows:,} rows, {len(self.names):,} columns"
        return html.table(self.names, zip(*cells, strict=True), notes, text_columns=0)

    @property
    def n_rows(self) -> int:
        """The number of rows, m."""
        return int(self.columns[self.names[0]].size)

    def column(self, name: str) -> Column:
        """Return the column `name`, shape (m,).

        Raises
        ------
        TableError
            If there is no such column; the message suggests the nearest name and lists the first ten names.
        """
        self.require([name])
        return self.columns[name]

    def labels(self, name: str) -> NDArray[np.str_]:
        """Return the column `name` as class names, shape (m,); spelled as in the file, if that was requested.

        Raises
        ------
        TableError
            If there is no such column.
        """
        column = self.column(name)
        return self.spelled[name] if name in self.spelled else labels_of(column)

    def features(
        self, exclude: Sequence[str] = (), names: Sequence[str] | None = None
    ) -> tuple[NDArray[np.float64], list[str]]:
        """Return numeric columns as a matrix.

        Parameters
        ----------
        exclude : sequence of str
            Columns to leave out when `names` is None, such as the target.
        names : sequence of str, optional
            The columns to take, in this order; by default all that are not excluded.

        Returns
        -------
        X : float64 array, shape (m, n)
        names : list of str
            The names of the n features.

        Raises
        ------
        TableError
            If a column does not exist or is text, or no column is left.
        ArgumentError
            If `exclude` or `names` is a string.
        """
        for argument, value in (("exclude", exclude), ("names", names)):
            if isinstance(value, str):
                raise ArgumentError.of(argument, value, "a sequence of column names")
        if names is None:
            self.require(exclude)
            left_out = set(exclude)
            names = [name for name in self.names if name not in left_out]
        self.require(names)
        if not names:
            raise TableError(f"{self.source}: no column is left as a feature; columns: {join_names(self.names)}")
        for name in names:
            if self.columns[name].dtype.kind == "U":
                raise TableError(
                    f"{self.place(name)}: column {name!r} is text (its first value is "
                    f"{quote(self.columns[name][0])}), but features must be numbers"
                )
        return np.column_stack([self.columns[name] for name in names]).astype(np.float64, copy=False), list(names)

    def require_complete(self, names: Iterable[str], hint: str = "") -> None:
        """Raise TableError if a value is missing in one of these columns.

        Parameters
        ----------
        names : iterable of str
        hint : str
            Advice to append to the message.
        """
        problems = Problems(self.source)
        for name in names:
            missing = missing_in(self.column(name))
            if missing.any():
                gap = self.gaps.get(name) or Gap.of_rows(missing, "no value where one was expected")
                problems.add(name, gap, hint)
        problems.check()

    def place(self, name: str) -> str:
        """Return the position of the first value of a column, for error messages: ``FILE:LINE``, or the file alone."""
        return f"{self.source}:{self.lines[name]}" if name in self.lines else self.source

    def require(self, names: Iterable[str]) -> None:
        """Raise TableError unless all these columns were read; the message suggests a match for each unknown name."""
        if missing := [name for name in names if name not in self.columns]:
            require_names(self.source, missing, [*self.names, *self.others])
            raise TableError(f"{self.source}: column {missing[0]!r} is excluded, so it was not read")


def read_table(  # noqa: PLR0913 - the options of all file formats
    path: "str | os.PathLike[str] | TableLike",
    *,
    columns: Collection[str] | None = None,
    exclude: Collection[str] = (),
    text: Collection[str] = (),
    numeric: Collection[str] = (),
    dates: Collection[str] = (),
    spelled: Collection[str] = (),
    missing: str = "error",
    drop_missing: Collection[str] = (),
    missing_values: Sequence[str] = (),
    separator: str | None = None,
    decimal: str = ".",
    thousands: str | None = None,
    strip: str = "",
    encoding: str = "utf-8",
    header: bool = True,
    skip_rows: int = 0,
    comment: str | None = None,
    date_format: str | None = None,
) -> Table:
    """Read a data file, or a table in memory, as a table.

    Parameters
    ----------
    path : path, DataFrame, pyarrow.Table, mapping or ndarray
        A DataFrame of pandas or polars, an Arrow table, a mapping of names to columns, or an array of shape (m, n),
        whose columns are x0, x1, ...; or a path:

        ``.csv`` or ``.tsv``, with the extra ``data``: text whose first row holds the column names. White space around
        cells is removed, and blank lines are skipped. A column in which every cell is a number or a spelling of a
        missing value (empty, NA, N/A, NaN, None, null, ``?``, ``-`` and others that pandas knows, in any case) is
        numeric; a column of only true and false becomes 1 and 0; any other column is text, in which only an empty cell
        is missing. However, a few words in a column of numbers are an error, unless the column has so few distinct
        values that it may hold categories. A first column without a name, such as an index written by pandas, is left
        out. The first column is also left out if each row has one cell more than the header: it then holds row names
        written by R. The file may be compressed by gzip: ``.csv.gz``, ``.tsv.gz``.

        ``.parquet``, with the extra ``data``: columns of numbers, booleans and text. The index of a pandas DataFrame is
        left out. ``.feather`` and ``.arrow``, the files and streams of Arrow, are read in the same way.

        ``.jsonl`` and ``.ndjson``, with the extra ``data``: one JSON object on each line, whose keys are the columns.
        The values of a column are numbers, text, or true and false, which become 1 and 0. A null, and a key that a
        line lacks, are missing values. The file may be compressed by gzip: ``.jsonl.gz``.

        ``.npz``: a NumPy archive with ``X`` of shape (m, n) and optionally ``y`` of shape (m,) or (m, k), in upper or
        lower case. The columns are x0, x1, ... and y, or y0, y1, ... if k > 1; other arrays are ignored. If there is no
        ``X``, each array must have shape (m,), and is a column with the array's name.

        ``.npy``: an array X, and optionally y in a second file in the same directory, such as ``X_train.npy`` and
        ``y_train.npy``, ``images.npy`` and ``labels.npy``, or ``features.npy`` and ``targets.npy``.

        IDX, the format of MNIST, plain or gzip-compressed: ``train-images-idx3-ubyte.gz``, and optionally
        ``train-labels-idx1-ubyte.gz`` in the same directory. The columns are pixel_ROW_COLUMN and label.
    columns : collection of str, optional
        The columns to read; by default all.
    exclude : collection of str
        Columns that are not read at all, so that their cells cannot cause errors.
    text : collection of str
        Columns that are text even if they look like numbers.
    numeric : collection of str
        Columns that are numbers; anything else in them is an error.
    dates : collection of str
        Columns of dates, which become days since 1970-01-01.
    spelled : collection of str
        Columns whose values are also kept as they are spelled in the file, such as 007, for :meth:`Table.labels`.
    missing : {"error", "keep"}
        Whether a missing value is an error, or is kept as NaN or an empty string.
    drop_missing : collection of str
        Columns, such as the target, in which a missing value drops its row.
    missing_values : sequence of str
        Further spellings of missing values, in numeric and text columns.
    separator : str, optional
        The separator of cells; by default, it is detected: comma, semicolon, tab or ``|``. ``"whitespace"`` stands for
        any run of spaces and tabs.
    decimal, thousands : str
        The decimal separator and the thousands separator.
    strip : str
        Characters that are removed before and after numbers, such as ``"$%"``.
    encoding : str
        The encoding of a text file, such as ``"latin-1"``.
    header : bool
        Whether the first row holds the column names; otherwise they are x0, x1, ...
    skip_rows : int
        The number of lines to skip at the beginning of a text file, such as a title above the header.
    comment : str, optional
        The character that begins a comment, which extends to the end of the line.
    date_format : str, optional
        The format of dates, such as ``"%d/%m/%Y"``; by default ISO 8601.

    Raises
    ------
    TableError
        If the file cannot be read or is not a valid table; the message is one line and gives the position of the error.
    ArgumentError
        If an argument is invalid, or arguments contradict each other.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "flowers.npz")
    ...     np.savez(path, length=[1.5, 2], kind=["rose", "tulip"])
    ...     table = read_table(path)
    >>> table.column("length"), table.column("kind")
    (array([1.5, 2. ]), array(['rose', 'tulip'], dtype='<U5'))
    """
    if missing not in ("error", "keep"):
        raise ArgumentError.of("missing", missing, "'error' or 'keep'")
    file_format = Format(
        separator=separator,
        decimal=decimal,
        thousands=thousands,
        strip=strip,
        encoding=encoding,
        header=header,
        skip_rows=skip_rows,
        comment=comment,
        missing_values=missing_values,
        date_format=date_format,
    )
    from deepnotes.datasets import frames

    problems = Problems(type(path).__name__ if frames.is_in_memory(path) else one_line(as_path(path)))
    request = Request(columns, exclude, text, numeric, dates, spelled, drop_missing, file_format)
    table = read(path, request, problems=problems)
    if missing == "error":
        with problems.collecting():
            table.require_complete(table.names)
    problems.check()
    return table


def read(
    path: "str | os.PathLike[str] | TableLike",
    request: Request,
    names: Sequence[str] | None = None,
    *,
    problems: Problems | None = None,
) -> Table:
    """Read the requested columns of a data file, or of a table in memory, keeping missing values.

    Parameters
    ----------
    path : path or table
    request : Request
    names : sequence of str, optional
        The names of the columns of an ndarray.
    problems : Problems, optional
        Gets the problems of columns, so that the caller can look for more of them, and then has to check it. By
        default, they are an error.

    Raises
    ------
    TableError, ArgumentError
        As :func:`read_table`.
    """
    from deepnotes.datasets import frames

    if frames.is_in_memory(path):
        source, content = frames.read(path, request, names)
        return _as_table(content, request, source, problems)
    path = as_path(path)
    source = one_line(path)
    with _as_table_errors(source):
        content = _reader(path, source)(path, source, request)
    return _as_table(content, request, source, problems)


def read_parts(path: str | os.PathLike[str], request: Request, problems: Problems) -> Iterator[Table]:
    """Yield the requested columns of a data file in parts: some thousand rows of a CSV file, all rows of another file.

    Parameters
    ----------
    path : path
    request : Request
        Should contain the types of all columns, since a part may not have all values that determine a type.
    problems : Problems
        Gets the problems of columns; the caller has to check it after the last part.

    Raises
    ------
    TableError, ArgumentError
        As :func:`read_table`.
    """
    from deepnotes.datasets import csv_parts

    path = as_path(path)
    source = one_line(path)
    if find_reader(path) is not _read_csv or not csv_parts.can_split(request.format):
        yield read(path, request, problems=problems)
        return
    with _as_table_errors(source):
        for content in csv_parts.read_parts(path, source, request, problems):
            yield _as_table(content, request, source, problems)


def _reader(path: Path, source: str) -> Callable[[Path, str, Request], Content]:
    """Return the reader for a file; raise TableError if there is none."""
    if reader := find_reader(path):
        return reader
    with path.open("rb"):  # if the file cannot be opened, report that instead of the suffix
        pass
    raise TableError(f"{source}: the suffix is {path.suffix!r}, wanted {SUFFIXES}{conversion_hint(path)}")


@contextmanager
def _as_table_errors(source: str) -> Iterator[None]:
    """Raise TableError instead of the errors of the system; its message begins with `source`."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: an invalid path
        if isinstance(error, DeepnotesError):
            raise
        raise TableError(f"{source}: cannot be read: {reason(error)}") from error
    except MemoryError as error:
        raise TableError(f"{source}: the table does not fit into memory") from error


def _as_table(content: Content, request: Request, source: str, problems: Problems | None) -> Table:
    """Return the content of a file as a table, without the rows that the request drops.

    Its problems are added to `problems`, or are an error if that is None.
    """
    if content.problems is not None:
        if problems is None:
            content.problems.check()
        elif problems is not content.problems:
            problems.update(content.problems)
    if not content.columns:
        raise TableError(f"{source}: no column is left to read; columns: {join_names(content.names)}")
    return _drop_rows(content, request.resolve(source, content.names).drop_missing, source)


def _drop_rows(content: Content, names: Collection[str], source: str) -> Table:
    """Return the content of a file as a table, without the rows in which a value of the columns `names` is missing."""
    others = [name for name in content.names if name not in content.columns]
    columns, gaps, spelled, notes = content.columns, content.gaps, content.spelled, content.notes
    keep = np.ones(len(next(iter(columns.values()))), np.bool_)
    for name in names:
        if name in gaps:
            keep &= ~missing_in(columns[name])
    if not keep.all():
        if not keep.any():
            raise TableError(f"{source}: every row has a missing value in one of the columns {join_names(names)}")
        columns = {name: column[keep] for name, column in columns.items()}
        spelled = {name: column[keep] for name, column in spelled.items()}
        original_rows = np.flatnonzero(keep) + 1
        gaps = {
            name: Gap(gap.count, [int(original_rows[row - 1]) for row in gap.positions], gaps[name].description)
            for name, gap in gaps_of({name: columns[name] for name in gaps}).items()
        }
        dropped = int((~keep).sum())
        rows, were = ("1 row", "was") if dropped == 1 else (f"{dropped:,} rows", "were")
        notes = [*notes, f"{rows} without a value in {join_names(names)} {were} dropped"]
    return Table(list(columns), columns, source, content.lines, gaps, others, spelled, notes)


def find_reader(path: Path) -> Callable[[Path, str, Request], Content] | None:
    """Return the reader for a file, chosen by the file's name, or None if the name is not supported."""
    from deepnotes.datasets import arrow_files, idx_files, json_lines, npy_files, npz_files, parquet_files

    suffix = (Path(path.stem) if is_gzip_text(path) else path).suffix.lower()
    readers: dict[str, Callable[[Path, str, Request], Content]] = dict.fromkeys(CSV, _read_csv)
    readers |= dict.fromkeys(json_lines.SUFFIXES, json_lines.read) | dict.fromkeys(
        arrow_files.SUFFIXES, arrow_files.read
    )
    readers |= {".npz": npz_files.read, ".npy": npy_files.read, ".parquet": parquet_files.read}
    return idx_files.read if idx_files.is_idx(path) else readers.get(suffix)


def is_gzip_text(path: Path) -> bool:
    """Return whether a file has the name of a gzip-compressed CSV or JSON Lines file."""
    return path.suffix.lower() == ".gz" and Path(path.stem).suffix.lower() in (*CSV, ".jsonl", ".ndjson")


def conversion_hint(path: Path) -> str:
    """Return the end of an error message that tells how to convert a file in an unsupported format.

    Examples
    --------
    >>> conversion_hint(Path("a.xlsx")), conversion_hint(Path("a.csv.zip"))
    ("; convert it with pandas.read_excel('a.xlsx').to_csv('a.csv', index=False)", '; decompress it first')
    """
    suffix = path.suffix.lower()
    if suffix in COMPRESSED:
        return "; decompress it first"
    if suffix in TEXT:
        return "; if it contains a table as text, rename it to end in .csv"
    to_csv = f".to_csv({path.stem + '.csv'!r}, index=False)"
    return f"; convert it with pandas.{PANDAS[suffix]}({path.name!r}){to_csv}" if suffix in PANDAS else ""


def files_to_read(path: Path) -> list[Path]:
    """Return the files that are read for a data file: the file itself, and its companion file of targets, if any."""
    from deepnotes.datasets import idx_files, npy_files

    companion = None
    if idx_files.is_idx(path):
        companion = idx_files.find_labels_file(path)
    elif path.suffix.lower() == ".npy":
        companion = npy_files.find_companion(path)
    return [path] if companion is None else [path, companion]


def _read_csv(path: Path, source: str, request: Request) -> Content:
    from deepnotes.datasets import csv_files

    with path.open("rb") as file:
        data = file.read()
    return csv_files.read(data, source, request)


def as_path(path: Any) -> Path:
    """Return a path as a Path.

    Raises
    ------
    ArgumentError
        If it is neither a string nor an os.PathLike.
    """
    try:
        return Path(path)
    except TypeError as error:
        wanted = "a path, a DataFrame, an Arrow table, or a dict of columns"
        raise ArgumentError(f"path={brief(repr(path))}, wanted {wanted}") from error
