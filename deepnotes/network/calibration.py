"""Calibration of a classifier by one temperature, by which the logits of its last layer are divided.

The temperature T minimizes the cross-entropy of held-out samples (C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger,
arXiv:1706.04599, section 4.2). As ``(W A + b) / T = (W / T) A + b / T``, a calibrated network is the same network with
other parameters, which every backend, file and export has.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.backends.samples import host_columns
from deepnotes.network.evaluation import one_hot, outputs
from deepnotes.network.inputs import as_data
from deepnotes.nn.activations import Activation
from deepnotes.nn.layers import Dense, Layer
from deepnotes.nn.losses import Loss
from deepnotes.utils.errors import ArgumentError, DataError

if TYPE_CHECKING:
    from deepnotes.network.protocol import NetworkLike

LOSSES = {
    "sigmoid": "binary_cross_entropy",
    "softmax": "categorical_cross_entropy",
    "log_softmax": "categorical_cross_entropy",
}
"""The cross-entropy of the outputs of each activation whose inputs are logits."""


def cross_entropy_of(layers: Sequence[Layer]) -> Loss:
    """Return the cross-entropy that the temperature of a network with these layers minimizes.

    Raises
    ------
    ArgumentError
        If the last layer does not compute probabilities from logits, or has a constraint, which other parameters may
        not fulfil.
    """
    last = layers[-1]
    g, constraint = (last.g, last.constraint) if type(last) is Dense else (None, None)
    if type(g) is not Activation or g.name not in LOSSES:
        raise ArgumentError(
            f"layers[{len(layers) - 1}]: {last!r} cannot be calibrated: wanted a Dense with sigmoid, softmax or "
            "log_softmax as the last layer"
        )
    if constraint is not None:
        raise ArgumentError(
            f"layers[{len(layers) - 1}]: {last!r} cannot be calibrated, since the division of W by the temperature may "
            "break its constraint: wanted a last layer without one"
        )
    return Loss(LOSSES[g.name])


def calibrate(
    network: "NetworkLike", linear: "NetworkLike", loss: Loss, X: Any, Y: Any, sample_weight: Any
) -> tuple[float, np.ndarray]:
    """Return the temperature and the flat parameters of the calibrated network; see :meth:`Network.calibrated`.

    Parameters
    ----------
    network : NetworkLike
    linear : NetworkLike
        The same network without the activation of the last layer, whose outputs are the logits.
    loss : Loss
        The result of :func:`cross_entropy_of`.
    X, Y, sample_weight : array_like
    """
    data, _ = as_data(network, X, Y, loss, sample_weight)
    with np.errstate(all="ignore"):
        Z = host_columns(network.backend, outputs(linear, data.X))
    Y = one_hot(network, host_columns(network.backend, data.Y))
    w = np.ones(Z.shape[1]) if data.w is None else host_columns(network.backend, data.w)[0]
    temperature = find_temperature(*as_softmax(loss, *(x.astype(np.float64) for x in (Z, Y, w))))
    theta = network.flat().astype(np.float64)
    for entry in network.layout.entries.values():
        if entry.layer == len(network.layers) - 1:
            theta[entry.start : entry.stop] /= temperature
    return temperature, theta


def as_softmax(loss: Loss, Z: np.ndarray, Y: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return logits and targets of a softmax with the same cross-entropy, shape (k, m), and weights, shape (m,).

    ``sigmoid(z)`` is the second output of the softmax of 0 and z; each of several sigmoids is a sample of its own.
    """
    if loss.name == "categorical_cross_entropy":
        return Z, Y, w
    return np.stack([0 * Z.ravel(), Z.ravel()]), np.stack([1 - Y.ravel(), Y.ravel()]), np.tile(w, len(Z))


def find_temperature(Z: np.ndarray, Y: np.ndarray, w: np.ndarray) -> float:
    """Return the temperature T that minimizes the mean cross-entropy of ``softmax(Z / T)``.

    Parameters
    ----------
    Z, Y : ndarray of float64, shape (k, m)
        Logits, and targets whose columns sum to 1.
    w : ndarray, shape (m,)
        The weights of the samples.

    Raises
    ------
    DataError
        If the logits are not finite, or no temperature is the best.

    Notes
    -----
    With ``β = 1 / T``, a sample's cross-entropy is ``log Σ exp(β z) - β y·z``. Its derivative by β is the mean of z
    under the predicted probabilities minus that under the targets, and its second derivative is the variance of z: it
    is convex. The root of the derivative is found by Newton's method, and by bisection where a step of it leaves the
    interval that holds the root, or is not half as long as the one before.
    """
    if not np.isfinite(Z).all():
        raise DataError("the logits of the network for these samples are not finite, so it cannot be calibrated")
    share, z = w / w.sum(), Z - Z.max(axis=0)  # adding a number to the logits of a sample changes nothing
    target = (Y * z).sum(axis=0)

    def derivatives(beta: float) -> tuple[float, float]:
        P = np.exp(beta * z)
        P /= P.sum(axis=0)
        mean = (P * z).sum(axis=0)
        return float(share @ (mean - target)), float(share @ (P * (z - mean) ** 2).sum(axis=0))

    if share @ -target <= 0:  # the derivative for β → ∞, where all probability is on the largest logit, 0
        raise DataError(
            "all samples are predicted correctly, so the cross-entropy falls with every smaller temperature: calibrate "
            "with more samples, which the network was not trained on"
        )
    if derivatives(0.0)[0] >= 0:
        raise DataError(
            "the predictions are no better than equal probabilities for all classes at any temperature: the network "
            "cannot be calibrated with these samples"
        )
    beta, lower, upper, step = 1.0, 0.0, np.inf, np.inf
    while abs(step) > 1e-12 * beta:
        slope, curvature = derivatives(beta)
        lower, upper = (beta, upper) if slope < 0 else (lower, beta)
        newton = -slope / curvature if curvature > 0 else np.inf
        middle = (lower + upper) / 2 if upper < np.inf else 2 * beta
        safe = lower <= beta + newton <= upper and 2 * abs(newton) <= abs(step)
        step = newton if safe else middle - beta
        beta += step
    return 1 / beta
