"""Read columns from the bytes of a CSV file, with line numbers in error messages, and write CSV files.

pyarrow splits the text into cells, and :mod:`deepnotes.datasets.cells` converts the cells to columns. Python's csv
module is used to find the line of an error, and to read text on which parsers disagree, such as quotes that do not
enclose whole cells.
"""

import codecs
import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from deepnotes.datasets.cells import (
    CellError,
    ColumnRequest,
    TypedColumn,
    convert,
    describe_missing,
    number_of,
    plain_numbers,
    spelling,
)
from deepnotes.datasets.csv_text import (
    SEPARATORS,
    Header,
    Text,
    are_names,
    cell_lines,
    count_lines,
    count_named,
    first_records,
    first_row,
    header_advice,
    is_numeric,
    parse_text,
    read_header,
    resolve,
    unambiguous_quotes,
    unpack,
)
from deepnotes.datasets.problems import MAX_POSITIONS, Gap, Problems
from deepnotes.datasets.reading import EVERYTHING, Content, Format, Request, index_note
from deepnotes.utils.errors import TableError

__all__ = ["NEEDS", "TextStream", "number_of", "read", "write_rows"]

NEEDS = 'pip install "deepnotes[data]"'
"""The command that installs pyarrow."""

LONGEST_CELL = 131_072
"""The largest number of characters in a cell that Python's csv module accepts."""

MIN_BLOCK, MAX_BLOCKS, MANY_COLUMNS = 1 << 20, 16, 1000
"""The smallest size of the blocks that pyarrow reads, in bytes, and the largest number of blocks.

A file with `MANY_COLUMNS` columns or more is read as one block, since each block adds a chunk to every column.
"""


class TextStream(Protocol):
    """A stream with the method that :func:`write_rows` needs."""

    def write(self, text: str, /) -> object: ...


def read(data: bytes, source: str, request: Request = EVERYTHING) -> Content:
    """Read the requested columns from `data`, the bytes of a file.

    Raises
    ------
    TableError
        If the file has an error; the message begins with `source` and the line of the first error.
    """
    require_pyarrow(source)
    size = len(data)
    problems = Problems(source)
    header, text, request = read_start(unpack(data, source), source, request, problems)
    del data
    return read_rows(text, header, request, size, problems)


def require_pyarrow(source: str) -> None:
    """Raise TableError if pyarrow is not installed."""
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise TableError(f"{source}: reading .csv files requires pyarrow: {NEEDS}") from error


def read_start(data: bytes, source: str, request: Request, problems: Problems) -> tuple[Header, Text, Request]:
    """Return the header of a text, the text below it, and the request, resolved for the columns in the header.

    Parameters
    ----------
    data : bytes
        The beginning of a file, or all of it.
    source : str
        The name of the file; error messages begin with it.
    request : Request
    problems : Problems
        Gets the problems of the header.

    Raises
    ------
    TableError
        If the text is not valid in its encoding, or has no usable header.
    """
    text = parse_text(data, source, request)
    try:
        header, text = read_header(text, request)
    except TableError as error:
        header, text = _header_despite(error, text, request, problems)
    try:
        return header, text, resolve(request, header.names, text)
    except TableError as error:
        problems.note(str(error))
        problems.check()
        raise


