"""Layers: their parameters, and their forward and backward passes in terms of the equations.

A layer is an immutable description without state: its parameters are passed in as a mapping, and its forward pass
returns a cache for the backward pass. User-defined layers have the same interface.
"""

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

from deepnotes.equations.array import Array
from deepnotes.equations.ops import Ops
from deepnotes.nn.activations import Activation, ActivationFunction, as_activation
from deepnotes.nn.initializers import Initializer, as_initializer
from deepnotes.nn.presets import default
from deepnotes.utils.arguments import number, whole


class Parameter(NamedTuple):
    """One parameter of a layer.

    Attributes
    ----------
    shape : (int, int)
    initializer : callable
        Returns the initial values, see :data:`~deepnotes.nn.initializers.Initializer`.
    decays : bool
        Whether the L2 penalty and weight decay apply to the parameter.
    """

    shape: tuple[int, int]
    initializer: Initializer
    decays: bool


class Context(NamedTuple):
    """Information for the forward pass of a layer: its position in the network, the seed and the update.

    Attributes
    ----------
    layer : int
        The index of the layer, from 1.
    seed : int
        The 64-bit seed of the network.
    step : Array of int64, 0-d, or None
        During training, the number of updates made so far; None during prediction.
    first_sample : int
        The position in the batch of the first sample: not 0 in a shard of a batch.
    """

    layer: int
    seed: int
    step: Array | None
    first_sample: int = 0


class Layer:
    """The base class of layers. To write one, derive from it and implement ``forward`` and ``backward``.

    A layer with parameters also implements :meth:`parameters`, and a layer whose number of outputs differs from its
    number of inputs also implements :meth:`output_size`.
    """

    def output_size(self, inputs: int) -> int:
        """Return the number of rows of ``A`` if ``A_prev`` has `inputs` rows; by default, `inputs`."""
        return inputs

    def parameters(self, inputs: int) -> dict[str, Parameter]:
        """Return the parameters by name, by default none. In a network, ``W`` of the second layer is named ``W2``."""
        return {}

    def forward(self, ops: Ops, parameters: Mapping[str, Array], A_prev: Array, context: Context) -> tuple[Array, Any]:
        """Return ``A``, shape (n, m), and the cache for ``backward``, given ``A_prev``, shape (n_prev, m)."""
        raise NotImplementedError

    def backward(
        self, ops: Ops, parameters: Mapping[str, Array], cache: Any, dA: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Return ``dA_prev`` and the gradients, given ``dA``, shape (n, m), and the cache of ``forward``.

        Returns
        -------
        dA_prev : Array, shape (n_prev, m)
            The derivative of the loss of each sample with respect to ``A_prev``.
        gradients : dict of str to Array
            The derivative of the mean loss with respect to each parameter, by name.
        """
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
        ``g``: identity, sigmoid, tanh, relu, leaky_relu, softmax, elu, gelu, gelu_tanh, silu, softplus, exp, mish,
        selu, celu, relu6, hardswish, softsign, log_softmax, an :class:`~deepnotes.nn.activations.Activation` with
        options, or a user-defined activation.
    initializer : str or callable, optional
        Determines the initial ``W``: zeros, he_normal, he_uniform, glorot_normal, glorot_uniform, lecun_normal,
        lecun_uniform, or a function that takes a NumPy generator and a shape. By default he_normal for relu and similar
        activations and glorot_uniform for the others, or the initializer that :class:`~deepnotes.defaults` selects.
    bias_initializer : str or callable, optional
        Determines the initial ``b``. A named initializer has the same variance for ``b`` as for ``W``. By default
        zeros, or the initializer that :class:`~deepnotes.defaults` selects.

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
        """The activation function, called ``g`` in N3."""
        return as_activation(self.activation)

    def output_size(self, inputs: int) -> int:
        """Return `units`."""
        return self.units

    def parameters(self, inputs: int) -> dict[str, Parameter]:
        """Return ``W``, shape (units, inputs), and ``b``, shape (units, 1)."""
        initializer, bias_initializer = self.initializer or self.g.initializer, self.bias_initializer or "zeros"
        return {
            "W": Parameter((self.units, inputs), as_initializer(initializer), decays=True),
            "b": Parameter((self.units, 1), as_initializer(bias_initializer, (self.units, inputs)), decays=False),
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
        """Return ``dA_prev`` (N15), ``dW`` and ``db`` (N13, N14), given ``dZ``, shape (units, m)."""
        gradients = {"W": ops.weight_gradient(dZ, A_prev), "b": ops.bias_gradient(dZ)}
        return ops.input_gradient(parameters["W"], dZ), gradients


@dataclass(frozen=True)
class Dropout(Layer):
    """A layer that sets each input to 0 with probability `rate` during training; in predictions it has no effect.

    Parameters
    ----------
    rate : float
        At least 0 and less than 1. During training, the inputs that are kept are multiplied by ``1 / (1 - rate)``.

    Raises
    ------
    ArgumentError
        If `rate` is out of range.
    """

    rate: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", number("rate", self.rate, below=1))

    def forward(self, ops: Ops, parameters: Mapping[str, Array], A_prev: Array, context: Context) -> tuple[Array, Any]:
        """Return ``A_prev`` after dropout, shape (n, m), and the mask, or ``A_prev`` and None if nothing is dropped."""
        if context.step is None or self.rate == 0:
            return A_prev, None
        arguments = A_prev.shape, self.rate, context.seed, context.step, context.layer, A_prev.dtype
        if context.first_sample == 0:
            keep = ops.dropout_mask(*arguments)
        else:
            keep = ops.dropout_mask_from(*arguments, context.first_sample)
        return ops.dropout(A_prev, keep, self.rate), keep

    def backward(
        self, ops: Ops, parameters: Mapping[str, Array], cache: Any, dA: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Return ``dA`` after dropout with the mask of the forward pass, and no gradients."""
        return (dA if cache is None else ops.dropout(dA, cache, self.rate)), {}


def with_default_initializers(layers: tuple["Layer", ...]) -> tuple["Layer", ...]:
    """Return `layers` with the default initializers of the current dialect where a layer specifies none.

    The dialect "notes" defines no initializers, so each layer's activation determines them.
    """
    names = [(key, default(f"Dense.{key}")) for key in ("initializer", "bias_initializer")]
    if not any(name for _, name in names):
        return layers
    dense = [layer for layer in layers if isinstance(layer, Dense)]
    # In scikit-learn, the activation of the hidden layers determines the initializer of the last layer as well.
    is_sigmoid = len(dense) > 1 and dense[0].g == Activation("sigmoid")
    names = [
        (key, "sklearn_sigmoid_uniform" if is_sigmoid and name == "sklearn_uniform" else name) for key, name in names
    ]
    return tuple(_with_initializers(layer, names) if isinstance(layer, Dense) else layer for layer in layers)


def _with_initializers(layer: Dense, names: list[tuple[str, str | None]]) -> Dense:
    """Return a copy of `layer` with the given initializers, except where the layer or its activation specifies one.

    Parameters
    ----------
    layer : Dense
    names : list of (str, str or None)
        The fields of the layer, and the names of their initializers.

    Notes
    -----
    Only a user-defined activation counts as specifying an initializer.
    """
    new = copy(layer)
    g = layer.g
    from_activation = not isinstance(g, Activation) and g.initializer != ActivationFunction.initializer
    for key, name in names:
        is_specified = getattr(layer, key) is not None or (key == "initializer" and from_activation)
        if name is not None and not is_specified:
            object.__setattr__(new, key, name)
    return new
