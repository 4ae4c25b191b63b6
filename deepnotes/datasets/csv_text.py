"""The text of a CSV file: its encoding, separator, records and header, and advice on what is wrong with a header."""

import codecs
import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import NamedTuple

from deepnotes.datasets.cells import MISSING, number_of
from deepnotes.datasets.reading import NAME_FIELDS, WHITESPACE, Format, Request, require_memory
from deepnotes.utils.errors import TableError
from deepnotes.utils.wording import join_names, reason

SEPARATORS = ",;\t|"
"""The separators that are tried, in this order, if no separator is given."""

GZIP, CELL_ENDS = b"\x1f\x8b", b",;\t| \r\n"
"""The first two bytes of a gzip file, and the bytes that may follow a cell."""

HEAD = 1 << 16
"""The number of bytes at the beginning of a file from which the separator is detected."""

FIRST_ROWS = 20
"""The number of rows from which the separator, or the cause of a faulty header, is detected."""

WITHOUT_HEADER = "; if there is no header, use --no-header (header=False) to name the columns x0, x1, ..."

BY_WHITE_SPACE = (
    "; use --separator whitespace (separator='whitespace') to split them, or --separator ',' to read one column"
)

OTHER_ENCODINGS = "; for another encoding, such as latin-1 or utf-16, use --encoding (encoding=)"
"""Ends of error messages: the options for files without a header, separated by white space, or not in UTF-8."""

LINE_END = re.compile(rb"\r\n|\r|\n")
"""The pattern of a line end."""

PANDAS_INDEX = re.compile(r"Unnamed: [0-9]+(\.[0-9]+)*")
"""The pattern of pandas' names for an unnamed index that was written to CSV and read back, once or repeatedly."""

SEPARATOR_LINE = re.compile(rb"sep=([!#-/:-@[-^`{-~]|\t)[ \t]*(?:\r\n|\r|\n)", re.IGNORECASE)
"""The line at the beginning of a file in which Excel states the separator."""


class Record(NamedTuple):
    """A row of cells, and the line on which it starts."""

    line: int
    cells: list[str]


class Header(NamedTuple):
    """The header of a file.

    Attributes
    ----------
    names : list of str
        The names of all columns, with an empty string for a column without a name.
    index_names : list of str
        The names of the columns at the beginning that hold an index.
    line : int
        The line on which the header starts.
    """

    names: list[str]
    index_names: list[str]
    line: int


