"""Training and inference on any backend, equation by equation; the backend needs only a namespace."""

from collections.abc import Sequence
from math import isfinite, sqrt
from typing import Any

import numpy as np

from deepnotes.backends.base import Backend
from deepnotes.backends.iterations import Iterations
from deepnotes.backends.program import Batches, Chunk, Data, Shard, State
from deepnotes.backends.samples import take
from deepnotes.equations.array import Array
from deepnotes.nn.full_batch import FullBatchOptimizer
from deepnotes.nn.layers import Layer
from deepnotes.nn.losses import LossFunction
from deepnotes.nn.plan import Layout, Plan
from deepnotes.nn.steps import Gradient, forward, gradient_step, sample_losses, update_step


class EagerProgram:
    """The Program that interprets a plan equation by equation, on any backend.

    Parameters
    ----------
    backend : Backend
    plan : Plan
    """

    def __init__(self, backend: Backend, plan: Plan) -> None:
        self.backend, self.plan, self.ops = backend, plan, backend.ops
        largest = float(np.finfo(plan.dtype).max)
        self.safe = 1e-4 * largest  # below this, no update can overflow
        self.safe_norm = 1e-6 * sqrt(largest)  # below this, no sum of squared gradients can overflow
        self.decays = backend.from_numpy(plan.layout.decays().astype(plan.dtype))
        optimizer = plan.optimizer
        self._iterations = Iterations(optimizer) if isinstance(optimizer, FullBatchOptimizer) else None

    def train(self, state: State, batches: Batches) -> Chunk:
        """Make one update per mini-batch; see :meth:`Program.train`."""
        if self._iterations is not None:
            with self.backend.execution_context():
                return self._iterations.update(self, state, batches)
        data, order, batch_size, rates, (loss_sum, weight_sum) = batches
        cost = 0.0
        for updates, rate in enumerate(rates.tolist()):
            gradient = self.batch_gradient(state, data, order[updates * batch_size : (updates + 1) * batch_size])
            cost, weight = float(gradient.cost), float(gradient.weight)
            norm = self._norm(gradient)
            if not isfinite(cost) or not isfinite(norm):
                return Chunk(loss_sum, weight_sum, updates, cost)
            clipped = min(norm, self.plan.clip_norm or norm)
            if rate * max(norm, 1.0) < self.safe and clipped < self.safe_norm:
                self.update(state, gradient.flat, rate)
            elif not self._careful_update(state, gradient.flat, rate):
                return Chunk(loss_sum, weight_sum, updates, cost)
            loss_sum += cost * weight
            weight_sum += weight
        return Chunk(loss_sum, weight_sum, len(rates), cost)

    def _norm(self, gradient: Gradient) -> float:
        """Return the norm of a gradient or, if its square overflows, the largest absolute value of an element.

        The result can be NaN or infinite.
        """
        square = float(gradient.square)
        return sqrt(square) if isfinite(square) else float(self.ops.xp.max(abs(gradient.flat)))

    def _careful_update(self, state: State, g: Array, rate: float) -> bool:
        """Make an update that may overflow; if it overflows, undo it and return False, else return True."""
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

    def batch_gradient(self, state: State, data: Data, indices: np.ndarray) -> Gradient:
        """Return the cost and gradient of the batch of the samples at `indices`, shape (m,).

        The next call may overwrite the arrays of the result.
        """
        return self.gradients(state, self.batch(data, indices))

    def converted(self, data: Data) -> Data:
        """Return `data` in the form that :meth:`shard_gradient` reads fastest, for many calls."""
        return data

    def shard_gradient(self, state: State, data: Data, shard: Shard) -> Array:
        """Return what a shard adds to the gradient of its batch, and to the cost.

        The results of the shards of a batch have the batch's gradient and cost as their sum. The dropout masks are
        those that the samples have in the whole batch.

        Parameters
        ----------
        state : State
        data : Data
        shard : Shard

        Returns
        -------
        Array, shape (p + 1,)
            The gradient, then the cost. The next call may overwrite it.
        """
        xp, samples = self.ops.xp, take(self.backend, data, shard.indices)
        step = xp.asarray(state.step, dtype=self.backend.integer)
        gradient = gradient_step(
            self.ops, self.plan, state.theta, self.decays, step, *samples, first_sample=shard.first_sample
        )
        cost = xp.reshape(xp.astype(gradient.cost, gradient.flat.dtype), (1,))
        return xp.concat([gradient.flat, cost]) * shard.share

    def batch(self, data: Data, indices: np.ndarray) -> Data:
        """Return the samples at `indices`, shape (m,)."""
        return take(self.backend, data, indices)

    def gradients(self, state: State, data: Data) -> Gradient:
        """Return the cost and gradient of `data` as one batch; see :meth:`Program.gradients`."""
        step = self.ops.xp.asarray(state.step, dtype=self.backend.integer)
        return gradient_step(self.ops, self.plan, state.theta, self.decays, step, *data)

    def update(self, state: State, g: Array, rate: float) -> None:
        """Make one update; see :meth:`Program.update`."""
        scalars = self.plan.optimizer.scalars(state.step + 1, rate)
        theta, slots = update_step(self.ops, self.plan, state.theta, self.decays, g, state.slots, scalars)
        state.theta = self.backend.write(state.theta, 0, theta)
        state.slots = tuple(self.backend.write(old, 0, new) for old, new in zip(state.slots, slots, strict=True))
        state.step += 1


