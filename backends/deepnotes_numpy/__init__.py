"""The NumPy backend: runs everywhere, trains in place, and is in float64 the reference for every other backend."""

import logging

import numpy as np

from deepnotes.backends import Backend, HostBackend, Plan, Program, RecordedProgram, recordable

__all__ = ["NumpyBackend", "create"]


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


class NumpyBackend(HostBackend):
    """NumPy as a backend."""

    determinism = "same threads"  # a BLAS shares a sum among threads as it likes

    def __init__(self) -> None:
        super().__init__("numpy")

    def compile(self, plan: Plan) -> Program | None:
        """Return the recorded Program, or None for parts that are not written as equations of the library."""
        if not recordable(plan):
            logging.getLogger("deepnotes").debug("numpy: %s holds parts of the user's own, so it runs eagerly", plan)
            return None
        return RecordedProgram(self, plan, gather_into)


def create() -> Backend:
    """Return the backend; the entry point."""
    return NumpyBackend()
