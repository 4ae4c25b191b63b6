"""Samples that stay on the host: each batch is gathered on the host, and sent while the device computes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from deepnotes.backends import Backend, Indices, Samples
from deepnotes_cupy.device import Device
from deepnotes_cupy.step import Source

BUFFER_BYTES = 64 << 20
"""The size of each of the two buffers for samples, unless a batch needs more."""
PREDICTION_BYTES = 1 << 27
"""The size of the parts in which samples are sent to the device for predictions."""


class HostSamples(Samples):
    """Samples, targets or weights that stay on the host; Programs gather batches from them there.

    Parameters
    ----------
    backend : Backend
    array : ndarray, shape (n, m)
    """

    read_by_programs = True

    def __init__(self, backend: Backend, array: np.ndarray) -> None:
        self.array = np.asarray(array)
        super().__init__(backend, self.array.shape, PREDICTION_BYTES // max(1, self.array[:, :1].nbytes))

    def read(self, indices: Indices) -> np.ndarray:
        """Return the samples at `indices`, shape (n, k)."""
        return self.array.T[indices].T


def gather_rows(x: np.ndarray, indices: np.ndarray, out: np.ndarray) -> None:
    """Write the columns of `x`, (n, samples), at `indices` to the rows of `out`, (m, n), converted to its dtype."""
    rows = x.T
    if rows.flags.c_contiguous and rows.dtype == out.dtype:
        rows.take(indices, 0, out, "clip")
    else:
        out[...] = rows[indices]


class Stage:
    """Two buffers for samples on the device, the halves of one array, and two buffers in pinned host memory.

    Parameters
    ----------
    device : Device
    widths : (int, int, int)
        The number of elements of a sample in X and in Y, and 1 if there are weights, else 0.
    dtype : {"float32", "float64"}
    batch_size : int
    buffer_bytes : int
        The size of a buffer; it holds at least one batch, even if that needs more.

    Attributes
    ----------
    source : Source
        The arrays that batches are gathered from.
    capacity : int
        The number of samples in a buffer, a multiple of the batch size.

    Raises
    ------
    DeviceMemoryError
    """

    def __init__(
        self, device: Device, widths: tuple[int, int, int], dtype: str, batch_size: int, buffer_bytes: int
    ) -> None:
        self.widths, self.batch_size = widths, batch_size
        self._device = device
        sample_bytes = sum(widths) * np.dtype(dtype).itemsize
        self.capacity = max(1, buffer_bytes // (sample_bytes * batch_size)) * batch_size
        X, Y, w = [device.empty(2 * self.capacity * width, dtype) if width else None for width in widths]
        self.source = Source(X, Y, w)
        self._pinned = [
            [device.empty_pinned(self.capacity * width, dtype) for width in widths if width] for _ in range(2)
        ]
        self._sent: list[Any] = [None, None]
        self._trained = [device.record_event()] * 2  # earlier work may still use the memory of the buffers

    def positions(self, count: int) -> np.ndarray:
        """Return the positions, in the array of both buffers, of the first `count` samples of a chunk."""
        samples = np.arange(count)
        return samples // self.capacity % 2 * self.capacity + samples % self.capacity

    def send(self, number: int, arrays: Sequence[np.ndarray], indices: np.ndarray) -> None:
        """Gather the `number`-th part of a chunk and send it; work enqueued from now on waits for it."""
        slot, m = number % 2, len(indices)
        if self._sent[slot] is not None:
            self._device.synchronize(self._sent[slot])  # after this, its pinned memory can be reused
        pairs = []
        targets = [a for a in self.source if a is not None]
        for host, width, pinned, target in zip(arrays, self.widths, self._pinned[slot], targets, strict=False):
            rows = pinned[: m * width]
            gather_rows(host, indices, rows.reshape(m, width))
            pairs.append((rows, target[slot * self.capacity * width :][: m * width]))
        self._sent[slot] = self._device.send(pairs, self._trained[slot])
        self._device.await_event(self._sent[slot])

    def release(self, number: int) -> None:
        """Allow the buffer of the `number`-th part to be overwritten after the work enqueued so far."""
        self._trained[number % 2] = self._device.record_event()
