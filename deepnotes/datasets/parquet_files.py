"""Read columns of Parquet files with pyarrow, whole or a few rows at a time."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepnotes.datasets.cells import DAY, CellError, ColumnRequest, convert, is_missing_value, replace_missing
from deepnotes.datasets.csv_files import PANDAS_INDEX
from deepnotes.datasets.reading import (
    EVERYTHING,
    EXACT,
    Column,
    Content,
    Request,
    first_repeated,
    gaps_of,
    index_note,
    label_of,
    require_distinct,
    require_memory,
)
from deepnotes.utils.errors import TableError
from deepnotes.utils.wording import brief, reason, shown

NEEDS = 'pip install "deepnotes[data]"'
"""The command that installs pyarrow."""

LIMITS = {"thrift_string_size_limit": 1 << 24, "thrift_container_size_limit": 1 << 20, "schema_depth_limit": 16}
"""The limits on the metadata of a file that are passed to pyarrow."""

MAX_ROWS, MAX_BYTES, MIN_ROWS = 1 << 16, 1 << 25, 32
"""The limits on the rows that are in memory at a time while a file is read: at most `MAX_ROWS` and `MAX_BYTES`.

But at least `MIN_ROWS`, since each read has a cost of its own.
"""


@contextmanager
def open_file(path: Path, source: str) -> Iterator[Any]:
    """Open a file as a pyarrow.parquet.ParquetFile, and turn pyarrow's errors in the block into TableErrors.

    Raises
    ------
    TableError
        If the file is not a Parquet file, or pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise TableError(f"{source}: reading .parquet files requires pyarrow: {NEEDS}") from error
    import inspect

    streaming = {"pre_buffer": False, "buffer_size": 1 << 16}  # by default, whole row groups are read ahead
    known = inspect.signature(pq.ParquetFile.__init__).parameters
    try:
        limits = {name: limit for name, limit in LIMITS.items() if name in known}
        with pq.ParquetFile(path, **streaming, **limits) as file:
            yield file
    except MemoryError:  # Arrow's own MemoryError is an ArrowException as well
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError, IndexError) as error:
        if isinstance(error, TableError):
            raise
        raise TableError(f"{source}: the Parquet file cannot be read: {brief(reason(error))}") from error


def column_types(file: Any, source: str, request: Request = EVERYTHING) -> tuple[dict[str, str], list[str], list[str]]:
    """Return the type, "number" or "text", of each requested column of a file.

    Returns
    -------
    types : dict of str to str
        The type of each requested column.
    names : list of str
        The names of all columns.
    index : list of str
        The names of the columns that are left out because they are the index of a pandas frame.

    Raises
    ------
    TableError
        If a column cannot be read as numbers or text.
    """
    import pyarrow.types as of

    schema = file.schema_arrow
    if name := first_repeated(schema.names):
        raise TableError(f"{source}: two columns have the name {brief(repr(name))}")
    index = {name for name in index_of(schema) if not request.mentions(name)}
    types: dict[str, str] = {}
    for field in schema:
        name = field.name
        if not request.includes(name) or name in index:
            continue
        what = f"{source}: column {brief(repr(name))} has type {brief(field.type)}"
        kind = field.type.value_type if of.is_dictionary(field.type) else field.type
        is_number = of.is_integer(kind) or of.is_floating(kind) or of.is_boolean(kind) or of.is_decimal(kind)
        if _is_text(kind):
            types[name] = "number" if name in request.numeric or name in request.dates else "text"
            continue
        if not (is_number or _is_date(kind) or of.is_null(kind)):
            raise TableError(f"{what}, wanted numbers or text")
        if is_number and name in request.dates:
            raise TableError(f"{what}, wanted dates")
        if _is_date(kind) and name not in request.dates and name not in request.text:
            raise TableError(f"{what}, wanted numbers or text: --dates (dates=) reads it as days since 1970-01-01")
        types[name] = "text" if name in request.text else "number"
    return types, schema.names, [name for name in schema.names if name in index]


