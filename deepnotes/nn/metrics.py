"""Metrics: functions of outputs and targets that are reported to the user, computed on the host."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from deepnotes.utils.errors import ArgumentError, DataError, look_up

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
    return float(np.average(classes_of(A) == classes_of(Y), weights=w))


def classes_of(A: np.ndarray) -> np.ndarray:
    """Return the index of the predicted class of each sample, shape (m,), for outputs A, shape (k, m)."""
    classes: np.ndarray = (A[0] > 0.5).astype(np.int64) if A.shape[0] == 1 else A.argmax(axis=0)
    return classes


@dataclass(frozen=True)
class ClassScores:
    """The precision, recall and F1 of each of k classes, arrays of shape (k,); 0 where the denominator is 0.

    Attributes
    ----------
    precision : ndarray
        The share of the samples predicted as the class that belong to it.
    recall : ndarray
        The share of the samples of the class that are predicted as such.
    f1 : ndarray
        The harmonic mean of precision and recall.
    samples, predicted : ndarray
        The total weight, by default the number, of the samples of the class, and of those predicted as such.
    """

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    samples: np.ndarray
    predicted: np.ndarray

    @classmethod
    def of(cls, A: np.ndarray, Y: np.ndarray, w: np.ndarray | None = None) -> "ClassScores":
        """Return the scores for outputs A and targets Y, shape (k, m), or (1, m) for two classes.

        Examples
        --------
        >>> ClassScores.of(np.array([[0.1, 0.8, 0.9]]), np.array([[0.0, 0.0, 1.0]])).recall
        array([0.5, 1. ])
        """
        k, true, predicted = max(2, len(A)), classes_of(Y), classes_of(A)
        counts = [np.bincount(classes, weights, k).astype(np.float64) for classes, weights in (
            (true[true == predicted], None if w is None else w[true == predicted]), (true, w), (predicted, w)
        )]  # fmt: skip
        correct, of_class, of_prediction = counts
        precision, recall = _ratio(correct, of_prediction), _ratio(correct, of_class)
        return cls(precision, recall, _ratio(2 * correct, of_class + of_prediction), of_class, of_prediction)


def balanced_accuracy(A: np.ndarray, Y: np.ndarray, w: np.ndarray | None = None) -> float:
    """Return the mean recall of the classes that occur in Y."""
    scores = ClassScores.of(A, Y, w)
    return float(scores.recall[scores.samples > 0].mean())


def f1(A: np.ndarray, Y: np.ndarray, w: np.ndarray | None = None) -> float:
    """Return the mean F1, the harmonic mean of precision and recall, of the classes that occur or are predicted."""
    scores = ClassScores.of(A, Y, w)
    return float(scores.f1[scores.samples + scores.predicted > 0].mean())


def roc_auc(A: np.ndarray, Y: np.ndarray, w: np.ndarray | None = None) -> float:
    """Return the area under the ROC curve; with more than two classes, the mean of each class against the others.

    It is the probability that a sample of the class has a larger output than one that is not of the class, with ties
    counted half. A class without samples, or to which all samples belong, is left out; the result is NaN if none is
    left.
    """
    areas = []
    for a, y in zip(A, Y, strict=True) if len(A) > 2 else [(A[-1], Y[-1])]:
        true, false = _cumulative(a, y, w)
        if true[-1] > 0 and false[-1] > 0:
            areas.append(np.trapezoid(true / true[-1], false / false[-1]))
    return float(np.mean(areas)) if areas else float("nan")


def average_precision(A: np.ndarray, Y: np.ndarray, w: np.ndarray | None = None) -> float:
    """Return the mean precision over all recalls of the last class, the positive one of two; NaN without samples of it.

    The sum of ``(recall - previous recall) * precision`` over all thresholds, without interpolation.
    """
    true, false = _cumulative(A[-1], Y[-1], w)
    if true[-1] <= 0:
        return float("nan")
    return float(np.sum(np.diff(true) * _ratio(true, true + false)[1:]) / true[-1])


def expected_calibration_error(A: np.ndarray, Y: np.ndarray, w: np.ndarray | None = None, bins: int = 15) -> float:
    """Return how far the confidence in the predicted class is from its accuracy, on average.

    The samples are divided by confidence into bins of equal width. The result is the mean of the differences between
    the mean confidence and the accuracy of each bin, weighted by its samples (C. Guo et al., arXiv:1706.04599,
    equation 3). It depends on the number of bins. Each sample is of one class.

    Raises
    ------
    DataError
        If an output is no probability, such as one of ``log_softmax``.
    """
    if ((A < 0) | (A > 1 + 1e-6)).any():
        raise DataError(
            f"the calibration error needs probabilities, but an output is {A[(A < 0) | (A > 1 + 1e-6)][0]:g}"
        )
    confidence, correct, weight = calibration_bins(A, Y, w, bins)
    return float(np.sum(weight * abs(confidence - correct)) / np.sum(weight))


def calibration_bins(
    A: np.ndarray, Y: np.ndarray, w: np.ndarray | None, bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean confidence, the accuracy and the total weight of the samples in each bin, shape (bins,).

    The confidence is the probability of the predicted class, and the bins divide the numbers from 0 to 1 into intervals
    of equal width, to each of which its upper end belongs. The first two numbers are 0 for a bin without samples.
    """
    weights = np.ones(A.shape[1]) if w is None else w
    confidence = np.maximum(A[0], 1 - A[0]) if len(A) == 1 else A.max(axis=0)
    inner = np.arange(1, bins) / bins
    index = np.searchsorted(inner, confidence)  # the number of inner edges below each confidence
    correct = (classes_of(A) == classes_of(Y)).astype(np.float64)
    total, right, sure = (np.bincount(index, weights * x, bins) for x in (1.0, correct, confidence))
    return _ratio(sure, total), _ratio(right, total), total


def _cumulative(a: np.ndarray, y: np.ndarray, w: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights of the positive and of the negative samples with outputs of at least each threshold, from 0.

    The thresholds are the distinct outputs, from the largest to the smallest.
    """
    order = np.argsort(-a, kind="stable")
    a, positive, weights = a[order], y[order] > 0.5, np.ones(len(a)) if w is None else w[order]
    last = np.append(np.flatnonzero(np.diff(a)), len(a) - 1)  # the last sample of each group of equal outputs
    true, false = (np.cumsum(np.where(chosen, weights, 0.0))[last] for chosen in (positive, ~positive))
    return np.append(0.0, true), np.append(0.0, false)


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return a / b, and 0 where b is 0."""
    ratio: np.ndarray = np.divide(a, b, out=np.zeros(len(a)), where=b > 0)
    return ratio


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
    "balanced_accuracy": balanced_accuracy,
    "f1": f1,
    "roc_auc": roc_auc,
    "average_precision": average_precision,
    "expected_calibration_error": expected_calibration_error,
    "mean_squared_error": mean_squared_error,
    "mean_absolute_error": mean_absolute_error,
    "r2": r2,
}


LARGER_IS_BETTER = {"accuracy", "balanced_accuracy", "f1", "roc_auc", "average_precision", "r2"}
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
