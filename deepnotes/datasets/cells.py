"""Convert the text cells of a column to numbers or text; whether it holds numbers or text depends on all its cells."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepnotes.datasets.reading import EXACT, Column, Format, Request, require_distinct, require_memory
from deepnotes.utils.wording import quote

MISSING = (
    "", "?", "-", "na", "n/a", "#n/a", "#n/a n/a", "#na", "<na>", "nan", "-nan", "nat", "null", "none", "\\n",
    "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan",
)  # fmt: skip
"""The cells that stand for a missing value in columns of numbers, in lower case; in text, only an empty cell does."""

NAN = ("nan", "-nan")
"""The spellings of NaN in `MISSING`."""

BOOLEANS = {"true": 1.0, "false": 0.0}
"""The number for each word, in lower case. A column is boolean if every cell is one of these words or missing."""

MAX_MIXED, MIN_REPEATS = 20, 4
"""A column with both numbers and words is read as categories if it has at most `MAX_MIXED` distinct values.

Each distinct value must also occur at least `MIN_REPEATS` times on average, and so must each distinct word.
"""

DAY = 86_400_000_000
"""The length of a day in microseconds."""

CELLS_AT_A_TIME = 1 << 16
"""The number of cells, from several columns, that :func:`plain_numbers` checks at a time."""

FINITE = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
"""The pattern of a finite number as in source code: with a decimal point and without thousands separators."""


class CellError(Exception):
    """Cells that do not fit the type of their column.

    Attributes
    ----------
    invalid : bool array, shape (m,)
        The mask of these cells.
    row : int
        The row of the first of them, counted from 0.
    message : str
        The content of this cell, and what was expected instead.
    hint : str
        Advice for the user, or an empty string.
    missing : bool array, shape (m,), or None
        The mask of the missing values of the column, if it is known.
    """

    def __init__(
        self, invalid: NDArray[np.bool_], message: str, hint: str = "", missing: NDArray[np.bool_] | None = None
    ) -> None:
        super().__init__(message)
        self.invalid, self.row = invalid, int(np.argmax(invalid))
        self.message, self.hint, self.missing = message, hint, missing


class TypedColumn:
    """A column of numbers or text, converted from its cells.

    Parameters
    ----------
    column : array, shape (m,)
        float64 or text.
    missing : bool array, shape (m,), optional
        The mask of missing values; by default, no value is missing.
    """

    def __init__(self, column: Column, missing: NDArray[np.bool_] | None = None) -> None:
        self.column = column
        self.missing = missing if missing is not None and missing.any() else None


@dataclass(frozen=True)
class ColumnRequest:
    """The name of a column and the options for its conversion.

    Parameters
    ----------
    name : str
    request : Request
        May declare the column to be text, numbers or dates; if it does not, the cells decide.
    what : str
        The name of the file and of the column, for error messages.
    size : int
        The size of the file in bytes, which limits the memory that text may take.
    """

    name: str
    request: Request
    what: str
    size: int

    @property
    def format(self) -> Format:
        """The format of the numbers, dates and missing values."""
        return self.request.format

    def text(self, coded: "CodedCells") -> NDArray[np.str_]:
        """Return the cells as an array of text, shape (m,).

        Raises
        ------
        TableError
            If the array would take too much memory.
        """
        codes, distinct = coded
        width = max(map(len, distinct), default=0)
        what = f"{self.what}, {len(codes):,} texts of up to {width:,} characters,"
        require_memory(4 * width * len(codes), self.size, what, "leave the column out")
        texts: NDArray[np.str_] = np.array(list(distinct), np.str_)[codes]
        return texts

    def require_exact(self, values: NDArray[np.float64], cells: Callable[[NDArray[np.bool_]], list[str]]) -> None:
        """Raise TableError if two different integers are equal as float64, unless the text of the column is also kept.

        Parameters
        ----------
        values : float64 array, shape (m,)
        cells : callable
            Returns the distinct cells in the rows that a mask selects.
        """
        is_big = np.abs(values) >= EXACT
        if self.name not in self.request.spelled and is_big.any():
            integers = (int(text) for text in cells(is_big) if re.fullmatch(r"\s*[+-]?[0-9]+\s*", text))
            require_distinct(integers, self.what)


class CodedCells(NamedTuple):
    """The cells of a column, with each distinct cell stored once.

    Attributes
    ----------
    codes : int array, shape (m,)
        The index of each cell in `distinct`.
    distinct : list of str
        The distinct cells, without surrounding white space.
    """

    codes: NDArray[Any]
    distinct: list[str]

    def without(self, is_missing: NDArray[np.bool_]) -> "CodedCells":
        """Return the cells with an empty string for each missing one; `is_missing` is a mask of the distinct cells."""
        texts = ["" if missing else text for text, missing in zip(self.distinct, is_missing, strict=True)]
        return CodedCells(self.codes, texts)


def convert(cells: Any, column: ColumnRequest) -> TypedColumn:
    """Convert the cells of a column, an Arrow array of m strings without nulls.

    Parameters
    ----------
    cells : pyarrow.StringArray or LargeStringArray
    column : ColumnRequest

    Raises
    ------
    CellError, TableError
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    name, request, form = column.name, column.request, column.format
    may_be_plain = name not in request.dates and name not in request.text and form.is_plain
    if may_be_plain and not form.missing_values:
        try:
            return _convert_numbers(cells, cells, column)
        except pa.ArrowInvalid:  # some cell is not a number
            pass
    cells = pc.utf8_trim_whitespace(cells)
    if may_be_plain:
        missing = pc.is_in(pc.utf8_lower(cells), value_set=_missing_words())
        if form.missing_values:
            missing = pc.or_(missing, pc.is_in(cells, value_set=pa.array(form.missing_values, cells.type)))
        present = pc.if_else(missing, pa.scalar(None, cells.type), cells)
        if present.null_count < len(cells):
            try:
                return _convert_numbers(cells, present, column)
            except pa.ArrowInvalid:
                pass
    return convert_coded(_encode(cells), column)


