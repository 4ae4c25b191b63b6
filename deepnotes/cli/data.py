"""DATA: the set that comes with the package, or a file, as a table; and which of its columns is the target."""

from pathlib import Path

import numpy as np

from deepnotes.errors import ArgumentError, unknown_name
from deepnotes.tables import Table, read_table
from deepnotes.wording import listed

DIGITS = "digits"


def read(data: str) -> Table:
    """Return the table that `data` names.

    Raises
    ------
    UnknownNameError, TableError
    """
    if data == DIGITS:
        return _digits()
    if not Path(data).suffix and not Path(data).exists():
        raise unknown_name("data", data, [DIGITS, "FILE.csv", "FILE.npz"])
    return read_table(data)


def target_of(table: Table, asked: str | None) -> str:
    """Return the name of the target column: the one asked for, or the one that such data always have.

    Raises
    ------
    ArgumentError
        If none was asked for, and it is not clear.
    TableError
        If there is no such column.
    """
    if asked is None:
        usual = "digit" if table.source == DIGITS else "y" if table.source.lower().endswith(".npz") else None
        if usual not in table.names:
            raise ArgumentError(f"--target COLUMN is needed; the columns of {table.source}: {listed(table.names)}")
        return str(usual)
    table.column(asked)
    return asked


def _digits() -> Table:
    from deepnotes.datasets import load_digits

    digits = load_digits()
    columns = dict(zip(digits.feature_names, digits.X.T, strict=True))
    return Table([*columns, "digit"], {**columns, "digit": np.array(digits.classes)[digits.y]}, source=DIGITS)