def read_rows(text: Text, header: Header, request: Request, size: int, problems: Problems) -> Content:
    """Read the requested columns from the rows below the header.

    Parameters
    ----------
    text : Text
        The text below the header.
    header : Header
    request : Request
        The request, resolved for the columns of this file.
    size : int
        The size of the file in bytes.
    problems : Problems
        Gets the problems of cells and rows, and becomes part of the content. A column with unreadable cells has zeros
        in their place.

    Raises
    ------
    TableError
        If the text cannot be split into rows and cells.
    """
    names, source = header.names, text.source
    notes = [
        index_note(name)
        for name in header.index_names
        if not (name and request.columns is not None) and name not in request.exclude
    ]
    chosen = [name for name in names if name and request.includes(name) and name not in header.index_names]
    if next(text.records(len(names)), None) is None:
        raise TableError(f"{source}:{header.line}: no row follows the header")
    known = [name for name in names if name]
    if not chosen:
        return Content({}, {}, {}, known, {}, notes, problems)
    try:
        columns, rows = _read_columns(text, names, chosen, request.format)
    except TableError as error:
        columns, rows = _read_columns(_rows_that_fit(error, text, len(names), problems), names, chosen, request.format)
    index_of = {name: j for j, name in enumerate(names)}
    plain = plain_numbers(columns, request)
    converted: dict[str, TypedColumn] = {}
    spelled: dict[str, NDArray[np.str_]] = {}
    gaps: dict[str, list[tuple[Gap, str]]] = {}  # with remedies
    for name in chosen:
        cells, options = columns.pop(name), ColumnRequest(name, request, f"{source}: column {name!r}", size)
        try:
            column = plain.get(name) or convert(cells, options)
            if name in request.spelled:
                spelled[name] = spelling(cells, column.missing, options)
        except CellError as error:
            is_missing = np.zeros(rows, np.bool_) if error.missing is None else error.missing
            column = TypedColumn(np.where(is_missing, np.nan, 0.0), is_missing)
            gaps.setdefault(name, []).append((_gap(error.invalid, error.message, "unreadable"), error.hint))
        except TableError as error:
            column = TypedColumn(np.zeros(rows))
            problems.note(str(error))
        converted[name] = column
        if column.missing is not None:
            cell = cells[int(np.argmax(column.missing))].as_py().strip()
            description = describe_missing(cell, column.column, request.format)
            gaps.setdefault(name, []).append((_gap(column.missing, description, "missing"), ""))
    missing = _report_gaps(gaps, text, names, rows, problems)
    first_lines = cell_lines(next(row for row in text.records(len(names)) if len(row.cells) == len(names)))
    return Content(
        {name: column.column for name, column in converted.items()},
        {name: first_lines[index_of[name]] for name in chosen},
        missing,
        known,
        spelled,
        notes,
        problems,
    )


def _gap(mask: NDArray[np.bool_], description: str, state: str) -> Gap:
    """Return a Gap whose positions are the rows where the mask is true, counted from 0."""
    rows = np.flatnonzero(mask)
    return Gap(len(rows), rows[:MAX_POSITIONS].tolist(), description, True, state)


def _report_gaps(
    gaps: dict[str, list[tuple[Gap, str]]], text: Text, names: list[str], rows: int, problems: Problems
) -> dict[str, Gap]:
    """Return the missing values of each column that has any, and add unreadable ones to the problems.

    Parameters
    ----------
    gaps : dict of str to list of (Gap, str)
        For each column, its gaps and their remedies; the positions are rows, counted from 0, and become lines.
    text : Text
        The text below the header.
    names : list of str
        The names of all columns.
    rows : int
        The number of rows.
    problems : Problems
    """
    index_of = {name: j for j, name in enumerate(names)}
    wanted: dict[int, list[int]] = {}
    for name, of_column in gaps.items():
        for row in {row for gap, _ in of_column for row in gap.positions}:
            wanted.setdefault(row, []).append(index_of[name])
    lines = _find_lines(text, len(names), rows, wanted)
    missing: dict[str, Gap] = {}
    for name, of_column in gaps.items():
        for gap, remedy in of_column:
            placed = replace(gap, positions=[lines[row, index_of[name]] for row in gap.positions])
            if gap.state == "missing":
                missing[name] = placed
            else:
                problems.add(name, placed, remedy)
    return missing


def _header_despite(error: TableError, text: Text, request: Request, problems: Problems) -> tuple[Header, Text]:
    """Return a header that :func:`read_header` has refused with `error`, and the text below it, to find more problems.

    This is possible if the header only has repeated names, or if some of the first rows do not fit it. Each repeated
    name gets the number of its column, and becomes a problem; rows that do not fit are left to :func:`read_rows`.

    Raises
    ------
    TableError
        `error`, if the header has another fault, or may be a title or the first row of the data.
    """
    form = request.format
    try:
        first, lines = first_row(text)
        names, below = [cell.strip() for cell in first.cells], text.after(lines)
        rows = first_records(below.records(len(names)))
    except TableError:
        raise error from None
    fitting = sum(len(row.cells) == len(names) for row in rows)
    first_columns = {name: j for j, name in reversed(list(enumerate(names)))}
    repeated = list(dict.fromkeys(name for j, name in enumerate(names) if first_columns[name] != j))
    is_header = form.header and all(names) and not any(is_numeric(name, form) for name in names)
    if not is_header or 2 * fitting <= len(rows) or not (repeated or _is_about_width(error, len(names))):
        raise error
    if repeated and (len(set(names)) == 1 or any(are_names(row.cells, len(set(names)), form) for row in rows)):
        raise error  # the first row may be a title
    for name in repeated:
        first_one = name == repeated[0]
        problems.note(str(error) if first_one else f"{text.source}:{first.line}: two columns have the name {name!r}")
    unique = [name if first_columns[name] == j else f"{name} (column {j + 1})" for j, name in enumerate(names)]
    if len(set(unique)) < len(unique):
        raise error
    return Header(unique, [], first.line), below


