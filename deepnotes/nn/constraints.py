"""Constraints on parameters: projections that follow each update of the optimizer."""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from deepnotes.equations.array import Array
from deepnotes.equations.ops import Ops
from deepnotes.nn.optimizer_base import Optimizer, updated_by
from deepnotes.nn.optimizers import Wrapper, with_slices
from deepnotes.nn.protocols import LayoutLike
from deepnotes.utils.arguments import number
from deepnotes.utils.errors import ArgumentError


class Constraint:
    """The base class of constraints on a parameter. To write one, derive from it and implement ``apply``."""

    def apply(self, ops: Ops, W: Array) -> Array:
        """Return the nearest values that are allowed, after an update of the parameter has returned `W`.

        Parameters
        ----------
        ops : Ops
            The equations; ``ops.xp`` is the array module.
        W : Array, shape (n, n_prev)
            One row for each neuron.

        Returns
        -------
        Array, shape (n, n_prev)
        """
        raise NotImplementedError


@dataclass(frozen=True)
class NonNegative(Constraint):
    """Weights of at least 0: ``max(W, 0)``.

    Examples
    --------
    >>> from deepnotes import Dense
    >>> Dense(10, "relu", constraint=NonNegative())
    Dense(10, 'relu', constraint=NonNegative())
    """

    def apply(self, ops: Ops, W: Array) -> Array:
        """Return ``max(W, 0)``, shape (n, n_prev)."""
        return ops.xp.maximum(W, ops.xp.zeros_like(W))


@dataclass(frozen=True)
class MaxNorm(Constraint):
    """A largest Euclidean norm for the incoming weights of each neuron (Srivastava et al., JMLR 15 (2014) 1929).

    Parameters
    ----------
    limit : float
        Rows of ``W`` with a larger norm are scaled down to it.

    Raises
    ------
    ArgumentError
        If `limit` is not above 0.
    """

    limit: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "limit", number("limit", self.limit, positive=True))

    def apply(self, ops: Ops, W: Array) -> Array:
        """Return :func:`~deepnotes.equations.max_norm` of W, shape (n, n_prev)."""
        rows: Array = ops.max_norm(W, self.limit)
        return rows


LIBRARY: dict[str, type[Constraint]] = {"non_negative": NonNegative, "max_norm": MaxNorm}


def as_constraint(constraint: Constraint | None) -> Constraint | None:
    """Return a constraint unchanged, or None.

    Raises
    ------
    ArgumentError
        If it is neither.
    """
    if constraint is not None and not isinstance(constraint, Constraint):
        raise ArgumentError.of("constraint", constraint, "a Constraint, such as NonNegative(), or None")
    return constraint


class ConstrainedSlice(NamedTuple):
    """A parameter with a constraint: its name, its slice of the flat buffer, its shape, and the constraint."""

    name: str
    start: int
    stop: int
    shape: tuple[int, int]
    constraint: Constraint


@dataclass(frozen=True)
class Constrained(Wrapper):
    """An optimizer whose updates are followed by constraints.

    Parameters
    ----------
    optimizer : Optimizer
    slices : tuple of ConstrainedSlice
        In the order of the flat buffer.
    """

    slices: tuple[ConstrainedSlice, ...]

    def update(
        self, ops: Ops, theta: Array, g: Array, slots: tuple[Array, ...], decays: Array, scalars: Mapping[str, Any]
    ) -> tuple[Array, tuple[Array, ...]]:
        """Return the next θ, after the constraints, and slots; shapes as in :meth:`Optimizer.update`."""
        theta, after = updated_by(self.optimizer, ops, theta, g, slots, decays, scalars)
        xp, slices = ops.xp, []
        for name, start, stop, shape, constraint in self.slices:
            W = constraint.apply(ops, xp.reshape(theta[start:stop], shape))
            if getattr(W, "shape", None) != shape:
                got = f"shape {W.shape}" if hasattr(W, "shape") else f"a {type(W).__name__}"
                raise ArgumentError(f"{type(constraint).__name__}.apply of {name} returned {got}, wanted shape {shape}")
            slices.append((start, stop, W))
        return with_slices(ops, theta, slices), after


def constrained(optimizer: Optimizer, layout: LayoutLike, frozen: Container[int] = ()) -> Optimizer:
    """Return an optimizer that applies the constraints of a layout; `optimizer` itself if there are none.

    Those of the layers whose numbers are in `frozen` are left out, so that their parameters keep their bits.
    """
    slices = tuple(
        ConstrainedSlice(e.name, e.start, e.stop, e.parameter.shape, e.parameter.constraint)
        for e in layout.entries.values()
        if e.parameter.constraint is not None and e.parameter.trained and e.number not in frozen
    )
    return Constrained(optimizer, slices) if slices else optimizer
