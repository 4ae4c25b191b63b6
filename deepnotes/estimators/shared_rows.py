"""Samples that several estimators train on at the same time, each on some of them; there is one copy in all."""

from hashlib import sha256
from typing import Any, cast

import numpy as np
from scipy.sparse import issparse

from deepnotes.backends.base import Backend
from deepnotes.backends.program import Data
from deepnotes.backends.samples import Columns, Subset
from deepnotes.estimators.sparse import SparseSamples


def columns_of(rows: Any, backend: Backend, dtype: np.dtype[Any]) -> Columns:
    """Return rows, shape (m, n), as samples of a backend, which are columns: shape (n, m).

    Sparse rows are converted to dense arrays when they are read, if the backend's arrays are on the host.
    """
    if issparse(rows) and backend.on_host:
        return SparseSamples(backend, rows.tocsr(), dtype)
    dense = rows.toarray() if issparse(rows) else rows
    return backend.from_numpy(np.asarray(dense, dtype=dtype).T)


class SharedRows:
    """Some rows of an array or a sparse matrix; all subsets share its conversions, and equal indices and targets.

    Parameters
    ----------
    rows : ndarray or sparse matrix, shape (m, n)
        All rows.
    indices : ndarray of int, shape (k,), optional
        The indices of the chosen rows, by default of all. An index may occur several times.
    """

    def __init__(self, rows: Any, indices: np.ndarray | None = None) -> None:
        self._rows, self.indices = rows, np.arange(rows.shape[0]) if indices is None else indices
        self.shape, self.dtype = (len(self.indices), rows.shape[1]), rows.dtype
        self._shared: dict[tuple[Any, ...], Any] = {}

    def __getitem__(self, indices: np.ndarray) -> "SharedRows":
        """Return the chosen rows at these indices, without a copy."""
        absolute = self.indices[indices]
        chosen = SharedRows(self._rows, self._shared.setdefault(("indices", _digest(absolute)), absolute))
        chosen._shared = self._shared
        return chosen

    def data(self, backend: Backend, dtype: np.dtype[Any], Y: np.ndarray, w: np.ndarray | None) -> Data:
        """Return the chosen rows as data on a backend, with their targets, shape (n[L], k), and weights, (1, k)."""
        key: tuple[Any, ...] = "columns", backend, dtype
        if key not in self._shared:
            self._shared[key] = columns_of(self._rows, backend, dtype)
        X = Subset(backend, self._shared[key], self.indices)
        parts = X, self._subset(backend, Y), None if w is None else self._subset(backend, w)
        return Data._make(cast(Any, parts))  # a Program gets the arrays of all rows, see data_for_program

    def _subset(self, backend: Backend, values: np.ndarray) -> Subset:
        """Return the values of the chosen rows, shape (n, k), as a subset of an array for all rows."""
        of_all = np.zeros((len(values), self._rows.shape[0]), values.dtype)
        of_all[:, self.indices] = values  # rows with an equal index have equal values
        key = "values", backend, of_all.dtype, _digest(of_all)
        if key not in self._shared:
            self._shared[key] = backend.from_numpy(of_all)
        return Subset(backend, self._shared[key], self.indices)


def _digest(array: np.ndarray) -> bytes:
    return sha256(array.tobytes()).digest()
