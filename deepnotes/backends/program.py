"""Program: the interface for running the training steps of a plan, and the types of their inputs and results."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np

from deepnotes.equations.array import Array
from deepnotes.nn.steps import Gradient


@dataclass
class State:
    """The values that training changes.

    Attributes
    ----------
    theta : Array, shape (p,)
        All parameters.
    slots : tuple of Array, shape (p,)
        The optimizer's buffers.
    step : int
        The number of updates made so far.
    """

    theta: Array
    slots: tuple[Array, ...] = ()
    step: int = 0


class Data(NamedTuple):
    """Samples X of shape (n[0], m), targets Y of shape (k, m) or (1, m), and weights w of shape (1, m), if any.

    Each of them is an array of the backend or a :class:`~deepnotes.backends.Samples` object of the same shape. A
    Program gets Samples only if their attribute ``read_by_programs`` is true.
    """

    X: Array
    Y: Array
    w: Array | None = None


Sums: TypeAlias = tuple[float, float]
"""The sum of the losses and the sum of the weights. Each batch is added in turn, so chunk boundaries do not matter."""


class Chunk(NamedTuple):
    """The result of training on a chunk of batches.

    Attributes
    ----------
    loss_sum, weight_sum : float
        The sums of the losses and weights of this chunk and of the earlier chunks of the epoch. Their ratio is the mean
        loss.
    steps : int
        The number of updates made. Training stops before the first update whose cost or gradient is not finite.
    cost : float
        The cost of the last batch, even if no update was made for it. NaN or infinity if this cost ended training.
    """

    loss_sum: float
    weight_sum: float
    steps: int
    cost: float

    @property
    def sums(self) -> Sums:
        """The sums of losses and weights, to which those of the next chunk are added."""
        return self.loss_sum, self.weight_sum

    @property
    def mean_loss(self) -> float:
        """The weighted mean of the losses; 0 if all weights are 0."""
        return self.loss_sum / self.weight_sum if self.weight_sum else 0.0


class Batches(NamedTuple):
    """The mini-batches of one call of :meth:`Program.train`.

    Attributes
    ----------
    data : Data
    order : ndarray of int64, shape (k,)
        The indices of the samples, all valid, batch after batch. Each batch has `batch_size` indices, but the last
        may have fewer.
    batch_size : int
    rates : ndarray of float64, shape (updates,)
        The learning rate of each update. There is one update per batch.
    sums : (float, float)
        The sums to which the losses and weights of the batches are added.
    """

    data: Data
    order: np.ndarray
    batch_size: int
    rates: np.ndarray
    sums: Sums = (0.0, 0.0)

    def first(self, updates: int) -> "Batches":
        """Return the batches of the first `updates` updates."""
        return self._replace(order=self.order[: updates * self.batch_size], rates=self.rates[:updates])

    def after(self, chunk: Chunk) -> "Batches":
        """Return the batches that remain after the updates of `chunk`; their sums start with those of `chunk`."""
        return self._replace(
            order=self.order[chunk.steps * self.batch_size :], rates=self.rates[chunk.steps :], sums=chunk.sums
        )


class Shard(NamedTuple):
    """A part of a batch whose gradient is computed alone.

    Attributes
    ----------
    indices : ndarray of int64, shape (k,)
        The indices of its samples, all valid.
    first_sample : int
        The position of its first sample in the batch.
    samples : int
        The number of samples of the batch.
    """

    indices: np.ndarray
    first_sample: int
    samples: int

    @property
    def share(self) -> float:
        """The share of the batch's samples that are in the shard."""
        return len(self.indices) / self.samples


class Program(Protocol):
    """A training step that is ready to run many times."""

    def train(self, state: State, batches: Batches) -> Chunk:
        """Make one update per mini-batch, and change `state`.

        Parameters
        ----------
        state : State
        batches : Batches

        Returns
        -------
        Chunk
            If a cost or gradient is not finite, training stops before that update, and `state` does not include it.
        """

    def gradients(self, state: State, data: Data) -> Gradient:
        """Return the cost of all of `data` as one batch, and its gradient; `state` is not changed."""

    def update(self, state: State, g: Array, rate: float) -> None:
        """Make one update with the gradient `g`, shape (p,), and change `state`."""


@runtime_checkable
class EpochProgram(Program, Protocol):
    """A Program that also trains for several epochs in one call.

    This is worthwhile if epochs are so short that the time between two calls matters.
    """

    def train_epochs(self, state: State, batches: Batches) -> list[Chunk]:
        """Make the updates of several epochs, as :meth:`Program.train` does for one after the other.

        Parameters
        ----------
        state : State
        batches : Batches
            With one row for each epoch: `order` has the shape (epochs, k) and `rates` the shape (epochs, updates). Its
            `sums` are (0.0, 0.0), and the sums of each epoch start with 0.

        Returns
        -------
        list of Chunk
            One for each epoch. If a cost or gradient is not finite, the last one is that of the epoch in which training
            stops, and there are none for the epochs after it.
        """


CHUNK_SECONDS = 0.075
"""The intended duration of a call of ``train``, in seconds.

It is short enough for Ctrl-C to act promptly and for the progress bar to move smoothly, and long enough for the
overhead of a call not to matter.
"""
