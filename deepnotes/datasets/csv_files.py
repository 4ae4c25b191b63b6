"""Read columns from the bytes of a CSV file, with the line of every fault, and write rows to one.

pyarrow splits the text into cells, and :mod:`deepnotes.datasets.cells` converts them to columns. Python's csv module
reads text that programs read differently, such as quotes that do not enclose whole cells, and finds the line of an
error.
"""

import codecs
import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from deepnotes.datasets.cells import MISSING, CellError, Typed, number_of, plain_numbers, spelling, typed, where_missing
from deepnotes.datasets.reading import (
    ARGUMENTS,
    EVERYTHING,
    MOST_PLACES,
    WHITESPACE,
    Content,
    Format,
    Gap,
    Request,
    index_note,
    require_room,
)
from deepnotes.utils.atomic_files import replacing
from deepnotes.utils.errors import TableError
from deepnotes.utils.wording import listed, reason

__all__ = ["NEEDS", "TextStream", "fault_of", "number_of", "read", "write_file", "write_rows"]

NEEDS = 'pip install "deepnotes[data]"'

SEPARATORS = ",;\t|"
"""The separators that are tried, in this order, if none is given."""

GZIP, CELL_ENDS = b"\x1f\x8b", b",;\t| \r\n"
"""The first bytes of gzip files, and bytes that may end a cell."""

HEAD = 1 << 16
"""The number of bytes in which the separator is detected."""

LONGEST_CELL = 131_072
"""The largest number of characters of a cell that Python's csv module accepts."""

BLOCK, BLOCKS, MANY_COLUMNS = 1 << 20, 16, 1000
"""pyarrow reads blocks of this many bytes at least, this many blocks at most, and one of many columns.

Each block is a part of every column.
"""

FIRST_ROWS = 20
"""The number of rows in which the separator, or the cause of a faulty header, is detected."""

WITHOUT_HEADER = "; if there is no header, --no-header (header=False) names the columns x0, x1, ..."

BY_WHITE_SPACE = "; --separator whitespace (separator='whitespace') reads them, and --separator , reads one column"

OTHER_ENCODINGS = "; --encoding (encoding=) reads others, such as latin-1 or utf-16"

LINE_END = re.compile(rb"\r\n|\r|\n")

SEPARATOR_LINE = re.compile(rb"sep=([!#-/:-@[-^`{-~]|\t)[ \t]*(?:\r\n|\r|\n)", re.IGNORECASE)
"""The first line in which Excel states the separator."""


class TextStream(Protocol):
    """The part of a stream's interface that :func:`write_rows` needs."""

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
        """Yield each row that is not blank; where `width` is 1, a blank line is an empty cell.

        Raises
        ------
        TableError
            If the text is not CSV.
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
            If the text is not CSV, or a row has another width.
        """
        records = self.records(width)
        last: list[Record] = []
        for number, row in enumerate(records):
            if len(row.cells) != width:
                count = "1 cell" if len(row.cells) == 1 else f"{len(row.cells)} cells"
                hint = past_title(self, width, number - len(last), [*last, row, *some(records)])
                raise TableError(f"{self.source}:{row.line}: {count} where the header has {width}{hint}")
            yield row
            last = [row]

    def after(self, lines: int) -> "Text":
        """Return the text after some lines."""
        if not lines:
            return self
        ends = [found.end() for found in islice(LINE_END.finditer(self.data), min(lines, len(self.data)))]
        rest = self.data[ends[-1] :] if len(ends) == lines else b""
        return Text(rest, self.source, self.separator, self.first_line + lines)