def plain_numbers(columns: dict[str, Any], request: Request) -> dict[str, TypedColumn]:
    """Convert many columns at a time, but only those whose cells are all plain numbers or missing.

    For a file with very many columns, this is faster than :func:`convert`, which must convert the other columns.

    Parameters
    ----------
    columns : dict of str to pyarrow.StringArray
        The cells of each column, as for :func:`convert`.
    request : Request
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if not request.format.is_plain or request.format.missing_values:
        return {}
    names = [name for name in columns if name not in request.text and name not in request.dates]
    rows = len(columns[names[0]]) if names else 0
    converted: dict[str, TypedColumn] = {}
    columns_at_a_time = CELLS_AT_A_TIME // max(1, rows)
    for start in range(0, len(names), columns_at_a_time) if columns_at_a_time > 1 else ():
        group = names[start : start + columns_at_a_time]
        cells = pc.utf8_trim_whitespace(pa.concat_arrays([columns[name] for name in group]))
        missing = pc.is_in(pc.utf8_lower(cells), value_set=_missing_words())
        numbers = pc.match_substring_regex(cells, f"^(?:{FINITE})$")
        known = pc.and_(numbers, pc.invert(missing))
        values = np.array(pc.if_else(known, cells, pa.scalar(None, cells.type)).cast(pa.float64()).fill_null(np.nan))
        shape = len(group), rows
        values, gaps = values.reshape(shape), missing.to_numpy(zero_copy_only=False).reshape(shape)
        with np.errstate(invalid="ignore"):  # text has become NaN, which is not less than EXACT
            are_plain = ((np.abs(values) < EXACT) | gaps).all(axis=1)
        for i in np.flatnonzero(are_plain & ~gaps.all(axis=1)):
            converted[group[i]] = TypedColumn(values[i], gaps[i])
    return converted


def spelling(cells: Any, missing: NDArray[np.bool_] | None, column: ColumnRequest) -> NDArray[np.str_]:
    """Return Arrow strings as an array of trimmed text, shape (m,), with empty strings for missing values."""
    import pyarrow.compute as pc

    texts = column.text(_encode(pc.utf8_trim_whitespace(cells)))
    return texts if missing is None else np.where(missing, "", texts)


def _convert_numbers(cells: Any, present: Any, column: ColumnRequest) -> TypedColumn:
    """Convert cells that are all plain numbers; raise ArrowInvalid if a cell is not a plain number.

    `present` holds the same cells, with a null for each missing value.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    numbers = present.cast(pa.float64())
    nan_cells = cells.filter(pc.fill_null(pc.is_nan(numbers), False)).unique().to_pylist()
    if any(text.strip().lower() not in MISSING for text in nan_cells):
        raise pa.ArrowInvalid("Arrow also accepts spellings such as nan(1) and +nan, which are not numbers here")
    values = np.array(numbers.fill_null(np.nan) if numbers.null_count else numbers, np.float64)
    missing = replace_missing(values, column.format)
    _require_finite(values, lambda row: cells[row].as_py().strip())
    column.require_exact(values, lambda rows: cells.filter(pa.array(rows)).unique().to_pylist())
    return TypedColumn(values, missing)


