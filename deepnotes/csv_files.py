"""CSV files: columns out of the bytes of one, with the line of every fault, and rows into one.

pyarrow cuts the text into cells; :mod:`deepnotes.cells` makes columns of them. Python's own csv module reads what
programs differ on, such as quotes that do not enclose whole cells, and finds the line that an error is about.
"""

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from deepnotes.atomic import replacing
from deepnotes.cells import CellError, Typed, number_of, plain_numbers, spelling, typed, where_missing
from deepnotes.errors import TableError
from deepnotes.readings import EVERYTHING, MOST_PLACES, WHITESPACE, Content, Gap, Request, index_note
from deepnotes.wording import listed

__all__ = ["NEEDS", "TextStream", "fault_of", "number_of", "read", "write_file", "write_rows"]

NEEDS = 'pip install "deepnotes[data]"'

SEPARATORS = ",;\t|"
"""What is tried, in this order, where nobody says what stands between cells."""

HEAD = 1 << 16
"""Bytes that are looked at to see what stands between cells."""

LONGEST_CELL = 131_072
"""Characters of a cell that Python's csv module takes."""

BLOCK, BLOCKS, MANY_COLUMNS = 1 << 20, 16, 1000
"""pyarrow reads blocks of this many bytes at least, this many blocks at most, and one of many columns.

Each block is a part of every column.
"""

WITHOUT_HEADER = "; without a header (--no-header, header=False) columns are named x0, x1, ..."

OTHER_ENCODINGS = "; --encoding (encoding=) reads others, such as latin-1 or utf-16"

LINE_END = re.compile(rb"\r\n|\r|\n")

SEPARATOR_LINE = re.compile(rb"sep=([!#-/:-@[-^`{-~]|\t)[ \t]*(?:\r\n|\r|\n)", re.IGNORECASE)
"""The first line by which Excel says what stands between cells."""


class TextStream(Protocol):
    """What :func:`write_rows` needs of a stream."""

    def write(self, text: str, /) -> object: ...


class Record(NamedTuple):
    """A row of cells, and the line on which it starts."""

    line: int
    cells: list[str]


@dataclass(frozen=True)
class Text:
    """The text of a file.

    Parameters
    ----------
    data : bytes
        UTF-8, without a byte order mark.
    source : str
    separator : str
    first_line : int
        The line of `source` on which `data` begins.
    """

    data: bytes
    source: str
    separator: str
    first_line: int = 1

    def records(self, width: int = 0) -> Iterator[Record]:
        """Yield each row that is not blank; an empty cell is one where `width` is 1.

        Raises
        ------
        TableError
            Where the text is not CSV.
        """
        stream = io.TextIOWrapper(io.BytesIO(self.data), encoding="utf-8", newline="")
        reader = csv.reader(stream, strict=True, skipinitialspace=self.separator != " ", delimiter=self.separator)
        line = self.first_line
        try:
            for cells in reader:
                if cells and (len(cells) == width or not is_blank(cells)):
                    yield Record(line, cells)
                line = self.first_line + reader.line_num
        except csv.Error as error:
            raise TableError(f"{self.source}:{line}: the row that starts here is not CSV: {error}") from error

    def rows(self, width: int) -> Iterator[Record]:
        """Yield the rows, each of `width` cells.

        Raises
        ------
        TableError
            Where the text is not CSV, or a row is of another width.
        """
        for row in self.records(width):
            if len(row.cells) != width:
                count = "1 cell" if len(row.cells) == 1 else f"{len(row.cells)} cells"
                raise TableError(f"{self.source}:{row.line}: {count} where the header has {width}")
            yield row

    def after(self, lines: int) -> "Text":
        """Return what follows some lines."""
        if not lines:
            return self
        ends = [found.end() for found in islice(LINE_END.finditer(self.data), min(lines, len(self.data)))]
        rest = self.data[ends[-1] :] if len(ends) == lines else b""
        return Text(rest, self.source, self.separator, self.first_line + lines)


