"""A sweep over width and batch: the time of a step, and where the fastest contender changes."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from deepnotes.testing.bench.cases import Case
from deepnotes.testing.bench.contenders import Contender
from deepnotes.testing.bench.limits import Ceilings, location
from deepnotes.testing.bench.runs import Measurement, estimate_seconds, least_seconds, steps
from deepnotes.utils.wording import reason

WIDTHS = (8, 32, 128, 512, 2048, 8192)
BATCHES = (1, 16, 256, 4096, 65_536)
LONGEST_STEP = 2.0
"""The seconds of a step above which a case is left out."""

LEAD = 1.1
"""The factor by which a contender must be faster than the previous one to overtake it."""


class Point(NamedTuple):
    """A case of a line, at `x`; several lines may share a case."""

    line: str
    x: int
    case: Case


class Overtaking(NamedTuple):
    """The approximate `x` on a line at which `after` becomes faster than `before`."""

    x: float
    before: str
    after: str


def with_width(case: Case, width: int) -> Case:
    """Return the case with hidden layers of the given width, or with one hidden layer if it has none.

    Examples
    --------
    >>> with_width(Case((64, 128, 32, 10), 64), 8).network
    '64-8-8-10'
    """
    hidden = max(1, len(case.sizes) - 2)
    return case._replace(sizes=(case.sizes[0], *[width] * hidden, case.sizes[-1]))


def around(case: Case) -> list[Point]:
    """Return the points of two lines: over the width of the hidden layers, and over the batch."""
    batches = sorted({*BATCHES, case.batch})
    over_width = [Point("width", width, with_width(case, width)) for width in WIDTHS]
    return over_width + [Point("batch", batch, case._replace(batch=batch)) for batch in batches]


def grid(dtype: str = "float32") -> list[Point]:
    """Return the points of one line per batch size, over the width of inputs and both layers."""
    return [Point(f"batch {batch:,}", width, Case((width,) * 3, batch, dtype)) for batch in BATCHES for width in WIDTHS]


def sweep(
    points: Sequence[Point],
    contenders: Sequence[Contender],
    limits: Mapping[str, Ceilings],
    seconds: float,
    rounds: int = 3,
    on_point: Callable[[Point, int, float], None] | None = None,
) -> list[Measurement]:
    """Measure the points within about a number of seconds, the least work first.

    A point that is too large for the memory, would take too long or is reached after the time is up has the reason, as
    ``skipped``, instead of times. A contender that alone would take too long is left out of the point.

    Parameters
    ----------
    on_point : callable, optional
        Called before each measurement with the point, the number of points before it, and the seconds left.
    """
    end = time.perf_counter() + seconds
    by_case: dict[Case, Measurement] = {}
    cases = sorted({point.case for point in points}, key=lambda case: least_seconds(case, limits))
    where = {point.case: point for point in points}
    for number, case in enumerate(cases):
        left = end - time.perf_counter()
        if on_point is not None:
            on_point(where[case], number, max(0.0, left))
        able = [c for c in contenders if _least_step_seconds(case, c, limits) <= LONGEST_STEP]
        why = _reason_to_skip(case, able, contenders, limits, left, rounds)
        if why is None:
            try:
                by_case[case] = steps(case, able, limits, rounds)
                continue
            except MemoryError as error:
                why = f"out of memory: {reason(error)}"
        by_case[case] = {"network": case.network, "batch": case.batch, "dtype": case.dtype, "skipped": why}
    return [{"line": point.line, "x": point.x, **by_case[point.case]} for point in points]


def _least_step_seconds(case: Case, contender: Contender, limits: Mapping[str, Ceilings]) -> float:
    """Return the least seconds of a step at the location of a contender."""
    where = location(contender.backend)
    return least_seconds(case, {where: limits[where]})


def _reason_to_skip(
    case: Case,
    able: Sequence[Contender],
    contenders: Sequence[Contender],
    limits: Mapping[str, Ceilings],
    left: float,
    rounds: int,
) -> str | None:
    """Return why a case cannot be measured, or None."""
    too_large = case.too_large(case.batch)
    if too_large:
        return too_large
    if not able:
        least = min(_least_step_seconds(case, c, limits) for c in contenders)
        return f"one step takes {least:.1f} s or more, and the limit is {LONGEST_STEP:g} s"
    return "the time is up" if sum(estimate_seconds(case, c, limits, rounds) for c in able) > left else None


def lines(found: Sequence[Measurement]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Return pairs of x and microseconds, by line and contender, in increasing order of x."""
    drawn: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for point in sorted(found, key=lambda point: int(point["x"])):
        for who, microseconds in point.get("microseconds", {}).items():
            drawn.setdefault(point["line"], {}).setdefault(who, []).append((point["x"], microseconds))
    return drawn


def overtakings(line: Mapping[str, Sequence[tuple[int, float]]]) -> list[Overtaking]:
    """Return where the fastest contender of a line changes, interpolated on logarithmic axes.

    A lead below the factor `LEAD` does not count, since it can be noise.

    Examples
    --------
    >>> overtakings({"a": [(1, 1.0), (100, 100.0)], "b": [(1, 10.0), (100, 10.0)]})
    [Overtaking(x=10.0, before='a', after='b')]
    """
    at: dict[int, dict[str, float]] = {}
    for who, points in line.items():
        for x, microseconds in points:
            at.setdefault(x, {})[who] = microseconds
    found: list[Overtaking] = []
    before = ""
    for x0, x1 in pairwise(sorted(at)):
        before = before or min(at[x0], key=at[x0].__getitem__)
        after = min(at[x1], key=at[x1].__getitem__)
        if before not in at[x1] or after not in at[x0] or at[x1][before] < LEAD * at[x1][after]:
            continue
        behind, ahead = (math.log(at[x][after] / at[x][before]) for x in (x0, x1))
        fraction = behind / (behind - ahead) if behind > 0 else 0.0
        between = math.exp(math.log(x0) + fraction * math.log(x1 / x0))
        found.append(Overtaking(float(f"{between:.3g}"), before, after))
        before = after
    return found


def skipped(found: Sequence[Measurement]) -> list[tuple[Any, str]]:
    """Return network and batch of each skipped case, and the reason."""
    return list(dict.fromkeys(((f["network"], f["batch"]), f["skipped"]) for f in found if "skipped" in f))
