"""Data files whose samples stay on disk because they may not fit into memory."""

import os
import tempfile
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepnotes.datasets import idx_files, npy_files, npz_files, parquet_files
from deepnotes.datasets.on_disk import OnDisk
from deepnotes.datasets.reading import Column, Request, index_note, labels_of, missing_in, require_memory, require_names
from deepnotes.datasets.tables import as_path
from deepnotes.utils.errors import DeepnotesError, TableError
from deepnotes.utils.wording import brief, join_names, one_line, reason

__all__ = ["DiskTable", "open_table"]


@dataclass(frozen=True, eq=False)
class DiskTable:
    """Named columns: the columns of one matrix, which stay on disk, and further columns in memory.

    Parameters
    ----------
    rows : ndarray, shape (m, n)
        The matrix, mapped into memory.
    numbered : dict of str to int
        The index of each column of the matrix, by name.
    columns : dict of str to array
        Further columns, in memory, each of shape (m,).
    source : str
        The file; error messages begin with it.
    spelled : dict of str to array
        The values as they are spelled in `source`, for the columns whose spelling was requested.
    notes : sequence of str
        Notes on columns that were left out automatically.
    """

    rows: np.ndarray
    numbered: Mapping[str, int]
    columns: Mapping[str, NDArray[Any]]
    source: str
    spelled: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def names(self) -> list[str]:
        """The names of all columns."""
        return [*self.numbered, *self.columns]

    @property
    def n_rows(self) -> int:
        """The number of rows, m."""
        return len(self.rows)

    def column(self, name: str) -> Column:
        """Return one column, shape (m,), in memory.

        Raises
        ------
        TableError
            If there is no such column, or a value is missing or infinite.
        """
        values = self._values(name)
        if values.dtype.kind in "iu":
            npz_files.require_exact(values, f"{self.source}: column {name!r}")
        column = npz_files.as_column(values, name, self.source)
        missing = missing_in(column)
        if missing.any():
            raise TableError(f"{self.source}: row {int(np.argmax(missing)) + 1}: column {name!r} has no value")
        return column

    def labels(self, name: str) -> NDArray[np.str_]:
        """Return one column as class names, shape (m,), in memory; spelled as in the file, if that was requested.

        Raises
        ------
        TableError
            If there is no such column.
        """
        return self.spelled[name] if name in self.spelled else labels_of(self._values(name))

    def _values(self, name: str) -> NDArray[Any]:
        """Return one column in memory, with the dtype of the file; raise TableError if there is no such column."""
        if name in self.columns:
            return self.columns[name]
        if name not in self.numbered:
            require_names(self.source, [name], self.names)
        return np.asarray(self.rows[:, self.numbered[name]])

    def features(self, exclude: Collection[str] = (), names: Sequence[str] | None = None) -> tuple[OnDisk, list[str]]:
        """Return numeric columns as samples that stay on disk, and the names of these columns.

        Parameters
        ----------
        exclude : collection of str
            Columns to leave out when `names` is None, such as the target.
        names : sequence of str, optional
            The columns to take, in this order; by default all that are not excluded.

        Raises
        ------
        TableError
            If a column does not exist or is not in the matrix.
        """
        known = self.names
        if names is None:
            require_names(self.source, exclude, known)
            left_out = set(exclude)
            names = [name for name in known if name not in left_out]
        require_names(self.source, names, known)
        if not names:
            raise TableError(f"{self.source}: no column is left as a feature; columns: {join_names(self.names)}")
        if others := [name for name in names if name not in self.numbered]:
            raise TableError(
                f"{self.source}: column {others[0]!r} is not part of the numeric matrix that stays on disk; exclude it"
            )
        columns = [self.numbered[name] for name in names]
        return OnDisk(self.rows, None, None if columns == list(range(self.rows.shape[1])) else columns), list(names)


