"""CSV files: columns out of the bytes of one, with the line of every fault, and rows into one."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from itertools import accumulate, islice
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deepnotes.atomic import replacing
from deepnotes.errors import TableError
from deepnotes.wording import listed, shown

Column = NDArray[np.float64] | NDArray[np.str_]
"""One column of a table: numbers or text, shape (m,)."""

CHUNK_ROWS = 512  # cells are text only until their chunk is converted: many at once cost memory, and more time


class TextStream(Protocol):
    """What :func:`write_rows` needs of a stream."""

    def write(self, text: str, /) -> object: ...


def read(data: bytes, source: str) -> tuple[dict[str, Column], dict[str, int]]:
    """Return the columns in the `data` of a file by name, and for each the line where its first value stands.

    Raises
    ------
    TableError
        At the first fault; the message begins with `source` and the line.
    """
    _require_text(data, source)
    records = _records(data, source)
    header_line, header = next(records, (1, []))
    names = [cell.strip() for cell in header]
    _require_header(names, f"{source}:{header_line}")
    numeric: list[bool] = []
    lines: dict[str, int] = {}
    parts: list[list[Column]] = [[] for _ in names]
    while chunk := list(islice(records, CHUNK_ROWS)):
        if not numeric:
            numeric = [_number(cell.strip()) is not None for cell in chunk[0][1]]
            lines = dict(zip(names, _cell_lines(chunk[0]), strict=True))
        for j, raw in enumerate(zip(*(cells for _, cells in chunk), strict=True)):
            cells = [cell.strip() for cell in raw]
            column = _numbers(cells) if numeric[j] else _text(cells)
            if column is None:
                i, cell, wanted = _culprit(cells, numeric[j])
                told = shown(cell) if cell else "an empty cell"
                raise TableError(
                    f"{source}:{_cell_lines(chunk[i])[j]}: column {names[j]!r} has {told} where {wanted} was expected"
                )
            parts[j].append(column)
    if not numeric:
        raise TableError(f"{source}:{header_line}: no row follows the header")
    return dict(zip(names, map(_joined, parts), strict=True)), lines


def _joined(parts: list[Column]) -> Column:
    return np.concatenate(parts)  # type: ignore[return-value]  # one column's parts are all numbers or all text


Record = tuple[int, list[str]]
"""The line on which a row of cells starts, and the cells."""


def _require_text(data: bytes, source: str) -> None:
    wrong = data.find(b"\0")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        wrong = error.start if wrong < 0 else min(wrong, error.start)
    if wrong >= 0:
        line = 1 + len(re.findall(rb"\r\n|\r|\n", data[:wrong]))
        raise TableError(f"{source}:{line}: byte 0x{data[wrong]:02x} is not UTF-8 text, which a .csv file must be")


def _records(data: bytes, source: str) -> Iterator[Record]:
    """Yield the header and then each row that is not blank; all have as many cells as the header."""
    stream = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline="")
    reader = csv.reader(stream, strict=True, skipinitialspace=True)
    line, width = 1, 0
    try:
        for cells in reader:
            if cells and (len(cells) == width or not _blank(cells)):
                width = width or len(cells)
                if len(cells) != width:
                    count = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
                    raise TableError(f"{source}:{line}: {count} where the header has {width}")
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise TableError(f"{source}:{line}: the row that starts here is not CSV: {error}") from error


def _blank(cells: list[str]) -> bool:
    return not cells or (len(cells) == 1 and not cells[0].strip())


def _cell_lines(record: Record) -> list[int]:
    """Return the line on which each cell starts: line breaks inside quoted cells move those after them down."""
    line, cells = record
    return list(accumulate((len(re.findall(r"\r\n|\r|\n", cell)) for cell in cells[:-1]), initial=line))


def _require_header(names: list[str], place: str) -> None:
    if not names:
        raise TableError(f"{place}: the file is empty; a header row and rows below it were wanted")
    if all(_number(name) is not None for name in names):
        raise TableError(f"{place}: the first row must hold the column names, but it holds numbers: {listed(names)}")
    if fault := fault_of(names):
        raise TableError(f"{place}: {fault}")


def fault_of(names: Sequence[str]) -> str | None:
    """Return what keeps `names` from naming columns, or None."""
    seen: set[str] = set()
    for number, name in enumerate(names, start=1):
        if not name:
            return f"column {number} has no name"
        if name in seen:
            return f"two columns have the name {name!r}"
        seen.add(name)
    return None


def _number(cell: str) -> float | None:
    """Return what `float` reads, but not 1_000 nor digits beyond ASCII, which other programs take for text."""
    if "_" in cell or not cell.isascii():
        return None
    try:
        return float(cell)
    except ValueError:
        return None


def _numbers(cells: list[str]) -> NDArray[np.float64] | None:
    """Return what :func:`_number` gives for each cell, or None if one is not a finite number."""
    joined = "".join(cells)  # one look at all of them: this is where reading spends its time
    if "_" in joined or not joined.isascii():
        return None
    try:
        values = np.fromiter(map(float, cells), np.float64, len(cells))
    except ValueError:
        return None
    return values if np.isfinite(values).all() else None


def _text(cells: list[str]) -> NDArray[np.str_] | None:
    return None if "" in cells else np.array(cells, np.str_)


def _culprit(cells: list[str], numeric: bool) -> tuple[int, str, str]:
    """Return the first cell that does not belong, as its index, its text, and what was wanted in its place."""
    if not numeric:
        return cells.index(""), "", "a value"
    values = [_number(cell) for cell in cells]
    i = next(i for i, value in enumerate(values) if value is None or not np.isfinite(value))
    return i, cells[i], "a number" if values[i] is None else "a finite number"


def write_rows(stream: TextStream, names: Sequence[str], cells: list[list[object]]) -> None:
    """Write a header and then the rows, given as one list of `cells` per column."""
    # A lone carriage return ends a line for readers, and the csv module does not quote it of itself.
    texts = [*names, *(cell for column in cells for cell in column if isinstance(cell, str))]
    returns = any("\r" in text for text in texts)
    writer = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL)
    writer.writerow(names)
    writer.writerows(zip(*cells, strict=True))


def write_file(path: Path, names: Sequence[str], cells: list[list[object]]) -> None:
    """Write as :func:`write_rows` to a file, which has all of it or what it had before."""
    with replacing(path, text=True) as file:
        write_rows(file, names, cells)
