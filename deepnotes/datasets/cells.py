"""Turn the text cells of a column into numbers or text, decided by all of its cells."""

import re
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepnotes.datasets.reading import EXACT, Column, Format, Request, require_distinct, require_room
from deepnotes.utils.wording import shown

MISSING = (
    "", "?", "-", "na", "n/a", "#n/a", "#n/a n/a", "#na", "<na>", "nan", "-nan", "nat", "null", "none", "\\n",
    "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan",
)  # fmt: skip
"""Spellings of a missing value in columns of numbers, in any case; in columns of text, only the empty cell is one."""

NAN = ("nan", "-nan")
"""Those of them that are spellings of NaN."""

BOOLEANS = {"true": 1.0, "false": 0.0}
"""The cells of boolean columns, which hold no others, in any case."""

EMPTY_TEXT = "an empty cell where a value was expected"

FEW = 20
"""A column that mixes numbers and words holds categories if it has at most this many distinct values, ..."""

OFTEN = 4
"""... each at least this often on average, and the words as well."""

DAY = 86_400_000_000
"""Microseconds."""

TOGETHER = 1 << 16
"""The number of cells of several columns that are checked at a time."""

FINITE = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
"""The usual notation of a number."""


class CellError(Exception):
    """A cell that its column cannot hold.

    Attributes
    ----------
    row : int
        Counted from 0.
    told : str
        The cell's content, and what was expected.
    hint : str
        What to do about it.
    """

    def __init__(self, row: int, told: str, hint: str = "") -> None:
        super().__init__(told)
        self.row, self.told, self.hint = row, told, hint


class Typed:
    """A column converted from its cells.

    Parameters
    ----------
    column : array, shape (m,)
        float64 or text.
    missing : bool array, shape (m,), optional
        Where values are missing; by default nowhere.
    """

    def __init__(self, column: Column, missing: NDArray[np.bool_] | None = None) -> None:
        self.column = column
        self.missing = missing if missing is not None and missing.any() else None


def typed(cells: Any, name: str, request: Request, what: str, size: int) -> Typed:
    """Convert an Arrow array of strings without nulls to a column.

    Parameters
    ----------
    cells : pyarrow.StringArray or LargeStringArray, length m
    name : str
        The column.
    request : Request
        Whether the column is text, numbers or dates, unless the cells decide.
    what : str
        The file and the column, for error messages.
    size : int
        The size of the file in bytes, which bounds the memory that text may take.

    Raises
    ------
    CellError, TableError
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    form = request.format
    may_be_plain = name not in request.dates and name not in request.text and form.is_plain
    if may_be_plain and not form.missing_values:
        try:
            return _of_numbers(cells, cells, None, name, request, what)
        except pa.ArrowInvalid:  # some cell is not a number
            pass
    cells = pc.utf8_trim_whitespace(cells)
    if may_be_plain:
        missing = pc.is_in(pc.utf8_lower(cells), value_set=_missing_words())
        if form.missing_values:
            missing = pc.or_(missing, _is_one_of(cells, form.missing_values))
        present = pc.if_else(missing, pa.scalar(None, cells.type), cells)
        if present.null_count < len(cells):
            try:
                return _of_numbers(cells, present, missing, name, request, what)
            except pa.ArrowInvalid:
                pass
    return column_of(*_coded(cells), name, request, what, size)


def plain_numbers(columns: dict[str, Any], request: Request) -> dict[str, Typed]:
    """Return the columns that hold only plain numbers, checked many at a time, since a file may have very many.

    Parameters
    ----------
    columns : dict of str to pyarrow.StringArray
        As for :func:`typed`, which converts the others.
    request : Request
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if not request.format.is_plain or request.format.missing_values:
        return {}
    names = [name for name in columns if name not in request.text and name not in request.dates]
    rows = len(columns[names[0]]) if names else 0
    found: dict[str, Typed] = {}
    together = TOGETHER // max(1, rows)
    for start in range(0, len(names), together) if together > 1 else ():
        group = names[start : start + together]
        cells = pc.utf8_trim_whitespace(pa.concat_arrays([columns[name] for name in group]))
        missing = pc.is_in(pc.utf8_lower(cells), value_set=_missing_words())
        numbers = pc.match_substring_regex(cells, f"^(?:{FINITE})$")
        known = pc.and_(numbers, pc.invert(missing))
        values = np.array(pc.if_else(known, cells, pa.scalar(None, cells.type)).cast(pa.float64()).fill_null(np.nan))
        shape = len(group), rows
        values, gaps = values.reshape(shape), missing.to_numpy(zero_copy_only=False).reshape(shape)
        with np.errstate(invalid="ignore"):
            small = ((np.abs(values) < EXACT) | gaps).all(axis=1)  # each of which is a number
        for i in np.flatnonzero(small & ~gaps.all(axis=1)):
            found[group[i]] = Typed(values[i], gaps[i])
    return found


