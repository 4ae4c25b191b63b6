"""What the readers of data files have in common: what is asked of a file, what came of it, how much it may take."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from deepnotes.errors import ArgumentError, TableError
from deepnotes.wording import listed

Column = NDArray[np.float64] | NDArray[np.str_]
"""One column of a table: numbers or text, shape (m,). NaN or an empty text stands where a value is missing."""

RATIO, FREE = 64, 1 << 30
"""A file may unpack to as many times its size, and so many bytes beside: more is a bomb, or needs another format."""

MOST_COMPARED = 5000
"""Names among which the nearest is looked for, which takes a while."""

MOST_PLACES = 5
"""Missing values whose places are told."""


@dataclass(frozen=True)
class Request:
    """Which columns of a file are read, and how.

    Parameters
    ----------
    columns : collection of str, optional
        Only these; by default all.
    exclude : collection of str
        None of these: they are not even looked at.
    text : collection of str
        These as text, even if they look like numbers.
    """

    columns: Collection[str] | None = None
    exclude: Collection[str] = ()
    text: Collection[str] = ()

    def __post_init__(self) -> None:
        for argument in ("columns", "exclude", "text"):
            value = getattr(self, argument)
            if isinstance(value, str) or not isinstance(value, Iterable | None):
                raise ArgumentError(f"{argument} is {value!r}; a collection of column names was wanted")
            if value is not None:  # in their order, and quick to look up: a file may have very many
                object.__setattr__(self, argument, dict.fromkeys(value))

    def takes(self, name: str) -> bool:
        """Return whether the column is read."""
        return name not in self.exclude and (self.columns is None or name in self.columns)

    def require_known(self, source: str, names: Sequence[str]) -> None:
        """Raise TableError if it has a name that is none of the `names` in a file."""
        require_names(source, [*(self.columns or ()), *self.exclude, *self.text], names)


EVERYTHING = Request()


@dataclass
class Gap:
    """The missing values of a column.

    Attributes
    ----------
    count : int
    places : list of int
        The lines (or rows, counted from 1, of files that have no lines) of the first few.
    told : str
        What stands in the first of them, and what was expected there.
    by_line : bool
        Whether the places are lines.
    """

    count: int = 0
    places: list[int] = field(default_factory=list)
    told: str = ""
    by_line: bool = True

    def note(self, place: int, told: str) -> None:
        """Count one more."""
        self.told = self.told or told
        if self.wants_places:
            self.places.append(place)
        self.count += 1

    @property
    def wants_places(self) -> bool:
        """Whether the place of the next one will be told."""
        return self.count < MOST_PLACES

    @classmethod
    def of_rows(cls, missing: NDArray[np.bool_], told: str) -> "Gap":
        """Return the gap of a column where `missing`, shape (m,), is true at least once."""
        rows = np.flatnonzero(missing)
        return cls(len(rows), [int(row) + 1 for row in rows[:MOST_PLACES]], told, by_line=False)

    def words(self, source: str, name: str) -> str:
        """Return what an error says of it."""
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
    """What came of a file.

    Attributes
    ----------
    columns : dict of str to array
        Those that were asked for.
    lines : dict of str to int
        The line where each column's first value stands, as far as there are lines.
    gaps : dict of str to Gap
        The missing values of the columns that have any.
    names : list of str
        Of all columns in the file, in its order, those that were not asked for, too.
    """

    columns: dict[str, Column]
    lines: dict[str, int] = field(default_factory=dict)
    gaps: dict[str, Gap] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)


def missing_in(column: Column) -> NDArray[np.bool_]:
    """Return where a column has no value, shape (m,)."""
    return np.asarray(column == "" if column.dtype.kind == "U" else np.isnan(column))


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
    """Return whether a file of `size` bytes may unpack to as many as are `wanted`."""
    return wanted <= FREE + RATIO * size


def require_room(wanted: int, size: int, what: str, remedy: str = "") -> None:
    """Raise TableError if what a file of `size` bytes holds would take more memory than such a file may.

    Parameters
    ----------
    wanted, size : int
    what : str
        What wants the memory, with its place.
    remedy : str
        What to do if the file is meant so.
    """
    if not has_room(wanted, size):
        hint = f"; {remedy}" if remedy else ""
        raise TableError(f"{what} would take {wanted:,} bytes of memory, too many for a file of {size:,}{hint}")


def repeated(names: Iterable[str]) -> str | None:
    """Return the first name that is there twice, or None."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def require_names(source: str, names: Iterable[str], known: Sequence[str]) -> None:
    """Raise TableError if some of the names are none of the known ones, with the nearest of each."""
    there = set(known)
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
