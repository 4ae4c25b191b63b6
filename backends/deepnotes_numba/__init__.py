"""The Numba backend: whole mini-batches inside one compiled call, on NumPy's arrays."""

import logging
from typing import Any, cast

import numpy as np

from deepnotes.array import Array, Namespace
from deepnotes.backend import Backend
from deepnotes.errors import BackendUnavailable
from deepnotes.plan import Plan
from deepnotes.program import Program

__all__ = ["NumbaBackend", "create"]


def gather(xp: Namespace, X: Array, indices: Array) -> Array:
    """Return ``X[:, indices]``; ``numpy.take`` would copy a transposed X whole before it takes a few columns."""
    return X[:, indices]


class NumbaBackend(Backend):
    """NumPy arrays, and Programs compiled by Numba."""

    def __init__(self) -> None:
        super().__init__("numba", np, {"gather": gather})

    def compile(self, plan: Plan) -> Program | None:
        """Return the compiled Program, or None for layers, activations or losses that are not the library's."""
        if not plan.is_library:
            logging.getLogger("deepnotes").debug("numba: %s holds parts of the user's own, so it runs eagerly", plan)
            return None
        from deepnotes_numba.program import NumbaProgram

        return NumbaProgram(self, plan)

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

    def describe(self) -> str:
        """Return the versions that matter."""
        from importlib.metadata import version

        return f"numba {version('numba')}, numpy {np.__version__}, scipy {version('scipy')}"


def create() -> Backend:
    """Return the backend; the entry point."""
    try:
        import numba
        import scipy  # noqa: F401 - Numba's matrix products need it
    except ImportError as error:
        raise BackendUnavailable("numba", str(error), 'pip install "deepnotes[numba]"') from error
    del numba
    return NumbaBackend()
