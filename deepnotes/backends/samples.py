"""Samples: columns that are read from a file or from host memory when they are needed."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from deepnotes.backends.program import Data
from deepnotes.equations.array import Array

if TYPE_CHECKING:
    from deepnotes.backends.base import Backend

Indices: TypeAlias = np.ndarray | slice
"""The indices of samples, as an array of int64 or as a slice ``start:stop``."""


class Samples:
    """Samples, targets or weights, one in each column, of which only a limited number are in memory at a time.

    A subclass defines :meth:`read`. :class:`~deepnotes.backends.Data` may hold Samples instead of arrays.

    Parameters
    ----------
    backend : Backend
        The backend of the arrays that :meth:`take` returns.
    shape : (int, int)
        The numbers of features and of samples.
    most : int
        The largest number of samples to read at a time.

    Attributes
    ----------
    read_by_programs : bool
        Whether the Programs of the backend accept these Samples. If not, which is the default, a Program gets arrays
        instead, each with as many batches as fit into `most` samples, but at least one batch. An Inference always gets
        arrays.
    """

    ndim = 2
    read_by_programs = False

    def __init__(self, backend: "Backend", shape: tuple[int, int], most: int) -> None:
        self.backend, self.shape, self.most = backend, shape, max(1, most)

    def read(self, indices: Indices) -> np.ndarray:
        """Return the samples at `indices`, shape (n, k), as a NumPy array in the dtype of the network."""
        raise NotImplementedError

    def take(self, indices: Indices) -> Array:
        """Return the samples at `indices`, shape (n, k), as an array of the backend."""
        return self.backend.from_numpy(self.read(indices))


Columns: TypeAlias = Array | Samples
"""Samples, targets or weights, one in each column: an array of the backend, or Samples."""

BYTES_AT_A_TIME = 1 << 26
"""The number of bytes of a subset to gather at a time."""


class Subset(Samples):
    """Some samples of an array or of Samples, in the order of their indices; they are copied only when they are read.

    A Program gets the whole instead, and other indices.

    Parameters
    ----------
    backend : Backend
    whole : Array or Samples
    indices : ndarray of int64, shape (m,)
        May contain an index several times.
    """

    def __init__(self, backend: "Backend", whole: "Columns", indices: np.ndarray) -> None:
        n = whole.shape[0]
        most = whole.most if isinstance(whole, Samples) else BYTES_AT_A_TIME // (8 * max(1, n))
        super().__init__(backend, (n, len(indices)), most)
        self.whole, self.indices = whole, indices
        self.read_by_programs = not isinstance(whole, Samples) or whole.read_by_programs

    def read(self, indices: Indices) -> np.ndarray:
        """Return some samples as a NumPy array; see :meth:`Samples.read`."""
        if isinstance(self.whole, Samples):
            return self.whole.read(self.indices[indices])
        return self.backend.to_numpy(self.take(indices))

    def take(self, indices: Indices) -> Array:
        """Return some samples as an array of the backend; see :meth:`Samples.take`."""
        if isinstance(self.whole, Samples):
            return self.whole.take(self.indices[indices])
        chosen: Any = self.indices[indices]
        if isinstance(self.whole, np.ndarray) and self.whole.flags.c_contiguous:
            # The result has the same order in memory, on which the bits of NumPy's products depend.
            return self.whole.take(chosen, 1)
        gathered: Array = self.backend.ops.gather(self.whole, self.backend.from_numpy(chosen))
        return gathered


def take(backend: "Backend", data: Data, indices: np.ndarray) -> Data:
    """Return the samples of `data` at `indices`, shape (k,), in arrays of the backend."""
    chosen = backend.from_numpy(indices)
    return Data._make(
        x if x is None else x.take(indices) if isinstance(x, Samples) else backend.ops.gather(x, chosen) for x in data
    )


def spans(*arrays: Columns) -> Iterator[slice]:
    """Yield slices that together cover all samples; no slice is longer than the ``most`` of any Samples in `arrays`."""
    m = arrays[0].shape[1]
    length = min((x.most for x in arrays if isinstance(x, Samples)), default=max(1, m))
    for start in range(0, max(1, m), length):
        yield slice(start, min(start + length, m))


def columns(x: Columns, span: slice) -> Array:
    """Return the columns in `span`, from an array or from Samples, as an array of the backend."""
    return x.take(span) if isinstance(x, Samples) else x[:, span]


def host_columns(backend: "Backend", x: Columns, span: slice = slice(None)) -> np.ndarray:
    """Return the columns in `span`, from an array or from Samples, as a NumPy array."""
    return x.read(span) if isinstance(x, Samples) else backend.to_numpy(x[:, span])