def spelling(cells: Any, missing: NDArray[np.bool_] | None, what: str, size: int) -> NDArray[np.str_]:
    """Return Arrow strings as trimmed text, shape (m,), empty where a value is missing."""
    import pyarrow.compute as pc

    codes, distinct = _coded(pc.utf8_trim_whitespace(cells))
    texts = _text(codes, distinct, what, size)
    return texts if missing is None else np.where(missing, "", texts)


def _of_numbers(cells: Any, present: Any, missing: Any, name: str, request: Request, what: str) -> Typed:
    """Return the column if every `present` cell is a plain number, else raise ArrowInvalid."""
    import pyarrow as pa
    import pyarrow.compute as pc

    numbers = present.cast(pa.float64())
    none = cells.filter(pc.fill_null(pc.is_nan(numbers), False)).unique().to_pylist()
    if any(text.strip().lower() not in MISSING for text in none):
        raise pa.ArrowInvalid("such as nan(1) and +nan, which no other rule takes for a number")
    values = np.array(numbers.fill_null(np.nan) if numbers.null_count else numbers, np.float64)
    gaps = without_given(values, request.format)
    _require_finite(values, lambda row: cells[row].as_py().strip())
    if name not in request.spelled:
        _require_exact(values, lambda which: cells.filter(pa.array(which)).unique().to_pylist(), what)
    return Typed(values, gaps)


def column_of(codes: NDArray[Any], distinct: list[str], name: str, request: Request, what: str, size: int) -> Typed:
    """Return the column made of the cells; each distinct cell is parsed once.

    Parameters
    ----------
    codes : int array, shape (m,)
        The index of each cell in `distinct`.
    distinct : list of str
        Without surrounding white space.
    name, request, what, size
        As for :func:`typed`.

    Raises
    ------
    CellError, TableError
    """
    form, forced = request.format, name in request.numeric
    if name in request.dates:
        return _dates(codes, distinct, form)
    lower = [text.lower() for text in distinct]
    blank = np.array([text == "" or is_given_missing(text, form) for text in distinct])
    if name in request.text:
        return Typed(_text(codes, np.where(blank, "", np.array(distinct, object)), what, size), blank[codes])
    missing = blank | np.array([text in MISSING for text in lower])
    words = BOOLEANS if forced else {}
    numbers = np.array(
        [
            np.nan if gone else words.get(text.lower(), number_of(text, form))
            for text, gone in zip(distinct, missing, strict=True)
        ],
        object,
    )
    is_number = np.array([value is not None for value in numbers]) & ~missing
    if forced or (is_number | missing).all():
        if not forced and not is_number.any():
            return _of_no_value(codes, distinct, lower, missing, what, size)
        if not (is_number | missing).all():
            row = int(np.argmax(~(is_number | missing)[codes]))
            raise CellError(row, expected(distinct[codes[row]], form), hint_of(distinct[codes[row]]))
        values = numbers.astype(np.float64)[codes]
        gaps = without_given(values, form)
        _require_finite(values, lambda row: distinct[codes[row]])
        if name not in request.spelled:
            _require_exact(values, lambda which: [distinct[code] for code in np.unique(codes[which])], what)
        return Typed(values, gaps)
    truth = [BOOLEANS.get(text, np.nan) for text in lower]
    if (missing | ~np.isnan(truth)).all():
        return Typed(np.array(truth)[codes], missing[codes])
    counts = np.bincount(codes, minlength=len(distinct))
    _require_of_one_kind(codes, distinct, counts, is_number, blank, name, form)
    return Typed(_text(codes, np.where(blank, "", np.array(distinct, object)), what, size), blank[codes])


def _of_no_value(
    codes: NDArray[Any], distinct: list[str], lower: list[str], missing: NDArray[np.bool_], what: str, size: int
) -> Typed:
    """Return a column that has no value at all: numbers if its cells or the request say so, else text."""
    if all(text in NAN for text in lower):
        return Typed(np.full(len(codes), np.nan), missing[codes])
    texts = _text(codes, np.array(distinct, object), what, size)
    return Typed(texts, texts == "")


