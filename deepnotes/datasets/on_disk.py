"""Samples that stay on disk, and their statistics."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from deepnotes.utils.errors import ArgumentError, DTypeError, ShapeError

BYTES_IN_MEMORY = 1 << 25
"""The number of bytes that samples may take in memory at a time, counting all `COPIES` of each sample."""

COPIES = 4
"""The number of copies of a sample that are in memory at once: as read, reordered, converted, and standardized."""


class OnDisk:
    """Samples that stay on disk, shape (n, m): rows of a file, presented as columns and read when needed.

    All methods of :class:`~deepnotes.Network` and ``Standardizer.fit`` accept an OnDisk as X. On every backend, only a
    few batches are in memory at a time, whatever the dtype of the file. With shuffling, the file is read at random
    positions.

    Parameters
    ----------
    rows : ndarray, shape (m, n)
        Real numbers, usually mapped into memory: ``np.load("X.npy", mmap_mode="r")``.
    index : ndarray of int64, shape (k,), optional
        The indices of the rows to use, in this order; by default all rows.
    columns : sequence of int, optional
        The indices of the columns to use, in this order; by default all columns.

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
            raise ArgumentError(f"rows: got {type(rows).__name__}, wanted a NumPy array, usually a memory-mapped one")
        if rows.ndim != 2:
            raise ShapeError.of("rows", rows.shape, "(m, n): samples as rows, as in the file")
        if rows.dtype.kind not in "biuf":
            raise DTypeError.of("rows", rows.dtype, "real numbers")
        self.rows, self.columns = rows, None if columns is None else np.asarray(columns, np.intp)
        self.index = None if index is None else np.asarray(index, np.int64)
        if self.index is not None and len(self.index) and not 0 <= self.index.min() <= self.index.max() < len(rows):
            raise ArgumentError(f"index has elements outside 0 .. {len(rows) - 1}")

    @property
    def shape(self) -> tuple[int, int]:
        """The number of features and the number of samples, (n, m)."""
        n = self.rows.shape[1] if self.columns is None else len(self.columns)
        return n, len(self.rows) if self.index is None else len(self.index)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the values in the file."""
        return self.rows.dtype

    def __getitem__(self, key: Any) -> "OnDisk":
        """Return the samples at ``[:, slice or indices]`` as another OnDisk."""
        if not (isinstance(key, tuple) and len(key) == 2 and isinstance(key[0], slice) and key[0] == slice(None)):
            raise ArgumentError(f"X[{key!r}]: wanted X[:, samples], which selects samples with all their features")
        index = np.arange(len(self.rows)) if self.index is None else self.index
        return OnDisk(self.rows, np.atleast_1d(index[key[1]]), self.columns)

    def read(self, samples: np.ndarray | slice) -> np.ndarray:
        """Return a copy of the given samples, shape (n, k), in the given order and stored by sample.

        The file itself is read in ascending order.

        Parameters
        ----------
        samples : ndarray of int64, shape (k,), or slice
            The indices of the samples.
        """
        if isinstance(samples, slice):
            samples = np.arange(*samples.indices(self.shape[1]))
        rows = samples if self.index is None else self.index[samples]
        is_ascending = bool((rows[1:] >= rows[:-1]).all())
        sorting = None if is_ascending else np.argsort(rows, kind="stable")
        by_row = np.asarray(self.rows[rows if sorting is None else rows[sorting]])
        if self.columns is not None:
            by_row = by_row[:, self.columns]
        if sorting is None:
            return np.ascontiguousarray(by_row).T
        in_order = np.empty_like(by_row, order="C")
        in_order[sorting] = by_row
        transposed: np.ndarray = in_order.T
        return transposed

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield all samples in order, k at a time, as float64 arrays of shape (n, k)."""
        n, m = self.shape
        step = max(1, BYTES_IN_MEMORY // (COPIES * 8 * max(1, n)))
        for start in range(0, m, step):
            yield self.read(np.arange(start, min(m, start + step))).astype(np.float64, copy=False)


def is_mapped(x: Any) -> bool:
    """Return whether an array is a view of a memory-mapped file."""
    while isinstance(x, np.ndarray):
        if isinstance(x, np.memmap):
            return True
        x = x.base
    return False


def statistics(X: OnDisk) -> tuple[np.ndarray, ...]:
    """Return the minimum, maximum, mean and standard deviation of each feature, each of shape (n, 1).

    Values are divided by a power of two before they are summed, so that no sum overflows.
    """
    n, m = X.shape
    low, high = np.full((n, 1), np.inf), np.full((n, 1), -np.inf)
    for block in X.blocks():  # minimum and maximum propagate NaN
        low = np.minimum(low, block.min(axis=1, keepdims=True))
        high = np.maximum(high, block.max(axis=1, keepdims=True))
    _, power = np.frexp(np.maximum(abs(low), abs(high)))
    mean = sum((np.ldexp(block, -power).sum(axis=1, keepdims=True) for block in X.blocks()), np.zeros((n, 1))) / m
    mean = np.clip(mean, np.ldexp(low, -power), np.ldexp(high, -power))
    squares = (((np.ldexp(block, -power) - mean) ** 2).sum(axis=1, keepdims=True) for block in X.blocks())
    variance = sum(squares, np.zeros((n, 1))) / m
    return low, high, np.ldexp(mean, power), np.ldexp(np.sqrt(variance), power)
