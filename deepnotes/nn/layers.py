"""Layers: their parameters, and their forward and backward passes in terms of the equations.

A layer is an immutable description without state: its parameters are passed in as a mapping, and its forward pass
returns a cache for the backward pass. User-defined layers have the same interface.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

from deepnotes.equations.array import Array
from deepnotes.equations.ops import Ops
from deepnotes.nn.activations import Activation, ActivationFunction, as_activation
from deepnotes.nn.constraints import Constraint, as_constraint
from deepnotes.nn.initializers import ConstantInitializer, FirstRowZero, Initializer, as_initializer
from deepnotes.nn.presets import default
from deepnotes.utils.arguments import number, true_or_false, whole
from deepnotes.utils.errors import ArgumentError

ADDED = {"added": True}
"""The metadata of a field that older checkpoints lack: a fingerprint leaves it out if it has its default value."""


class Parameter(NamedTuple):
    """One parameter of a layer.

    Attributes
    ----------
    shape : (int, int)
    initializer : callable
        Returns the initial values, see :data:`~deepnotes.nn.initializers.Initializer`.
    decays : bool
        Whether the L1 and L2 penalties and weight decay apply to the parameter.
    trained : bool, default True
        False for a statistic, such as the running mean of :class:`BatchNorm`. What ``backward`` returns for it, instead
        of a gradient, is subtracted from it after each batch. No optimizer, penalty, weight decay or clipping
        applies to a statistic, but files, checkpoints and averages contain it like any parameter.
    constraint : Constraint or None
        Applied to the parameter after each update.
    """

    shape: tuple[int, int]
    initializer: Initializer
    decays: bool
    trained: bool = True
    constraint: Constraint | None = None


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
    constraint : Constraint, optional
        Applied to ``W`` after each update: :class:`~deepnotes.NonNegative`, :class:`~deepnotes.MaxNorm` or a
        user-defined one.

    Raises
    ------
    ArgumentError
        If `units` is not a whole number above 0, or `constraint` is not a Constraint.
    UnknownNameError
        If a name is unknown; the message suggests the nearest match.

    Examples
    --------
    >>> Dense(4, "relu").output_size(3)
    4
    >>> Dense(units=4, activation="relu", initializer="zeros")
    Dense(4, 'relu', initializer='zeros')
    """

    units: int
    activation: str | ActivationFunction = "identity"
    initializer: str | Initializer | None = None
    bias_initializer: str | Initializer | None = None
    constraint: Constraint | None = field(default=None, metadata=ADDED)

    def __post_init__(self) -> None:
        object.__setattr__(self, "units", whole("units", self.units))
        object.__setattr__(self, "activation", as_activation(self.activation))
        for initializer in (self.initializer, self.bias_initializer):
            if initializer is not None:
                as_initializer(initializer)
        as_constraint(self.constraint)

    def __repr__(self) -> str:
        """Return the call that makes the layer, without the arguments that have their default values."""
        g, arguments = self.g, [str(self.units)]
        activation = repr(g.name) if type(g) is Activation and not g.options else repr(g)
        if activation != "'identity'":
            arguments.append(activation)
        for name in ("initializer", "bias_initializer", "constraint"):
            if getattr(self, name) is not None:
                arguments.append(f"{name}={getattr(self, name)!r}")
        return f"{type(self).__name__}({', '.join(arguments)})"

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
            "W": Parameter((self.units, inputs), as_initializer(initializer), True, constraint=self.constraint),
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


