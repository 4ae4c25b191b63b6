"""The option --calibrate of ``deepnotes train``: the temperature of a classifier, and what it changes."""

import argparse
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from deepnotes.cli.output import format_count, format_number
from deepnotes.cli.tasks import Classification, Task
from deepnotes.cli.training_data import TrainingData
from deepnotes.cli.training_runs import Run
from deepnotes.utils.errors import ArgumentError, DataError

ERROR = "expected_calibration_error"


class Calibration(NamedTuple):
    """The result of :func:`calibrate`.

    Attributes
    ----------
    result : dict or None
        The temperature, and the log loss and the calibration error before and after, as JSON values; None if no
        temperature is the best.
    facts : sequence of (str, str)
        For :meth:`Output.facts`.
    note : str
        Why the network was not calibrated, or an empty text.
    """

    result: dict[str, Any] | None = None
    facts: Sequence[tuple[str, str]] = ()
    note: str = ""


def check(args: argparse.Namespace, task: Task, run: Run) -> None:
    """Raise ArgumentError if --calibrate is requested, but there are no classes, or no rows to calibrate with."""
    if not args.calibrate:
        return
    if not isinstance(task, Classification):
        raise ArgumentError("--calibrate is for the probabilities of classes, but the task is a regression")
    if not len(run.held_out):
        raise ArgumentError(
            "--calibrate needs rows that the network is not trained on: wanted --validation above 0, or early stopping"
        )


def calibrate(args: argparse.Namespace, run: Run, task: Task, source: TrainingData, rows: np.ndarray) -> Calibration:
    """Calibrate the only network of a run, in place, with the rows that it was validated with after each epoch.

    Parameters
    ----------
    args : Namespace
    run : Run
    task : Task
    source : TrainingData
    rows : ndarray of int
        The indices of the held-out rows, on which the effect is measured; if there are none, it is measured on the rows
        to calibrate with.
    """
    if not args.calibrate or not isinstance(task, Classification):
        return Calibration()
    (network,) = run.networks
    kind = "early-stopping" if run.stops_early else "held-out"
    measured = rows if len(rows) else run.held_out

    def measure() -> dict[str, float]:
        X, y = run.inputs(measured), task.indices(source.y[measured])
        scores = network.evaluate(X, y, loss="categorical_cross_entropy", metrics=[ERROR])
        return {"log_loss": scores["loss"], ERROR: scores[ERROR]}

    try:
        calibrated = network.calibrated(run.inputs(run.held_out), task.indices(source.y[run.held_out]))
    except DataError as error:
        return Calibration(note=f"--calibrate left the network as it is: {error}")
    before = measure()
    network.set_flat(calibrated.flat())
    after = measure()
    temperature = calibrated.metadata["temperature"]
    same = not run.stops_early or not len(rows)
    on = "the same rows" if same else format_count(len(measured), "held-out row")
    losses = " → ".join(format_number(scores["log_loss"]) for scores in (before, after))
    errors = " → ".join(f"{scores[ERROR]:.2%}" for scores in (before, after))
    facts = [
        ("temperature", f"{format_number(temperature)}, chosen with {format_count(len(run.held_out), f'{kind} row')}"),
        ("calibration", f"log loss {losses}, calibration error {errors}, on {on}"),
    ]
    return Calibration({"temperature": temperature, "rows": len(run.held_out), "before": before, "after": after}, facts)