def open_table(
    path: str | os.PathLike[str],
    *,
    columns: Collection[str] | None = None,
    exclude: Collection[str] = (),
    spelled: Collection[str] = (),
) -> DiskTable:
    """Open a data file whose samples stay on disk.

    Parameters
    ----------
    path : path
        ``.npy``, ``.npz`` with an array X, or IDX, all uncompressed: the file is mapped into memory. ``.parquet``: the
        numeric columns are copied, some rows at a time, to a matrix in a temporary file, which is deleted when the
        process ends; ``TMPDIR`` sets the directory of this file.
    columns, exclude, spelled : collection of str
        As in :func:`deepnotes.read_table`.

    Raises
    ------
    TableError
        If the file cannot be read, or its format requires reading all samples into memory.
    ArgumentError
        If an argument is invalid.

    Examples
    --------
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(Path(folder, "X.npy"), np.eye(3))
    ...     np.save(Path(folder, "y.npy"), np.arange(3))
    ...     table = open_table(Path(folder, "X.npy"))
    ...     X, names = table.features(exclude=["y"])
    >>> table.names, X.shape
    (['x0', 'x1', 'x2', 'y'], (3, 3))
    """
    return open_requested(path, Request(columns, exclude, spelled=spelled))


def open_requested(path: str | os.PathLike[str], request: Request) -> DiskTable:
    """Open the requested columns of a data file; see :func:`open_table`.

    Raises
    ------
    TableError, ArgumentError
    """
    path = as_path(path)
    source = one_line(path)
    suffix = path.suffix.lower()
    openers = {".npy": _open_npy, ".npz": _open_npz, ".parquet": _open_parquet}
    opener = _open_idx if idx_files.is_idx(path) else openers.get(suffix)
    if opener is None:
        raise TableError(
            f"{source}: samples can stay on disk only in .npy, .npz, .parquet and IDX files; convert the file to one "
            "of these formats"
        )
    try:
        table = opener(path, source, request)
    except (OSError, ValueError) as error:
        if isinstance(error, DeepnotesError):
            raise
        raise TableError(f"{source}: cannot be read: {reason(error)}") from error
    except MemoryError as error:
        raise TableError(f"{source}: the columns to read do not fit into memory") from error
    if opener is not _open_parquet:  # _open_parquet has checked the request, and its table lacks excluded columns
        request.resolve(source, table.names)
    return table


def _matrix_table(X: np.ndarray, names: Sequence[str], columns: dict[str, NDArray[Any]], source: str) -> DiskTable:
    """Return a table of a matrix on disk, whose columns have these `names`, and of further `columns` in memory."""
    return DiskTable(X, {name: j for j, name in enumerate(names)}, columns, source)


def _open_npy(path: Path, source: str, request: Request) -> DiskTable:
    X, y = npy_files.matrix_and_targets(path, source)
    return _matrix_table(X, [f"x{j}" for j in range(X.shape[1])], y, source)


def _open_npz(path: Path, source: str, request: Request) -> DiskTable:
    archive = npz_files.Archive(path, source)
    x, ys = npz_files.matrix_of(archive, source)
    if x is None:
        raise TableError(f"{source}: only an array X of shape (samples, features) can stay on disk, but there is none")
    info = archive.members[x]
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise TableError(f"{source}: array {x!r} is compressed; {npz_files.SAVE_UNCOMPRESSED}")
    try:
        with archive.open_array(x) as file:
            header = archive.header(x, file)
            offset = file.tell()
    except TableError:
        raise
    except Exception as error:  # zipfile raises many types of errors for a damaged file
        raise TableError(f"{source}: array {x!r} cannot be read: {brief(reason(error))}") from error
    with path.open("rb") as archive_file:  # the length of the local header is not in the central directory
        archive_file.seek(info.header_offset)
        local = archive_file.read(30)
    start = info.header_offset + 30 + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
    if offset + header.nbytes != info.file_size:
        raise TableError(f"{source}: array {x!r} cannot be read: its length does not match its header")
    if header.dtype.kind == "U":
        raise TableError(f"{source}: array {x!r} is text, but features must be numbers")
    npz_files.require_matrix(header.shape, x, source)
    X = npy_files.map_values(path, header, start + offset, source)
    columns: dict[str, NDArray[Any]] = {}
    for name in ys:
        columns |= npz_files.targets(archive[name], name, x, len(X), source)
    return _matrix_table(X, [f"x{j}" for j in range(X.shape[1])], columns, source)


