"""Sparse samples: rows of a CSR matrix, converted to dense arrays a few batches at a time."""

from typing import Any

import numpy as np

from deepnotes.backends.base import Backend
from deepnotes.backends.samples import Indices, Samples

BYTES = 1 << 26
"""The largest number of bytes of dense samples in memory at a time; a larger batch is converted as a whole."""


class SparseSamples(Samples):
    """The rows of a CSR matrix as samples of a backend, which reads them as dense arrays of `dtype`.

    Parameters
    ----------
    backend : Backend
    rows : sparse matrix, shape (m, n)
    dtype : dtype
    """

    def __init__(self, backend: Backend, rows: Any, dtype: Any) -> None:
        m, n = rows.shape
        self._rows, self._dtype = rows, np.dtype(dtype)
        super().__init__(backend, (n, m), BYTES // (n * self._dtype.itemsize))

    def read(self, indices: Indices) -> np.ndarray:
        """Return the samples at k `indices` as a dense array, shape (n, k)."""
        return np.asarray(self._rows[indices].toarray(), dtype=self._dtype).T
