"""Program: what runs training steps, and what goes in and comes out."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np

from deepnotes.equations.array import Array
from deepnotes.nn.steps import Gradient


@dataclass
class State:
    """What training changes.

    Attributes
    ----------
    theta : Array, shape (p,)
        All parameters.
    slots : tuple of Array, shape (p,)
        The optimizer's.
    step : int
        The number of updates made so far.
    """

    theta: Array
    slots: tuple[Array, ...] = ()
    step: int = 0


class Data(NamedTuple):
    """Samples on the backend: X of shape (n[0], samples), Y of (k, samples), sample weights of (1, samples)."""

    X: Array
    Y: Array
    w: Array | None = None


class Chunk(NamedTuple):
    """What came of a chunk of batches.

    Attributes
    ----------
    loss_sum, weight_sum : float
        Their ratio is the mean loss over the samples of the chunk, and of those that `sums` stood for.
    steps : int
        Updates made: all of them, or those before the first whose cost or gradient is not finite.
    cost : float
        That of the last batch tried, finite or not.
    """

    loss_sum: float
    weight_sum: float
    steps: int
    cost: float


Sums: TypeAlias = tuple[float, float]
"""Of losses and weights, so far: the next batch's are added to them, so that no sum depends on where a chunk ends."""


class Program(Protocol):
    """A training step made ready to run, many times."""

    def train(
        self,
        state: State,
        data: Data,
        order: np.ndarray,
        batch_size: int,
        rates: np.ndarray,
        sums: Sums = (0.0, 0.0),
    ) -> Chunk:
        """Make one update per mini-batch, and change `state`.

        Parameters
        ----------
        state : State
        data : Data
        order : ndarray of int64
            Indices of samples, valid ones; each `batch_size` in turn are a batch, the last may be smaller.
        batch_size : int
        rates : ndarray of float64
            The learning rate of each update.
        sums : (float, float)
            What the losses and the weights of the batches are added to.

        Returns
        -------
        Chunk
            Stopped before the first update whose cost or gradient is not finite, the state as it was then.
        """

    def gradients(self, state: State, data: Data) -> Gradient:
        """Return the cost of all of `data` as one batch, and its gradient; `state` is not changed."""

    def update(self, state: State, g: Array, rate: float) -> None:
        """Make one update with the gradient `g`, shape (p,), and change `state`."""


CHUNK_SECONDS = 0.075
"""How long a Program is left alone: short enough for Ctrl-C and progress, long enough to cost nothing."""
