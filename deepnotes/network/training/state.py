"""A training under way, and the base class of the callbacks that watch it."""

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
    """The base class of what is called while training; derive from it and give what is needed.

    An error in one callback ends the training once all of them were called for the same chunk or epoch, so that none
    misses what a checkpoint says is done.

    Attributes
    ----------
    saves : bool
        Whether it writes the training to files, so that an end by SIGTERM is worth waiting for.
    """

    saves = False

    def on_start(self, training: "Training") -> None:
        """Be called once, before anything changes; raise an error to refuse the training."""

    def on_ready(self, training: "Training") -> None:
        """Be called once, before the first update; the last callback comes first, since it may restore a checkpoint."""

    def on_chunk(self, training: "Training") -> None:
        """Be called after each chunk of batches, some ten times a second."""

    def on_epoch(self, training: "Training") -> None:
        """Be called after each epoch; ``training.stop = True`` ends this run of the training.

        A resumed training goes on. A callback that wants it ended for good sets ``training.stop`` in :meth:`on_ready`,
        from what it remembers.
        """

    def on_end(self, training: "Training") -> None:
        """Be called once at the end, whatever it is, if ``on_start`` raised no error; the last callback comes first."""

    def memory(self) -> dict[str, Any]:
        """Return what a checkpoint has to keep of this callback: JSON values and NumPy arrays, by name.

        Growing lists of numbers belong into an array. A callback with a memory is a part of the training: to resume,
        its class and the arguments of its constructor must be the same (attributes of the same names, or what its own
        ``fingerprint()`` returns).
        """
        return {}

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Go on, after ``on_start``, from what :meth:`memory` once returned."""


@dataclass
class Position:
    """Where in its epochs a training is, beside the state that updates change.

    Attributes
    ----------
    order : ndarray of int64 or None
        The samples in the order of the epoch under way; None between epochs.
    done : int
        How many of them were trained on.
    sums : (float, float)
        Of the epoch's losses and weights so far.
    seconds : float
        That the epoch has taken so far.
    rate : float
        That of the last update.
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
    """A training under way, as callbacks see it.

    Attributes
    ----------
    network : Network
    plan : Plan
    data, held_out : Data
        What is trained on, and what is evaluated after each epoch, if anything is.
    batch_size, epochs : int
        As they were asked for.
    rng : Generator or None
        Draws the order of the samples, anew each epoch; None keeps their order.
    callbacks : list of Callback
    watched : tuple of str
        The names of the figures that there will be after each epoch.
    history : History
    state : State
        The parameters, slots and number of updates; there from the first chunk on.
    epoch : int
        The one under way, counted from 1; in ``on_epoch`` the one just finished.
    at : Position
        Where in the epoch.
    step, steps : int
        Updates made so far in this training, and in all.
    loss : float
        The mean loss of the epoch so far.
    at_rest : bool
        Whether everything here, and what callbacks remember, is of the same moment: not while updates are made, nor
        after an error has left a callback with half of an epoch or chunk.
    stop : bool
        Set it to end this run after the epoch. Checkpoints do not keep it: a training that is resumed goes on, unless
        a callback sets it again, as :class:`EarlyStopping` does.
    per_chunk : int
        Updates of the next chunk.
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
        """How many there are to train on."""
        return self.data.X.shape[1]

    @property
    def steps(self) -> int:
        """Updates in all."""
        return self.epochs * -(-self.samples // self.batch_size)
