"""Read columns of Parquet files with pyarrow, all rows at once or some rows at a time."""

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
from deepnotes.datasets.csv_text import PANDAS_INDEX
from deepnotes.datasets.problems import Problems
from deepnotes.datasets.reading import (
    EVERYTHING,
    EXACT,
    Column,
    Content,
    Request,
    first_duplicate,
    gaps_of,
    index_note,
    label_of,
    require_distinct,
    require_memory,
)
from deepnotes.utils.errors import TableError
from deepnotes.utils.wording import brief, quote, reason

INSTALL_COMMAND = 'pip install "deepnotes[data]"'
"""The command that installs pyarrow."""

LIMITS = {"thrift_string_size_limit": 1 << 24, "thrift_container_size_limit": 1 << 20, "schema_depth_limit": 16}
"""Limits on the metadata of a file, which pyarrow enforces."""

MAX_ROWS, MAX_BYTES, MIN_ROWS = 1 << 16, 1 << 25, 32
"""Limits on the rows that are in memory at a time while a file is read.

A batch has at most `MAX_ROWS` rows and takes at most `MAX_BYTES`, but it has at least `MIN_ROWS` rows, since each read
has a fixed cost.
"""


def require_pyarrow(source: str, suffix: str) -> None:
    """Raise TableError if pyarrow is not installed."""
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise TableError(f"{source}: reading {suffix} files requires pyarrow: {INSTALL_COMMAND}") from error


@contextmanager
def open_file(path: Path, source: str) -> Iterator[Any]:
    """Open a file as a pyarrow.parquet.ParquetFile, and convert pyarrow's errors in the block to TableError.

    Raises
    ------
    TableError
        If the file is not a Parquet file, or pyarrow is not installed.
    """
    require_pyarrow(source, ".parquet")
    import inspect

    import pyarrow as pa
    import pyarrow.parquet as pq

    streaming = {"pre_buffer": False, "buffer_size": 1 << 16}  # by default, pyarrow reads whole row groups in advance
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
    """Return the types of the requested columns of a file, the names of all columns, and the names of index columns.

    Returns
    -------
    types : dict of str to str
        The type of each requested column, "number" or "text", by name.
    names : list of str
        The names of all columns.
    index : list of str
        The names of the columns that are left out because they are the index of a pandas DataFrame.

    Raises
    ------
    TableError
        If a column cannot be read as numbers or text.
    """
    schema = file.schema_arrow
    if name := first_duplicate(schema.names):
        raise TableError(f"{source}: two columns have the name {brief(repr(name))}")
    index = {name for name in index_of(schema) if not request.mentions(name)}
    types: dict[str, str] = {}
    problems = Problems(source)
    for field in schema:
        if request.includes(field.name) and field.name not in index:
            with problems.collecting():
                types[field.name] = _column_type(field, source, request)
    problems.check()
    return types, schema.names, [name for name in schema.names if name in index]


def _column_type(field: Any, source: str, request: Request) -> str:
    """Return the type of a column, "number" or "text"; raise TableError if it can be read as neither."""
    import pyarrow.types as pa_types

    name = field.name
    what = f"{source}: column {brief(repr(name))} has type {brief(field.type)}"
    kind = field.type.value_type if pa_types.is_dictionary(field.type) else field.type
    is_number = (
        pa_types.is_integer(kind)
        or pa_types.is_floating(kind)
        or pa_types.is_boolean(kind)
        or pa_types.is_decimal(kind)
    )
    if _is_text(kind):
        return "number" if name in request.numeric or name in request.dates else "text"
    if not (is_number or _is_date(kind) or pa_types.is_null(kind)):
        raise TableError(f"{what}, wanted numbers or text")
    if is_number and name in request.dates:
        raise TableError(f"{what}, wanted dates")
    if _is_date(kind) and name not in request.dates and name not in request.text:
        raise TableError(f"{what}, wanted numbers or text; use --dates (dates=) to read it as days since 1970-01-01")
    return "text" if name in request.text else "number"


