"""A factor on the learning rate of each layer, as a further slot of the optimizer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deepnotes.equations.array import Array
from deepnotes.equations.ops import Ops
from deepnotes.nn.optimizer_base import Optimizer, updated_by
from deepnotes.nn.optimizers import Wrapper
from deepnotes.nn.plan import Layout, slots_at_start
from deepnotes.nn.protocols import LayoutLike
from deepnotes.utils.arguments import number
from deepnotes.utils.errors import ArgumentError
from deepnotes.utils.wording import brief

MOST = 100.0
"""The largest factor. Programs foresee an overflow from the rate and the gradient of an update, without the factor."""


@dataclass(frozen=True)
class LayerRates(Wrapper):
    """An optimizer with a further slot, the factor on the learning rate of each parameter, which never changes.

    Parameters
    ----------
    optimizer : Optimizer
    rates : tuple of (int, float)
        The number of a layer, as in ``W1``, and its factor; see :func:`as_layer_rates`.
    """

    rates: tuple[tuple[int, float], ...]

    @property
    def slots(self) -> tuple[str, ...]:
        """The slots of the optimizer, and ``factor``."""
        return (*self.optimizer.slots, "factor")

    def initial_slots(self, layout: LayoutLike) -> tuple[Any, ...]:
        """Return the initial slots of the optimizer, and the factor of each parameter, shape (p,)."""
        return (*slots_at_start(self.optimizer, layout), layout.by_layer(dict(self.rates), 1.0))

    def update(
        self, ops: Ops, theta: Array, g: Array, slots: tuple[Array, ...], decays: Array, scalars: Mapping[str, Any]
    ) -> tuple[Array, tuple[Array, ...]]:
        """Return the next θ and slots; shapes as in :meth:`Optimizer.update`."""
        *own, factor = slots
        updated, after = updated_by(self.optimizer, ops, theta, g, tuple(own), decays, scalars)
        return ops.scaled_step(theta, updated, factor), (*after, factor)

    def update_statistics(
        self, ops: Ops, theta: Array, changes: Array, slots: tuple[Array, ...], scalars: Mapping[str, Any]
    ) -> tuple[Array, tuple[Array, ...]]:
        """Return the next statistics, whatever the factors; see :meth:`Optimizer.update_statistics`."""
        *own, factor = slots
        theta, after = self.optimizer.update_statistics(ops, theta, changes, tuple(own), scalars)
        return theta, (*after, factor)


def as_layer_rates(optimizer: Optimizer, rates: Any, layout: Layout) -> Optimizer:
    """Return an optimizer whose learning rate is multiplied by ``rates[1]`` for the first layer with parameters, etc.

    Raises
    ------
    ArgumentError
        If `rates` is not a mapping of numbers of layers that have parameters to factors from 0 to `MOST`.
    """
    if not isinstance(rates, Mapping):
        raise ArgumentError.of("layer_rates", rates, "a mapping such as {1: 0, 2: 0.1}")
    names: dict[int, list[str]] = {}
    for name in layout.in_order:
        names.setdefault(layout.entries[name].number, []).append(name)
    for layer in rates:
        if isinstance(layer, bool) or layer not in names:
            have = ", ".join(f"{i} ({', '.join(parameters)})" for i, parameters in names.items())
            raise ArgumentError(
                f"layer_rates: got {brief(repr(layer))}, wanted the numbers of layers that have parameters: {have}"
            )
    factors = {int(i): number(f"layer_rates[{i}]", factor, most=MOST) for i, factor in rates.items()}
    return LayerRates(optimizer, tuple(sorted(factors.items())))
