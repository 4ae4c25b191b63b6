"""Metrics: functions of outputs and targets that are reported to the user, computed on the host."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from deepnotes.utils.errors import ArgumentError, look_up

Metric: TypeAlias = Callable[..., float]
"""A function that takes outputs A and targets Y, both float64 of shape (k, m), and returns a number. The metrics in
this module also take the sample weights, shape (m,) or None."""
Metrics: TypeAlias = str | Metric | Sequence[str | Metric]
"""One metric or several, by name or as functions."""


def accuracy(A: np.ndarray, Y: np.ndarray, w: np.ndarray | None = None) -> float:
    """Return the fraction of samples that are classified correctly.

    With one output, the predicted class is ``a > 0.5``. With several outputs, it is the index of the largest output, or
    of the first of them if several are equal; NaN counts as the largest.
    """
    if A.shape[0] == 1:
        return float(np.average(((A > 0.5) == (Y > 0.5))[0], weights=w))
    return float(np.average(A.argmax(axis=0) == Y.argmax(axis=0), weights=w))


def mean_squared_error(A: np.ndarray, Y: np.ndarray, w: np.ndarray | None = None) -> float:
    """Return the mean of ``(a - y)²`` over outputs and samples."""
    return float(np.average(((A - Y) ** 2).mean(axis=0), weights=w))


def mean_absolute_error(A: np.ndarray, Y: np.ndarray, w: np.ndarray | None = None) -> float:
    """Return the mean of ``|a - y|`` over outputs and samples."""
    return float(np.average(np.abs(A - Y).mean(axis=0), weights=w))


def r2(A: np.ndarray, Y: np.ndarray, w: np.ndarray | None = None) -> float:
    """Return the coefficient of determination, averaged over the outputs; 0 for an output with constant targets."""
    weights = np.ones(Y.shape[1]) if w is None else w
    residual = (A - Y) ** 2 @ weights
    total = (Y - np.average(Y, axis=1, weights=w)[:, None]) ** 2 @ weights
    varies = total > 0
    return float(np.mean(np.where(varies, 1 - residual / np.where(varies, total, 1), 0.0)))


LIBRARY: dict[str, Metric] = {
    "accuracy": accuracy,
    "mean_squared_error": mean_squared_error,
    "mean_absolute_error": mean_absolute_error,
    "r2": r2,
}


LARGER_IS_BETTER = {"accuracy", "r2"}
"""The names of the metrics for which a larger value is better."""


def as_metrics(metrics: Metrics) -> dict[str, Metric]:
    """Return a dict of metrics by name, for metrics that are given by name or as functions.

    Raises
    ------
    UnknownNameError
        If there is no metric of a given name.
    ArgumentError
        If `metrics` is not a sequence, or if a metric has the name of another metric or of the loss.
    """
    try:
        sequence = [metrics] if isinstance(metrics, str) or callable(metrics) else list(metrics)
    except TypeError:
        raise ArgumentError.of("metrics", metrics, "a name, a function or a sequence of them, () for none") from None
    by_name: dict[str, Metric] = {}
    for metric in sequence:
        function = metric if callable(metric) else look_up("metric", metric, LIBRARY)
        name = metric if isinstance(metric, str) else str(getattr(metric, "__name__", repr(metric)))
        if name in {"loss", "val_loss", *by_name}:
            raise ArgumentError(f"metrics: {name!r} is already the name of a loss or metric, wanted distinct names")
        by_name[name] = function
    return by_name
