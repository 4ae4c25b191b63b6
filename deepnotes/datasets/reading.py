"""What the readers of data files share: formats, requests, contents, missing values, labels and memory limits."""

import codecs
from collections.abc import Collection, Container, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepnotes.datasets.problems import Gap, Problems
from deepnotes.utils.errors import ArgumentError, TableError
from deepnotes.utils.wording import join_names

Column = NDArray[np.float64] | NDArray[np.str_]
"""One column of a table, shape (m,): numbers, or text. A missing value is NaN, or an empty string."""

RATIO, FREE = 64, 1 << 30
"""A file whose content takes more than `RATIO` times its size plus `FREE` bytes is refused as a decompression bomb."""

MAX_COMPARED = 5000
"""If there are more names than this, an error does not suggest the nearest match, since the search would be slow."""

EXACT = 2**53
"""The number up to which float64 represents every integer."""

WHITESPACE = "whitespace"
"""The value of `separator` that stands for any run of spaces and tabs."""

INVALID_MARKS = frozenset('"\r\n\\' + "0123456789" + "abcdefghijklmnopqrstuvwxyz" + "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
"""Characters that cannot be a separator of cells, decimals or thousands, or the start of a comment."""

NO_BREAK_SPACES = "\u00a0\u202f"
"""Characters outside ASCII that may separate thousands."""


@dataclass(frozen=True)
class Format:
    """The notation of values in a text file, or in the text columns of a Parquet file.

    Parameters
    ----------
    separator : str, optional
        The separator of cells; by default, it is detected: comma, semicolon, tab or ``|``. ``"whitespace"`` stands for
        any run of spaces and tabs.
    decimal : str
        The decimal separator.
    thousands : str, optional
        The thousands separator.
    strip : str
        Characters that are removed before and after numbers, such as ``$%``.
    encoding : str
        The name of an encoding that Python knows.
    header : bool
        Whether the first row holds the column names; otherwise they are x0, x1, ...
    skip_rows : int
        The number of lines to skip at the beginning of the file, such as a title above the header.
    comment : str, optional
        The character that begins a comment, which extends to the end of the line.
    missing_values : sequence of str
        Further spellings of missing values, in numeric and text columns.
    date_format : str, optional
        The format of dates, as for :func:`time.strptime`; by default ISO 8601.

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
        self._check_marks()
        strip, skip, missing, dates = self.strip, self.skip_rows, self.missing_values, self.date_format
        checks = (
            (
                "strip",
                isinstance(strip, str) and not set(strip) & set("0123456789.,+-eE"),
                "characters that are not part of a number, such as '$%'",
            ),
            ("header", isinstance(self.header, bool), "True or False"),
            (
                "skip_rows",
                isinstance(skip, int) and not isinstance(skip, bool) and skip >= 0,
                "a number of lines, such as 1",
            ),
            ("encoding", _is_text_encoding(self.encoding), "an encoding that Python knows, such as latin-1"),
            (
                "missing_values",
                not isinstance(missing, str) and all(isinstance(value, str) for value in missing),
                "a sequence of strings",
            ),
            (
                "date_format",
                dates is None or (isinstance(dates, str) and "%" in dates),
                "a format such as '%d/%m/%Y'",
            ),
        )
        for name, is_valid, wanted in checks:
            if not is_valid:
                raise ArgumentError.of(name, getattr(self, name), wanted)
        if set(strip) & set("()\u2212"):
            raise ArgumentError(f"strip={strip!r} would remove signs: (5) may mean -5; write it as -5 in the file")
        object.__setattr__(self, "missing_values", tuple(value.strip() for value in missing))

    def _check_marks(self) -> None:
        """Raise ArgumentError unless the separators and the comment character are valid and distinct."""
        marks = {name: getattr(self, name) for name in ("separator", "decimal", "thousands", "comment")}
        for name, mark in marks.items():
            if mark is None and name != "decimal":
                continue
            special = {"separator": (WHITESPACE,), "thousands": tuple(NO_BREAK_SPACES)}.get(name, ())
            is_mark = isinstance(mark, str) and len(mark) == 1 and mark.isascii() and mark not in INVALID_MARKS
            if not is_mark and mark not in special:
                raise ArgumentError.of(name, mark, "one ASCII character other than a letter, a digit, a quote or \\")
        used = [mark for mark in marks.values() if mark is not None]
        if len(set(used)) < len(used):
            raise ArgumentError(f"{', '.join(f'{name}={mark!r}' for name, mark in marks.items())}: they must differ")

    @property
    def is_plain(self) -> bool:
        """Whether numbers are written as in programs, with a decimal point and without thousands separators."""
        return self.decimal == "." and self.thousands is None and not self.strip


def _is_text_encoding(encoding: object) -> bool:
    """Return whether Python knows a text encoding by this name."""
    try:
        return bool(codecs.lookup(encoding)._is_text_encoding)  # type: ignore[arg-type]
    except (LookupError, TypeError, ValueError):
        return False


@dataclass(frozen=True)
class Request:
    """The columns to read from a file, and their types.

    Parameters
    ----------
    columns : collection of str, optional
        The columns to read; by default all.
    exclude : collection of str
        Columns that are not read at all.
    text : collection of str
        Columns to read as text, even if they look like numbers.
    numeric : collection of str
        Columns to read as numbers; anything else in them is an error.
    dates : collection of str
        Columns to read as dates, which become days since 1970-01-01.
    spelled : collection of str
        Columns whose values are also kept as they are spelled in the file, such as 007.
    drop_missing : collection of str
        Columns in which a missing value drops its row.
    format : Format
    lists : bool
        Whether to read a requested name that is not a column of the file as a comma-separated list of names.
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
        for argument in NAME_FIELDS:
            value = getattr(self, argument)
            if isinstance(value, str) or not isinstance(value, Iterable | None):
                raise ArgumentError.of(argument, value, "a collection of column names")
            if value is not None:  # a dict keeps the order and looks names up fast, even among very many
                object.__setattr__(self, argument, dict.fromkeys(value))

    def includes(self, name: str) -> bool:
        """Return whether the column is to be read."""
        return name not in self.exclude and (self.columns is None or name in self.columns)

    def mentions(self, name: str) -> bool:
        """Return whether the column is requested by name."""
        return any(name in (getattr(self, argument) or ()) for argument in NAME_FIELDS if argument != "exclude")

    def resolve(self, source: str, names: Sequence[str]) -> "Request":
        """Return the request for a file whose columns have these `names`, with lists of names split.

        Raises
        ------
        TableError
            If the file does not have a requested column.
        ArgumentError
            If a column is requested with two types, or is both text and excluded.
        """
        requested = {argument: getattr(self, argument) for argument in NAME_FIELDS}
        if not any(requested.values()):
            return self
        known = set(names)
        if self.lists:
            requested = {
                argument: None if value is None else split_names(value, known) for argument, value in requested.items()
            }
        require_names(source, [name for value in requested.values() for name in value or ()], names, known)
        if conflicts := set(requested["text"]) & set(requested["exclude"]):
            raise ArgumentError(
                f"column {min(conflicts)!r} is both categorical and excluded (--categorical and --exclude, or text= "
                "and exclude=)"
            )
        text, numeric, dates = (set(requested[argument]) for argument in ("text", "numeric", "dates"))
        if conflicts := (text & numeric) | (text & dates) | (numeric & dates):
            raise ArgumentError(
                f"column {min(conflicts)!r} is requested with two types; wanted only one of categorical "
                "(text), numeric and dates"
            )
        return replace(self, **requested, lists=False)


NAME_FIELDS = ("columns", "exclude", "text", "numeric", "dates", "spelled", "drop_missing")
"""The fields of a :class:`Request` that contain column names."""

EVERYTHING = Request()
"""The request for all columns, with default options."""


def split_names(names: Iterable[str], known: Container[str]) -> list[str]:
    """Return column names: each of `names` that is not a `known` name is split at its commas.

    Examples
    --------
    >>> split_names(["last, first", "id,zip"], {"last, first", "id", "zip"})
    ['last, first', 'id', 'zip']
    """
    return [
        part for name in names for part in ([name] if name in known else [part.strip() for part in name.split(",")])
    ]


@dataclass
class Content:
    """The columns that a reader has read from a file.

    Attributes
    ----------
    columns : dict of str to array
        The requested columns.
    lines : dict of str to int
        The line of the first value of each column, by column name; empty if the file has no lines.
    gaps : dict of str to Gap
        The missing values of each column that has any.
    names : list of str
        The names of all columns in the file, in order, including the columns that were not requested.
    spelled : dict of str to array
        The values as they are spelled in the file, for the columns whose spelling was requested.
    notes : list of str
        Notes on columns that were left out automatically.
    problems : Problems, optional
        What prevents the file from being used; the content is then complete enough to look for further problems only.
    """

    columns: dict[str, Column]
    lines: dict[str, int] = field(default_factory=dict)
    gaps: dict[str, Gap] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    spelled: dict[str, NDArray[np.str_]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: Problems | None = None


def index_note(name: str) -> str:
    """Return the note on a column that was left out: the index of a pandas DataFrame, or row names written by R."""
    column = f"column {name!r}" if name else "the first column, which has no name,"
    return f"{column} is an index and was left out"


def missing_in(column: Column) -> NDArray[np.bool_]:
    """Return a mask, shape (m,), that is True where a value of the column is missing."""
    return np.asarray(column == "" if column.dtype.kind == "U" else np.isnan(column))


def label_of(value: Any) -> str:
    """Return the class or category name for a number or boolean, without a decimal point for a whole number.

    Examples
    --------
    >>> label_of(2.0), label_of(0.5), label_of(True)
    ('2', '0.5', 'True')
    """
    if isinstance(value, bool | np.bool_) or value != value:
        return str(value) if value == value else ""
    return str(int(value)) if value == int(value) else repr(float(str(value)))


def labels_of(column: NDArray[Any]) -> NDArray[np.str_]:
    """Return a column as text, shape (m,); each number or boolean is converted by :func:`label_of`."""
    if column.dtype.kind == "U":
        return column
    values, inverse = np.unique(column, return_inverse=True)
    texts: NDArray[np.str_] = np.array([label_of(value) for value in values], np.str_)[inverse]
    return texts


def find_collision(integers: Iterable[int]) -> tuple[int, int] | None:
    """Return two different integers that are equal as float64, or None if there are none.

    Examples
    --------
    >>> find_collision([2**53, 2**53 + 1])
    (9007199254740992, 9007199254740993)
    """
    seen: dict[float, int] = {}
    for value in sorted(set(integers)):
        if (other := seen.setdefault(float(value), value)) != value:
            return other, value
    return None


def require_distinct(integers: Iterable[int], what: str) -> None:
    """Raise TableError if float64 would make two different integers in a column equal; `what` names the column."""
    if two := find_collision(integers):
        raise TableError(
            f"{what} has {two[0]} and {two[1]}, integers that are equal as float64; exclude the column, or declare it "
            "categorical"
        )


def gaps_of(columns: dict[str, Column]) -> dict[str, Gap]:
    """Return a Gap for each column that has missing values, by column name, for a file without lines."""
    gaps = {}
    for name, column in columns.items():
        if (missing := missing_in(column)).any():
            is_text = column.dtype.kind == "U"
            description = (
                "an empty string where a value was expected" if is_text else "nan where a finite number was expected"
            )
            gaps[name] = Gap.of_rows(missing, description)
    return gaps


def require_memory(needed: int, size: int, what: str, remedy: str = "") -> None:
    """Raise TableError if the content of a file would take too much memory for the size of the file.

    Parameters
    ----------
    needed : int
        The bytes that the content would take.
    size : int
        The size of the file in bytes.
    what : str
        The part of the file that needs the memory, for the error message.
    remedy : str
        Advice for a user whose file is legitimate.
    """
    if needed > FREE + RATIO * size:
        hint = f"; {remedy}" if remedy else ""
        raise TableError(f"{what} would take {needed:,} bytes of memory, too many for a file of {size:,} bytes{hint}")


def first_duplicate(names: Iterable[str]) -> str | None:
    """Return the first name that occurs twice, or None."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def require_names(
    source: str, names: Iterable[str], known: Sequence[str], known_set: Container[str] | None = None
) -> None:
    """Raise TableError if some names are unknown; the message suggests the nearest known name for each of them.

    Parameters
    ----------
    source : str
        The name of the file; the error message begins with it.
    names : iterable of str
        The names of the requested columns.
    known : sequence of str
        The names of all columns in the file.
    known_set : set of str, optional
        ``set(known)``, if the caller already has it.
    """
    known_set = set(known) if known_set is None else known_set
    if missing := list(dict.fromkeys(name for name in names if name not in known_set)):
        lower = {name.lower(): name for name in known}
        faults = ", ".join(f"no column {name!r}{_suggest(name, lower)}" for name in missing[:10])
        more = ", ..." if len(missing) > 10 else ""
        raise TableError(f"{source}: {faults}{more}; columns: {join_names(known)}")


def _suggest(name: object, lower: dict[str, str]) -> str:
    """Return the part of an error message that suggests a column; `lower` maps lower-case names to column names."""
    import difflib

    if len(lower) > MAX_COMPARED:
        return ""
    near = difflib.get_close_matches(str(name).lower(), lower, n=1, cutoff=0.5)
    return f" (did you mean {lower[near[0]]!r}?)" if near else ""
