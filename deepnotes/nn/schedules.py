"""Learning-rate schedules: the learning rate as a function of the number of updates made so far.

A learning rate is a number or a schedule. The rates for a chunk of updates are computed together, on the host and in
double precision, so user-defined schedules work with every backend.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real
from typing import Any, TypeAlias, cast

from deepnotes.utils.arguments import number, true_or_false, whole
from deepnotes.utils.errors import ArgumentError

Memory: TypeAlias = Mapping[str, float]
"""The state of a schedule between epochs: numbers by name, empty before the first epoch."""


class Schedule:
    """The base class of schedules. To write one, derive from it and implement ``__call__(step)``.

    A schedule that depends on the loss implements :meth:`observe` and :meth:`adjust` as well. Their memory belongs to
    the training run, not to the schedule object, and is saved in checkpoints.
    """

    def __call__(self, step: int) -> float:
        """Return the rate of update number `step`, counted from 0."""
        raise NotImplementedError

    def rates(self, first: int, count: int) -> list[float]:
        """Return the rates of `count` updates, starting with update number `first`."""
        return [self(step) for step in range(first, first + count)]

    def observe(self, memory: Memory, value: float) -> Memory:
        """Return the memory after an epoch; by default, the memory does not change.

        Parameters
        ----------
        memory : mapping of str to float
            The memory after the previous epoch.
        value : float
            The validation loss of the epoch, or its training loss if there are no validation data.
        """
        return memory

    def adjust(self, rates: Sequence[float], memory: Memory) -> Sequence[float]:
        """Return the rates of the next updates, given the result of :meth:`rates`; by default, return that result."""
        return rates


Rate: TypeAlias = "float | Schedule"
"""A learning rate: a constant or a schedule."""


def _python_numbers(schedule: Any) -> None:
    """Convert NumPy numbers in the fields of a schedule to Python numbers: Python integers cannot overflow."""
    for field in fields(schedule):
        value = getattr(schedule, field.name)
        if isinstance(value, Real) and not isinstance(value, int | float):
            object.__setattr__(schedule, field.name, int(value) if isinstance(value, Integral) else float(value))


def _power(base: float, exponent: float) -> float:
    """Return ``base ** exponent``, or infinity on overflow; the fit loop raises an error for infinite rates."""
    try:
        return float(float(base) ** float(exponent))
    except OverflowError:
        return math.inf


@dataclass(frozen=True)
class Constant(Schedule):
    """The same rate for every update."""

    learning_rate: float

    def __post_init__(self) -> None:
        _python_numbers(self)
        number("learning_rate", self.learning_rate, positive=True)

    def __call__(self, step: int) -> float:
        """Return the rate of update number `step`, counted from 0."""
        return float(self.learning_rate)

    def rates(self, first: int, count: int) -> list[float]:
        """Return a list of `count` equal rates."""
        return [float(self.learning_rate)] * count


@dataclass(frozen=True)
class StepDecay(Schedule):
    """A rate that is reduced at regular intervals: ``learning_rate * factor ** floor(step / every)``.

    Parameters
    ----------
    learning_rate : float
    every : int
        The number of updates between two reductions.
    factor : float, default 0.1
    """

    learning_rate: float
    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        _python_numbers(self)
        number("learning_rate", self.learning_rate, positive=True)
        whole("every", self.every)
        number("factor", self.factor, positive=True)

    def __call__(self, step: int) -> float:
        """Return the rate of update number `step`, counted from 0."""
        return float(self.learning_rate * _power(self.factor, step // self.every))


@dataclass(frozen=True)
class ExponentialDecay(Schedule):
    """A rate that decays exponentially: ``learning_rate * factor ** (step / every)``.

    Parameters
    ----------
    learning_rate : float
    every : int
        The number of updates after which the rate has been multiplied by `factor`.
    factor : float, default 0.9
    """

    learning_rate: float
    every: int
    factor: float = 0.9

    def __post_init__(self) -> None:
        _python_numbers(self)
        number("learning_rate", self.learning_rate, positive=True)
        whole("every", self.every)
        number("factor", self.factor, positive=True)

    def __call__(self, step: int) -> float:
        """Return the rate of update number `step`, counted from 0."""
        return float(self.learning_rate * _power(self.factor, step / self.every))


@dataclass(frozen=True)
class CosineDecay(Schedule):
    """A linear warm-up to `learning_rate`, then half a cosine wave down to `final`.

    This is the schedule of Loshchilov and Hutter (arXiv:1608.03983) without restarts.

    Parameters
    ----------
    learning_rate : float
    steps : int
        The total number of updates, warm-up included; afterwards the rate stays at `final`.
    warmup : int, default 0
        The number of updates in the warm-up; the rate of the first update is ``learning_rate / warmup``.
    final : float, default 0.0

    Examples
    --------
    >>> rate = CosineDecay(0.1, steps=100, warmup=10)
    >>> [round(rate(step), 4) for step in (0, 9, 10, 55, 100)]
    [0.01, 0.1, 0.1, 0.05, 0.0]
    """

    learning_rate: float
    steps: int
    warmup: int = 0
    final: float = 0.0

    def __post_init__(self) -> None:
        _python_numbers(self)
        number("learning_rate", self.learning_rate, positive=True)
        whole("steps", self.steps)
        if whole("warmup", self.warmup, 0) >= self.steps:
            raise ArgumentError.of("warmup", self.warmup, f"at least 0 and less than steps={self.steps}")
        if number("final", self.final) > self.learning_rate:
            raise ArgumentError.of("final", self.final, f"between 0 and learning_rate={self.learning_rate}")

    def __call__(self, step: int) -> float:
        """Return the rate of update number `step`, counted from 0."""
        if step < self.warmup:
            rate = float(self.learning_rate) * (step + 1) / self.warmup
            return rate if rate < math.inf else self.learning_rate * ((step + 1) / self.warmup)
        progress = min(1.0, (step - self.warmup) / (self.steps - self.warmup))
        return self.final + (self.learning_rate - self.final) * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class OneCycle(Schedule):
    """A rise to `learning_rate`, then a fall far below the first rate (Smith and Topin, arXiv:1708.07120).

    This is ``OneCycleLR`` of PyTorch in two phases, without its cycle of the momentum.

    Parameters
    ----------
    learning_rate : float
        The highest rate.
    steps : int
        The total number of updates, at least 3; afterwards the rate stays the same.
    rise : float, default 0.3
        The part of the updates in which the rate rises.
    initial_factor : float, default 0.04
        The first rate as a multiple of the highest.
    final_factor : float, default 4e-6
        The last rate as a multiple of the highest.
    linear : bool, default False
        Whether the rate changes by equal differences, instead of half a cosine wave.

    Raises
    ------
    ArgumentError
        If an argument is out of its range, or `rise` is so small or large that a phase would have no update.

    Examples
    --------
    >>> rate = OneCycle(0.1, steps=101, rise=0.5, linear=True)
    >>> [round(rate(step), 4) for step in (0, 49, 100, 200)]
    [0.004, 0.099, 0.0, 0.0]
    """

    learning_rate: float
    steps: int
    rise: float = 0.3
    initial_factor: float = 0.04
    final_factor: float = 4e-6
    linear: bool = False

    def __post_init__(self) -> None:
        _python_numbers(self)
        number("learning_rate", self.learning_rate, positive=True)
        whole("steps", self.steps)
        number("rise", self.rise, positive=True, below=1)
        if not 0 < self._peak < self.steps - 1:
            wanted = f"a part of steps={self.steps} with more than 1 update, and fewer than all of them"
            raise ArgumentError.of("rise", self.rise, wanted)
        number("initial_factor", self.initial_factor, positive=True, most=1)
        number("final_factor", self.final_factor, most=1)
        true_or_false("linear", self.linear)

    @property
    def _peak(self) -> float:
        """The update with the highest rate, which need not be a whole number."""
        return self.rise * self.steps - 1

    def __call__(self, step: int) -> float:
        """Return the rate of update number `step`, counted from 0."""
        if step <= self._peak:
            return self._between(self.initial_factor, 1.0, step / self._peak)
        return self._between(1.0, self.final_factor, min(1.0, (step - self._peak) / (self.steps - 1 - self._peak)))

    def _between(self, first: float, last: float, progress: float) -> float:
        weight = 1 - progress if self.linear else 0.5 * (1 + math.cos(math.pi * progress))
        return float(self.learning_rate * (last + (first - last) * weight))


@dataclass(frozen=True)
class Cyclic(Schedule):
    """A rate that rises from `lowest` to `learning_rate` and falls back, again and again (Smith, arXiv:1506.01186).

    This is ``CyclicLR`` of PyTorch without its cycle of the momentum: "triangular"; with ``factor=0.5``, "triangular2";
    with `decay`, "exp_range".

    Parameters
    ----------
    learning_rate : float
        The highest rate.
    lowest : float
        The lowest rate.
    up : int, default 2000
        The number of updates in which the rate rises.
    down : int, optional
        The number of updates in which it falls; by default `up`.
    factor : float, default 1.0
        After each cycle, the difference of the rates is multiplied by this factor.
    decay : float, default 1.0
        With each update, the difference of the rates is multiplied by this factor.

    Raises
    ------
    ArgumentError
        If an argument is out of its range.

    Examples
    --------
    >>> rate = Cyclic(0.1, 0.02, up=4, factor=0.5)
    >>> [round(rate(step), 3) for step in (0, 4, 8, 12)]
    [0.02, 0.1, 0.02, 0.06]
    """

    learning_rate: float
    lowest: float
    up: int = 2000
    down: int | None = None
    factor: float = 1.0
    decay: float = 1.0

    def __post_init__(self) -> None:
        _python_numbers(self)
        number("learning_rate", self.learning_rate, positive=True)
        if number("lowest", self.lowest, positive=True) > self.learning_rate:
            raise ArgumentError.of("lowest", self.lowest, f"above 0 and at most learning_rate={self.learning_rate}")
        whole("up", self.up)
        if self.down is not None:
            whole("down", self.down)
        number("factor", self.factor, positive=True, most=1)
        number("decay", self.decay, positive=True, most=1)

    def __call__(self, step: int) -> float:
        """Return the rate of update number `step`, counted from 0."""
        down = self.up if self.down is None else self.down
        cycle, position = divmod(step, self.up + down)
        height = position / self.up if position <= self.up else (self.up + down - position) / down
        amplitude = (self.learning_rate - self.lowest) * _power(self.factor, cycle) * _power(self.decay, step)
        return float(self.lowest + height * amplitude)


@dataclass(frozen=True)
class InverseScaling(Schedule):
    """The rate ``learning_rate / (step + 1) ** power``: the schedule "invscaling" of scikit-learn."""

    learning_rate: float
    power: float = 0.5

    def __post_init__(self) -> None:
        _python_numbers(self)
        number("learning_rate", self.learning_rate, positive=True)
        number("power", self.power, positive=True)

    def __call__(self, step: int) -> float:
        """Return the rate of update number `step`, counted from 0."""
        return float(self.learning_rate / _power(step + 1, self.power))


@dataclass(frozen=True)
class ReduceOnPlateau(Schedule):
    """A learning rate that is reduced when the loss stops improving.

    Parameters
    ----------
    learning_rate : float or Schedule
        The rate to reduce.
    factor : float, default 0.1
        The factor by which each reduction multiplies the rate, between 0 and 1.
    patience : int, default 10
        The number of epochs without improvement to wait before each reduction.
    min_delta : float, default 1e-4
        The loss must decrease by more than this fraction of the lowest loss so far to count as an improvement.
    min_rate : float, default 0.0
        Reductions do not lower the rate below this value. It must not exceed `learning_rate` if that is a number.

    Raises
    ------
    ArgumentError
        If an argument is out of its range.

    Notes
    -----
    The memory consists of the fields of a :class:`Plateau`.
    """

    learning_rate: Rate
    factor: float = 0.1
    patience: int = 10
    min_delta: float = 1e-4
    min_rate: float = 0.0

    def __post_init__(self) -> None:
        _python_numbers(self)
        schedule = as_schedule(self.learning_rate)
        number("factor", self.factor, positive=True, below=1)
        whole("patience", self.patience, 0)
        number("min_delta", self.min_delta)
        lowest = number("min_rate", self.min_rate)
        if isinstance(schedule, Constant) and lowest > schedule.learning_rate:
            raise ArgumentError.of("min_rate", self.min_rate, f"between 0 and learning_rate={schedule.learning_rate}")

    def __call__(self, step: int) -> float:
        """Return the rate of update number `step`, counted from 0, before any reduction."""
        return as_schedule(self.learning_rate)(step)

    def observe(self, memory: Memory, value: float) -> Memory:
        """Return the memory after an epoch with the loss `value`."""
        return asdict(self._after(Plateau(**cast(Any, memory)), value))

    def adjust(self, rates: Sequence[float], memory: Memory) -> Sequence[float]:
        """Return the rates multiplied by the scale in `memory`, but no rate is reduced below `min_rate`."""
        scale = Plateau(**cast(Any, memory)).scale
        return [max(rate * scale, min(rate, self.min_rate)) for rate in map(float, rates)]

    def _after(self, plateau: "Plateau", value: float) -> "Plateau":
        """Return the state after an epoch with the loss `value`, given the state before that epoch."""
        if value < plateau.best - self.min_delta * abs(plateau.best) or math.isinf(plateau.best):
            return Plateau(value, 0, plateau.scale)
        if plateau.waited < self.patience:
            return Plateau(plateau.best, plateau.waited + 1, plateau.scale)
        return Plateau(plateau.best, 0, plateau.scale * self.factor)


@dataclass(frozen=True)
class Plateau:
    """The state of :class:`ReduceOnPlateau` between epochs.

    Attributes
    ----------
    best : float
        The lowest loss so far.
    waited : int
        The number of epochs without improvement since the lowest loss or the last reduction.
    scale : float
        The product of the factors of all reductions so far.
    """

    best: float = math.inf
    waited: int = 0
    scale: float = 1.0


WHOLE_RUN: dict[str, Callable[[float, int], Schedule]] = {
    "cosine": lambda rate, steps: CosineDecay(rate, steps, warmup=steps // 20),
    "one-cycle": lambda rate, steps: OneCycle(rate, max(steps, 4)),
    "cyclic": lambda rate, steps: Cyclic(rate, rate / 4, up=math.ceil(steps / 8)),
}
"""Functions that return a schedule for a whole training run, given the highest rate and the total number of updates.

``cyclic`` has four cycles, from a quarter of the rate, both of which Smith (arXiv:1506.01186) recommends.
"""


def as_schedule(rate: Rate) -> Schedule:
    """Return a :class:`Constant` schedule for a number; a schedule is returned unchanged.

    Raises
    ------
    ArgumentError
        If `rate` is neither a schedule nor a finite number above 0.
    """
    return rate if isinstance(rate, Schedule) else Constant(rate)
