"""The description of a training step, the layout of the parameters, and the declaration of what a backend supports."""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import NamedTuple, TypeGuard

import numpy as np

from deepnotes.equations.array import Array, Namespace
from deepnotes.nn import formulas
from deepnotes.nn.activations import Activation, ActivationFunction
from deepnotes.nn.layers import BatchNorm, Dense, Dropout, Embedding, Layer, Noise, Parameter, Shortcut
from deepnotes.nn.losses import Loss, LossFunction
from deepnotes.nn.optimizer_base import Optimizer
from deepnotes.nn.protocols import LayoutLike
from deepnotes.utils.errors import ArgumentError


class Entry(NamedTuple):
    """One parameter in a :class:`Layout`.

    Attributes
    ----------
    name : str
        The name in the network, such as ``W1``.
    layer : int
        The index of the layer, from 0.
    number : int
        The number of the layer in the name: 1 for the first layer that has parameters.
    key : str
        The name in the layer, such as ``W``.
    parameter : Parameter
    start, stop : int
        The slice of the flat buffer.
    """

    name: str
    layer: int
    number: int
    key: str
    parameter: Parameter
    start: int
    stop: int


class Layout:
    """The division of one flat buffer into the parameters of a chain of layers.

    Weights, which decay, come first, then the other parameters, and the statistics, which are not trained, last.

    Parameters
    ----------
    inputs : int
        ``n[0]``, the number of features.
    layers : sequence of Layer

    Attributes
    ----------
    sizes : list of int
        ``n[0], n[1], ..., n[L]``: the number of inputs, and of the outputs of each layer.
    entries : dict of str to Entry
        The parameters by name, in the order of the buffer. ``W2`` belongs to the second layer that has parameters.
    size : int
        ``p``, the number of parameters.
    decaying : int
        The number of parameters that decay.
    trained : int
        The number of parameters that are trained. All parameters except the statistics are.
    """

    def __init__(self, inputs: int, layers: Sequence[Layer]) -> None:
        self.sizes = [inputs]
        unordered: list[tuple[str, int, int, str, Parameter]] = []
        number = 0
        for index, layer in enumerate(layers):
            if type(layer) is Shortcut:
                self._check_shortcut(index, layer.layers)
            if isinstance(layer, Embedding) and index:
                raise ArgumentError(f"layers[{index}]: an Embedding reads columns of X, so it must be the first layer")
            parameters = layer.parameters(self.sizes[-1])
            number += bool(parameters)
            unordered += [(f"{key}{number}", index, number, key, parameter) for key, parameter in parameters.items()]
            self.sizes.append(layer.output_size(self.sizes[-1]))
        self.layers = len(self.sizes) - 1
        self.in_order = [name for name, *_ in unordered]
        if not unordered:
            raise ArgumentError("layers have no parameters, wanted at least one layer with parameters, such as Dense")
        self.entries: dict[str, Entry] = {}
        self.size = self.decaying = self.trained = 0
        for name, index, number, key, parameter in sorted(unordered, key=_place):
            stop = self.size + prod(parameter.shape)
            self.entries[name] = Entry(name, index, number, key, parameter, self.size, stop)
            self.size = stop
            if parameter.trained:
                self.trained = stop
                self.decaying = stop if parameter.decays else self.decaying
        if not self.trained:
            raise ArgumentError("layers have only statistics, wanted at least one layer with trained parameters")

    def _check_shortcut(self, index: int, length: int) -> None:
        """Raise an error unless the layers `index` and ``index - length`` have equally many inputs."""
        if length > index:
            raise ArgumentError(f"layers[{index}]: got Shortcut({length}), but only {index} layers are before it")
        before, after = self.sizes[index - length], self.sizes[index]
        if before != after:
            raise ArgumentError(
                f"layers[{index}]: a residual block has {before} inputs and {after} outputs, wanted equal numbers, "
                "since both are added"
            )

    def split(self, xp: Namespace, flat: Array) -> list[dict[str, Array]]:
        """Return the parameters of each layer as slices of the buffer `flat`, shape (p,); views where possible."""
        parameters: list[dict[str, Array]] = [{} for _ in range(self.layers)]
        for entry in self.entries.values():
            parameters[entry.layer][entry.key] = xp.reshape(flat[entry.start : entry.stop], entry.parameter.shape)
        return parameters

    def by_name(self, xp: Namespace, flat: Array) -> dict[str, Array]:
        """Return the parameters by name, ``W1``, ``b1``, ..., as slices of the buffer `flat`; views where possible."""
        parts = self.split(xp, flat)
        return {name: parts[self.entries[name].layer][self.entries[name].key] for name in self.in_order}

    def join(self, xp: Namespace, parameters: Sequence[Mapping[str, Array]]) -> Array:
        """Return one buffer, shape (p,), with the parameters of all layers, or with their gradients."""
        return xp.concat([xp.reshape(parameters[e.layer][e.key], (-1,)) for e in self.entries.values()], axis=0)

    def decays(self) -> np.ndarray:
        """Return an array with 1 for each parameter that decays and 0 for the others, shape (p,), float64."""
        return (np.arange(self.size) < self.decaying).astype(np.float64)

    def by_layer(self, values: Mapping[int, float], default: float) -> np.ndarray:
        """Return an array with the value of its layer for each parameter, shape (p,), float64.

        Parameters
        ----------
        values : mapping of int to float
            The values of layers by their numbers, as in ``W1``.
        default : float
            The value of the other layers.
        """
        flat = np.empty(self.size)
        for entry in self.entries.values():
            flat[entry.start : entry.stop] = values.get(entry.number, default)
        return flat

    def initial(self, rng: "np.random.Generator") -> np.ndarray:
        """Return initial parameters, shape (p,), float64, drawn layer by layer."""
        try:
            flat = np.empty(self.size)
        except (MemoryError, ValueError):
            raise ArgumentError(
                f"inputs and layers require {self.size:,} parameters: too many to fit into memory"
            ) from None
        for name in self.in_order:
            entry = self.entries[name]
            values = np.asarray(entry.parameter.initializer(rng, entry.parameter.shape))
            if values.shape != entry.parameter.shape or values.dtype.kind != "f" or not np.isfinite(values).all():
                raise ArgumentError(
                    f"initializer of {name}: got {values.dtype} of shape {values.shape}, wanted finite floats of shape "
                    f"{entry.parameter.shape}"
                )
            flat[entry.start : entry.stop] = values.ravel()
        return flat


