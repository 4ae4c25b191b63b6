"""From scikit-learn's parameters to layers, initial parameters, losses and their objectives."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepnotes.activations import Activation, ActivationFunction
from deepnotes.arguments import number
from deepnotes.array import Array
from deepnotes.errors import ArgumentError
from deepnotes.layers import Dense, Dropout, Layer
from deepnotes.losses import Loss, LossFunction, check_pair
from deepnotes.ops import Ops
from deepnotes.plan import Objective

SIGMOID = {"logistic", "sigmoid"}
"""What scikit-learn and we call it."""


class Exponential(ActivationFunction):
    """``e^z``, which scikit-learn has after the last layer where the loss is that of Poisson."""

    name = "exp"
    range = "positive"

    def forward(self, ops: Ops, Z: Array) -> Array:
        """Return ``A = e^Z``, of the shape of Z, (n, m)."""
        return ops.xp.exp(Z)

    def backward(self, ops: Ops, dA: Array, Z: Array, A: Array) -> Array:
        """Return ``dZ = dA * A``, of the shape of Z, (n, m)."""
        return dA * A

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self)

    def __hash__(self) -> int:
        return hash(type(self))

    def __repr__(self) -> str:
        return "Exponential()"


@dataclass(frozen=True)
class HalfPoissonDeviance(LossFunction):
    """``y log(y / a) - y + a``, summed over the outputs: scikit-learn's Poisson loss."""

    name = "half_poisson_deviance"
    outputs = ("positive",)
    targets = "count"

    def value(self, ops: Ops, A: Array, Y: Array) -> Array:
        """Return the loss of each sample, shape (1, m)."""
        return self.value_of_logits(ops, ops.xp.log(A), Y)

    def derivative(self, ops: Ops, A: Array, Y: Array) -> Array:
        """Return ``dA = 1 - y / a``, shape (k, m)."""
        return 1 - Y / A

    def fused_with(self, activation: ActivationFunction) -> bool:
        """Return whether the activation is the exponential, which this loss goes with."""
        return isinstance(activation, Exponential)

    def value_of_logits(self, ops: Ops, Z: Array, Y: Array) -> Array:
        """Return the loss of each sample, shape (1, m), where ``a = e^z``."""
        xp = ops.xp
        some = xp.where(Y > 0, Y, xp.ones_like(Y))  # 0 log 0 is 0
        return xp.sum(Y * xp.log(some) - Y * Z - Y + xp.exp(Z), axis=0, keepdims=True)

    def delta(self, ops: Ops, A: Array, Y: Array) -> Array:
        """Return ``dZ = A - Y``, shape (k, m)."""
        return A - Y


OUTPUTS: dict[str, ActivationFunction] = {
    "identity": Activation("identity"),
    "logistic": Activation("sigmoid"),
    "softmax": Activation("softmax"),
    "exp": Exponential(),
}
"""The activation of the last layer, by its name in ``out_activation_``."""


def hidden_sizes(given: Any) -> list[int]:
    """Return the sizes of the hidden layers.

    Raises
    ------
    ValueError
        If one is not above 0.
    """
    sizes = list(given) if hasattr(given, "__iter__") else [given]
    if np.any(np.array(sizes) <= 0):
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
        Of the hidden layers.
    dropout : float or list of float
        What is dropped of the outputs of each hidden layer.
    out_activation : str
        Of the last layer, see :data:`OUTPUTS`.

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

    Uniform within the bound of Glorot and Bengio (AISTATS 2010), which sigmoid makes smaller; the last layer follows
    the last hidden one.
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
    """Return a loss and its objective: scikit-learn's sums over outputs, where it is one of scikit-learn's.

    Of several targets of a regression, scikit-learn's gradient is that of the sum of half the squared errors, and the
    loss that it tells is their mean.
    """
    if name == "log_loss":
        if out_activation == "softmax":
            return Loss("categorical_cross_entropy"), Objective(share_l2=True)
        return Loss("binary_cross_entropy"), Objective(float(outputs), float(outputs), share_l2=True)
    if name == "squared_error":
        return Loss("mean_squared_error"), Objective(outputs / 2, 0.5, share_l2=True)
    if name == "poisson":
        return HalfPoissonDeviance(), Objective(share_l2=True)
    return name if isinstance(name, LossFunction) else Loss(name), Objective(share_l2=True)


def check(loss: LossFunction, last: Layer) -> None:
    """Raise ArgumentError if a loss is not defined on the outputs of the last layer."""
    check_pair(loss, getattr(last, "g", None))


def _as_ours(activation: Any) -> str | ActivationFunction:
    if isinstance(activation, ActivationFunction):
        return activation
    return "sigmoid" if activation == "logistic" else str(activation)
