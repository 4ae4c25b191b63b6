"""Programs of optimizers that evaluate the cost of all samples several times for each update."""

from dataclasses import replace

import numpy as np

from deepnotes.backends.base import Backend
from deepnotes.backends.eager import EagerProgram
from deepnotes.backends.program import Data, Program, Shard, State
from deepnotes.backends.samples import Samples
from deepnotes.equations.array import Array
from deepnotes.nn.full_batch import FullBatchOptimizer
from deepnotes.nn.optimizers import SGD
from deepnotes.nn.plan import Plan
from deepnotes.nn.steps import Gradient


class FullBatchProgram(EagerProgram):
    """The Program of a :class:`~deepnotes.nn.full_batch.FullBatchOptimizer`: the backend's own Program evaluates.

    Parameters
    ----------
    backend : Backend
    plan : Plan
        A plan whose cost is the mean of the losses over the samples, as that of :meth:`deepnotes.Network.fit` is.
    """

    def __init__(self, backend: Backend, plan: Plan) -> None:
        super().__init__(backend, plan)
        of_gradients = replace(plan, optimizer=SGD(1.0))  # its updates are not used
        self._gradients = backend.compile(of_gradients) or EagerProgram(backend, of_gradients)

    def batch_gradient(self, state: State, data: Data, indices: np.ndarray) -> Gradient:
        """Return the cost and gradient of the batch of the samples at `indices`, shape (m,)."""
        in_order = np.array_equal(indices, np.arange(data.X.shape[1]))
        if not in_order or any(isinstance(x, Samples) for x in data):
            data = self.batch(data, indices)
        return self.gradients(state, data)

    def gradients(self, state: State, data: Data) -> Gradient:
        """Return the cost and gradient of `data` as one batch; see :meth:`Program.gradients`."""
        return self._gradients.gradients(state, data)

    def converted(self, data: Data) -> Data:
        """Return `data` in the form that :meth:`shard_gradient` reads fastest, for many calls."""
        return self._gradients.converted(data) if isinstance(self._gradients, EagerProgram) else data

    def shard_gradient(self, state: State, data: Data, shard: Shard) -> Array:
        """Return what a shard adds to the gradient and the cost; see :meth:`EagerProgram.shard_gradient`."""
        if isinstance(self._gradients, EagerProgram):
            return self._gradients.shard_gradient(state, data, shard)
        return super().shard_gradient(state, data, shard)


def program_of(backend: Backend, plan: Plan) -> Program:
    """Return a Program of the backend for a plan, or an eager one if the backend has none."""
    if isinstance(plan.optimizer, FullBatchOptimizer):
        return FullBatchProgram(backend, plan)
    return backend.compile(plan) or EagerProgram(backend, plan)
