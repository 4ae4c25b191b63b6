"""CSV files: columns out of the bytes of one, with the line of every fault, and rows into one."""

import codecs
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
from deepnotes.readings import EVERYTHING, Column, Content, Gap, Request, require_room
from deepnotes.wording import listed, shown

CHUNK_ROWS = 512  # cells are text only until their chunk is converted: many at once cost memory, and more time

MISSING = frozenset(["", "na", "n/a", "nan", "null"])
"""What stands for no value among numbers, in whatever case; among texts, only the empty cell does."""

EMPTY_TEXT = "an empty cell where a value was expected"


class TextStream(Protocol):
    """What :func:`write_rows` needs of a stream."""

    def write(self, text: str, /) -> object: ...


def read(data: bytes, source: str, request: Request = EVERYTHING) -> Content:
    """Return what was asked for of the `data` of a file.

    Raises
    ------
    TableError
        At the first fault; the message begins with `source` and the line.
    """
    require_text(data, source)
    records = _records(data, source)
    header_line, header = next(records, (1, []))
    names = header_names(header, f"{source}:{header_line}")
    request.require_known(source, names)
    builders = {j: Builder(name, source, len(data), request) for j, name in enumerate(names) if request.takes(name)}
    lines: dict[str, int] = {}
    while chunk := list(islice(records, CHUNK_ROWS)):
        lines = lines or {names[j]: line for j, line in enumerate(_cell_lines(chunk[0])) if j in builders}
        for j, raw in enumerate(zip(*(cells for _, cells in chunk), strict=True)):
            if j in builders:
                builders[j].add([cell.strip() for cell in raw], chunk, j)
        if not builders:
            lines = lines or {"": 0}
    if not lines:
        raise TableError(f"{source}:{header_line}: no row follows the header")
    columns = {builder.name: builder.joined() for builder in builders.values()}
    gaps = {builder.name: gap for builder in builders.values() if (gap := builder.gap()).count}
    return Content(columns, lines if columns else {}, gaps, names)


Record = tuple[int, list[str]]
"""The line on which a row of cells starts, and the cells."""