def read(data: bytes, source: str, request: Request = EVERYTHING) -> Content:
    """Read what was requested from the `data` of a file.

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
    text = text_of(unpacked(data, source), source, request)
    del data
    names, unnamed, text, header_line = header_of(text, request)
    request = _resolved(request, names, text)
    asked = request.columns is not None
    notes = [index_note(name) for name in unnamed if not (name and asked) and name not in request.exclude]
    taken = [name for name in names if name and request.takes(name) and name not in unnamed]
    first = next(text.records(len(names)), None)
    if first is None:
        raise TableError(f"{source}:{header_line}: no row follows the header")
    known = [name for name in names if name]
    if not taken:
        return Content({}, {}, {}, known, {}, notes)
    after = end_of(names)
    columns, rows = _columns(text, names, taken, list(range(after, len(names))), request.format)
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


def unpacked(data: bytes, source: str) -> bytes:
    """Return the content of a gzip file, whatever its name; other data unchanged.

    Raises
    ------
    TableError
        If it is damaged, or would take more memory than a file of its size may.
    """
    if not data.startswith(GZIP):
        return data
    wanted = 0
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            while part := file.read(1 << 20):
                cells = len(part) - len(part.translate(None, CELL_ENDS))
                wanted += len(part) + 8 * cells
                require_room(wanted, len(data), f"{source}: its text", "unpack it with gunzip")
            file.seek(0)
            return file.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TableError(f"{source}: the gzip file is damaged: {reason(error)}") from error


def text_of(data: bytes, source: str, request: Request) -> Text:
    """Return the text of a file, with its separator."""
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
        data, separator = _tabbed(data), "\t"
    return Text(data, source, separator or _separator(data, source, form), line)


def _tabbed(data: bytes) -> bytes:
    """Return text with each run of white space replaced by a tab."""
    data = re.sub(rb"(?m)^[ \t]+|[ \t]+(?=\r|$)", b"", data)
    return re.sub(rb'("(?:[^"]|"")*")|[ \t]+', lambda found: found[1] or b"\t", data)


def _decoded(data: bytes, source: str, encoding: str) -> bytes:
    """Return text of another encoding as UTF-8."""
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
    """Raise TableError if text that starts at a given line of a file is not UTF-8, or contains NUL."""
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


def _separator(data: bytes, source: str, form: Format) -> str:
    """Return the separator: the one that gives the first rows equal widths, and the header the most cells.

    Raises
    ------
    TableError
        If only white space separates them.
    """
    head, is_cut = data[:HEAD], len(data) > HEAD
    found = {separator: _first_rows(head, separator, is_cut) for separator in SEPARATORS}
    widths = {separator: list(map(len, rows)) for separator, rows in found.items() if rows}
    ranks = {separator: (_likeness(of_rows), of_rows[0]) for separator, of_rows in widths.items() if of_rows[0] > 1}
    best = max(ranks, key=lambda separator: ranks[separator], default=",")  # the first of equals
    rank, _ = ranks.get(best, (0, 0))
    if rank > 1:
        return best
    below = {name: (of_rows[-1], -_above(of_rows)) for name, of_rows in widths.items() if _is_titled(of_rows)}
    if "\t" not in below and _by_white_space(_first_rows(_tabbed(head), "\t", is_cut), form):
        raise TableError(f"{source}: no separator was found, but white space cuts the rows alike{BY_WHITE_SPACE}")
    return max(below, key=lambda separator: below[separator], default=best if rank else ",")


def _first_rows(head: bytes, separator: str, is_cut: bool) -> list[list[str]]:
    """Return the first rows that are not blank, without a last one that may be cut short; empty if they are not CSV."""
    stream = io.StringIO(head.decode("utf-8", "ignore"), newline="")
    rows = csv.reader(stream, skipinitialspace=True, delimiter=separator)
    try:
        first = list(islice((cells for cells in rows if not is_blank(cells)), FIRST_ROWS))
    except csv.Error:
        return []
    return first[:-1] if is_cut and len(first) > 1 else first


def _likeness(widths: list[int]) -> int:
    """Rate how well rows fit their header: 3 if all have its width, 2 if all have one cell more, 1 if half fit."""
    width, *others = widths
    if set(others) <= {width}:
        return 3
    return 2 if set(others) == {width + 1} else int(2 * others.count(width) >= len(others))


def _above(widths: Sequence[int]) -> int:
    """Return the number of rows above the final run of rows of equal width."""
    return len(widths) - next((n for n, width in enumerate(reversed(widths)) if width != widths[-1]), len(widths))


def _is_titled(widths: Sequence[int]) -> bool:
    """Return whether the rows are a title above more rows of equal width."""
    above = _above(widths)
    return 0 < above <= len(widths) - above > 1


def _by_white_space(rows: list[list[str]], form: Format) -> bool:
    """Return whether a text without separators is a table separated by white space, and not a column of phrases."""
    widths = list(map(len, rows))
    above = _above(widths)
    body = rows[above + 1 :]
    if not body or (above and not _is_titled(widths)) or widths[-1] < (3 if above else 2) or form.thousands == " ":
        return False
    if any(cell.endswith(tuple(SEPARATORS)) for row in body for cell in row):
        return False
    numbers = any(all(_like_number(row[j], form) for row in body) for j in range(widths[-1]))
    return numbers or (widths[-1] > 2 and not above)


def _like_number(cell: str, form: Format) -> bool:
    """Return whether a cell is a number or a spelling of a missing value."""
    return number_of(cell, form) is not None or cell.strip().lower() in MISSING


# --- the header -------------------------------------------------------------------------------------------------------


def header_of(text: Text, request: Request) -> tuple[list[str], list[str], Text, int]:
    """Return the column names, those of an index among them, the rows that follow, and the line of the header."""
    source = text.source
    stream = io.TextIOWrapper(io.BytesIO(text.data), encoding="utf-8", newline="")
    reader = csv.reader(stream, strict=True, skipinitialspace=text.separator != " ", delimiter=text.separator)
    form, line = request.format, text.first_line
    cells: list[str] = []
    try:
        for cells in reader:
            if not is_blank(cells):
                break
            line = text.first_line + reader.line_num
        else:
            cells, line = [], 1
    except csv.Error as error:
        hint = past_line(line)
        raise TableError(f"{source}:{line}: the row that starts here is not CSV: {error}{hint}") from error
    if not form.header and cells:
        return [f"x{j}" for j in range(len(cells))], [], text, line
    names = [cell.strip() for cell in cells]
    place = f"{source}:{line}"
    if not names:
        skipped = form.skip_rows
        found = f"nothing follows the {skipped:,} lines that are skipped" if skipped else "the file is empty"
        raise TableError(f"{place}: {found}; a header row and rows below it were wanted")
    below = text.after(reader.line_num)
    if all(number_of(name) is not None for name in names):
        raise TableError(
            f"{place}: the first row must hold the column names, but it holds numbers: {listed(names)}"
            f"{past_numbers(len(names), below)}"
        )
    if _has_row_names(names, below, form):
        names = ["", *names]
    lead = next((j for j, name in enumerate(names) if name), 0)  # pandas writes an empty name above an index
    if fault := fault_of(names[lead : end_of(names)], lead):
        raise TableError(f"{place}: {fault}{past_header(names, below, form)}")
    _require_fit(names, below, form)
    unnamed = [""] * min(lead, 1)
    for name in names[lead:-1]:  # pandas' names for an index that it wrote and read back, once or several times
        if not re.fullmatch(r"Unnamed: [0-9]+(\.[0-9]+)*", name) or request.names(name):
            break
        unnamed.append(name)
    return names, unnamed, below, line


def _has_row_names(names: list[str], below: Text, form: Format) -> bool:
    """Return whether each row has one cell more than the header: R writes row names like this, in the first cell.

    If the last cell is empty in all rows, they may merely end in a separator; and an apparent header of one column may
    be a title above a header of two.
    """
    first: list[list[str]] = []
    filled = not names[-1]
    for row in below.records(len(names) + 1):
        if len(row.cells) != len(names) + 1:
            return False
        filled = filled or bool(row.cells[-1].strip())
        if len(first) < 2:
            first.append(row.cells)
    if len(first) == 2 and not any(cell.strip() and _like_number(cell, form) for cell in first[0]):
        filled = filled and all(number_of(cell, form) is None for cell in first[1])
    return bool(first) and filled


def _require_fit(names: list[str], below: Text, form: Format) -> None:
    """Raise TableError if the first rows show that the first line is not a header, before any error about its names."""
    end = end_of(names)
    filled = [
        j for row in islice(below.rows(len(names)), FIRST_ROWS) for j in range(end, len(names)) if row.cells[j].strip()
    ]
    if filled:
        raise TableError(f"{below.source}: column {min(filled) + 1} has no name{past_header(names, below, form)}")


def _resolved(request: Request, names: list[str], below: Text) -> Request:
    """Resolve the request for a file with these column names; an error says which line may be the header.

    Raises
    ------
    TableError, ArgumentError
        As :meth:`Request.resolved`.
    """
    try:
        return request.resolved(below.source, [name for name in names if name])
    except TableError as error:
        wanted = {name for argument in ARGUMENTS for name in getattr(request, argument) or () if name not in names}
        for row in some(below.records(len(names))) if request.format.header else ():
            if found := wanted.intersection(cell.strip() for cell in row.cells):
                line = row.line - 1
                hint = f"line {row.line} has {min(found)!r}; if it is the header, --skip-rows {line} (skip_rows={line})"
                raise TableError(f"{error}; {hint} leaves out what stands above") from None
        raise


def past_line(line: int) -> str:
    """Return, as the end of a message, the option that skips lines which cannot be a header."""
    return f"; if it is a title, --skip-rows {line} (skip_rows={line}) leaves it out"


def past_title(below: Text, width: int, number: int, rows: list[Record]) -> str:
    """Return, as the end of a message, the options for rows whose width differs from the header's.

    Parameters
    ----------
    below : Text
        The text after the header.
    width : int
        The width of the header and of the `number` rows after it.
    number : int
    rows : list of Record
        The first rows after these.
    """
    widths = [width] * (number + 1) + [len(row.cells) for row in rows]
    if number == 0 and set(widths[1:]) == {width + 1} and not any(row.cells[-1].strip() for row in rows):
        way = _without_names(below.first_line - 1, f"x{width}")
        return f"; rows end in a separator, and the header does not: {way}"
    at = _above(widths) - number - 1
    if number > FIRST_ROWS or at < 0 or not _is_titled(widths):
        return ""
    if at and len(rows[at - 1].cells) == widths[-1] - 1:  # it may be the header, and the other rows have row names
        forms = Format(), Format(decimal=",")
        names, data = (all(_are_names(row.cells, 0, form) for form in forms) for row in rows[at - 1 : at + 1])
        at -= names and not data
    line = rows[at].line - 1
    return f"; if what stands above line {line + 1} is a title, --skip-rows {line} (skip_rows={line}) leaves it out"


def past_numbers(width: int, below: Text) -> str:
    """Return, as the end of a message, the option for a first row of numbers, which may be a title such as a year."""
    return past_title(below, width, 0, some(below.records(width))) or WITHOUT_HEADER


def past_header(names: list[str], below: Text, form: Format) -> str:
    """Return, as the end of a message, the options for a table whose header gives no names."""
    rows = some(below.records(len(names)))
    first = rows[0].cells if rows else names
    numbers = [number_of(name, form) is not None for name in names]
    named = {name for name in names if name}
    at = next((i for i, row in enumerate(rows) if _are_names(row.cells, len(named), form)), None)
    is_title = len(named) == 1 and at is not None
    if (
        any(numbers)
        and not is_title
        and not any(
            name and not is_number and number_of(cell, form) is not None
            for name, is_number, cell in zip(names, numbers, first, strict=False)
        )
    ):
        return WITHOUT_HEADER  # it is a row of data
    line = below.first_line - 1
    unnamed = _without_names(line, None if names[0] else "x0")
    if at is None:
        return f"; {unnamed}"
    title = rows[at].line - 1
    leaves = f"--skip-rows {title} (skip_rows={title}) leaves out what stands above line {title + 1}"
    columns = zip(*(row.cells for row in rows[at + 1 :]), strict=False)
    names_numbers = any(all(_like_number(cell, form) for cell in column) for column in columns)
    return f"; {leaves}" if is_title or names_numbers else f"; {unnamed}, or, if it is a title, {leaves}"


def _without_names(line: int, exclude: str | None) -> str:
    """Return the options that skip the header, given its last line, and leave out one column."""
    words, arguments = (f" --exclude {exclude}", f", exclude=[{exclude!r}]") if exclude else ("", "")
    told = f"--skip-rows {line} --no-header{words} (skip_rows={line}, header=False{arguments})"
    return f"{told} names the columns x0, x1, ..."


def _are_names(cells: list[str], more_than: int, form: Format) -> bool:
    """Return whether cells may be a header of more than a given number of distinct names."""
    cells = [cell.strip() for cell in cells]
    cells = cells[not cells[0] : end_of(cells)]
    return len(cells) > more_than and not fault_of(cells) and not any(_like_number(cell, form) for cell in cells)


def some(records: Iterator[Record]) -> list[Record]:
    """Return the next few records, up to the first that is not CSV."""
    found: list[Record] = []
    try:
        for record in islice(records, FIRST_ROWS):
            found.append(record)
    except TableError:
        pass
    return found


def end_of(names: list[str]) -> int:
    """Return the number of columns before the trailing nameless ones, which arise where rows end in separators."""
    return len(names) - next((j for j, name in enumerate(reversed(names)) if name), 0)


def is_blank(cells: list[str]) -> bool:
    return not cells or (len(cells) == 1 and not cells[0].strip())


def fault_of(names: Sequence[str], before: int = 0) -> str | None:
    """Return why `names` cannot name the columns after the first `before`, or None."""
    seen: set[str] = set()
    for number, name in enumerate(names, start=before + 1):
        if not name:
            return f"column {number} has no name"
        if name in seen:
            return f"two columns have the name {name!r}"
        seen.add(name)
    return None


# --- cells ------------------------------------------------------------------------------------------------------------


def _columns(
    text: Text, names: list[str], taken: list[str], empty: list[int], form: Format
) -> tuple[dict[str, Any], int]:
    """Return the cells of each requested column as Arrow strings, and the number of rows.

    Raises
    ------
    TableError
        If rows differ in width, the text is not CSV, or one of the `empty` columns is not empty.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    body, place = text.data, {name: j for j, name in enumerate(names)}
    has_mark = body.startswith(codecs.BOM_UTF8)  # of a cell: pyarrow would drop it
    if has_mark or (b'"' in body and _quoted_well(text.separator).fullmatch(body) is None):  # ambiguous
        body = _rewritten(text, len(names))
    longest = _longest_line(body)
    chosen = [*(place[name] for name in taken), *empty]
    try:
        table = _parsed(body, text.separator, names, chosen, longest)
    except (pa.ArrowException, ValueError):
        body = _rewritten(text, len(names))  # which raises an error for invalid text
        try:
            table = _parsed(body, text.separator, names, chosen, len(body))
        except (pa.ArrowException, ValueError) as error:
            raise TableError(f"{text.source}: not CSV: {' '.join(str(error).split())[:200]}") from None
    if longest > LONGEST_CELL and any(map(_is_too_long, table.columns)):
        _rewritten(text, len(names))
    for j, column in zip(empty, table.columns[len(taken) :], strict=True):
        if pc.any(pc.not_equal(pc.utf8_trim_whitespace(column), "")).as_py():
            raise TableError(f"{text.source}: column {j + 1} has no name{past_header(names, text, form)}")
    columns = {}
    for name, column in zip(taken, table.columns[: len(taken)], strict=True):
        if column.nbytes >= 1 << 31:
            column = column.cast(pa.large_string())
        columns[name] = column.combine_chunks()
    return columns, len(table)