def read(data: bytes, source: str, request: Request = EVERYTHING) -> Content:
    """Return what was asked for of the `data` of a file.

    Raises
    ------
    TableError
        At the first fault; the message begins with `source` and the line.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise TableError(f"{source}: to read .csv files takes pyarrow: {NEEDS}") from error
    size = len(data)
    text = text_of(data, source, request)
    del data
    names, unnamed, text, header_line = header_of(text, request)
    request = request.resolved(source, [name for name in names if name])
    notes = [index_note(name) for name in unnamed if request.columns is None and name not in request.exclude]
    taken = [name for name in names if name and request.takes(name) and name not in unnamed]
    first = next(text.records(len(names)), None)
    if first is None:
        raise TableError(f"{source}:{header_line}: no row follows the header")
    known = [name for name in names if name]
    if not taken:
        return Content({}, {}, {}, known, {}, notes)
    after = end_of(names)
    columns, rows = _columns(text, names, taken, list(range(after, len(names))))
    place = {name: j for j, name in enumerate(names)}
    plain = plain_numbers(columns, request)
    made: dict[str, Typed] = {}
    spelled: dict[str, NDArray[np.str_]] = {}
    places: dict[str, tuple[int, list[int]]] = {}
    told: dict[str, str] = {}
    for name in taken:
        cells, what = columns.pop(name), f"{source}: column {name!r}"
        try:
            column = made[name] = plain.get(name) or typed(cells, name, request, what, size)
        except CellError as error:
            line = _lines(text, len(names), rows, {error.row: [place[name]]})[error.row, place[name]]
            hint = f"; {error.hint}" if error.hint else ""
            raise TableError(f"{source}:{line}: column {name!r} has {error.told}{hint}") from None
        if name in request.spelled:
            spelled[name] = spelling(cells, column.missing, what, size)
        if column.missing is not None:
            missing = np.flatnonzero(column.missing)
            places[name] = len(missing), missing[:MOST_PLACES].tolist()
            cell = cells[places[name][1][0]].as_py().strip()
            told[name] = where_missing(cell, column.column, request.format)
    lines = _lines(text, len(names), rows, _by_row(places, place))
    gaps = {
        name: Gap(count, [lines[row, place[name]] for row in some], told[name], True)
        for name, (count, some) in places.items()
    }
    begins = cell_lines(first)
    return Content(
        {name: column.column for name, column in made.items()},
        {name: begins[place[name]] for name in taken},
        gaps,
        known,
        spelled,
        notes,
    )


# --- text -------------------------------------------------------------------------------------------------------------


def text_of(data: bytes, source: str, request: Request) -> Text:
    """Return the text of a file with what separates its cells."""
    form, separator = request.format, request.format.separator
    is_utf8 = codecs.lookup(form.encoding).name == "utf-8"
    data = (data if is_utf8 else _decoded(data, source, form.encoding)).removeprefix(codecs.BOM_UTF8)
    if found := SEPARATOR_LINE.match(data):
        separator = separator or found[1].decode()
    text = Text(data, source, "").after(max(form.skip_rows, 1 if found else 0))
    data, line = text.data, text.first_line
    if is_utf8:
        require_text(data, source, line)
    if form.comment is not None:
        mark = re.escape(form.comment.encode())
        data = re.sub(rb'("(?:[^"]|"")*")|' + mark + rb"[^\r\n]*", rb"\1", data)
    if separator == WHITESPACE:
        data = re.sub(rb"(?m)^[ \t]+|[ \t]+(?=\r|$)", b"", data)
        data = re.sub(rb'("(?:[^"]|"")*")|[ \t]+', lambda found: found[1] or b"\t", data)
        separator = "\t"
    return Text(data, source, separator or _separator(data), line)


def _decoded(data: bytes, source: str, encoding: str) -> bytes:
    """Return text of an encoding as UTF-8."""
    try:
        text = data.decode(encoding)
    except UnicodeError as error:
        at = getattr(error, "start", 0)
        line = 1 + len(LINE_END.findall(data[:at]))
        raise TableError(f"{source}:{line}: byte 0x{data[at]:02x} is not text in the encoding {encoding}") from None
    if "\0" in text:
        line = 1 + len(re.findall("\r\n|\r|\n", text[: text.index("\0")]))
        raise TableError(f"{source}:{line}: NUL is not text in the encoding {encoding}")
    return text.encode("utf-8", "replace")


def require_text(data: bytes, source: str, first_line: int) -> None:
    """Raise TableError where what begins on a line of a file is not UTF-8, or has NUL in it."""
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
        line = first_line + len(LINE_END.findall(data[:wrong]))
        usual = OTHER_ENCODINGS if data[wrong] else ""
        raise TableError(
            f"{source}:{line}: byte 0x{data[wrong]:02x} is not UTF-8 text, which a .csv file must be{usual}"
        )


def _separator(data: bytes) -> str:
    """Return what separates the cells: what cuts the header into the most, and the first rows into as many."""
    head = data[:HEAD].decode("utf-8", "ignore")
    best, most = ",", (False, 1)
    for separator in SEPARATORS:
        rows = csv.reader(io.StringIO(head, newline=""), skipinitialspace=True, delimiter=separator)
        try:
            widths = [len(cells) for cells in islice((cells for cells in rows if not is_blank(cells)), 20)]
        except csv.Error:
            continue
        if len(data) > HEAD and len(widths) > 1:
            del widths[-1]  # it may be cut short
        alike = widths[1:].count(widths[0]) if widths else -1
        if 2 * alike >= len(widths) - 1 and (found := (alike == len(widths) - 1, widths[0])) > most and widths[0] > 1:
            best, most = separator, found
    return best


def header_of(text: Text, request: Request) -> tuple[list[str], list[str], Text, int]:
    """Return the names, those of them that are an index, the rows that follow, and the line of the header."""
    source = text.source
    stream = io.TextIOWrapper(io.BytesIO(text.data), encoding="utf-8", newline="")
    reader = csv.reader(stream, strict=True, skipinitialspace=text.separator != " ", delimiter=text.separator)
    line = text.first_line
    cells: list[str] = []
    try:
        for cells in reader:
            if not is_blank(cells):
                break
            line = text.first_line + reader.line_num
        else:
            cells, line = [], 1
    except csv.Error as error:
        raise TableError(f"{source}:{line}: the row that starts here is not CSV: {error}") from error
    if not request.format.header and cells:
        return [f"x{j}" for j in range(len(cells))], [], text, line
    names = [cell.strip() for cell in cells]
    place = f"{source}:{line}"
    if not names:
        skipped = request.format.skip_rows
        found = f"nothing follows the {skipped:,} lines that are skipped" if skipped else "the file is empty"
        raise TableError(f"{place}: {found}; a header row and rows below it were wanted")
    if all(number_of(name) is not None for name in names):
        raise TableError(
            f"{place}: the first row must hold the column names, but it holds numbers: {listed(names)}{WITHOUT_HEADER}"
        )
    lead = next((j for j, name in enumerate(names) if name), 0)  # pandas writes no name over an index
    if fault := fault_of(names[lead : end_of(names)], lead):
        raise TableError(f"{place}: {fault}")
    unnamed = [""] * min(lead, 1)
    for name in names[lead:-1]:  # as pandas calls an index that it wrote and read again, each time it did so
        if not re.fullmatch(r"Unnamed: [0-9]+(\.[0-9]+)*", name) or request.names(name):
            break
        unnamed.append(name)
    return names, unnamed, text.after(reader.line_num), line


def end_of(names: list[str]) -> int:
    """Return after how many columns come only those without a name, where rows end in separators."""
    return len(names) - next((j for j, name in enumerate(reversed(names)) if name), 0)


def is_blank(cells: list[str]) -> bool:
    return not cells or (len(cells) == 1 and not cells[0].strip())


def fault_of(names: Sequence[str], before: int = 0) -> str | None:
    """Return what keeps `names` from naming the columns after the first `before`, or None."""
    seen: set[str] = set()
    for number, name in enumerate(names, start=before + 1):
        if not name:
            return f"column {number} has no name"
        if name in seen:
            return f"two columns have the name {name!r}"
        seen.add(name)
    return None


# --- cells ------------------------------------------------------------------------------------------------------------


def _columns(text: Text, names: list[str], taken: list[str], empty: list[int]) -> tuple[dict[str, Any], int]:
    """Return the cells of each column that is taken, as Arrow strings, and the number of rows.

    Raises
    ------
    TableError
        If rows differ in width, the text is not CSV, or one of the `empty` columns is not.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    body, place = text.data, {name: j for j, name in enumerate(names)}
    has_mark = body.startswith(codecs.BOM_UTF8)  # of a cell: pyarrow would drop it
    if has_mark or (b'"' in body and _quoted_well(text.separator).fullmatch(body) is None):  # programs differ on these
        body = _rewritten(text, len(names))
    longest = _longest_line(body)
    chosen = [*(place[name] for name in taken), *empty]
    try:
        table = _parsed(body, text.separator, names, chosen, longest)
    except (pa.ArrowException, ValueError):
        body = _rewritten(text, len(names))  # which raises where the text is wrong
        try:
            table = _parsed(body, text.separator, names, chosen, len(body))
        except (pa.ArrowException, ValueError) as error:
            raise TableError(f"{text.source}: not CSV: {' '.join(str(error).split())[:200]}") from None
    if longest > LONGEST_CELL and any(map(_is_too_long, table.columns)):
        _rewritten(text, len(names))
    for j, column in zip(empty, table.columns[len(taken) :], strict=True):
        if pc.any(pc.not_equal(pc.utf8_trim_whitespace(column), "")).as_py():
            raise TableError(f"{text.source}: column {j + 1} has no name")
    columns = {}
    for name, column in zip(taken, table.columns[: len(taken)], strict=True):
        if column.nbytes >= 1 << 31:
            column = column.cast(pa.large_string())
        columns[name] = column.combine_chunks()
    return columns, len(table)


