"""Read the file or the built-in data set that the argument DATA names, and choose the target and the features."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from deepnotes import datasets
from deepnotes.datasets import tables
from deepnotes.datasets.disk_tables import DiskTable, open_requested
from deepnotes.datasets.encoding import Encoder, Feature
from deepnotes.datasets.idx_files import LABEL, is_idx
from deepnotes.datasets.npz_files import select
from deepnotes.datasets.on_disk import OnDisk
from deepnotes.datasets.problems import Problems
from deepnotes.datasets.reading import EVERYTHING, Request, first_duplicate, split_names
from deepnotes.datasets.tables import Column, Table, files_to_read
from deepnotes.utils.errors import ArgumentError, DataError, TableError, unknown_name
from deepnotes.utils.wording import join_names, quote

DIGITS = "digits"
SETS = {DIGITS: "digit", "iris": "species", "moons": "moon", "spirals": "spiral", "blobs": "blob", "teacher": "y"}
"""The target column of each built-in data set."""
SHIPPED = {DIGITS: lambda: datasets.DIGITS, "iris": lambda: datasets.IRIS}
"""The files of the built-in data sets that are not synthetic."""

Target: TypeAlias = str | list[str]
"""The name of the target column, or the names of several."""

FILES = ("FILE.csv", "FILE.parquet", "FILE.npz", "FILE.npy")
"""The other forms of DATA, listed in the error message for an unknown name."""


def files(data: str) -> list[Path]:
    """Return the paths of the files that are opened to read `data`, or an empty list if they cannot be determined."""
    if data in SETS:
        return [Path(str(SHIPPED[data]()))] if data in SHIPPED else []
    try:
        return files_to_read(Path(data))
    except OSError:  # for example a name that is too long, which is reported when the file is read
        return []


def read(data: str, request: Request = EVERYTHING, problems: Problems | None = None) -> Table:
    """Read the requested columns of the table that `data` names, keeping missing values; see :func:`tables.read`.

    Raises
    ------
    UnknownNameError, TableError
    """
    if data in SETS:
        return _read_built_in(data, request)
    _require_file(data)
    return tables.read(data, request, problems=problems)


def read_parts(data: str, request: Request, problems: Problems) -> Iterator[Table]:
    """Yield the table that `data` names in parts; see :func:`tables.read_parts`.

    Raises
    ------
    UnknownNameError, TableError
    """
    if data in SETS:
        return iter([_read_built_in(data, request)])
    _require_file(data)
    return tables.read_parts(data, request, problems)


def read_from_disk(data: str, request: Request = EVERYTHING) -> DiskTable:
    """Open the table that `data` names, leaving its samples on disk.

    Raises
    ------
    ArgumentError
        If `data` is a built-in data set.
    UnknownNameError, TableError
    """
    if data in SETS:
        raise ArgumentError(f"--from-disk is for files, but {data} is a built-in data set")
    _require_file(data)
    return open_requested(data, request)


def default_target(data: str) -> str | None:
    """Return the name of the default target column for this kind of data, or None if there is no default."""
    if data in SETS:
        return SETS[data]
    if Path(data).suffix.lower() in (".npz", ".npy"):
        return "y"
    return LABEL if is_idx(Path(data)) else None


def target_of(table: Table | DiskTable, requested: str | None) -> Target:
    """Return the name of the target column: the requested one, or the default for this kind of data.

    If `requested` is not a column, but a list of columns separated by commas, the result is a list of names.

    Raises
    ------
    ArgumentError
        If no target was requested and the data has no default target.
    TableError
        If the table has no column of the requested name.
    """
    if requested is None:
        default = default_target(table.source)
        if default is None or (default not in table.columns and default not in table.names):
            raise ArgumentError(f"--target COLUMN is needed; the columns of {table.source}: {join_names(table.names)}")
        return default
    names = split_names([requested], {*table.names, *table.columns})
    for name in names:
        table.column(name)
    if repeated := first_duplicate(names):
        raise ArgumentError(f"--target {requested}: the column {repeated!r} is given twice")
    return names[0] if len(names) == 1 else names


def names_of(target: Target) -> list[str]:
    """Return the names of one or several target columns."""
    return [target] if isinstance(target, str) else target


def target_column(table: Table | DiskTable, target: Target) -> Column:
    """Return the target column, shape (m,), or several target columns, shape (m, k).

    Raises
    ------
    TableError
        If a value is missing.
    """
    if isinstance(table, Table):
        table.require_complete(
            names_of(target), "a row without a target cannot be used; to leave out such rows, use --drop-missing-target"
        )
    if isinstance(target, str):
        return table.column(target)
    columns = [table.column(name) for name in target]
    for name, column in zip(target, columns, strict=True):
        if column.dtype.kind == "U":
            raise DataError(
                f"the target {name!r} is text, but several targets must be numbers; first {quote(column[0])}"
            )
    stacked: NDArray[np.float64] = np.column_stack(columns)
    return stacked


def feature_names(table: Table | DiskTable, target: Target, exclude: Collection[str]) -> list[str]:
    """Return the names of the feature columns: all columns except the target and those in `exclude`.

    Raises
    ------
    TableError
        If no column is left.
    """
    excluded = {*names_of(target), *exclude}
    names = [name for name in table.names if name not in excluded]
    if not names:
        raise TableError(f"{table.source}: no column is left as a feature; columns: {join_names(table.names)}")
    return names


def samples(table: Table | DiskTable, encoder: Encoder, unknown: str = "error") -> np.ndarray | OnDisk:
    """Return X, shape (n, m), in memory or on disk. `unknown` says how to treat unknown categories, as --unknown does.

    Raises
    ------
    TableError
        If a value is missing, infinite, or an unknown category.
    """
    if isinstance(table, Table):
        return encoder(table, unknown)
    if not encoder.is_plain:
        raise TableError(
            f"{table.source}: the model encodes or imputes columns, but samples that stay on disk (--from-disk) are "
            "used as they are"
        )
    X, names = table.features(names=encoder.names)
    row = 0
    for block in X.blocks():
        if not np.isfinite(block).all():
            i, j = np.argwhere(~np.isfinite(block.T))[0]
            raise TableError(
                f"{table.source}: row {row + i + 1}: column {names[j]!r} has {block[j, i]} where a finite number was "
                "expected; samples that stay on disk are not imputed"
            )
        row += block.shape[1]
    return X


def plain_encoder(names: list[str]) -> Encoder:
    """Return the encoder that uses each column as it is."""
    return Encoder(tuple(map(Feature, names)))


def select_samples(X: np.ndarray | OnDisk, rows: np.ndarray) -> np.ndarray | OnDisk:
    """Return the samples at the k indices `rows`, shape (n, k); if X is in memory, each sample is contiguous."""
    return X[:, rows] if isinstance(X, OnDisk) else X.T[rows].T


def _require_file(data: str) -> None:
    if not Path(data).suffix and not Path(data).exists():
        raise unknown_name("data", data, [*SETS, *FILES])


def _read_built_in(name: str, request: Request) -> Table:
    dataset = getattr(datasets, f"{'load' if name in SHIPPED else 'make'}_{name}")()
    y = dataset.y if dataset.y.dtype.kind == "f" else np.array(dataset.classes)[dataset.y]
    columns = dict(zip(dataset.feature_names, dataset.X.T, strict=True)) | {SETS[name]: y}
    content = select(columns, request, list(columns), name)
    others = [column for column in columns if column not in content.columns]
    return Table(list(content.columns), content.columns, name, {}, {}, others, content.spelled)