class Builder:
    """A column under way: the first cell that is not missing says whether it is of numbers or text.

    Parameters
    ----------
    name, source : str
    size : int
        Of the file, in bytes.
    request : Request
    """

    def __init__(self, name: str, source: str, size: int, request: Request) -> None:
        self.name, self._source, self._size = name, source, size
        self.numeric: bool | None = False if name in request.text else None
        self._parts: list[Column] = []
        self._of_numbers, self._of_text = Gap(), Gap()

    def add(self, cells: list[str], chunk: list[Record], j: int) -> None:
        """Take the next cells, which are those at `j` of the records."""
        if self.numeric is None:
            self._decide(cells)
        if not self.numeric:
            self._note_missing(cells, chunk, j)
            self._parts.append(self._text(cells))
        elif (numbers := _numbers(cells)) is not None:
            self._parts.append(numbers)
        else:
            self._parts.append(self._careful_numbers(cells, chunk, j))

    def _decide(self, cells: list[str]) -> None:
        first = next((cell for cell in cells if cell.lower() not in MISSING), None)
        if first is None:
            return
        self.numeric = number_of(first) is not None
        if self.numeric:
            self._parts = [np.full(part.size, np.nan) for part in self._parts]

    def _note_missing(self, cells: list[str], chunk: list[Record], j: int) -> None:
        undecided = self.numeric is None
        if not undecided and "" not in cells:
            return
        for record, cell in zip(chunk, cells, strict=True):
            if undecided:
                _note(self._of_numbers, record, j, wanted_in_place_of(cell))
            if not cell:
                _note(self._of_text, record, j, EMPTY_TEXT)

    def _careful_numbers(self, cells: list[str], chunk: list[Record], j: int) -> NDArray[np.float64]:
        values = np.empty(len(cells))
        for i, (record, cell) in enumerate(zip(chunk, cells, strict=True)):
            value = number_of(cell)
            if cell.lower() in MISSING:
                _note(self._of_numbers, record, j, wanted_in_place_of(cell))
                value = np.nan
            elif value is None or not np.isfinite(value):
                line = _cell_lines(record)[j]
                raise TableError(f"{self._source}:{line}: column {self.name!r} has {wanted_in_place_of(cell)}")
            values[i] = value
        return values

    def _text(self, cells: list[str]) -> NDArray[np.str_]:
        self._require_room(max(map(len, cells)), len(cells))
        return np.array(cells, np.str_)

    def _require_room(self, width: int, rows: int) -> None:
        what = f"{self._source}: column {self.name!r}, {rows:,} texts of up to {width:,} characters,"
        require_room(4 * width * rows, self._size, what, "leave the column out")

    def joined(self) -> Column:
        """Return the whole column."""
        if self.numeric is None and self._all_numbers():
            self.numeric = True
            return np.full(sum(part.size for part in self._parts), np.nan)
        if not self.numeric:
            self._require_room(max(part.itemsize // 4 for part in self._parts), sum(part.size for part in self._parts))
        return np.concatenate(self._parts)  # type: ignore[return-value]  # all numbers or all text

    def _all_numbers(self) -> bool:
        """Return whether all that there is of a column without values is nan, which is a number of a kind."""
        return all(np.char.lower(part) == "nan" for parts in self._parts for part in np.unique(parts))

    def gap(self) -> Gap:
        """Return the missing values."""
        return self._of_numbers if self.numeric else self._of_text


def _note(gap: Gap, record: Record, j: int, told: str) -> None:
    """Count the cell at `j` of a record, whose line is looked for only if it will be told."""
    gap.note(_cell_lines(record)[j] if gap.wants_places else 0, told)


def wanted_in_place_of(cell: str) -> str:
    """Return a cell in a column of numbers that is none, and what was wanted in its place."""
    kind = "a number" if number_of(cell) is None else "a finite number"
    return f"{shown(cell) if cell else 'an empty cell'} where {kind} was expected"


def require_text(data: bytes, source: str) -> None:
    """Raise TableError where a file is not UTF-8, or has NUL in it."""
    wrong = data.find(b"\0")
    decoder, step = codecs.getincrementaldecoder("utf-8")(), 1 << 20
    for start in range(0, len(data), step):
        part = data[start : start + step]
        try:
            before = len(decoder.getstate()[0])
            decoder.decode(part, start + step >= len(data))
        except UnicodeDecodeError as error:
            at = start - before + error.start
            wrong = at if wrong < 0 else min(wrong, at)
            break
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
            if cells and (len(cells) == width or not is_blank(cells)):
                width = width or len(cells)
                if len(cells) != width:
                    count = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
                    raise TableError(f"{source}:{line}: {count} where the header has {width}")
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise TableError(f"{source}:{line}: the row that starts here is not CSV: {error}") from error


def is_blank(cells: list[str]) -> bool:
    return not cells or (len(cells) == 1 and not cells[0].strip())


def _cell_lines(record: Record) -> list[int]:
    """Return the line on which each cell starts: line breaks inside quoted cells move those after them down."""
    line, cells = record
    return list(accumulate((len(re.findall(r"\r\n|\r|\n", cell)) for cell in cells[:-1]), initial=line))


def header_names(header: list[str], place: str) -> list[str]:
    """Return the names in a header.

    Raises
    ------
    TableError
        If they cannot name columns.
    """
    names = [cell.strip() for cell in header]
    if not names:
        raise TableError(f"{place}: the file is empty; a header row and rows below it were wanted")
    if all(number_of(name) is not None for name in names):
        raise TableError(f"{place}: the first row must hold the column names, but it holds numbers: {listed(names)}")
    if fault := fault_of(names):
        raise TableError(f"{place}: {fault}")
    return names


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


def number_of(cell: str) -> float | None:
    """Return what `float` reads, but not 1_000 nor digits beyond ASCII, which other programs take for text."""
    if "_" in cell or not cell.isascii():
        return None
    try:
        return float(cell)
    except ValueError:
        return None


def _numbers(cells: list[str]) -> NDArray[np.float64] | None:
    """Return what :func:`number_of` gives for each cell, or None if one is not a finite number."""
    joined = "".join(cells)  # one look at all of them: this is where reading spends its time
    if "_" in joined or not joined.isascii():
        return None
    try:
        values = np.fromiter(map(float, cells), np.float64, len(cells))
    except ValueError:
        return None
    return values if np.isfinite(values).all() else None


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