def _place(unordered: tuple[str, int, int, str, Parameter]) -> tuple[bool, bool]:
    """Return a key to sort parameters by: those that decay first, and those that are not trained last."""
    parameter = unordered[-1]
    return not parameter.trained, not parameter.decays


def slots_at_start(optimizer: Optimizer, layout: LayoutLike) -> tuple[np.ndarray, ...]:
    """Return the result of ``optimizer.initial_slots`` as read-only arrays of shape (p,), float64.

    Raises
    ------
    ArgumentError
        If it does not have one finite number, or one array of finite numbers of shape (p,), for each slot.
    """
    name, size = f"{type(optimizer).__name__}.initial_slots", layout.size
    values = tuple(optimizer.initial_slots(layout))
    if len(values) != len(optimizer.slots):
        raise ArgumentError(f"{name}: got {len(values)} values, wanted one for each of the slots {optimizer.slots!r}")
    for slot, value in zip(optimizer.slots, values, strict=True):
        if np.shape(value) not in ((), (size,)) or not np.isfinite(np.asarray(value, np.float64)).all():
            raise ArgumentError.of(f"{name}: {slot}", value, f"a finite number, or finite numbers of shape ({size},)")
    return tuple(np.broadcast_to(np.asarray(value, np.float64), (size,)) for value in values)


@dataclass(frozen=True)
class Objective:
    """Options for the cost of a batch, to reproduce the costs of other libraries.

    By default the cost is the mean of the losses over the samples (N10), after multiplying each loss by its sample
    weight if there are weights. L1 and L2 contribute to the gradient, but not to the reported cost.

    Parameters
    ----------
    scale : float, default 1.0
        The gradient is the gradient of `scale` times the mean loss.
    reported_scale : float, default 1.0
        The reported cost is `reported_scale` times the mean loss.
    share_l2 : bool, default False
        Whether L1 and L2 are divided by the same number as the sum of the losses, and included in the reported cost.
    weighted_mean : bool, default False
        Whether the sum of the weighted losses is divided by the sum of the weights instead of the number of samples.
    """

    scale: float = 1.0
    reported_scale: float = 1.0
    share_l2: bool = False
    weighted_mean: bool = False