def index_of(schema: Any) -> list[str]:
    """Return the names of the columns that are, or used to be, the index of a pandas DataFrame."""
    try:
        index = schema.pandas_metadata["index_columns"]
    except (TypeError, LookupError, ValueError):  # missing or invalid
        index = []
    declared = [name for name in index if isinstance(name, str)] if isinstance(index, list) else []
    leading = takewhile(PANDAS_INDEX.fullmatch, schema.names)  # an index that was written to a CSV file and read back
    levels = (name for name in schema.names if re.fullmatch(r"__index_level_[0-9]+__", name))
    return list(dict.fromkeys([*declared, *leading, *levels]))


def fits_float32(file: Any, names: list[str]) -> bool:
    """Return whether float32 can represent every value of these columns exactly."""
    chosen = set(names)
    types = {str(field.type) for field in file.schema_arrow if field.name in chosen}
    return types <= {"float", "halffloat", "int8", "int16", "uint8", "uint16", "bool"}


def rows_per_batch(columns: int) -> int:
    """Return how many rows to read at a time from a file with this number of columns."""
    return max(MIN_ROWS, min(MAX_ROWS, MAX_BYTES // (64 * max(1, columns))))


def batches(file: Any, names: list[str], rows: int = MAX_ROWS) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield batches of at most `rows` rows: the index of the first row, and the Arrow arrays by column name."""
    first = 0
    for batch in file.iter_batches(rows, columns=names, use_threads=False):
        yield first, dict(zip(batch.schema.names, batch.columns, strict=True))
        first += len(batch)


def read(path: Path, source: str, request: Request = EVERYTHING) -> Content:
    """Read the requested columns of a file.

    Raises
    ------
    TableError
    """
    size = path.stat().st_size
    with open_file(path, source) as file:
        return read_columns(file, source, request, file.metadata.num_rows, size)


def read_columns(file: Any, source: str, request: Request, rows: int, size: int) -> Content:
    """Read the requested columns of an open file.

    Parameters
    ----------
    file : pyarrow.parquet.ParquetFile, or another object with ``schema_arrow``, ``iter_batches`` and ``read``
    source : str
        The name of the file; error messages begin with it.
    request : Request
    rows : int
        The number of rows that the file declares.
    size : int
        The size of the file in bytes.

    Raises
    ------
    TableError
    """
    request = request.resolve(source, file.schema_arrow.names)
    types, names, index = column_types(file, source, request)
    if rows <= 0:
        raise TableError(f"{source}: the file has no rows")
    require_memory(8 * rows * max(1, len(types)), size, f"{source}: {rows:,} rows of {len(types):,} columns")
    parts: dict[str, list[Column]] = {name: [] for name in types}
    spelled: dict[str, list[NDArray[np.str_]]] = {name: [] for name in types if name in request.spelled}
    problems, failed = Problems(source), set[str]()
    for first, batch in batches(file, list(types)) if types else ():
        for name in [name for name in batch if name not in failed]:
            try:
                column = as_column(batch[name], name, types[name], Rows(source, first, request))
                if name in spelled:
                    spelled[name].append(labels(batch[name], name, source))
                if column.dtype.kind == "U":
                    what = f"{source}: column {name!r}, with strings of up to {column.itemsize // 4:,} characters,"
                    require_memory(rows * column.itemsize, size, what)
                parts[name].append(column)
            except TableError as error:
                failed.add(name)
                problems.note(str(error))
                parts[name] = [np.zeros(rows)]
    if any(sum(map(len, columns)) != rows for columns in parts.values()):
        raise TableError(f"{source}: the file is damaged: it does not have the {rows:,} rows that it declares")
    columns: dict[str, Column] = {
        name: np.concatenate(part)  # type: ignore[misc]
        for name, part in parts.items()
    }
    for name, column in columns.items():
        if types[name] == "number" and name not in spelled and name not in failed and has_large_integers(column):
            with problems.collecting():
                require_exact(file, name, source)
    notes = [index_note(name) for name in index if request.columns is None and name not in request.exclude]
    spellings = {name: np.concatenate(part) for name, part in spelled.items() if name not in failed}
    return Content(columns, {}, gaps_of(columns), names, spellings, notes, problems)


def has_large_integers(column: NDArray[Any]) -> bool:
    """Return whether a column has numbers so large that float64 cannot represent all integers of that size."""
    return bool((np.abs(column) >= EXACT).any())


def require_exact(file: Any, name: str, source: str) -> None:
    """Raise TableError if float64 would make two different integers in a column of a file equal."""
    import pyarrow.types as pa_types

    array = file.read(columns=[name]).column(0)
    kind = array.type.value_type if pa_types.is_dictionary(array.type) else array.type
    if pa_types.is_integer(kind) or pa_types.is_decimal(kind):
        distinct = (value for value in array.unique().to_pylist() if value is not None and value == int(value))
        require_distinct(map(int, distinct), f"{source}: column {name!r}")


class Rows(NamedTuple):
    """The rows of a file to which a batch belongs, and how the file is read.

    Attributes
    ----------
    source : str
        The file, for error messages.
    first : int
        The index of the first row of the batch.
    request : Request
        The request with which the file is read.
    """

    source: str
    first: int
    request: Request


def as_column(array: Any, name: str, kind: str, rows: Rows) -> Column:
    """Convert a batch of one column from Arrow.

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
    source, first, request = rows
    import pyarrow as pa
    import pyarrow.types as pa_types

    if pa_types.is_dictionary(array.type) and (kind == "number" or not _is_text(array.type.value_type)):
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
                f"{source}: row {first + error.row + 1}: column {name!r} has {error.message}{hint}"
            ) from None
    if pa_types.is_null(array.type):
        return np.full(len(array), np.nan)
    if _is_date(array.type):
        since = array.cast(pa.timestamp("us", getattr(array.type, "tz", None)), safe=False).cast(pa.int64())
        days: NDArray[np.float64] = since.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False) / DAY
        return days
    if not pa_types.is_floating(array.type):
        array = array.cast(pa.float64(), safe=False)
    values: np.ndarray = array.to_numpy(zero_copy_only=False).astype(np.float64)
    replace_missing(values, request.format)
    if np.isinf(values).any():
        row = int(np.argmax(np.isinf(values)))
        raise TableError(
            f"{source}: row {first + row + 1}: column {name!r} has {values[row]} where a finite number was expected"
        )
    return values


