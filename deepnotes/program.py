"""Program: what runs training steps. The eager one needs nothing but the namespace; a backend may compile its own."""

from dataclasses import dataclass
from math import isfinite, sqrt
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np

from deepnotes.array import Array
from deepnotes.backend import Backend
from deepnotes.plan import Plan
from deepnotes.steps import Gradient, gradient_step, update_step


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


class EagerProgram:
    """The Program that interprets a plan, equation by equation, on any backend.

    Parameters
    ----------
    backend : Backend
    plan : Plan
    """

    def __init__(self, backend: Backend, plan: Plan) -> None:
        self.backend, self.plan, self.ops = backend, plan, backend.ops
        largest = float(np.finfo(plan.dtype).max)
        self.safe = 1e-4 * largest  # no optimizer makes of less what overflows
        self.safe_norm = 1e-6 * sqrt(largest)  # nor, where it sums up squares, of gradients of less
        self.decays = backend.from_numpy(plan.layout.decays().astype(plan.dtype))

    def train(
        self,
        state: State,
        data: Data,
        order: np.ndarray,
        batch_size: int,
        rates: np.ndarray,
        sums: Sums = (0.0, 0.0),
    ) -> Chunk:
        """Make one update per mini-batch; see :meth:`Program.train`."""
        (loss_sum, weight_sum), cost = sums, 0.0
        for made, rate in enumerate(rates.tolist()):
            batch = self.batch(data, order[made * batch_size : (made + 1) * batch_size])
            gradient = self.gradients(state, batch)
            cost, weight = float(gradient.cost), float(gradient.weight)
            norm = self._norm(gradient)
            if not isfinite(cost) or not isfinite(norm):
                return Chunk(loss_sum, weight_sum, made, cost)
            clipped = min(norm, self.plan.clip_norm or norm)
            if rate * max(norm, 1.0) < self.safe and clipped < self.safe_norm:
                self.update(state, gradient.flat, rate)
            elif not self._careful_update(state, gradient.flat, rate):
                return Chunk(loss_sum, weight_sum, made, cost)
            loss_sum += cost * weight
            weight_sum += weight
        return Chunk(loss_sum, weight_sum, len(rates), cost)

    def _norm(self, gradient: Gradient) -> float:
        """Return the norm of a gradient, or its largest element where the square overflows, or NaN or infinity."""
        square = float(gradient.square)
        return sqrt(square) if isfinite(square) else float(self.ops.xp.max(abs(gradient.flat)))

    def _careful_update(self, state: State, g: Array, rate: float) -> bool:
        """Make an update so large that parameters or slots may overflow; return whether none did, or take it back."""
        before = [np.array(self.backend.to_numpy(a)) for a in (state.theta, *state.slots)]
        self.update(state, g, rate)
        after = (state.theta, *state.slots)
        if all(isfinite(float(self.ops.xp.max(abs(a)))) for a in after):
            return True
        theta, *slots = [
            self.backend.write(a, 0, self.backend.from_numpy(b)) for a, b in zip(after, before, strict=True)
        ]
        state.theta, state.slots, state.step = theta, tuple(slots), state.step - 1
        return False

    def batch(self, data: Data, indices: np.ndarray) -> Data:
        """Return the samples at `indices`, shape (m,)."""
        chosen = self.backend.from_numpy(indices)
        return Data(*(None if a is None else self.ops.gather(a, chosen) for a in data))  # type: ignore[arg-type]

    def gradients(self, state: State, data: Data) -> Gradient:
        """Return the cost and gradient of `data` as one batch; see :meth:`Program.gradients`."""
        step = self.ops.xp.asarray(state.step, dtype=self.ops.xp.int64)
        return gradient_step(self.ops, self.plan, state.theta, self.decays, step, *data)

    def update(self, state: State, g: Array, rate: float) -> None:
        """Make one update; see :meth:`Program.update`."""
        scalars = self.plan.optimizer.scalars(state.step + 1, rate)
        theta, slots = update_step(self.ops, self.plan, state.theta, self.decays, g, state.slots, scalars)
        state.theta = self.backend.write(state.theta, 0, theta)
        state.slots = tuple(self.backend.write(old, 0, new) for old, new in zip(state.slots, slots, strict=True))
        state.step += 1
