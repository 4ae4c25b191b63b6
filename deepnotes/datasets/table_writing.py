"""Write tables as CSV."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepnotes.datasets import csv_files, csv_text
from deepnotes.datasets.csv_files import TextStream
from deepnotes.utils.array_checks import refuse_lost_nuls, refuse_masked
from deepnotes.utils.atomic_files import replacing
from deepnotes.utils.errors import ArgumentError, DeepnotesError, DTypeError, ShapeError, TableError
from deepnotes.utils.safe_text import inert
from deepnotes.utils.streams import CompleteWriter
from deepnotes.utils.wording import join_names, one_line, reason


def write_table(
    path_or_stream: str | os.PathLike[str] | TextStream,
    names: Sequence[str],
    columns: Mapping[str, ArrayLike] | Sequence[ArrayLike],
    *,
    spreadsheet: bool = False,
    header: bool = True,
) -> None:
    """Write columns as CSV with a header row.

    A float is written with the fewest digits from which its dtype recovers the same number, an integer as an integer,
    and a boolean as 0 or 1. Text is quoted so that it is read back unchanged.

    Parameters
    ----------
    path_or_stream : path or text stream
        A file at the path is replaced atomically: if writing fails, it keeps its previous content.
    names : sequence of str
        The header: one name per column; names must be distinct and not empty.
    columns : sequence of arrays, or mapping of names to arrays
        Arrays of numbers or text, each of shape (m,).
    spreadsheet : bool, default False
        Whether to put an apostrophe before everything that a spreadsheet could interpret as a formula, even in the
        middle of a cell, after a character that could be interpreted as a separator. The file is then safe to open in
        a spreadsheet; other programs see the apostrophes.
    header : bool, default True
        Whether to write the header row; without it, rows can be added to a stream to which others have been written.

    Raises
    ------
    TableError
        If the file or stream cannot be written.
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
    if fault := csv_text.name_fault(names):
        raise ArgumentError(f"names is {join_names(names)}: {fault}")
    cells = _cells(names, columns)
    if spreadsheet:
        names, *cells = [  # type: ignore[assignment]
            [inert(cell) if isinstance(cell, str) else cell for cell in column] for column in (names, *cells)
        ]
    if isinstance(path_or_stream, str | os.PathLike):
        path = Path(path_or_stream)
        with _writing(one_line(path)), replacing(path, text=True) as file:
            csv_files.write_rows(file, names, cells, header)
    elif hasattr(path_or_stream, "write"):
        try:
            csv_files.write_rows(CompleteWriter(path_or_stream), names, cells, header)
        except BrokenPipeError:
            raise
        except (OSError, ValueError) as error:
            raise TableError(f"the stream cannot be written to: {reason(error)}") from error
    else:
        raise ArgumentError.of("path_or_stream", path_or_stream, "a path or a text stream")


@contextmanager
def writing_table(path: Path, spreadsheet: bool = False) -> Iterator[Callable[[Mapping[str, ArrayLike]], None]]:
    """Yield a function that writes rows to a file, as :func:`row_writer` does.

    The file is replaced atomically when the block ends; if it ends in an error, the file keeps its previous content.

    Raises
    ------
    TableError
        If the file cannot be written.
    """
    with ExitStack() as stack:
        with _writing(one_line(path)):
            file = stack.enter_context(replacing(path, text=True))
        yield row_writer(file, spreadsheet, one_line(path))
        with _writing(one_line(path)):
            stack.close()


def row_writer(
    stream: TextStream, spreadsheet: bool = False, name: str = "the output"
) -> Callable[[Mapping[str, ArrayLike]], None]:
    """Return a function that writes rows to a stream; the first call also writes the header.

    Parameters
    ----------
    stream : TextStream
    spreadsheet : bool
        As for :func:`write_table`.
    name : str
        The name of the stream, for error messages.
    """
    is_first = True

    def write(columns: Mapping[str, ArrayLike]) -> None:
        nonlocal is_first
        with _writing(name):
            write_table(stream, list(columns), columns, spreadsheet=spreadsheet, header=is_first)
        is_first = False

    return write


@contextmanager
def _writing(name: str) -> Iterator[None]:
    """Raise TableError instead of the errors of the system; its message begins with `name`."""
    try:
        yield
    except BrokenPipeError:
        raise
    except TableError as error:
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        raise TableError(f"{name}: cannot be written: {reason(cause)}") from error
    except (OSError, ValueError) as error:  # ValueError: invalid path, or text that UTF-8 cannot encode
        if isinstance(error, DeepnotesError):
            raise
        raise TableError(f"{name}: cannot be written: {reason(error)}") from error


def find_formulas(texts: NDArray[Any]) -> list[str]:
    """Return the distinct strings that a spreadsheet may interpret as formulas, or that contain formulas."""
    return [text for text in np.unique(texts).tolist() if text != inert(text)] if texts.dtype.kind == "U" else []


def _cells(names: Sequence[str], columns: Mapping[str, ArrayLike] | Sequence[ArrayLike]) -> list[list[object]]:
    """Return the columns as lists of values that the csv module writes correctly."""
    if isinstance(columns, Mapping):
        if missing := [name for name in names if name not in columns]:
            raise ArgumentError(f"columns has no entry for {join_names(missing)}, wanted one column for each name")
        columns = [columns[name] for name in names]
    if len(columns) != len(names):
        raise ArgumentError(f"columns has {len(columns)} columns, wanted {len(names)}: one for each name")
    arrays = [_as_array(name, column) for name, column in zip(names, columns, strict=True)]
    for name, array in zip(names, arrays, strict=True):
        if array.ndim != 1 or array.size != arrays[0].size:
            raise ShapeError.of(f"column {name!r}", array.shape, "(m,) with the same m for all columns")
    return [to_cells(array) for array in arrays]


def _as_array(name: str, column: ArrayLike) -> NDArray[Any]:
    """Return a column as an array of numbers or text; raise ShapeError or DTypeError if it is neither."""
    refuse_lost_nuls(column, f"column {name!r}")
    refuse_masked(column, f"column {name!r}")
    try:
        array = np.asarray(column)
    except (TypeError, ValueError) as error:
        raise ShapeError(f"column {name!r} is not an array: {reason(error)}") from error
    if array.dtype.kind not in "biufU":
        raise DTypeError.of(f"column {name!r}", array.dtype, "real numbers or text")
    return array


def to_cells(array: NDArray[Any]) -> list[object]:
    """Return a column as a list of cells, which the csv module writes without loss and with the fewest digits."""
    if array.dtype.kind == "b":
        array = array.astype(np.int8)
    if array.dtype.kind == "f" and array.dtype != np.float64:
        return [float(str(value)) for value in array]  # 0.1, not 0.10000000149011612, for float32(0.1)
    cells: list[object] = array.tolist()
    return cells