@dataclass(frozen=True)
class Text:
    """The text of a file, or the part of it that begins on a certain line.

    Parameters
    ----------
    data : bytes
        The text in UTF-8, without a byte order mark.
    source : str
        The name of the file; error messages begin with it.
    separator : str
        The separator of cells.
    first_line : int
        The line of the file on which `data` begins.
    is_continued : bool
        Whether the header is in an earlier part of the file, and so cannot be at fault.
    """

    data: bytes
    source: str
    separator: str
    first_line: int = 1
    is_continued: bool = False

    def records(self, width: int = 0) -> Iterator[Record]:
        """Yield the rows, except blank ones; if `width` is 1, a line of white space is a row with one cell.

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
        """Yield the rows, which must all have `width` cells.

        Raises
        ------
        TableError
            If the text is not CSV, or a row has a different number of cells.
        """
        records = self.records(width)
        last: list[Record] = []
        for number, row in enumerate(records):
            if len(row.cells) != width:
                count = "1 cell" if len(row.cells) == 1 else f"{len(row.cells)} cells"
                rest = [*last, row, *first_records(records)]
                hint = "" if self.is_continued else title_advice(self, width, number - len(last), rest)
                raise TableError(f"{self.source}:{row.line}: {count} where the header has {width}{hint}")
            yield row
            last = [row]

    def after(self, lines: int) -> "Text":
        """Return the text after the first `lines` lines."""
        if not lines:
            return self
        ends = [match.end() for match in islice(LINE_END.finditer(self.data), min(lines, len(self.data)))]
        rest = self.data[ends[-1] :] if len(ends) == lines else b""
        return Text(rest, self.source, self.separator, self.first_line + lines)


def unpack(data: bytes, source: str) -> bytes:
    """Decompress `data` if it is the content of a gzip file; return any other data unchanged.

    Raises
    ------
    TableError
        If the gzip file is damaged, or its text would take much more memory than its size allows.
    """
    if not data.startswith(GZIP):
        return data
    needed = 0
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            while part := file.read(1 << 20):
                cells = len(part) - len(part.translate(None, CELL_ENDS))
                needed += len(part) + 8 * cells
                require_memory(needed, len(data), f"{source}: its text", "unpack it with gunzip")
            file.seek(0)
            return file.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TableError(f"{source}: the gzip file is damaged: {reason(error)}") from error


def parse_text(data: bytes, source: str, request: Request) -> Text:
    """Decode the text of a file, remove skipped lines and comments, and determine the separator.

    Raises
    ------
    TableError
        If the text is not valid in its encoding, or only white space separates its cells.
    """
    form, separator = request.format, request.format.separator
    is_utf8 = codecs.lookup(form.encoding).name == "utf-8"
    data = (data if is_utf8 else _to_utf8(data, source, form.encoding)).removeprefix(codecs.BOM_UTF8)
    if separator_line := SEPARATOR_LINE.match(data):
        separator = separator or separator_line[1].decode()
    text = Text(data, source, "").after(max(form.skip_rows, 1 if separator_line else 0))
    data, line = text.data, text.first_line
    if is_utf8:
        require_text(data, source, line)
    if form.comment is not None:
        mark = re.escape(form.comment.encode())
        data = re.sub(rb'("(?:[^"]|"")*")|' + mark + rb"[^\r\n]*", rb"\1", data)
    if separator == WHITESPACE:
        data, separator = _replace_whitespace(data), "\t"
    return Text(data, source, separator or detect_separator(data, source, form), line)


def _replace_whitespace(data: bytes) -> bytes:
    """Replace each run of spaces and tabs outside quotes by one tab, and remove those at both ends of a line."""
    data = re.sub(rb"(?m)^[ \t]+|[ \t]+(?=\r|$)", b"", data)
    return re.sub(rb'("(?:[^"]|"")*")|[ \t]+', lambda match: match[1] or b"\t", data)


def _to_utf8(data: bytes, source: str, encoding: str) -> bytes:
    """Convert text in another encoding to UTF-8.

    Raises
    ------
    TableError
        If the text is not valid in the encoding, or contains NUL.
    """
    try:
        text = data.decode(encoding)
    except UnicodeError as error:
        start = getattr(error, "start", 0)
        line = 1 + len(LINE_END.findall(data[:start]))
        raise TableError(f"{source}:{line}: byte 0x{data[start]:02x} is not text in the encoding {encoding}") from None
    if "\0" in text:
        line = 1 + len(re.findall("\r\n|\r|\n", text[: text.index("\0")]))
        raise TableError(f"{source}:{line}: NUL is not text in the encoding {encoding}")
    return text.encode("utf-8", "replace")


def require_text(data: bytes, source: str, first_line: int) -> None:
    """Raise TableError if `data` is not UTF-8 text or contains NUL; it begins on line `first_line` of the file."""
    invalid = data.find(b"\0")
    decoder, step = codecs.getincrementaldecoder("utf-8")(), 1 << 20
    for start in range(0, len(data), step):
        part = data[start : start + step]
        try:
            before = len(decoder.getstate()[0])
            decoder.decode(part, start + step >= len(data))
        except UnicodeDecodeError as error:
            position = start - before + error.start
            invalid = position if invalid < 0 else min(invalid, position)
            break
    if invalid >= 0:
        line = first_line + len(LINE_END.findall(data[:invalid]))
        hint = OTHER_ENCODINGS if data[invalid] else ""
        raise TableError(
            f"{source}:{line}: byte 0x{data[invalid]:02x} is not UTF-8 text, which a .csv file must be{hint}"
        )


def detect_separator(data: bytes, source: str, form: Format) -> str:
    """Return the separator that splits the first rows into equal numbers of cells.

    Of several such separators, return the one with which the header has the most cells.

    Raises
    ------
    TableError
        If only white space splits the rows into equal numbers of cells.
    """
    head, is_cut = data[:HEAD], len(data) > HEAD
    rows = {separator: _first_rows(head, separator, is_cut) for separator in SEPARATORS}
    widths = {separator: [len(row) for row in first] for separator, first in rows.items() if first}
    ranks = {separator: (_rate_fit(sizes), sizes[0]) for separator, sizes in widths.items() if sizes[0] > 1}
    best = max(ranks, key=lambda separator: ranks[separator], default=",")  # the first of several equal ones
    rank, _ = ranks.get(best, (0, 0))
    if rank > 1:
        return best
    titled = {
        separator: (sizes[-1], -_count_title_rows(sizes)) for separator, sizes in widths.items() if _has_title(sizes)
    }
    if "\t" not in titled and _is_whitespace_table(_first_rows(_replace_whitespace(head), "\t", is_cut), form):
        fault = "no separator was found, but white space splits all rows into equal numbers of cells"
        raise TableError(f"{source}: {fault}{BY_WHITE_SPACE}")
    return max(titled, key=lambda separator: titled[separator], default=best if rank else ",")


def _first_rows(head: bytes, separator: str, is_cut: bool) -> list[list[str]]:
    """Return the first rows that are not blank, or an empty list if the text is not CSV.

    If `is_cut`, the text may end within a row, so the last row is left out.
    """
    stream = io.StringIO(head.decode("utf-8", "ignore"), newline="")
    rows = csv.reader(stream, skipinitialspace=True, delimiter=separator)
    try:
        first = list(islice((cells for cells in rows if not is_blank(cells)), FIRST_ROWS))
    except csv.Error:
        return []
    return first[:-1] if is_cut and len(first) > 1 else first


def _rate_fit(widths: list[int]) -> int:
    """Rate how well the rows fit the header, the first of `widths`.

    Returns
    -------
    int
        3 if all rows have the width of the header, 2 if all have one cell more, 1 if at least half of them have the
        width of the header, else 0.
    """
    width, *others = widths
    if set(others) <= {width}:
        return 3
    return 2 if set(others) == {width + 1} else int(2 * others.count(width) >= len(others))


def _count_title_rows(widths: Sequence[int]) -> int:
    """Return the number of rows above the longest group of rows at the end that all have the same width."""
    return len(widths) - next((n for n, width in enumerate(reversed(widths)) if width != widths[-1]), len(widths))


def _has_title(widths: Sequence[int]) -> bool:
    """Return whether the first rows may be a title: below them are at least as many rows, all of the same width."""
    title = _count_title_rows(widths)
    return 0 < title <= len(widths) - title > 1


def _is_whitespace_table(rows: list[list[str]], form: Format) -> bool:
    """Return whether rows that were split at white space are a table rather than a column of phrases."""
    widths = list(map(len, rows))
    title = _count_title_rows(widths)
    body = rows[title + 1 :]
    if not body or (title and not _has_title(widths)) or widths[-1] < (3 if title else 2) or form.thousands == " ":
        return False
    if any(cell.endswith(tuple(SEPARATORS)) for row in body for cell in row):
        return False
    has_numbers = any(all(is_numeric(row[j], form) for row in body) for j in range(widths[-1]))
    return has_numbers or (widths[-1] > 2 and not title)


def is_numeric(cell: str, form: Format) -> bool:
    """Return whether a cell is a number or a spelling of a missing value."""
    return number_of(cell, form) is not None or cell.strip().lower() in MISSING


# --- the header -------------------------------------------------------------------------------------------------------


def read_header(text: Text, request: Request) -> tuple[Header, Text]:
    """Return the header of a text, and the text of the rows below it.

    Raises
    ------
    TableError
        If the file has no usable header.
    """
    form = request.format
    first, lines = first_row(text)
    if first.cells and not form.header:
        return Header([f"x{j}" for j in range(len(first.cells))], [], first.line), text
    names = [cell.strip() for cell in first.cells]
    place = f"{text.source}:{first.line}"
    if not names:
        skipped = form.skip_rows
        fault = f"nothing follows the {skipped:,} skipped lines" if skipped else "the file is empty"
        raise TableError(f"{place}: {fault}, wanted a header row and rows below it")
    below = text.after(lines)
    if all(number_of(name) is not None for name in names):
        raise TableError(
            f"{place}: the first row must hold the column names, but it holds numbers: {join_names(names)}"
            f"{numbers_advice(len(names), below)}"
        )
    if _has_row_names(names, below, form):
        names = ["", *names]
    first_named = next((j for j, name in enumerate(names) if name), 0)  # pandas writes an empty name above an index
    if problem := name_fault(names[first_named : count_named(names)], first_named):
        raise TableError(f"{place}: {problem}{header_advice(names, below, form)}")
    _require_fit(names, below, form)
    index = takewhile(lambda name: PANDAS_INDEX.fullmatch(name) and not request.mentions(name), names[first_named:-1])
    return Header(names, [""] * min(first_named, 1) + list(index), first.line), below


def first_row(text: Text) -> tuple[Record, int]:
    """Return the first row that is not blank, and the number of lines up to its end.

    If all rows are blank, return a row without cells.
    """
    stream = io.TextIOWrapper(io.BytesIO(text.data), encoding="utf-8", newline="")
    reader = csv.reader(stream, strict=True, skipinitialspace=text.separator != " ", delimiter=text.separator)
    line = text.first_line
    try:
        for cells in reader:
            if not is_blank(cells):
                return Record(line, cells), reader.line_num
            line = text.first_line + reader.line_num
    except csv.Error as error:
        hint = line_advice(line)
        raise TableError(f"{text.source}:{line}: the row that starts here is not CSV: {error}{hint}") from error
    return Record(1, []), reader.line_num


def _has_row_names(names: list[str], below: Text, form: Format) -> bool:
    """Return whether the rows begin with row names: each has one cell more than the header, as in files written by R.

    Two other causes of the additional cell are ruled out: a separator at the end of each row (the last cell is then
    empty), and a title of one cell above a header of two cells.
    """
    first: list[list[str]] = []
    has_row_names = not names[-1]
    for row in below.records(len(names) + 1):
        if len(row.cells) != len(names) + 1:
            return False
        has_row_names = has_row_names or bool(row.cells[-1].strip())
        if len(first) < 2:
            first.append(row.cells)
    if len(first) == 2 and not any(cell.strip() and is_numeric(cell, form) for cell in first[0]):
        has_row_names = has_row_names and all(number_of(cell, form) is None for cell in first[1])
    return bool(first) and has_row_names


def _require_fit(names: list[str], below: Text, form: Format) -> None:
    """Raise TableError if the first rows do not have the width of the header, or have values in columns without a name.

    In these cases, the supposed header may be a title. This error says so; an error about an unknown column would not.
    """
    end = count_named(names)
    filled = [
        j for row in islice(below.rows(len(names)), FIRST_ROWS) for j in range(end, len(names)) if row.cells[j].strip()
    ]
    if filled:
        raise TableError(f"{below.source}: column {min(filled) + 1} has no name{header_advice(names, below, form)}")


def resolve(request: Request, names: list[str], below: Text) -> Request:
    """Resolve the request for a file with these column names; an error names the line that may be the real header.

    Raises
    ------
    TableError, ArgumentError
        As :meth:`Request.resolve`.
    """
    try:
        return request.resolve(below.source, [name for name in names if name])
    except TableError as error:
        wanted = {name for argument in NAME_FIELDS for name in getattr(request, argument) or () if name not in names}
        for row in first_records(below.records(len(names))) if request.format.header else ():
            if matches := wanted.intersection(cell.strip() for cell in row.cells):
                name, line = min(matches), row.line - 1
                hint = f"line {row.line} has {name!r}; if it is the header, skip the lines above it with"
                raise TableError(f"{error}; {hint} --skip-rows {line} (skip_rows={line})") from None
        raise


def line_advice(line: int) -> str:
    """Return the end of an error message: how to skip the first `line` lines, which cannot be a header."""
    return f"; if it is a title, skip it with --skip-rows {line} (skip_rows={line})"


def title_advice(below: Text, width: int, number: int, rows: list[Record]) -> str:
    """Return the end of an error message: the options to use if the width of some rows differs from the header's.

    Parameters
    ----------
    below : Text
        The text below the header.
    width : int
        The width of the header and of the first rows below it.
    number : int
        The number of these rows.
    rows : list of Record
        The next rows, of which at least one has a different width.
    """
    widths = [width] * (number + 1) + [len(row.cells) for row in rows]
    if number == 0 and set(widths[1:]) == {width + 1} and not any(row.cells[-1].strip() for row in rows):
        options = _no_header_options(below.first_line - 1, f"x{width}")
        return f"; the rows end in a separator, but the header does not: {options}"
    start = _count_title_rows(widths) - number - 1
    if number > FIRST_ROWS or start < 0 or not _has_title(widths):
        return ""
    if start and len(rows[start - 1].cells) == widths[-1] - 1:  # maybe the header, above rows with row names
        forms = Format(), Format(decimal=",")
        is_header, is_next_header = (
            all(are_names(row.cells, 0, form) for form in forms) for row in rows[start - 1 : start + 1]
        )
        start -= is_header and not is_next_header
    line = rows[start].line - 1
    return f"; if the text above line {line + 1} is a title, skip it with --skip-rows {line} (skip_rows={line})"


def numbers_advice(width: int, below: Text) -> str:
    """Return the end of an error message: the option to use if the first row, which may be a title, holds numbers."""
    return title_advice(below, width, 0, first_records(below.records(width))) or WITHOUT_HEADER


def header_advice(names: list[str], below: Text, form: Format) -> str:
    """Return the end of an error message: the options to use if the header has repeated or empty names."""
    rows = first_records(below.records(len(names)))
    first = rows[0].cells if rows else names
    numbers = [number_of(name, form) is not None for name in names]
    named = {name for name in names if name}
    header_row = next((i for i, row in enumerate(rows) if are_names(row.cells, len(named), form)), None)
    is_title = len(named) == 1 and header_row is not None
    if (
        any(numbers)
        and not is_title
        and not any(
            name and not is_number and number_of(cell, form) is not None
            for name, is_number, cell in zip(names, numbers, first, strict=False)
        )
    ):
        return WITHOUT_HEADER  # the first row is data
    without_header = _no_header_options(below.first_line - 1, None if names[0] else "x0")
    if header_row is None:
        return f"; {without_header}"
    title = rows[header_row].line - 1
    without_title = f"skip the text above line {title + 1} with --skip-rows {title} (skip_rows={title})"
    columns = zip(*(row.cells for row in rows[header_row + 1 :]), strict=False)
    has_numbers = any(all(is_numeric(cell, form) for cell in column) for column in columns)
    if is_title or has_numbers:
        return f"; {without_title}"
    return f"; {without_header}, or, if it is a title, {without_title}"


def _no_header_options(line: int, exclude: str | None) -> str:
    """Return advice to skip the first `line` lines, which include the header, and to leave out the column `exclude`."""
    option, argument = (f" --exclude {exclude}", f", exclude=[{exclude!r}]") if exclude else ("", "")
    options = f"--skip-rows {line} --no-header{option} (skip_rows={line}, header=False{argument})"
    return f"use {options} to name the columns x0, x1, ..."


def are_names(cells: list[str], more_than: int, form: Format) -> bool:
    """Return whether the cells may be a header with more than `more_than` names, all distinct."""
    cells = [cell.strip() for cell in cells]
    cells = cells[not cells[0] : count_named(cells)]
    return len(cells) > more_than and not name_fault(cells) and not any(is_numeric(cell, form) for cell in cells)


def first_records(records: Iterator[Record]) -> list[Record]:
    """Return the next few records, or only those before the first one that is not CSV."""
    first: list[Record] = []
    try:
        for record in islice(records, FIRST_ROWS):
            first.append(record)
    except TableError:
        pass
    return first


def count_named(names: list[str]) -> int:
    """Return the number of columns up to the last named one; if rows end in a separator, unnamed columns follow."""
    return len(names) - next((j for j, name in enumerate(reversed(names)) if name), 0)


def is_blank(cells: list[str]) -> bool:
    """Return whether a row has no cells, or only one cell of white space."""
    return not cells or (len(cells) == 1 and not cells[0].strip())


def name_fault(names: Sequence[str], before: int = 0) -> str | None:
    """Return what is wrong with the names of columns, or None if they can be used.

    Parameters
    ----------
    names : sequence of str
    before : int
        The number of columns that precede the columns with these names.
    """
    seen: set[str] = set()
    for number, name in enumerate(names, start=before + 1):
        if not name:
            return f"column {number} has no name"
        if name in seen:
            return f"two columns have the name {name!r}"
        seen.add(name)
    return None


# --- cells ------------------------------------------------------------------------------------------------------------


def unambiguous_quotes(separator: str) -> re.Pattern[bytes]:
    """Return the pattern of text in which quotes enclose whole cells only, so that all parsers read it alike."""
    mark = re.escape(separator.encode())
    return re.compile(rb'(?:[^"]++|(?<![^%b\r\n])"(?:[^"]++|"")*+"(?![^%b\r\n]))*+' % (mark, mark))


def count_lines(data: bytes) -> int:
    """Return the number of line ends in a text."""
    return data.count(b"\n") + data.count(b"\r") - data.count(b"\r\n")


def cell_lines(record: Record) -> list[int]:
    """Return the line on which each cell of a row starts; quoted cells may contain line breaks."""
    lines, line = [], record.line
    for cell in record.cells:
        lines.append(line)
        if "\n" in cell or "\r" in cell:
            line += len(re.findall(r"\r\n|\r|\n", cell))
    return lines


# --- writing ----------------------------------------------------------------------------------------------------------