def _is_about_width(error: TableError, width: int) -> bool:
    """Return whether an error is about a row whose width differs from that of the header."""
    return f" where the header has {width}" in str(error)


def _rows_that_fit(error: TableError, text: Text, width: int, problems: Problems) -> Text:
    """Return the rows of a text that have `width` cells, and add the others to the problems.

    Raises
    ------
    TableError
        `error`, if it is not about the width of rows, or most rows do not fit, so that the header may be at fault.
    """
    if not _is_about_width(error, width):
        raise error
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_ALL, delimiter=text.separator)
    fitting, others = 0, 0
    positions: list[int] = []
    for row in text.records(width):
        if len(row.cells) == width:
            writer.writerow(row.cells)
            fitting += 1
        else:
            if others == 0 and fitting > 1:  # there is a header with rows below it, so that is not a title
                cut = str(error).rindex(f" where the header has {width}") + len(f" where the header has {width}")
                error = TableError(str(error)[:cut])
            others += 1
            positions += [row.line] if len(positions) < MAX_POSITIONS else []
    if fitting <= others:
        raise error
    more = ""
    if others > 1:
        dots = ", ..." if others > len(positions) else ""
        rows, unit = ("one more row does", "line") if others == 2 else (f"{others - 1:,} more rows do", "lines")
        more = f"; {rows} not fit, in {unit} {', '.join(map(str, positions[1:]))}{dots}"
    problems.note(f"{error}{more}; correct or remove {'this row' if others == 1 else 'these rows'}")
    return Text(stream.getvalue().encode(), text.source, text.separator)


# --- text -------------------------------------------------------------------------------------------------------------


def _read_columns(text: Text, names: list[str], chosen: list[str], form: Format) -> tuple[dict[str, Any], int]:
    """Return the cells of each chosen column as Arrow strings, and the number of rows.

    Raises
    ------
    TableError
        If rows differ in width, the text is not CSV, or a column without a name at the end is not empty.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    body, index_of = text.data, {name: j for j, name in enumerate(names)}
    nameless = range(count_named(names), len(names))
    begins_with_mark = body.startswith(codecs.BOM_UTF8)  # part of the first cell here, but pyarrow would drop it
    if begins_with_mark or (b'"' in body and unambiguous_quotes(text.separator).fullmatch(body) is None):
        body = _quote_all(text, len(names))
    longest = _longest_line(body)
    numbers = [*(index_of[name] for name in chosen), *nameless]
    try:
        table = _parse(body, text.separator, names, numbers, longest)
    except (pa.ArrowException, ValueError):
        body = _quote_all(text, len(names))  # raises an error if the text is invalid
        try:
            table = _parse(body, text.separator, names, numbers, len(body))
        except (pa.ArrowException, ValueError) as error:
            raise TableError(f"{text.source}: not CSV: {' '.join(str(error).split())[:200]}") from None
    if longest > LONGEST_CELL and any(map(_is_too_long, table.columns)):
        _quote_all(text, len(names))  # raises an error that names the line of the cell
    for j, column in zip(nameless, table.columns[len(chosen) :], strict=True):
        if pc.any(pc.not_equal(pc.utf8_trim_whitespace(column), "")).as_py():
            raise TableError(f"{text.source}: column {j + 1} has no name{header_advice(names, text, form)}")
    columns = {}
    for name, column in zip(chosen, table.columns[: len(chosen)], strict=True):
        if column.nbytes >= 1 << 31:
            column = column.cast(pa.large_string())
        columns[name] = column.combine_chunks()
    return columns, len(table)


def _parse(body: bytes, separator: str, names: list[str], chosen: list[int], longest: int) -> Any:
    """Return some columns as an Arrow table.

    Parameters
    ----------
    body : bytes
        The rows below the header.
    separator : str
    names : list of str
        The names of all columns.
    chosen : list of int
        The indices of the columns to return.
    longest : int
        The length of the longest line in bytes.
    """
    import pyarrow as pa
    from pyarrow import csv as reader

    buffer = pa.allocate_buffer(len(body))  # owned by Arrow, since Arrow's threads may release it at any time
    np.frombuffer(buffer, np.uint8)[:] = np.frombuffer(body, np.uint8)
    blocks = MAX_BLOCKS if len(names) < MANY_COLUMNS else 1
    return reader.read_csv(
        pa.BufferReader(buffer),
        read_options=reader.ReadOptions(
            column_names=list(map(str, range(len(names)))),  # there may be several unnamed columns
            use_threads=len(body) > MIN_BLOCK,
            block_size=min(max(MIN_BLOCK, 2 * longest, len(body) // blocks + 1), (1 << 31) - 1),
        ),
        parse_options=reader.ParseOptions(delimiter=separator, newlines_in_values=b'"' in body),
        convert_options=reader.ConvertOptions(
            column_types={str(j): pa.string() for j in chosen},
            include_columns=list(map(str, chosen)),
            strings_can_be_null=False,
            quoted_strings_can_be_null=False,
        ),
    )


def _quote_all(text: Text, width: int) -> bytes:
    """Return the text with every cell in quotes, as Python's csv module reads it.

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
    """Return the length of the longest line in bytes."""
    last, longest, step = -1, 0, 1 << 24
    for start in range(0, len(data), step):
        part = np.frombuffer(data, np.uint8, min(step, len(data) - start), start)
        ends = np.flatnonzero((part == 10) | (part == 13)) + start
        if len(ends):
            longest = max(longest, int(ends[0]) - last, int(np.diff(ends).max(initial=0)))
            last = int(ends[-1])
    return max(longest, len(data) - last)


