"""Samples that stay on disk: read, converted and handed on a chunk of batches at a time."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.array import Array
from deepnotes.errors import ArgumentError, DTypeError, ShapeError
from deepnotes.program import Data

if TYPE_CHECKING:
    from deepnotes.network import Network

ROOM = 1 << 25
"""Bytes that samples take at a time, with all that is made of them before they are trained on."""

COPIES = 4
"""How often they are there then: as read, in order, converted, standardized."""

AT_ONCE = 1 << 26
"""Bytes up to which a mapped array that has to be converted is converted as a whole."""


class OnDisk:
    """Samples as columns, shape (n, m), that lie in a file as rows and are read when they are needed.

    Everything of a :class:`~deepnotes.Network` takes it for X, and ``Standardizer.fit``: memory is taken for some
    batches at a time, whatever the dtype in the file, on every backend. What an epoch's order asks for is read from
    where it lies, so shuffling costs what random reading costs.

    Parameters
    ----------
    rows : ndarray, shape (m, n)
        Of real numbers, mapped into memory: as by ``np.load("X.npy", mmap_mode="r")``.
    index : ndarray of int64, shape (k,), optional
        Which rows, and in which order; by default all.
    columns : sequence of int, optional
        Which columns; by default all.

    Raises
    ------
    ArgumentError, ShapeError, DTypeError

    Examples
    --------
    >>> X = OnDisk(np.arange(6.0).reshape(3, 2))
    >>> X.shape, X[:, 1:].shape
    ((2, 3), (2, 2))
    >>> X.read(np.array([2, 0]))
    array([[4., 0.],
           [5., 1.]])
    """

    ndim = 2

    def __init__(self, rows: np.ndarray, index: np.ndarray | None = None, columns: Any = None) -> None:
        if not isinstance(rows, np.ndarray):
            raise ArgumentError(f"rows: got {type(rows).__name__}, wanted a NumPy array, mapped into memory")
        if rows.ndim != 2:
            raise ShapeError(f"rows has shape {rows.shape}, wanted (m, n): samples as rows, as they lie in the file")
        if rows.dtype.kind not in "biuf":
            raise DTypeError(f"rows: got an array of {rows.dtype}, wanted real numbers")
        self.rows, self.columns = rows, None if columns is None else np.asarray(columns, np.intp)
        self.index = None if index is None else np.asarray(index, np.int64)
        if self.index is not None and len(self.index) and not 0 <= self.index.min() <= self.index.max() < len(rows):
            raise ArgumentError(f"index holds rows outside 0 .. {len(rows) - 1}")

    @property
    def shape(self) -> tuple[int, int]:
        """Features and samples."""
        n = self.rows.shape[1] if self.columns is None else len(self.columns)
        return n, len(self.rows) if self.index is None else len(self.index)

    @property
    def dtype(self) -> np.dtype[Any]:
        """What the file holds."""
        return self.rows.dtype

    def __getitem__(self, key: Any) -> "OnDisk":
        """Return the samples at ``[:, slice or indices]``, which stay on disk."""
        if not (isinstance(key, tuple) and len(key) == 2 and isinstance(key[0], slice) and key[0] == slice(None)):
            raise ArgumentError(f"X[{key!r}]: wanted X[:, samples], all features of some samples")
        index = np.arange(len(self.rows)) if self.index is None else self.index
        return OnDisk(self.rows, np.atleast_1d(index[key[1]]), self.columns)

    def read(self, samples: np.ndarray) -> np.ndarray:
        """Return a copy of some samples, shape (n, k), laid out by sample; they are read in the order of the file.

        Parameters
        ----------
        samples : ndarray of int64, shape (k,)
            Which, and in which order.
        """
        wanted = samples if self.index is None else self.index[samples]
        ascending = bool((wanted[1:] >= wanted[:-1]).all())
        by_place = wanted if ascending else np.argsort(wanted, kind="stable")
        found = np.asarray(self.rows[wanted if ascending else wanted[by_place]])
        if self.columns is not None:
            found = found[:, self.columns]
        if ascending:
            return np.ascontiguousarray(found).T
        in_order = np.empty_like(found, order="C")
        in_order[by_place] = found
        turned: np.ndarray = in_order.T
        return turned

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield all samples in order, shape (n, k) each, as float64."""
        n, m = self.shape
        step = max(1, ROOM // (COPIES * 8 * max(1, n)))
        for start in range(0, m, step):
            yield self.read(np.arange(start, min(m, start + step))).astype(np.float64, copy=False)


class Streamed:
    """Samples on disk as a network takes them: of its dtype, standardized, on its backend.

    Attributes
    ----------
    shape : (int, int)
    most : int
        Samples that are held at a time.
    """

    ndim = 2

    def __init__(self, network: "Network", samples: OnDisk) -> None:
        self.samples, self.shape = samples, samples.shape
        self._dtype, self._backend, self._standardizer = network.host_dtype, network.backend, network.standardizer
        widest = max(8, samples.dtype.itemsize)  # the standardizer works in double precision
        self.most = max(1, ROOM // (COPIES * widest * max(1, samples.shape[0])))

    def take(self, order: np.ndarray) -> Array:
        """Return the samples at `order`, shape (n, k)."""
        X = self.samples.read(order)
        with np.errstate(over="ignore"):  # what is beyond the dtype becomes infinite, and is refused
            if self._standardizer is not None:
                X = self._standardizer(X)
            return self._backend.from_numpy(X.astype(self._dtype, copy=False))

    def __getitem__(self, key: tuple[slice, slice]) -> Array:
        """Return the samples at ``[:, start:stop]``."""
        return self.take(np.arange(*key[1].indices(self.shape[1])))

    def spans(self) -> Iterator[slice]:
        """Yield slices of at most ``most`` samples that are all of them."""
        for start in range(0, self.shape[1], self.most):
            yield slice(start, min(start + self.most, self.shape[1]))


def is_mapped(x: Any) -> bool:
    """Return whether an array is a part of a file that is mapped into memory."""
    while isinstance(x, np.ndarray):
        if isinstance(x, np.memmap):
            return True
        x = x.base
    return False


def streamed(network: "Network", X: Any) -> Streamed | None:
    """Return samples that stay on disk as the network takes them, or None where X is not to stay there."""
    if isinstance(X, OnDisk):
        return Streamed(network, X)
    if not is_mapped(X) or X.ndim != 2 or X.dtype.kind not in "biuf":
        return None
    if (X.dtype == network.host_dtype and network.standardizer is None) or X.size * 8 <= AT_ONCE:
        return None
    return Streamed(network, OnDisk(X.T))


def at_hand(network: "Network", data: Data, order: np.ndarray) -> tuple[Data, np.ndarray]:
    """Return data in which the samples at `order` are in memory, and where they are in it."""
    if not isinstance(data.X, Streamed):
        return data, order
    backend = network.backend
    chosen = backend.from_numpy(order)
    some: list[Any] = [  # what a backend has left on the host stays there until it is needed
        backend.from_numpy(a.view(np.ndarray)[:, order]) if isinstance(a, np.ndarray) else backend.ops.gather(a, chosen)
        for a in data[1:]
        if a is not None
    ]
    return Data(data.X.take(order), *some), np.arange(len(order))


def updates_at_hand(data: Data, batch_size: int) -> int:
    """Return how many batches may be in memory at a time."""
    return max(1, data.X.most // batch_size) if isinstance(data.X, Streamed) else 1 << 62


def statistics(X: OnDisk) -> tuple[np.ndarray, ...]:
    """Return of each feature the least and the greatest value, the mean and the standard deviation, shape (n, 1) each.

    The sums are of values divided by a power of two, so that none overflows.
    """
    n, m = X.shape
    low, high = np.full((n, 1), np.inf), np.full((n, 1), -np.inf)
    for block in X.blocks():  # NaN passes minimum and maximum
        low = np.minimum(low, block.min(axis=1, keepdims=True))
        high = np.maximum(high, block.max(axis=1, keepdims=True))
    _, power = np.frexp(np.maximum(abs(low), abs(high)))
    mean = sum((np.ldexp(block, -power).sum(axis=1, keepdims=True) for block in X.blocks()), np.zeros((n, 1))) / m
    mean = np.clip(mean, np.ldexp(low, -power), np.ldexp(high, -power))
    squares = (((np.ldexp(block, -power) - mean) ** 2).sum(axis=1, keepdims=True) for block in X.blocks())
    variance = sum(squares, np.zeros((n, 1))) / m
    return low, high, np.ldexp(mean, power), np.ldexp(np.sqrt(variance), power)
