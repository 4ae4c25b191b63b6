"""The Numba backend: compiled training and prediction on NumPy's arrays."""

import logging
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module

from deepnotes.backends import (
    Backend,
    Inference,
    Layer,
    Layout,
    Plan,
    Program,
    RecordedProgram,
    gather_into,
    recordable,
    whole,
)
from deepnotes_numba import availability, eager_kernels
from deepnotes_numba.base import ThreadedBackend
from deepnotes_numba.codes import SUPPORTED

__all__ = ["NumbaBackend", "create"]


class NumbaBackend(ThreadedBackend):
    """A backend with NumPy's arrays, whose Programs are compiled by Numba.

    Parameters
    ----------
    threads : int, optional
        The maximum number of threads of a call. By default, it depends on the machine and on the settings of other
        libraries. A call with little work uses fewer threads; see :mod:`deepnotes_numba.thread_count`.
    """

    determinism = "any threads"

    def __init__(self, threads: int | None = None) -> None:
        super().__init__("numba", eager_kernels.kernels())
        self.threads = None if threads is None else whole("threads", threads, 1)

    def compile(self, plan: Plan) -> Program | None:
        """Return the compiled Program, a recorded one if a part has no kernel, or None if a part has no formula."""
        if not SUPPORTED.has_plan(plan):
            if recordable(plan):
                return RecordedProgram(self, plan, gather_into)
            _log_eager(plan)
            return None
        from deepnotes_numba.program import NumbaProgram  # imported late, since importing Numba takes a second

        return NumbaProgram(self, plan)

    def compile_inference(self, layers: Sequence[Layer], layout: Layout, dtype: str) -> Inference | None:
        """Return the compiled forward pass, or None if a layer or activation has no kernel."""
        if not SUPPORTED.has_layers(layers, layout.sizes[0]):
            _log_eager(layers)
            return None
        from deepnotes_numba.inference import NumbaInference

        return NumbaInference(self, layers, layout, dtype)

    def warmup(self, dtypes: Sequence[str] = ("float32", "float64")) -> Iterator[str]:
        """Compile training and prediction for each dtype, or load them from the cache; see :meth:`Backend.warmup`."""
        from deepnotes_numba.warmup import warmup

        yield from warmup(self, dtypes)

    def run_each(self, tasks: Sequence[Callable[[], None]]) -> None:
        """Run as many tasks at a time as a call may use threads, each in one thread; see :meth:`Backend.run_each`."""
        from deepnotes_numba import task_threads

        task_threads.run_each(tasks, self.threads)

    def describe(self) -> str:
        """Return the versions of Numba and NumPy."""
        return ", ".join(f"{name} {import_module(name).__version__}" for name in ("numba", "numpy"))


def _log_eager(plan: object) -> None:
    logging.getLogger("deepnotes").debug("numba: %s has a part without a kernel, so it runs eagerly", plan)


def create(threads: int | None = None) -> Backend:
    """Return the Numba backend; this is its entry point.

    Parameters
    ----------
    threads : int, optional
        See :class:`NumbaBackend`.

    Raises
    ------
    ArgumentError
        If `threads` is not an integer of at least 1.
    BackendUnavailable
        If Numba cannot be imported, or its settings disable compilation.
    """
    availability.check()
    return NumbaBackend(threads)
