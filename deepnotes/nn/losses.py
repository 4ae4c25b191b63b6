"""Losses by name, and the base class for user-defined losses.

Some losses are *fused* with the activation of the last layer: they are computed from the logits Z of that layer, which
is numerically stable (N11).
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from deepnotes.equations.array import Array
from deepnotes.equations.ops import Ops
from deepnotes.nn import formulas
from deepnotes.nn.activations import Activation, ActivationFunction, Range, update_options
from deepnotes.utils.errors import ArgumentError, ShapeError, look_up
from deepnotes.utils.wording import as_call


@dataclass(frozen=True)
class Traits:
    """The properties of one of the library's losses."""

    outputs: tuple[Range, ...] = ("real", "positive", "unit", "simplex")
    """The ranges of outputs for which the loss is defined."""
    targets: Literal["real", "count", "unit", "simplex"] = "real"
    """The allowed targets, see :class:`LossFunction`."""
    fused: tuple[str, str] | None = None
    """The activation with which the loss is fused, and the equation that computes the loss from the logits."""
    options: dict[str, float] = field(default_factory=dict)
    """The options by name, with their default values."""
    limits: dict[str, Any] = field(default_factory=lambda: {"positive": True})
    """The limits of the options, see :func:`deepnotes.utils.arguments.number`."""


LIBRARY: dict[str, Traits] = {
    "binary_cross_entropy": Traits(("unit", "simplex"), "unit", ("sigmoid", "sigmoid_cross_entropy")),
    "categorical_cross_entropy": Traits(
        ("simplex",), "simplex", ("softmax", "softmax_cross_entropy"), {"label_smoothing": 0.0}, {"below": 1}
    ),
    "mean_squared_error": Traits(),
    "mean_absolute_error": Traits(),
    "huber": Traits(options={"delta": 1.0}),
    "poisson": Traits(("positive", "unit", "simplex"), "count", ("exp", "exp_poisson")),
    "half_poisson_deviance": Traits(("positive", "unit", "simplex"), "count", ("exp", "exp_half_poisson_deviance")),
    "focal": Traits(("unit", "simplex"), "unit", ("sigmoid", "sigmoid_focal"), {"gamma": 2.0}),
    "kl_divergence": Traits(("simplex",), "simplex", ("softmax", "softmax_kl_divergence")),
    "hinge": Traits(targets="unit"),
    "log_cosh": Traits(),
    "pinball": Traits(options={"quantile": 0.5}, limits={"positive": True, "below": 1}),
}


