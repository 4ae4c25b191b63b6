"""Streaming of samples from disk: they are converted and standardized for a chunk of batches at a time."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.backends.program import Data
from deepnotes.datasets import on_disk
from deepnotes.datasets.on_disk import OnDisk, is_mapped
from deepnotes.equations.array import Array

if TYPE_CHECKING:
    from deepnotes.network.protocol import NetworkLike


AT_ONCE = 1 << 26
"""The size in bytes up to which a mapped array that needs conversion is converted as a whole."""


class Streamed:
    """Samples on disk that are read in the network's form: in its dtype, standardized, on its backend.

    Attributes
    ----------
    shape : (int, int)
    most : int
        The largest number of samples in memory at a time.
    """

    ndim = 2

    def __init__(self, network: "NetworkLike", samples: OnDisk) -> None:
        self.samples, self.shape = samples, samples.shape
        self._dtype, self._backend, self._standardizer = network.host_dtype, network.backend, network.standardizer
        widest = max(8, samples.dtype.itemsize)  # the standardizer works in double precision
        self.most = max(1, on_disk.ROOM // (on_disk.COPIES * widest * max(1, samples.shape[0])))

    def take(self, order: np.ndarray) -> Array:
        """Return the samples at `order`, shape (n, k)."""
        X = self.samples.read(order)
        with np.errstate(over="ignore"):  # values beyond the dtype's range become infinite and are refused
            if self._standardizer is not None:
                X = self._standardizer(X)
            return self._backend.from_numpy(X.astype(self._dtype, copy=False))

    def __getitem__(self, key: tuple[slice, slice]) -> Array:
        """Return the samples at ``[:, start:stop]``."""
        return self.take(np.arange(*key[1].indices(self.shape[1])))

    def spans(self) -> Iterator[slice]:
        """Yield slices of at most ``most`` samples that together cover all samples."""
        for start in range(0, self.shape[1], self.most):
            yield slice(start, min(start + self.most, self.shape[1]))


def streamed(network: "NetworkLike", X: Any) -> Streamed | None:
    """Return X as :class:`Streamed` if its samples should stay on disk, else None."""
    if isinstance(X, OnDisk):
        return Streamed(network, X)
    if not is_mapped(X) or X.ndim != 2 or X.dtype.kind not in "biuf":
        return None
    if (X.dtype == network.host_dtype and network.standardizer is None) or X.size * 8 <= AT_ONCE:
        return None
    return Streamed(network, OnDisk(X.T))


def in_memory(network: "NetworkLike", data: Data, order: np.ndarray) -> tuple[Data, np.ndarray]:
    """Return data that holds the samples at `order` in memory, and their indices in these data."""
    if not isinstance(data.X, Streamed):
        return data, order
    some: list[Any] = [network.backend.take_samples(a, order) for a in data[1:] if a is not None]
    return Data(data.X.take(order), *some), np.arange(len(order))


def updates_in_memory(data: Data, batch_size: int) -> int:
    """Return the number of batches that may be in memory at a time."""
    return max(1, data.X.most // batch_size) if isinstance(data.X, Streamed) else 1 << 62