def _require_of_one_kind(
    codes: NDArray[Any],
    distinct: list[str],
    counts: NDArray[Any],
    is_number: NDArray[np.bool_],
    blank: NDArray[np.bool_],
    name: str,
    form: Format,
) -> None:
    """Raise CellError if a column of numbers has another cell; categories may mix both kinds."""
    odd = ~is_number & ~np.array([text.lower() in MISSING for text in distinct]) & ~blank
    values, numbers, others = (int(counts[which].sum()) for which in (~blank, is_number, odd))
    if numbers and others and all(hint_of(distinct[code]) for code in np.flatnonzero(odd)):
        row = int(np.argmax(odd[codes]))  # numbers in another notation, which are not categories however few they are
        cell = distinct[codes[row]]
        hint = f"{hint_of(cell)}; or name the column (--exclude or --categorical {_quoted(name)})"
        raise CellError(row, expected(cell, form), hint)
    few = (~blank).sum() <= FEW and OFTEN * (~blank).sum() <= values and OFTEN * odd.sum() <= others
    if few or (numbers <= others and 2 * numbers < values):
        return
    row = int(np.argmax(odd[codes]))
    cell, times = distinct[codes[row]], int(counts[codes[row]])
    hint = hint_of(cell)
    if not hint and times > 1:
        hint = f"it is there {times:,} times; if it stands for no value, say so (--missing-value {_quoted(cell)})"
        hint += f", or if these are categories, name the column (--categorical {_quoted(name)})"
    raise CellError(row, expected(cell, form), hint)


def is_given_missing(text: str, form: Format) -> bool:
    """Return whether text is one of the given spellings of a missing value, or equals one of them as a number."""
    if not form.missing_values or text in form.missing_values:
        return text in form.missing_values
    value = number_of(text, form)
    return value is not None and value in map(partial(number_of, form=form), form.missing_values)


def without_given(values: NDArray[np.float64], form: Format) -> NDArray[np.bool_]:
    """Replace numbers that stand for a missing value by NaN; return the mask of missing values, shape (m,)."""
    given = [value for text in form.missing_values if (value := number_of(text, form)) is not None]
    if given:
        values[np.isin(values, given)] = np.nan
    return np.isnan(values)


def _require_finite(values: NDArray[np.float64], cell: Callable[[int], str]) -> None:
    """Raise CellError where a number is infinite; `cell` returns the content of a row."""
    if (endless := np.isinf(values)).any():
        row = int(np.argmax(endless))
        raise CellError(row, f"{shown(cell(row))} where a finite number was expected")


def _require_exact(values: NDArray[np.float64], cells: Callable[[NDArray[np.bool_]], list[str]], what: str) -> None:
    """Raise TableError if two integers become equal as float64; `cells` returns the distinct cells of some rows."""
    big = np.abs(values) >= EXACT
    if big.any():
        whole = (int(text) for text in cells(big) if re.fullmatch(r"\s*[+-]?[0-9]+\s*", text))
        require_distinct(whole, what)


def _dates(codes: NDArray[Any], distinct: list[str], form: Format) -> Typed:
    """Return dates as days since 1970-01-01."""
    missing = np.array([text.lower() in MISSING or text in form.missing_values for text in distinct])
    days = np.array([np.nan if gone else days_of(text, form.date_format)
                     for text, gone in zip(distinct, missing, strict=True)])  # fmt: skip
    if (wrong := (np.isnan(days) & ~missing)[codes]).any():
        row = int(np.argmax(wrong))
        wanted = "of ISO 8601, such as 2024-01-31" if form.date_format is None else f"like {form.date_format!r}"
        hint = "--date-format '%d/%m/%Y' reads others" if form.date_format is None else ""
        raise CellError(row, f"{shown(distinct[codes[row]])} where a date {wanted}, was expected", hint)
    return Typed(days[codes], missing[codes])


def days_of(text: str, date_format: str | None) -> float:
    """Return a date, with or without a time, as days since 1970-01-01; NaN for other text.

    Examples
    --------
    >>> days_of("1970-01-02T12:00", None), days_of("31/12/1969", "%d/%m/%Y"), days_of("soon", None)
    (1.5, -1.0, nan)
    """
    from datetime import datetime, timedelta, timezone

    try:
        found = datetime.fromisoformat(text) if date_format is None else datetime.strptime(text, date_format)
    except ValueError:
        return float("nan")
    utc = timezone.utc  # noqa: UP017  # Python 3.10, on which exported files run, has no datetime.UTC
    found = found.replace(tzinfo=utc) if found.tzinfo is None else found
    return (found - datetime(1970, 1, 1, tzinfo=utc)) / timedelta(days=1)


def _coded(cells: Any) -> tuple[NDArray[Any], list[str]]:
    """Return the index of each cell among the distinct ones, and the distinct ones."""
    coded = cells.dictionary_encode()
    return coded.indices.to_numpy(zero_copy_only=False), coded.dictionary.to_pylist()


