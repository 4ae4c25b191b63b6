"""Sparse samples: rows of a CSR matrix that are made dense a chunk of batches at a time."""

from collections.abc import Iterator
from typing import Any, cast

import numpy as np

from deepnotes.backends.base import Backend
from deepnotes.backends.program import Batches, Chunk, Data, Program, State
from deepnotes.equations.array import Array
from deepnotes.nn.steps import Gradient

BYTES = 1 << 26
"""The bytes of dense samples in memory at a time, or those of one batch if they are more."""


class SparseSamples:
    """A CSR matrix, shape (m, n), that stands for the X of a Data, shape (n, m); its columns are dense.

    Parameters
    ----------
    rows : sparse matrix, shape (m, n)
    dtype : dtype
    """

    def __init__(self, rows: Any, dtype: Any) -> None:
        self.rows, self.dtype = rows, np.dtype(dtype)
        self.shape = rows.shape[::-1]

    def __getitem__(self, at: tuple[slice, Any]) -> np.ndarray:
        """Return ``X[:, indices]``, dense."""
        return np.asarray(self.rows[at[1]].toarray(), dtype=self.dtype).T

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield all samples in turn, dense, shape (n, some)."""
        step = max(1, BYTES // (self.shape[0] * self.dtype.itemsize))
        for start in range(0, self.shape[1], step):
            yield self[:, slice(start, start + step)]


class SparseProgram:
    """A Program that makes samples dense before another Program trains on them.

    Parameters
    ----------
    program : Program
    backend : Backend
    """

    def __init__(self, program: Program, backend: Backend) -> None:
        self.program, self.backend = program, backend

    def train(self, state: State, batches: Batches) -> Chunk:
        """Make one update per mini-batch; see :meth:`Program.train`."""
        data, order, batch_size, rates, sums = batches
        X = cast(SparseSamples, data.X)
        per_batch = batch_size * X.shape[0] * X.dtype.itemsize
        updates = max(1, BYTES // per_batch)
        for first in range(0, len(rates), updates):
            part = order[first * batch_size : (first + updates) * batch_size]
            now = rates[first : first + updates]
            chunk = self.program.train(
                state, Batches(self._dense(data, part), np.arange(len(part)), batch_size, now, sums)
            )
            sums = chunk.sums
            if chunk.steps < len(now):
                break
        return chunk._replace(steps=first + chunk.steps)

    def gradients(self, state: State, data: Data) -> Gradient:
        """Return the cost of all of `data` as one batch, and its gradient; all samples are made dense at once."""
        return self.program.gradients(state, self._dense(data, np.arange(data.X.shape[1])))

    def update(self, state: State, g: Array, rate: float) -> None:
        """Make one update with the gradient `g`, shape (p,)."""
        self.program.update(state, g, rate)

    def _dense(self, data: Data, indices: np.ndarray) -> Data:
        chosen = self.backend.from_numpy(indices)
        Y, w = (None if a is None else self.backend.ops.gather(a, chosen) for a in data[1:])
        X = self.backend.from_numpy(cast(Any, data.X)[:, indices])
        return Data(X, cast(Array, Y), w)
