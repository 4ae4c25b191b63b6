"""Averages of the parameters over the updates of a training run, as further slots of the optimizer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deepnotes.equations.array import Array
from deepnotes.equations.ops import Ops
from deepnotes.nn.optimizer_base import updated_by
from deepnotes.nn.optimizers import Wrapper
from deepnotes.nn.plan import slots_at_start
from deepnotes.nn.protocols import LayoutLike
from deepnotes.utils.arguments import number, whole


class WeightAverage:
    """The base class of averages of the parameters. To write one, derive from it and implement ``share``.

    After update number t, ``average ← average + share(t) (θ - average)``. The share of the first update that counts
    must be 1.
    """

    def share(self, step: Any) -> Any:
        """Return the share of the parameters after update number `step`, counted from 1, in the average.

        Parameters
        ----------
        step : int or ndarray of int64
            If it is an array, the shares are an array of the same shape.
        """
        raise NotImplementedError

    @property
    def first(self) -> int:
        """The number of the first update that counts."""
        return 1


@dataclass(frozen=True)
class EMA(WeightAverage):
    """The exponential moving average of the parameters (B. T. Polyak and A. B. Juditsky, 1992; arXiv:1703.01780).

    Parameters
    ----------
    decay : float, default 0.999
        The average is multiplied by `decay` before ``1 - decay`` times the parameters are added; it begins with the
        parameters after the first update. It is an average over about ``1 / (1 - decay)`` updates.

    Raises
    ------
    ArgumentError
        If `decay` is not between 0 and 1.

    Examples
    --------
    >>> [EMA(0.9).share(step) for step in (1, 2)]
    [1.0, 0.09999999999999998]
    """

    decay: float = 0.999

    def __post_init__(self) -> None:
        object.__setattr__(self, "decay", number("decay", self.decay, below=1))

    def share(self, step: Any) -> Any:
        """Return 1 for the first update, else ``1 - decay``."""
        is_first = 1.0 * (step == 1)
        return is_first + (1 - is_first) * (1 - self.decay)


@dataclass(frozen=True)
class SWA(WeightAverage):
    """The mean of the parameters over late updates: stochastic weight averaging (arXiv:1803.05407).

    Parameters
    ----------
    start : int
        The number of the first update that counts, from 1. If training ends before, the parameters are not averaged.
    every : int, default 1
        The number of updates between two that count, such as the number of batches in an epoch.

    Raises
    ------
    ArgumentError
        If an argument is not a whole number of at least 1.

    Examples
    --------
    >>> [SWA(10, every=5).share(step) for step in (9, 10, 11, 15)]
    [0.0, 1.0, 0.0, 0.5]
    """

    start: int
    every: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", whole("start", self.start))
        object.__setattr__(self, "every", whole("every", self.every))

    def share(self, step: Any) -> Any:
        """Return one divided by the number of updates that count so far; 0 for an update that does not count."""
        counts = 1.0 * ((step >= self.start) & ((step - self.start) % self.every == 0))
        return counts / ((step - self.start) // self.every * counts + 1)

    @property
    def first(self) -> int:
        """The number of the first update that counts."""
        return self.start


@dataclass(frozen=True)
class Averaged(Wrapper):
    """An optimizer with a further slot, the average of the parameters.

    Parameters
    ----------
    optimizer : Optimizer
    weights : WeightAverage
    """

    weights: WeightAverage

    @property
    def slots(self) -> tuple[str, ...]:
        """The slots of the optimizer, and ``average``."""
        return (*self.optimizer.slots, "average")

    def initial_slots(self, layout: LayoutLike) -> tuple[Any, ...]:
        """Return the initial slots of the optimizer, and 0 for ``average``, which the first update that counts sets."""
        return (*slots_at_start(self.optimizer, layout), 0.0)

    def scalars(self, step: Any, rate: Any) -> dict[str, Any]:
        """Return the scalars of the optimizer, and the share of the next parameters in the average."""
        return {**self.optimizer.scalars(step, rate), "average_share": self.weights.share(step)}

    def update(
        self, ops: Ops, theta: Array, g: Array, slots: tuple[Array, ...], decays: Array, scalars: Mapping[str, Any]
    ) -> tuple[Array, tuple[Array, ...]]:
        """Return the next θ and slots; shapes as in :meth:`Optimizer.update`."""
        *own, average = slots
        theta, after = updated_by(self.optimizer, ops, theta, g, tuple(own), decays, scalars)
        return theta, (*after, ops.weight_average(average, theta, scalars["average_share"]))

    def update_statistics(
        self, ops: Ops, theta: Array, changes: Array, slots: tuple[Array, ...], scalars: Mapping[str, Any]
    ) -> tuple[Array, tuple[Array, ...]]:
        """Return the next statistics, and their average; see :meth:`Optimizer.update_statistics`."""
        *own, average = slots
        theta, after = self.optimizer.update_statistics(ops, theta, changes, tuple(own), scalars)
        return theta, (*after, ops.weight_average(average, theta, scalars["average_share"]))
