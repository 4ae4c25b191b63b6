"""The recorded Program: the two pure functions of a step in :mod:`deepnotes.nn.steps`, recorded and replayed.

The gradient is recorded once per batch size, the update once. The Program is for backends whose arrays are writable and
whose functions have a parameter ``out``, as NumPy's do. It contains no formulas of its own, so it cannot diverge from
the eager Program.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np

from deepnotes.backends.base import Backend
from deepnotes.backends.eager import EagerProgram
from deepnotes.backends.program import Batches, Chunk, Data, State
from deepnotes.backends.recording.replay import Recording, record
from deepnotes.equations.array import Array
from deepnotes.equations.ops import Ops
from deepnotes.nn.activations import LIBRARY as ACTIVATIONS
from deepnotes.nn.losses import LIBRARY as LOSSES
from deepnotes.nn.optimizers import LIBRARY as OPTIMIZERS
from deepnotes.nn.plan import Plan, Supported
from deepnotes.nn.steps import Gradient, gradient_step, update_step

MAX_RECORDINGS = 4
"""The number of batch sizes whose recordings are kept. Usually there are two: the last batch of an epoch is smaller."""


def recordable(plan: Plan) -> bool:
    """Return whether the equations of a plan can be recorded.

    The equations of a user-defined object, such as a layer, can be recorded only if an expression can be traced from
    the object, because they may branch on values, for example.
    """
    optimizers = OPTIMIZERS.values()
    supported = Supported(
        ACTIVATIONS,
        LOSSES,
        lambda optimizer: type(optimizer) in optimizers,
        generates=True,
        by_feature=True,
        batch_norm=True,
        embeds=True,
        l1=True,
    )
    return supported.has_plan(plan)


class RecordedBatch(NamedTuple):
    """The buffers for batches of one size, and the recording that reads them."""

    data: Data
    recording: Recording


class RecordedProgram(EagerProgram):
    """A Program that computes in place, in its own buffers; after the first batch of each size it allocates nothing.

    Parameters
    ----------
    backend : Backend
    plan : Plan
    gather : callable
        ``gather(X, indices, out)`` writes the columns of X, shape (n, samples), at m indices to out, shape (n, m).
    """

    def __init__(self, backend: Backend, plan: Plan, gather: Callable[[Any, np.ndarray, Any], None]) -> None:
        super().__init__(backend, plan)
        self._gather = gather
        self._xp = cast(Any, backend.xp)
        dtype = getattr(self._xp, plan.dtype)
        self._step = self._xp.zeros((), dtype=self._xp.int64)
        self._scalars = {name: self._xp.zeros((), dtype=dtype) for name in plan.optimizer.scalars(1, 1.0)}
        self._g = self._xp.empty((plan.layout.size,), dtype=dtype)
        self._state: tuple[Any, ...] = ()
        self._batches: dict[Any, RecordedBatch] = {}
        self._update: Recording | None = None

    def batch(self, data: Data, indices: np.ndarray) -> Data:
        """Return the samples at `indices`, shape (m,), copied to the buffers that the recording reads."""
        buffers = self._batch(data, len(indices)).data
        for source, buffer in zip(data, buffers, strict=True):
            if source is not None:
                self._gather(source, indices, buffer)
        return buffers

    def gradients(self, state: State, data: Data) -> Gradient:
        """Return the cost and gradient of `data` as one batch.

        If `data` was returned by :meth:`batch`, the next call overwrites the arrays that this call returns.
        """
        self._bind(state)
        buffers, recording = self._batch(data, data.X.shape[1])
        for source, buffer in zip(data, buffers, strict=True):
            if source is not buffer:
                cast(Any, buffer)[...] = source
        self._step[...] = state.step
        recording.run()
        if data is buffers:  # called by train, which needs the results only until the next step
            return Gradient(*recording.outputs)
        return Gradient(*(cast(Any, x).copy() for x in recording.outputs))

    def update(self, state: State, g: Array, rate: float) -> None:
        """Make one update with the gradient `g`, shape (p,), writing to the state's own arrays."""
        self._bind(state)
        if g is not self._g:
            self._g[...] = g
        for name, value in self.plan.optimizer.scalars(state.step + 1, rate).items():
            self._scalars[name][...] = value
        if self._update is None:
            self._update = self._record_update()
        self._update.run()
        state.step += 1

    def train(self, state: State, batches: Batches) -> Chunk:
        """Make one update per mini-batch; see :meth:`Program.train`."""
        self._bind(state)
        return super().train(state, batches)

    def _bind(self, state: State) -> None:
        """Discard the recordings if they were made for arrays other than those of `state`."""
        arrays = (state.theta, *state.slots)
        if len(arrays) != len(self._state) or any(a is not b for a, b in zip(arrays, self._state, strict=True)):
            self._state = arrays
            self._batches.clear()
            self._update = None

    def _batch(self, data: Data, m: int) -> RecordedBatch:
        by_sample = data.X.T.flags.c_contiguous  # type: ignore[attr-defined]
        key = (m, by_sample, data.w is None)
        if key not in self._batches:
            if len(self._batches) >= MAX_RECORDINGS:
                del self._batches[next(iter(self._batches))]
            buffers = Data(*(None if a is None else self._buffer(a, m, by_sample) for a in data))  # type: ignore[arg-type]
            self._batches[key] = RecordedBatch(buffers, self._record_gradient(buffers))
        return self._batches[key]

    def _buffer(self, source: Any, m: int, by_sample: bool) -> Any:
        """Return a buffer for m columns of `source`; if `by_sample`, each column is contiguous."""
        if by_sample:
            return self._xp.empty((m, source.shape[0]), dtype=source.dtype).T
        return self._xp.empty((source.shape[0], m), dtype=source.dtype)

    def _record_gradient(self, data: Data) -> Recording:
        def step(xp: Any, *arrays: Any) -> Gradient:
            return gradient_step(Ops(xp, {}), self.plan, *arrays)

        arrays = [a for a in data if a is not None]
        return record(self._xp, step, [self._state[0], self.decays, self._step, *arrays], into=[None, None, self._g])

    def _record_update(self) -> Recording:
        def step(xp: Any, decays: Any, g: Any, *arrays: Any) -> list[Any]:
            theta, *slots = arrays[: len(self._state)]
            scalars = dict(zip(self._scalars, arrays[len(self._state) :], strict=True))
            theta, new = update_step(Ops(xp, {}), self.plan, theta, decays, g, tuple(slots), scalars)
            return [theta, *new]

        inputs = [self.decays, self._g, *self._state, *self._scalars.values()]
        return record(self._xp, step, inputs, into=list(self._state))