NOTES = Objective()
"""The cost that the notes define: the mean loss."""


@dataclass(frozen=True)
class Plan:
    """Everything that determines what a training step computes, except for the data and the parameters.

    Parameters
    ----------
    inputs : int
    layers : tuple of Layer
    dtype : {"float32", "float64"}
    seed : int
        The seed of the network, which determines the dropout masks.
    loss : LossFunction
    optimizer : Optimizer
    l2 : float
        Adds ``l2 / 2 * Σ w²`` to the cost.
    clip_norm : float or None
        The maximum global norm of a gradient; gradients with a larger norm are scaled down to it.
    class_indices : bool
        Whether Y holds class indices, shape (1, m), instead of one column of k numbers per sample, shape (k, m).
    objective : Objective
        The options of the cost.
    l1 : float
        Adds ``l1 * Σ |w|`` to the cost.
    """

    inputs: int
    layers: tuple[Layer, ...]
    dtype: str
    seed: int
    loss: LossFunction
    optimizer: Optimizer
    l2: float = 0.0
    clip_norm: float | None = None
    class_indices: bool = False
    objective: Objective = NOTES
    l1: float = 0.0

    @cached_property
    def layout(self) -> Layout:
        """The layout of the flat buffer of parameters."""
        return Layout(self.inputs, self.layers)


NEUTRAL = {"epsilon": 0.0, "share": 0.0, "gain": 1.0}
"""Values for scalars that a kernel reads but an optimizer does not have: they do not change the update."""


def scalar_table(optimizer: Optimizer, names: Sequence[str], step: int, rates: np.ndarray) -> np.ndarray:
    """Return the optimizer's scalars for consecutive updates, shape (len(names), updates), float64: one row per name.

    Parameters
    ----------
    optimizer : Optimizer
    names : sequence of str
        The scalars that the kernels of a backend read: ``"rate"`` and keys of `NEUTRAL`.
    step : int
        The number of updates made before the first of these updates.
    rates : ndarray of float64, shape (updates,)
        The learning rate of each update.

    Raises
    ------
    KeyError
        If the optimizer has a scalar that is not among `names`, or lacks one that has no neutral value.

    Examples
    --------
    >>> from deepnotes.nn.optimizers import SGD
    >>> scalar_table(SGD(), ["rate", "gain"], 0, np.array([0.1, 0.2]))
    array([[0.1, 0.2],
           [1. , 1. ]])
    """
    try:
        values = optimizer.scalars(np.arange(step + 1, step + 1 + len(rates)), rates)
    except Exception:  # it branches on the step, for example; if it is wrong, it fails again below
        one_by_one = [optimizer.scalars(step + 1 + i, rate) for i, rate in enumerate(rates.tolist())]
        values = {name: np.array([scalars[name] for scalars in one_by_one]) for name in one_by_one[0]}
    if unread := values.keys() - set(names):
        raise KeyError(f"scalars of {optimizer!r}: got {', '.join(sorted(unread))}, wanted only {', '.join(names)}")
    table = np.empty((len(names), len(rates)))
    for row, name in zip(table, names, strict=True):
        row[...] = values[name] if name in values else NEUTRAL[name]
    return table


def fuses(last: Layer, loss: LossFunction) -> TypeGuard[Dense]:
    """Return whether the loss is fused with the activation of the last layer, so that it gives dZ directly (N11).

    A loss is not fused with a class derived from Dense, which may compute A from Z differently.
    """
    return type(last) is Dense and loss.fused_with(last.g)


def _no_optimizer(optimizer: Optimizer) -> bool:
    return False


