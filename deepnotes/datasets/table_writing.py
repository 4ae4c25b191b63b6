"""Write tables as CSV."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepnotes.datasets import csv_files
from deepnotes.datasets.csv_files import TextStream
from deepnotes.utils.array_checks import refuse_lost_nuls, refuse_masked
from deepnotes.utils.errors import ArgumentError, DTypeError, ShapeError, TableError
from deepnotes.utils.safe_text import inert
from deepnotes.utils.streams import CompleteWriter
from deepnotes.utils.wording import listed, one_line, reason


def write_table(
    path_or_stream: str | os.PathLike[str] | TextStream,
    names: Sequence[str],
    columns: Mapping[str, ArrayLike] | Sequence[ArrayLike],
    *,
    spreadsheet: bool = False,
) -> None:
    """Write columns as CSV with a header row.

    Floats get the fewest digits that read back as the same number of their dtype, integers are written as integers,
    booleans as 0 and 1, and text so that it reads back unchanged.

    Parameters
    ----------
    path_or_stream : path or text stream
        A path is replaced atomically: it holds the whole table or its previous content.
    names : sequence of str
        The header: one name per column, distinct and not empty.
    columns : sequence of arrays, or mapping of names to arrays
        Numbers or text, each of shape (m,).
    spreadsheet : bool, default False
        Whether to put an apostrophe before everything that a spreadsheet could take as a formula, also within a text
        after a character that the spreadsheet may take as a separator. The file is then safe to open in a spreadsheet;
        other programs see the apostrophes.

    Raises
    ------
    TableError
        If the file or stream cannot be written to.
    BrokenPipeError
        If the stream raises it.
    ArgumentError, ShapeError, DTypeError
        If `names` or `columns` are not valid for a table.

    Examples
    --------
    >>> import sys
    >>> write_table(sys.stdout, ["share", "kind"], [np.array([0.1, 2], np.float32), ["rose", "tulip, red"]])
    share,kind
    0.1,rose
    2.0,"tulip, red"
    """
    if isinstance(names, str) or not all(isinstance(name, str) for name in names) or not names:
        raise ArgumentError.of("names", names, "a sequence of at least one column name")
    if fault := csv_files.name_fault(names):
        raise ArgumentError(f"names is {listed(names)}: {fault}")
    cells = _cells(names, columns)
    if spreadsheet:
        names, *cells = [  # type: ignore[assignment]
            [inert(cell) if isinstance(cell, str) else cell for cell in column] for column in (names, *cells)
        ]
    if isinstance(path_or_stream, str | os.PathLike):
        path = Path(path_or_stream)
        try:
            csv_files.write_file(path, names, cells)
        except (OSError, ValueError) as error:  # ValueError: an invalid path, or text that UTF-8 cannot encode
            raise TableError(f"{one_line(path)}: cannot be written: {reason(error)}") from error
    elif hasattr(path_or_stream, "write"):
        try:
            csv_files.write_rows(CompleteWriter(path_or_stream), names, cells)
        except BrokenPipeError:
            raise
        except (OSError, ValueError) as error:
            raise TableError(f"the stream cannot be written to: {reason(error)}") from error
    else:
        raise ArgumentError.of("path_or_stream", path_or_stream, "a path or a text stream")


def formulas(texts: NDArray[Any]) -> list[str]:
    """Return the distinct texts that a spreadsheet may take as formulas, or that contain formulas."""
    return [text for text in np.unique(texts).tolist() if text != inert(text)] if texts.dtype.kind == "U" else []


def _cells(names: Sequence[str], columns: Mapping[str, ArrayLike] | Sequence[ArrayLike]) -> list[list[object]]:
    """Return each column as a list of values that the csv module writes correctly."""
    if isinstance(columns, Mapping):
        if missing := [name for name in names if name not in columns]:
            raise ArgumentError(f"columns lacks {listed(missing)}, wanted a column for each of the names")
        columns = [columns[name] for name in names]
    if len(columns) != len(names):
        raise ArgumentError(f"columns has {len(columns)} columns, wanted {len(names)}: one for each of the names")
    arrays = [_as_array(name, column) for name, column in zip(names, columns, strict=True)]
    for name, array in zip(names, arrays, strict=True):
        if array.ndim != 1 or array.size != arrays[0].size:
            raise ShapeError.of(f"column {name!r}", array.shape, "(m,) with the same m for all columns")
    return [exact(array) for array in arrays]


def _as_array(name: str, column: ArrayLike) -> NDArray[Any]:
    """Return a column as an array of numbers or text; raise an error if it cannot be written."""
    refuse_lost_nuls(column, f"column {name!r}")
    refuse_masked(column, f"column {name!r}")
    try:
        array = np.asarray(column)
    except (TypeError, ValueError) as error:
        raise ShapeError(f"column {name!r} is not an array: {reason(error)}") from error
    if array.dtype.kind not in "biufU":
        raise DTypeError.of(f"column {name!r}", array.dtype, "real numbers or text")
    return array


def exact(array: NDArray[Any]) -> list[object]:
    """Return a column as a list that the csv module writes with the fewest digits that read back unchanged."""
    if array.dtype.kind == "b":
        array = array.astype(np.int8)
    if array.dtype.kind == "f" and array.dtype != np.float64:
        return [float(str(value)) for value in array]  # 0.1 for a float32, whose float64 value is 0.10000000149011612
    cells: list[object] = array.tolist()
    return cells
