"""Measurements on a GPU: steps beside rivals that take turns, and where the GPU overtakes the host."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import deepnotes as dn
from benchmarks.gpu.cases import AGREEMENT, Case
from benchmarks.gpu.rivals import Rival, ours

SECONDS = 0.3
"""The least seconds of one turn if a step is short."""


def per_step(case: Case, rival: Rival) -> Callable[[], float]:
    """Return a function that trains for about :data:`SECONDS` and returns the seconds of a step."""
    rival.train(1)  # the first epoch compiles, captures, allocates
    began = time.perf_counter()
    rival.train(1)
    epochs = max(1, round(SECONDS / (time.perf_counter() - began)))

    def timed() -> float:
        began = time.perf_counter()
        rival.train(epochs)
        return (time.perf_counter() - began) / (epochs * case.batches)

    return timed


def in_turns(rivals: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Return the times of each in each round: they take turns, so that whatever slows the machine slows all."""
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
    """Return the times of one case by rival, and why others could not be run.

    Parameters
    ----------
    case : Case
    precision : str
    makers : mapping of str to callable
        The rivals; the first is ours, and the losses of the others are compared with its before anything is timed.
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
                raise ArithmeticError(f"its first loss {rival.first_loss:.6g} is not {wanted:.6g}: it does other work")
            ready[who] = per_step(case, rival)
        except Exception as error:  # a rival that cannot run is reported, and the others go on
            missing[who] = _said(error)
    try:
        ready["products"] = products(case, precision)
    except Exception as error:
        missing["products"] = _said(error)
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
    """Return the microseconds of a step on two backends, for each width of two hidden layers and each batch."""
    points = []
    for width in widths:
        for batch in batches:
            case = Case((width, width, width, 10), batch)
            X, y = case.data()
            start = case.start()
            note(f"crossover: {case.name}")
            ready = {b.name: per_step(case, ours(b, case, X, y, start)) for b in (fast, other)}
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


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