def convert_coded(coded: CodedCells, column: ColumnRequest) -> TypedColumn:
    """Convert the cells of a column, parsing each distinct cell once.

    Raises
    ------
    CellError, TableError
    """
    codes, distinct = coded
    name, request, form = column.name, column.request, column.format
    is_numeric = name in request.numeric
    if name in request.dates:
        return _convert_dates(coded, form)
    lower = [text.lower() for text in distinct]
    is_missing_text = np.array([text == "" or is_missing_value(text, form) for text in distinct])
    if name in request.text:
        return TypedColumn(column.text(coded.without(is_missing_text)), is_missing_text[codes])
    is_missing = is_missing_text | np.array([text in MISSING for text in lower])
    booleans = BOOLEANS if is_numeric else {}
    numbers = np.array(
        [
            np.nan if missing else booleans.get(text.lower(), number_of(text, form))
            for text, missing in zip(distinct, is_missing, strict=True)
        ],
        object,
    )
    is_number = np.array([value is not None for value in numbers]) & ~is_missing
    fits = is_number | is_missing
    is_infinite = np.array([value is not None and np.isinf(value) for value in numbers])
    if is_numeric and not fits.all():
        raise _unreadable(coded, ~fits | is_infinite, is_missing, form)
    if fits.all() and not is_numeric and not is_number.any():
        return _convert_missing(coded, is_missing, column)
    if fits.all():
        values = numbers.astype(np.float64)[codes]
        missing = replace_missing(values, form)
        _require_finite(values, lambda row: distinct[codes[row]])
        column.require_exact(values, lambda rows: [distinct[code] for code in np.unique(codes[rows])])
        return TypedColumn(values, missing)
    booleans_or_nan = [BOOLEANS.get(text, np.nan) for text in lower]
    if (is_missing | ~np.isnan(booleans_or_nan)).all():
        return TypedColumn(np.array(booleans_or_nan)[codes], is_missing[codes])
    _require_one_type(coded, is_number, is_infinite, is_missing_text, column)
    return TypedColumn(column.text(coded.without(is_missing_text)), is_missing_text[codes])


def _convert_missing(coded: CodedCells, is_missing: NDArray[np.bool_], column: ColumnRequest) -> TypedColumn:
    """Convert a column without values: to numbers if all its cells are spellings of NaN, else to text."""
    if all(text.lower() in NAN for text in coded.distinct):
        return TypedColumn(np.full(len(coded.codes), np.nan), is_missing[coded.codes])
    texts = column.text(coded)
    return TypedColumn(texts, texts == "")


def _require_one_type(
    coded: CodedCells,
    is_number: NDArray[np.bool_],
    is_infinite: NDArray[np.bool_],
    is_missing_text: NDArray[np.bool_],
    column: ColumnRequest,
) -> None:
    """Raise CellError if a column mixes numbers and words, unless it seems to hold categories or text."""
    codes, distinct = coded
    counts = np.bincount(codes, minlength=len(distinct))
    is_missing = is_missing_text | np.array([text.lower() in MISSING for text in distinct])
    is_word = ~is_number & ~is_missing
    n_values, n_numbers, n_words = (int(counts[mask].sum()) for mask in (~is_missing_text, is_number, is_word))
    is_invalid = is_word | is_infinite
    row = int(np.argmax(is_invalid[codes]))
    cell, times = distinct[codes[row]], int(counts[codes[row]])
    hint = hint_of(cell)
    if n_numbers and n_words and all(hint_of(distinct[code]) for code in np.flatnonzero(is_word)):
        # The words are numbers or dates in another notation, so they are not categories, even if there are only a few.
        hint = hint or hint_of(distinct[codes[np.argmax(is_word[codes])]])
        hint = f"{hint}; or use --exclude {_shell_quote(column.name)} or --categorical {_shell_quote(column.name)}"
        raise _unreadable(coded, is_invalid, is_missing, column.format, hint)
    n_distinct = (~is_missing_text).sum()
    is_repeated = MIN_REPEATS * n_distinct <= n_values and MIN_REPEATS * is_word.sum() <= n_words
    if (n_distinct <= MAX_MIXED and is_repeated) or (n_numbers <= n_words and 2 * n_numbers < n_values):
        return
    if not hint and times > 1:
        hint = (
            f"it occurs {times:,} times; if it stands for a missing value, use --missing-value {_shell_quote(cell)}; "
            f"if the column holds categories, use --categorical {_shell_quote(column.name)}"
        )
    raise _unreadable(coded, is_invalid, is_missing, column.format, hint)


