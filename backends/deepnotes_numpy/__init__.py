"""The NumPy backend: it runs everywhere, trains in place, and in float64 is the reference for other backends."""

import logging
from itertools import pairwise

from deepnotes.backends import (
    Array,
    Backend,
    Batches,
    Chunk,
    Data,
    HostBackend,
    Plan,
    Program,
    RecordedProgram,
    Shard,
    State,
    gather_into,
    recordable,
)
from deepnotes_numpy.blas_threads import one_thread, threads_for

__all__ = ["NumpyBackend", "create"]


class NumpyProgram(RecordedProgram):
    """A recorded Program whose products use as many threads as suit their size."""

    def train(self, state: State, batches: Batches) -> Chunk:
        """Make one update per mini-batch; see :meth:`Program.train`."""
        sizes = self.plan.layout.sizes
        largest = max((n * k for n, k in pairwise(sizes)), default=0)
        with threads_for(largest * batches.batch_size):
            return super().train(state, batches)

    def shard_gradient(self, state: State, data: Data, shard: Shard) -> Array:
        """Return what a shard adds to the gradient and the cost, with the bits of one thread.

        See :meth:`deepnotes.backends.EagerProgram.shard_gradient`.
        """
        with one_thread():
            return super().shard_gradient(state, data, shard)


class NumpyBackend(HostBackend):
    """NumPy as a backend."""

    determinism = "same threads"  # with another number of threads, the BLAS may split a sum differently

    def __init__(self) -> None:
        super().__init__("numpy")

    def compile(self, plan: Plan) -> Program | None:
        """Return the recorded Program, or None if the plan has something that cannot be recorded."""
        if not recordable(plan):
            logging.getLogger("deepnotes").debug("numpy: %s is partly user-defined, so it runs eagerly", plan)
            return None
        return NumpyProgram(self, plan, gather_into)


def create() -> Backend:
    """Return the backend; the entry point."""
    return NumpyBackend()