class Supported(NamedTuple):
    """The activations, losses and optimizers for which a backend has kernels, to decide whether it can compile a plan.

    Parameters
    ----------
    activations, losses : container of str, optional
        The names of the library's activations and losses; preferably pass the tables in which the backend looks up its
        kernels.
    optimizer : callable, optional
        Takes an :class:`~deepnotes.nn.optimizer_base.Optimizer`, and returns whether there is a kernel for it and its
        options.
    generates : bool, default False
        Whether the backend generates kernels from expressions. If so, any other activation, loss or
        optimizer counts as well if it cannot change and an expression can be traced from it.
    by_feature : bool, default False
        Whether that also holds for layers by feature, see :func:`deepnotes.nn.formulas.layer`, and whether the backend
        has kernels for :class:`~deepnotes.nn.layers.Shortcut` and :class:`~deepnotes.nn.layers.Noise`.
    batch_norm : bool, default False
        Whether the backend has kernels for :class:`~deepnotes.nn.layers.BatchNorm`.
    embeds : bool, default False
        Whether the backend has kernels for :class:`~deepnotes.nn.layers.Embedding`.
    l1 : bool, default False
        Whether the backend's Programs add the L1 penalty, ``plan.l1``.

    Examples
    --------
    >>> from deepnotes.nn.optimizers import SGD
    >>> supported = Supported({"relu", "identity"}, {"mean_squared_error"}, lambda optimizer: type(optimizer) is SGD)
    >>> supported.has_layers([Dense(3, "relu"), Dense(1)]), supported.has_layers([Dense(3, "tanh")])
    (True, False)
    """

    activations: Container[str] = ()
    losses: Container[str] = ()
    optimizer: Callable[[Optimizer], bool] = _no_optimizer
    generates: bool = False
    by_feature: bool = False
    batch_norm: bool = False
    embeds: bool = False
    l1: bool = False

    def has_layers(self, layers: Sequence[Layer], inputs: int = 2) -> bool:
        """Return whether all layers of a network with this number of inputs, and their activations, have kernels."""
        size = inputs
        for layer in layers:
            if not self._has_layer(layer, size):
                return False
            size = layer.output_size(size)
        return True

    def _has_layer(self, layer: Layer, inputs: int) -> bool:
        if type(layer) is Dense:
            return self.has_activation(layer.g, layer.units)
        if type(layer) is Dropout:
            return True
        if type(layer) in (Noise, Shortcut):
            return self.by_feature
        if type(layer) is BatchNorm:
            return self.batch_norm
        if type(layer) is Embedding:
            return self.embeds
        describe = formulas.layer, formulas.layer_backward
        return self.by_feature and all(formulas.has_formula(f, layer, "float64", inputs) for f in describe)

    def has_activation(self, activation: ActivationFunction, outputs: int = 2) -> bool:
        """Return whether an activation with this number of outputs has a kernel."""
        if type(activation) is Activation and activation.name in self.activations:
            return True
        describe = formulas.activation, formulas.backward
        return self.generates and all(formulas.has_formula(f, activation, "float64", outputs) for f in describe)

    def has_loss(self, loss: LossFunction, outputs: int = 2, last: Layer | None = None) -> bool:
        """Return whether a loss with this number of outputs, after the layer `last`, has a kernel."""
        if type(loss) is Loss and loss.name in self.losses:
            return True
        fused = last is not None and fuses(last, loss)
        describe = formulas.fused_loss if fused else formulas.loss_and_derivative
        return self.generates and formulas.has_formula(describe, loss, "float64", outputs)

    def has_optimizer(self, optimizer: Optimizer) -> bool:
        """Return whether an optimizer has a kernel."""
        if self.optimizer(optimizer):
            return True
        return self.generates and formulas.has_formula(formulas.update, optimizer, "float64")

    def _updates_statistics(self, optimizer: Optimizer) -> bool:
        """Return whether an optimizer's update of statistics has a kernel."""
        if self.optimizer(optimizer):
            return True
        return self.generates and formulas.has_formula(formulas.update_statistics, optimizer, "float64")

    def has_plan(self, plan: Plan) -> bool:
        """Return whether the layers, the loss, the optimizer and the penalties of a plan all have kernels."""
        if plan.l1 and not self.l1:
            return False
        if plan.layout.trained < plan.layout.size and not self._updates_statistics(plan.optimizer):
            return False
        has_loss = self.has_loss(plan.loss, plan.layout.sizes[-1], plan.layers[-1])
        return has_loss and self.has_layers(plan.layers, plan.inputs) and self.has_optimizer(plan.optimizer)