def _is_too_long(column: Any) -> bool:
    """Return whether a column has a cell that is longer than Python's csv module accepts."""
    import pyarrow.compute as pc

    return bool((pc.max(pc.utf8_length(column)).as_py() or 0) > LONGEST_CELL)


# --- lines ------------------------------------------------------------------------------------------------------------


def _find_lines(text: Text, width: int, rows: int, wanted: dict[int, list[int]]) -> dict[tuple[int, int], int]:
    """Return the lines on which the wanted cells start.

    Parameters
    ----------
    text : Text
        The text below the header.
    width : int
        The number of cells in each row.
    rows : int
        The number of rows.
    wanted : dict of int to list of int
        For each row with wanted cells, the indices of their columns.

    Returns
    -------
    dict of (int, int) to int
        The line for each row and column.
    """
    data = text.data
    if count_lines(data) + (not data.endswith((b"\n", b"\r"))) == rows:  # each row is one line
        return {(row, j): text.first_line + row for row, columns in wanted.items() for j in columns}
    lines: dict[tuple[int, int], int] = {}
    last = max(wanted, default=-1)
    fitting = (record for record in text.records(width) if len(record.cells) == width)  # as columns have their cells
    for row, record in enumerate(islice(fitting, last + 1)):
        if row in wanted:
            starts = cell_lines(record)
            lines |= {(row, j): starts[j] for j in wanted[row]}
    return lines


def write_rows(stream: TextStream, names: Sequence[str], cells: list[list[object]], header: bool = True) -> None:
    """Write a header and rows as CSV.

    Parameters
    ----------
    stream : TextStream
    names : sequence of str
        The header.
    cells : list of list
        The values of each column.
    header : bool, default True
        Whether to write the header; rows that follow other rows have none.
    """
    # Parsers read a carriage return alone as a line end, and detect the separator by the header. Python's csv module
    # adds quotes for neither reason.
    texts = [*names, *(cell for column in cells for cell in column if isinstance(cell, str))]
    needs_quotes = any("\r" in text for text in texts) or any(set(name) & set(SEPARATORS) for name in names)
    if len(names) == 1:  # parsers then look for separators in the rows as well, and for white space
        may_be_split = any(set(text) & set(SEPARATORS) or text.count(" ") > 1 for text in texts)
        needs_quotes = needs_quotes or " " in names[0] or (may_be_split and len(texts) > 2)
    writer = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_ALL if needs_quotes else csv.QUOTE_MINIMAL)
    if header:
        writer.writerow(names)
    writer.writerows(zip(*cells, strict=True))
