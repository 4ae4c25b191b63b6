"""Read columns of Parquet files by pyarrow, whole or a few rows at a time."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepnotes.datasets.cells import DAY, CellError, is_given_missing, typed, without_given
from deepnotes.datasets.reading import (
    EVERYTHING,
    EXACT,
    Column,
    Content,
    Request,
    gaps_of,
    index_note,
    label_of,
    repeated,
    require_distinct,
    require_room,
)
from deepnotes.utils.errors import TableError
from deepnotes.utils.wording import brief, reason, shown

NEEDS = 'pip install "deepnotes[data]"'

LIMITS = {"thrift_string_size_limit": 1 << 24, "thrift_container_size_limit": 1 << 20, "schema_depth_limit": 16}
"""Limits on the metadata of a file."""

ROWS, ROOM, FEW_ROWS = 1 << 16, 1 << 25, 32
"""Rows held at a time while a file is read: the most, their bytes, and the fewest, since each read has its cost."""


@contextmanager
def opened(path: Path, source: str) -> Iterator[Any]:
    """Open a file; pyarrow's errors in the block become TableErrors.

    Raises
    ------
    TableError
        If it is not a Parquet file, or pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise TableError(f"{source}: to read .parquet files takes pyarrow: {NEEDS}") from error
    import inspect

    streaming = {"pre_buffer": False, "buffer_size": 1 << 16}  # otherwise whole row groups are read ahead
    known = inspect.signature(pq.ParquetFile.__init__).parameters
    try:
        limits = {name: limit for name, limit in LIMITS.items() if name in known}
        with pq.ParquetFile(path, **streaming, **limits) as file:
            yield file
    except MemoryError:  # Arrow has a type of its own for these
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError, IndexError) as error:
        if isinstance(error, TableError):
            raise
        raise TableError(f"{source}: the Parquet file cannot be read: {brief(reason(error))}") from error


def column_types(file: Any, source: str, request: Request = EVERYTHING) -> tuple[dict[str, str], list[str], list[str]]:
    """Return the kind, "number" or "text", of each requested column of a file.

    Returns
    -------
    kinds : dict of str to str
    names : list of str
        All columns.
    index : list of str
        The columns that are the index of a pandas frame, which are left out.

    Raises
    ------
    TableError
        If a column is of neither kind.
    """
    import pyarrow.types as of

    schema = file.schema_arrow
    if name := repeated(schema.names):
        raise TableError(f"{source}: two columns have the name {brief(repr(name))}")
    index = {name for name in index_of(schema) if not request.names(name)}
    found: dict[str, str] = {}
    for field in schema:
        if not request.takes(field.name) or field.name in index:
            continue
        what = f"{source}: column {brief(repr(field.name))} has type {brief(field.type)}"
        kind = field.type.value_type if of.is_dictionary(field.type) else field.type
        number = of.is_integer(kind) or of.is_floating(kind) or of.is_boolean(kind) or of.is_decimal(kind)
        if _is_text(kind):
            as_number = field.name in request.numeric or field.name in request.dates
            found[field.name] = "number" if as_number else "text"
        elif _is_date(kind):
            if field.name not in request.dates and field.name not in request.text:
                raise TableError(
                    f"{what}; numbers or text were wanted: --dates (dates=) makes days since 1970-01-01 of it"
                )
            found[field.name] = "text" if field.name in request.text else "number"
        elif number or of.is_null(kind):
            if field.name in request.dates and not of.is_null(kind):
                raise TableError(f"{what}; dates were wanted")
            found[field.name] = "text" if field.name in request.text else "number"
        else:
            raise TableError(f"{what}; numbers or text were wanted")
    return found, schema.names, [name for name in schema.names if name in index]


def index_of(schema: Any) -> list[str]:
    """Return the names of the columns that are, or once were, the index of a pandas frame."""
    try:
        told = schema.pandas_metadata["index_columns"]
    except (TypeError, LookupError, ValueError):  # missing or invalid
        told = []
    named = [name for name in told if isinstance(name, str)] if isinstance(told, list) else []
    lead = takewhile(re.compile(r"Unnamed: [0-9]+(\.[0-9]+)*").fullmatch, schema.names)  # once read from a CSV
    levels = (name for name in schema.names if re.fullmatch(r"__index_level_[0-9]+__", name))
    return list(dict.fromkeys([*named, *lead, *levels]))


def fits_float32(file: Any, names: list[str]) -> bool:
    """Return whether float32 holds each value of these columns exactly."""
    wanted = set(names)
    types = {str(field.type) for field in file.schema_arrow if field.name in wanted}
    return types <= {"float", "halffloat", "int8", "int16", "uint8", "uint16", "bool"}


