"""A sweep over width and batch size: the time of a step at each point, and where the fastest contender changes."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from deepnotes.testing.bench.cases import Case
from deepnotes.testing.bench.contenders import Contender
from deepnotes.testing.bench.limits import PerformanceLimits, location
from deepnotes.testing.bench.runs import Measurement, estimate_seconds, least_seconds, steps
from deepnotes.utils.wording import reason

WIDTHS = (8, 32, 128, 512, 2048, 8192)
BATCHES = (1, 16, 256, 4096, 65_536)
MAX_STEP_SECONDS = 2.0
"""A case is left out if a step takes more than this number of seconds."""

MIN_LEAD = 1.1
"""The factor by which another contender must be faster than the previously fastest contender to overtake it."""


class Point(NamedTuple):
    """A point on a line of the sweep, along which either the width or the batch size varies.

    Attributes
    ----------
    line : str
        The name of the line.
    x : int
        The width or the batch size.
    case : Case
        The case to measure; points on several lines may have the same case.
    """

    line: str
    x: int
    case: Case


class Overtaking(NamedTuple):
    """The approximate `x` on a line at which contender `after` becomes faster than `before`."""

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
    """Return the points of two lines through a case: the width of the hidden layers varies, or the batch size."""
    batches = sorted({*BATCHES, case.batch})
    over_width = [Point("width", width, with_width(case, width)) for width in WIDTHS]
    return over_width + [Point("batch", batch, case._replace(batch=batch)) for batch in batches]


def grid(dtype: str = "float32") -> list[Point]:
    """Return the points of a line for each batch size, along which the width of the inputs and of two layers varies."""
    return [Point(f"batch {batch:,}", width, Case((width,) * 3, batch, dtype)) for batch in BATCHES for width in WIDTHS]


def sweep(
    points: Sequence[Point],
    contenders: Sequence[Contender],
    limits: Mapping[str, PerformanceLimits],
    seconds: float,
    rounds: int = 3,
    on_point: Callable[[Point, int, float], None] | None = None,
) -> list[Measurement]:
    """Measure as many points as possible in about the given number of seconds, those with the least work first.

    A point is skipped if it is too large for the memory, would take too long, or is reached after the time is up; its
    result then contains the reason as ``skipped``, instead of times. Contenders for which a single step would take too
    long are left out at that point.

    Parameters
    ----------
    points : sequence of Point
    contenders : sequence of Contender
    limits : mapping of str to PerformanceLimits
        The limits, by location.
    seconds : float
        The time for all measurements.
    rounds : int, default 3
    on_point : callable, optional
        Called before each case with a point, the number of cases before it, and the seconds left.
    """
    end = time.perf_counter() + seconds
    by_case: dict[Case, Measurement] = {}
    cases = sorted({point.case for point in points}, key=lambda case: least_seconds(case, limits))
    point_by_case = {point.case: point for point in points}
    for number, case in enumerate(cases):
        left = end - time.perf_counter()
        if on_point is not None:
            on_point(point_by_case[case], number, max(0.0, left))
        fast_enough = [c for c in contenders if _least_step_seconds(case, c, limits) <= MAX_STEP_SECONDS]
        why = _reason_to_skip(case, fast_enough, contenders, limits, left, rounds)
        if why is None:
            try:
                by_case[case] = steps(case, fast_enough, limits, rounds)
                continue
            except MemoryError as error:
                why = f"out of memory: {reason(error)}"
        by_case[case] = {"network": case.network, "batch": case.batch, "dtype": case.dtype, "skipped": why}
    return [{"line": point.line, "x": point.x, **by_case[point.case]} for point in points]


def _least_step_seconds(case: Case, contender: Contender, limits: Mapping[str, PerformanceLimits]) -> float:
    """Return the shortest possible time of a step, in seconds, at the location of a contender."""
    place = location(contender.backend)
    return least_seconds(case, {place: limits[place]})


def _reason_to_skip(
    case: Case,
    fast_enough: Sequence[Contender],
    contenders: Sequence[Contender],
    limits: Mapping[str, PerformanceLimits],
    left: float,
    rounds: int,
) -> str | None:
    """Return why a case cannot be measured, or None; `left` is the time left in seconds."""
    too_large = case.too_large(case.batch)
    if too_large:
        return too_large
    if not fast_enough:
        lower_bound = min(_least_step_seconds(case, c, limits) for c in contenders)
        return f"one step takes {lower_bound:.1f} s or more, wanted at most {MAX_STEP_SECONDS:g} s"
    needed = sum(estimate_seconds(case, c, limits, rounds) for c in fast_enough)
    return "the time is up" if needed > left else None


def lines(points: Sequence[Measurement]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Return pairs of x and microseconds for each line and contender, in increasing order of x."""
    result: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for point in sorted(points, key=lambda point: int(point["x"])):
        for name, microseconds in point.get("microseconds", {}).items():
            result.setdefault(point["line"], {}).setdefault(name, []).append((point["x"], microseconds))
    return result


def overtakings(line: Mapping[str, Sequence[tuple[int, float]]]) -> list[Overtaking]:
    """Return the points at which the fastest contender on a line changes, interpolated on logarithmic axes.

    A lead by a factor below `MIN_LEAD` does not count, since it may be noise.

    Parameters
    ----------
    line : mapping of str to sequence of (int, float)
        Pairs of x and microseconds, by contender.

    Examples
    --------
    >>> overtakings({"a": [(1, 1.0), (100, 100.0)], "b": [(1, 10.0), (100, 10.0)]})
    [Overtaking(x=10.0, before='a', after='b')]
    """
    times: dict[int, dict[str, float]] = {}
    for name, points in line.items():
        for x, microseconds in points:
            times.setdefault(x, {})[name] = microseconds
    changes: list[Overtaking] = []
    before = ""
    for x0, x1 in pairwise(sorted(times)):
        before = before or min(times[x0], key=times[x0].__getitem__)
        after = min(times[x1], key=times[x1].__getitem__)
        if before not in times[x1] or after not in times[x0] or times[x1][before] < MIN_LEAD * times[x1][after]:
            continue
        log_ratio0, log_ratio1 = (math.log(times[x][after] / times[x][before]) for x in (x0, x1))
        fraction = log_ratio0 / (log_ratio0 - log_ratio1) if log_ratio0 > 0 else 0.0
        crossing = math.exp(math.log(x0) + fraction * math.log(x1 / x0))
        changes.append(Overtaking(float(f"{crossing:.3g}"), before, after))
        before = after
    return changes


def skipped(points: Sequence[Measurement]) -> list[tuple[Any, str]]:
    """Return the network and batch size of each skipped case, and the reason why it was skipped."""
    return list(dict.fromkeys(((p["network"], p["batch"]), p["skipped"]) for p in points if "skipped" in p))
