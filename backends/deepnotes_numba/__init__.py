"""The Numba backend: chunks of mini-batches inside one compiled call, on NumPy's arrays."""

import logging
from importlib import import_module
from importlib.metadata import version

from deepnotes.backend import Backend
from deepnotes.errors import BackendUnavailable
from deepnotes.host import HostBackend
from deepnotes.plan import Plan
from deepnotes.program import Program

__all__ = ["NumbaBackend", "create"]


class NumbaBackend(HostBackend):
    """NumPy's arrays, and Programs compiled by Numba."""

    def __init__(self) -> None:
        super().__init__("numba")

    def compile(self, plan: Plan) -> Program | None:
        """Return the compiled Program, or None for layers, activations or losses that are not the library's."""
        if not plan.is_library:
            logging.getLogger("deepnotes").debug("numba: %s holds parts of the user's own, so it runs eagerly", plan)
            return None
        from deepnotes_numba.program import NumbaProgram  # not before it is needed: it takes Numba a second

        return NumbaProgram(self, plan)

    def describe(self) -> str:
        """Return the versions that matter."""
        return ", ".join(f"{name} {version(name)}" for name in ("numba", "numpy", "scipy"))


def create() -> Backend:
    """Return the backend; the entry point.

    Raises
    ------
    BackendUnavailable
        If Numba, or SciPy, which its matrix products need, cannot be imported.
    """
    try:
        for name in ("numba", "scipy"):
            import_module(name)
    except ImportError as error:
        raise BackendUnavailable("numba", str(error), 'pip install "deepnotes[numba]"') from error
    return NumbaBackend()
