"""Layers: their parameters, and their forward and backward passes in terms of the equations.

A layer is a frozen description and keeps no state: it receives its parameters as a mapping, and returns what backward
needs in a cache. So a layer takes a few lines, and a user-defined one is no different from ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from deepnotes.equations.array import Array
from deepnotes.equations.ops import Ops
from deepnotes.nn.activations import Activation, ActivationFunction, as_activation
from deepnotes.nn.initializers import Initializer, as_initializer
from deepnotes.nn.presets import default
from deepnotes.utils.arguments import number, whole


class Parameter(NamedTuple):
    """One parameter of a layer: its shape, its initializer, and whether L2 and weight decay apply to it."""

    shape: tuple[int, int]
    initializer: Initializer
    decays: bool


class Context(NamedTuple):
    """Information for a layer beyond its input.

    Attributes
    ----------
    layer : int
        The layer's index, from 1.
    seed : int
        The network's seed, 64 bits.
    step : Array of int64, 0-d, or None
        The number of updates made so far while training; None when predicting.
    """

    layer: int
    seed: int
    step: Array | None


class Layer:
    """The base class of layers; derive from it to write your own.

    A layer that has no parameters, and the same number of outputs as inputs, needs only ``forward`` and ``backward``.
    """

    def output_size(self, inputs: int) -> int:
        """Return the number of rows of ``A`` for ``A_prev`` of `inputs` rows."""
        return inputs

    def parameters(self, inputs: int) -> dict[str, Parameter]:
        """Return the parameters by name; in a network, ``W`` of layer ``l`` is called ``W{l}``."""
        return {}

    def forward(self, ops: Ops, parameters: Mapping[str, Array], A_prev: Array, context: Context) -> tuple[Array, Any]:
        """Return ``A``, shape (n, m), from ``A_prev``, shape (n_prev, m), and the cache that ``backward`` needs."""
        raise NotImplementedError

    def backward(
        self, ops: Ops, parameters: Mapping[str, Array], cache: Any, dA: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Return ``dA_prev`` per sample, shape (n_prev, m), and the gradient of the mean loss for each parameter."""
        raise NotImplementedError


class DenseCache(NamedTuple):
    """The arrays that the forward pass of :class:`Dense` keeps for the backward pass.

    Attributes
    ----------
    A_prev : Array, shape (n_prev, m)
    Z, A : Array, shape (n, m)
    """

    A_prev: Array
    Z: Array
    A: Array


