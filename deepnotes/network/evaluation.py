"""Outputs, losses and metrics of a network on data that may be arrays or Samples."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from deepnotes.backends.eager import EagerInference
from deepnotes.backends.program import Data
from deepnotes.backends.samples import Columns, Samples, columns, host_columns, spans
from deepnotes.equations.array import Array, Namespace
from deepnotes.equations.ops import Ops
from deepnotes.nn.losses import LossFunction
from deepnotes.nn.metrics import LIBRARY, Metric
from deepnotes.utils.errors import ArgumentError
from deepnotes.utils.wording import brief

if TYPE_CHECKING:
    from deepnotes.network.protocol import NetworkLike


SAMPLING = 1
"""Distinguishes the random numbers of predictions from those of training steps with the same seed."""


def compute_metrics(
    network: "NetworkLike", data: Data, loss: LossFunction, metrics: dict[str, Metric]
) -> dict[str, float]:
    """Return the weighted mean loss and the metrics on `data`, by name; user-defined metrics are not weighted."""
    A, losses = _outputs_and_losses(network, data, loss)
    w: Any = data.w.read(slice(None)) if isinstance(data.w, Samples) else data.w
    return {"loss": network.backend.weighted_mean(losses, w)} | _metrics_of(network, data, A, loss, metrics)


def compute_ensemble_metrics(
    network: "NetworkLike", data: Data, A: np.ndarray, loss: LossFunction, metrics: dict[str, Metric]
) -> dict[str, float]:
    """Return the weighted mean loss and the metrics of the mean outputs A of an ensemble, by name.

    The loss is computed on the host, in the dtype of the networks; `network` is one of them, and `data` its data.
    """
    Y = one_hot(network, _to_host(network, data.Y)).astype(A.dtype)
    losses = loss.value(Ops(cast(Namespace, np), {}), cast(Array, A), cast(Array, Y))
    w = None if data.w is None else _to_host(network, data.w)[0]
    mean = float(np.average(np.asarray(losses, np.float64)[0], weights=w))
    return {"loss": mean} | _metrics_of(network, data, cast(Array, A), loss, metrics)


def _metrics_of(
    network: "NetworkLike", data: Data, A: Array, loss: LossFunction, metrics: dict[str, Metric]
) -> dict[str, float]:
    """Return the metrics of the outputs A, by name."""
    values = {}
    if metrics:
        A_host, Y_host = _to_host(network, A), one_hot(network, _to_host(network, data.Y))
        if loss.outputs_per_target > 1:
            A_host = cast(np.ndarray, loss.point_prediction(cast(Array, A_host)))
            Y_host = Y_host[: len(A_host)]
        weights = {} if data.w is None else {"w": _to_host(network, data.w)[0]}
        for name, metric in metrics.items():
            value = metric(A_host, Y_host, **(weights if metric in LIBRARY.values() else {}))
            try:
                values[name] = float(value)
            except (TypeError, ValueError, OverflowError):
                raise ArgumentError(f"metrics: {name} returned {brief(repr(value))}, wanted a number") from None
    return values


def one_hot(network: "NetworkLike", Y: np.ndarray) -> np.ndarray:
    """Return targets with one row for each output; class indices become one-hot columns."""
    return Y if len(Y) == network.outputs else (np.arange(network.outputs)[:, None] == Y).astype(np.float64)


def _outputs_and_losses(network: "NetworkLike", data: Data, loss: LossFunction) -> tuple[Array, Array]:
    infer, theta, (X, Y, _) = network.inference, network.theta, data
    if not isinstance(X, Samples) and not isinstance(Y, Samples):
        return infer.losses(theta, X, Y, loss)
    parts = [infer.losses(theta, columns(X, span), columns(Y, span), loss) for span in spans(X, Y)]
    return _concatenate(network, (A for A, _ in parts)), _concatenate(network, (losses for _, losses in parts))


def outputs(network: "NetworkLike", X: Array) -> Array:
    """Return the outputs for X, a result of :func:`deepnotes.network.inputs.as_samples`.

    If X is an array, so are the outputs, on the backend; if X is Samples, the outputs are a NumPy array.
    """
    infer, theta = network.inference, network.theta
    if isinstance(X, np.ndarray) and (predict_host := getattr(infer, "predict_host", None)):
        return cast(Array, predict_host(theta, X))
    if not isinstance(X, Samples):
        return infer.predict(theta, X)
    return _concatenate(network, (infer.predict(theta, columns(X, span)) for span in spans(X)))


def mean_output(outputs: Sequence[Any]) -> Any:
    """Return the mean of the outputs of several networks, in any namespace, added one after the other."""
    return sum(outputs[1:], start=outputs[0]) / float(len(outputs))


def mean_and_std(xp: Any, outputs: Sequence[Any]) -> tuple[Any, Any]:
    """Return the mean of several outputs, and their standard deviation, ``sqrt(mean((A_i - mean)²))``."""
    mean = mean_output(outputs)
    return mean, xp.sqrt(mean_output([(A - mean) * (A - mean) for A in outputs]))


def sampled_outputs(network: "NetworkLike", X: Array, samples: int, seed: int) -> list[Array]:
    """Return the outputs for X with `samples` different draws of dropout and noise; X is as for :func:`outputs`."""
    backend, theta = network.backend, network.theta
    infer = EagerInference(backend, network.layers, network.layout, network.dtype)
    key = int(np.random.SeedSequence([seed, SAMPLING]).generate_state(1, np.uint64)[0])
    if not isinstance(X, Samples):
        return [infer.sample(theta, X, key, step) for step in range(samples)]
    return [
        _concatenate(network, (infer.sample(theta, columns(X, span), key, step, span.start) for span in spans(X)))
        for step in range(samples)
    ]


def _concatenate(network: "NetworkLike", parts: Iterable[Array]) -> Array:
    """Concatenate arrays by their columns, on the host: the result may not fit into the memory of a device."""
    return cast(Array, np.concatenate([network.backend.to_numpy(part) for part in parts], axis=1))


def epoch_evaluator(
    network: "NetworkLike", data: Data, held_out: Data | None, loss: LossFunction, metrics: dict[str, Metric]
) -> Callable[[], dict[str, float]]:
    """Return a function that computes the values to record after each epoch, by name.

    These are the loss and the metrics on `held_out`, or the metrics on `data` if `held_out` is None. Metrics on `data`
    are not weighted, since the weights of `data` are for training and may include class weights.
    """

    def evaluate() -> dict[str, float]:
        if held_out is not None:
            return {f"val_{name}": value for name, value in compute_metrics(network, held_out, loss, metrics).items()}
        values = compute_metrics(network, data._replace(w=None), loss, metrics) if metrics else {}
        return {name: value for name, value in values.items() if name != "loss"}

    return evaluate


def _to_host(network: "NetworkLike", x: Columns) -> np.ndarray:
    return host_columns(network.backend, x).astype(np.float64)
