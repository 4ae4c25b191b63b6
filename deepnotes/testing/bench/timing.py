"""Time contenders that take turns, compute the ratios of their times, and mark times that scatter too much."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

Name = TypeVar("Name")

PAUSE_SECONDS = 0.15
"""The pause before each turn: idle BLAS threads keep spinning for 0.1 s, and would slow down the next contender."""

UNRELIABLE = 0.2
"""A time is marked as unreliable if its :func:`scatter` is larger than this."""


def seconds(function: Callable[[], object], times: int = 1) -> float:
    """Call `function` several times in a row, and return the mean seconds per call."""
    start = time.perf_counter()
    for _ in range(times):
        function()
    return (time.perf_counter() - start) / times


@contextmanager
def blas_threads(threads: int | None) -> Iterator[None]:
    """Set the number of BLAS threads of this process in a ``with`` block; None leaves it unchanged.

    Raises
    ------
    ImportError
        If a number is given but threadpoolctl is not installed.
    """
    if threads is None:
        yield
        return
    from threadpoolctl import threadpool_limits

    with threadpool_limits(threads, user_api="blas"):
        yield


def on_blas_threads(threads: int | None, function: Callable[[], object], times: int = 1) -> float:
    """Return the mean seconds per call of `function` with the given number of BLAS threads."""
    with blas_threads(threads):
        return seconds(function, times)


def turns(timers: Mapping[Name, Callable[[], float]], rounds: int) -> dict[Name, list[float]]:
    """Call each timer once per round, in turns, and return the times in seconds, by name.

    A timer is a function that runs the work of one contender and returns the time that it took.
    """
    times: dict[Name, list[float]] = {name: [] for name in timers}
    for _ in range(rounds):
        for name, timer in timers.items():
            time.sleep(PAUSE_SECONDS)
            times[name].append(timer())
    return times


def fastest(choices: Sequence[Name], trial: Callable[[Name], float]) -> Name:
    """Return the choice with the shortest time in three rounds, after a warm-up round.

    `trial` takes a choice and returns the time that it took.
    """
    choices = list(dict.fromkeys(choices))
    if len(choices) == 1:
        return choices[0]
    times = turns({choice: lambda choice=choice: trial(choice) for choice in choices}, 4)  # type: ignore[misc]
    return min(choices, key=lambda choice: min(times[choice][1:]))


def spread(values: Sequence[float], digits: int = 4) -> list[float]:
    """Return the minimum, median and maximum of the values, rounded."""
    return [round(f(values), digits) for f in (min, statistics.median, max)]


def scatter(values: Sequence[float]) -> float | None:
    """Return the interquartile range of the values divided by their median; None for fewer than three values.

    Examples
    --------
    >>> scatter([10.0, 10.0, 11.0, 10.0, 30.0]), scatter([1.0, 2.0, 3.0]), scatter([5.0, 5.0])
    (0.1, 0.5, None)
    """
    if len(values) < 3:
        return None
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / middle


def is_unreliable(share: float | None) -> bool:
    """Return whether `share`, a result of :func:`scatter`, is None or too large."""
    return share is None or share > UNRELIABLE


def summary(times: Mapping[str, Sequence[float]]) -> dict[str, object]:
    """Return the median in microseconds and the scatter of each contender, and the names of the unreliable ones.

    `times` are the times of each contender in seconds, one per round.
    """
    shares = {name: scatter(values) for name, values in times.items()}
    return {
        "microseconds": {name: round(statistics.median(values) * 1e6, 2) for name, values in times.items()},
        "scatter": {name: None if share is None else round(share, 3) for name, share in shares.items()},
        "unreliable": [name for name, share in shares.items() if is_unreliable(share)],
    }


def summarize_ratios(times: Mapping[str, Sequence[float]], ours: Sequence[str]) -> dict[str, object]:
    """Return the :func:`summary` and the ratios of the times of each contender in `ours` to those of the others.

    The ratio is computed in each round, and its minimum, median and maximum are returned (:func:`spread`). A temporary
    slowdown of the machine affects both times in a round, and hardly changes their ratio.
    """
    ratios = {
        f"{name} to {other}": spread([a / b for a, b in zip(times[name], times[other], strict=True)])
        for name in ours
        for other in times
        if other not in ours
    }
    return summary(times) | {"ratios": ratios}
