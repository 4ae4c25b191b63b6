"""Samples that stay on the host: each batch is gathered on the host, and sent while the device computes."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from deepnotes.backends import Backend, DeviceMemoryError, Indices, Samples
from deepnotes_cupy.device import Device
from deepnotes_cupy.host_copies import copy_rows, gather_rows
from deepnotes_cupy.step import Source

BUFFER_BYTES = 64 << 20
"""The size of each of the two buffers for samples, unless a batch needs more."""
UPLOAD_BYTES, LARGE = 16 << 20, 128 << 20
"""Arrays larger than LARGE are sent in parts of UPLOAD_BYTES; to pin memory for the parts takes some milliseconds."""
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


def upload(device: Device, host: np.ndarray, target: Any) -> None:
    """Enqueue a copy of a flat host array to the first elements of `target`.

    A large array is copied to two pinned buffers in turns: while one is sent, several threads fill the other.
    """
    size = UPLOAD_BYTES // host.itemsize
    if host.nbytes <= LARGE:
        device.upload(host, target)
        return
    pinned = [device.empty_pinned(size, str(host.dtype)) for _ in range(2)]
    sent: list[Any] = [None, None]
    before = device.record_event()  # earlier work may still use the memory of the target
    for number, start in enumerate(range(0, host.size, size)):
        slot, part = number % 2, host[start : start + size]
        if sent[slot] is not None:
            device.synchronize(sent[slot])  # after this, its pinned memory can be reused
        buffer = pinned[slot][: part.size]
        copy_rows(part, buffer)
        sent[slot] = device.send([(buffer, target[start : start + part.size])], before)
    for event in sent:
        device.await_event(event)
        device.synchronize(event)  # before the pinned memory is released


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


class HostParts:
    """Samples on the host, sent part by part, and outputs received part by part, while the device computes others.

    Parameters
    ----------
    device : Device
    X : ndarray, shape (n, m)
        Samples in the dtype of the network.
    outputs : int
        The number of outputs.
    size : int
        The number of samples of a part; fewer if the memory does not suffice.

    Attributes
    ----------
    result : ndarray
        The outputs, flat, by sample; they are complete at the end of :meth:`stream`.

    Raises
    ------
    DeviceMemoryError
    """

    def __init__(self, device: Device, X: np.ndarray, outputs: int, size: int) -> None:
        self._device, self._X, self._outputs = device, X, outputs
        inputs, m = X.shape
        self.result = np.empty(m * outputs, X.dtype)
        while True:
            try:
                self._buffers = [[device.empty(size * n, str(X.dtype)) for n in (inputs, outputs)] for _ in range(2)]
                break
            except DeviceMemoryError:
                if size == 1:
                    raise
            size //= 2
        self._size = size
        self._pinned = [[device.empty_pinned(size * n, str(X.dtype)) for n in (inputs, outputs)] for _ in range(2)]

    def stream(self) -> Iterator[tuple[Any, Any]]:
        """Yield the samples of each part, flat, by sample, and the array for its outputs, both on the device."""
        device, (inputs, m), k = self._device, self._X.shape, self._outputs
        sent: list[Any] = [None, None]
        received: list[Any] = [None, None]
        computed = [device.record_event()] * 2  # earlier work may still use the memory of the buffers
        for number, start in enumerate(range(0, m, self._size)):
            slot, stop = number % 2, min(m, start + self._size)
            count = stop - start
            x, out = self._buffers[slot][0][: count * inputs], self._buffers[slot][1][: count * k]
            host_x, host_out = self._pinned[slot][0][: count * inputs], self._pinned[slot][1][: count * k]
            if sent[slot] is not None:
                device.synchronize(sent[slot])  # after this, its pinned memory can be reused
            copy_rows(self._X[:, start:stop].T, host_x.reshape(count, inputs))
            sent[slot] = device.send([(host_x, x)], computed[slot])
            device.await_event(sent[slot])
            if received[slot] is not None:
                device.await_event(received[slot])  # before its outputs are overwritten
            yield x, out
            computed[slot] = device.record_event()
            received[slot] = device.receive(out, host_out, computed[slot])
            if number:
                self._keep(number - 1, received)
        self._keep(number, received)

    def _keep(self, number: int, received: Sequence[Any]) -> None:
        """Wait for the outputs of a part, and copy them to the result."""
        self._device.synchronize(received[number % 2])
        part = self.result[number * self._size * self._outputs :][: self._size * self._outputs]
        part[...] = self._pinned[number % 2][1][: part.size]
