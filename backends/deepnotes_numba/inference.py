"""Inference on this backend: it calls the compiled forward pass, and keeps state between calls."""

import threading
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np

from deepnotes.backends import CHUNK_SECONDS, EagerInference, Layer, Layout, LossFunction, aligned, fuses
from deepnotes_numba import thread_count
from deepnotes_numba.arrays import to_c_order, to_writable
from deepnotes_numba.base import ThreadedBackend
from deepnotes_numba.codes import SUPPORTED
from deepnotes_numba.kernels import loss_kernel
from deepnotes_numba.lowering import Lowered, block_of, lower_network
from deepnotes_numba.prediction import predict, predict_one
from deepnotes_numba.thread_team import run

ELEMENTS = 1 << 17
"""The number of workspace elements for each thread, so that they fit in the cache of its core."""
MIN_BLOCKS = 8
"""The smallest number of blocks in a workspace, even for wide networks."""
FIRST_CHUNK_WORK = 1 << 31
"""The number of multiplications for the first chunk of samples; later chunks take about `CHUNK_SECONDS`.

But no chunk is smaller than a quarter of the first: while other processes use the cores, chunks would otherwise shrink
until starting the threads takes longer than the work.
"""


class NumbaInference(EagerInference):
    """Computes outputs and losses by the compiled forward pass; see :class:`deepnotes.backends.Inference`.

    Threads may share an instance: each call writes only to its own memory.

    Parameters
    ----------
    backend : ThreadedBackend
    layers : sequence of Layer
        All of them must have kernels; see :data:`deepnotes_numba.codes.SUPPORTED`.
    layout : Layout
    dtype : {"float32", "float64"}
    """

    def __init__(self, backend: ThreadedBackend, layers: Sequence[Layer], layout: Layout, dtype: str) -> None:
        super().__init__(backend, layers, layout, dtype)
        self._threads, self._dtype = backend.threads, np.dtype(dtype)
        self._lowered: dict[bool, Lowered] = {}
        lowered = self._lower(class_indices=False)
        self._table, self._weights = lowered.tables[0], lowered.weights
        self._outputs = layout.sizes[-1]
        self._stride = -(-max(layout.sizes) // 64) * 64
        # In narrow layers, the activations dominate: each takes as long as several multiplications.
        self._first_chunk = FIRST_CHUNK_WORK // (self._weights + 16 * sum(layout.sizes))
        self._no_losses, self._no_loss = np.empty((0, 0), self._dtype), (False, 0, 0)
        self._thread_state = threading.local()

    def predict(self, theta: Any, X: Any) -> Any:
        """Return the outputs; see :meth:`deepnotes.backends.Inference.predict`."""
        out = np.empty((self._outputs, X.shape[1]), self._dtype)
        if X.shape[1] != 1:
            self._predict(theta, X, out, self._no_losses, None, self._no_loss)
            return out
        state = self._thread_state
        if getattr(state, "theta", None) is not theta:
            self._prepare_one(theta)
        # One sample takes less than a microsecond, so the overhead of Python matters.
        predict_one(X.flatten(), out, self._table, state.parameters, state.memory, self._stride)
        return out

    def losses(self, theta: Any, X: Any, Y: Any, loss: LossFunction) -> tuple[Any, Any]:
        """Return outputs and losses; see :meth:`deepnotes.backends.Inference.losses`."""
        if not SUPPORTED.has_loss(loss, self._outputs, self.layers[-1]):
            return super().losses(theta, X, Y, loss)
        out = np.empty((self._outputs, X.shape[1]), self._dtype)
        losses = np.empty((1, X.shape[1]), self._dtype)
        class_indices = Y.shape[0] != out.shape[0]
        kernel = loss_kernel(loss, fuses(self.layers[-1], loss), self._dtype.name, self._outputs)
        self._predict(theta, X, out, losses, Y, (class_indices, *kernel.addresses))
        return out, losses

    def _lower(self, class_indices: bool) -> Lowered:
        """Return the tables for targets that are class indices or arrays."""
        if class_indices not in self._lowered:
            self._lowered[class_indices] = lower_network(self.layers, self.layout, self._dtype, class_indices, False)
        return self._lowered[class_indices]

    def _prepare_one(self, theta: np.ndarray) -> None:
        """Create this thread's workspace for single samples, and keep the addresses that `predict_one` needs."""
        state = self._thread_state
        state.work = aligned(2 * len(self._table) * self._stride, self._dtype)
        state.memory = state.work.ctypes.data
        state.theta, state.parameters = theta, theta.ctypes.data

    def _predict(
        self, theta: np.ndarray, X: Any, out: np.ndarray, losses: np.ndarray, Y: Any,
        loss: tuple[bool, int, int],
    ) -> None:  # fmt: skip
        """Fill `out` and `losses`, chunk by chunk, since Ctrl-C is handled only between compiled calls."""
        S = block_of(self._dtype)
        tables, units, *_ = self._lower(loss[0])
        samples = out.shape[1]
        blocks = max(1, -(-samples // S))
        size, split = thread_count.choose(self._threads, blocks, self._weights * blocks * S)
        capacity = min(blocks if split else -(-blocks // size), max(MIN_BLOCKS, ELEMENTS // (units * S)))
        work = aligned(units * capacity * S * (1 if split else size), self._dtype)
        x, by_sample = to_c_order(X)
        targets = out if Y is None else to_writable(Y, self._dtype)
        unit = capacity * S * (1 if split else size)  # as many samples as the workspaces hold
        chunk = max(1, self._first_chunk // unit) * unit  # all chunks are multiples of `unit`
        min_chunk = max(1, self._first_chunk // 4 // unit) * unit
        done = 0
        while True:
            stop, start_time = min(samples, done + chunk), perf_counter()
            run(
                size, predict, tables, theta, (work, capacity, split),
                (x.ctypes.data, x.shape, by_sample, np.arange(done, stop)), targets, loss, (out, losses),
            )  # fmt: skip
            if stop == samples:
                return
            affordable = int((stop - done) * CHUNK_SECONDS / max(perf_counter() - start_time, 1e-7))
            chunk, done = max(min_chunk, min(2 * chunk, affordable) // unit * unit), stop
