"""Samples that stay on disk, and the part of them that is read into memory for a chunk of batches."""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.backends.base import Backend
from deepnotes.backends.program import Data
from deepnotes.backends.samples import Indices, Samples, Subset, take
from deepnotes.datasets import on_disk
from deepnotes.datasets.on_disk import OnDisk, is_mapped

if TYPE_CHECKING:
    from deepnotes.network.protocol import NetworkLike


MAX_CONVERTED_AT_ONCE = 1 << 26
"""Up to this size, in bytes as float64, a memory-mapped array that needs conversion is converted as a whole."""


class DiskSamples(Samples):
    """Samples on disk that are converted to the dtype of a network, and standardized, when they are read."""

    def __init__(self, network: "NetworkLike", source: OnDisk) -> None:
        n, m = source.shape
        widest = max(8, source.dtype.itemsize)  # the standardizer works in double precision
        super().__init__(network.backend, (n, m), on_disk.BYTES_IN_MEMORY // (on_disk.COPIES * widest * max(1, n)))
        self._source, self._dtype, self._standardizer = source, network.host_dtype, network.standardizer

    def read(self, indices: Indices) -> np.ndarray:
        """Return the samples at `indices`, shape (n, k)."""
        X = self._source.read(indices)
        with np.errstate(over="ignore"):  # values beyond the dtype's range become infinite and are refused
            if self._standardizer is not None:
                X = self._standardizer(X)
            return X.astype(self._dtype, copy=False)


def disk_samples(network: "NetworkLike", X: Any) -> DiskSamples | None:
    """Return X as :class:`DiskSamples` if it should stay on disk, else None."""
    if isinstance(X, OnDisk):
        return DiskSamples(network, X)
    if not is_mapped(X) or X.ndim != 2 or X.dtype.kind not in "biuf":
        return None
    if (X.dtype == network.host_dtype and network.standardizer is None) or X.size * 8 <= MAX_CONVERTED_AT_ONCE:
        return None
    return DiskSamples(network, OnDisk(X.T))


def data_for_program(backend: Backend, data: Data, order: np.ndarray) -> tuple[Data, np.ndarray]:
    """Return data for a Program that contain the samples at the indices `order`, and their indices in these data."""
    if isinstance(data.X, Subset):
        order = data.X.indices[order]
        data = Data._make(x.whole if isinstance(x, Subset) else x for x in data)
    if not _streamed(data):
        return data, order
    return take(backend, data, order), np.arange(len(order))


def updates_in_memory(data: Data, batch_size: int) -> int:
    """Return the largest number of batches to pass to a Program at a time."""
    return max(1, min((x.most for x in _streamed(data)), default=sys.maxsize) // batch_size)


def is_streamed(data: Data) -> bool:
    """Return whether a Program gets a part of the data at a time, because it cannot read all of them."""
    return bool(_streamed(data))


def _streamed(data: Iterable[object]) -> list[Samples]:
    """Return the arrays in `data` that a Program cannot read, because they are on disk or only on the host."""
    return [x for x in data if isinstance(x, Samples) and not x.read_by_programs]
