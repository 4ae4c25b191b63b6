"""Measurements on a GPU: training steps of libraries that take turns, and a comparison with a backend on the host."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import deepnotes as dn
from benchmarks.gpu.cases import AGREEMENT, Case
from benchmarks.gpu.rivals import Rival, ours

SECONDS = 0.3
"""The approximate duration of one measurement, in seconds."""


def step_timer(case: Case, rival: Rival) -> Callable[[], float]:
    """Return a function that trains for about :data:`SECONDS` seconds and returns the seconds per step."""
    rival.train(1)  # the first epoch compiles, captures and allocates
    began = time.perf_counter()
    rival.train(1)
    epochs = max(1, round(SECONDS / (time.perf_counter() - began)))

    def measure() -> float:
        began = time.perf_counter()
        rival.train(epochs)
        return (time.perf_counter() - began) / (epochs * case.batches)

    return measure


def measure_in_turns(timers: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Call each timer once per round, and return the seconds that it measured, by name."""
    times: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(rounds):
        for name, timer in timers.items():
            times[name].append(timer())
    return times


def steps(
    case: Case,
    precision: str,
    makers: Mapping[str, Callable[..., Rival]],
    products: Callable[[Case, str], Callable[[], float]],
    rounds: int,
    note: Callable[[str], None],
) -> dict[str, Any]:
    """Measure a case; return the times by rival, and the reasons why some rivals could not be measured.

    Parameters
    ----------
    case : Case
    precision : str
    makers : mapping of str to callable
        The functions that set up the rivals, by name. The first is for deepnotes; the losses of the others are compared
        with its losses before anything is timed.
    products : callable
        Returns a function that times the matrix products of a step alone.
    rounds : int
    note : callable
        Called with a description of the current work.
    """
    X, y = case.data()
    start = case.start()
    timers: dict[str, Callable[[], float]] = {}
    missing: dict[str, str] = {}
    expected_loss = None
    for name, make in makers.items():
        note(f"{case.name}, {precision}: {name}")
        try:
            rival = make(case, precision, X, y, start)
            expected_loss = rival.first_loss if expected_loss is None else expected_loss
            difference = abs(rival.first_loss - expected_loss) / abs(expected_loss)
            if not difference <= AGREEMENT[precision]:
                raise ArithmeticError(
                    f"its first loss {rival.first_loss:.6g} is not {expected_loss:.6g}, the first loss of deepnotes"
                )
            timers[name] = step_timer(case, rival)
        except Exception as error:  # the other rivals are still measured
            missing[name] = _message(error)
    try:
        timers["products"] = products(case, precision)
    except Exception as error:
        missing["products"] = _message(error)
    times = measure_in_turns(timers, rounds)
    result: dict[str, Any] = {
        "case": case.name,
        "precision": precision,
        "flops": case.flops,
        "microseconds": {
            name: [round(f(t) * 1e6, 2) for f in (min, statistics.median, max)] for name, t in times.items()
        },
        "missing": missing,
    }
    ours_name = next(iter(makers))
    if ours_name in times:
        result["ratios"] = {
            name: round(statistics.median(a / b for a, b in zip(times[ours_name], t, strict=True)), 3)
            for name, t in times.items()
            if name != ours_name
        }
    return result


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
            timers = {b.name: step_timer(case, ours(b, case, X, y, start)) for b in (fast, other)}
            times = {name: statistics.median(t) for name, t in measure_in_turns(timers, 3).items()}
            rounded = {name: round(t * 1e6, 2) for name, t in times.items()}
            points.append({"width": width, "batch": batch, "microseconds": rounded})
    return {"points": points}


def host_backend() -> dn.Backend:
    """Return the Numba backend, or the NumPy backend if Numba is not available."""
    try:
        return dn.get_backend("numba")
    except dn.BackendUnavailable:
        return dn.get_backend("numpy")


def _message(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
