"""Measurements on a GPU: training steps of several libraries in turns, and a comparison with the host."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import deepnotes as dn
from benchmarks.gpu.cases import AGREEMENT, Case
from benchmarks.gpu.rivals import Rival, ours

SECONDS = 0.3
"""The approximate seconds of a turn."""


def step_timer(case: Case, rival: Rival) -> Callable[[], float]:
    """Return a function that trains for about :data:`SECONDS` and returns the seconds per step."""
    rival.train(1)  # the first epoch compiles, captures and allocates
    began = time.perf_counter()
    rival.train(1)
    epochs = max(1, round(SECONDS / (time.perf_counter() - began)))

    def timed() -> float:
        began = time.perf_counter()
        rival.train(epochs)
        return (time.perf_counter() - began) / (epochs * case.batches)

    return timed


def in_turns(rivals: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Call all functions, which return their own times, in each round; return the times by name."""
    times: dict[str, list[float]] = {who: [] for who in rivals}
    for _ in range(rounds):
        for who, timed in rivals.items():
            times[who].append(timed())
    return times


def steps(
    case: Case,
    precision: str,
    makers: Mapping[str, Callable[..., Rival]],
    products: Callable[[Case, str], Callable[[], float]],
    rounds: int,
    note: Callable[[str], None],
) -> dict[str, Any]:
    """Measure a case; return the times by rival, and the reasons why others failed.

    Parameters
    ----------
    case : Case
    precision : str
    makers : mapping of str to callable
        The rivals. The first is deepnotes; the losses of the others are compared with it before anything is timed.
    products : callable
        Returns a function that times the products of a step alone.
    rounds : int
    note : callable
        Called with a description of the current work.
    """
    X, y = case.data()
    start = case.start()
    ready: dict[str, Callable[[], float]] = {}
    missing: dict[str, str] = {}
    wanted = None
    for who, make in makers.items():
        note(f"{case.name}, {precision}: {who}")
        try:
            rival = make(case, precision, X, y, start)
            wanted = rival.first_loss if wanted is None else wanted
            apart = abs(rival.first_loss - wanted) / abs(wanted)
            if not apart <= AGREEMENT[precision]:
                raise ArithmeticError(
                    f"its first loss {rival.first_loss:.6g} differs from {wanted:.6g}: it does different work"
                )
            ready[who] = step_timer(case, rival)
        except Exception as error:  # the other rivals are still measured
            missing[who] = _message(error)
    try:
        ready["products"] = products(case, precision)
    except Exception as error:
        missing["products"] = _message(error)
    times = in_turns(ready, rounds)
    found: dict[str, Any] = {
        "case": case.name,
        "precision": precision,
        "flops": case.flops,
        "microseconds": {
            who: [round(f(t) * 1e6, 2) for f in (min, statistics.median, max)] for who, t in times.items()
        },
        "missing": missing,
    }
    first = next(iter(makers))
    if first in times:
        found["ratios"] = {
            who: round(statistics.median(a / b for a, b in zip(times[first], t, strict=True)), 3)
            for who, t in times.items()
            if who != first
        }
    return found


def crossover(
    fast: dn.Backend, other: dn.Backend, widths: Iterable[int], batches: Iterable[int], note: Callable[[str], None]
) -> dict[str, Any]:
    """Measure steps on two backends, for each width of two hidden layers and each batch size."""
    points = []
    for width in widths:
        for batch in batches:
            case = Case((width, width, width, 10), batch)
            X, y = case.data()
            start = case.start()
            note(f"crossover: {case.name}")
            ready = {b.name: step_timer(case, ours(b, case, X, y, start)) for b in (fast, other)}
            times = {who: statistics.median(t) for who, t in in_turns(ready, 3).items()}
            rounded = {who: round(t * 1e6, 2) for who, t in times.items()}
            points.append({"width": width, "batch": batch, "microseconds": rounded})
    return {"points": points}


def best_on_the_host() -> dn.Backend:
    """Return the Numba backend, or NumPy's where Numba is not installed."""
    try:
        return dn.get_backend("numba")
    except dn.BackendUnavailable:
        return dn.get_backend("numpy")


def _message(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
