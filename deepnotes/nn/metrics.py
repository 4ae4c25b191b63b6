"""Metrics: figures for people to read, computed on the host from outputs and targets."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from deepnotes.utils.errors import ArgumentError, look_up

Metric: TypeAlias = Callable[..., float]
"""Takes outputs A and targets Y, both float64 of shape (k, m), and returns a number. The library's metrics also take
the weights of the samples, shape (m,), or None."""
Metrics: TypeAlias = str | Metric | Sequence[str | Metric]


def accuracy(A: np.ndarray, Y: np.ndarray, w: np.ndarray | None = None) -> float:
    """Return the fraction of samples that are classified correctly.

    With one output the class is ``a > 0.5``. With more it is the index of the largest output, the first one if several
    are equal; NaN counts as the largest.
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
    """Return the mean over the outputs of the coefficient of determination; 0 for an output that never varies."""
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


RISING = {"accuracy", "r2"}
"""Metrics for which a larger value is better."""


def as_metrics(metrics: Metrics) -> dict[str, Metric]:
    """Return metrics that are given by name or as functions, as a dict by name.

    Raises
    ------
    UnknownNameError
        If there is no metric of that name.
    ArgumentError
        If `metrics` is not a sequence, or if one has the name of another or of the loss.
    """
    try:
        given = [metrics] if isinstance(metrics, str) or callable(metrics) else list(metrics)
    except TypeError:
        raise ArgumentError.of("metrics", metrics, "a name, a function or a sequence of them, () for none") from None
    found: dict[str, Metric] = {}
    for metric in given:
        function = metric if callable(metric) else look_up("metric", metric, LIBRARY)
        name = metric if isinstance(metric, str) else str(getattr(metric, "__name__", repr(metric)))
        if name in {"loss", "val_loss", *found}:
            raise ArgumentError(f"metrics: {name!r} is the name of another figure, wanted names that differ")
        found[name] = function
    return found
