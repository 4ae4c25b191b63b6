"""The base class of backends whose arrays are NumPy's: no transfers are needed, and arrays can be written to."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np

from deepnotes.backends.base import DTYPES, Backend
from deepnotes.equations.array import Array, Namespace


def aligned(size: int, dtype: np.dtype) -> np.ndarray:
    """Return a new, uninitialized array of `size` elements, aligned so that no vector load crosses a cache line."""
    raw = np.empty(size + 64 // dtype.itemsize, dtype)
    skip = -raw.ctypes.data % 64 // dtype.itemsize
    return raw[skip : skip + size]


def gather(xp: Namespace, X: Array, indices: Array) -> Array:
    """Return ``X[:, indices]``; unlike ``numpy.take``, this does not first copy all of a transposed X."""
    return X[:, indices]


class HostBackend(Backend):
    """The base class of backends whose arrays are NumPy's.

    Parameters
    ----------
    name : str
    kernels : mapping of str to callable, optional
        As in :class:`~deepnotes.backends.base.Backend`.
    """

    on_host = True
    dtypes = DTYPES

    def __init__(self, name: str, kernels: Mapping[str, Callable[..., Any]] | None = None) -> None:
        super().__init__(name, np, {"gather": gather} | dict(kernels or {}))

    def from_numpy(self, x: np.ndarray, dtype: Any = None) -> Array:
        """Return `x` itself, or its conversion to `dtype`."""
        return cast(Array, np.asarray(x, dtype=dtype))

    def to_numpy(self, x: Array) -> np.ndarray:
        """Return `x` itself."""
        return np.asarray(x)

    def write(self, flat: Array, start: int, values: Array) -> Array:
        """Write `values`, shape (k,), into `flat`, shape (p,), from `start` on, and return `flat`."""
        if values is not flat:
            np.asarray(flat)[start : start + values.shape[0]] = values
        return flat


def gather_into(X: np.ndarray, indices: np.ndarray, out: np.ndarray) -> None:
    """Write ``X[:, indices]`` to `out`, without a temporary array if X and `out` are contiguous in the same order.

    Parameters
    ----------
    X : ndarray, shape (n, samples)
    indices : ndarray of int64, shape (m,)
        Valid indices. They are not checked: with ``mode="raise"``, NumPy would buffer the output.
    out : ndarray, shape (n, m)
    """
    if X.T.flags.c_contiguous and out.T.flags.c_contiguous:
        X.T.take(indices, 0, out.T, "clip")
    elif X.flags.c_contiguous and out.flags.c_contiguous:
        X.take(indices, 1, out, "clip")
    else:
        out[...] = X[:, indices]