def _text(codes: NDArray[Any], distinct: Any, what: str, size: int) -> NDArray[np.str_]:
    width = max(map(len, distinct), default=0)
    told = f"{what}, {len(codes):,} texts of up to {width:,} characters,"
    require_room(4 * width * len(codes), size, told, "leave the column out")
    texts: NDArray[np.str_] = np.array(list(distinct), np.str_)[codes]
    return texts


@cache
def _missing_words() -> Any:
    import pyarrow as pa

    return pa.array(MISSING)


def _is_one_of(cells: Any, values: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.is_in(cells, value_set=pa.array(values, cells.type))


# --- one cell ---------------------------------------------------------------------------------------------------------

PLAIN = re.compile(rf"{FINITE}|[+-]?(?i:inf|infinity)")


@cache
def _pattern(form: Format) -> re.Pattern[str]:
    point = re.escape(form.decimal)
    whole = "[0-9]+"
    if form.thousands is not None:
        whole = rf"(?:[0-9]{{1,3}}(?:{re.escape(form.thousands)}[0-9]{{3}})+|[0-9]+)"
    return re.compile(rf"[+-]?(?:{whole}(?:{point}[0-9]*)?|{point}[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?(?i:inf|infinity)")


def number_of(cell: str, form: Format = Format()) -> float | None:  # noqa: B008
    """Return a cell as a number, or None; only the usual notations count, not 1_000, 0x10 or non-ASCII digits.

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
        if not _pattern(form).fullmatch(cell):
            return None
        if form.thousands is not None:
            cell = cell.replace(form.thousands, "")
        cell = cell.replace(form.decimal, ".")
    return float(cell) if PLAIN.fullmatch(cell) else None


def where_missing(cell: str, column: Column, form: Format) -> str:
    """Return the text of a missing value of a column, and what was expected there."""
    if column.dtype.kind == "f":
        return expected(cell, form)
    return f"{shown(cell)} where a value was expected" if cell else EMPTY_TEXT


def expected(cell: str, form: Format = Format()) -> str:  # noqa: B008
    """Describe a cell among numbers, and what was expected there."""
    plain = number_of(cell, form)
    endless = cell.lower() in NAN or (plain is not None and cell not in form.missing_values)
    kind = "a finite number" if endless else "a number"
    if form.decimal != "." and kind == "a number" and cell:
        kind = f"a number with the decimal point {form.decimal!r}"
    return f"{shown(cell) if cell else 'an empty cell'} where {kind} was expected"


def _quoted(text: str) -> str:
    return text if re.fullmatch(r"[\w.]+", text) else repr(text)


FORMATS = (
    (r"[+-]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?", "--thousands , reads it as a number"),
    (r"[+-]?[0-9]{1,3}(?:\.[0-9]{3})+,[0-9]+", "--decimal , --thousands . reads it as a number"),
    (r"[+-]?[0-9]*,[0-9]+", "--decimal , reads it as a number"),
    (r"[+-]?[0-9]{1,3}(?:[ \u00a0\u202f'][0-9]{3})+", "--thousands reads it as a number"),
    (r"[+-]?[^\w\s.,+\u2212(-][+-]?\s*[0-9][0-9.,]*", "--strip drops the character before it"),
    (r"[+-]?[0-9][0-9.,]*\s*[^\w\s.,:+-]", "--strip drops the character after it"),
    (r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[T ].*)?", "--dates reads the column as dates"),
    (
        r"[0-9]{1,2}([/.-])[0-9]{1,2}\1(?:[0-9]{4}|[0-9]{2})(?: .*)?",
        "--dates with --date-format reads the column as dates",
    ),
    (r"[0-9]{4}([/.])[0-9]{1,2}\1[0-9]{1,2}(?:[T ].*)?", "--dates with --date-format reads the column as dates"),
    (r"[0-9]{1,2}[ -][A-Za-z]{3,9}[ -](?:[0-9]{4}|[0-9]{2})", "--dates with --date-format reads the column as dates"),
    (r"[A-Za-z]{3,9}\.? [0-9]{1,2},? [0-9]{4}", "--dates with --date-format reads the column as dates"),
    (r"[0-9]{1,2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?", "--dates with --date-format reads the column as times"),
)  # fmt: skip
"""Notations of numbers and dates that are neither read as such nor are categories, and the option for each."""


def hint_of(cell: str) -> str:
    """Return the option that reads a cell as a number or date; empty for other text.

    Examples
    --------
    >>> hint_of("1,035"), hint_of("2024-01-31"), hint_of("30-39")
    ('--thousands , reads it as a number', '--dates reads the column as dates', '')
    """
    return next((hint for pattern, hint in FORMATS if re.fullmatch(pattern, cell)), "")
