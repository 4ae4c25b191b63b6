"""Losses by name, and the base class for user-defined losses.

Some losses are *fused* with the activation of the last layer: they are computed from the logits Z of that layer, which
is numerically stable (N11).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from deepnotes.equations.array import Array
from deepnotes.equations.ops import Ops
from deepnotes.nn import formulas
from deepnotes.nn.activations import Activation, ActivationFunction, Range, update_options
from deepnotes.utils.arguments import number
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

    @property
    def outputs_per_target(self) -> int:
        """The number of outputs for each target; by default 1.

        If it is larger, the outputs are blocks of rows, with a row for each target. The methods get Y with the shape of
        the outputs: each block has all targets.
        """
        return 1

    def point_prediction(self, A: Array) -> Array:
        """Return the prediction of each target, from outputs of shape (k, m); by default the first block of rows.

        Metrics compare it with the targets.
        """
        return A[: A.shape[0] // self.outputs_per_target, :]

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


@dataclass(frozen=True)
class QuantileLoss(LossFunction):
    """The mean of the pinball losses of several quantiles, each of them predicted by outputs of its own.

    For k targets and q quantiles, the last layer has ``q * k`` outputs: first those for the lowest quantile, one for
    each target. Each output converges to its quantile of the targets, so two of them are the ends of a prediction
    interval (R. Koenker and G. Bassett, Econometrica 46 (1978) 33).

    Nothing prevents the predicted quantiles from crossing, mostly where there are few samples. Sorted predictions do
    not cross, and are at least as good (V. Chernozhukov et al., Econometrica 78 (2010) 1093): for one target,
    ``np.sort(net.predict(X), axis=0)``.

    Parameters
    ----------
    quantiles : sequence of float
        Different numbers between 0 and 1, in ascending order.

    Raises
    ------
    ArgumentError

    Examples
    --------
    >>> import numpy as np
    >>> import deepnotes as dn
    >>> X = np.linspace(-1, 1, 50)[None]
    >>> net = dn.Network([dn.Dense(8, "tanh"), dn.Dense(3)], inputs=1, seed=0)
    >>> history = net.fit(X, X**2, loss=dn.QuantileLoss([0.05, 0.5, 0.95]), epochs=2)
    >>> lower, median, upper = net.predict(X)
    """

    quantiles: tuple[float, ...]
    name = "quantile_loss"

    def __post_init__(self) -> None:
        given = self.quantiles
        is_list = isinstance(given, Sequence) and not isinstance(given, str)
        if not (is_list or getattr(given, "ndim", 0) == 1) or not len(given):
            raise ArgumentError.of("quantiles", given, "a list of numbers between 0 and 1, such as [0.05, 0.5, 0.95]")
        values = tuple(number(f"quantiles[{i}]", q, positive=True, below=1) for i, q in enumerate(given))
        for i in range(1, len(values)):
            if values[i] <= values[i - 1]:
                raise ArgumentError.of(f"quantiles[{i}]", values[i], f"more than quantiles[{i - 1}]={values[i - 1]}")
        object.__setattr__(self, "quantiles", values)

    @property
    def outputs_per_target(self) -> int:
        """The number of quantiles."""
        return len(self.quantiles)

    def point_prediction(self, A: Array) -> Array:
        """Return the median of each target; if it is not among the quantiles, interpolate between its neighbours."""
        k, count = A.shape[0] // len(self.quantiles), len(self.quantiles)
        above = min(sum(q < 0.5 for q in self.quantiles), count - 1)
        below = above if self.quantiles[above] <= 0.5 else max(above - 1, 0)
        lower, upper = A[below * k : (below + 1) * k, :], A[above * k : (above + 1) * k, :]
        if below == above:
            return lower
        share = (0.5 - self.quantiles[below]) / (self.quantiles[above] - self.quantiles[below])
        return lower + share * (upper - lower)

    def value(self, ops: Ops, A: Array, Y: Array) -> Array:
        """Return the loss of each sample, shape (1, m): the mean over the quantiles and targets."""
        L: Array = ops.quantile_loss(A, Y, self.quantiles)
        return L

    def derivative(self, ops: Ops, A: Array, Y: Array) -> Array:
        """Return ``dA = ∂L/∂A`` of each sample, shape (k, m)."""
        dA: Array = ops.quantile_loss_derivative(A, Y, self.quantiles)
        return dA


@dataclass(frozen=True)
class GaussianNLL(LossFunction):
    """The negative log-likelihood of normally distributed targets, whose mean and variance are both predicted.

    For k targets, the last layer has ``2 k`` outputs and no activation: k means ``μ``, then k logarithms of variances
    ``s``. The loss of a target is ``(s + (y - μ)² e^-s) / 2``, without the constant ``log(2π) / 2`` (D. A. Nix and
    A. S. Weigend, ICNN 1994, p. 55). A logarithm can be any number, so these outputs need no activation that keeps them
    positive, and the loss neither divides by a small variance nor takes its logarithm.

    Parameters
    ----------
    epsilon : float, default 1e-6
        The smallest variance, above 0. Smaller predictions have the loss and the derivative of `epsilon`, so the loss
        is bounded below even if targets are predicted exactly.

    Raises
    ------
    ArgumentError
        If `epsilon` is not above 0.

    Examples
    --------
    >>> import numpy as np
    >>> import deepnotes as dn
    >>> X = np.linspace(-1, 1, 50)[None]
    >>> net = dn.Network([dn.Dense(8, "tanh"), dn.Dense(2)], inputs=1, seed=0)
    >>> history = net.fit(X, X**2, loss=dn.GaussianNLL(), epochs=2)
    >>> mean, log_variance = net.predict(X)
    >>> std = np.exp(log_variance / 2)
    """

    epsilon: float = 1e-6
    name = "gaussian_nll"
    outputs = ("real",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", number("epsilon", self.epsilon, positive=True))

    @property
    def outputs_per_target(self) -> int:
        """2: the mean, and the logarithm of the variance."""
        return 2

    def value(self, ops: Ops, A: Array, Y: Array) -> Array:
        """Return the loss of each sample, shape (1, m): the mean over the targets."""
        L: Array = ops.gaussian_nll(A, Y, self.epsilon)
        return L

    def derivative(self, ops: Ops, A: Array, Y: Array) -> Array:
        """Return ``dA = ∂L/∂A`` of each sample, shape (2 k, m)."""
        dA: Array = ops.gaussian_nll_derivative(A, Y, self.epsilon)
        return dA


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
        advice = "use none" if loss.outputs == ("real",) else advice
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
