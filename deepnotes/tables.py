"""Data files as tables of named columns: CSV and NumPy archives in, CSV out.

A table holds rows = samples, as files do. Nothing is guessed and nothing is dropped: a cell that cannot be used is an
error that says where it stands.
"""

import csv
import difflib
import io
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepnotes.errors import ArgumentError, DTypeError, ShapeError, TableError

__all__ = ["Column", "Table", "read_table", "write_table"]

Column = NDArray[np.float64] | NDArray[np.str_]
"""One column of a table: numbers or text, shape (m,)."""

CHUNK_ROWS = 512  # cells are text only until their chunk is converted: many at once cost memory, and more time


class TextStream(Protocol):
    """What :func:`write_table` needs of a stream."""

    def write(self, text: str, /) -> object: ...


# --- the table --------------------------------------------------------------------------------------------------------


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
                f"names are {_listed(self.names)} and columns are {_listed(self.columns)}; "
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
            raise TableError(f"{self.source}: no column is left to be a feature; columns: {_listed(self.names)}")
        for name in names:
            if self.columns[name].dtype.kind == "U":
                raise TableError(
                    f"{_place(self.source, self.lines.get(name))}: column {name!r} is text, its first value is "
                    f"{_shown(self.columns[name][0])}, and features must be numbers"
                )
        return np.column_stack([self.columns[name] for name in names]).astype(np.float64, copy=False), list(names)

    def _require(self, names: Iterable[str]) -> None:
        if missing := [name for name in names if name not in self.columns]:
            told = ", ".join(f"no column {name!r}{self._nearest(name)}" for name in missing[:10])
            more = ", ..." if len(missing) > 10 else ""
            raise TableError(f"{self.source}: {told}{more}; columns: {_listed(self.names)}")

    def _nearest(self, name: object) -> str:
        lower = {known.lower(): known for known in self.names}
        near = difflib.get_close_matches(str(name).lower(), lower, n=1, cutoff=0.5)
        return f" (did you mean {lower[near[0]]!r}?)" if near else ""


def _listed(names: Iterable[str]) -> str:
    """At most ten names, then dots."""
    names = list(names)
    return ", ".join(map(_one_line, names[:10])) + (", ..." if len(names) > 10 else "")


def _one_line(name: object) -> str:
    """A name or path as it is, unless it would break the line of a message."""
    text = str(name)
    return text if text.isprintable() else repr(text)


def _shown(cell: object) -> str:
    """A cell's text in quotes, on one line and cut to a readable length."""
    text = repr(str(cell))
    return text if len(text) <= 60 else f"{text[:57]}..."


def _place(source: str, line: int | None) -> str:
    return source if line is None else f"{source}:{line}"


# --- reading ----------------------------------------------------------------------------------------------------------


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
    source = _one_line(path)
    readers = {".csv": _read_csv, ".npz": _read_npz}
    reader = readers.get(path.suffix.lower())
    try:
        with path.open("rb") as file:
            data = file.read() if reader else b""
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        raise TableError(f"{source}: cannot be read: {_reason(error)}") from error
    if reader is None:
        raise TableError(f"{source}: the suffix is {path.suffix!r}; {' or '.join(readers)} was wanted")
    try:
        return reader(data, source)
    except MemoryError as error:
        raise TableError(f"{source}: the table does not fit into memory") from error


def _as_path(path: str | os.PathLike[str]) -> Path:
    try:
        return Path(path)
    except TypeError as error:
        raise ArgumentError(f"path is {path!r}; a path, as a string or os.PathLike, was wanted") from error


def _reason(error: Exception) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())


# --- CSV --------------------------------------------------------------------------------------------------------------


