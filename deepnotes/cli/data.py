"""DATA: a set that comes with the package, or a file, as a table; which column is the target, which are features."""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from deepnotes import datasets
from deepnotes.disk import OnDisk
from deepnotes.disk_tables import DiskTable, open_table
from deepnotes.encoding import Encoder, Feature
from deepnotes.errors import ArgumentError, TableError, unknown_name
from deepnotes.idx_files import LABEL
from deepnotes.tables import Column, Table, files_of, read_table
from deepnotes.wording import listed

DIGITS = "digits"
SETS = {DIGITS: "digit", "moons": "moon", "spirals": "spiral", "blobs": "blob", "teacher": "y"}
"""The sets that come with the package, and their targets."""

FILES = ("FILE.csv", "FILE.parquet", "FILE.npz", "FILE.npy")


def files(data: str) -> list[Path]:
    """Return the files that are read for `data`, as far as they can be."""
    if data in SETS:
        return [Path(str(datasets.DIGITS))] if data == DIGITS else []
    try:
        return files_of(Path(data))
    except OSError:  # such as a name that is too long, which reading will report
        return []


def read(
    data: str, columns: Collection[str] | None = None, exclude: Collection[str] = (), text: Collection[str] = ()
) -> Table:
    """Return the table that `data` names, with missing values in it; the other arguments are as of `read_table`.

    Raises
    ------
    UnknownNameError, TableError
    """
    if data in SETS:
        return _built_in(data)
    _require_file(data)
    return read_table(data, columns=columns, exclude=exclude, text=text, missing="keep")


def read_from_disk(data: str, columns: Collection[str] | None = None, exclude: Collection[str] = ()) -> DiskTable:
    """Return the table that `data` names, its samples left on disk.

    Raises
    ------
    UnknownNameError, TableError
    """
    if data in SETS:
        raise ArgumentError(f"--from-disk is for files, and {data} is none")
    _require_file(data)
    return open_table(data, columns=columns, exclude=exclude)


def target_of(table: Table | DiskTable, asked: str | None) -> str:
    """Return the name of the target column: the one asked for, or the one that such data always have.

    Raises
    ------
    ArgumentError
        If none was asked for, and it is not clear.
    TableError
        If there is no such column.
    """
    if asked is None:
        usual = SETS.get(table.source) or ("y" if table.source.lower().endswith((".npz", ".npy")) else LABEL)
        if usual not in table.names or (usual == LABEL and table.source.lower().endswith((".csv", ".parquet"))):
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
    column = table.column(target)
    if isinstance(table, Table):
        table.require_complete([target], "no row can be used without a target")
    return column


def feature_names(table: Table | DiskTable, target: str, exclude: Collection[str]) -> list[str]:
    """Return the columns that are features: all others.

    Raises
    ------
    TableError
        If none is left.
    """
    names = [name for name in table.names if name != target and name not in exclude]
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


def _built_in(name: str) -> Table:
    made = datasets.load_digits() if name == DIGITS else getattr(datasets, f"make_{name}")()
    y = made.y if made.y.dtype.kind == "f" else np.array(made.classes)[made.y]
    columns = dict(zip(made.feature_names, made.X.T, strict=True)) | {SETS[name]: y}
    return Table(list(columns), columns, source=name)
