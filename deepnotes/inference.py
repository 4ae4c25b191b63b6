"""Forward without training: outputs and figures, a bounded number of samples at a time."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from deepnotes.array import Array
from deepnotes.disk import Streamed
from deepnotes.errors import ArgumentError
from deepnotes.layers import Layer
from deepnotes.losses import LossFunction
from deepnotes.metrics import LIBRARY, Metric
from deepnotes.plan import Layout
from deepnotes.program import Data
from deepnotes.steps import forward, sample_losses
from deepnotes.wording import brief

if TYPE_CHECKING:
    from deepnotes.backend import Backend
    from deepnotes.network import Network

ELEMENTS = 1 << 22
"""Elements of the widest layer that are held at a time; more samples are taken in turns."""
WORK = 10**10
"""Multiplications of a turn, a fraction of a second, since Ctrl-C is heeded only between them."""
LEAST = 256
"""Samples of a turn in spite of `WORK`: with fewer, a wide layer's weights are read more often than pays."""


class Inference(Protocol):
    """The forward pass of a network made ready to run, many times, from any number of threads at once."""

    def predict(self, theta: Array, X: Array) -> Array:
        """Return ``A[L]``, shape (n[L], m), for the parameters theta, shape (p,), and X, shape (n[0], m)."""

    def losses(self, theta: Array, X: Array, Y: Array, loss: LossFunction) -> tuple[Array, Array]:
        """Return ``A[L]``, and the loss of each sample, shape (1, m), for Y of shape (n[L], m) or class indices."""


class EagerInference:
    """The Inference that interprets the layers, equation by equation, on any backend.

    Parameters
    ----------
    backend : Backend
    layers : sequence of Layer
    layout : Layout
    dtype : {"float32", "float64"}
    """

    def __init__(self, backend: "Backend", layers: Sequence[Layer], layout: Layout, dtype: str) -> None:
        self.backend, self.layers, self.layout, self.dtype = backend, tuple(layers), layout, dtype

    def predict(self, theta: Array, X: Array) -> Array:
        """Return the outputs; see :meth:`Inference.predict`."""
        return self._joined([self._forward(theta, part)[0] for part in self._parts(X)])

    def losses(self, theta: Array, X: Array, Y: Array, loss: LossFunction) -> tuple[Array, Array]:
        """Return outputs and losses; see :meth:`Inference.losses`."""
        ops, found = self.backend.ops, []
        for x, y in zip(self._parts(X), self._parts(Y), strict=True):
            A, caches = self._forward(theta, x)
            if y.shape[0] != A.shape[0]:
                y = ops.one_hot(y, A.shape[0], A.dtype)
            with np.errstate(all="ignore"):
                found.append((A, sample_losses(ops, self.layers, loss, A, caches, y)))
        outputs, losses = zip(*found, strict=True)
        return self._joined(outputs), self._joined(losses)

    def _forward(self, theta: Array, X: Array) -> tuple[Array, list[Any]]:
        parameters = self.layout.split(self.backend.xp, theta)
        with np.errstate(all="ignore"):
            return forward(self.backend.ops, self.layers, parameters, X, 0, None)

    def _parts(self, X: Array) -> list[Array]:
        m, layout = X.shape[1], self.layout
        step = max(1, min(ELEMENTS // max(layout.sizes), max(LEAST, WORK // max(1, layout.decaying))))
        return [X] if m <= step else [X[:, start : start + step] for start in range(0, m, step)]

    def _joined(self, parts: Sequence[Array]) -> Array:
        return parts[0] if len(parts) == 1 else self.backend.xp.concat(list(parts), axis=1)


def figures(network: "Network", data: Data, loss: LossFunction, metrics: dict[str, Metric]) -> dict[str, float]:
    """Return the weighted mean loss and the metrics of `data`, by name: weighted if they are the library's."""
    A, losses = _outputs_and_losses(network, data, loss)
    L = _host(network, losses)
    w = np.ones(L.shape) if data.w is None else _host(network, data.w)
    values = {"loss": float((L * w).sum()) / float(w.sum())}
    if metrics:
        Y = data.Y
        if Y.shape[0] != network.outputs:
            Y = network.backend.ops.one_hot(Y, network.outputs, A.dtype)
        A_host, Y_host = _host(network, A), _host(network, Y)
        weights = {} if data.w is None else {"w": w[0]}
        for name, metric in metrics.items():
            found = metric(A_host, Y_host, **(weights if metric in LIBRARY.values() else {}))
            try:
                values[name] = float(found)
            except (TypeError, ValueError, OverflowError):
                raise ArgumentError(f"metrics: {name} returned {brief(repr(found))}, wanted a number") from None
    return values


def _outputs_and_losses(network: "Network", data: Data, loss: LossFunction) -> tuple[Array, Array]:
    infer, theta, X = network.inference, network.theta, data.X
    if not isinstance(X, Streamed):
        return infer.losses(theta, X, data.Y, loss)
    parts = [infer.losses(theta, X[:, span], data.Y[:, span], loss) for span in X.spans()]
    A, losses = (network.backend.xp.concat(list(found), axis=1) for found in zip(*parts, strict=True))
    return A, losses


def outputs(network: "Network", X: Array) -> Array:
    """Return the outputs for samples as :func:`deepnotes.inputs.as_samples` made them, on the backend."""
    infer, theta = network.inference, network.theta
    if not isinstance(X, Streamed):
        return infer.predict(theta, X)
    return network.backend.xp.concat([infer.predict(theta, X[:, span]) for span in X.spans()], axis=1)


def watching(
    network: "Network", data: Data, held_out: Data | None, loss: LossFunction, metrics: dict[str, Metric]
) -> Callable[[], dict[str, float]]:
    """Return what gives the :func:`figures` to watch after each epoch: of `held_out`, or the metrics of `data`.

    Those of `data` are not weighted: its weights are a means of training, and may be those of classes.
    """

    def evaluate() -> dict[str, float]:
        if held_out is not None:
            return {f"val_{name}": value for name, value in figures(network, held_out, loss, metrics).items()}
        values = figures(network, data._replace(w=None), loss, metrics) if metrics else {}
        return {name: value for name, value in values.items() if name != "loss"}

    return evaluate


def _host(network: "Network", x: Array) -> np.ndarray:
    return network.backend.to_numpy(x).astype(np.float64)