def _read_csv(data: bytes, source: str) -> Table:
    _require_text(data, source)
    records = _records(data, source)
    header_line, header = next(records, (1, []))
    names = [cell.strip() for cell in header]
    _require_header(names, f"{source}:{header_line}")
    numeric: list[bool] = []
    lines: dict[str, int] = {}
    parts: list[list[Column]] = [[] for _ in names]
    while chunk := list(islice(records, CHUNK_ROWS)):
        if not numeric:
            numeric = [_number(cell.strip()) is not None for cell in chunk[0][1]]
            lines = dict(zip(names, _cell_lines(chunk[0]), strict=True))
        for j, raw in enumerate(zip(*(cells for _, cells in chunk), strict=True)):
            cells = [cell.strip() for cell in raw]
            column = _numbers(cells) if numeric[j] else _text(cells)
            if column is None:
                i, cell, wanted = _culprit(cells, numeric[j])
                told = _shown(cell) if cell else "an empty cell"
                raise TableError(
                    f"{source}:{_cell_lines(chunk[i])[j]}: column {names[j]!r} has {told} where {wanted} was expected"
                )
            parts[j].append(column)
    if not numeric:
        raise TableError(f"{source}:{header_line}: no row follows the header")
    return Table(names, dict(zip(names, map(_joined, parts), strict=True)), source, lines)


def _joined(parts: list[Column]) -> Column:
    return np.concatenate(parts)  # type: ignore[return-value]  # one column's parts are all numbers or all text


Record = tuple[int, list[str]]
"""The line on which a row of cells starts, and the cells."""


def _require_text(data: bytes, source: str) -> None:
    wrong = data.find(b"\0")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        wrong = error.start if wrong < 0 else min(wrong, error.start)
    if wrong >= 0:
        line = 1 + len(re.findall(rb"\r\n|\r|\n", data[:wrong]))
        raise TableError(f"{source}:{line}: byte 0x{data[wrong]:02x} is not UTF-8 text, which a .csv file must be")


def _records(data: bytes, source: str) -> Iterator[Record]:
    """Yield the header and then each row that is not blank; all have as many cells as the header."""
    stream = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline="")
    reader = csv.reader(stream, strict=True, skipinitialspace=True)
    line, width = 1, 0
    try:
        for cells in reader:
            if cells and (len(cells) == width or not _blank(cells)):
                width = width or len(cells)
                if len(cells) != width:
                    count = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
                    raise TableError(f"{source}:{line}: {count} where the header has {width}")
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise TableError(f"{source}:{line}: the row that starts here is not CSV: {error}") from error


def _blank(cells: list[str]) -> bool:
    return not cells or (len(cells) == 1 and not cells[0].strip())


def _cell_lines(record: Record) -> list[int]:
    """Return the line on which each cell starts: line breaks inside quoted cells move those after them down."""
    line, cells = record
    return list(accumulate((len(re.findall(r"\r\n|\r|\n", cell)) for cell in cells[:-1]), initial=line))


def _require_header(names: list[str], place: str) -> None:
    if not names:
        raise TableError(f"{place}: the file is empty; a header row and rows below it were wanted")
    if all(_number(name) is not None for name in names):
        raise TableError(f"{place}: the first row must hold the column names, but it holds numbers: {_listed(names)}")
    if fault := _fault(names):
        raise TableError(f"{place}: {fault}")


def _fault(names: Sequence[str]) -> str | None:
    """What keeps `names` from naming columns."""
    seen: set[str] = set()
    for number, name in enumerate(names, start=1):
        if not name:
            return f"column {number} has no name"
        if name in seen:
            return f"two columns have the name {name!r}"
        seen.add(name)
    return None


def _number(cell: str) -> float | None:
    """Return what `float` reads, but not 1_000 nor digits beyond ASCII, which other programs take for text."""
    if "_" in cell or not cell.isascii():
        return None
    try:
        return float(cell)
    except ValueError:
        return None


def _numbers(cells: list[str]) -> NDArray[np.float64] | None:
    """Return what :func:`_number` gives for each cell, or None if one is not a finite number."""
    joined = "".join(cells)  # one look at all of them: this is where reading spends its time
    if "_" in joined or not joined.isascii():
        return None
    try:
        values = np.fromiter(map(float, cells), np.float64, len(cells))
    except ValueError:
        return None
    return values if np.isfinite(values).all() else None


