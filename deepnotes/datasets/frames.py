"""Read tables in memory: data frames of pandas and polars, Arrow tables, dicts of columns, and NumPy arrays.

A data frame gives the same table as a Parquet file that holds it.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepnotes.datasets import npz_files, parquet_files
from deepnotes.datasets.reading import Column, Content, Request, first_duplicate, gaps_of, index_note
from deepnotes.utils.array_checks import refuse_lost_nuls, refuse_masked
from deepnotes.utils.errors import ArgumentError, MissingExtraError, ShapeError, TableError
from deepnotes.utils.extras import is_installed
from deepnotes.utils.wording import brief, reason

PLAIN = "biufU"
"""The kinds of NumPy dtypes that are read without pyarrow."""


def is_in_memory(data: object) -> bool:
    """Return whether `data` is a table in memory, of one of the supported types, and not a path."""
    return isinstance(data, Mapping | np.ndarray) or (
        not isinstance(data, str | bytes | os.PathLike)
        and (hasattr(data, "iloc") or hasattr(data, "to_arrow") or hasattr(data, "__arrow_c_stream__"))
        and hasattr(data, "columns")
    )


def read(data: Any, request: Request, names: Sequence[str] | None = None) -> tuple[str, Content]:
    """Read the requested columns of a table in memory.

    Parameters
    ----------
    data : DataFrame, pyarrow.Table, mapping of str to column, or ndarray of shape (m, n)
        The index of a pandas DataFrame is ignored.
    request : Request
    names : sequence of str, optional
        The names of the columns of an ndarray; by default x0, x1, ...

    Returns
    -------
    source : str
        The name of the table in error messages.
    content : Content

    Raises
    ------
    TableError, ArgumentError, ShapeError
    MissingExtraError
        If the table has columns other than NumPy's numbers and text, and pyarrow is not installed.
    """
    source = type(data).__name__
    refuse_masked(data, source)
    with _arrow_errors(source):
        columns = _columns(data, source, names)
        if repeated := first_duplicate(name for name, _ in columns):
            raise TableError(f"{source}: two columns have the name {brief(repr(repeated))}")
        if not columns or not _length(columns[0][1]):
            raise TableError(f"{source}: the table has no {'rows' if columns else 'columns'}")
        request = request.resolve(source, [name for name, _ in columns])
        known = [name for name, _ in columns]
        included = {name: values for name, values in columns if request.includes(name)}
        for name, values in included.items():
            _require_column(values, name, _length(columns[0][1]), source)
        if is_installed("pyarrow"):
            return source, _read_arrow(included, request, known, source)
    plain = {name: np.asarray(values) for name, values in included.items()}
    for name, column in plain.items():
        if column.dtype.kind not in PLAIN:
            raise MissingExtraError(f"{source}: column {name!r} of {column.dtype}", "data", "pyarrow is not installed")
    converted = {name: npz_files.keep_integers(column, name, source) for name, column in plain.items()}
    return source, npz_files.select(converted, request, known, source)


@contextmanager
def _arrow_errors(source: str) -> Iterator[None]:
    """Convert errors of pyarrow to TableError."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "pyarrow":
            raise
        raise TableError(f"{source}: cannot be read as a table: {brief(reason(error))}") from error