class LossFunction:
    """The base class of losses. To write one, derive from it and implement ``value``.

    ``derivative`` is derived from ``value``; write it as well if you know a faster or more accurate form.
    :func:`deepnotes.check` compares ``derivative`` with central differences.

    Attributes
    ----------
    outputs : tuple of str
        The ranges of outputs for which the loss is defined, see :attr:`ActivationFunction.range`.
    targets : {"real", "count", "unit", "simplex"}
        The allowed targets: any numbers, numbers of at least 0, numbers between 0 and 1, or columns that sum to 1. For
        ``"simplex"``, class indices are allowed too.
    """

    name = "custom"
    outputs: tuple[Range, ...] = Traits.outputs
    targets: Literal["real", "count", "unit", "simplex"] = "real"

    def value(self, ops: Ops, A: Array, Y: Array) -> Array:
        """Return the loss of each sample, shape (1, m), for outputs and targets of shape (k, m)."""
        raise NotImplementedError

    def derivative(self, ops: Ops, A: Array, Y: Array) -> Array:
        """Return ``dA = ∂L/∂A`` of each sample, shape (k, m).

        Raises
        ------
        NotAnExpressionError
            If ``value`` uses something that cannot be differentiated.
        """
        dA: Array = formulas.apply(formulas.loss_derivative, self, ops.xp, A, Y)
        return dA

    def fused_with(self, activation: ActivationFunction) -> bool:
        """Return whether the loss after `activation` is computed from the logits Z (N11); by default False."""
        return False

    def value_of_logits(self, ops: Ops, Z: Array, Y: Array) -> Array:
        """Return the loss of each sample, shape (1, m), from the logits; called only if ``fused_with`` returns True."""
        raise NotImplementedError

    def delta(self, ops: Ops, A: Array, Y: Array) -> Array:
        """Return ``dZ[L] = ∂L/∂Z``, shape (k, m); called only if ``fused_with`` returns True."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return as_call(self)


@dataclass(frozen=True, init=False)
class Loss(LossFunction):
    """One of the library's losses, with its options.

    Parameters
    ----------
    name : str
        binary_cross_entropy, categorical_cross_entropy, mean_squared_error, mean_absolute_error, huber, poisson,
        half_poisson_deviance, focal, kl_divergence, hinge, log_cosh or pinball.
    **options : float
        ``delta`` for huber (default 1.0); ``label_smoothing`` for categorical_cross_entropy, from 0 (the default) to
        below 1; ``gamma`` for focal (default 2.0); ``quantile`` for pinball, between 0 and 1 (default 0.5).

    Raises
    ------
    UnknownNameError
        If there is no loss of this name; the message suggests the nearest match.
    ArgumentError
        If the loss has no such option, or the value of an option is out of its range.

    Examples
    --------
    >>> Loss("huber", delta=2.0)
    Loss('huber', delta=2.0)
    """

    name: str
    options: tuple[tuple[str, float], ...]

    def __init__(self, name: str, **options: float) -> None:
        traits = look_up("loss", name, LIBRARY)
        values = update_options(name, traits.options, options, **traits.limits)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "options", tuple(values.items()))
        object.__setattr__(self, "outputs", traits.outputs)
        object.__setattr__(self, "targets", traits.targets)

    def value(self, ops: Ops, A: Array, Y: Array) -> Array:
        """Return the loss of each sample, shape (1, m), for outputs and targets of shape (k, m)."""
        L: Array = getattr(ops, self.name)(A, Y, **dict(self.options))
        return L

    def derivative(self, ops: Ops, A: Array, Y: Array) -> Array:
        """Return ``dA = ∂L/∂A`` of each sample, shape (k, m)."""
        dA: Array = getattr(ops, f"{self.name}_derivative")(A, Y, **dict(self.options))
        return dA

    def fused_with(self, activation: ActivationFunction) -> bool:
        """Return whether the loss after `activation` is computed from the logits Z (N11)."""
        fused = LIBRARY[self.name].fused
        return fused is not None and type(activation) is Activation and activation.name == fused[0]

    def value_of_logits(self, ops: Ops, Z: Array, Y: Array) -> Array:
        """Return the loss of each sample, shape (1, m), from the logits."""
        L: Array = getattr(ops, self._fused_equation)(Z, Y, **dict(self.options))
        return L

    def delta(self, ops: Ops, A: Array, Y: Array) -> Array:
        """Return ``dZ[L]`` (N11), shape (k, m): for most losses, ``A - Y`` or ``(A - Y) / k``."""
        dZ: Array = getattr(ops, f"{self._fused_equation}_delta")(A, Y, **dict(self.options))
        return dZ

    @property
    def _fused_equation(self) -> str:
        fused = LIBRARY[self.name].fused
        assert fused is not None
        return fused[1]

    def __repr__(self) -> str:
        return f"Loss({', '.join([repr(self.name), *(f'{k}={v!r}' for k, v in self.options)])})"


def losses_of(loss: LossFunction, ops: Ops, A: Array, Y: Array) -> Array:
    """Return ``loss.value``, the loss of each sample, shape (1, m), for outputs and targets of shape (k, m).

    Raises
    ------
    ShapeError
        If it has another shape.
    """
    L = loss.value(ops, A, Y)
    shape = getattr(L, "shape", ())
    if tuple(shape) != (1, A.shape[1]):
        raise ShapeError(
            f"{type(loss).__name__}.value returned shape {tuple(shape)}, wanted {(1, A.shape[1])}: the loss of each "
            "sample; sum over the outputs with ops.xp.sum(..., axis=0, keepdims=True)"
        )
    return L


def as_loss(loss: str | LossFunction) -> LossFunction:
    """Return the loss with the given name; a loss object is returned unchanged."""
    return loss if isinstance(loss, LossFunction) else Loss(loss)


def check_pair(loss: LossFunction, activation: Any) -> None:
    """Raise ArgumentError if `loss` is not defined for the outputs of `activation`, the last layer's activation."""
    output_range = getattr(activation, "range", "real")
    if output_range not in loss.outputs:
        name = getattr(activation, "name", type(activation).__name__)
        fused = LIBRARY[loss.name].fused if loss.name in LIBRARY else None
        advice = f"use {fused[0]}" if fused else "use softplus, sigmoid or softmax"
        raise ArgumentError(
            f"loss {loss.name!r} needs outputs in the range {' or '.join(map(repr, loss.outputs))}, but the outputs of "
            f"the last layer's activation {name!r} are in the range {output_range!r}: {advice}"
        )


def loss_after(g: ActivationFunction | None, loss: str | LossFunction | None) -> LossFunction:
    """Return the loss to use after the activation `g` of the last layer.

    Parameters
    ----------
    g : ActivationFunction or None
    loss : str or LossFunction, optional
        By default binary_cross_entropy after sigmoid, categorical_cross_entropy after softmax, and mean_squared_error
        after any other activation.

    Raises
    ------
    UnknownNameError
    ArgumentError
        If the loss is not defined for the outputs of `g`.
    """
    defaults = {"sigmoid": "binary_cross_entropy", "softmax": "categorical_cross_entropy"}
    name = g.name if type(g) is Activation else ""
    function = as_loss(defaults.get(name, "mean_squared_error") if loss is None else loss)
    check_pair(function, g)
    return function