ELEMENTS = 1 << 22
"""The largest number of outputs of the widest layer to hold in memory; larger inputs are processed in blocks."""
BLOCK_MULTIPLICATIONS = 10**10
"""The number of multiplications per block: a block takes a fraction of a second, and Ctrl-C acts between blocks."""
MIN_BLOCK = 256
"""The smallest number of samples per block: with fewer, reading the weights of a wide layer would dominate."""


class EagerInference:
    """The Inference that interprets the layers equation by equation, on any backend.

    Parameters
    ----------
    backend : Backend
    layers : sequence of Layer
    layout : Layout
    dtype : {"float32", "float64"}
    """

    def __init__(self, backend: "Backend", layers: Sequence[Layer], layout: Layout, dtype: str) -> None:
        self.backend, self.layers, self.layout, self.dtype = backend, tuple(layers), layout, dtype

    def predict(self, theta: Array, X: Array) -> Array:
        """Return the outputs; see :meth:`Inference.predict`."""
        return self._join([self._forward(theta, part)[0] for part in self._split(X)])

    def sample(self, theta: Array, X: Array, seed: int, step: int, first_sample: int = 0) -> Array:
        """Return the outputs with dropout and noise, as in this training step of a network of this seed.

        Parameters
        ----------
        theta : Array, shape (p,)
        X : Array, shape (n[0], m)
        seed, step : int
        first_sample : int, default 0
            The position of the first of these samples, on which the random numbers depend.
        """
        number, parts = self.backend.xp.asarray(step, dtype=self.backend.integer), []
        for part in self._split(X):
            parts.append(self._forward(theta, part, seed, number, first_sample)[0])
            first_sample += part.shape[1]
        return self._join(parts)

    def losses(self, theta: Array, X: Array, Y: Array, loss: LossFunction) -> tuple[Array, Array]:
        """Return outputs and losses; see :meth:`Inference.losses`."""
        ops, parts = self.backend.ops, []
        for x, y in zip(self._split(X), self._split(Y), strict=True):
            A, caches = self._forward(theta, x)
            if y.shape[0] != A.shape[0]:
                y = ops.one_hot(y, A.shape[0], A.dtype)
            with np.errstate(all="ignore"):
                parts.append((A, sample_losses(ops, self.layers, loss, A, caches, y)))
        outputs, losses = zip(*parts, strict=True)
        return self._join(outputs), self._join(losses)

    def _forward(
        self, theta: Array, X: Array, seed: int = 0, step: Array | None = None, first_sample: int = 0
    ) -> tuple[Array, list[Any]]:
        parameters = self.layout.split(self.backend.xp, theta)
        with np.errstate(all="ignore"):
            return forward(
                self.backend.ops, self.layers, parameters, X, seed, step, first_sample=first_sample, only_random=True
            )

    def _split(self, X: Array) -> list[Array]:
        """Return blocks of columns of X, each small enough to be processed at once."""
        m, layout = X.shape[1], self.layout
        by_time = max(MIN_BLOCK, BLOCK_MULTIPLICATIONS // max(1, layout.decaying))
        step = max(1, min(ELEMENTS // max(layout.sizes), by_time))
        return [X] if m <= step else [X[:, start : start + step] for start in range(0, m, step)]

    def _join(self, parts: Sequence[Array]) -> Array:
        return parts[0] if len(parts) == 1 else self.backend.xp.concat(list(parts), axis=1)
