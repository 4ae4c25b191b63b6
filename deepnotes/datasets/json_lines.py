"""Read JSON Lines: a text with one JSON object, which is one row, on each line."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepnotes.datasets import parquet_files
from deepnotes.datasets.cells import CellError, ColumnRequest, convert, replace_missing
from deepnotes.datasets.csv_parts import unpacked
from deepnotes.datasets.problems import MAX_POSITIONS, Gap, Problems
from deepnotes.datasets.reading import (
    EVERYTHING,
    EXACT,
    Column,
    Content,
    Request,
    missing_in,
    require_distinct,
    require_memory,
)
from deepnotes.utils.errors import TableError
from deepnotes.utils.wording import brief, quote

SUFFIXES = (".jsonl", ".ndjson")
"""The suffixes of JSON Lines; a second suffix, .gz, marks a compressed file."""

KINDS = {bool: "a boolean", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
"""What a value of each Python type is in JSON."""

SCALARS = ("a boolean", "a number", "text")
"""The kinds of values that a column may have."""


@dataclass
class Values:
    """The values of one key.

    Attributes
    ----------
    rows : list of int
        The rows that have a value other than null, counted from 0.
    values : list
        These values.
    """

    rows: list[int] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)


@dataclass
class Rows:
    """The objects of a file, by key.

    Attributes
    ----------
    lines : list of int
        The line of each row; blank lines have no row.
    by_key : dict of str to Values
    """

    lines: list[int] = field(default_factory=list)
    by_key: dict[str, Values] = field(default_factory=dict)

    def gap(self, mask: NDArray[np.bool_], description: str, state: str = "missing") -> Gap:
        """Return a Gap for the rows where the mask is true."""
        rows = np.flatnonzero(mask)
        return Gap(len(rows), [self.lines[row] for row in rows[:MAX_POSITIONS]], description, True, state)


def read(path: Path, source: str, request: Request = EVERYTHING) -> Content:
    """Read the requested columns of a file.

    A column holds numbers, booleans, which become 1 and 0, or text; null, NaN and a key that a line lacks are missing
    values. Text stays text, even if it looks like numbers, unless the request says otherwise.

    Raises
    ------
    TableError
    """
    parquet_files.require_pyarrow(source, path.suffix)
    size = path.stat().st_size
    with path.open("rb") as file:
        rows = _rows(unpacked(file, size, source), source)
    names = list(rows.by_key)
    if not rows.lines:
        raise TableError(f"{source}: the file has no rows")
    request = request.resolve(source, names)
    chosen = [name for name in names if request.includes(name)]
    require_memory(
        8 * len(rows.lines) * len(chosen), size, f"{source}: {len(rows.lines):,} rows of {len(chosen):,} keys"
    )
    problems = Problems(source)
    columns: dict[str, Column] = {}
    spelled: dict[str, NDArray[np.str_]] = {}
    gaps: dict[str, Gap] = {}
    for name in chosen:
        column: Column = np.zeros(len(rows.lines))
        with problems.collecting():
            column, spelling = _column(rows, name, request, problems, size)
            if spelling is not None:
                spelled[name] = spelling
        columns[name] = column
        if (missing := missing_in(column)).any():
            wanted = "a number" if column.dtype.kind == "f" else "a value"
            gaps[name] = rows.gap(missing, f"no value where {wanted} was expected")
    return Content(columns, dict.fromkeys(columns, rows.lines[0]), gaps, names, spelled, [], problems)


def _rows(blocks: Iterator[bytes], source: str) -> Rows:
    """Parse the lines of a text.

    Raises
    ------
    TableError
        If a line is not a JSON object, or has a key twice.
    """
    rows = Rows()
    decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)
    for number, line in enumerate(_lines(blocks), start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip(" \t\r")
            if not text:
                continue
            row = decoder.decode(text)
        except UnicodeDecodeError as error:
            byte = line[error.start]
            raise TableError(f"{source}:{number}: byte 0x{byte:02x} is not UTF-8 text, which JSON must be") from None
        except RecursionError:
            raise TableError(f"{source}:{number}: the JSON is nested too deeply") from None
        except ValueError as error:
            raise TableError(f"{source}:{number}: the line is not JSON: {brief(error)}{_layout_hint(text)}") from None
        if not isinstance(row, dict):
            raise TableError(f'{source}:{number}: wanted a JSON object, such as {{"a": 1}}{_layout_hint(text)}')
        index = len(rows.lines)
        rows.lines.append(number)
        for key, value in row.items():
            values = rows.by_key.setdefault(key, Values())
            if value is not None and value == value:
                values.rows.append(index)
                values.values.append(value)
    return rows


def _lines(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the lines of a text without their ends."""
    rest: list[bytes] = []
    for block in blocks:
        first, *others = block.split(b"\n")
        rest.append(first)
        if others:
            yield b"".join(rest)
            yield from others[:-1]
            rest = others[-1:]
    yield b"".join(rest)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a dict; raise ValueError if a key occurs twice or is empty."""
    row = dict(pairs)
    if len(row) < len(pairs):
        seen: set[str] = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {quote(repeated)} occurs twice")
    if "" in row:
        raise ValueError("a key is empty")
    return row


def _constant(name: str) -> float:
    """Return NaN or an infinity, which Python and pandas write although JSON does not have them."""
    return float(name.replace("Infinity", "inf"))


def _layout_hint(text: str) -> str:
    """Return the end of an error message if the file seems to be one JSON document rather than JSON Lines."""
    if text[:1] in "[{" and not text.endswith("}"):
        return "; each line must be one object, as pandas.DataFrame.to_json(orient='records', lines=True) writes them"
    return ""


def _column(
    rows: Rows, name: str, request: Request, problems: Problems, size: int
) -> tuple[Column, NDArray[np.str_] | None]:
    """Return the values of a key as a column, and their spelling, if it is requested.

    Values that do not fit the others are added to the problems, and their column is filled with zeros.

    Raises
    ------
    TableError
        If the column takes too much memory, or has integers that float64 cannot tell apart.
    """
    import pyarrow as pa

    found, m = rows.by_key[name], len(rows.lines)
    kinds = np.array([KINDS[type(value)] for value in found.values], str)
    kind = next((kind for kind in kinds if kind in SCALARS), "a number")
    if name in request.numeric or name in request.dates:
        kind = "text" if "text" in kinds else kind
    as_text = name in request.text
    fits = np.isin(kinds, SCALARS) if as_text else kinds == kind
    if not fits.all():
        misfit = np.zeros(m, np.bool_)
        misfit[np.array(found.rows)[~fits]] = True
        value = found.values[int(np.argmax(~fits))]
        shown = quote(value) if isinstance(value, str) else KINDS[type(value)]
        wanted = "a number or text" if kinds[np.argmax(~fits)] not in SCALARS else kind
        problems.add(name, rows.gap(misfit, f"{shown} where {wanted} was expected", "unreadable"))
        return np.zeros(m), None
    values: list[Any] = [None] * m
    for row, value in zip(found.rows, found.values, strict=True):
        values[row] = value
    what = f"{problems.source}: column {name!r}"
    if kind == "text" or as_text:
        texts = [None if value is None else parquet_files.text_of(value) for value in values]
        return _text_column(
            pa.array(texts, pa.large_string()), rows, ColumnRequest(name, request, what, size), problems
        )
    if name in request.dates:
        raise TableError(f"{what} has numbers, wanted dates")
    try:
        column = np.array([np.nan if value is None else float(value) for value in values])
    except OverflowError:
        column = np.array([np.inf if isinstance(value, int) and abs(value) > 10**300 else 0.0 for value in values])
    is_missing = replace_missing(column, request.format)
    if (is_infinite := np.isinf(column)).any():
        problems.add(name, rows.gap(is_infinite, "an infinite number where a finite number was expected", "unreadable"))
        return np.where(is_missing, np.nan, 0.0), None
    if name not in request.spelled:
        require_distinct((value for value in found.values if type(value) is int and abs(value) >= EXACT), what)
        return column, None
    texts = [
        None if missing else parquet_files.text_of(value) for value, missing in zip(values, is_missing, strict=True)
    ]
    return column, parquet_files.labels(pa.array(texts, pa.large_string()), name, problems.source)


def _text_column(
    array: Any, rows: Rows, column: ColumnRequest, problems: Problems
) -> tuple[Column, NDArray[np.str_] | None]:
    """Return a column of strings as text, or as the numbers or dates that the request says it holds."""
    name, request = column.name, column.request
    is_text = name not in request.numeric and name not in request.dates
    spelled = parquet_files.labels(array, name, problems.source) if name in request.spelled else None
    if is_text:
        place = parquet_files.Rows(problems.source, 0, request)
        return parquet_files.as_column(array, name, "text", place), spelled
    try:
        return convert(array.fill_null(""), column).column, spelled
    except CellError as error:
        problems.add(name, rows.gap(error.invalid, error.message, "unreadable"), error.hint)
        return np.where(False if error.missing is None else error.missing, np.nan, np.zeros(len(array))), None
