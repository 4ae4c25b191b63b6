"""Time the training steps and predictions of a case by all contenders in turn, and compare them with the limit."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from deepnotes.testing.bench.cases import Case
from deepnotes.testing.bench.contenders import Contender, Train, agreeing, network, training
from deepnotes.testing.bench.limits import Ceilings, Work, place, prediction_work, step_work
from deepnotes.testing.bench.timing import seconds, summary, turns
from deepnotes.utils.errors import DeepnotesError

ROUND_SECONDS = 0.05
"""The seconds for which a contender is timed in each round of a short run."""
MOST_BATCHES = 200
"""The most batches in an epoch; their samples are drawn once."""

Found = dict[str, Any]
"""JSON values."""


def batches_for(case: Case, per_step: float, round_seconds: float) -> int:
    """Return the number of batches of an epoch: a small part of a round that fits into memory."""
    least = 4 if per_step < round_seconds else 1
    wanted = int(min(MOST_BATCHES, max(least, round_seconds / 16 / per_step)))
    while wanted > 1 and case.too_large(wanted * case.batch):
        wanted //= 2
    return wanted


def timed_training(train: Train, batches: int, round_seconds: float) -> Callable[[], float]:
    """Return a function that trains for about a number of seconds and returns the time of a step."""
    warm = seconds(partial(train, 1, True))
    if warm < round_seconds:
        warm = seconds(partial(train, 1, True))
    epochs = max(1, round(round_seconds / warm))
    return lambda: seconds(partial(train, epochs, True)) / (epochs * batches)


def timed_call(function: Callable[[], object], round_seconds: float) -> Callable[[], float]:
    """Return a function that calls for about a number of seconds and returns the time of a call."""
    function()
    times = max(1, round(round_seconds / min(seconds(function) for _ in range(3))))
    return lambda: seconds(function, times)


def within(contender: Contender, function: Callable[[], float]) -> Callable[[], float]:
    """Return `function`, run with the contender's threads."""

    def run() -> float:
        with contender.execution_context():
            return function()

    return run


def least_seconds(case: Case, limits: Mapping[str, Ceilings]) -> float:
    """Return the least time that one step can take anywhere."""
    work = step_work(case.plan, case.batch)
    return min(ceilings.seconds(work, case.dtype) for ceilings in limits.values())


def reckoned(case: Case, contender: Contender, limits: Mapping[str, Ceilings], rounds: int) -> float:
    """Estimate the seconds that a contender takes for the steps of a case, at half of its limit."""
    step = least_seconds(case, {"": limits[place(contender.backend)]})
    batches = batches_for(case, least_seconds(case, limits), ROUND_SECONDS)
    return (rounds + 4) * max(ROUND_SECONDS, batches * 2 * step)


def steps(
    case: Case,
    contenders: Sequence[Contender],
    limits: Mapping[str, Ceilings],
    rounds: int,
    round_seconds: float = ROUND_SECONDS,
) -> Found:
    """Return the time of a training step of each contender for one case, and its limit.

    Raises
    ------
    DeepnotesError
        If they do not train alike.
    """
    batches = batches_for(case, least_seconds(case, limits), round_seconds)
    X, y = case.data(batches * case.batch)
    theta = network("numpy", case).flat()
    trainings = {c.name: training(c.backend, case, X, y, theta) for c in contenders}
    agreeing(trainings)
    timed = {}
    for c in contenders:
        with c.execution_context():
            timed[c.name] = within(c, timed_training(trainings[c.name], batches, round_seconds))
    found = summary(turns(timed, rounds))
    return described(case, found, contenders, limits, step_work(case.plan, case.batch), 0)


def predictions(
    case: Case,
    contenders: Sequence[Contender],
    limits: Mapping[str, Ceilings],
    rounds: int,
    round_seconds: float = ROUND_SECONDS,
) -> Found:
    """Return the time of a prediction for as many samples as the case's batch has, of each contender.

    Raises
    ------
    DeepnotesError
        If they do not predict alike.
    """
    rows, _ = case.data(case.batch)
    theta = network("numpy", case).flat()
    calls = {c.name: partial(network(c.backend, case, theta).predict, rows.T) for c in contenders}
    outputs = {who: call() for who, call in calls.items()}
    first = next(iter(outputs))
    for who, A in outputs.items():
        if not np.allclose(A, outputs[first], rtol=1e-3, atol=1e-5):
            raise DeepnotesError(f"{who} predicts otherwise than {first}")
    timed = {}
    for c in contenders:
        with c.execution_context():
            timed[c.name] = within(c, timed_call(calls[c.name], round_seconds))
    found = summary(turns(timed, rounds))
    return described(case, found, contenders, limits, prediction_work(case.plan, case.batch), 1)


def described(
    case: Case,
    found: Found,
    contenders: Sequence[Contender],
    limits: Mapping[str, Ceilings],
    work: Work,
    calls: int,
) -> Found:
    """Return a result between its case and the limits of the places where it was computed."""
    beside: Found = {}
    for where, ceilings in limits.items():
        here = {c.name: found["microseconds"][c.name] for c in contenders if place(c.backend) == where}
        if here:
            beside[where] = ceilings.beside(work, case.dtype, here, calls)
    return {"network": case.network, "batch": case.batch, "dtype": case.dtype, **found, "limits": beside}


def share(found: Found, who: str) -> float:
    """Return the share of its limit that a contender of a result reached."""
    return next((limit["share"][who] for limit in found["limits"].values() if who in limit["share"]), math.nan)