def _parsed(body: bytes, separator: str, names: list[str], chosen: list[int], longest: int) -> Any:
    import pyarrow as pa
    from pyarrow import csv as reader

    buffer = pa.allocate_buffer(len(body))  # a buffer of Arrow's own, since its threads may release it at any time
    np.frombuffer(buffer, np.uint8)[:] = np.frombuffer(body, np.uint8)
    blocks = BLOCKS if len(names) < MANY_COLUMNS else 1
    return reader.read_csv(
        pa.BufferReader(buffer),
        read_options=reader.ReadOptions(
            column_names=list(map(str, range(len(names)))),  # there may be several unnamed columns
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
    """Return the pattern of text whose quotes enclose whole cells, which all readers read alike."""
    mark = re.escape(separator.encode())
    return re.compile(rb'(?:[^"]++|(?<![^%b\r\n])"(?:[^"]++|"")*+"(?![^%b\r\n]))*+' % (mark, mark))


def _rewritten(text: Text, width: int) -> bytes:
    """Return rows with every cell in quotes.

    Raises
    ------
    TableError
        If the text is not CSV, or a row does not have `width` cells.
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
    """Return the columns to look up in each row."""
    wanted: dict[int, list[int]] = {}
    for name, (_, rows) in places.items():
        for row in rows:
            wanted.setdefault(row, []).append(place[name])
    return wanted


def _lines(text: Text, width: int, rows: int, wanted: dict[int, list[int]]) -> dict[tuple[int, int], int]:
    """Return the line of each requested cell by row and column; the text has `rows` rows of `width` cells."""
    data = text.data
    ends = data.count(b"\n") + data.count(b"\r") - data.count(b"\r\n")
    if ends + (not data.endswith((b"\n", b"\r"))) == rows:  # so each row is one line
        return {(row, j): text.first_line + row for row, columns in wanted.items() for j in columns}
    found: dict[tuple[int, int], int] = {}
    last = max(wanted, default=-1)
    for row, record in enumerate(islice(text.records(width), last + 1)):
        if row in wanted:
            begins = cell_lines(record)
            found |= {(row, j): begins[j] for j in wanted[row]}
    return found


def cell_lines(record: Record) -> list[int]:
    """Return the line on which each cell starts, counting line breaks inside quoted cells."""
    lines, line = [], record.line
    for cell in record.cells:
        lines.append(line)
        if "\n" in cell or "\r" in cell:
            line += len(re.findall(r"\r\n|\r|\n", cell))
    return lines


# --- writing ----------------------------------------------------------------------------------------------------------


def write_rows(stream: TextStream, names: Sequence[str], cells: list[list[object]]) -> None:
    """Write a header and then the rows, given as one list of `cells` per column."""
    # Readers take a lone carriage return as a line end, and detect the separator from the header; the csv
    # module does not quote for either reason.
    texts = [*names, *(cell for column in cells for cell in column if isinstance(cell, str))]
    odd = any("\r" in text for text in texts) or any(set(name) & set(SEPARATORS) for name in names)
    if len(names) == 1:  # then readers also look at the rows, and at white space
        cut = any(set(text) & set(SEPARATORS) or text.count(" ") > 1 for text in texts)
        odd = odd or " " in names[0] or (cut and len(texts) > 2)
    writer = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_ALL if odd else csv.QUOTE_MINIMAL)
    writer.writerow(names)
    writer.writerows(zip(*cells, strict=True))


def write_file(path: Path, names: Sequence[str], cells: list[list[object]]) -> None:
    """Write rows to a file by :func:`write_rows`, atomically."""
    with replacing(path, text=True) as file:
        write_rows(file, names, cells)
