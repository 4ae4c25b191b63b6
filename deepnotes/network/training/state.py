"""The state of a training run, and the base class of callbacks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.backends.program import Data, State, Sums
from deepnotes.network.distributed.ranks import Ranks, SingleRank
from deepnotes.network.training.history import History
from deepnotes.nn.averaging import Averaged
from deepnotes.nn.plan import Plan
from deepnotes.nn.schedules import Memory

if TYPE_CHECKING:
    from deepnotes.network.protocol import NetworkLike


class Callback:
    """The base class of callbacks; derive from it and override the methods that you need.

    An error in one callback ends training, but only after the other callbacks were called for the same chunk or
    epoch: a checkpoint may be written only if all callbacks have seen the same updates.

    Attributes
    ----------
    saves : bool
        Whether the callback writes checkpoints. If so, SIGTERM ends the training only after the current chunk.
    every_epoch : bool
        Whether :meth:`on_epoch`, if overridden, must be called after each epoch. If no callback needs that, several
        short epochs may be trained at once, and :meth:`on_epoch` is called after the last of them only. See also
        :meth:`next_epoch`.
    every_rank : bool
        Whether each of the processes that share a training run calls the callback (see the argument `ranks` of
        :meth:`deepnotes.Network.fit`), or only rank 0, as for a callback that only shows or writes something. Rank 0
        alone calls a callback that writes checkpoints.
    """

    saves = False
    every_epoch = True
    every_rank = True

    def on_start(self, training: "Training") -> None:
        """Called once, before anything changes; raise an error to refuse to train."""

    def on_ready(self, training: "Training") -> None:
        """Called once before the first update, last callback first, because the last one may restore a checkpoint."""

    def on_chunk(self, training: "Training") -> None:
        """Called after each chunk of batches, about ten times a second."""

    def on_epoch(self, training: "Training") -> None:
        """Called after each epoch; set ``training.stop = True`` to end training.

        A checkpoint does not contain ``training.stop``, so resumed training would continue. To prevent this, store in
        the :meth:`memory` that the callback has ended training, and set ``training.stop`` again in
        :meth:`on_ready`.
        """

    def next_epoch(self, training: "Training") -> float:
        """Return after how many epochs :meth:`on_epoch` has to be called next, if it is overridden.

        By default 1, or infinity if `every_epoch` is False. A callback that can do nothing before it has seen several
        epochs, for example because it waits for them without an improvement, may return a larger number. It gets their
        losses from ``training.history``.
        """
        return 1 if self.every_epoch else inf

    def on_end(self, training: "Training") -> None:
        """Called once at the end, even after an error, if ``on_start`` succeeded; last callback first."""

    def memory(self) -> dict[str, Any]:
        """Return the values that a checkpoint stores for this callback: JSON values and NumPy arrays, by name.

        Use arrays for lists of numbers that grow. The callbacks that define this method must have the same classes and
        arguments when training is resumed. The arguments are compared by the attributes of the same names or, if
        the callback has a method ``fingerprint()``, by its result.
        """
        return {}

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Restore the values that :meth:`memory` returned; called after ``on_start``."""


@dataclass
class Position:
    """The position of a training run in the current epoch. With the state, it determines all further updates.

    Attributes
    ----------
    order : ndarray of int64 or None
        The indices of the samples in the order of the current epoch; None between epochs.
    done : int
        The number of samples used so far in the epoch.
    sums : (float, float)
        The sum of the losses and the sum of the weights so far in the epoch.
    seconds : float
        The duration of the epoch so far.
    rate : float
        The learning rate of the last update.
    memory : mapping of str to float
        The memory of the learning-rate schedule.
    """

    order: np.ndarray | None = None
    done: int = 0
    sums: Sums = (0.0, 0.0)
    seconds: float = 0.0
    rate: float = 0.0
    memory: Memory = field(default_factory=dict)


@dataclass
class Training:
    """A training run, as callbacks see it.

    Attributes
    ----------
    network : Network
    plan : Plan
    data, held_out : Data
        The training data, and the data to evaluate on after each epoch; `held_out` may be None.
    batch_size, epochs : int
        As passed to ``fit``.
    rng : Generator or None
        Draws a new order of the samples for each epoch; if None, their order stays the same.
    callbacks : list of Callback
    watched : tuple of str
        The names of the losses and metrics that are available after each epoch.
    history : History
    state : State
        The parameters, slots and number of updates; available from ``on_ready`` on.
    epoch : int
        The current epoch, counted from 1; in ``on_epoch``, the epoch that has just ended.
    position : Position
        The position within the epoch.
    step, steps : int
        The number of updates made so far, including those before a checkpoint from which training was resumed, and
        the total number.
    loss : float
        The mean loss of the epoch so far.
    at_rest : bool
        Whether a checkpoint can be written: these attributes and the memories of all callbacks reflect the same
        updates. False during updates, and after an error in a callback, whose memory may then be incomplete.
    stop : bool
        Set it to True to end training after the epoch. It is not part of checkpoints: resumed training continues
        unless a callback sets it again, as :class:`EarlyStopping` does.
    per_chunk : int
        The number of updates in the next chunk.
    ranks : Ranks
        The processes that share the training run.
    shards : int or None
        The number of shards of a batch; None if batches are not divided.
    accumulate : int
        As passed to ``fit``: the number of batches whose gradients make one update.
    """

    network: "NetworkLike"
    plan: Plan
    data: Data
    held_out: Data | None
    batch_size: int
    epochs: int
    rng: "np.random.Generator | None"
    callbacks: Sequence[Callback] = ()
    watched: tuple[str, ...] = ("loss",)
    history: History = field(default_factory=History)
    state: State = field(init=False)
    epoch: int = 0
    position: Position = field(default_factory=Position)
    step: int = 0
    loss: float = inf
    at_rest: bool = True
    stop: bool = False
    per_chunk: int = 1
    ranks: Ranks = field(default_factory=SingleRank)
    shards: int | None = None
    accumulate: int = 1

    @property
    def samples(self) -> int:
        """The number of training samples."""
        return self.data.X.shape[1]

    @property
    def steps(self) -> int:
        """The total number of updates."""
        return self.epochs * -(-self.samples // self.update_size)

    @property
    def update_size(self) -> int:
        """The number of samples of an update; the last one of an epoch may have fewer."""
        return self.batch_size * self.accumulate

    @property
    def work(self) -> int:
        """A number that is roughly proportional to the duration of the training run, to compare it with others."""
        return self.epochs * self.samples * self.plan.layout.decaying

    @property
    def averages(self) -> np.ndarray | None:
        """A host copy of the averages of the parameters, shape (p,); None if there are none, or not yet."""
        optimizer = self.plan.optimizer
        if not isinstance(optimizer, Averaged) or self.state.step < optimizer.weights.first:
            return None
        return np.array(self.network.backend.to_numpy(self.state.slots[-1]))

    def flat(self) -> np.ndarray:
        """Return a host copy of the parameters that training would end with: the averages, if there are any."""
        averages = self.averages
        return self.network.flat() if averages is None else averages

    def use_averages(self) -> None:
        """Set the parameters of the network to their averages, if there are any."""
        averages = self.averages
        if averages is not None:
            self.network.set_flat(averages)


def with_averages(training: Training, evaluate: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Return the result of `evaluate` for the averages of the parameters, if there are any."""
    theta = training.network.flat()
    try:
        training.use_averages()
        return evaluate()
    finally:
        training.network.set_flat(theta)