def _unreadable(
    coded: CodedCells,
    is_invalid: NDArray[np.bool_],
    is_missing: NDArray[np.bool_],
    form: Format,
    hint: str | None = None,
) -> CellError:
    """Return the error of cells that are not finite numbers; the masks are of the distinct cells.

    The error describes the first cell. By default, the hint is that for the first cell that has one.
    """
    invalid = is_invalid[coded.codes]
    order = [coded.distinct[code] for code in dict.fromkeys(coded.codes[invalid].tolist())]
    if hint is None:
        hint = next(filter(None, map(hint_of, order)), "")
    return CellError(invalid, describe_cell(order[0], form), hint, is_missing[coded.codes])


def is_missing_value(text: str, form: Format) -> bool:
    """Return whether text is one of the format's ``missing_values``, or equals one of them as a number."""
    if not form.missing_values or text in form.missing_values:
        return text in form.missing_values
    value = number_of(text, form)
    return value is not None and value in map(partial(number_of, form=form), form.missing_values)


def replace_missing(values: NDArray[np.float64], form: Format) -> NDArray[np.bool_]:
    """Replace numbers that stand for a missing value with NaN, in place, and return the mask of all missing values."""
    spellings = [value for text in form.missing_values if (value := number_of(text, form)) is not None]
    if spellings:
        values[np.isin(values, spellings)] = np.nan
    return np.isnan(values)


def _require_finite(values: NDArray[np.float64], cell: Callable[[int], str]) -> None:
    """Raise CellError if a number is infinite; `cell` returns the text of the cell in a given row."""
    if (is_infinite := np.isinf(values)).any():
        row = int(np.argmax(is_infinite))
        raise CellError(is_infinite, f"{quote(cell(row))} where a finite number was expected", "", np.isnan(values))


def _convert_dates(coded: CodedCells, form: Format) -> TypedColumn:
    """Convert dates to days since 1970-01-01."""
    codes, distinct = coded
    is_missing = np.array([text.lower() in MISSING or text in form.missing_values for text in distinct])
    days = np.array([np.nan if missing else days_of(text, form.date_format)
                     for text, missing in zip(distinct, is_missing, strict=True)])  # fmt: skip
    if (is_invalid := (np.isnan(days) & ~is_missing)[codes]).any():
        cell = distinct[codes[np.argmax(is_invalid)]]
        is_iso = form.date_format is None
        expected = "an ISO 8601 date, such as 2024-01-31," if is_iso else f"a date in the format {form.date_format!r}"
        hint = "to read other dates, use an option such as --date-format '%d/%m/%Y'" if is_iso else ""
        raise CellError(is_invalid, f"{quote(cell)} where {expected} was expected", hint, is_missing[codes])
    return TypedColumn(days[codes], is_missing[codes])


def days_of(text: str, date_format: str | None) -> float:
    """Return a date, with or without a time, as days since 1970-01-01, or NaN if the text is not a date.

    Examples
    --------
    >>> days_of("1970-01-02T12:00", None), days_of("31/12/1969", "%d/%m/%Y"), days_of("soon", None)
    (1.5, -1.0, nan)
    """
    from datetime import datetime, timedelta, timezone

    try:
        date = datetime.fromisoformat(text) if date_format is None else datetime.strptime(text, date_format)
    except ValueError:
        return float("nan")
    utc = timezone.utc  # noqa: UP017  # Python 3.10, on which exported files run, has no datetime.UTC
    date = date.replace(tzinfo=utc) if date.tzinfo is None else date
    return (date - datetime(1970, 1, 1, tzinfo=utc)) / timedelta(days=1)


def _encode(cells: Any) -> CodedCells:
    """Return Arrow strings as :class:`CodedCells`."""
    encoded = cells.dictionary_encode()
    return CodedCells(encoded.indices.to_numpy(zero_copy_only=False), encoded.dictionary.to_pylist())


@cache
def _missing_words() -> Any:
    """Return `MISSING` as an Arrow array."""
    import pyarrow as pa

    return pa.array(MISSING)


# --- one cell ---------------------------------------------------------------------------------------------------------

PLAIN = re.compile(rf"{FINITE}|[+-]?(?i:inf|infinity)")
"""The pattern of a number as in source code, including infinity."""


