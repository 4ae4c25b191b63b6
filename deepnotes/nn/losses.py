"""Losses by name, their stable fused forms with an activation (N11), and the base class of user-defined ones."""

from dataclasses import dataclass, field
from typing import Any, Literal

from deepnotes.equations.array import Array
from deepnotes.equations.ops import Ops
from deepnotes.nn.activations import Activation, ActivationFunction, Range, checked_options
from deepnotes.utils.errors import ArgumentError, look_up


@dataclass(frozen=True)
class Traits:
    """The properties of one of the library's losses."""

    outputs: tuple[Range, ...] = ("real", "positive", "unit", "simplex")
    """The ranges of activations that it may follow."""
    targets: Literal["real", "count", "unit", "simplex"] = "real"
    """The values that Y may hold: any, >= 0, within 0..1, or distributions (class indices included)."""
    fused: tuple[str, str] | None = None
    """The activation, and the equation that computes the loss from its logits."""
    options: dict[str, float] = field(default_factory=dict)


LIBRARY: dict[str, Traits] = {
    "binary_cross_entropy": Traits(("unit", "simplex"), "unit", ("sigmoid", "sigmoid_cross_entropy")),
    "categorical_cross_entropy": Traits(("simplex",), "simplex", ("softmax", "softmax_cross_entropy")),
    "mean_squared_error": Traits(),
    "mean_absolute_error": Traits(),
    "huber": Traits(options={"delta": 1.0}),
    "poisson": Traits(("positive", "unit", "simplex"), "count"),
    "half_poisson_deviance": Traits(("positive", "unit", "simplex"), "count", ("exp", "exp_half_poisson_deviance")),
}


class LossFunction:
    """The base class of losses; derive from it to write your own, and implement ``value`` and ``derivative``.

    Attributes
    ----------
    outputs : tuple of str
        The ranges of activations that it may follow, see :attr:`ActivationFunction.range`.
    targets : {"real", "count", "unit", "simplex"}
        The values that Y may hold; ``"simplex"`` means one-hot columns, distributions and class indices.
    """

    name = "custom"
    outputs: tuple[Range, ...] = Traits.outputs
    targets: Literal["real", "count", "unit", "simplex"] = "real"

    def value(self, ops: Ops, A: Array, Y: Array) -> Array:
        """Return the loss of each sample, shape (1, m), for outputs and targets of shape (k, m)."""
        raise NotImplementedError

    def derivative(self, ops: Ops, A: Array, Y: Array) -> Array:
        """Return ``dA = ∂L/∂A`` per sample, shape (k, m)."""
        raise NotImplementedError

    def fused_with(self, activation: ActivationFunction) -> bool:
        """Return whether this loss after `activation` has a form that is computed from the logits Z (N11)."""
        return False

    def value_of_logits(self, ops: Ops, Z: Array, Y: Array) -> Array:
        """Return the loss of each sample, shape (1, m), from the logits; used where ``fused_with`` returns True."""
        raise NotImplementedError

    def delta(self, ops: Ops, A: Array, Y: Array) -> Array:
        """Return ``dZ[L]``, shape (k, m); used where ``fused_with`` returns True."""
        raise NotImplementedError


@dataclass(frozen=True, init=False)
class Loss(LossFunction):
    """One of the library's losses, with its options.

    Parameters
    ----------
    name : str
        binary_cross_entropy, categorical_cross_entropy, mean_squared_error, mean_absolute_error, huber, poisson or
        half_poisson_deviance.
    **options : float
        ``delta`` of huber (1.0).

    Raises
    ------
    UnknownNameError
        If there is no such loss; the message suggests the nearest match.
    ArgumentError
        If the loss does not have an option, or its value is not a finite number above 0.

    Examples
    --------
    >>> Loss("huber", delta=2.0)
    Loss('huber', delta=2.0)
    """

    name: str
    options: tuple[tuple[str, float], ...]

    def __init__(self, name: str, **options: float) -> None:
        traits = look_up("loss", name, LIBRARY)
        checked = checked_options(name, traits.options, options, positive=True)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "options", tuple(checked.items()))
        object.__setattr__(self, "outputs", traits.outputs)
        object.__setattr__(self, "targets", traits.targets)

    def value(self, ops: Ops, A: Array, Y: Array) -> Array:
        """Return the loss of each sample, shape (1, m), for outputs and targets of shape (k, m)."""
        L: Array = getattr(ops, self.name)(A, Y, **dict(self.options))
        return L

    def derivative(self, ops: Ops, A: Array, Y: Array) -> Array:
        """Return ``dA = ∂L/∂A`` per sample, shape (k, m)."""
        dA: Array = getattr(ops, f"{self.name}_derivative")(A, Y, **dict(self.options))
        return dA

    def fused_with(self, activation: ActivationFunction) -> bool:
        """Return whether this loss after `activation` has a form that is computed from the logits Z (N11)."""
        fused = LIBRARY[self.name].fused
        return fused is not None and isinstance(activation, Activation) and activation.name == fused[0]

    def value_of_logits(self, ops: Ops, Z: Array, Y: Array) -> Array:
        """Return the loss of each sample, shape (1, m), from the logits of the fused activation."""
        L: Array = getattr(ops, self._fused_equation)(Z, Y)
        return L

    def delta(self, ops: Ops, A: Array, Y: Array) -> Array:
        """Return ``dZ[L]`` (N11), shape (k, m): ``A - Y`` after softmax, ``(A - Y) / k`` after sigmoid or exp."""
        dZ: Array = getattr(ops, f"{self._fused_equation}_delta")(A, Y)
        return dZ

    @property
    def _fused_equation(self) -> str:
        fused = LIBRARY[self.name].fused
        assert fused is not None
        return fused[1]

    def __repr__(self) -> str:
        return f"Loss({', '.join([repr(self.name), *(f'{k}={v!r}' for k, v in self.options)])})"


def as_loss(loss: str | LossFunction) -> LossFunction:
    """Return the loss of this name; a loss object is returned unchanged."""
    return loss if isinstance(loss, LossFunction) else Loss(loss)


def check_pair(loss: LossFunction, activation: Any) -> None:
    """Raise ArgumentError if `loss` is not defined on the outputs of the last layer's `activation`."""
    found = getattr(activation, "range", "real")
    if found not in loss.outputs:
        name = getattr(activation, "name", type(activation).__name__)
        fused = LIBRARY[loss.name].fused if loss.name in LIBRARY else None
        wanted = f"use {fused[0]}" if fused else "use softplus, sigmoid or softmax"
        raise ArgumentError(
            f"loss {loss.name!r} needs outputs that are {' or '.join(loss.outputs)}; the last layer's activation "
            f"{name!r} gives {found} ones: {wanted}"
        )


def loss_after(g: ActivationFunction | None, loss: str | LossFunction | None) -> LossFunction:
    """Return the loss named or given; if None, the one that belongs to the last layer's activation `g`.

    Raises
    ------
    UnknownNameError
    ArgumentError
        If it cannot follow `g`.
    """
    natural = {"sigmoid": "binary_cross_entropy", "softmax": "categorical_cross_entropy"}
    chosen = as_loss(natural.get(getattr(g, "name", ""), "mean_squared_error") if loss is None else loss)
    check_pair(chosen, g)
    return chosen
