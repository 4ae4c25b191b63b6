"""The NumPy backend: runs everywhere, trains in place, and is in float64 the reference for every other backend."""

import logging
from typing import Any, cast

import numpy as np

from deepnotes.array import Array, Namespace
from deepnotes.backend import Backend
from deepnotes.plan import Plan
from deepnotes.program import Program
from deepnotes.recorded import RecordedProgram

__all__ = ["NumpyBackend", "create"]


def gather(xp: Namespace, X: Array, indices: Array) -> Array:
    """Return ``X[:, indices]``; ``numpy.take`` would copy a transposed X whole before it takes a few columns."""
    return X[:, indices]


def gather_into(X: np.ndarray, indices: np.ndarray, out: np.ndarray) -> None:
    """Write ``X[:, indices]`` to `out`, which is laid out as X is, without a temporary where X is contiguous.

    Parameters
    ----------
    X : ndarray, shape (n, samples)
    indices : ndarray of int64, shape (m,)
        Valid ones: they are not checked, since ``mode="raise"`` makes NumPy buffer the output.
    out : ndarray, shape (n, m)
    """
    if X.T.flags.c_contiguous and out.T.flags.c_contiguous:
        X.T.take(indices, 0, out.T, "clip")
    elif X.flags.c_contiguous and out.flags.c_contiguous:
        X.take(indices, 1, out, "clip")
    else:
        out[...] = X[:, indices]


class NumpyBackend(Backend):
    """NumPy as a backend."""

    def __init__(self) -> None:
        super().__init__("numpy", np, {"gather": gather})

    def compile(self, plan: Plan) -> Program | None:
        """Return the recorded Program, or None for layers, activations or losses that are not the library's."""
        if not plan.is_library:
            logging.getLogger("deepnotes").debug("numpy: %s holds parts of the user's own, so it runs eagerly", plan)
            return None
        return RecordedProgram(self, plan, gather_into)

    def from_numpy(self, x: np.ndarray, dtype: Any = None) -> Array:
        """Return `x` itself, or its conversion to `dtype`."""
        return cast(Array, np.asarray(x, dtype=dtype))

    def to_numpy(self, x: Array) -> np.ndarray:
        """Return `x` itself."""
        return np.asarray(x)

    def write(self, flat: Array, start: int, values: Array) -> Array:
        """Write `values`, shape (k,), into `flat`, shape (p,), from `start` on."""
        np.asarray(flat)[start : start + values.shape[0]] = values
        return flat


def create() -> Backend:
    """Return the backend; the entry point."""
    return NumpyBackend()