@dataclass(frozen=True)
class Noise(Layer):
    """A layer that adds random numbers to its inputs during training; in predictions it has no effect.

    The numbers are nearly normally distributed (see :func:`deepnotes.equations.noise`), independent for each input,
    sample and update, and the same on every backend.

    Parameters
    ----------
    std : float
        Their standard deviation, at least 0.

    Raises
    ------
    ArgumentError
        If `std` is negative or not a finite number.
    """

    std: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "std", number("std", self.std))

    def forward(self, ops: Ops, parameters: Mapping[str, Array], A_prev: Array, context: Context) -> tuple[Array, Any]:
        """Return ``A_prev`` plus noise, shape (n, m), and None."""
        if context.step is None or self.std == 0:
            return A_prev, None
        arguments = A_prev.shape, context.seed, context.step, context.layer, A_prev.dtype
        noise = ops.noise(*arguments) if context.first_sample == 0 else ops.noise_from(*arguments, context.first_sample)
        return A_prev + self.std * noise, None

    def backward(
        self, ops: Ops, parameters: Mapping[str, Array], cache: Any, dA: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Return ``dA``, and no gradients."""
        return dA, {}


@dataclass(frozen=True)
class LayerNorm(Layer):
    """Layer normalization: each sample is standardized over its features, and each feature scaled and shifted.

    ``A = gamma * X_hat + beta``, where ``X_hat`` is ``A_prev`` minus its mean over the features, divided by its
    standard deviation (J. L. Ba, J. R. Kiros and G. E. Hinton, arXiv:1607.06450). It has the same effect in training
    and in predictions. The parameters, of shape (n, 1), have neither L2 nor weight decay.

    Parameters
    ----------
    epsilon : float, default 1e-5
        Added to the variance, above 0.

    Raises
    ------
    ArgumentError
        If `epsilon` is not above 0.

    Examples
    --------
    >>> LayerNorm().parameters(3)["gamma"].shape
    (3, 1)
    """

    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", number("epsilon", self.epsilon, positive=True))

    def parameters(self, inputs: int) -> dict[str, Parameter]:
        """Return ``gamma``, initially 1, and ``beta``, initially 0, both of shape (inputs, 1)."""
        shape = (inputs, 1)
        ones, zeros = ConstantInitializer(1.0), ConstantInitializer(0.0)
        return {"gamma": Parameter(shape, ones, decays=False), "beta": Parameter(shape, zeros, decays=False)}

    def forward(self, ops: Ops, parameters: Mapping[str, Array], A_prev: Array, context: Context) -> tuple[Array, Any]:
        """Return ``A``, shape (n, m), and the cache."""
        centered = ops.center(A_prev)
        inverse = ops.inverse_rms(centered, self.epsilon)
        return parameters["gamma"] * (centered * inverse) + parameters["beta"], (centered, inverse)

    def backward(
        self, ops: Ops, parameters: Mapping[str, Array], cache: Any, dA: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Return ``dA_prev``, ``dgamma = (1/m) Σ_samples dA * X_hat`` and ``dbeta = (1/m) Σ_samples dA``."""
        centered, inverse = cache
        dA_prev = ops.layer_norm_backward(parameters["gamma"] * dA, centered, inverse)
        return dA_prev, {"gamma": ops.bias_gradient(dA * (centered * inverse)), "beta": ops.bias_gradient(dA)}


@dataclass(frozen=True)
class RMSNorm(Layer):
    """Root mean square normalization: ``A = gamma * A_prev / sqrt(mean_features(A_prev²) + epsilon)``.

    Like :class:`LayerNorm` without the mean and without ``beta`` (B. Zhang and R. Sennrich, arXiv:1910.07467).

    Parameters
    ----------
    epsilon : float, default 1e-5
        Added to the mean square, above 0.

    Raises
    ------
    ArgumentError
        If `epsilon` is not above 0.
    """

    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", number("epsilon", self.epsilon, positive=True))

    def parameters(self, inputs: int) -> dict[str, Parameter]:
        """Return ``gamma``, shape (inputs, 1), initially 1."""
        return {"gamma": Parameter((inputs, 1), ConstantInitializer(1.0), decays=False)}

    def forward(self, ops: Ops, parameters: Mapping[str, Array], A_prev: Array, context: Context) -> tuple[Array, Any]:
        """Return ``A``, shape (n, m), and the cache."""
        inverse = ops.inverse_rms(A_prev, self.epsilon)
        return parameters["gamma"] * (A_prev * inverse), (A_prev, inverse)

    def backward(
        self, ops: Ops, parameters: Mapping[str, Array], cache: Any, dA: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Return ``dA_prev`` and ``dgamma = (1/m) Σ_samples dA * X_hat``."""
        A_prev, inverse = cache
        dA_prev = ops.rms_norm_backward(parameters["gamma"] * dA, A_prev, inverse)
        return dA_prev, {"gamma": ops.bias_gradient(dA * (A_prev * inverse))}


@dataclass(frozen=True)
class BatchNorm(Layer):
    """Batch normalization: each feature is standardized over the samples of a batch, then scaled and shifted.

    ``A = gamma * X_hat + beta``, where ``X_hat`` is ``A_prev`` minus its mean over the batch, divided by its standard
    deviation (S. Ioffe and C. Szegedy, arXiv:1502.03167). Predictions depend on no other sample: they use the running
    mean and variance, two statistics that are updated after each batch of training and not trained. The conventions are
    those of PyTorch's ``BatchNorm1d``. The trained parameters, of shape (n, 1), have neither L2 nor weight decay.

    Parameters
    ----------
    epsilon : float, default 1e-5
        Added to the variance, above 0.
    momentum : float, default 0.1
        The share of a batch in the running statistics, from 0 to 1: ``running ← (1 - momentum) * running + momentum *
        that of the batch``, as in PyTorch. (In Keras, the momentum is 1 minus this number.)

    Raises
    ------
    ArgumentError
        If an argument is out of range; or from ``fit`` and ``partial_fit``, if batches have fewer than 2 samples.

    Notes
    -----
    A batch is divided by its biased standard deviation (with ``1/m``), but the running variance is the mean of the
    unbiased variances (with ``1/(m - 1)``). Sample weights do not count in the statistics.

    If the last batch of an epoch has one sample, it is normalized by the running statistics, and leaves them unchanged,
    since one sample has no variance; PyTorch raises an error.

    If several ranks share a training run, each shard of a batch is normalized by its own statistics, and the running
    statistics are those of all shards: "ghost batch normalization" (E. Hoffer, I. Hubara and D. Soudry,
    arXiv:1705.08741).

    Examples
    --------
    >>> list(BatchNorm().parameters(3))
    ['gamma', 'beta', 'running_mean', 'running_var']
    """

    epsilon: float = 1e-5
    momentum: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", number("epsilon", self.epsilon, positive=True))
        object.__setattr__(self, "momentum", number("momentum", self.momentum, most=1))

    def parameters(self, inputs: int) -> dict[str, Parameter]:
        """Return ``gamma`` and ``running_var``, initially 1, and ``beta`` and ``running_mean``, initially 0.

        All have the shape (inputs, 1).
        """
        shape = (inputs, 1)
        ones, zeros = ConstantInitializer(1.0), ConstantInitializer(0.0)
        return {
            "gamma": Parameter(shape, ones, decays=False),
            "beta": Parameter(shape, zeros, decays=False),
            "running_mean": Parameter(shape, zeros, decays=False, trained=False),
            "running_var": Parameter(shape, ones, decays=False, trained=False),
        }

    def forward(self, ops: Ops, parameters: Mapping[str, Array], A_prev: Array, context: Context) -> tuple[Array, Any]:
        """Return ``A``, shape (n, m), and the cache."""
        running_mean, running_var = parameters["running_mean"], parameters["running_var"]
        if context.step is None or A_prev.shape[1] == 1:
            centered, inverse, changes = A_prev - running_mean, ops.inverse_std(running_var, self.epsilon), None
        else:
            mean, m = ops.sample_mean(A_prev), A_prev.shape[1]
            centered = A_prev - mean
            variance = ops.sample_variance(centered)
            inverse = ops.inverse_std(variance, self.epsilon)
            changes = {
                "running_mean": self.momentum * (running_mean - mean),
                "running_var": self.momentum * (running_var - variance * (m / (m - 1))),
            }
        return parameters["gamma"] * (centered * inverse) + parameters["beta"], (centered, inverse, changes)

    def backward(
        self, ops: Ops, parameters: Mapping[str, Array], cache: Any, dA: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Return ``dA_prev``, ``dgamma = (1/m) Σ_samples dA * X_hat``, ``dbeta = (1/m) Σ_samples dA``, and two changes.

        Those of ``running_mean`` and ``running_var``, which are subtracted from them, are ``momentum * (running - that
        of the batch)``.
        """
        centered, inverse, changes = cache
        dX_hat = parameters["gamma"] * dA
        gradients = {"gamma": ops.bias_gradient(dA * (centered * inverse)), "beta": ops.bias_gradient(dA)}
        if changes is None:
            zeros = ops.xp.zeros_like(inverse)
            return dX_hat * inverse, {**gradients, "running_mean": zeros, "running_var": zeros}
        return ops.batch_norm_backward(dX_hat, centered, inverse), {**gradients, **changes}


@dataclass(frozen=True)
class PReLU(Layer):
    """ReLU with a trained slope for each feature: ``A = A_prev where A_prev > 0, else alpha * A_prev``.

    Source: K. He, X. Zhang, S. Ren and J. Sun, arXiv:1502.01852. The parameter ``alpha``, shape (n, 1), has neither L2
    nor weight decay. It follows a Dense layer without activation: ``[Dense(16), PReLU(), Dense(1)]``.

    Parameters
    ----------
    slope : float, default 0.25
        The initial value of ``alpha``.

    Raises
    ------
    ArgumentError
        If `slope` is not a finite number.
    """

    slope: float = 0.25

    def __post_init__(self) -> None:
        object.__setattr__(self, "slope", number("slope", self.slope, signed=True))

    def parameters(self, inputs: int) -> dict[str, Parameter]:
        """Return ``alpha``, shape (inputs, 1), initially `slope`."""
        return {"alpha": Parameter((inputs, 1), ConstantInitializer(self.slope), decays=False)}

    def forward(self, ops: Ops, parameters: Mapping[str, Array], A_prev: Array, context: Context) -> tuple[Array, Any]:
        """Return ``A``, shape (n, m), and the cache."""
        return ops.prelu(A_prev, parameters["alpha"]), A_prev

    def backward(
        self, ops: Ops, parameters: Mapping[str, Array], cache: Any, dA: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Return ``dA_prev`` and ``dalpha = (1/m) Σ_samples dA * min(A_prev, 0)``."""
        dA_prev = ops.prelu_backward(dA, cache, parameters["alpha"])
        return dA_prev, {"alpha": ops.bias_gradient(dA * ops.xp.minimum(cache, ops.xp.zeros_like(cache)))}


@dataclass(frozen=True)
class Gate(Layer):
    """The first half of the inputs, each multiplied by an activation of one of the second half: ``A = V * g(G)``.

    Here ``V`` and ``G`` are the halves of ``A_prev``, so that the layer has half as many outputs as inputs. A
    :class:`GLU` or :class:`SwiGLU` in the list of a network's layers is replaced by a Dense layer and a Gate.

    Parameters
    ----------
    activation : str or ActivationFunction, default "sigmoid"
        ``g``, as for :class:`Dense`.

    Raises
    ------
    UnknownNameError
        If there is no activation of this name.
    ArgumentError
        When a network is created, if the number of inputs is odd.
    """

    activation: str | ActivationFunction = "sigmoid"

    def __post_init__(self) -> None:
        object.__setattr__(self, "activation", as_activation(self.activation))

    @property
    def g(self) -> ActivationFunction:
        """The activation function."""
        return as_activation(self.activation)

    def output_size(self, inputs: int) -> int:
        """Return half the number of inputs."""
        if inputs % 2:
            raise ArgumentError(f"{self!r} has {inputs} inputs, wanted an even number")
        return inputs // 2

    def forward(self, ops: Ops, parameters: Mapping[str, Array], A_prev: Array, context: Context) -> tuple[Array, Any]:
        """Return ``A``, shape (n/2, m) for A_prev of shape (n, m), and the cache."""
        half = A_prev.shape[0] // 2
        V, G = A_prev[:half, :], A_prev[half:, :]
        gate = self.g.forward(ops, G)
        return V * gate, (V, G, gate)

    def backward(
        self, ops: Ops, parameters: Mapping[str, Array], cache: Any, dA: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Return ``dA_prev``, whose halves are ``dV = dA * g(G)`` and ``dG = dA * V * g'(G)``, and no gradients."""
        V, G, gate = cache
        return ops.xp.concat([dA * gate, self.g.backward(ops, dA * V, G, gate)], axis=0), {}


class Table(NamedTuple):
    """The vectors of one column of an :class:`Embedding`.

    Attributes
    ----------
    column : int
        The row of X that holds the indices of the categories, from 0.
    categories : int
    size : int
        The number of elements of each vector.
    """

    column: int
    categories: int
    size: int

    @property
    def key(self) -> str:
        """The name of the parameter in the layer: ``E3_`` for column 3, which is ``E3_1`` in a network."""
        return f"E{self.column}_"


@dataclass(frozen=True)
class Embedding(Layer):
    """Categorical columns as learned vectors; the layer is the first of a network.

    X holds the index of a category in each row that has a table, and any number in the others. The outputs are the
    other rows, unchanged, followed by the vectors of each column with a table: ``A = E[X[column]]ᵀ`` (Y. Bengio et al.,
    JMLR 3 (2003) 1137). A network has the parameters ``E3_1``, shape (categories, size), for column 3, and so on. Like
    the weights of a Dense layer after one-hot columns, which they replace, they have L2 and weight decay.

    Parameters
    ----------
    tables : mapping of int to int or (int, int)
        For each categorical column, the number of categories, or this and the size of the vectors, by default
        :func:`vector_size` of it. A sequence of :class:`Table` is accepted, too.
    initializer : str or callable, default "glorot_normal"
        Determines the initial vectors, as for :class:`Dense`; Glorot's are those of the weights after one-hot columns.
        PyTorch's are larger, ``"standard_normal"``, with which networks learn more slowly, and predict less well.
    unknown : bool, default False
        Whether the index 0 of each column stands for unknown categories. If so, its vector is initially zero, and stays
        so unless samples with this index are trained on.

    Raises
    ------
    ArgumentError
        If `tables` is empty or a number is out of range. When a network is created, if it has too few inputs, or if the
        layer is not its first.
    UnknownNameError
        If there is no initializer of this name.

    Examples
    --------
    >>> layer = Embedding({0: (12, 4), 2: 1000})
    >>> layer
    Embedding({0: (12, 4), 2: (1000, 32)})
    >>> layer.output_size(3), layer.parameters(3)["E0_"].shape
    (37, (12, 4))
    """

    tables: Mapping[int, int | tuple[int, int]] | Sequence[Table]
    initializer: str | Initializer = "glorot_normal"
    unknown: bool = False

    def __post_init__(self) -> None:
        as_initializer(self.initializer)
        object.__setattr__(self, "tables", _as_tables(self.tables))
        object.__setattr__(self, "unknown", true_or_false("unknown", self.unknown))

    def __repr__(self) -> str:
        """Return the call that makes the layer, without the arguments that have their default values."""
        arguments = [repr({column: (categories, size) for column, categories, size in self})]
        if self.initializer != Embedding.initializer:
            arguments.append(f"initializer={self.initializer!r}")
        return f"Embedding({', '.join([*arguments, *['unknown=True'] * self.unknown])})"

    def __iter__(self) -> Iterator[Table]:
        """Iterate over the tables, in the order of their columns."""
        return iter(self.tables)  # type: ignore[arg-type]

    @property
    def columns(self) -> list[int]:
        """The columns with a table."""
        return [table.column for table in self]

    def numeric(self, inputs: int) -> list[range]:
        """Return the ranges of the columns without a table, each as long as possible."""
        edges = [-1, *self.columns, inputs]
        return [range(a + 1, b) for a, b in pairwise(edges) if a + 1 < b]

    def output_size(self, inputs: int) -> int:
        """Return the number of columns without a table, plus the sizes of all vectors."""
        if self.columns[-1] >= inputs:
            raise ArgumentError(
                f"{self!r} has a table for column {self.columns[-1]}, but there are {inputs} inputs, wanted columns "
                f"from 0 to {inputs - 1}"
            )
        return inputs - len(self.columns) + sum(table.size for table in self)

    def parameters(self, inputs: int) -> dict[str, Parameter]:
        """Return a table of shape (categories, size) for each column, such as ``E3_``."""
        initializer = as_initializer(self.initializer)
        initializer = FirstRowZero(initializer) if self.unknown else initializer
        return {t.key: Parameter((t.categories, t.size), initializer, decays=True) for t in self}

    def forward(self, ops: Ops, parameters: Mapping[str, Array], A_prev: Array, context: Context) -> tuple[Array, Any]:
        """Return ``A``, shape (output_size, m), and ``A_prev``."""
        numeric = [A_prev[columns.start : columns.stop, :] for columns in self.numeric(A_prev.shape[0])]
        vectors = [ops.embedding(parameters[t.key], A_prev[t.column : t.column + 1, :]) for t in self]
        return ops.xp.concat([*numeric, *vectors], axis=0), A_prev

    def backward(
        self, ops: Ops, parameters: Mapping[str, Array], cache: Any, dA: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Return ``dA_prev``, which is 0 for columns with a table, and the gradient of each table."""
        A_prev, row = cache, 0
        parts = {t.column: ops.xp.zeros_like(dA[:1, :]) for t in self}
        for columns in self.numeric(A_prev.shape[0]):
            parts[columns.start] = dA[row : row + len(columns), :]
            row += len(columns)
        gradients = {}
        for t in self:
            x = A_prev[t.column : t.column + 1, :]
            gradients[t.key] = ops.embedding_gradient(dA[row : row + t.size, :], x, t.categories)
            row += t.size
        return ops.xp.concat([parts[column] for column in sorted(parts)], axis=0), gradients


MAX_INDEX = 1 << 24
"""The largest number of categories: float32 represents the whole numbers below it exactly."""


def vector_size(categories: int) -> int:
    """Return the default size of the vectors of a column: ``1.6 categories^0.56``, but at most 32.

    The rule is that of the library fastai, with a lower limit, since a larger one makes a step slower and is seldom
    more accurate.

    Examples
    --------
    >>> [vector_size(n) for n in (2, 10, 100, 1000)]
    [2, 6, 21, 32]
    """
    return int(min(32, round(1.6 * categories**0.56)))


def _as_tables(tables: Any) -> tuple[Table, ...]:
    """Return the argument `tables` of an :class:`Embedding`, in the order of the columns."""
    if isinstance(tables, Mapping):
        pairs = tables.items()
        tables = [(column, *(sizes if isinstance(sizes, tuple | list) else (sizes,))) for column, sizes in pairs]
    if not isinstance(tables, Sequence) or not tables:
        raise ArgumentError.of("tables", tables, "a mapping of columns to numbers of categories, at least one")
    checked = []
    for table in tables:
        if not isinstance(table, Sequence) or len(table) not in (2, 3):
            raise ArgumentError.of("tables", table, "a number of categories, or this and the size of the vectors")
        column, categories = whole("column", table[0], 0), whole(f"categories of column {table[0]}", table[1])
        if categories > MAX_INDEX:
            raise ArgumentError.of(f"categories of column {column}", categories, f"at most {MAX_INDEX:,}")
        size = whole(f"size of the vectors of column {column}", table[2]) if len(table) > 2 else vector_size(categories)
        checked.append(Table(column, categories, size))
    checked.sort()
    for before, after in pairwise(checked):
        if before.column == after.column:
            raise ArgumentError(f"tables: column {after.column} has two tables, wanted one")
    return tuple(checked)


FEATURE_LAYERS: tuple[type[Layer], ...] = (LayerNorm, RMSNorm, PReLU, Gate)
"""The library's layers by feature: those of which backends and file formats use the formula, as traced."""


@dataclass(frozen=True)
class Shortcut(Layer):
    """The end of a residual block: its input is added to its output, ``A = A_prev + (input of the block)``.

    A :class:`Residual` in the list of a network's layers is replaced by the layers of the block and a Shortcut.

    Parameters
    ----------
    layers : int
        The number of layers of the block, all directly before this one.

    Raises
    ------
    ArgumentError
        If `layers` is not a whole number above 0.
    """

    layers: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", whole("layers", self.layers))

    def forward(self, ops: Ops, parameters: Mapping[str, Array], A_prev: Array, context: Context) -> tuple[Array, Any]:
        """Return ``A_prev``; the function that runs all layers adds the input of the block."""
        return A_prev, None

    def backward(
        self, ops: Ops, parameters: Mapping[str, Array], cache: Any, dA: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Return ``dA``; the function that runs all layers adds it to the derivative by the input of the block."""
        return dA, {}


class Block(Layer):
    """Several layers under one name; a network contains the layers instead of the block."""

    def expand(self) -> tuple[Layer, ...]:
        """Return the layers; they may be blocks, too."""
        raise NotImplementedError


@dataclass(frozen=True)
class Residual(Block):
    """A residual block: the input of some layers is added to their output (K. He et al., arXiv:1512.03385).

    ``Network([Dense(8, "relu"), Residual([Dense(8, "relu"), Dense(8)]), Dense(1)], inputs=3)`` has the same layers as
    ``Network([Dense(8, "relu"), Dense(8, "relu"), Dense(8), Shortcut(2), Dense(1)], inputs=3)``, and this is what its
    attribute ``layers`` contains. So the parameters have the usual names, here ``W1`` to ``W4``. Blocks may be nested.

    Parameters
    ----------
    layers : sequence of Layer
        The layers of the block, at least one. The last has as many outputs as the first has inputs.

    Raises
    ------
    ArgumentError
        If `layers` is not a list of at least one layer.

    Examples
    --------
    >>> flatten([Residual([LayerNorm(), Dense(2)])])[2]
    Shortcut(layers=2)
    """

    layers: Sequence[Layer]

    def __post_init__(self) -> None:
        layers = tuple(self.layers) if isinstance(self.layers, Sequence) else ()
        if not layers or not all(isinstance(layer, Layer) for layer in layers):
            raise ArgumentError.of("layers", self.layers, "a list of at least one layer")
        object.__setattr__(self, "layers", layers)

    def expand(self) -> tuple[Layer, ...]:
        """Return the layers of the block, and the shortcut at its end."""
        layers = flatten(self.layers)
        return *layers, Shortcut(len(layers))


@dataclass(frozen=True)
class GLU(Block):
    """A layer of gated linear units: ``A = (W_a A_prev + b_a) * sigmoid(W_b A_prev + b_b)`` (arXiv:1612.08083).

    In a network, this is ``Dense(2 * units), Gate("sigmoid")``: the first `units` rows of ``W`` and ``b`` are those of
    the values, and the others those of the gates, as in PyTorch's ``glu``.

    Parameters
    ----------
    units : int
        The number of outputs.
    initializer : str or callable, optional
        Determines the initial ``W``, as for :class:`Dense`.

    Raises
    ------
    ArgumentError
        If `units` is not a whole number above 0.
    UnknownNameError
        If there is no initializer of this name.

    Examples
    --------
    >>> [type(layer).__name__ for layer in flatten([GLU(8), Dense(1)])]
    ['Dense', 'Gate', 'Dense']
    """

    units: int
    initializer: str | Initializer | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "units", whole("units", self.units))
        self.expand()

    def expand(self) -> tuple[Layer, ...]:
        """Return the dense layer and the gate."""
        return Dense(2 * self.units, initializer=self.initializer), Gate("sigmoid")


@dataclass(frozen=True)
class SwiGLU(GLU):
    """A layer of gated units with the activation silu: ``A = (W_a A_prev + b_a) * silu(W_b A_prev + b_b)``.

    Source: N. Shazeer, GLU variants improve Transformer, arXiv:2002.05202. Like :class:`GLU`, but with
    ``Gate("silu")``; parameters and errors are the same.
    """

    def expand(self) -> tuple[Layer, ...]:
        """Return the dense layer and the gate."""
        return Dense(2 * self.units, initializer=self.initializer), Gate("silu")


def is_random(layer: Layer) -> bool:
    """Return whether the output of a layer may depend on random numbers during training.

    That of a user-defined layer may, by the seed and step of its context.
    """
    if isinstance(layer, Dropout | Noise):
        return (layer.rate if isinstance(layer, Dropout) else layer.std) > 0
    return type(layer).__module__ != __name__


def flatten(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Return `layers` with the layers of each block instead of the block."""
    flat: list[Layer] = []
    for layer in layers:
        flat += flatten(layer.expand()) if isinstance(layer, Block) else [layer]
    return tuple(flat)


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
