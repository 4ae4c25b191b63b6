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

    An error in one callback ends the training, but only after all callbacks were called for the same chunk or epoch:
    each of them must have seen all updates that a checkpoint records.

    Attributes
    ----------
    saves : bool
        Whether the callback writes checkpoints. If so, SIGTERM ends the training only after the current chunk.
    """

    saves = False

    def on_start(self, training: "Training") -> None:
        """Called once, before anything changes; raise an error to refuse the training."""

    def on_ready(self, training: "Training") -> None:
        """Called once, before the first update; the last callback first, since it may restore a checkpoint."""

    def on_chunk(self, training: "Training") -> None:
        """Called after each chunk of batches, about ten times a second."""

    def on_epoch(self, training: "Training") -> None:
        """Called after each epoch; set ``training.stop = True`` to end the training.

        If the training is resumed from a checkpoint, it goes on. To prevent this, a callback remembers that it ended
        the training, and sets ``training.stop`` in :meth:`on_ready` as well.
        """

    def on_end(self, training: "Training") -> None:
        """Called once at the end, even after an error, if ``on_start`` succeeded; the last callback first."""

    def memory(self) -> dict[str, Any]:
        """Return the values of this callback that a checkpoint stores: JSON values and NumPy arrays, by name.

        Use arrays for lists of numbers that grow. A training can be resumed only with callbacks of the same classes and
        arguments, as far as they define this method. Arguments are compared by the attributes of the same names, or by
        the result of the callback's own ``fingerprint()``.
        """
        return {}

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Restore the values that :meth:`memory` returned; called after ``on_start``."""


@dataclass
class Position:
    """The position of a training within its epochs. Together with the state, it determines all further updates.

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
        The memory of the schedule of the learning rate.
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
        The training data, and the data to evaluate on after each epoch; `held_out` may be None.
    batch_size, epochs : int
        As passed to ``fit``.
    rng : Generator or None
        Draws a new order of the samples for each epoch; if None, their order stays the same.
    callbacks : list of Callback
    watched : tuple of str
        The names of the figures that are available after each epoch.
    history : History
    state : State
        The parameters, slots and number of updates; available from ``on_ready`` on.
    epoch : int
        The current epoch, counted from 1; in ``on_epoch``, the epoch that has just ended.
    position : Position
        The position within the epoch.
    step, steps : int
        The number of updates made so far in this training, and the total number.
    loss : float
        The mean loss of the epoch so far.
    at_rest : bool
        Whether these attributes and the memories of the callbacks belong to the same moment, and can be a checkpoint.
        False during updates, and after an error in a callback that has seen half of a chunk or epoch.
    stop : bool
        Set it to True to end the training after the epoch. It is not part of checkpoints: a training that is resumed
        goes on unless a callback sets it again, as :class:`EarlyStopping` does.
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
    position: Position = field(default_factory=Position)
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