def index_of(schema: Any) -> list[str]:
    """Return the names of the columns that are, or once were, the index of a pandas frame."""
    try:
        index = schema.pandas_metadata["index_columns"]
    except (TypeError, LookupError, ValueError):  # missing or invalid
        index = []
    named = [name for name in index if isinstance(name, str)] if isinstance(index, list) else []
    lead = takewhile(PANDAS_INDEX.fullmatch, schema.names)  # an index that was once written to a CSV file
    levels = (name for name in schema.names if re.fullmatch(r"__index_level_[0-9]+__", name))
    return list(dict.fromkeys([*named, *lead, *levels]))


def fits_float32(file: Any, names: list[str]) -> bool:
    """Return whether float32 can represent every value of these columns exactly."""
    chosen = set(names)
    types = {str(field.type) for field in file.schema_arrow if field.name in chosen}
    return types <= {"float", "halffloat", "int8", "int16", "uint8", "uint16", "bool"}


def rows_at_a_time(columns: int) -> int:
    """Return the number of rows of a file with this number of columns that are in memory at a time."""
    return max(MIN_ROWS, min(MAX_ROWS, MAX_BYTES // (64 * max(1, columns))))


def batches(file: Any, names: list[str], rows: int = MAX_ROWS) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the index of the first row and the Arrow columns by name, for a few rows at a time."""
    done = 0
    for batch in file.iter_batches(rows, columns=names, use_threads=False):
        yield done, dict(zip(batch.schema.names, batch.columns, strict=True))
        done += len(batch)


def read(path: Path, source: str, request: Request = EVERYTHING) -> Content:
    """Read the requested columns of a file.

    Raises
    ------
    TableError
    """
    size = path.stat().st_size
    with open_file(path, source) as file:
        request = request.resolve(source, file.schema_arrow.names)
        types, names, index = column_types(file, source, request)
        rows = file.metadata.num_rows
        if rows <= 0:
            raise TableError(f"{source}: the file has no rows")
        require_memory(8 * rows * max(1, len(types)), size, f"{source}: {rows:,} rows of {len(types):,} columns")
        parts: dict[str, list[Column]] = {name: [] for name in types}
        spelled: dict[str, list[NDArray[np.str_]]] = {name: [] for name in types if name in request.spelled}
        for done, batch in batches(file, list(types)) if types else ():
            for name, array in batch.items():
                column = as_column(array, name, types[name], Rows(source, done, request))
                parts[name].append(column)
                if name in spelled:
                    spelled[name].append(labels(array, name, source))
                if column.dtype.kind == "U":
                    what = f"{source}: column {name!r}, texts of up to {column.itemsize // 4:,} characters,"
                    require_memory(rows * column.itemsize, size, what)
        if any(sum(map(len, columns)) != rows for columns in parts.values()):
            raise TableError(
                f"{source}: the Parquet file is damaged: it does not have the {rows:,} rows that it declares"
            )
        columns: dict[str, Column] = {name: np.concatenate(part) for name, part in parts.items()}  # type: ignore[misc]
        for name, column in columns.items():
            if types[name] == "number" and name not in spelled and has_large_integers(column):
                require_exact(file, name, source)
    notes = [index_note(name) for name in index if request.columns is None and name not in request.exclude]
    spellings = {name: np.concatenate(part) for name, part in spelled.items()}
    return Content(columns, {}, gaps_of(columns), names, spellings, notes)


def has_large_integers(column: NDArray[Any]) -> bool:
    """Return whether a column has numbers so large that float64 does not represent every integer of their size."""
    return bool((np.abs(column) >= EXACT).any())


def require_exact(file: Any, name: str, source: str) -> None:
    """Raise TableError if two integers of a column of a file become equal as float64."""
    import pyarrow.types as of

    array = file.read(columns=[name]).column(0)
    kind = array.type.value_type if of.is_dictionary(array.type) else array.type
    if of.is_integer(kind) or of.is_decimal(kind):
        distinct = (value for value in array.unique().to_pylist() if value is not None and value == int(value))
        require_distinct(map(int, distinct), f"{source}: column {name!r}")


class Rows(NamedTuple):
    """The origin of some rows of a file.

    Attributes
    ----------
    source : str
        The file, for error messages.
    first : int
        The index of the first row.
    request : Request
        The request with which the file is read.
    """

    source: str
    first: int
    request: Request


def as_column(array: Any, name: str, kind: str, rows: Rows) -> Column:
    """Convert some rows of a column from Arrow.

    Parameters
    ----------
    array : pyarrow.Array
    name : str
        The name of the column.
    kind : {"number", "text"}
    rows : Rows

    Raises
    ------
    TableError
        If a value is infinite, or does not have the requested type.
    """
    source, done, request = rows
    import pyarrow as pa
    import pyarrow.types as of

    if of.is_dictionary(array.type) and (kind == "number" or not _is_text(array.type.value_type)):
        array = array.dictionary_decode()
    if kind == "text":
        texts = labels(array, name, source)
        if request.format.missing_values:
            distinct, codes = np.unique(texts, return_inverse=True)
            missing = np.array([is_missing_value(text, request.format) for text in distinct.tolist()])
            texts = np.where(missing[codes], "", texts)
        return texts
    if _is_text(array.type):
        filled = array.cast(pa.large_string()).fill_null("")
        try:
            return convert(filled, ColumnRequest(name, request, f"{source}: column {name!r}", 0)).column
        except CellError as error:
            hint = f"; {error.hint}" if error.hint else ""
            raise TableError(
                f"{source}: row {done + error.row + 1}: column {name!r} has {error.message}{hint}"
            ) from None
    if of.is_null(array.type):
        return np.full(len(array), np.nan)
    if _is_date(array.type):
        since = array.cast(pa.timestamp("us", getattr(array.type, "tz", None)), safe=False).cast(pa.int64())
        days: NDArray[np.float64] = since.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False) / DAY
        return days
    if not of.is_floating(array.type):
        array = array.cast(pa.float64(), safe=False)
    values: np.ndarray = array.to_numpy(zero_copy_only=False).astype(np.float64)
    replace_missing(values, request.format)
    if np.isinf(values).any():
        row = done + int(np.argmax(np.isinf(values)))
        raise TableError(
            f"{source}: row {row + 1}: column {name!r} has {values[row - done]} where a finite number was expected"
        )
    return values


def labels(array: Any, name: str, source: str) -> NDArray[np.str_]:
    """Return an Arrow array as text, with all digits of integers, and empty where a value is missing."""
    import pyarrow as pa
    import pyarrow.types as of

    coded = array if of.is_dictionary(array.type) else array.dictionary_encode()
    single = of.is_float32(coded.dictionary.type)  # as Python floats, its values would get more digits
    distinct = coded.dictionary.to_numpy(zero_copy_only=False) if single else coded.dictionary.to_pylist()
    texts = ["", *(_label(value) for value in distinct)]
    codes = coded.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
    if lost := next((text for text in texts if text.endswith("\0")), None):
        # NumPy's text arrays drop the NUL, and two texts could become equal. A CSV file must not contain NUL at all.
        raise TableError(f"{source}: column {name!r} has {shown(lost)}, wanted text that does not end in NUL")
    width = max(map(len, texts))
    require_memory(4 * width * len(codes), 0, f"{source}: column {name!r}, {len(codes):,} texts of up to {width:,}")
    column: NDArray[np.str_] = np.array(texts, np.str_)[codes + 1]
    return column


def _label(value: Any) -> str:
    """Return a value as text, or an empty text if it is missing."""
    if value is None or isinstance(value, str):
        return (value or "").strip()  # as for the cells of a CSV file
    return label_of(value) if isinstance(value, bool | int | float | Decimal | np.floating) else str(value)


def _is_text(kind: Any) -> bool:
    """Return whether an Arrow type is a type of text."""
    import pyarrow.types as of

    return bool(of.is_string(kind) or of.is_large_string(kind) or of.is_string_view(kind))


def _is_date(kind: Any) -> bool:
    """Return whether an Arrow type is a type of dates, with or without times."""
    import pyarrow.types as of

    return bool(of.is_date(kind) or of.is_timestamp(kind))