def _parsed(body: bytes, separator: str, names: list[str], chosen: list[int], longest: int) -> Any:
    import pyarrow as pa
    from pyarrow import csv as reader

    buffer = pa.allocate_buffer(len(body))  # Arrow's own: its threads may let go of it at any time
    np.frombuffer(buffer, np.uint8)[:] = np.frombuffer(body, np.uint8)
    blocks = BLOCKS if len(names) < MANY_COLUMNS else 1
    return reader.read_csv(
        pa.BufferReader(buffer),
        read_options=reader.ReadOptions(
            column_names=list(map(str, range(len(names)))),  # of unnamed columns there may be several
            use_threads=len(body) > BLOCK,
            block_size=min(max(BLOCK, 2 * longest, len(body) // blocks + 1), (1 << 31) - 1),
        ),
        parse_options=reader.ParseOptions(delimiter=separator, newlines_in_values=b'"' in body),
        convert_options=reader.ConvertOptions(
            column_types={str(j): pa.string() for j in chosen},
            include_columns=list(map(str, chosen)),
            strings_can_be_null=False,
            quoted_strings_can_be_null=False,
        ),
    )


def _quoted_well(separator: str) -> re.Pattern[bytes]:
    """Return the pattern of text whose quotes enclose whole cells, so that no two readers differ about it."""
    mark = re.escape(separator.encode())
    return re.compile(rb'(?:[^"]++|(?<![^%b\r\n])"(?:[^"]++|"")*+"(?![^%b\r\n]))*+' % (mark, mark))


def _rewritten(text: Text, width: int) -> bytes:
    """Return rows with every cell in quotes.

    Raises
    ------
    TableError
        Where the text is not CSV, or a row is not of `width` cells.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_ALL, delimiter=text.separator)
    writer.writerows(row.cells for row in text.rows(width))
    return stream.getvalue().encode()


def _longest_line(data: bytes) -> int:
    """Return the length of the longest line."""
    last, longest, step = -1, 0, 1 << 24
    for start in range(0, len(data), step):
        part = np.frombuffer(data, np.uint8, min(step, len(data) - start), start)
        ends = np.flatnonzero((part == 10) | (part == 13)) + start
        if len(ends):
            longest = max(longest, int(ends[0]) - last, int(np.diff(ends).max(initial=0)))
            last = int(ends[-1])
    return max(longest, len(data) - last)


def _is_too_long(column: Any) -> bool:
    import pyarrow.compute as pc

    return bool((pc.max(pc.utf8_length(column)).as_py() or 0) > LONGEST_CELL)


# --- lines ------------------------------------------------------------------------------------------------------------


def _by_row(places: dict[str, tuple[int, list[int]]], place: dict[str, int]) -> dict[int, list[int]]:
    """Return the columns to be looked up in each row."""
    wanted: dict[int, list[int]] = {}
    for name, (_, rows) in places.items():
        for row in rows:
            wanted.setdefault(row, []).append(place[name])
    return wanted


def _lines(text: Text, width: int, rows: int, wanted: dict[int, list[int]]) -> dict[tuple[int, int], int]:
    """Return the line of each wanted cell, by its row and column; the text has `rows` rows of `width` cells."""
    data = text.data
    ends = data.count(b"\n") + data.count(b"\r") - data.count(b"\r\n")
    if ends + (not data.endswith((b"\n", b"\r"))) == rows:  # then each row is one line
        return {(row, j): text.first_line + row for row, columns in wanted.items() for j in columns}
    found: dict[tuple[int, int], int] = {}
    last = max(wanted, default=-1)
    for row, record in enumerate(islice(text.records(width), last + 1)):
        if row in wanted:
            begins = cell_lines(record)
            found |= {(row, j): begins[j] for j in wanted[row]}
    return found


def cell_lines(record: Record) -> list[int]:
    """Return the line on which each cell starts: line breaks inside quoted cells move those after them down."""
    lines, line = [], record.line
    for cell in record.cells:
        lines.append(line)
        if "\n" in cell or "\r" in cell:
            line += len(re.findall(r"\r\n|\r|\n", cell))
    return lines


# --- writing ----------------------------------------------------------------------------------------------------------


def write_rows(stream: TextStream, names: Sequence[str], cells: list[list[object]]) -> None:
    """Write a header and then the rows, given as one list of `cells` per column."""
    # A lone carriage return ends a line for readers, and in the header they look for what separates cells; the csv
    # module quotes neither of itself.
    texts = [*names, *(cell for column in cells for cell in column if isinstance(cell, str))]
    returns = any("\r" in text for text in texts) or any(set(name) & set(SEPARATORS) for name in names)
    writer = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL)
    writer.writerow(names)
    writer.writerows(zip(*cells, strict=True))


def write_file(path: Path, names: Sequence[str], cells: list[list[object]]) -> None:
    """Write as :func:`write_rows` to a file, which has all of it or what it had before."""
    with replacing(path, text=True) as file:
        write_rows(file, names, cells)
