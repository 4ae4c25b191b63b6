"""Forward without training: outputs and figures, a bounded number of samples at a time."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.array import Array
from deepnotes.losses import LossFunction
from deepnotes.metrics import Metric
from deepnotes.program import Data
from deepnotes.steps import forward, sample_losses

if TYPE_CHECKING:
    from deepnotes.network import Network

ELEMENTS = 1 << 22
"""Elements of the widest layer that are held at a time; more samples are taken in turns."""


def outputs(network: "Network", X: Array) -> Iterator[tuple[Array, list[Any]]]:
    """Yield ``A[L]`` and the layers' caches for X of shape (n[0], m), some columns at a time."""
    m = X.shape[1]
    step = max(1, ELEMENTS // max(network.layout.sizes))
    parameters = network.layout.split(network.backend.xp, network.theta)
    for start in range(0, max(m, 1), step):
        part = X if m <= step else X[:, start : start + step]
        yield forward(network.backend.ops, network.layers, parameters, part, network.seed, None)


def figures(network: "Network", data: Data, loss: LossFunction, metrics: dict[str, Metric]) -> dict[str, float]:
    """Return the weighted mean loss and the metrics of `data`, by name."""
    ops = network.backend.ops
    loss_sum = weight_sum = 0.0
    found: list[tuple[np.ndarray, np.ndarray]] = []
    start = 0
    for A, caches in outputs(network, data.X):
        stop = start + A.shape[1]
        Y = data.Y[:, start:stop]
        if Y.shape[0] != network.outputs:
            Y = ops.one_hot(Y, network.outputs, A.dtype)
        L = _host(network, sample_losses(ops, network.layers, loss, A, caches, Y))
        w = np.ones(L.shape) if data.w is None else _host(network, data.w[:, start:stop])
        loss_sum += float((L * w).sum())
        weight_sum += float(w.sum())
        if metrics:
            found.append((_host(network, A), _host(network, Y)))
        start = stop
    values = {"loss": loss_sum / weight_sum}
    if metrics:
        A_all, Y_all = (np.concat(parts, axis=1) for parts in zip(*found, strict=True))
        values |= {name: float(metric(A_all, Y_all)) for name, metric in metrics.items()}
    return values


def _host(network: "Network", x: Array) -> np.ndarray:
    return network.backend.to_numpy(x).astype(np.float64)
