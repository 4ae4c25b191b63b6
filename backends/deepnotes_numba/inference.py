"""Inference on this backend: the compiled forward pass, and the state kept between calls."""

import threading
from collections.abc import Sequence
from time import perf_counter
from typing import Any, cast

import numpy as np

from deepnotes.backends import CHUNK_SECONDS, EagerInference, Layer, Layout, Loss, LossFunction, aligned
from deepnotes_numba import thread_count
from deepnotes_numba.arrays import plain, readable
from deepnotes_numba.base import ThreadedBackend
from deepnotes_numba.codes import SUPPORTED
from deepnotes_numba.lowering import block_of, lower_loss, lower_network
from deepnotes_numba.prediction import predict, predict_one
from deepnotes_numba.thread_team import run

ELEMENTS = 1 << 17
"""The number of workspace elements for each thread: they fit in its cache."""
LEAST = 8
"""The least number of blocks in a workspace, however wide the network."""
WORK_AT_FIRST = 1 << 31
"""The number of multiplications of the first chunk of samples; later chunks have as many as `CHUNK_SECONDS` allow.

But each has at least a quarter of the first: where other processes use the cores, chunks would shrink until starting
their threads takes longer than the work.
"""


class NumbaInference(EagerInference):
    """Outputs and losses by the compiled forward pass; see :class:`deepnotes.backends.Inference`.

    Threads may share it: each call writes only to memory of its own.

    Parameters
    ----------
    backend : ThreadedBackend
    layers : sequence of Layer
        All with kernels; see :data:`deepnotes_numba.codes.SUPPORTED`.
    layout : Layout
    dtype : {"float32", "float64"}
    """

    def __init__(self, backend: ThreadedBackend, layers: Sequence[Layer], layout: Layout, dtype: str) -> None:
        super().__init__(backend, layers, layout, dtype)
        self._threads, self._dtype = backend.threads, np.dtype(dtype)
        self._lowered = {
            labelled: lower_network(layers, layout, self._dtype, labelled, False) for labelled in (False, True)
        }
        self._table, self._options, _ = self._lowered[False].tables
        self._outputs = layout.sizes[-1]
        self._stride = -(-max(layout.sizes) // 64) * 64
        # In narrow layers the activations dominate; each takes as long as several multiplications.
        self._at_first = WORK_AT_FIRST // (layout.decaying + 16 * sum(layout.sizes))
        self._no_losses, self._no_loss = np.empty((0, 0), self._dtype), (0, self._dtype.type(0), False)
        self._own = threading.local()

    def predict(self, theta: Any, X: Any) -> Any:
        """Return the outputs; see :meth:`deepnotes.backends.Inference.predict`."""
        out = np.empty((self._outputs, X.shape[1]), self._dtype)
        if X.shape[1] != 1:
            self._predict(theta, X, out, self._no_losses, None, self._no_loss)
            return out
        own = self._own
        if getattr(own, "theta", None) is not theta:
            self._prepare_one(theta)
        # One sample takes less than a microsecond, so the overhead of Python matters.
        predict_one(X.flatten(), out, self._table, own.options, own.parameters, own.memory, self._stride)
        return out

    def losses(self, theta: Any, X: Any, Y: Any, loss: LossFunction) -> tuple[Any, Any]:
        """Return outputs and losses; see :meth:`deepnotes.backends.Inference.losses`."""
        if not SUPPORTED.has_loss(loss):
            return super().losses(theta, X, Y, loss)
        out = np.empty((self._outputs, X.shape[1]), self._dtype)
        losses = np.empty((1, X.shape[1]), self._dtype)
        labelled = Y.shape[0] != out.shape[0]
        code, option = lower_loss(cast(Loss, loss), self.layers[-1], self._dtype)
        self._predict(theta, X, out, losses, Y, (code, option, labelled))
        return out, losses

    def _prepare_one(self, theta: np.ndarray) -> None:
        """Create this thread's workspace for single samples, and store the addresses of the arguments."""
        own = self._own
        own.work = aligned(4 * self._stride, self._dtype)
        own.options, own.memory = self._options.ctypes.data, own.work.ctypes.data
        own.theta, own.parameters = theta, theta.ctypes.data

    def _predict(
        self, theta: np.ndarray, X: Any, out: np.ndarray, losses: np.ndarray, Y: Any,
        loss: tuple[int, np.floating, bool],
    ) -> None:  # fmt: skip
        """Fill `out` and `losses`, a chunk of samples at a time: Ctrl-C is handled only between compiled calls."""
        S = block_of(self._dtype)
        tables, units, _ = self._lowered[loss[2]]
        samples = out.shape[1]
        blocks = max(1, -(-samples // S))
        size, split = thread_count.choose(self._threads, blocks, self.layout.decaying * blocks * S)
        capacity = min(blocks if split else -(-blocks // size), max(LEAST, ELEMENTS // (units * S)))
        work = aligned(units * capacity * S * (1 if split else size), self._dtype)
        x, by_sample = readable(X)
        targets = out if Y is None else plain(Y, self._dtype)
        unit = capacity * S * (1 if split else size)  # the samples that fit all workspaces; chunks are multiples of it
        chunk, least, done = max(1, self._at_first // unit) * unit, max(1, self._at_first // 4 // unit) * unit, 0
        while True:
            stop, began = min(samples, done + chunk), perf_counter()
            run(
                size, predict, tables, theta, (work, capacity, split),
                (x.ctypes.data, x.shape, by_sample, np.arange(done, stop)), targets, loss, (out, losses),
            )  # fmt: skip
            if stop == samples:
                return
            in_time = int((stop - done) * CHUNK_SECONDS / max(perf_counter() - began, 1e-7))
            chunk, done = max(least, min(2 * chunk, in_time) // unit * unit), stop
