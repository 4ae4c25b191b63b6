"""Programs that compute the gradient of a batch by parts: the base class, and one whose parts follow one another."""

from typing import cast

import numpy as np

from deepnotes.backends.base import Backend
from deepnotes.backends.eager import EagerProgram
from deepnotes.backends.program import Batches, Chunk, Data, Program, Shard, State
from deepnotes.equations.array import Array
from deepnotes.network.streaming import data_for_program, is_streamed
from deepnotes.nn.plan import Plan
from deepnotes.nn.steps import Gradient, squared_norm


class ProgramOfParts(EagerProgram):
    """The base class of Programs that compute the gradient of a batch by parts, and read the samples of each part.

    Another Program computes the gradients of the parts (:meth:`EagerProgram.shard_gradient`) and makes the updates.

    Parameters
    ----------
    program : Program
        The Program that the backend has compiled. If it is not derived from EagerProgram, it cannot compute the
        gradient of a part, and the equations are interpreted one by one.
    backend : Backend
    plan : Plan
        A plan whose cost is the mean of the losses over the samples, as that of :meth:`deepnotes.Network.fit` is.
    """

    def __init__(self, program: Program, backend: Backend, plan: Plan) -> None:
        super().__init__(backend, plan)
        self._halves = program if isinstance(program, EagerProgram) else EagerProgram(backend, plan)

    def train(self, state: State, batches: Batches) -> Chunk:
        """Make one update per mini-batch; see :meth:`Program.train`."""
        data, order = batches.data, batches.order
        if not is_streamed(data):  # otherwise, a part of them is in memory at a time
            data, order = data_for_program(self.backend, data, order)
        return super().train(state, batches._replace(data=self.converted(data), order=order))

    def converted(self, data: Data) -> Data:
        """Return `data` in the form in which the parts are read fastest."""
        return self._halves.converted(data)

    def update(self, state: State, g: Array, rate: float) -> None:
        """Make one update; see :meth:`Program.update`."""
        self._halves.update(state, g, rate)


class AccumulatingProgram(ProgramOfParts):
    """A Program that adds the gradients of consecutive parts of a batch, so that one part is in memory at a time.

    The gradient of a batch is the mean of those of its parts, each weighted with its number of samples. The dropout
    masks are those of the whole batch.

    Parameters
    ----------
    program, backend, plan
        As for :class:`ProgramOfParts`.
    size : int
        The number of samples of a part; the last one may have fewer.
    """

    def __init__(self, program: Program, backend: Backend, plan: Plan, size: int) -> None:
        super().__init__(program, backend, plan)
        self._size = size

    def batch_gradient(self, state: State, data: Data, indices: np.ndarray) -> Gradient:
        """Return the cost and gradient of the batch of the samples at `indices`, shape (m,)."""
        with self.backend.execution_context():
            total = self.shard_gradient(state, data, Shard(indices, 0, len(indices)))
            g, cost = total[:-1], total[-1]
            square = squared_norm(self.ops.xp, self.plan.layout, g)
            return Gradient(cost, cast(Array, np.float64(len(indices))), g, square)

    def shard_gradient(self, state: State, data: Data, shard: Shard) -> Array:
        """Return what a shard adds to the gradient and the cost, part by part; see :meth:`EagerProgram.shard_gradient`.

        The elements of `data` may be :class:`~deepnotes.backends.Samples`, of which one part is read at a time.
        """
        xp = self.ops.xp
        total = xp.zeros((self.plan.layout.size + 1,), dtype=state.theta.dtype)
        for start in range(0, len(shard.indices), self._size):
            part, order = data_for_program(self.backend, data, shard.indices[start : start + self._size])
            total = total + self._halves.shard_gradient(
                state, part, Shard(order, shard.first_sample + start, shard.samples)
            )
        return total
