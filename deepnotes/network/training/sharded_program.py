"""A Program whose batches are divided among ranks: each computes the gradients of its shards, and all are summed."""

from typing import cast

import numpy as np

from deepnotes.backends.base import Backend
from deepnotes.backends.program import Data, Program, Shard, State
from deepnotes.equations.array import Array
from deepnotes.network.distributed.ranks import Ranks
from deepnotes.network.distributed.tree import shard_bounds, sum_in_tree
from deepnotes.network.streaming import data_for_program
from deepnotes.network.training.program_of_parts import ProgramOfParts
from deepnotes.nn.plan import Plan
from deepnotes.nn.steps import Gradient, squared_norm


class ShardedProgram(ProgramOfParts):
    """A Program that trains on the same batches on all ranks, and whose updates have the same bits on all of them.

    The gradient of a batch is the mean of those of its shards, each weighted with its number of samples.

    Parameters
    ----------
    program, backend, plan
        As for :class:`ProgramOfParts`.
    ranks : Ranks
    """

    def __init__(self, program: Program, backend: Backend, plan: Plan, ranks: Ranks) -> None:
        super().__init__(program, backend, plan)
        self._ranks, self._count = ranks, ranks.shards // ranks.size
        size, dtype = plan.layout.size, np.dtype(plan.dtype)
        # The last element of a buffer is the cost, so that it takes no message of its own.
        levels = max(1, self._count.bit_length() - 1)
        self._buffers = [np.empty(size + 1, dtype) for _ in range(levels if backend.on_host else 0)]
        self._zeros = np.zeros(size + 1 if backend.on_host else 0, dtype)
        self._array_sum = None if backend.on_host or ranks.size == 1 else backend.array_sum(ranks)

    def batch_gradient(self, state: State, data: Data, indices: np.ndarray) -> Gradient:
        """Return the cost and gradient of the batch of the samples at `indices`, shape (m,), the same on all ranks.

        Parameters
        ----------
        state : State
        data : Data
            Its elements may be :class:`~deepnotes.backends.Samples`, of which a rank reads only those of its shards.
        indices : ndarray of int64, shape (m,)
        """
        return (self._on_host if self.backend.on_host else self._on_device)(state, data, indices)

    def _on_host(self, state: State, data: Data, indices: np.ndarray) -> Gradient:
        """Return the gradient of a batch; all is added in buffers on the host."""
        m = len(indices)

        def compute(shard: int) -> np.ndarray:
            start, stop = shard_bounds(m, self._ranks.shards, shard)
            if start == stop:
                return self._zeros
            part, order = data_for_program(self.backend, data, indices[start:stop])
            return self.backend.to_numpy(self._halves.shard_gradient(state, part, Shard(order, start, m)))

        total = sum_in_tree(compute, self._ranks.rank * self._count, self._count, self._buffers)
        self._ranks.sum(total)
        flat, trained = total[:-1], total[: self.plan.layout.trained]
        square = trained @ trained + (0 * flat[len(trained) :]).sum()
        cost, weight, square = (cast(Array, number) for number in (total[-1], np.float64(m), square))
        return Gradient(cost, weight, self.backend.from_numpy(flat), square)

    def _on_device(self, state: State, data: Data, indices: np.ndarray) -> Gradient:
        """Return the gradient of a batch; the shards are added on the device, and the ranks as the backend can."""
        xp, m, first = self.ops.xp, len(indices), self._ranks.rank * self._count
        dtype = getattr(xp, self.plan.dtype)

        def compute(shard: int, count: int) -> Array:
            if count > 1:
                return compute(shard, count // 2) + compute(shard + count // 2, count // 2)
            start, stop = shard_bounds(m, self._ranks.shards, shard)
            if start == stop:
                return xp.zeros((self.plan.layout.size + 1,), dtype=dtype)
            part, order = data_for_program(self.backend, data, indices[start:stop])
            return self._halves.shard_gradient(state, part, Shard(order, start, m))

        with self.backend.execution_context():
            total = compute(first, self._count)
            if self._ranks.size > 1:
                total = self._sum(total)
            flat, cost = total[:-1], total[-1]
            return Gradient(cost, cast(Array, np.float64(m)), flat, squared_norm(xp, self.plan.layout, flat))

    def _sum(self, x: Array) -> Array:
        """Return the sum of the arrays of all ranks, without the host if the backend can."""
        if self._array_sum is not None:
            return self._array_sum(x)
        on_host = np.array(self.backend.to_numpy(x))
        self._ranks.sum(on_host)
        return self.backend.from_numpy(on_host)
