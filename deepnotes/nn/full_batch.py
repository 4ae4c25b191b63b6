"""Optimizers that train on all samples as one batch: their base class, and L-BFGS."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Any, NamedTuple

from deepnotes.equations.array import Array
from deepnotes.equations.ops import Ops
from deepnotes.nn.line_search import Trial, strong_wolfe
from deepnotes.nn.optimizer_base import Optimizer
from deepnotes.nn.schedules import Rate, as_schedule
from deepnotes.utils.arguments import whole
from deepnotes.utils.errors import ArgumentError


class Evaluation(NamedTuple):
    """The result of evaluating the cost of all samples at a point θ.

    Attributes
    ----------
    cost : float
        The cost that is minimized: with the L2 penalty.
    g : Array, shape (p,)
        Its gradient, 0 for statistics.
    source : object
        What the caller of :meth:`FullBatchOptimizer.iterate` wants to find again.
    """

    cost: float
    g: Array
    source: Any = None


class FullBatchOptimizer(Optimizer):
    """The base class of optimizers that evaluate the cost of all samples at several points to make one update.

    Derive from it and define ``learning_rate``, ``slots`` and ``iterate`` instead of ``update``. Each epoch is one
    update.
    """

    def iterate(
        self,
        ops: Ops,
        evaluate: Callable[[Array], Evaluation],
        theta: Array,
        start: Evaluation,
        slots: tuple[Array, ...],
        rate: float,
    ) -> tuple[Array, Evaluation, tuple[Array, ...]]:
        """Return the next θ, the evaluation there, and the next slots.

        Parameters
        ----------
        evaluate : callable
            Returns the evaluation at a point, an array of shape (p,). The cost is the same function in all updates.
        theta : Array, shape (p,)
        start : Evaluation
            That of `theta`. Return it if θ does not change.
        slots : tuple of Array, shape (p,)
        rate : float
            The learning rate of the update.
        """
        raise NotImplementedError

    def update(
        self, ops: Ops, theta: Array, g: Array, slots: tuple[Array, ...], decays: Array, scalars: Mapping[str, Any]
    ) -> tuple[Array, tuple[Array, ...]]:
        """Raise an error: one gradient is not enough.

        Raises
        ------
        ArgumentError
        """
        raise ArgumentError(f"{type(self).__name__} cannot update from one gradient: call its method iterate")


@dataclass(frozen=True)
class LBFGS(FullBatchOptimizer):
    """L-BFGS with a line search for the strong Wolfe conditions (Liu and Nocedal, 1989).

    Each update moves along :func:`~deepnotes.equations.lbfgs_direction`, by the step that
    :func:`~deepnotes.nn.line_search.strong_wolfe` finds, as ``torch.optim.LBFGS`` with
    ``line_search_fn="strong_wolfe"`` does. It takes all samples as one batch. If no step lowers the cost, the
    parameters stay, and the next update starts from the gradient again.

    Parameters
    ----------
    learning_rate : float or Schedule, default 1.0
        The first step that a line search tries. While there are no pairs, it is divided by ``max(1, Σ |g|)``.
    history_size : int, default 10
        The number of pairs ``s, y`` to keep; each of them takes the memory of two gradients.
    c1 : float, default 1e-4
        How much the cost has to fall, as a share of what the slope at the start promises.
    c2 : float, default 0.9
        The largest slope at the end, as a share of that at the start; above `c1`.
    max_evaluations : int, default 25
        The largest number of evaluations of the cost and its gradient in a line search.
    tolerance : float, default 1e-7
        Parameters do not change if no element of the gradient is larger.

    Raises
    ------
    ArgumentError
        If a value is out of its range.
    """

    learning_rate: Rate = 1.0
    history_size: int = 10
    c1: float = field(default=1e-4, kw_only=True)
    c2: float = field(default=0.9, kw_only=True)
    max_evaluations: int = field(default=25, kw_only=True)
    tolerance: float = field(default=1e-7, kw_only=True)

    def __post_init__(self) -> None:
        as_schedule(self.learning_rate)
        for name in ("history_size", "max_evaluations"):
            object.__setattr__(self, name, whole(name, getattr(self, name)))
        for name in ("c1", "c2"):
            self._check(name, positive=True, below=1)
        if not self.c1 < self.c2:
            raise ArgumentError(f"c1={self.c1}: wanted less than c2={self.c2}")
        self._check("tolerance")

    @property
    def slots(self) -> tuple[str, ...]:
        """``s1, ..., y1, ...``: the last changes of θ and of its gradient, from the oldest to the latest, or zeros."""
        numbers = range(1, self.history_size + 1)
        return (*(f"s{i}" for i in numbers), *(f"y{i}" for i in numbers))

    def iterate(
        self,
        ops: Ops,
        evaluate: Callable[[Array], Evaluation],
        theta: Array,
        start: Evaluation,
        slots: tuple[Array, ...],
        rate: float,
    ) -> tuple[Array, Evaluation, tuple[Array, ...]]:
        """Return the next θ, the evaluation there, and the next slots; see :meth:`FullBatchOptimizer.iterate`."""
        xp, g = ops.xp, start.g
        if rate == 0 or _largest(ops, g) <= self.tolerance:
            return theta, start, slots
        S, Y = slots[: self.history_size], slots[self.history_size :]
        d = ops.lbfgs_direction(g, S, Y)
        slope = float(xp.sum(g * d))
        first = rate if _largest(ops, Y[-1]) else rate / max(1.0, float(xp.sum(abs(g))))

        def trial(step: float) -> Trial:
            at = evaluate(theta + step * d)
            cost, slope = at.cost, float(xp.sum(at.g * d))
            is_finite = isfinite(cost) and isfinite(slope)
            return Trial(step, cost if is_finite else inf, slope if is_finite else inf, at)

        found = origin = Trial(0.0, start.cost, slope, start)
        if -inf < slope < 0:
            least_width = LEAST_CHANGE / _largest(ops, d)
            found = strong_wolfe(trial, origin, first, self.c1, self.c2, self.max_evaluations, least_width)
        if found is origin:  # the pairs are of no use here, or no step gains more than is lost by rounding
            return theta, start, tuple(xp.zeros_like(slot) for slot in slots)
        s, y = found.step * d, found.point.g - g
        if float(xp.sum(s * y)) > LEAST_CURVATURE * float(xp.sum(y * y)):
            S, Y = (*S[1:], s), (*Y[1:], y)
        return theta + s, found.point, (*S, *Y)


LEAST_CHANGE = 1e-9
"""A line search ends when all steps that it still considers change no parameter by more."""
LEAST_CURVATURE = 1e-10
"""A pair is kept if ``sᵀy / yᵀy`` is larger, so that H stays positive definite."""


def _largest(ops: Ops, x: Array) -> float:
    """Return the largest absolute value in an array."""
    return float(ops.xp.max(abs(x)))