def _columns(data: Any, source: str, names: Sequence[str] | None) -> list[tuple[str, Any]]:
    """Return the names and the values of the columns, in order."""
    if isinstance(data, np.ndarray):
        if data.ndim != 2:
            raise ShapeError.of(source, data.shape, "(rows, columns)")
        names = [f"x{j}" for j in range(data.shape[1])] if names is None else names
        if len(names) != data.shape[1]:
            hint = "; here, rows are samples, unlike in Network.predict" if len(names) == data.shape[0] else ""
            raise ShapeError.of(source, data.shape, f"(m, {len(names)}): one column for each of {brief(names)}{hint}")
        return [(name, data[:, j]) for j, name in enumerate(names)]
    if isinstance(data, Mapping):
        return [(str(name), values) for name, values in data.items()]
    if hasattr(data, "iloc"):
        return [(str(name), data.iloc[:, j]) for j, name in enumerate(data.columns)]
    if not is_installed("pyarrow"):
        raise MissingExtraError(f"a table of the type {source}", "data", "pyarrow is not installed")
    import pyarrow as pa

    if not hasattr(data, "__arrow_c_stream__") and hasattr(data, "to_arrow"):  # polars before 1.3
        data = data.to_arrow()
    table = data if isinstance(data, pa.Table) else pa.table(data)
    return list(zip(table.column_names, table.columns, strict=True))


def _length(values: Any) -> int:
    try:
        return len(values)
    except TypeError:
        return 1


def _require_column(values: Any, name: str, rows: int, source: str) -> None:
    """Raise an error unless `values` can be a column of this number of rows."""
    what = f"{source}: column {name!r}"
    if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__len__") or getattr(values, "ndim", 1) != 1:
        raise ArgumentError(f"{what} is {brief(repr(values))}, wanted a sequence with one value for each row")
    if len(values) != rows:
        raise TableError(f"{what} has {len(values):,} values, but the first column has {rows:,}")
    refuse_masked(values, what)
    refuse_lost_nuls(values, what)


class _ArrowColumns:
    """Columns in memory, with the interface of a pyarrow.parquet.ParquetFile that the reader of columns needs."""

    def __init__(self, columns: dict[str, Any]) -> None:
        import pyarrow as pa

        self.table = pa.table({name: _as_arrow(values, name) for name, values in columns.items()})
        self.schema_arrow = self.table.schema

    def read(self, columns: list[str]) -> Any:
        """Return some of the columns as an Arrow table."""
        return self.table.select(columns)


def _as_arrow(values: Any, name: str) -> Any:
    """Return a column as an Arrow array in one piece, with the types that the reader of Parquet files knows."""
    import pyarrow as pa
    import pyarrow.types as pa_types

    if isinstance(values, np.ndarray) and values.dtype.kind in PLAIN:
        values = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
        if values.dtype.kind == "f" and values.dtype.itemsize not in (2, 4, 8):
            values = values.astype(np.float64)
    try:
        if not isinstance(values, pa.Array | pa.ChunkedArray):
            values = pa.array(values, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise TableError(f"column {name!r} cannot be read as numbers or text: {brief(reason(error))}") from error
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if pa_types.is_dictionary(values.type) and pa_types.is_string_view(values.type.value_type):
        texts = values.dictionary.cast(pa.large_string())
        return pa.DictionaryArray.from_arrays(values.indices.cast(pa.int64()), texts)
    return values.cast(pa.large_string()) if pa_types.is_string_view(values.type) else values


def _read_arrow(columns: dict[str, Any], request: Request, known: list[str], source: str) -> Content:
    """Return the requested columns, converted as those of a Parquet file."""
    try:
        file = _ArrowColumns(columns)
    except TableError as error:
        raise TableError(f"{source}: {error}") from error
    types, _, index = parquet_files.column_types(file, source, request)
    rows = parquet_files.Rows(source, 0, request)
    arrays = {name: file.table.column(name).combine_chunks() for name in types}
    converted: dict[str, Column] = {
        name: parquet_files.as_column(array, name, types[name], rows) for name, array in arrays.items()
    }
    spelled: dict[str, NDArray[np.str_]] = {
        name: parquet_files.labels(array, name, source) for name, array in arrays.items() if name in request.spelled
    }
    for name, column in converted.items():
        if types[name] == "number" and name not in spelled and parquet_files.has_large_integers(column):
            parquet_files.require_exact(file, name, source)
    notes = [index_note(name) for name in index if request.columns is None and name not in request.exclude]
    return Content(converted, {}, gaps_of(converted), known, spelled, notes)