def _open_idx(path: Path, source: str, request: Request) -> DiskTable:
    if idx_files.is_gzip(path):
        raise TableError(
            f"{source}: the file is compressed; decompress it with gunzip, so that its samples can stay on disk"
        )
    with path.open("rb") as file:
        header = idx_files.read_header(file, source)
    if len(header.shape) < 2 or 0 in header.shape:
        raise TableError(f"{source}: its array has shape {header.shape}, wanted two dimensions or more")
    if header.length + header.nbytes != path.stat().st_size:
        raise TableError(f"{source}: its length does not match the shape in its header, {header.shape}")
    shape = header.shape[0], header.nbytes // header.dtype.itemsize // header.shape[0]
    X = npy_files.map_values(path, npz_files.Header(shape, False, header.dtype), header.length, source)
    labels = idx_files.read_labels(path, shape[0])
    columns = {} if labels is None else {idx_files.LABEL: labels}
    return _matrix_table(X, idx_files.pixel_names(header.shape[1:]), columns, source)


def _open_parquet(path: Path, source: str, request: Request) -> DiskTable:
    with parquet_files.open_file(path, source) as file:
        request = request.resolve(source, file.schema_arrow.names)
        types, _, index = parquet_files.column_types(file, source, request)
        m = file.metadata.num_rows
        numbers = [name for name, kind in types.items() if kind == "number"]
        if m <= 0 or not numbers:
            raise TableError(f"{source}: the file has no {'rows' if m <= 0 else 'numeric columns'}")
        require_memory(8 * m * len(types), path.stat().st_size, f"{source}: {m:,} rows of {len(types):,} columns")
        texts: dict[str, list[Column]] = {name: [] for name, kind in types.items() if kind == "text"}
        spelled: dict[str, list[NDArray[np.str_]]] = {name: [] for name in types if name in request.spelled}
        dtype = np.float32 if parquet_files.fits_float32(file, numbers) else np.float64
        rows = _scratch((m, len(numbers)), np.dtype(dtype), source)
        end, large_columns = 0, set()
        for start, batch in parquet_files.batches(file, list(types), parquet_files.rows_per_batch(len(types))):
            end = start + len(batch[numbers[0]])
            if end > m:
                break
            columns = {
                name: parquet_files.as_column(array, name, types[name], parquet_files.Rows(source, start, request))
                for name, array in batch.items()
            }
            for j, name in enumerate(numbers):
                rows[start:end, j] = columns[name]
                if name not in spelled and parquet_files.has_large_integers(columns[name]):
                    large_columns.add(name)
            for name, parts in texts.items():
                parts.append(columns[name])
            for name, labels in spelled.items():
                labels.append(parquet_files.labels(batch[name], name, source))
        if end != m:
            raise TableError(f"{source}: the Parquet file is damaged: it does not have the {m:,} rows that it declares")
        for name in large_columns:
            parquet_files.require_exact(file, name, source)
    notes = [index_note(name) for name in index if request.columns is None and name not in request.exclude]
    return DiskTable(
        rows,
        {name: j for j, name in enumerate(numbers)},
        {name: np.concatenate(parts) for name, parts in texts.items()},
        source,
        {name: np.concatenate(parts) for name, parts in spelled.items()},
        notes,
    )


def _scratch(shape: tuple[int, int], dtype: np.dtype[Any], source: str) -> np.ndarray:
    """Return a matrix in a private temporary file that is deleted when the process ends.

    Raises
    ------
    TableError
        If the disk does not have enough free space.
    """
    size = shape[0] * shape[1] * dtype.itemsize
    try:
        with tempfile.TemporaryFile(prefix="deepnotes-") as file:
            if hasattr(os, "posix_fallocate"):  # a full disk raises an error here instead of a signal (SIGBUS) later
                os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, dtype, "r+", 0, shape)
    except OSError as error:
        raise TableError(
            f"{source}: its samples need a temporary file of {size:,} bytes, which cannot be created: {reason(error)}; "
            "set TMPDIR to a directory with enough free space"
        ) from error
