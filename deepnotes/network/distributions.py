"""Quantiles, means and standard deviations from the outputs of networks that predict distributions of the targets."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from deepnotes.equations.array import Array
from deepnotes.nn.losses import GaussianNLL, LossFunction, QuantileLoss

DISTRIBUTIONS = ("quantile", "gaussian")
"""The losses of ``deepnotes train`` that predict a distribution."""


def loss_named(name: str, quantiles: Sequence[float] = ()) -> LossFunction | None:
    """Return the loss of one of these names, and None for another name."""
    if name == "quantile":
        return QuantileLoss(tuple(quantiles))
    return GaussianNLL() if name == "gaussian" else None


def sorted_quantiles(loss: QuantileLoss, A: np.ndarray) -> np.ndarray:
    """Return the quantiles, shape (q, k, m), of outputs A, shape (q k, m), in ascending order.

    Outputs may cross. Sorted, they do not, and are at least as close to the quantiles of the targets (V. Chernozhukov
    et al., Econometrica 78 (2010) 1093).
    """
    return np.sort(A.reshape(len(loss.quantiles), -1, A.shape[1]), axis=0)


def mean_and_deviation(loss: GaussianNLL, A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the standard deviation of each target, shape (k, m), for outputs A, shape (2 k, m)."""
    mean, log_variance = np.split(A, 2)
    with np.errstate(over="ignore"):
        return mean, np.sqrt(np.maximum(np.exp(log_variance), A.dtype.type(loss.epsilon)))


def point_prediction(loss: LossFunction, A: np.ndarray) -> np.ndarray:
    """Return the prediction of each target, shape (k, m), such as its mean or the median of its sorted quantiles."""
    if isinstance(loss, QuantileLoss):
        A = sorted_quantiles(loss, A).reshape(A.shape)
    prediction: Any = loss.point_prediction(cast(Array, A))
    return np.asarray(prediction)
