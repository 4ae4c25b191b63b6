"""Measurements of libraries in turns: training steps, predictions, and training on data that stay on the host.

A library whose process fails, or that takes too long, is named with the reason, and the others go on.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.gpu.cases import AGREEMENT, Case
from benchmarks.gpu.worker import Worker, WorkerError
from deepnotes.testing.bench.timing import summarize_ratios

OURS, PRODUCTS = "deepnotes", "products"
"""The names of the library that the others are compared with, and of the products of a step alone."""
FIT_SECONDS = 0.15
"""The steps of the shorter of the two fits, whose difference gives the time of a step, take about this long."""
CALLS_SECONDS = 0.05
"""The approximate duration of one measurement of predictions."""
LIBRARY_SECONDS = 25.0
"""The maximum time that a library may take to prepare a case, and the maximum time of its measurements."""
SHORT_FITS = 3
"""How often fits of one epoch are measured."""
MAX_RUNS = 1 << 14
"""The maximum number of epochs or calls in one measurement."""


class LeftOut(Exception):
    """A library is left out of a part, although its process works."""


class Deadline:
    """A time by which something has to end."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """The seconds that are left."""
        return self._end - time.monotonic()

    @property
    def for_library(self) -> float:
        """The seconds that a library may take now."""
        return min(LIBRARY_SECONDS, self.left)


class Turns:
    """Libraries that take turns.

    Attributes
    ----------
    workers : dict of str to Worker
        The libraries that have not failed, by name. Products alone are computed in the process of deepnotes.
    missing : dict of str to str
        For each library that has failed, the reason.
    deadline : Deadline
    """

    def __init__(self, workers: Mapping[str, Worker], deadline: Deadline) -> None:
        self.workers, self.deadline = dict(workers), deadline
        self.missing: dict[str, str] = {}

    def each(self, turn: Callable[[str, Worker], Any]) -> dict[str, Any]:
        """Call `turn` for each library, and return its results by name; libraries for which it fails drop out."""
        results = {}
        for name, worker in list(self.workers.items()):
            try:
                if self.deadline.left <= 0:
                    raise LeftOut("no time was left")
                results[name] = turn(name, worker)
            except (LeftOut, WorkerError) as error:
                self.drop(name, str(error))
                if isinstance(error, WorkerError) and name != PRODUCTS:
                    worker.stop()  # after some errors of CUDA, a process is useless
        return results

    def drop(self, name: str, reason: str) -> None:
        """Leave a library out."""
        del self.workers[name]
        self.missing[name] = reason

    def compare(self, results: Mapping[str, Any], tolerance: float, what: str) -> None:
        """Drop the libraries whose results differ too much from those of the first library."""
        first = next(iter(results), "")
        for name, result in results.items():
            if name in self.workers and result is not None:
                error = np.max(np.abs(np.subtract(result, results[first]))) / np.max(np.abs(results[first]))
                if not error <= tolerance:
                    self.drop(name, f"its {what} differs from that of {first} by {error:.2g}")

    def rounds(self, rounds: int, turn: Callable[[str, Worker], float]) -> dict[str, list[float]]:
        """Call `turn` for each library `rounds` times, or until no time is left for one more round."""
        times: dict[str, list[float]] = {name: [] for name in self.workers}
        for _ in range(rounds):
            began = self.deadline.left
            for name, seconds in self.each(turn).items():
                times[name].append(seconds)
            if self.deadline.left < began - self.deadline.left:
                break
        for name in list(self.workers):
            if not statistics.median(times[name]) > 0:
                self.drop(name, "a longer fit took no longer than a short one")
        return {name: times[name] for name in self.workers}

    def count(self, run: Callable[[int], float], seconds: float, runs: int) -> int:
        """Return how many epochs or calls take about `seconds`; `run` runs a number of them and returns the time.

        Raises
        ------
        LeftOut
            If `runs` runs of this many epochs or calls would take too long.
        """
        run(1)  # may compile
        number, limit = 1, self.deadline.for_library
        while True:
            taken = run(number)
            if taken * runs > limit:
                raise LeftOut(f"would take about {taken * runs:,.0f} s, and the limit is {limit:.0f} s")
            if taken >= 2 / 3 * seconds or number >= MAX_RUNS:
                return number
            number = min(MAX_RUNS, math.ceil(number * min(10.0, max(1.5, seconds / max(taken, 1e-9)))))

    def summary(self, times: Mapping[str, Sequence[float]]) -> dict[str, Any]:
        """Return medians, scatter and ratios of the times in seconds, and the reasons why libraries are missing."""
        if not times:
            return {"microseconds": {}, "scatter": {}, "unreliable": [], "ratios": {}, "missing": self.missing}
        return summarize_ratios(times, [OURS] if OURS in times else []) | {"missing": self.missing}


def steps(case: Case, precision: str, rounds: int, workers: Mapping[str, Worker], deadline: Deadline) -> dict[str, Any]:
    """Measure a training step of each library, and of deepnotes also the rest of a fit.

    The time of a step is the slope between fits of E and of 3 E epochs, so it does not contain what a fit does besides
    its steps. This rest is measured with fits of one epoch, on the data of the fit before it, and on other data of the
    same shape.

    Parameters
    ----------
    case : Case
    precision : str
    rounds : int
    workers : mapping of str to Worker
        The libraries by name, deepnotes first.
    deadline : Deadline
    """
    turns = Turns({**workers, PRODUCTS: workers[OURS]}, deadline)

    def prepare(name: str, worker: Worker) -> Any:
        method = "prepare_products" if name == PRODUCTS else "prepare_training"
        limit = deadline.left if name in (OURS, PRODUCTS) else deadline.for_library  # the first case compiles kernels
        return worker.call(method, case, precision, seconds=limit)

    def fit(worker: Worker, epochs: int, on_other_data: bool = False) -> float:
        return float(worker.call("fit", epochs, on_other_data, seconds=deadline.for_library))

    def find_epochs(name: str, worker: Worker) -> int:
        def run(n: int) -> float:
            """Return the time of the steps of n epochs, without the rest of a fit."""
            return (fit(worker, 3 * n) - fit(worker, n)) / 2

        return 0 if name == PRODUCTS else turns.count(run, FIT_SECONDS, 4 * rounds)

    def measure(name: str, worker: Worker) -> float:
        if name == PRODUCTS:
            return float(worker.call("products", seconds=deadline.for_library))
        n = int(epochs[name])
        return (fit(worker, 3 * n) - fit(worker, n)) / (2 * n * case.batches)

    turns.compare(turns.each(prepare), AGREEMENT[precision], "loss in the first epoch")
    timed = workers[OURS].call("timings", seconds=deadline.for_library) if OURS in turns.workers else {}
    timings = {"ways, ms": timed} if timed else {}
    epochs = turns.each(find_epochs)
    times = turns.rounds(rounds, measure)
    rest = {}
    if OURS in times:
        step_seconds = case.batches * statistics.median(times[OURS])
        try:
            same = [fit(workers[OURS], 1) for _ in range(SHORT_FITS)]
            other = [fit(workers[OURS], 1, number % 2 == 0) for number in range(2 * SHORT_FITS)]
        except WorkerError as error:
            turns.missing["rest of a fit"] = str(error)
        else:
            milliseconds = [round((statistics.median(fits) - step_seconds) * 1e3, 2) for fits in (same, other)]
            rest = dict(zip(("rest_of_fit", "rest_on_other_data"), milliseconds, strict=True))
    case_facts = {"network": case.network, "batch": case.batch, "precision": precision, "flops": case.flops}
    return case_facts | turns.summary(times) | rest | timings


def predictions(
    sizes: tuple[int, ...], samples: int, rounds: int, workers: Mapping[str, Worker], deadline: Deadline
) -> dict[str, Any]:
    """Measure predictions of samples on the device: single calls with a wait after each, and calls in a row."""
    turns = Turns(workers, deadline)

    def predict(worker: Worker, calls: int, in_a_row: bool = False) -> float:
        return float(worker.call("predict", calls, in_a_row, seconds=deadline.for_library))

    def find_calls(name: str, worker: Worker) -> int:
        return turns.count(lambda n: n * predict(worker, n), CALLS_SECONDS, 2 * rounds)

    outputs = turns.each(
        lambda name, worker: worker.call("prepare_prediction", sizes, samples, seconds=deadline.for_library)
    )
    turns.compare(outputs, AGREEMENT["float32"], "output")
    calls = turns.each(find_calls)
    times = turns.rounds(rounds, lambda name, worker: predict(worker, calls[name]))
    in_a_row = turns.rounds(rounds, lambda name, worker: predict(worker, calls[name], True))
    facts: dict[str, Any] = {"network": "-".join(map(str, sizes)), "samples": samples}
    return facts | turns.summary(times) | {"in_a_row": turns.summary(in_a_row)}


def streaming(
    case: Case, samples: int, rounds: int, workers: Mapping[str, Worker], deadline: Deadline
) -> dict[str, Any]:
    """Measure the bytes per second at which training reads samples from the host, and at which a pinned copy does.

    The rate of streaming is that of the slope between fits of 1 and of 3 epochs. The rate of resident samples is that
    of a fit of one epoch, which sends them first.
    """
    worker = workers[OURS]
    size = int(worker.call("prepare_streaming", case, samples, seconds=deadline.left))

    def call(method: str, *arguments: int) -> float:
        return float(worker.call(method, *arguments, seconds=deadline.left))

    call("fit", 1)
    times: dict[str, list[float]] = {"streamed": [], "resident": [], "pinned copy": []}
    for _ in range(rounds):
        began = deadline.left
        times["streamed"].append((call("fit", 3) - call("fit", 1)) / 2)
        times["resident"].append(call("fit_resident"))
        times["pinned copy"].append(call("pinned_copy", size))
        if deadline.left < began - deadline.left:
            break
    rates = {name: round(size / statistics.median(seconds) / 1e9, 3) for name, seconds in times.items()}
    facts = {"network": case.network, "batch": case.batch, "samples": samples, "GB/s": rates}
    return facts | {"share": round(rates["streamed"] / rates["pinned copy"], 3)}


def limits(parameters: int, workers: Mapping[str, Worker], deadline: Deadline) -> dict[str, Any]:
    """Measure a node of a graph, and the bandwidths of a copy and of an update of this many parameters."""
    result: dict[str, Any] = workers[OURS].call("limits", parameters, seconds=deadline.left)
    return result


def conformance(precision: str, workers: Mapping[str, Worker], deadline: Deadline) -> dict[str, Any]:
    """Run the conformance checks with one precision of matrix products."""
    result: dict[str, Any] = workers[OURS].call("conformance", precision, seconds=deadline.left)
    return result


def crossover(
    widths: Sequence[int], batches: Sequence[int], workers: Mapping[str, Worker], deadline: Deadline
) -> dict[str, Any]:
    """Measure steps on the GPU and on the host for two hidden layers of each width, with each batch size."""
    points: list[dict[str, Any]] = []
    sizes = [(width, batch) for width in widths for batch in batches]
    for width, batch in sorted(sizes, key=lambda size: size[0] * sum(size)):
        point: dict[str, Any] = {"width": width, "batch": batch}
        try:
            point["microseconds"] = workers[OURS].call("crossover", width, batch, seconds=deadline.for_library)
        except WorkerError as error:
            point["skipped"] = str(error)
        points.append(point)
    return {"points": sorted(points, key=lambda point: (point["width"], point["batch"]))}
