"""DATA, a set that comes with the package or a file, as a table; the choice of target and features."""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from deepnotes import datasets
from deepnotes.datasets import tables
from deepnotes.datasets.disk_tables import DiskTable, open_requested
from deepnotes.datasets.encoding import Encoder, Feature
from deepnotes.datasets.idx_files import LABEL, is_idx
from deepnotes.datasets.npz_files import select
from deepnotes.datasets.on_disk import OnDisk
from deepnotes.datasets.reading import EVERYTHING, Request
from deepnotes.datasets.tables import Column, Table, files_of
from deepnotes.utils.errors import ArgumentError, TableError, unknown_name
from deepnotes.utils.wording import listed

DIGITS = "digits"
SETS = {DIGITS: "digit", "moons": "moon", "spirals": "spiral", "blobs": "blob", "teacher": "y"}
"""The sets that come with the package, and their targets."""

FILES = ("FILE.csv", "FILE.parquet", "FILE.npz", "FILE.npy")


def files(data: str) -> list[Path]:
    """Return the files that are read for `data`, as far as they can be determined."""
    if data in SETS:
        return [Path(str(datasets.DIGITS))] if data == DIGITS else []
    try:
        return files_of(Path(data))
    except OSError:  # such as a name that is too long, which reading reports later
        return []


def read(data: str, request: Request = EVERYTHING) -> Table:
    """Read what was requested of the table that `data` names, keeping missing values.

    Raises
    ------
    UnknownNameError, TableError
    """
    if data in SETS:
        return _built_in(data, request)
    _require_file(data)
    return tables.read(data, request)


def read_from_disk(data: str, request: Request = EVERYTHING) -> DiskTable:
    """Open the table that `data` names, with its samples left on disk.

    Raises
    ------
    UnknownNameError, TableError
    """
    if data in SETS:
        raise ArgumentError(f"--from-disk is for files, and {data} is none")
    _require_file(data)
    return open_requested(data, request)


def usual_target(data: str) -> str | None:
    """Return the standard target name of this kind of data, or None."""
    if data in SETS:
        return SETS[data]
    if Path(data).suffix.lower() in (".npz", ".npy"):
        return "y"
    return LABEL if is_idx(Path(data)) else None


def target_of(table: Table | DiskTable, asked: str | None) -> str:
    """Return the name of the target column: the requested one, or the standard one of this kind of data.

    Raises
    ------
    ArgumentError
        If none was requested and there is no standard one.
    TableError
        If there is no such column.
    """
    if asked is None:
        usual = usual_target(table.source)
        if usual is None or (usual not in table.columns and usual not in table.names):
            raise ArgumentError(f"--target COLUMN is needed; the columns of {table.source}: {listed(table.names)}")
        return usual
    table.column(asked)
    return asked


def target_column(table: Table | DiskTable, target: str) -> Column:
    """Return the column of the target, shape (m,).

    Raises
    ------
    TableError
        If a value is missing.
    """
    if isinstance(table, Table):
        table.require_complete([target], "no row can be used without a target; --drop-missing-target drops such rows")
    return table.column(target)


def feature_names(table: Table | DiskTable, target: str, exclude: Collection[str]) -> list[str]:
    """Return the names of the feature columns: all columns except the target and those in `exclude`.

    Raises
    ------
    TableError
        If none is left.
    """
    left_out = {target, *exclude}
    names = [name for name in table.names if name not in left_out]
    if not names:
        raise TableError(f"{table.source}: no column is left to be a feature; columns: {listed(table.names)}")
    return names


def samples(table: Table | DiskTable, encoder: Encoder, unknown: str = "error") -> np.ndarray | OnDisk:
    """Return X, shape (n, m), in memory or on disk.

    Raises
    ------
    TableError
        If a value is missing, infinite, or of no known category.
    """
    if isinstance(table, Table):
        return encoder(table, unknown)
    if not encoder.is_plain:
        raise TableError(
            f"{table.source}: the model has categories or imputes, and samples that stay on disk are taken as they are"
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


def plain(names: list[str]) -> Encoder:
    """Return the encoder that takes columns as they are."""
    return Encoder(tuple(map(Feature, names)))


def some(X: np.ndarray | OnDisk, rows: np.ndarray) -> np.ndarray | OnDisk:
    """Return the samples of some rows, shape (n, k), laid out by sample where they are in memory."""
    return X[:, rows] if isinstance(X, OnDisk) else X.T[rows].T


def _require_file(data: str) -> None:
    if not Path(data).suffix and not Path(data).exists():
        raise unknown_name("data", data, [*SETS, *FILES])


def _built_in(name: str, request: Request) -> Table:
    made = datasets.load_digits() if name == DIGITS else getattr(datasets, f"make_{name}")()
    y = made.y if made.y.dtype.kind == "f" else np.array(made.classes)[made.y]
    columns = dict(zip(made.feature_names, made.X.T, strict=True)) | {SETS[name]: y}
    content = select(columns, request, list(columns), name)
    others = [column for column in columns if column not in content.columns]
    return Table(list(content.columns), content.columns, name, {}, {}, others, content.spelled)
