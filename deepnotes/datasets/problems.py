"""The problems of a data file, collected so that one error can report all of them."""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from deepnotes.utils.errors import TableError

MAX_POSITIONS = 5
"""The largest number of missing or unreadable values whose lines or rows an error lists."""

MAX_SHOWN = 20
"""The largest number of problems that an error describes; it reports the number of the others."""


@dataclass
class Gap:
    """The missing values of a column, or other values that cannot be used.

    Attributes
    ----------
    count : int
        The number of these values.
    positions : list of int
        The lines of the first few of them, or their rows, counted from 1, if the file has no lines.
    description : str
        The content of the first of these cells, and what was expected instead.
    by_line : bool
        Whether the positions are lines.
    state : str
        What the values are: missing, unreadable or unknown.
    """

    count: int
    positions: list[int]
    description: str
    by_line: bool = False
    state: str = "missing"

    @classmethod
    def of_rows(cls, missing: NDArray[np.bool_], description: str, state: str = "missing") -> "Gap":
        """Return a Gap from the mask of the values, shape (m,), which must have at least one True."""
        rows = np.flatnonzero(missing)
        return cls(len(rows), [int(row) + 1 for row in rows[:MAX_POSITIONS]], description, False, state)

    def moved(self, rows: int) -> "Gap":
        """Return the Gap for a part of a file that follows this number of rows; lines do not depend on it."""
        return self if self.by_line else replace(self, positions=[row + rows for row in self.positions])

    def followed_by(self, other: "Gap") -> "Gap":
        """Return the Gap of a column of two parts of a file."""
        positions = [*self.positions, *other.positions][:MAX_POSITIONS]
        return replace(self, count=self.count + other.count, positions=positions)

    def message(self, source: str, name: str) -> str:
        """Return the error message about the missing values of the column `name`."""
        first, *rest = self.positions
        place = f"{source}:{first}:" if self.by_line else f"{source}: row {first}:"
        message = f"{place} column {name!r} has {self.description}"
        more = self.count - 1
        if not more:
            return message
        unit = "line" if self.by_line else "row"
        if more == 1:
            return f"{message}; one more is {self.state}, in {unit} {rest[0]}"
        dots = ", ..." if more > len(rest) else ""
        return f"{message}; {more:,} more are {self.state}, in {unit}s {', '.join(map(str, rest))}{dots}"


@dataclass(frozen=True)
class Problem:
    """Values of one column that cannot be used.

    Parameters
    ----------
    source : str
        The name of the file.
    name : str
        The name of the column.
    gap : Gap
        What is wrong with the values, how many there are, and where the first few are.
    remedy : str
        The option that mends the problem.
    """

    source: str
    name: str
    gap: Gap
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.gap.message(self.source, self.name)}{f'; {self.remedy}' if self.remedy else ''}"

    def merged(self, other: "Problem") -> "Problem":
        """Return the problem of two parts of a file; the values of `other` come after those of this one."""
        return replace(self, gap=self.gap.followed_by(other.gap))


class Problems:
    """The problems of a data file.

    Parameters
    ----------
    source : str
        The name of the file.

    Examples
    --------
    >>> problems = Problems("flats.csv")
    >>> with problems.collecting():
    ...     raise TableError("flats.csv:1: two columns have the name 'area'")
    >>> problems.add("price", Gap(2, [3, 5], "an empty cell where a number was expected", True), "use --impute mean")
    >>> try:
    ...     problems.check()
    ... except TableError as error:
    ...     print(error, *error.__notes__, sep="\\n")
    flats.csv:1: two columns have the name 'area'
      flats.csv:3: column 'price' has an empty cell where a number was expected; one more is missing, in line 5; use --impute mean
    """  # noqa: E501 - a long line of output

    def __init__(self, source: str) -> None:
        self.source = source
        self._problems: dict[Hashable, Problem | str] = {}

    def __bool__(self) -> bool:
        return bool(self._problems)

    @property
    def columns(self) -> set[str]:
        """The names of the columns that have a problem with some of their values."""
        return {problem.name for problem in self._problems.values() if isinstance(problem, Problem)}

    def add(self, name: str, gap: Gap, remedy: str = "") -> None:
        """Add a problem with some values of the column `name`."""
        self.note(Problem(self.source, name, gap, remedy))

    def note(self, problem: Problem | str) -> None:
        """Add a problem; if the same column already has a problem of the same kind, the two become one."""
        if isinstance(problem, str):
            self._problems[problem] = problem
            return
        key = problem.name, problem.gap.state
        before = self._problems.get(key)
        self._problems[key] = before.merged(problem) if isinstance(before, Problem) else problem

    def update(self, other: "Problems") -> None:
        """Add all problems of `other`."""
        for problem in other._problems.values():
            self.note(problem)

    @contextmanager
    def collecting(self, first_row: int = 0) -> Iterator[None]:
        """Add the problems that a TableError in the block reports, instead of raising it.

        Parameters
        ----------
        first_row : int
            The number of rows of the file before the part that the block is about.
        """
        try:
            yield
        except TableError as error:
            for problem in error.problems or (str(error),):
                if isinstance(problem, Problem):
                    problem = replace(problem, gap=problem.gap.moved(first_row))
                self.note(problem)  # type: ignore[arg-type]

    def check(self, advice: str = "") -> None:
        """Raise TableError if there is a problem: the message describes the first, and each note another one.

        Parameters
        ----------
        advice : str
            How to mend unreadable values that have no remedy of their own.
        """
        problems = tuple(
            replace(problem, remedy=problem.remedy or advice)
            if isinstance(problem, Problem) and problem.gap.state == "unreadable"
            else problem
            for problem in self._problems.values()
        )
        if not problems:
            return
        error = TableError(str(problems[0]))
        error.problems = problems
        for problem in problems[1:MAX_SHOWN]:
            error.add_note(f"  {problem}")
        if len(problems) > MAX_SHOWN:
            error.add_note(f"  and {len(problems) - MAX_SHOWN:,} more")
        raise error
