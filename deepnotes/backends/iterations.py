"""The updates of an optimizer that evaluates the cost of all samples at several points to make one."""

from math import isfinite
from typing import Protocol

import numpy as np

from deepnotes.backends.base import Backend
from deepnotes.backends.program import Batches, Chunk, Data, State
from deepnotes.equations.array import Array
from deepnotes.equations.ops import Ops
from deepnotes.nn.full_batch import Evaluation, FullBatchOptimizer
from deepnotes.nn.plan import Plan
from deepnotes.nn.steps import Gradient


class Differentiates(Protocol):
    """What the iterations need of a Program: the cost and the gradient of a batch."""

    backend: Backend
    plan: Plan
    ops: Ops
    decays: Array

    def batch_gradient(self, state: State, data: Data, indices: np.ndarray) -> Gradient:
        """Return the cost and gradient of the batch of the samples at `indices`, shape (m,)."""


class Iterations:
    """The updates of a :class:`~deepnotes.nn.full_batch.FullBatchOptimizer` in one training run.

    An update ends where it has evaluated the cost, and the next one starts there without another evaluation.

    Parameters
    ----------
    optimizer : FullBatchOptimizer
    """

    def __init__(self, optimizer: FullBatchOptimizer) -> None:
        self._optimizer = optimizer
        self._trial: State | None = None
        self._last: tuple[Array, Evaluation] | None = None

    def update(self, program: Differentiates, state: State, batches: Batches) -> Chunk:
        """Make the update of the only batch, which has all samples; see :meth:`Program.train`."""
        xp, layout, (loss_sum, weight_sum) = program.ops.xp, program.plan.layout, batches.sums
        write, trained = program.backend.write, layout.trained
        if self._trial is None:
            self._trial = State(xp.asarray(state.theta, copy=True))
        trial = self._trial

        def evaluate(theta: Array) -> Evaluation:
            trial.theta, trial.step = write(trial.theta, 0, theta), state.step
            gradient = program.batch_gradient(trial, batches.data, batches.order)
            flat = xp.asarray(gradient.flat, copy=True)  # the next evaluation may overwrite it
            cost = float(gradient.cost)
            if program.plan.l2:
                cost += float(program.ops.l2_penalty(theta, program.decays, program.plan.l2))
            g = flat
            if trained < layout.size:
                g = xp.concat([flat[:trained], xp.zeros_like(flat[trained:])], axis=0)
            return Evaluation(cost, g, gradient._replace(flat=flat))

        start = self._evaluation_at(state.theta, program.ops) or evaluate(state.theta)
        reported, weight = float(start.source.cost), float(start.source.weight)
        if not isfinite(start.cost) or not isfinite(float(xp.max(abs(start.source.flat)))):
            return Chunk(loss_sum, weight_sum, 0, reported)
        rate = float(batches.rates[0])
        theta, end, slots = self._optimizer.iterate(program.ops, evaluate, state.theta, start, state.slots, rate)
        if end is not start and trained < layout.size:
            theta = xp.concat([theta[:trained], theta[trained:] - end.source.flat[trained:]], axis=0)
        state.theta, state.slots = write(state.theta, 0, theta), slots
        state.step += 1
        self._last = xp.asarray(state.theta, copy=True), end
        return Chunk(loss_sum + reported * weight, weight_sum + weight, 1, reported)

    def _evaluation_at(self, theta: Array, ops: Ops) -> Evaluation | None:
        """Return the evaluation with which the last update ended, if it ended at this point."""
        if self._last is None or float(ops.xp.max(abs(theta - self._last[0]))) != 0:
            return None
        return self._last[1]