@dataclass(frozen=True)
class Dense(Layer):
    """A layer of neurons (N1), each connected to every input: ``A = g(W A_prev + b)`` (N2, N3).

    Parameters
    ----------
    units : int
        The number of neurons, ``n[l]``.
    activation : str or ActivationFunction, default "identity"
        ``g``: identity, sigmoid, tanh, relu, leaky_relu, softmax, elu, gelu, gelu_tanh, silu, softplus, exp,
        an :class:`~deepnotes.nn.activations.Activation` with options, or a user-defined one.
    initializer : str or callable, optional
        Draws the initial ``W``: zeros, or he, glorot or lecun with ``_normal`` or ``_uniform``, or a function of a
        NumPy generator and a shape. By default he_normal for the relu family and glorot_uniform for the others, or the
        one that :class:`~deepnotes.defaults` selects.
    bias_initializer : str or callable, optional
        Draws the initial ``b``; a named initializer has the same variance as for ``W``. By default zeros, or the one
        that :class:`~deepnotes.defaults` selects.

    Raises
    ------
    ArgumentError
        If `units` is not a whole number above 0.
    UnknownNameError
        If a name is unknown; the message suggests the nearest match.

    Examples
    --------
    >>> Dense(4, "relu").output_size(3)
    4
    """

    units: int
    activation: str | ActivationFunction = "identity"
    initializer: str | Initializer | None = None
    bias_initializer: str | Initializer | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "units", whole("units", self.units))
        object.__setattr__(self, "activation", as_activation(self.activation))
        for initializer in (self.initializer, self.bias_initializer):
            if initializer is not None:
                as_initializer(initializer)

    @property
    def g(self) -> ActivationFunction:
        """The activation, as N3 names it."""
        return as_activation(self.activation)

    def output_size(self, inputs: int) -> int:
        """Return `units`."""
        return self.units

    def parameters(self, inputs: int) -> dict[str, Parameter]:
        """Return ``W``, shape (units, inputs), and ``b``, shape (units, 1)."""
        start, bias_start = self.initializer or self.g.initializer, self.bias_initializer or "zeros"
        return {
            "W": Parameter((self.units, inputs), as_initializer(start), decays=True),
            "b": Parameter((self.units, 1), as_initializer(bias_start, (self.units, inputs)), decays=False),
        }

    def linear(self, ops: Ops, parameters: Mapping[str, Array], A_prev: Array) -> Array:
        """Return ``Z = W A_prev + b`` (N2), shape (units, m)."""
        Z: Array = ops.linear(parameters["W"], A_prev, parameters["b"])
        return Z

    def forward(self, ops: Ops, parameters: Mapping[str, Array], A_prev: Array, context: Context) -> tuple[Array, Any]:
        """Return ``A = g(Z)`` (N3), shape (units, m), and the cache."""
        Z = self.linear(ops, parameters, A_prev)
        A = self.g.forward(ops, Z)
        return A, DenseCache(A_prev, Z, A)

    def backward(
        self, ops: Ops, parameters: Mapping[str, Array], cache: Any, dA: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Return ``dA_prev`` (N15), ``dW`` and ``db`` (N13, N14), computed from ``dZ = dA * g'(Z)`` (N12)."""
        dZ = self.g.backward(ops, dA, cache.Z, cache.A)
        return self.backward_linear(ops, parameters, cache.A_prev, dZ)

    def backward_linear(
        self, ops: Ops, parameters: Mapping[str, Array], A_prev: Array, dZ: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Return ``dA_prev``, ``dW`` and ``db`` (N15, N13, N14) from ``dZ``, shape (units, m)."""
        gradients = {"W": ops.weight_gradient(dZ, A_prev), "b": ops.bias_gradient(dZ)}
        return ops.input_gradient(parameters["W"], dZ), gradients


@dataclass(frozen=True)
class Dropout(Layer):
    """Sets each of its inputs to 0 with probability `rate` while training, and passes them on when predicting.

    Parameters
    ----------
    rate : float
        At least 0, less than 1. Inputs that are kept are scaled by ``1 / (1 - rate)``.

    Raises
    ------
    ArgumentError
        If `rate` is out of range.
    """

    rate: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", number("rate", self.rate, below=1))

    def forward(self, ops: Ops, parameters: Mapping[str, Array], A_prev: Array, context: Context) -> tuple[Array, Any]:
        """Return ``A_prev`` with dropped elements set to 0, shape (n, m), and the mask."""
        if context.step is None or self.rate == 0:
            return A_prev, None
        keep = ops.dropout_mask(A_prev.shape, self.rate, context.seed, context.step, context.layer, A_prev.dtype)
        return ops.dropout(A_prev, keep, self.rate), keep

    def backward(
        self, ops: Ops, parameters: Mapping[str, Array], cache: Any, dA: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Return ``dA`` with the same elements set to 0."""
        return (dA if cache is None else ops.dropout(dA, cache, self.rate)), {}


def started(layers: tuple["Layer", ...]) -> tuple["Layer", ...]:
    """Return the layers of a network, with initializers that were not given filled in from the current dialect.

    The dialect of the notes fills in nothing: there each layer chooses by its activation.
    """
    names = [(key, default(f"Dense.{key}")) for key in ("initializer", "bias_initializer")]
    if not any(name for _, name in names):
        return layers
    dense = [layer for layer in layers if isinstance(layer, Dense)]
    # In scikit-learn the activation of the hidden layers decides for the last layer, too.
    is_sigmoid = len(dense) > 1 and getattr(dense[0].g, "name", None) == "sigmoid"
    names = [
        (key, "sklearn_sigmoid_uniform" if is_sigmoid and name == "sklearn_uniform" else name) for key, name in names
    ]
    return tuple(_started(layer, names) if isinstance(layer, Dense) else layer for layer in layers)


def _started(layer: "Layer", names: list[tuple[str, str | None]]) -> "Layer":
    from copy import copy

    new = copy(layer)
    for key, name in names:
        g = cast(Any, layer).g
        by_its_own = key == "initializer" and not (
            isinstance(g, Activation) or g.initializer == ActivationFunction.initializer
        )
        if name is not None and getattr(layer, key) is None and not by_its_own:
            object.__setattr__(new, key, name)
    return new
