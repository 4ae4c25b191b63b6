"""How things are timed: all of them take turns, and are compared turn by turn."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

Name = TypeVar("Name")

PAUSE_SECONDS = 0.05
"""Before each turn: the threads of the one before wait awake for a while, and would take a core from the next."""


def seconds(function: Callable[[], object], times: int = 1) -> float:
    """Return how long one call takes, the mean of some calls in a row."""
    began = time.perf_counter()
    for _ in range(times):
        function()
    return (time.perf_counter() - began) / times


def on_blas_threads(threads: int, function: Callable[[], object], times: int = 1) -> float:
    """Return what :func:`seconds` does, with that many threads in the BLAS."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(threads, user_api="blas"):
        return seconds(function, times)


def turns(rivals: Mapping[Name, Callable[[], float]], rounds: int) -> dict[Name, list[float]]:
    """Return what each rival, a function that times itself, said in each round."""
    times: dict[Name, list[float]] = {who: [] for who in rivals}
    for _ in range(rounds):
        for who, rival in rivals.items():
            time.sleep(PAUSE_SECONDS)
            times[who].append(rival())
    return times


def fastest(choices: Sequence[Name], trial: Callable[[Name], float]) -> Name:
    """Return the choice with the shortest trial in three rounds, after one that warms up."""
    choices = list(dict.fromkeys(choices))
    if len(choices) == 1:
        return choices[0]
    times = turns({choice: lambda choice=choice: trial(choice) for choice in choices}, 4)
    return min(choices, key=lambda choice: min(times[choice][1:]))


def spread(values: Sequence[float], digits: int = 4) -> list[float]:
    """Return the least, the median and the greatest, rounded."""
    return [round(f(values), digits) for f in (min, statistics.median, max)]


def compared(times: Mapping[str, Sequence[float]], ours: Sequence[str]) -> dict[str, dict[str, object]]:
    """Return the median times in microseconds, and the :func:`spread` of the ratios of each of `ours` to each other.

    A ratio is taken round by round: what slows the machine for a while slows both.
    """
    ratios = {
        f"{who} to {other}": spread([a / b for a, b in zip(times[who], times[other], strict=True)])
        for who in ours
        for other in times
        if other not in ours
    }
    medians = {who: round(statistics.median(values) * 1e6, 2) for who, values in times.items()}
    return {"microseconds": medians, "ratios": ratios}
