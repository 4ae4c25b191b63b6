"""Translation of an estimator's parameters to layers, initial weights and biases, a loss and its objective."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from deepnotes.nn.activations import Activation, ActivationFunction
from deepnotes.nn.hidden_layers import hidden_layers
from deepnotes.nn.layers import Dense, Layer
from deepnotes.nn.losses import LossFunction, as_loss, check_pair
from deepnotes.nn.plan import Objective
from deepnotes.utils.arguments import number
from deepnotes.utils.errors import ArgumentError

SIGMOID = {"logistic", "sigmoid"}
"""The names of the sigmoid in scikit-learn and in deepnotes."""

OUTPUTS: dict[str, ActivationFunction] = {
    "identity": Activation("identity"),
    "logistic": Activation("sigmoid"),
    "softmax": Activation("softmax"),
    "exp": Activation("exp"),
}
"""The activations of the last layer, by the value of ``out_activation_``."""


def hidden_sizes(hidden_layer_sizes: Any) -> list[int]:
    """Return the sizes of the hidden layers.

    Raises
    ------
    ArgumentError
        If a size is not an integer above 0.
    """
    sizes = [hidden_layer_sizes] if np.ndim(hidden_layer_sizes) == 0 else list(hidden_layer_sizes)
    for size in sizes:
        if not isinstance(size, int | np.integer) or isinstance(size, bool):
            raise ArgumentError.of(
                "hidden_layer_sizes", hidden_layer_sizes, f"only integers; {size!r} is not an integer"
            )
        if size <= 0:
            raise ArgumentError(f"hidden_layer_sizes must be > 0, got {sizes}.")
    return [int(size) for size in sizes]


def hidden_activations(activation: Any, count: int) -> list[str | ActivationFunction]:
    """Return the activations of `count` hidden layers; `activation` is one for all, or a list with one per layer.

    Raises
    ------
    ArgumentError, UnknownNameError
    """
    activations = list(activation) if isinstance(activation, list | tuple) else [activation] * count
    if len(activations) != count:
        raise ArgumentError(
            f"activation={activation!r} has {len(activations)} activations, wanted {count}: one per hidden layer"
        )
    return [_to_activation(g) for g in activations]


def layers(
    units: Sequence[int],
    activation: Any,
    dropout: Any,
    out_activation: str,
    normalization: str | None = None,
    residual: bool = False,
) -> list[Layer]:
    """Return the layers of a network.

    Parameters
    ----------
    units : sequence of int
        ``n[0], n[1], ..., n[L]``.
    activation : str, ActivationFunction or list of them
        The activation of all hidden layers, or a list with one activation per layer.
    dropout : float or list of float
        The fraction of the outputs of each hidden layer to drop; a list has one fraction for each layer.
    out_activation : str
        The activation of the last layer, a key of :data:`OUTPUTS`.
    normalization, residual : optional
        As for :func:`deepnotes.nn.hidden_layers.hidden_layers`.

    Raises
    ------
    ArgumentError, UnknownNameError
    """
    hidden = len(units) - 2
    rates = list(dropout) if isinstance(dropout, list | tuple) else [dropout] * hidden
    if len(rates) != hidden:
        raise ArgumentError(f"dropout={dropout!r} has {len(rates)} rates, wanted {hidden}: one per hidden layer")
    rates = [number(f"dropout[{i}]", rate, below=1) for i, rate in enumerate(rates)]
    activations = hidden_activations(activation, hidden)
    before = hidden_layers(units[1:-1], activations, rates, normalization, residual)
    return [*before, Dense(units[-1], OUTPUTS[out_activation])]


def initial_parameters(
    units: Sequence[int],
    activation: Any,
    random_state: np.random.RandomState,
    dtype: np.dtype[Any],
    normalization: str | None = None,
) -> dict[str, list[np.ndarray]]:
    """Return initial parameters by the keys of the layers, with the same random numbers as scikit-learn.

    These are ``W``, shape (n_prev, n), and ``b``, shape (n,), of each Dense layer, and ``gamma``, 1, and ``beta``, 0,
    shape (n,), of each layer that normalizes; the lists are empty if there are none.

    The distribution is uniform within the bound of Glorot and Bengio (AISTATS 2010), which is smaller for the sigmoid.
    The bound of the last layer is computed as if this layer had the activation of the last hidden layer.
    """
    activations = hidden_activations(activation, len(units) - 2)
    activations = [*activations, activations[-1] if activations else activation]
    coefs, intercepts = [], []
    for n_prev, n, g in zip(units, units[1:], activations, strict=False):
        factor = 2.0 if getattr(g, "name", g) in SIGMOID else 6.0
        bound = np.sqrt(factor / (n_prev + n))
        coefs.append(random_state.uniform(-bound, bound, (n_prev, n)).astype(dtype, copy=False))
        intercepts.append(random_state.uniform(-bound, bound, n).astype(dtype, copy=False))
    scaled = units[1:-1] if normalization is not None else []
    shifted = units[1:-1] if normalization == "layer" else []
    gammas, betas = [np.ones(n, dtype) for n in scaled], [np.zeros(n, dtype) for n in shifted]
    return {"W": coefs, "b": intercepts, "gamma": gammas, "beta": betas}


def loss_of(name: str | LossFunction, out_activation: str, outputs: int) -> tuple[LossFunction, Objective]:
    """Return the loss of this name, or the given loss object, and its objective for this number of outputs.

    For scikit-learn's own losses, the objective is the sum over the outputs, as in scikit-learn. For several
    regression targets, scikit-learn minimizes the sum of half the squared errors, but reports their mean.
    """
    k, softmax = float(outputs), out_activation == "softmax"
    table: dict[Any, tuple[str, float, float]] = {
        "log_loss": ("categorical_cross_entropy", 1.0, 1.0) if softmax else ("binary_cross_entropy", k, k),
        "squared_error": ("mean_squared_error", k / 2, 0.5),
        "poisson": ("half_poisson_deviance", k, k),
    }
    loss, scale, reported_scale = table.get(name, (name, 1.0, 1.0))
    return as_loss(loss), Objective(scale, reported_scale, share_l2=True, weighted_mean=True)


def check_loss(loss: LossFunction, last: Layer) -> None:
    """Raise ArgumentError if `loss` is not defined for the outputs of the `last` layer."""
    check_pair(loss, getattr(last, "g", None))


def _to_activation(activation: Any) -> str | ActivationFunction:
    """Return an activation function unchanged, or convert scikit-learn's name of an activation to deepnotes' name."""
    if isinstance(activation, ActivationFunction):
        return activation
    return "sigmoid" if activation == "logistic" else str(activation)
