"""Timing of contenders in turns, with ratios per round and marks on results that scatter too much."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

Name = TypeVar("Name")

PAUSE_SECONDS = 0.15
"""The pause before each turn: idle BLAS threads spin for 0.1 s, and would take a core from the next contender."""

UNRELIABLE = 0.2
"""A result is marked as unreliable if its :func:`scatter` is larger than this."""


def seconds(function: Callable[[], object], times: int = 1) -> float:
    """Return the mean seconds per call, for a number of calls in a row."""
    began = time.perf_counter()
    for _ in range(times):
        function()
    return (time.perf_counter() - began) / times


@contextmanager
def blas_threads(threads: int | None) -> Iterator[None]:
    """Set the number of BLAS threads of this process in a ``with`` block; None leaves it unchanged.

    Raises
    ------
    ImportError
        If a number is given and threadpoolctl is not installed.
    """
    if threads is None:
        yield
        return
    from threadpoolctl import threadpool_limits

    with threadpool_limits(threads, user_api="blas"):
        yield


def on_blas_threads(threads: int | None, function: Callable[[], object], times: int = 1) -> float:
    """Return the mean seconds per call with the given number of BLAS threads."""
    with blas_threads(threads):
        return seconds(function, times)


def turns(rivals: Mapping[Name, Callable[[], float]], rounds: int) -> dict[Name, list[float]]:
    """Call all rivals, which return their own times, in each round; return the times by rival."""
    times: dict[Name, list[float]] = {who: [] for who in rivals}
    for _ in range(rounds):
        for who, rival in rivals.items():
            time.sleep(PAUSE_SECONDS)
            times[who].append(rival())
    return times


def fastest(choices: Sequence[Name], trial: Callable[[Name], float]) -> Name:
    """Return the choice with the shortest trial in three rounds, after a warm-up round."""
    choices = list(dict.fromkeys(choices))
    if len(choices) == 1:
        return choices[0]
    times = turns({choice: lambda choice=choice: trial(choice) for choice in choices}, 4)  # type: ignore[misc]
    return min(choices, key=lambda choice: min(times[choice][1:]))


def spread(values: Sequence[float], digits: int = 4) -> list[float]:
    """Return minimum, median and maximum, rounded."""
    return [round(f(values), digits) for f in (min, statistics.median, max)]


def scatter(values: Sequence[float]) -> float | None:
    """Return the interquartile range of the values as a share of their median; None for fewer than three.

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
    """Return whether a :func:`scatter` is unknown or too large."""
    return share is None or share > UNRELIABLE


def summary(times: Mapping[str, Sequence[float]]) -> dict[str, object]:
    """Return the median in microseconds and the scatter of each rival, and the names of the unreliable ones."""
    shares = {who: scatter(values) for who, values in times.items()}
    return {
        "microseconds": {who: round(statistics.median(values) * 1e6, 2) for who, values in times.items()},
        "scatter": {who: None if share is None else round(share, 3) for who, share in shares.items()},
        "unreliable": [who for who, share in shares.items() if is_unreliable(share)],
    }


def summarize_ratios(times: Mapping[str, Sequence[float]], ours: Sequence[str]) -> dict[str, object]:
    """Return the :func:`summary` with the :func:`spread` of the ratios of each of `ours` to each other rival.

    Ratios are taken per round: whatever slows the machine for a while slows both rivals.
    """
    ratios = {
        f"{who} to {other}": spread([a / b for a, b in zip(times[who], times[other], strict=True)])
        for who in ours
        for other in times
        if other not in ours
    }
    return summary(times) | {"ratios": ratios}
