"""Shared by the readers of data files: requests, contents, and limits on memory."""

import codecs
from collections.abc import Collection, Container, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepnotes.utils.errors import ArgumentError, TableError
from deepnotes.utils.wording import listed

Column = NDArray[np.float64] | NDArray[np.str_]
"""One column of a table: numbers or text, shape (m,). NaN or an empty text stands where a value is missing."""

RATIO, FREE = 64, 1 << 30
"""A file may unpack to `RATIO` times its size plus `FREE` bytes: more is a bomb, or needs another format."""

MOST_COMPARED = 5000
"""The largest number of names that are searched for the nearest match, which is slow."""

MOST_PLACES = 5
"""The number of missing values whose places are reported."""

EXACT = 2**53
"""Up to this number, float64 represents every integer."""

WHITESPACE = "whitespace"
"""The separator that is any run of spaces and tabs."""

BAD_MARKS = frozenset('"\r\n\\' + "0123456789" + "abcdefghijklmnopqrstuvwxyz" + "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
"""Characters that can be neither a separator nor a decimal point."""


@dataclass(frozen=True)
class Format:
    """How values are written in a text file, or in the text columns of a Parquet file.

    Parameters
    ----------
    separator : str, optional
        The separator of cells; by default detected: comma, semicolon, tab or ``|``. ``"whitespace"`` is any run of
        spaces and tabs.
    decimal : str
        The decimal point.
    thousands : str, optional
        The character that groups the digits before the decimal point by threes.
    strip : str
        Characters that are dropped before and after numbers, such as ``$%``.
    encoding : str
        The name of an encoding that Python knows.
    header : bool
        Whether the first row holds the column names; otherwise they are x0, x1, ...
    skip_rows : int
        The number of lines to skip at the beginning of the file, such as a title above the header.
    comment : str, optional
        The character that begins a comment, which ends with its line.
    missing_values : sequence of str
        Further spellings of a missing value, in columns of numbers and of text.
    date_format : str, optional
        How dates are written, as for :func:`time.strptime`; by default ISO 8601.

    Raises
    ------
    ArgumentError
    """

    separator: str | None = None
    decimal: str = "."
    thousands: str | None = None
    strip: str = ""
    encoding: str = "utf-8"
    header: bool = True
    skip_rows: int = 0
    comment: str | None = None
    missing_values: Sequence[str] = ()
    date_format: str | None = None

    def __post_init__(self) -> None:
        for name in ("separator", "decimal", "thousands", "comment"):
            value = getattr(self, name)
            if (value is None and name != "decimal") or (name, value) == ("separator", WHITESPACE):
                continue
            blanks = "\u00a0\u202f" if name == "thousands" else ""  # which would break numbers apart
            if isinstance(value, str) and len(value) == 1 and value in blanks:
                continue
            if not isinstance(value, str) or len(value) != 1 or not value.isascii() or value in BAD_MARKS:
                raise ArgumentError.of(name, value, "one ASCII character that is no letter, digit or quote")
        marks = [mark for mark in (self.separator, self.decimal, self.thousands, self.comment) if mark is not None]
        if len(set(marks)) < len(marks):
            told = f"separator={self.separator!r}, decimal={self.decimal!r}, thousands={self.thousands!r}"
            raise ArgumentError(f"{told}, comment={self.comment!r}: they must differ")
        if not isinstance(self.strip, str) or set(self.strip) & set("0123456789.,+-eE"):
            raise ArgumentError.of("strip", self.strip, "characters that are no part of a number, such as '$%'")
        if set(self.strip) & set("()\u2212"):
            raise ArgumentError(f"strip={self.strip!r} has a sign: accountants write (5) for -5; correct the file")
        if not isinstance(self.header, bool):
            raise ArgumentError.of("header", self.header, "True or False")
        if not isinstance(self.skip_rows, int) or isinstance(self.skip_rows, bool) or self.skip_rows < 0:
            raise ArgumentError.of("skip_rows", self.skip_rows, "a number of lines, such as 1")
        try:
            if not codecs.lookup(self.encoding)._is_text_encoding:
                raise LookupError
        except (LookupError, TypeError, ValueError):
            raise ArgumentError.of("encoding", self.encoding, "one that Python knows, such as latin-1") from None
        if isinstance(self.missing_values, str) or not all(isinstance(value, str) for value in self.missing_values):
            raise ArgumentError.of("missing_values", self.missing_values, "a sequence of strings")
        object.__setattr__(self, "missing_values", tuple(value.strip() for value in self.missing_values))
        if self.date_format is not None and (not isinstance(self.date_format, str) or "%" not in self.date_format):
            raise ArgumentError.of("date_format", self.date_format, "one such as '%d/%m/%Y'")

    @property
    def is_plain(self) -> bool:
        """Whether numbers have the default notation of programs."""
        return self.decimal == "." and self.thousands is None and not self.strip


@dataclass(frozen=True)
class Request:
    """Which columns of a file are read, and how.

    Parameters
    ----------
    columns : collection of str, optional
        Only these; by default all.
    exclude : collection of str
        Columns that are not read at all.
    text : collection of str
        Columns to read as text, even if they look like numbers.
    numeric : collection of str
        Columns to read as numbers: anything else in them is an error.
    dates : collection of str
        Columns to read as dates, which become days since 1970-01-01.
    spelled : collection of str
        Columns whose spelling is kept beside their numbers.
    drop_missing : collection of str
        Columns in which a missing value drops its row.
    format : Format
    lists : bool
        Whether a name that no column has is a comma-separated list of names.
    """

    columns: Collection[str] | None = None
    exclude: Collection[str] = ()
    text: Collection[str] = ()
    numeric: Collection[str] = ()
    dates: Collection[str] = ()
    spelled: Collection[str] = ()
    drop_missing: Collection[str] = ()
    format: Format = Format()
    lists: bool = False

    def __post_init__(self) -> None:
        for argument in ARGUMENTS:
            value = getattr(self, argument)
            if isinstance(value, str) or not isinstance(value, Iterable | None):
                raise ArgumentError.of(argument, value, "a collection of column names")
            if value is not None:  # in order, and quick to look up, since a file may have very many
                object.__setattr__(self, argument, dict.fromkeys(value))

    def takes(self, name: str) -> bool:
        """Return whether the column is read."""
        return name not in self.exclude and (self.columns is None or name in self.columns)

    def names(self, name: str) -> bool:
        """Return whether the column is requested by name."""
        return any(name in (getattr(self, argument) or ()) for argument in ARGUMENTS if argument != "exclude")

    def resolved(self, source: str, names: Sequence[str]) -> "Request":
        """Resolve the request for a file whose columns have these `names`.

        Raises
        ------
        TableError
            If a requested name is not among them.
        ArgumentError
            If a column is requested as two kinds at once.
        """
        given = {argument: getattr(self, argument) for argument in ARGUMENTS}
        if not any(given.values()):
            return self
        known = set(names)
        if self.lists:
            given = {
                argument: None if value is None else split_names(value, known) for argument, value in given.items()
            }
        require_names(source, [name for value in given.values() for name in value or ()], names, known)
        if both := set(given["text"]) & set(given["exclude"]):
            raise ArgumentError(f"--categorical {', '.join(sorted(both))}: excluded, and so no feature (text, exclude)")
        kinds = [set(given[argument]) for argument in ("text", "numeric", "dates")]
        if both := (kinds[0] & kinds[1]) | (kinds[0] & kinds[2]) | (kinds[1] & kinds[2]):
            told = "it can be one of categorical (text), numeric and dates"
            raise ArgumentError(f"column {min(both)!r} is asked for as two things at once; {told}")
        return replace(self, **given, lists=False)


ARGUMENTS = ("columns", "exclude", "text", "numeric", "dates", "spelled", "drop_missing")
"""The fields of a request that name columns."""

EVERYTHING = Request()


def split_names(given: Iterable[str], known: Container[str]) -> list[str]:
    """Return column names, where each `given` one is a name or a comma-separated list of names.

    Examples
    --------
    >>> split_names(["last, first", "id,zip"], {"last, first", "id", "zip"})
    ['last, first', 'id', 'zip']
    """
    return [
        part for name in given for part in ([name] if name in known else [part.strip() for part in name.split(",")])
    ]


@dataclass
class Gap:
    """The missing values of a column.

    Attributes
    ----------
    count : int
    places : list of int
        The lines (or rows, counted from 1, of files that have no lines) of the first few.
    told : str
        The content of the first of them, and what was expected there.
    by_line : bool
        Whether the places are lines.
    """

    count: int
    places: list[int]
    told: str
    by_line: bool = False

    @classmethod
    def of_rows(cls, missing: NDArray[np.bool_], told: str) -> "Gap":
        """Return the gap of a column where `missing`, shape (m,), is true at least once."""
        rows = np.flatnonzero(missing)
        return cls(len(rows), [int(row) + 1 for row in rows[:MOST_PLACES]], told)

    def words(self, source: str, name: str) -> str:
        """Return the words of an error about it."""
        first, *rest = self.places
        place = f"{source}:{first}:" if self.by_line else f"{source}: row {first}:"
        told = f"{place} column {name!r} has {self.told}"
        more = self.count - 1
        if not more:
            return told
        unit = "line" if self.by_line else "row"
        if more == 1:
            return f"{told}; one more is missing, in {unit} {rest[0]}"
        dots = ", ..." if more > len(rest) else ""
        return f"{told}; {more:,} more are missing, in {unit}s {', '.join(map(str, rest))}{dots}"


@dataclass
class Content:
    """What a reader found in a file.

    Attributes
    ----------
    columns : dict of str to array
        The requested columns.
    lines : dict of str to int
        The line of each column's first value, for files that have lines.
    gaps : dict of str to Gap
        The missing values of the columns that have any.
    names : list of str
        The names of all columns in the file, in its order, including those not requested.
    spelled : dict of str to array
        The original spelling of the values, for the columns where it was requested.
    notes : list of str
        Notes on columns that were left out automatically.
    """

    columns: dict[str, Column]
    lines: dict[str, int] = field(default_factory=dict)
    gaps: dict[str, Gap] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    spelled: dict[str, NDArray[np.str_]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def index_note(name: str) -> str:
    """Return the note on a column that was left out because it is an index: a pandas frame's, or R's row names."""
    told = f"column {name!r}" if name else "the first column, which has no name,"
    return f"{told} is an index, and was left out"


def missing_in(column: Column) -> NDArray[np.bool_]:
    """Return the mask of missing values of a column, shape (m,)."""
    return np.asarray(column == "" if column.dtype.kind == "U" else np.isnan(column))


def label_of(value: Any) -> str:
    """Return the class or category name of a number or boolean: a whole number has no decimal point.

    Examples
    --------
    >>> label_of(2.0), label_of(0.5), label_of(True)
    ('2', '0.5', 'True')
    """
    if isinstance(value, bool | np.bool_) or value != value:
        return str(value) if value == value else ""
    return str(int(value)) if value == int(value) else repr(float(str(value)))


def labels_of(column: NDArray[Any]) -> NDArray[np.str_]:
    """Return a column as text, shape (m,): each value as named by :func:`label_of`, text unchanged."""
    if column.dtype.kind == "U":
        return column
    values, inverse = np.unique(column, return_inverse=True)
    texts: NDArray[np.str_] = np.array([label_of(value) for value in values], np.str_)[inverse]
    return texts


def merged(whole: Iterable[int]) -> tuple[int, int] | None:
    """Return two of the integers that are equal as float64, or None.

    Examples
    --------
    >>> merged([2**53, 2**53 + 1])
    (9007199254740992, 9007199254740993)
    """
    seen: dict[float, int] = {}
    for value in sorted(set(whole)):
        if (other := seen.setdefault(float(value), value)) != value:
            return other, value
    return None


def require_distinct(whole: Iterable[int], what: str) -> None:
    """Raise TableError if two integers of a column become equal as float64; `what` names the column."""
    if two := merged(whole):
        raise TableError(
            f"{what} has {two[0]} and {two[1]}, whole numbers that float64 cannot tell apart; exclude it, or name it "
            "among the categorical ones"
        )


def gaps_of(columns: dict[str, Column]) -> dict[str, Gap]:
    """Return the gaps of columns of a file that has no lines."""
    found = {}
    for name, column in columns.items():
        if (missing := missing_in(column)).any():
            text = column.dtype.kind == "U"
            told = "an empty text where a value was expected" if text else "nan where a finite number was expected"
            found[name] = Gap.of_rows(missing, told)
    return found


def has_room(wanted: int, size: int) -> bool:
    """Return whether a file of `size` bytes may unpack to `wanted` bytes."""
    return wanted <= FREE + RATIO * size


def require_room(wanted: int, size: int, what: str, remedy: str = "") -> None:
    """Raise TableError if the content of a file of `size` bytes would take more memory than such a file may.

    Parameters
    ----------
    wanted, size : int
    what : str
        What needs the memory, with its place.
    remedy : str
        What to do if the file is intended.
    """
    if not has_room(wanted, size):
        hint = f"; {remedy}" if remedy else ""
        raise TableError(f"{what} would take {wanted:,} bytes of memory, too many for a file of {size:,}{hint}")


def repeated(names: Iterable[str]) -> str | None:
    """Return the first name that occurs twice, or None."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def require_names(source: str, names: Iterable[str], known: Sequence[str], there: Container[str] | None = None) -> None:
    """Raise TableError if some names are not among the known ones, with the nearest match of each.

    `there` holds the known names in a form that is quick to look up, if the caller has one.
    """
    there = set(known) if there is None else there
    if missing := list(dict.fromkeys(name for name in names if name not in there)):
        lower = {name.lower(): name for name in known}
        told = ", ".join(f"no column {name!r}{_nearest(name, lower)}" for name in missing[:10])
        more = ", ..." if len(missing) > 10 else ""
        raise TableError(f"{source}: {told}{more}; columns: {listed(known)}")


def _nearest(name: object, lower: dict[str, str]) -> str:
    import difflib

    if len(lower) > MOST_COMPARED:
        return ""
    near = difflib.get_close_matches(str(name).lower(), lower, n=1, cutoff=0.5)
    return f" (did you mean {lower[near[0]]!r}?)" if near else ""
