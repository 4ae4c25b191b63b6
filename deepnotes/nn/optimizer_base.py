"""The base class of optimizers, and the check of what the ``update`` of a user's own one returns."""

from collections.abc import Mapping
from typing import Any

from deepnotes.equations.array import Array
from deepnotes.equations.ops import Ops
from deepnotes.nn.protocols import LayoutLike
from deepnotes.nn.schedules import Rate
from deepnotes.utils.arguments import number, true_or_false
from deepnotes.utils.errors import ArgumentError
from deepnotes.utils.wording import as_call


class Optimizer:
    """The base class of optimizers; derive from it and define ``learning_rate``, ``slots`` and ``update``."""

    learning_rate: Rate

    @property
    def slots(self) -> tuple[str, ...]:
        """The names of the buffers that are kept between updates; each has the shape of θ."""
        return ()

    def initial_slots(self, layout: LayoutLike) -> tuple[Any, ...]:
        """Return the initial value of each slot: a number, or an array of shape (p,). By default all are 0.

        Parameters
        ----------
        layout : Layout
            The parameters of the network; ``layout.size`` is p.
        """
        return (0.0,) * len(self.slots)

    def scalars(self, step: Any, rate: Any) -> dict[str, Any]:
        """Return the scalars that update number `step` uses, such as the learning rate, by name.

        Parameters
        ----------
        step : int or ndarray of int64
            The number of the update, counted from 1.
        rate : float or ndarray of float64
            The learning rate of the update. If `step` and `rate` are arrays of the same shape, each scalar is returned
            as an array, for all these updates.
        """
        return {"rate": rate}

    def update(
        self, ops: Ops, theta: Array, g: Array, slots: tuple[Array, ...], decays: Array, scalars: Mapping[str, Any]
    ) -> tuple[Array, tuple[Array, ...]]:
        """Return the next θ and slots.

        Parameters
        ----------
        theta : Array, shape (p,)
            All parameters.
        g : Array, shape (p,)
            The gradient of the cost.
        slots : tuple of Array, shape (p,)
        decays : Array, shape (p,)
            1 for the parameters to which weight decay applies (weights), 0 for the others (biases).
        scalars : mapping
            The result of :meth:`scalars`, as numbers or 0-d arrays.
        """
        raise NotImplementedError

    def update_statistics(
        self, ops: Ops, theta: Array, changes: Array, slots: tuple[Array, ...], scalars: Mapping[str, Any]
    ) -> tuple[Array, tuple[Array, ...]]:
        """Return the next statistics, ``theta - changes``, and their slots, by default unchanged.

        Statistics are parameters that are not trained, such as the running mean of
        :class:`~deepnotes.nn.layers.BatchNorm`. There are s of them.

        Parameters
        ----------
        theta, changes : Array, shape (s,)
        slots : tuple of Array, shape (s,)
        scalars : mapping
            As for :meth:`update`.
        """
        return theta - changes, slots

    def for_layout(self, layout: LayoutLike) -> "Optimizer":
        """Return the optimizer of a network with this layout: by default itself.

        An optimizer whose update depends on the shapes of the parameters, or on their places in θ, overrides it.

        Parameters
        ----------
        layout : Layout
            Its `entries` have the slice and the shape of each parameter.
        """
        return self

    def _check(self, name: str, **limits: Any) -> None:
        """Validate a hyperparameter and convert it to a Python number; a NumPy number could change the dtype of θ."""
        object.__setattr__(self, name, number(name, getattr(self, name), **limits))

    def _check_option(self, name: str) -> None:
        """Validate an option that is True or False."""
        object.__setattr__(self, name, true_or_false(name, getattr(self, name)))

    def __repr__(self) -> str:
        return as_call(self)


def updated_by(
    optimizer: Optimizer,
    ops: Ops,
    theta: Array,
    g: Array,
    slots: tuple[Array, ...],
    decays: Array,
    scalars: Mapping[str, Any],
) -> tuple[Array, tuple[Array, ...]]:
    """Return the result of ``optimizer.update``.

    Raises
    ------
    ArgumentError
        If it is not a pair of the next θ and a tuple of the next slots.
    """
    result: Any = optimizer.update(ops, theta, g, slots, decays, scalars)
    if not (isinstance(result, tuple | list) and len(result) == 2 and isinstance(result[1], tuple | list)):
        name = type(optimizer).__name__
        raise ArgumentError(
            f"{name}.update returned {_described(result)}, wanted two values: the next theta, and a tuple of the next "
            "slots, () if there are none"
        )
    if len(result[1]) != len(optimizer.slots):
        raise ArgumentError(
            f"{type(optimizer).__name__}.update: the number of slots returned is {len(result[1])}, wanted "
            f"{len(optimizer.slots)}, as in its attribute slots, {optimizer.slots!r}"
        )
    return result[0], tuple(result[1])


def _described(result: Any) -> str:
    kind = "an array" if hasattr(result, "shape") else f"a {type(result).__name__}"
    return f"{kind} of {len(result)} values" if isinstance(result, tuple | list) else kind
