"""The Program of this backend: it lowers a plan to tables, and calls the compiled training."""

from math import isfinite
from time import perf_counter

import numpy as np

from deepnotes.backends import Batches, Chunk, EagerProgram, Plan, State, aligned, scalar_table
from deepnotes_numba import interpreter, products, thread_count, training
from deepnotes_numba.arrays import plain, readable
from deepnotes_numba.base import ThreadedBackend
from deepnotes_numba.lowering import block_of, lower_network, lower_objective, lower_optimizer
from deepnotes_numba.thread_team import run

SCALARS = ("rate", "epsilon", "share", "gain")
"""The rows of the table of scalars that the compiled training reads."""
INDICES = np.dtype(np.int64)
ELEMENTS = 1 << 23
"""The largest number of elements of the workspace; larger batches are processed in parts."""


class NumbaProgram(EagerProgram):
    """A Program that trains a chunk of mini-batches inside one compiled call, on a few threads.

    Parameters
    ----------
    backend : ThreadedBackend
    plan : Plan
        A plan that has kernels, see :func:`deepnotes_numba.codes.update_of`.
    """

    def __init__(self, backend: ThreadedBackend, plan: Plan) -> None:
        super().__init__(backend, plan)
        self._threads = backend.threads
        self._dtype = np.dtype(plan.dtype)
        self._block = block_of(self._dtype)
        self._tables, self._units, tiles = lower_network(
            plan.layers, plan.layout, self._dtype, plan.class_indices, True
        )
        self._objective = lower_objective(plan, self._dtype)
        self._optimizer = *lower_optimizer(plan), self.safe, self.safe_norm
        self._multiplications = 3 * plan.layout.decaying
        # A tile may read, but not write, a little beyond its columns, so there are elements after the gradient.
        self._g, self._squares = aligned(plan.layout.size + self._block, self._dtype), np.zeros(2 * tiles)
        self._work = self._none = self._lost = np.empty(0, self._dtype)
        self._no_weights = np.empty((1, 0), self._dtype)
        self._pace = thread_count.Pace()

    def train(self, state: State, batches: Batches) -> Chunk:
        """Make one update per mini-batch; see :meth:`deepnotes.backends.Program.train`."""
        order, samples = plain(batches.order, INDICES), batches.data.X.shape[1]
        # The compiled code does not check again; as unsigned, an index below 0 is a large one.
        if len(order) and order.view(np.uint64).max() >= samples:
            raise IndexError(f"order holds indices outside 0 .. {samples - 1}")
        remaining = batches._replace(order=order)
        made, compiled = 0, True
        while True:
            # The compiled training stops before an update that may overflow: the eager one makes it or reports it.
            chunk = self._train(state, remaining) if compiled else super().train(state, remaining.first(1))
            made += chunk.steps
            if made == len(batches.rates) or not isfinite(chunk.cost) or not (compiled or chunk.steps):
                return chunk if made == chunk.steps else chunk._replace(steps=made)
            remaining = remaining.after(chunk)
            compiled = not compiled

    def _train(self, state: State, batches: Batches) -> Chunk:
        """Train until all updates are made, or up to the first that the compiled code does not make."""
        data, order, batch_size, rates, sums = batches
        X, by_sample = readable(data.X)
        Y = plain(data.Y, self._dtype)  # class indices as well, so that one type is compiled
        w = self._no_weights if data.w is None else plain(data.w, self._dtype)
        first, second = (*state.slots, self._none, self._none)[:2]
        batch_size = min(batch_size, len(order))
        blocks = -(-batch_size // self._block)
        room = max(1, min(blocks, ELEMENTS // (self._units * self._block)))  # for any threads: the sums depend on it
        work = self._multiplications * blocks * self._block
        # A sum has several parts if there are several runs, or if the workspace cannot hold the batch.
        several = batch_size > products.RUN or room < blocks
        if several and not len(self._lost):
            self._lost = aligned(len(self._g), self._dtype)
        rows = thread_count.moves_less(
            min(batch_size, room * self._block), self.plan.layout.sizes, self.plan.layout.size
        )
        scalars = scalar_table(self.plan.optimizer, SCALARS, state.step, rates)
        errors = self._lost if several else self._none
        buffers = state.theta, self._g, errors, first, second, self._squares
        done = 0
        while True:
            size, split, count = self._pace.choose(self._threads, room, work, len(rates) - done, rows)
            now = slice(done, done + count)
            now_changing = scalars if count == len(rates) else np.ascontiguousarray(scalars[:, now])
            began = perf_counter()
            *both, made, cost = run(
                size, training.train, self._tables, buffers, (self._take(room, size if split else 1), room, split),
                (X.ctypes.data, X.shape, by_sample, Y, w, data.w is not None),
                (order[done * batch_size : (done + count) * batch_size], batch_size, rates[now], now_changing,
                 np.uint64(self.plan.seed), state.step, *sums),
                self._objective, self._optimizer,
            )  # fmt: skip
            self._pace.note(size, made * work, perf_counter() - began)
            state.step += made
            sums, done = tuple(both), done + made
            if made < count or done == len(rates):
                return Chunk(*sums, done, cost)

    def _take(self, room: int, gathering: int) -> np.ndarray:
        """Return a workspace for this many blocks, and for threads that each gather all samples."""
        regions = self._tables[2]
        width = int(regions[interpreter.X_PANELS] - regions[interpreter.X_BLOCKS])
        wanted = (self._units + 2 * (gathering - 1) * width) * room * self._block
        if len(self._work) < wanted:
            self._work = aligned(wanted, self._dtype)
        return self._work