def rows_at_a_time(columns: int) -> int:
    """Return the number of rows to hold at a time for a number of columns."""
    return max(FEW_ROWS, min(ROWS, ROOM // (64 * max(1, columns))))


def batches(file: Any, names: list[str], rows: int = ROWS) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the Arrow columns of a few rows at a time, with the number of the first row."""
    done = 0
    for batch in file.iter_batches(rows, columns=names, use_threads=False):
        yield done, dict(zip(batch.schema.names, batch.columns, strict=True))
        done += len(batch)


def read(path: Path, source: str, request: Request = EVERYTHING) -> Content:
    """Read what was requested of a file.

    Raises
    ------
    TableError
    """
    size = path.stat().st_size
    with opened(path, source) as file:
        request = request.resolved(source, file.schema_arrow.names)
        kinds, names, index = column_types(file, source, request)
        rows = file.metadata.num_rows
        if rows <= 0:
            raise TableError(f"{source}: the file has no rows")
        require_room(8 * rows * max(1, len(kinds)), size, f"{source}: {rows:,} rows of {len(kinds):,} columns")
        parts: dict[str, list[Column]] = {name: [] for name in kinds}
        spelled: dict[str, list[NDArray[np.str_]]] = {name: [] for name in kinds if name in request.spelled}
        for done, batch in batches(file, list(kinds)) if kinds else ():
            for name, array in batch.items():
                column = as_column(array, kinds[name], name, source, done, request)
                parts[name].append(column)
                if name in spelled:
                    spelled[name].append(labels(array, name, source))
                if column.dtype.kind == "U":
                    what = f"{source}: column {name!r}, texts of up to {column.itemsize // 4:,} characters,"
                    require_room(rows * column.itemsize, size, what)
        if any(sum(map(len, found)) != rows for found in parts.values()):
            raise TableError(f"{source}: the Parquet file is damaged: it says that it has {rows:,} rows, and has not")
        columns: dict[str, Column] = {name: np.concatenate(found) for name, found in parts.items()}  # type: ignore[misc]
        for name, column in columns.items():
            if kinds[name] == "number" and name not in spelled and is_beyond(column):
                require_exact(file, name, source)
    notes = [index_note(name) for name in index if request.columns is None and name not in request.exclude]
    together = {name: np.concatenate(found) for name, found in spelled.items()}
    return Content(columns, {}, gaps_of(columns), names, together, notes)


def is_beyond(column: NDArray[Any]) -> bool:
    """Return whether a column has numbers so large that float64 does not represent every integer."""
    return bool((np.abs(column) >= EXACT).any())


def require_exact(file: Any, name: str, source: str) -> None:
    """Raise TableError if two integers of a column of a file become equal as float64."""
    import pyarrow.types as of

    array = file.read(columns=[name]).column(0)
    kind = array.type.value_type if of.is_dictionary(array.type) else array.type
    if of.is_integer(kind) or of.is_decimal(kind):
        distinct = (value for value in array.unique().to_pylist() if value is not None and value == int(value))
        require_distinct(map(int, distinct), f"{source}: column {name!r}")


def as_column(array: Any, kind: str, name: str, source: str, done: int, request: Request) -> Column:
    """Return an Arrow array as a column of numbers or text, as `kind` says; its first row has the number `done`.

    Raises
    ------
    TableError
        If a value is infinite, or not of the requested kind.
    """
    import pyarrow as pa
    import pyarrow.types as of

    if of.is_dictionary(array.type) and (kind == "number" or not _is_text(array.type.value_type)):
        array = array.dictionary_decode()
    if kind == "text":
        texts = labels(array, name, source)
        if request.format.missing_values:
            distinct, codes = np.unique(texts, return_inverse=True)
            missing = np.array([is_given_missing(text, request.format) for text in distinct.tolist()])
            texts = np.where(missing[codes], "", texts)
        return texts
    if _is_text(array.type):
        filled = array.cast(pa.large_string()).fill_null("")
        try:
            return typed(filled, name, request, f"{source}: column {name!r}", 0).column
        except CellError as error:
            hint = f"; {error.hint}" if error.hint else ""
            raise TableError(f"{source}: row {done + error.row + 1}: column {name!r} has {error.told}{hint}") from None
    if of.is_null(array.type):
        return np.full(len(array), np.nan)
    if _is_date(array.type):
        since = array.cast(pa.timestamp("us", getattr(array.type, "tz", None)), safe=False).cast(pa.int64())
        days: NDArray[np.float64] = since.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False) / DAY
        return days
    if not of.is_floating(array.type):
        array = array.cast(pa.float64(), safe=False)
    values: np.ndarray = array.to_numpy(zero_copy_only=False).astype(np.float64)
    without_given(values, request.format)
    if np.isinf(values).any():
        row = done + int(np.argmax(np.isinf(values)))
        raise TableError(
            f"{source}: row {row + 1}: column {name!r} has {values[row - done]} where a finite number was expected"
        )
    return values


def labels(array: Any, name: str, source: str) -> NDArray[np.str_]:
    """Return an Arrow array as text, integers with all their digits; empty where a value is missing."""
    import pyarrow as pa
    import pyarrow.types as of

    coded = array if of.is_dictionary(array.type) else array.dictionary_encode()
    single = of.is_float32(coded.dictionary.type)  # whose 0.1 differs from Python's
    distinct = coded.dictionary.to_numpy(zero_copy_only=False) if single else coded.dictionary.to_pylist()
    texts = ["", *(_label(value) for value in distinct)]
    codes = coded.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
    if lost := next((text for text in texts if text.endswith("\0")), None):
        # An array of text drops it, and two texts would become equal. A CSV file with a NUL is refused as a whole.
        raise TableError(f"{source}: column {name!r} has {shown(lost)}, wanted text that does not end in NUL")
    width = max(map(len, texts))
    require_room(4 * width * len(codes), 0, f"{source}: column {name!r}, {len(codes):,} texts of up to {width:,}")
    found: NDArray[np.str_] = np.array(texts, np.str_)[codes + 1]
    return found


def _label(value: Any) -> str:
    if value is None or isinstance(value, str):
        return (value or "").strip()  # as for the cells of a CSV
    return label_of(value) if isinstance(value, bool | int | float | Decimal | np.floating) else str(value)


def _is_text(kind: Any) -> bool:
    import pyarrow.types as of

    return bool(of.is_string(kind) or of.is_large_string(kind) or of.is_string_view(kind))


def _is_date(kind: Any) -> bool:
    import pyarrow.types as of

    return bool(of.is_date(kind) or of.is_timestamp(kind))
