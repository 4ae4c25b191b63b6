"""Measurements of training steps and predictions, with all contenders in turn."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from deepnotes.testing.bench.cases import Case
from deepnotes.testing.bench.contenders import Contender, Train, check_agreement, network, training
from deepnotes.testing.bench.limits import Ceilings, Work, location, prediction_work, step_work
from deepnotes.testing.bench.timing import seconds, summary, turns
from deepnotes.utils.errors import DeepnotesError

ROUND_SECONDS = 0.05
"""The time per contender and round."""
MAX_BATCHES = 200
"""The maximum number of batches in an epoch."""

Measurement = dict[str, Any]
"""The times of a case, and its limits, as JSON values."""


def batches_for(case: Case, per_step: float, round_seconds: float) -> int:
    """Return the number of batches in an epoch that is short compared with a round and fits into memory."""
    least = 4 if per_step < round_seconds else 1
    wanted = int(min(MAX_BATCHES, max(least, round_seconds / 16 / per_step)))
    while wanted > 1 and case.too_large(wanted * case.batch):
        wanted //= 2
    return wanted


def training_timer(train: Train, batches: int, round_seconds: float) -> Callable[[], float]:
    """Return a function that trains for about `round_seconds` and returns the seconds per step."""
    warm = seconds(partial(train, 1, True))
    if warm < round_seconds:
        warm = seconds(partial(train, 1, True))
    epochs = max(1, round(round_seconds / warm))
    return lambda: seconds(partial(train, epochs, True)) / (epochs * batches)


def call_timer(function: Callable[[], object], round_seconds: float) -> Callable[[], float]:
    """Return a function that calls `function` for about `round_seconds` and returns the seconds per call."""
    function()
    times = max(1, round(round_seconds / min(seconds(function) for _ in range(3))))
    return lambda: seconds(function, times)


def with_threads(contender: Contender, function: Callable[[], float]) -> Callable[[], float]:
    """Return a function that calls `function` with the contender's number of threads."""

    def run() -> float:
        with contender.execution_context():
            return function()

    return run


def least_seconds(case: Case, limits: Mapping[str, Ceilings]) -> float:
    """Return the least seconds of a step at any location."""
    work = step_work(case.plan, case.batch)
    return min(ceilings.seconds(work, case.dtype) for ceilings in limits.values())


def estimate_seconds(case: Case, contender: Contender, limits: Mapping[str, Ceilings], rounds: int) -> float:
    """Estimate the seconds to measure the steps of a contender, at twice the least time."""
    step = least_seconds(case, {"": limits[location(contender.backend)]})
    batches = batches_for(case, least_seconds(case, limits), ROUND_SECONDS)
    return (rounds + 4) * max(ROUND_SECONDS, batches * 2 * step)


def steps(
    case: Case,
    contenders: Sequence[Contender],
    limits: Mapping[str, Ceilings],
    rounds: int,
    round_seconds: float = ROUND_SECONDS,
) -> Measurement:
    """Measure the training step of each contender for one case.

    Raises
    ------
    DeepnotesError
        If their losses differ.
    """
    batches = batches_for(case, least_seconds(case, limits), round_seconds)
    X, y = case.data(batches * case.batch)
    theta = network("numpy", case).flat()
    trainings = {c.name: training(c.backend, case, X, y, theta) for c in contenders}
    check_agreement(trainings)
    timed = {}
    for c in contenders:
        with c.execution_context():
            timed[c.name] = with_threads(c, training_timer(trainings[c.name], batches, round_seconds))
    found = summary(turns(timed, rounds))
    return describe_result(case, found, contenders, limits, step_work(case.plan, case.batch), 0)


def predictions(
    case: Case,
    contenders: Sequence[Contender],
    limits: Mapping[str, Ceilings],
    rounds: int,
    round_seconds: float = ROUND_SECONDS,
) -> Measurement:
    """Measure the prediction of each contender for a batch of samples.

    Raises
    ------
    DeepnotesError
        If their predictions differ.
    """
    rows, _ = case.data(case.batch)
    theta = network("numpy", case).flat()
    calls = {c.name: partial(network(c.backend, case, theta).predict, rows.T) for c in contenders}
    outputs = {who: call() for who, call in calls.items()}
    first = next(iter(outputs))
    for who, A in outputs.items():
        if not np.allclose(A, outputs[first], rtol=1e-3, atol=1e-5):
            raise DeepnotesError(f"{who} predicts differently from {first}")
    timed = {}
    for c in contenders:
        with c.execution_context():
            timed[c.name] = with_threads(c, call_timer(calls[c.name], round_seconds))
    found = summary(turns(timed, rounds))
    return describe_result(case, found, contenders, limits, prediction_work(case.plan, case.batch), 1)


def describe_result(
    case: Case,
    found: Measurement,
    contenders: Sequence[Contender],
    limits: Mapping[str, Ceilings],
    work: Work,
    calls: int,
) -> Measurement:
    """Return a measurement with its case, and with the limits of the locations where it was computed."""
    by_location: Measurement = {}
    for where, ceilings in limits.items():
        here = {c.name: found["microseconds"][c.name] for c in contenders if location(c.backend) == where}
        if here:
            by_location[where] = ceilings.compare_with_limit(work, case.dtype, here, calls)
    return {"network": case.network, "batch": case.batch, "dtype": case.dtype, **found, "limits": by_location}


def share(found: Measurement, who: str) -> float:
    """Return the share of the limit that a contender reached."""
    return next((limit["share"][who] for limit in found["limits"].values() if who in limit["share"]), math.nan)
