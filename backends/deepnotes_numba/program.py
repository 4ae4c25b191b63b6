"""The Program of this backend: a plan lowered to tables, and calls of the compiled training."""

from math import isfinite
from time import perf_counter

import numpy as np

from deepnotes.backends import Chunk, Data, EagerProgram, Plan, State, Sums, aligned
from deepnotes_numba import interpreter, products, thread_count, training
from deepnotes_numba.arrays import plain, readable
from deepnotes_numba.base import ThreadedBackend
from deepnotes_numba.lowering import block_of, lower_network, lower_objective, lower_optimizer
from deepnotes_numba.thread_team import run

INDICES = np.dtype(np.int64)
ELEMENTS = 1 << 23
"""The elements of workspace that a batch may use at a time; larger batches are processed in parts."""


class NumbaProgram(EagerProgram):
    """A Program that trains a chunk of mini-batches inside one compiled call, on a few threads.

    Parameters
    ----------
    backend : ThreadedBackend
    plan : Plan
        Of the library's own parts only.
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
        # A tile may read, but not write, a little beyond its columns, hence the room after the gradient.
        self._g, self._squares = aligned(plan.layout.size + self._block, self._dtype), np.zeros(2 * tiles)
        self._work = self._none = self._lost = np.empty(0, self._dtype)
        self._no_weights = np.empty((1, 0), self._dtype)
        self._pace = thread_count.Pace()

    def train(
        self,
        state: State,
        data: Data,
        order: np.ndarray,
        batch_size: int,
        rates: np.ndarray,
        sums: Sums = (0.0, 0.0),
    ) -> Chunk:
        """Make one update per mini-batch; see :meth:`deepnotes.backends.Program.train`."""
        order = plain(order, INDICES)
        samples = data.X.shape[1]
        # The compiled code does not check again; as unsigned, an index below 0 is a large one.
        if len(order) and order.view(np.uint64).max() >= samples:
            raise IndexError(f"order holds indices outside 0 .. {samples - 1}")
        made, compiled = 0, True
        while True:
            # The compiled training stops before an update that may overflow: the eager one makes it or reports it.
            train = self._train if compiled else super().train
            part = order[made * batch_size :][: None if compiled else batch_size]
            now = rates[made:] if compiled else rates[made : made + 1]
            chunk = train(state, data, part, batch_size, now, sums)
            sums = chunk.loss_sum, chunk.weight_sum
            made += chunk.steps
            if made == len(rates) or not isfinite(chunk.cost) or not (compiled or chunk.steps):
                return chunk if made == chunk.steps else chunk._replace(steps=made)
            compiled = not compiled

    def _train(
        self, state: State, data: Data, order: np.ndarray, batch_size: int, rates: np.ndarray, sums: Sums
    ) -> Chunk:
        """Train as far as the compiled code gets."""
        X, by_sample = readable(data.X)
        Y = plain(data.Y, self._dtype)  # class indices too, so that only one type is compiled
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
        changing = self.plan.optimizer.scalars(np.arange(state.step + 1, state.step + 1 + len(rates)), rates)
        scalars = np.empty((4, len(rates)))
        for row, (name, usual) in enumerate({"rate": 0.0, "epsilon": 0.0, "share": 0.0, "gain": 1.0}.items()):
            scalars[row] = changing[name] if name in changing else getattr(self.plan.optimizer, name, usual)
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