def _text(cells: list[str]) -> NDArray[np.str_] | None:
    return None if "" in cells else np.array(cells, np.str_)


def _culprit(cells: list[str], numeric: bool) -> tuple[int, str, str]:
    """Return the first cell that does not belong, as its index, its text, and what was wanted in its place."""
    if not numeric:
        return cells.index(""), "", "a value"
    values = [_number(cell) for cell in cells]
    i = next(i for i, value in enumerate(values) if value is None or not np.isfinite(value))
    return i, cells[i], "a number" if values[i] is None else "a finite number"


# --- NumPy archives ---------------------------------------------------------------------------------------------------


def _read_npz(data: bytes, source: str) -> Table:
    if not data.startswith(b"PK\x03\x04"):
        raise TableError(f"{source}: not a NumPy archive, as numpy.savez writes")
    try:
        archive = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # whatever a damaged file makes of zipfile
        raise TableError(f"{source}: the archive is damaged: {_reason(error)}") from error
    names: list[str] = archive.files
    if not names:
        raise TableError(f"{source}: the archive has no arrays; an array X, or columns, were wanted")
    found = {letter: [name for name in names if name.lower() == letter] for letter in "xy"}
    for both in found.values():
        if len(both) > 1:
            raise TableError(f"{source}: the archive has {' and '.join(map(repr, both))}; one of them was wanted")
    if found["x"]:
        columns = _matrix_columns(archive, found["x"][0], found["y"], source)
    else:
        columns = _named_columns(archive, source)
    return Table(list(columns), columns, source)


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
        raise TableError(f"{source}: array {name!r} cannot be read: {_reason(error)}") from error
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


# --- writing ----------------------------------------------------------------------------------------------------------


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
    if fault := _fault(names):
        raise ArgumentError(f"names are {_listed(names)}: {fault}")
    cells = _cells(names, columns)
    if isinstance(path_or_stream, str | os.PathLike):
        path = _as_path(path_or_stream)
        try:
            _write_file(path, names, cells)
        except (OSError, ValueError) as error:  # ValueError: a path that no file can have, text that UTF-8 has not
            raise TableError(f"{_one_line(path)}: cannot be written: {_reason(error)}") from error
    elif hasattr(path_or_stream, "write"):
        try:
            _write_rows(path_or_stream, names, cells)
        except BrokenPipeError:
            raise
        except (OSError, ValueError) as error:
            raise TableError(f"the stream cannot be written to: {_reason(error)}") from error
    else:
        raise ArgumentError(f"path_or_stream is {path_or_stream!r}; a path or a text stream was wanted")


def _cells(names: Sequence[str], columns: Mapping[str, ArrayLike] | Sequence[ArrayLike]) -> list[list[object]]:
    """Return each column as a list of what the csv module writes as wanted."""
    if isinstance(columns, Mapping):
        if missing := [name for name in names if name not in columns]:
            raise ArgumentError(f"columns have no {_listed(missing)}; a column for each of the names was wanted")
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
        raise ShapeError(f"column {name!r} is no array: {_reason(error)}") from error
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


def _write_rows(stream: TextStream, names: Sequence[str], cells: list[list[object]]) -> None:
    # A lone carriage return ends a line for readers, and the csv module does not quote it of itself.
    texts = [*names, *(cell for column in cells for cell in column if isinstance(cell, str))]
    returns = any("\r" in text for text in texts)
    writer = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL)
    writer.writerow(names)
    writer.writerows(zip(*cells, strict=True))


def _write_file(path: Path, names: Sequence[str], cells: list[list[object]]) -> None:
    if path.exists() and not path.is_file():  # a device or a pipe is written to; to replace it would be to lose it
        with path.open("w", encoding="utf-8", newline="") as file:
            _write_rows(file, names, cells)
        return
    path = Path(os.path.realpath(path))  # a link stays a link
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("x", encoding="utf-8", newline="") as file:
            _write_rows(file, names, cells)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
