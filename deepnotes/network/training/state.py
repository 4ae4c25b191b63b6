"""The state of a running training, and the base class of callbacks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.backends.program import Data, State, Sums
from deepnotes.network.training.history import History
from deepnotes.nn.plan import Plan
from deepnotes.nn.schedules import Memory

if TYPE_CHECKING:
    from deepnotes.network.protocol import NetworkLike


class Callback:
    """The base class of callbacks; derive from it and override the methods that you need.

    An error in one callback ends the training, but only after all callbacks were called for the same chunk or epoch, so
    that each of them has seen everything that a checkpoint records as done.

    Attributes
    ----------
    saves : bool
        Whether it writes the training to files. If so, SIGTERM ends the training only after the current chunk.
    """

    saves = False

    def on_start(self, training: "Training") -> None:
        """Called once, before anything changes; raise an error to refuse the training."""

    def on_ready(self, training: "Training") -> None:
        """Called once, before the first update; the last callback comes first, since it may restore a checkpoint."""

    def on_chunk(self, training: "Training") -> None:
        """Called after each chunk of batches, about ten times a second."""

    def on_epoch(self, training: "Training") -> None:
        """Called after each epoch; ``training.stop = True`` ends this run of the training.

        If the training is resumed later, it goes on. To end it for good, a callback also sets ``training.stop`` in
        :meth:`on_ready`, from its memory.
        """

    def on_end(self, training: "Training") -> None:
        """Called once at the end, even after an error, if ``on_start`` succeeded; the last callback comes first."""

    def memory(self) -> dict[str, Any]:
        """Return the values that a checkpoint keeps for this callback: JSON values and NumPy arrays, by name.

        Lists of numbers that grow belong in an array. A callback with a memory is part of the training: to resume, its
        class and the arguments of its constructor must be the same. They are compared by the attributes of the same
        names, or by the result of its own ``fingerprint()``.
        """
        return {}

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Restore what :meth:`memory` returned earlier; called after ``on_start``."""


@dataclass
class Position:
    """The position of a training within its epochs; together with the state, it determines how training goes on.

    Attributes
    ----------
    order : ndarray of int64 or None
        The indices of the samples in the order of the current epoch; None between epochs.
    done : int
        The number of samples that the current epoch has trained on.
    sums : (float, float)
        The sums of the epoch's losses and weights so far.
    seconds : float
        The time that the epoch has taken so far.
    rate : float
        The learning rate of the last update.
    memory : mapping of str to float
        What the schedule of the learning rate remembers.
    """

    order: np.ndarray | None = None
    done: int = 0
    sums: Sums = (0.0, 0.0)
    seconds: float = 0.0
    rate: float = 0.0
    memory: Memory = field(default_factory=dict)


@dataclass
class Training:
    """A running training, as callbacks see it.

    Attributes
    ----------
    network : Network
    plan : Plan
    data, held_out : Data
        The training data, and the data to evaluate on after each epoch, or None.
    batch_size, epochs : int
        As passed to ``fit``.
    rng : Generator or None
        Draws a new order of the samples for each epoch; None keeps their order.
    callbacks : list of Callback
    watched : tuple of str
        The names of the figures that are available after each epoch.
    history : History
    state : State
        The parameters, slots and number of updates; available from ``on_ready`` on.
    epoch : int
        The current epoch, counted from 1; in ``on_epoch``, the one just finished.
    at : Position
        The position within the epoch.
    step, steps : int
        The number of updates made so far in this training, and the total number.
    loss : float
        The mean loss of the epoch so far.
    at_rest : bool
        Whether everything here, and the memories of the callbacks, belong to the same moment. False while updates are
        made, and after an error has left a callback with half of an epoch or chunk.
    stop : bool
        Set it to True to end this run after the epoch. Checkpoints do not keep it: a training that is resumed goes on,
        unless a callback sets it again, as :class:`EarlyStopping` does.
    per_chunk : int
        The number of updates in the next chunk.
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
    at: Position = field(default_factory=Position)
    step: int = 0
    loss: float = inf
    at_rest: bool = True
    stop: bool = False
    per_chunk: int = 1

    @property
    def samples(self) -> int:
        """The number of training samples."""
        return self.data.X.shape[1]

    @property
    def steps(self) -> int:
        """The total number of updates."""
        return self.epochs * -(-self.samples // self.batch_size)
