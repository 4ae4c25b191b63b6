"""CSV files read by pyarrow: many times faster than :mod:`deepnotes.csv_files`, and to the same result.

Whatever pyarrow might read in another way, or refuse, is left to the other reader, which also words every error.
"""

import csv
import io
import re
from itertools import islice
from typing import Any

import numpy as np

from deepnotes import csv_files
from deepnotes.errors import TableError
from deepnotes.readings import EVERYTHING, MOST_PLACES, Column, Content, Gap, Request, has_room, missing_in

HEAD = 1 << 20
"""Bytes that are looked at to see which columns are of numbers."""

LONGEST_CELL = 131_072
"""Characters of a cell that Python's csv module takes."""

QUOTED_WELL = re.compile(rb'(?:[^"]++|(?<![^,\r\n])"(?:[^"]++|"")*+"(?![^,\r\n]))*+')
"""Text whose quotes enclose whole cells, so that no two readers differ about it."""

MISSING = sorted({form for token in csv_files.MISSING for form in (token, token.upper(), token.title())} | {"NaN"})
"""The usual ways to write them; others are no numbers to pyarrow, and so left to the other reader."""


def read(data: bytes, source: str, request: Request = EVERYTHING) -> Content | None:
    """Return what :func:`deepnotes.csv_files.read` returns, or None where that reader has to be asked.

    Raises
    ------
    ImportError
        Without pyarrow.
    """
    import pyarrow as pa
    from pyarrow import csv as reader

    begun = _begin(data, request)
    if begun is None:
        return None
    names, first_line, numeric, body_at = begun
    taken = [name for name in names if name in numeric]
    quoted = b'"' in data
    body = pa.allocate_buffer(len(data) - body_at)  # Arrow's own: its threads may let go of it at any time
    np.frombuffer(body, np.uint8)[:] = np.frombuffer(data, np.uint8, offset=body_at)
    try:
        table = reader.read_csv(
            pa.BufferReader(body),
            read_options=reader.ReadOptions(column_names=names, use_threads=True),
            parse_options=reader.ParseOptions(newlines_in_values=quoted),
            convert_options=reader.ConvertOptions(
                column_types={name: pa.float64() if numeric[name] else pa.string() for name in taken},
                include_columns=taken,
                null_values=MISSING,
                strings_can_be_null=False,
            ),
        )
    except (pa.ArrowException, ValueError):
        return None
    columns: dict[str, Column] = {}
    for name in taken:
        column = _numbers(table[name]) if numeric[name] else _text(table[name], len(data))
        if column is None:
            return None
        columns[name] = column
    gaps = _gaps(columns, names, data, first_line, quoted)
    if gaps is None:
        return None
    return Content(columns, dict.fromkeys(taken, first_line), gaps, names)


def _begin(data: bytes, request: Request) -> tuple[list[str], int, dict[str, bool], int] | None:
    """Return names, the line of the first row, which columns are of numbers, and where rows begin; None if unsure."""
    if data.count(b"\r") != data.count(b"\r\n") or _has_long_line(data):
        return None
    if b'"' in data and not QUOTED_WELL.fullmatch(data.removeprefix(b"\xef\xbb\xbf")):
        return None
    head = io.TextIOWrapper(io.BytesIO(data[:HEAD]), encoding="utf-8-sig", errors="replace", newline="")
    rows = csv.reader(head, strict=True, skipinitialspace=True)
    try:
        header = next(row for row in rows if row and not csv_files.is_blank(row))
        lines = rows.line_num
        names = csv_files.header_names(header, "")
        request.require_known("", names)
        cells = list(islice((row for row in rows if row), csv_files.CHUNK_ROWS))
    except (csv.Error, StopIteration, TableError):
        return None
    if len(names) < 2 or not cells or any(len(row) != len(names) for row in cells[:-1]):
        return None  # a blank line of a file with one column may be a missing value, or nothing
    if len(cells[0]) != len(names) or any("\n" in cell for cell in cells[0]):
        return None  # or the first values stand on several lines
    if len(data) > HEAD or len(cells[-1]) != len(names):
        del cells[-1]  # it may be cut short
    body_at = 0
    for _ in range(lines):
        body_at = data.index(b"\n", body_at) + 1
    blank = len(data) - body_at - len(data[body_at:].lstrip(b"\r\n"))
    first_line = lines + 1 + data.count(b"\n", body_at, body_at + blank)
    numeric: dict[str, bool] = {}
    for j, name in enumerate(names):
        if not request.takes(name):
            continue
        first = next((c for row in cells if (c := row[j].strip()).lower() not in csv_files.MISSING), None)
        if first is None and name not in request.text:
            return None
        numeric[name] = name not in request.text and csv_files.number_of(str(first)) is not None
    return (names, first_line, numeric, body_at) if numeric else None


def _has_long_line(data: bytes) -> bool:
    """Return whether a line may hold a cell that Python's csv module refuses."""
    last, step = -1, 1 << 24
    for start in range(0, len(data), step):
        ends = np.flatnonzero(np.frombuffer(data, np.uint8, min(step, len(data) - start), start) == 10) + start
        if len(ends):
            if max(ends[0] - last, int(np.diff(ends).max(initial=0))) > LONGEST_CELL:
                return True
            last = int(ends[-1])
        elif start + step - last > LONGEST_CELL:
            return True
    return len(data) - last > LONGEST_CELL


def _numbers(column: Any) -> Column | None:
    """Return an Arrow column of doubles with NaN for nulls; None if one is not finite."""
    values = column.to_numpy()
    values = np.array(values) if not values.flags.writeable else values
    return values if int(np.isfinite(values).sum()) == len(column) - column.null_count else None


def _text(column: Any, size: int) -> Column | None:
    """Return an Arrow column of strings, stripped as Python strips; None if they are too long."""
    coded = column.dictionary_encode().unify_dictionaries().combine_chunks()
    distinct = [text.strip() for text in coded.dictionary.to_pylist()]
    width = max(map(len, distinct))
    if width >= LONGEST_CELL or not has_room(4 * width * len(column), size):
        return None
    texts: Column = np.array(distinct, np.str_)[coded.indices.to_numpy()]
    return texts


def _gaps(
    columns: dict[str, Column], names: list[str], data: bytes, first_line: int, quoted: bool
) -> dict[str, Gap] | None:
    """Return the gaps by line; None if there are some, and rows are not simply lines."""
    found: dict[str, Gap] = {}
    for name, column in columns.items():
        rows = np.flatnonzero(missing_in(column))
        if not len(rows):
            continue
        lines = data.count(b"\n") + (not data.endswith(b"\n"))
        if quoted or lines - first_line + 1 != len(column):
            return None
        places = [first_line + int(row) for row in rows[:MOST_PLACES]]
        line = next(islice(io.BytesIO(data), places[0] - 1, None)).decode("utf-8-sig")
        cell = line.split(",")[names.index(name)].strip()
        told = csv_files.EMPTY_TEXT if column.dtype.kind == "U" else csv_files.wanted_in_place_of(cell)
        found[name] = Gap(len(rows), places, told)
    return found
