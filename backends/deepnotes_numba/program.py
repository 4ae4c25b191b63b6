"""The Program of this backend: it lowers a plan to tables, and calls the compiled training function."""

from math import isfinite
from time import perf_counter
from typing import Any, cast

import numpy as np

from deepnotes.backends import (
    Array,
    Batches,
    BatchNorm,
    Chunk,
    Data,
    EagerProgram,
    Gradient,
    Plan,
    Samples,
    Shard,
    State,
    aligned,
    scalar_table,
    squared_norm,
)
from deepnotes_numba import interpreter, products, thread_count, training
from deepnotes_numba.arrays import to_c_order, to_writable
from deepnotes_numba.base import ThreadedBackend
from deepnotes_numba.kernels import statistics_kernel, update_kernel
from deepnotes_numba.lowering import block_of, lower_loss, lower_network, lower_objective
from deepnotes_numba.thread_team import run

INDICES = np.dtype(np.int64)
ELEMENTS = 1 << 23
"""The largest number of elements of the workspace; larger batches are processed in parts."""


class NumbaProgram(EagerProgram):
    """A Program that trains a chunk of mini-batches inside one compiled call, on a few threads.

    Parameters
    ----------
    backend : ThreadedBackend
    plan : Plan
        A plan whose parts all have kernels, see :data:`deepnotes_numba.codes.SUPPORTED`.
    """

    def __init__(self, backend: ThreadedBackend, plan: Plan) -> None:
        super().__init__(backend, plan)
        self._threads = backend.threads
        self._dtype = np.dtype(plan.dtype)
        self._block = block_of(self._dtype)
        self._lowered = lower_network(plan.layers, plan.layout, self._dtype, plan.class_indices, True)
        self._tables, self._units, tiles, _ = self._lowered
        self._loss = lower_loss(plan.loss, plan.layers[-1], plan.layout.sizes[-1], self._dtype)
        self._objective = lower_objective(plan, self._loss)
        self._update = update_kernel(plan.optimizer, plan.dtype)
        self._scalar_names = list(plan.optimizer.scalars(1, 1.0))
        self._statistics, of_statistics = None, (0, 0)
        counts = plan.layout.decaying, plan.layout.trained
        if plan.layout.trained < plan.layout.size:
            self._statistics = statistics_kernel(plan.optimizer, plan.dtype)
            of_statistics = self._statistics.addresses
        self._optimizer = float(plan.clip_norm or 0.0), *counts, *self._update.addresses, *of_statistics
        self._no_optimizer = 0.0, *counts, 0, 0, 0, 0
        # The samples of a batch are normalized together, so threads share the rows of each array, for all samples.
        self._needs_whole_batches = any(type(layer) is BatchNorm for layer in plan.layers)
        self._multiplications = 3 * self._lowered.weights
        # Unused elements follow the gradient, since a tile may read (but not write) a little beyond its columns.
        self._g, self._squares = aligned(plan.layout.size + self._block, self._dtype), np.zeros(2 * tiles)
        self._work = self._empty = self._errors = np.empty(0, self._dtype)
        self._no_squares = np.zeros(0)
        self._no_weights = np.empty((1, 0), self._dtype)
        self._pace = thread_count.Pace()

    def train(self, state: State, batches: Batches) -> Chunk:
        """Make one update per mini-batch; see :meth:`deepnotes.backends.Program.train`."""
        return self.train_epochs(state, batches._replace(order=batches.order[None], rates=batches.rates[None]))[0]

    def train_epochs(self, state: State, batches: Batches) -> list[Chunk]:
        """Make the updates of several epochs; see :meth:`deepnotes.backends.EpochProgram.train_epochs`."""
        (epochs, per_epoch), updates = batches.order.shape, batches.rates.shape[1]
        order = _valid(batches.order, batches.data.X.shape[1])
        sums = np.array([(*batches.sums, 0.0)] * epochs)
        batches = batches._replace(order=order, rates=batches.rates.ravel())
        done, total = 0, epochs * updates
        while done < total:
            done = self._train(state, batches, per_epoch, done, sums)
            # The compiled code stops before an update that may overflow; the eager Program then makes or reports it.
            if done < total and not self._update_eagerly(state, batches, per_epoch, done, sums[done // updates]):
                break
            done += done < total
        started = epochs if done == total else done // updates + 1
        return [
            Chunk(loss_sum, weight_sum, min(updates, done - epoch * updates), cost)
            for epoch, (loss_sum, weight_sum, cost) in enumerate(sums[:started].tolist())
        ]

    def converted(self, data: Data) -> Data:
        """Return `data` with targets and weights of the plan's dtype, unless they are not in memory."""
        Y, w = (x if x is None or isinstance(x, Samples) else to_writable(x, self._dtype) for x in data[1:])
        return Data(data.X, cast(Array, Y), cast(Array | None, w))

    def shard_gradient(self, state: State, data: Data, shard: Shard) -> Array:
        """Return what a shard adds to the gradient and the cost; see :meth:`EagerProgram.shard_gradient`."""
        m, sums, size = len(shard.indices), np.zeros((1, 3)), self.plan.layout.size
        batches = Batches(data, _valid(shard.indices, data.X.shape[1]), m, np.zeros(1))
        self._train(state, batches, m, 0, sums, shard)
        self._g[size] = sums[0, 2]
        return cast(Array, self._g[: size + 1])

    def gradients(self, state: State, data: Data) -> Gradient:
        """Return the cost and gradient of `data` as one batch; see :meth:`deepnotes.backends.Program.gradients`."""
        m = data.X.shape[1]
        result: Any = np.array(self.shard_gradient(state, data, Shard(np.arange(m), 0, m)))  # a copy
        g, cost = result[:-1], result[-1]
        return Gradient(cost, self.ops.xp.asarray(m, dtype=g.dtype), g, squared_norm(self.ops.xp, self.plan.layout, g))

    def batch_gradient(self, state: State, data: Data, indices: np.ndarray) -> Gradient:
        """Return the cost and gradient of a batch whose update the compiled code does not make, by the equations."""
        return super().gradients(state, self.batch(data, indices))

    def update(self, state: State, g: Array, rate: float) -> None:
        """Make one update with the gradient `g`, shape (p,), by the compiled kernel of the optimizer."""
        layout = self.plan.layout
        size, trained, decaying = layout.size, layout.trained, layout.decaying
        of_trained = g[:trained]
        if self.plan.clip_norm is not None:
            of_trained = self.ops.clip_by_global_norm(of_trained, self.plan.clip_norm)
        gradient, changes = to_writable(of_trained, self._dtype), to_writable(g, self._dtype)
        scalars = self._scalar_table(state.step, np.array([rate]))
        slots = np.array([np.asarray(x).ctypes.data for x in state.slots], np.int64)
        theta = np.asarray(state.theta).ctypes.data
        runs = [(self._update, gradient, 0, decaying, 1.0), (self._update, gradient, decaying, trained, 0.0)]
        if self._statistics is not None:
            runs.append((self._statistics, changes, trained, size, 0.0))
        for kernel, source, start, stop, decays in runs:
            arrays = theta, source.ctypes.data, slots.ctypes.data, start, stop - start, scalars.ctypes.data
            kernel.function(*arrays, 1, kernel.addresses[1], decays, 1.0)
        state.step += 1

    def _update_eagerly(self, state: State, batches: Batches, per_epoch: int, update: int, sums: np.ndarray) -> bool:
        """Make one update with the eager Program unless the cost in `sums` is not finite; return whether it was made.

        The batch is added to `sums`: the sum of the losses, the sum of the weights, and the last cost.
        """
        if not isfinite(sums[2]):
            return False
        epoch, index = divmod(update, -(-per_epoch // batches.batch_size))
        start = epoch * per_epoch + index * batches.batch_size
        order = batches.order[start : min(start + batches.batch_size, (epoch + 1) * per_epoch)]
        rates, before = batches.rates[update : update + 1], (float(sums[0]), float(sums[1]))
        chunk = super().train(state, batches._replace(order=order, rates=rates, sums=before))
        sums[:] = *chunk.sums, chunk.cost
        return chunk.steps == 1

    def _train(
        self,
        state: State,
        batches: Batches,
        per_epoch: int,
        first: int,
        sums: np.ndarray,
        shard: Shard | None = None,
    ) -> int:
        """Make the updates from `first` on, or those before one that the compiled code does not make.

        The batches are added to `sums`, shape (epochs, 3): the sums of the losses and of the weights, and the last
        cost, of each epoch. Return the number of the update not made, or else of updates.

        If there is a `shard`, it is the only batch. Then no update is made, what it adds to the gradient is in
        ``self._g``, and `sums` has only what it adds to the cost.
        """
        data, order, batch_size, rates, _ = batches
        X, by_sample = to_c_order(data.X)
        Y = to_writable(data.Y, self._dtype)  # class indices as well, so that the code is compiled for one dtype only
        w = self._no_weights if data.w is None else to_writable(data.w, self._dtype)
        batch_size = min(batch_size, per_epoch)
        blocks = -(-batch_size // self._block)
        # It does not depend on the threads, since the sums depend on it.
        capacity = max(1, min(blocks, ELEMENTS // (self._units * self._block)))
        if self._needs_whole_batches:
            capacity = blocks
        work = self._multiplications * blocks * self._block
        # A sum has several parts if there are several runs, or if the workspace cannot hold the batch.
        compensated = batch_size > products.RUN or capacity < blocks
        if compensated and not len(self._errors):
            self._errors = aligned(len(self._g), self._dtype)
        prefer_rows = self._needs_whole_batches or thread_count.rows_move_less_data(
            min(batch_size, capacity * self._block), self.plan.layout.sizes, self.plan.layout.size
        )
        step = state.step - first
        update = shard is None
        scalars = self._scalar_table(step, rates) if update else np.zeros((1, len(rates)))
        slots = np.array([np.asarray(x).ctypes.data for x in state.slots], np.int64)
        optimizer = *(self._optimizer if update else self._no_optimizer), slots.ctypes.data, self.safe, self.safe_norm
        errors = self._errors if compensated else self._empty
        # The squares of a shard's gradient are of no use, but the loop that computes them also adds the penalties'.
        squares = self._squares if update or self.plan.l1 or self.plan.l2 else self._no_squares
        buffers = state.theta, self._g, errors, squares
        done, total = first, len(rates)
        while done < total:
            size, split, count = self._pace.choose(self._threads, capacity, work, total - done, prefer_rows)
            start_time, end = perf_counter(), done + count
            workspace = self._workspace(capacity, size if split else 1), capacity, split
            stop = run(
                size, training.train, self._tables, buffers, workspace,
                (X.ctypes.data, X.shape, by_sample, Y, w, data.w is not None),
                (order, per_epoch, batch_size, done, end, rates, scalars, np.uint64(self.plan.seed), step, sums,
                 shard.first_sample if shard else 0, shard.samples if shard else 0),
                self._objective, optimizer,
            )  # fmt: skip
            self._pace.record(size, (stop - done if update else 1) * work, perf_counter() - start_time)
            state.step += stop - done
            done = stop
            if stop < end:
                break
        return done

    def _scalar_table(self, step: int, rates: np.ndarray) -> np.ndarray:
        """Return the optimizer's scalars for some updates, shape (scalars, updates)."""
        optimizer, names = self.plan.optimizer, self._scalar_names
        try:
            return scalar_table(optimizer, names, step, rates)
        except (TypeError, ValueError):  # it branches on the step, for example
            rows = [optimizer.scalars(step + 1 + i, rate) for i, rate in enumerate(rates.tolist())]
            return np.array([[row[name] for row in rows] for name in names], np.float64)

    def _workspace(self, capacity: int, gathering_threads: int) -> np.ndarray:
        """Return a workspace for `capacity` blocks, with regions for the samples that each of the threads gathers."""
        regions = self._tables[2]
        width = int(regions[interpreter.X_PANELS] - regions[interpreter.X_BLOCKS])
        wanted = (self._units + 2 * (gathering_threads - 1) * width) * capacity * self._block
        if len(self._work) < wanted:
            self._work = aligned(wanted, self._dtype)
        return self._work


def _valid(order: np.ndarray, samples: int) -> np.ndarray:
    """Return indices as one array for the compiled code, which does not check them."""
    order = to_writable(order, INDICES).ravel()
    # As an unsigned integer, a negative index is a large one.
    if len(order) and order.view(np.uint64).max() >= samples:
        raise IndexError(f"order holds indices outside 0 .. {samples - 1}")
    return order