def labels(array: Any, name: str, source: str) -> NDArray[np.str_]:
    """Return an Arrow array as strings: integers with all their digits, and a missing value as an empty string."""
    import pyarrow as pa
    import pyarrow.types as pa_types

    encoded = array if pa_types.is_dictionary(array.type) else array.dictionary_encode()
    is_float32 = pa_types.is_float32(encoded.dictionary.type)  # as Python floats, they would have more digits
    distinct = encoded.dictionary.to_numpy(zero_copy_only=False) if is_float32 else encoded.dictionary.to_pylist()
    texts = ["", *(text_of(value) for value in distinct)]
    codes = encoded.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
    if invalid := next((text for text in texts if text.endswith("\0")), None):
        # NumPy's string arrays drop a NUL at the end, which could make two strings equal.
        raise TableError(f"{source}: column {name!r} has {quote(invalid)}, wanted text that does not end in NUL")
    width = max(map(len, texts))
    what = f"{source}: column {name!r}, {len(codes):,} strings of up to {width:,} characters,"
    require_memory(4 * width * len(codes), 0, what)
    column: NDArray[np.str_] = np.array(texts, np.str_)[codes + 1]
    return column


def text_of(value: Any) -> str:
    """Return a value as a string, which is empty if the value is missing."""
    if value is None or isinstance(value, str):
        return (value or "").strip()  # CSV cells are stripped as well
    return label_of(value) if isinstance(value, bool | int | float | Decimal | np.floating) else str(value)


def _is_text(kind: Any) -> bool:
    """Return whether an Arrow type is a string type."""
    import pyarrow.types as pa_types

    return bool(pa_types.is_string(kind) or pa_types.is_large_string(kind) or pa_types.is_string_view(kind))


def _is_date(kind: Any) -> bool:
    """Return whether an Arrow type holds dates or timestamps."""
    import pyarrow.types as pa_types

    return bool(pa_types.is_date(kind) or pa_types.is_timestamp(kind))
