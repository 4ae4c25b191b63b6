"""A Program whose batches are divided among ranks: each computes the gradients of its shards, and all are summed."""

from typing import cast

import numpy as np

from deepnotes.backends.base import Backend
from deepnotes.backends.eager import EagerProgram
from deepnotes.backends.program import Data, Program, State
from deepnotes.equations.array import Array
from deepnotes.network.distributed.ranks import Ranks
from deepnotes.network.distributed.tree import shard_bounds, sum_in_tree
from deepnotes.network.streaming import data_for_program
from deepnotes.nn.plan import Plan
from deepnotes.nn.steps import Gradient


class ShardedProgram(EagerProgram):
    """A Program that trains on the same batches on all ranks, and whose updates have the same bits on all of them.

    The gradient of a batch is the mean of those of its shards, each weighted with its number of samples. It is computed
    by the two halves of another Program, the gradient of a shard and the update.

    Parameters
    ----------
    program : Program
        The Program that the backend has compiled. If it is not derived from EagerProgram, it cannot compute the
        gradient of a shard, and the equations are interpreted one by one.
    backend : Backend
    plan : Plan
        A plan whose cost is the mean of the losses over the samples, as that of :meth:`deepnotes.Network.fit` is.
    ranks : Ranks
    """

    def __init__(self, program: Program, backend: Backend, plan: Plan, ranks: Ranks) -> None:
        super().__init__(backend, plan)
        self._halves = program if isinstance(program, EagerProgram) else EagerProgram(backend, plan)
        self._ranks, self._count = ranks, ranks.shards // ranks.size
        size, dtype = plan.layout.size, np.dtype(plan.dtype)
        # The last element of a buffer is the cost, so that it takes no message of its own.
        self._buffers = [np.empty(size + 1, dtype) for _ in range(self._count.bit_length())]
        self._squares = np.empty(size, dtype)

    def batch_gradient(self, state: State, data: Data, indices: np.ndarray) -> Gradient:
        """Return the cost and gradient of the batch of the samples at `indices`, shape (m,), the same on all ranks.

        Parameters
        ----------
        state : State
        data : Data
            Its elements may be :class:`~deepnotes.backends.Samples`, of which a rank reads only those of its shards.
        indices : ndarray of int64, shape (m,)
        """
        m = len(indices)

        def compute(shard: int, out: np.ndarray) -> None:
            start, stop = shard_bounds(m, self._ranks.shards, shard)
            if start == stop:
                out[...] = 0
                return
            part, order = data_for_program(self.backend, data, indices[start:stop])
            gradient = self._halves.shard_gradient(state, part, order, start)
            share = (stop - start) / m
            np.multiply(self.backend.to_numpy(gradient.flat), share, out=out[:-1])
            out[-1] = share * float(gradient.cost)

        total = sum_in_tree(compute, self._ranks.rank * self._count, self._count, self._buffers)
        self._ranks.sum(total)
        flat = total[:-1]
        # A library may read the memory of the buffer later, when it has new content.
        g = self.backend.from_numpy(flat if self.backend.on_host else flat.copy())
        cost, weight, square = (
            cast(Array, number) for number in (total[-1], np.float64(m), np.square(flat, out=self._squares).sum())
        )
        return Gradient(cost, weight, g, square)

    def update(self, state: State, g: Array, rate: float) -> None:
        """Make one update; see :meth:`Program.update`."""
        self._halves.update(state, g, rate)
