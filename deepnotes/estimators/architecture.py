"""Translate scikit-learn's parameters to layers, initial parameters, losses and their objectives."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from deepnotes.nn.activations import Activation, ActivationFunction
from deepnotes.nn.layers import Dense, Dropout, Layer
from deepnotes.nn.losses import LossFunction, as_loss, check_pair
from deepnotes.nn.plan import Objective
from deepnotes.utils.arguments import number
from deepnotes.utils.errors import ArgumentError

SIGMOID = {"logistic", "sigmoid"}
"""Its names in scikit-learn and here."""


OUTPUTS: dict[str, ActivationFunction] = {
    "identity": Activation("identity"),
    "logistic": Activation("sigmoid"),
    "softmax": Activation("softmax"),
    "exp": Activation("exp"),
}
"""The activation of the last layer, by its name in ``out_activation_``."""


def hidden_sizes(given: Any) -> list[int]:
    """Return the sizes of the hidden layers.

    Raises
    ------
    ArgumentError
        If one is not an integer above 0.
    """
    sizes = [given] if np.ndim(given) == 0 else list(given)
    for size in sizes:
        if not isinstance(size, int | np.integer) or isinstance(size, bool):
            raise ArgumentError.of("hidden_layer_sizes", given, f"whole numbers: {size!r} is none")
        if size <= 0:
            raise ArgumentError(f"hidden_layer_sizes must be > 0, got {sizes}.")
    return [int(size) for size in sizes]


def hidden_activations(given: Any, count: int) -> list[str | ActivationFunction]:
    """Return the activation of each of the hidden layers: one for all of them, or a list.

    Raises
    ------
    ArgumentError, UnknownNameError
    """
    each = list(given) if isinstance(given, list | tuple) else [given] * count
    if len(each) != count:
        raise ArgumentError(f"activation={given!r} has {len(each)} activations, wanted {count}: one per hidden layer")
    return [_as_ours(activation) for activation in each]


def layers(units: Sequence[int], activation: Any, dropout: Any, out_activation: str) -> list[Layer]:
    """Return the layers of a network.

    Parameters
    ----------
    units : sequence of int
        ``n[0], n[1], ..., n[L]``.
    activation : str, ActivationFunction or list of them
        The activation of the hidden layers.
    dropout : float or list of float
        The share of the outputs of each hidden layer that is dropped.
    out_activation : str
        The activation of the last layer, see :data:`OUTPUTS`.

    Raises
    ------
    ArgumentError, UnknownNameError
    """
    hidden = len(units) - 2
    rates = list(dropout) if isinstance(dropout, list | tuple) else [dropout] * hidden
    if len(rates) != hidden:
        raise ArgumentError(f"dropout={dropout!r} has {len(rates)} rates, wanted {hidden}: one per hidden layer")
    rates = [number(f"dropout[{i}]", rate, below=1) for i, rate in enumerate(rates)]
    made: list[Layer] = []
    for n, g, rate in zip(units[1:], hidden_activations(activation, hidden), rates, strict=False):
        made += [Dense(n, g), *([Dropout(rate)] if rate else [])]
    return [*made, Dense(units[-1], OUTPUTS[out_activation])]


def initial(
    units: Sequence[int], activation: Any, random_state: np.random.RandomState, dtype: np.dtype[Any]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return weights, shape (n_prev, n), and biases, shape (n,), drawn as scikit-learn draws them.

    Uniform within the bound of Glorot and Bengio (AISTATS 2010), which is smaller for sigmoid. The bound of the last
    layer is computed as if it had the activation of the last hidden layer.
    """
    kinds = hidden_activations(activation, len(units) - 2)
    kinds = [*kinds, kinds[-1] if kinds else activation]
    coefs, intercepts = [], []
    for n_prev, n, g in zip(units, units[1:], kinds, strict=False):
        factor = 2.0 if getattr(g, "name", g) in SIGMOID else 6.0
        bound = np.sqrt(factor / (n_prev + n))
        coefs.append(random_state.uniform(-bound, bound, (n_prev, n)).astype(dtype, copy=False))
        intercepts.append(random_state.uniform(-bound, bound, n).astype(dtype, copy=False))
    return coefs, intercepts


def loss_of(name: str | LossFunction, out_activation: str, outputs: int) -> tuple[LossFunction, Objective]:
    """Return a loss and its objective: for scikit-learn's own losses, summed over outputs as it does.

    For a regression of several targets, scikit-learn's gradient is that of the sum of half the squared errors, while
    the loss that it reports is their mean.
    """
    k, softmax = float(outputs), out_activation == "softmax"
    table: dict[Any, tuple[str, float, float]] = {
        "log_loss": ("categorical_cross_entropy", 1.0, 1.0) if softmax else ("binary_cross_entropy", k, k),
        "squared_error": ("mean_squared_error", k / 2, 0.5),
        "poisson": ("half_poisson_deviance", k, k),
    }
    ours, scale, reported_scale = table.get(name, (name, 1.0, 1.0))
    return as_loss(ours), Objective(scale, reported_scale, share_l2=True, weighted_mean=True)


def check(loss: LossFunction, last: Layer) -> None:
    """Raise ArgumentError if a loss is not defined on the outputs of the last layer."""
    check_pair(loss, getattr(last, "g", None))


def _as_ours(activation: Any) -> str | ActivationFunction:
    if isinstance(activation, ActivationFunction):
        return activation
    return "sigmoid" if activation == "logistic" else str(activation)
