"""Samples that stay on the host: those of a chunk are gathered there, and sent while the device computes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from deepnotes.backends import Backend, Indices, Samples
from deepnotes_cupy.device import Device
from deepnotes_cupy.step import Source

STAGE = 64 << 20
"""The bytes of samples in each of the two buffers, which hold at least one batch."""
BLOCK = 1 << 27
"""The bytes of samples that predictions send to the device at a time."""


class HostSamples(Samples):
    """Samples, targets or weights that stay on the host, where Programs gather the samples of their batches.

    Parameters
    ----------
    backend : Backend
    array : ndarray, shape (n, m)
    """

    read_by_programs = True

    def __init__(self, backend: Backend, array: np.ndarray) -> None:
        self.array = np.asarray(array)
        super().__init__(backend, self.array.shape, BLOCK // max(1, self.array[:, :1].nbytes))

    def read(self, indices: Indices) -> np.ndarray:
        """Return some samples, shape (n, k)."""
        return self.array.T[indices].T


def gather_rows(x: np.ndarray, indices: np.ndarray, out: np.ndarray) -> None:
    """Write the columns of `x`, shape (n, samples), at `indices` to the rows of `out`, shape (m, n), converted."""
    rows = x.T
    if rows.flags.c_contiguous and rows.dtype == out.dtype:
        rows.take(indices, 0, out, "clip")
    else:
        out[...] = rows[indices]


class Stage:
    """Two buffers on the device, as one array of samples, and two in pinned memory.

    Parameters
    ----------
    device : Device
    widths : (int, int, int)
        The number of elements of a sample in X and in Y, and 1 if there are weights, else 0.
    dtype : {"float32", "float64"}
    batch_size : int
    stage : int
        The bytes of samples in each buffer; a buffer holds at least one batch.

    Attributes
    ----------
    source : Source
        The arrays that batches are gathered from.
    capacity : int
        The number of samples of a buffer, a multiple of the batch size.

    Raises
    ------
    DeviceMemoryError
    """

    def __init__(self, device: Device, widths: tuple[int, int, int], dtype: str, batch_size: int, stage: int) -> None:
        self.widths, self.batch_size = widths, batch_size
        self._device = device
        sample = sum(widths) * np.dtype(dtype).itemsize
        self.capacity = max(1, stage // (sample * batch_size)) * batch_size
        X, Y, w = [device.empty(2 * self.capacity * width, dtype) if width else None for width in widths]
        self.source = Source(X, Y, w)
        self._pinned = [[device.pinned(self.capacity * width, dtype) for width in widths if width] for _ in range(2)]
        self._sent: list[Any] = [None, None]
        self._trained = [device.mark()] * 2  # the memory of the buffers may still be in use by earlier work

    def positions(self, count: int) -> np.ndarray:
        """Return the positions of the first `count` samples of a chunk in the buffers."""
        samples = np.arange(count)
        return samples // self.capacity % 2 * self.capacity + samples % self.capacity

    def send(self, number: int, arrays: Sequence[np.ndarray], indices: np.ndarray) -> None:
        """Gather the `number`-th part of a chunk and send it; work enqueued from now on waits for it."""
        slot, m = number % 2, len(indices)
        if self._sent[slot] is not None:
            self._device.settle(self._sent[slot])  # its pinned memory can be reused
        pairs = []
        targets = [a for a in self.source if a is not None]
        for host, width, pinned, target in zip(arrays, self.widths, self._pinned[slot], targets, strict=False):
            rows = pinned[: m * width]
            gather_rows(host, indices, rows.reshape(m, width))
            pairs.append((rows, target[slot * self.capacity * width :][: m * width]))
        self._sent[slot] = self._device.send(pairs, self._trained[slot])
        self._device.await_event(self._sent[slot])

    def done(self, number: int) -> None:
        """Note that all work that reads the `number`-th part is enqueued; after it, the buffer may be overwritten."""
        self._trained[number % 2] = self._device.mark()
