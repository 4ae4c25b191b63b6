"""Parquet files: columns out of one, by pyarrow, whole or a few rows at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from deepnotes.errors import TableError
from deepnotes.readings import EVERYTHING, Column, Content, Request, gaps_of, repeated, require_room
from deepnotes.wording import brief, reason, shown

NEEDS = 'pip install "deepnotes[data]"'

LIMITS = {"thrift_string_size_limit": 1 << 24, "thrift_container_size_limit": 1 << 20, "schema_depth_limit": 16}
"""What the metadata of a file may hold."""

ROWS, ROOM = 1 << 16, 1 << 25
"""Rows, and bytes of them, that are held at a time while a file is gone through."""


@contextmanager
def opened(path: Path, source: str) -> Iterator[Any]:
    """Open a file; what pyarrow says against it in the block becomes a TableError.

    Raises
    ------
    TableError
        If it is no such file, or pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise TableError(f"{source}: to read .parquet files takes pyarrow: {NEEDS}") from error
    import inspect

    streaming = {"pre_buffer": False, "buffer_size": 1 << 16}  # else whole row groups are read ahead
    known = inspect.signature(pq.ParquetFile.__init__).parameters
    try:
        limits = {name: limit for name, limit in LIMITS.items() if name in known}
        with pq.ParquetFile(path, **streaming, **limits) as file:
            yield file
    except MemoryError:  # of which Arrow has one of its own
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError, IndexError) as error:
        if isinstance(error, TableError):
            raise
        raise TableError(f"{source}: the Parquet file cannot be read: {brief(reason(error))}") from error


def column_types(file: Any, source: str, request: Request = EVERYTHING) -> tuple[dict[str, str], list[str]]:
    """Return for each column that was asked for whether it is of "number" or "text", and the names of all.

    Raises
    ------
    TableError
        If it is of neither.
    """
    import pyarrow.types as of

    schema = file.schema_arrow
    if name := repeated(schema.names):
        raise TableError(f"{source}: two columns have the name {brief(repr(name))}")
    found: dict[str, str] = {}
    for field in schema:
        if not request.takes(field.name):
            continue
        kind = field.type.value_type if of.is_dictionary(field.type) else field.type
        if of.is_string(kind) or of.is_large_string(kind):
            found[field.name] = "text"
        elif of.is_integer(kind) or of.is_floating(kind) or of.is_boolean(kind) or of.is_decimal(kind):
            found[field.name] = "number"
        elif of.is_null(kind):
            found[field.name] = "text" if field.name in request.text else "number"
        else:
            raise TableError(
                f"{source}: column {brief(repr(field.name))} has type {brief(field.type)}; numbers or text were wanted"
            )
        if found[field.name] == "number" and field.name in request.text:
            raise TableError(
                f"{source}: column {brief(repr(field.name))} has type {brief(field.type)}; text was wanted"
            )
    return found, schema.names


def fits_float32(file: Any, names: list[str]) -> bool:
    """Return whether float32 holds each value of these columns exactly."""
    types = {str(file.schema_arrow.field(name).type) for name in names}
    return types <= {"float", "halffloat", "int8", "int16", "uint8", "uint16", "bool"}


def rows_at_a_time(columns: int) -> int:
    """Return how many rows are held at a time of so many columns."""
    return max(1, min(ROWS, ROOM // (64 * max(1, columns))))


def batches(file: Any, names: list[str], source: str, rows: int = ROWS) -> Iterator[dict[str, Column]]:
    """Yield the columns of a few rows after the others, shape (rows,) each, NaN or empty text where values miss."""
    done = 0
    for batch in file.iter_batches(rows, columns=names, use_threads=False):
        yield {name: _column(batch.column(name), name, source, done) for name in names}
        done += len(batch)


def read(path: Path, source: str, request: Request = EVERYTHING) -> Content:
    """Return what was asked for of a file.

    Raises
    ------
    TableError
    """
    size = path.stat().st_size
    with opened(path, source) as file:
        kinds, names = column_types(file, source, request)
        rows = file.metadata.num_rows
        if rows <= 0:
            raise TableError(f"{source}: the file has no rows")
        require_room(8 * rows * max(1, len(kinds)), size, f"{source}: {rows:,} rows of {len(kinds):,} columns")
        parts: dict[str, list[Column]] = {name: [] for name in kinds}
        for batch in batches(file, list(kinds), source) if kinds else ():
            for name, column in batch.items():
                parts[name].append(column)
                if column.dtype.kind == "U":
                    what = f"{source}: column {name!r}, texts of up to {column.itemsize // 4:,} characters,"
                    require_room(rows * column.itemsize, size, what)
    if any(sum(map(len, found)) != rows for found in parts.values()):
        raise TableError(f"{source}: the Parquet file is damaged: it says that it has {rows:,} rows, and has not")
    columns: dict[str, Column] = {name: np.concatenate(found) for name, found in parts.items()}  # type: ignore[misc]
    return Content(columns, {}, gaps_of(columns), names)


def _column(array: Any, name: str, source: str, done: int) -> Column:
    import pyarrow as pa
    import pyarrow.types as of

    kind = array.type.value_type if of.is_dictionary(array.type) else array.type
    if of.is_string(kind) or of.is_large_string(kind):
        coded = array if of.is_dictionary(array.type) else array.dictionary_encode()
        distinct = ["", *coded.dictionary.to_pylist()]
        codes = coded.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
        if lost := next((text for text in distinct if text and text.endswith("\0")), None):
            # An array of text drops it, and two texts would become one. A CSV file with a NUL is refused as a whole.
            raise TableError(f"{source}: column {name!r} has {shown(lost)}, wanted text that does not end in NUL")
        width = max(len(text or "") for text in distinct)
        require_room(4 * width * len(codes), 0, f"{source}: column {name!r}, {len(codes):,} texts of up to {width:,}")
        texts: Column = np.array([text or "" for text in distinct], np.str_)[codes + 1]
        return texts
    if of.is_dictionary(array.type):
        array = array.dictionary_decode()
    if of.is_null(kind):
        return np.full(len(array), np.nan)
    if not of.is_floating(kind):
        array = array.cast(pa.float64(), safe=False)
    values: np.ndarray = array.to_numpy(zero_copy_only=False).astype(np.float64)
    if np.isinf(values).any():
        row = done + int(np.argmax(np.isinf(values)))
        raise TableError(
            f"{source}: row {row + 1}: column {name!r} has {values[row - done]} where a finite number was expected"
        )
    return values