@cache
def _number_pattern(form: Format) -> re.Pattern[str]:
    """Return the pattern of a number with the separators of a format, including infinity."""
    point = re.escape(form.decimal)
    whole = "[0-9]+"
    if form.thousands is not None:
        whole = rf"(?:[0-9]{{1,3}}(?:{re.escape(form.thousands)}[0-9]{{3}})+|[0-9]+)"
    return re.compile(rf"[+-]?(?:{whole}(?:{point}[0-9]*)?|{point}[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?(?i:inf|infinity)")


def number_of(cell: str, form: Format = Format()) -> float | None:  # noqa: B008
    """Return a cell as a number, or None if it is not one; 1_000, 0x10 and non-ASCII digits do not count as numbers.

    Examples
    --------
    >>> number_of("-1.5e3"), number_of("1,5"), number_of("1.000,5", Format(decimal=",", thousands="."))
    (-1500.0, None, 1000.5)
    >>> number_of("$ 100", Format(strip="$"))
    100.0
    """
    cell = cell.strip()
    if not form.is_plain:
        if form.strip:
            sign, cell = (cell[:1], cell[1:]) if cell[:1] in ("+", "-") else ("", cell)
            cell = sign + cell.strip(form.strip + " \u00a0")
        if not _number_pattern(form).fullmatch(cell):
            return None
        if form.thousands is not None:
            cell = cell.replace(form.thousands, "")
        cell = cell.replace(form.decimal, ".")
    return float(cell) if PLAIN.fullmatch(cell) else None


def describe_missing(cell: str, column: Column, form: Format) -> str:
    """Describe a cell with a missing value for an error message: its content, and what was expected instead."""
    if column.dtype.kind == "f":
        return describe_cell(cell, form)
    return f"{quote(cell)} where a value was expected" if cell else "an empty cell where a value was expected"


def describe_cell(cell: str, form: Format) -> str:
    """Describe a cell in a column of numbers for an error message: its content, and what was expected instead."""
    # A number that does not fit a column of numbers is infinite.
    is_number = number_of(cell, form) is not None and cell not in form.missing_values
    kind = "a finite number" if is_number or cell.lower() in NAN else "a number"
    if form.decimal != "." and kind == "a number" and cell:
        kind = f"a number with the decimal separator {form.decimal!r}"
    return f"{quote(cell) if cell else 'an empty cell'} where {kind} was expected"


def _shell_quote(text: str) -> str:
    """Return text as an argument of a shell command, in quotes if necessary."""
    return text if re.fullmatch(r"[\w.]+", text) else repr(text)


FORMATS = (
    (r"[+-]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?", "use --thousands ',' to read it as a number"),
    (r"[+-]?[0-9]{1,3}(?:\.[0-9]{3})+,[0-9]+", "use --decimal ',' --thousands '.' to read it as a number"),
    (r"[+-]?[0-9]*,[0-9]+", "use --decimal ',' to read it as a number"),
    (r"[+-]?[0-9]{1,3}(?:[ \u00a0\u202f'][0-9]{3})+", "use --thousands to read it as a number"),
    (r"[+-]?[^\w\s.,+\u2212(-][+-]?\s*[0-9][0-9.,]*", "use --strip to remove the character before the number"),
    (r"[+-]?[0-9][0-9.,]*\s*[^\w\s.,:+-]", "use --strip to remove the character after the number"),
    (r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[T ].*)?", "use --dates to read the column as dates"),
    (
        r"[0-9]{1,2}([/.-])[0-9]{1,2}\1(?:[0-9]{4}|[0-9]{2})(?: .*)?",
        "use --dates and --date-format to read the column as dates",
    ),
    (r"[0-9]{4}([/.])[0-9]{1,2}\1[0-9]{1,2}(?:[T ].*)?", "use --dates and --date-format to read the column as dates"),
    (
        r"[0-9]{1,2}[ -][A-Za-z]{3,9}[ -](?:[0-9]{4}|[0-9]{2})",
        "use --dates and --date-format to read the column as dates",
    ),
    (r"[A-Za-z]{3,9}\.? [0-9]{1,2},? [0-9]{4}", "use --dates and --date-format to read the column as dates"),
    (r"[0-9]{1,2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?", "use --dates and --date-format to read the column as times"),
)  # fmt: skip
"""Patterns of numbers and dates that can be read only with certain options, each with a hint that names the options."""


def hint_of(cell: str) -> str:
    """Return a hint that names the options for reading a cell as a number or date, or "" if no pattern matches.

    Examples
    --------
    >>> hint_of("1,035"), hint_of("2024-01-31"), hint_of("30-39")
    ("use --thousands ',' to read it as a number", 'use --dates to read the column as dates', '')
    """
    return next((hint for pattern, hint in FORMATS if re.fullmatch(pattern, cell)), "")
