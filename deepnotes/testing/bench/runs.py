"""Measurements of training steps and predictions; the contenders take turns."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from deepnotes.testing.bench.cases import Case
from deepnotes.testing.bench.contenders import Contender, Train, check_agreement, network, training
from deepnotes.testing.bench.limits import PerformanceLimits, Work, location, prediction_work, step_work
from deepnotes.testing.bench.timing import seconds, summary, turns
from deepnotes.utils.errors import DeepnotesError

ROUND_SECONDS = 0.05
"""The time for each contender in each round."""
MAX_BATCHES = 200
"""The maximum number of batches in an epoch."""

Measurement = dict[str, Any]
"""The times of all contenders for a case, and the limits of the machine, as JSON values."""


def batches_for(case: Case, per_step: float, round_seconds: float) -> int:
    """Return a number of batches with which an epoch is short compared with a round, and its data fit into memory.

    `per_step` is the estimated time of a step in seconds.
    """
    minimum = 4 if per_step < round_seconds else 1
    batches = int(min(MAX_BATCHES, max(minimum, round_seconds / 16 / per_step)))
    while batches > 1 and case.too_large(batches * case.batch):
        batches //= 2
    return batches


def training_timer(train: Train, batches: int, round_seconds: float) -> Callable[[], float]:
    """Return a function that trains for about `round_seconds` and returns the seconds per step.

    `batches` is the number of batches in an epoch.
    """
    epoch_seconds = seconds(partial(train, 1, True))
    if epoch_seconds < round_seconds:  # the first epoch may have been slower, so measure again
        epoch_seconds = seconds(partial(train, 1, True))
    epochs = max(1, round(round_seconds / epoch_seconds))
    return lambda: seconds(partial(train, epochs, True)) / (epochs * batches)


def call_timer(function: Callable[[], object], round_seconds: float) -> Callable[[], float]:
    """Return a function that calls `function` for about `round_seconds` and returns the seconds per call."""
    function()
    times = max(1, round(round_seconds / min(seconds(function) for _ in range(3))))
    return lambda: seconds(function, times)


def with_threads(contender: Contender, function: Callable[[], float]) -> Callable[[], float]:
    """Return a function that sets the contender's number of threads and calls `function`."""

    def run() -> float:
        with contender.execution_context():
            return function()

    return run


def least_seconds(case: Case, limits: Mapping[str, PerformanceLimits]) -> float:
    """Return the shortest possible time of a step, in seconds, at the fastest of the locations."""
    work = step_work(case.plan, case.batch)
    return min(limit.seconds(work, case.dtype) for limit in limits.values())


def estimate_seconds(case: Case, contender: Contender, limits: Mapping[str, PerformanceLimits], rounds: int) -> float:
    """Estimate the seconds needed to measure a contender's steps, if a step takes twice the shortest possible time."""
    step = least_seconds(case, {"": limits[location(contender.backend)]})
    batches = batches_for(case, least_seconds(case, limits), ROUND_SECONDS)
    return (rounds + 4) * max(ROUND_SECONDS, batches * 2 * step)


def steps(
    case: Case,
    contenders: Sequence[Contender],
    limits: Mapping[str, PerformanceLimits],
    rounds: int,
    round_seconds: float = ROUND_SECONDS,
) -> Measurement:
    """Measure the training step of each contender for one case.

    Raises
    ------
    DeepnotesError
        If the losses of the contenders differ.
    """
    batches = batches_for(case, least_seconds(case, limits), round_seconds)
    X, y = case.data(batches * case.batch)
    theta = network("numpy", case).flat()
    trainers = {c.name: training(c.backend, case, X, y, theta) for c in contenders}
    check_agreement(trainers)
    timers = {}
    for c in contenders:
        with c.execution_context():
            timers[c.name] = with_threads(c, training_timer(trainers[c.name], batches, round_seconds))
    times = summary(turns(timers, rounds))
    return describe_result(case, times, contenders, limits, step_work(case.plan, case.batch), 0)


def predictions(
    case: Case,
    contenders: Sequence[Contender],
    limits: Mapping[str, PerformanceLimits],
    rounds: int,
    round_seconds: float = ROUND_SECONDS,
) -> Measurement:
    """Measure the prediction of each contender for a batch of samples.

    Raises
    ------
    DeepnotesError
        If the predictions of the contenders differ.
    """
    rows, _ = case.data(case.batch)
    theta = network("numpy", case).flat()
    calls = {c.name: partial(network(c.backend, case, theta).predict, rows.T) for c in contenders}
    outputs = {name: call() for name, call in calls.items()}
    first = next(iter(outputs))
    for name, A in outputs.items():
        if not np.allclose(A, outputs[first], rtol=1e-3, atol=1e-5):
            raise DeepnotesError(f"{name} predicts differently from {first}")
    timers = {}
    for c in contenders:
        with c.execution_context():
            timers[c.name] = with_threads(c, call_timer(calls[c.name], round_seconds))
    times = summary(turns(timers, rounds))
    return describe_result(case, times, contenders, limits, prediction_work(case.plan, case.batch), 1)


def describe_result(
    case: Case,
    times: Measurement,
    contenders: Sequence[Contender],
    limits: Mapping[str, PerformanceLimits],
    work: Work,
    calls: int,
) -> Measurement:
    """Return the measurement of a case: the times, the case, and the limits at the locations of the contenders.

    Parameters
    ----------
    case : Case
    times : Measurement
        The times of all contenders, as :func:`~deepnotes.testing.bench.timing.summary` returns them.
    contenders : sequence of Contender
    limits : mapping of str to PerformanceLimits
        The limits, by location.
    work : Work
    calls : int
        The minimum number of calls of the array library.
    """
    by_location: Measurement = {}
    for place, limit in limits.items():
        microseconds = {c.name: times["microseconds"][c.name] for c in contenders if location(c.backend) == place}
        if microseconds:
            by_location[place] = limit.compare_with_limit(work, case.dtype, microseconds, calls)
    return {"network": case.network, "batch": case.batch, "dtype": case.dtype, **times, "limits": by_location}


def share(measurement: Measurement, name: str) -> float:
    """Return the share of the limit that a contender reached."""
    limits = measurement["limits"].values()
    return next((limit["share"][name] for limit in limits if name in limit["share"]), math.nan)
