"""The Program of this backend: it enqueues a chunk of mini-batches as CUDA graphs, then reads the result."""

from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.backends import (
    Batches,
    Chunk,
    Data,
    EagerProgram,
    Gradient,
    Plan,
    State,
    squared_norm,
)
from deepnotes_cupy import control
from deepnotes_cupy.arrays import flatten_by_sample
from deepnotes_cupy.scaling import LossScale
from deepnotes_cupy.step import EPOCHS, MAX_INDICES, SCALAR_STEPS, Shared, Source
from deepnotes_cupy.streaming import HostSamples, Stage
from deepnotes_cupy.trainers import Trainers

if TYPE_CHECKING:
    from deepnotes_cupy.base import DeviceBackend


class CupyProgram(EagerProgram):
    """A Program that trains a chunk of mini-batches by replaying captured steps.

    Parameters
    ----------
    backend : DeviceBackend
    plan : Plan
        A plan that has kernels, see :data:`deepnotes_cupy.lowering.SUPPORTED`.
    """

    def __init__(self, backend: "DeviceBackend", plan: Plan) -> None:
        self._device, self._stage_bytes = backend.device, backend.stage_bytes
        with self._device.section():
            super().__init__(backend, plan)
            self._shared = Shared(self._device, plan)
        self._factors = backend.factors(plan.dtype)
        self._scale = LossScale(backend.loss_scale if self._factors == "float16" else None)
        with self._device.section():
            self._trainers = Trainers(self._device, plan, self._shared, self._factors, self._scale, backend.driver)
        self._stage: Stage | None = None
        self._host_copies: dict[int, tuple[Any, np.ndarray]] = {}
        self._source_cache: tuple[Any, Any, Any] = (None, None, None)
        self._streamed: Data | None = None

    # --- the methods of a Program -----------------------------------------------------------------------------------

    def train(self, state: State, batches: Batches) -> Chunk:
        """Make one update per mini-batch; see :meth:`deepnotes.backends.Program.train`."""
        samples = batches.data.X.shape[1]
        order = _checked(batches.order, samples)
        batch_size = min(batches.batch_size, max(samples, len(order)))  # samples may occur more than once
        remaining = batches._replace(order=order, batch_size=batch_size)
        done, chunk = 0, Chunk(*batches.sums, 0, 0.0)
        with self._device.section():
            while len(remaining.rates):
                chunk, stopped = self._train(state, remaining)
                remaining, done = remaining.after(chunk), done + chunk.steps
                if stopped == control.MAY_OVERFLOW:  # the eager Program makes the next update or reports it
                    chunk = super().train(state, remaining.first(1))
                    remaining, done = remaining.after(chunk), done + chunk.steps
                    stopped = 0 if chunk.steps else control.NOT_FINITE
                elif stopped and np.isfinite(chunk.cost) and self._scale.reduce():
                    self._trainers.forget_graphs()
                    stopped = 0
                if stopped:
                    break
        return chunk._replace(steps=done)

    def train_epochs(self, state: State, batches: Batches) -> list[Chunk]:
        """Make the updates of several epochs; see :meth:`deepnotes.backends.EpochProgram.train_epochs`.

        The host waits for the device only at the end of a chunk of epochs.
        """
        order, (epochs, updates), chunks = batches.order, batches.rates.shape, list[Chunk]()
        samples = max(batches.data.X.shape[1], order.shape[1])  # as in `train`, so that batches have the same size
        per_epoch = updates * min(batches.batch_size, samples)  # with the last batch filled up
        together = min(EPOCHS, SCALAR_STEPS // updates, MAX_INDICES // per_epoch)
        if self._factors == "float16" or any(isinstance(x, HostSamples) for x in batches.data):
            together = 1
        while len(chunks) < epochs:
            first = len(chunks)
            last = min(epochs, first + max(1, together))
            if last - first > 1:
                part = batches._replace(order=order[first:last], rates=batches.rates[first:last])
                chunks += self._train_epochs(state, part)
            else:
                chunks.append(Chunk(*batches.sums, 0, 0.0))
            if (done := chunks[-1].steps) < updates:  # the rest of the epoch, or the reason for stopping
                row = batches._replace(order=order[len(chunks) - 1], rates=batches.rates[len(chunks) - 1])
                chunk = self.train(state, row.after(chunks[-1]))
                chunks[-1] = chunk._replace(steps=done + chunk.steps)
                if chunks[-1].steps < updates:
                    break
        return chunks

    def gradients(self, state: State, data: Data) -> Gradient:
        """Return the cost and gradient of `data` as one batch; see :meth:`deepnotes.backends.Program.gradients`."""
        with self._device.section():
            xp: Any = self.ops.xp
            m = data.X.shape[1]
            dtype = getattr(xp, self.plan.dtype)
            step = self._trainers.replay(state, m, data.w is not None).step
            self._shared.send_order(np.arange(m), m)
            self._shared.bind(self._source(data), m)
            self._device.upload(control.initial(state.step), self._shared.control)
            self._device.upload(np.zeros(self._shared.columns), self._shared.scalars)
            step.compute()
            result = control.read(self._device.download(self._shared.control))
            g = self._shared.g.copy()
            cost = xp.asarray(float(result["cost"]), dtype=dtype)
            return Gradient(cost, xp.asarray(m, dtype=dtype), g, squared_norm(xp, self.plan.layout, g))

    def update(self, state: State, g: Any, rate: float) -> None:
        """Make one update with the gradient `g`; see :meth:`deepnotes.backends.Program.update`."""
        with self._device.section():
            super().update(state, g, rate)

    def release_data(self) -> None:
        """Release the data of the last training run, since another run needs the memory."""
        with self._device.section():
            self._source_cache, self._stage, self._streamed = (None, None, None), None, None
            self._host_copies.clear()
            self._trainers.unbind()

    # --- a chunk ----------------------------------------------------------------------------------------------------

    def _train(self, state: State, batches: Batches) -> tuple[Chunk, int]:
        """Enqueue as many updates as the buffers hold; return the Chunk, and the field `stopped` of ``Control``."""
        steps = min(
            len(batches.rates), SCALAR_STEPS, max(1, MAX_INDICES // batches.batch_size), self._scale.until_growth
        )
        data, order, batch_size, rates, sums = batches.first(steps)
        self._trainers.prepare(state, data.X.shape[1], batch_size, len(order), data.w is not None)
        self._shared.start(state.step, rates, sums)
        if any(isinstance(x, HostSamples) for x in data):
            self._enqueue_from_host(state, data, order, batch_size)
        else:
            self._shared.send_order(order, data.X.shape[1])
            self._enqueue(state, data, self._source(data), batch_size, len(order))
        result = control.read(self._device.download(self._shared.control))
        done, stopped = int(result["updates"]), int(result["stopped"])
        if done != steps and not stopped:
            raise RuntimeError(f"the device made only {done} of {steps} updates, but reported no reason to stop")
        state.step += done
        if self._scale.record(done):
            self._trainers.forget_graphs()
        chunk = Chunk(float(result["loss_sum"]), float(result["weight_sum"]), done, float(result["cost"]))
        return chunk, stopped

    def _train_epochs(self, state: State, batches: Batches) -> list[Chunk]:
        """Enqueue all epochs; return a Chunk for each, up to the one in which training stops."""
        data, _, batch_size, rates, sums = batches
        (epochs, updates), samples = rates.shape, data.X.shape[1]
        order = _checked(batches.order, samples)
        per_epoch = order.shape[1]
        batch_size = min(batch_size, max(samples, per_epoch))
        # Batch number i begins at index i * batch_size. So each epoch is filled up to whole batches; the indices that
        # are added are not used.
        order = np.pad(order, ((0, 0), (0, updates * batch_size - per_epoch)))
        with self._device.section():
            self._trainers.prepare(state, samples, batch_size, per_epoch, data.w is not None)
            self._shared.start(state.step, rates.ravel(), sums)
            self._shared.send_order(order.ravel(), order.size)
            trainers = self._trainers.for_batches(state, self._source(data), samples, batch_size, per_epoch)
            for _ in range(epochs):
                for trainer, steps in trainers:
                    trainer.run(steps)
                self._shared.end_epoch()
            result = control.read(self._device.download(self._shared.control))
            ended = self._device.download(self._shared.epoch_sums[: 3 * epochs]).reshape(epochs, 3)
        done, stopped, count = int(result["updates"]), int(result["stopped"]), int(result["epoch"])
        if (done, count) != (epochs * updates, epochs) and not stopped:
            raise RuntimeError(
                f"the device made only {done} of {epochs * updates} updates, but reported no reason to stop"
            )
        state.step += done
        chunks = [Chunk(loss_sum, weight_sum, updates, cost) for loss_sum, weight_sum, cost in ended[:count].tolist()]
        if count < epochs:
            last = float(result["loss_sum"]), float(result["weight_sum"])
            chunks.append(Chunk(*last, done - count * updates, float(result["cost"])))
        return chunks

    def _enqueue(self, state: State, data: Data, source: Source, batch_size: int, count: int) -> None:
        """Enqueue the steps for the next `count` samples, gathered from `source` in batches."""
        for trainer, steps in self._trainers.for_batches(state, source, data.X.shape[1], batch_size, count):
            trainer.run(steps)

    def _enqueue_from_host(self, state: State, data: Data, order: np.ndarray, batch_size: int) -> None:
        """Enqueue the steps for samples that stay on the host, part by part."""
        if data is not self._streamed:  # another call of fit: the arrays may have changed
            self._host_copies.clear()
            self._streamed = data
        hosts: list[np.ndarray] = [self._host_array(x) for x in data if x is not None]
        widths = self.plan.inputs, self._shared.targets, int(data.w is not None)
        if self._stage is None or (self._stage.widths, self._stage.batch_size) != (widths, batch_size):
            self._stage = None  # released first, since the memory may not suffice for both
            self._stage = Stage(self._device, widths, self.plan.dtype, batch_size, self._stage_bytes)
        stage = self._stage
        self._shared.send_order(stage.positions(len(order)), 2 * stage.capacity)
        for number, start in enumerate(range(0, len(order), stage.capacity)):
            part = order[start : start + stage.capacity]
            stage.send(number, hosts, part)
            self._enqueue(state, data, stage.source, batch_size, len(part))
            stage.release(number)

    # --- the data ---------------------------------------------------------------------------------------------------

    def _source(self, data: Data) -> Source:
        """Return the arrays that batches are gathered from: the data themselves, or copies at fixed addresses."""
        before, copies, source = self._source_cache
        if not (before and all(a is b for a, b in zip(data, before, strict=True))):
            arrays = [None if a is None else self._flat(a) for a in data]
            source = Source(*(None if pair is None else pair[0] for pair in arrays))
            copies = [pair is not None and pair[1] for pair in arrays]
            self._source_cache = data, copies, source
            return source
        for x, copied, target in zip(data, copies, source, strict=True):
            # The original may have changed since the last call of fit or, if it is the user's, since the last chunk.
            if copied and (x is data.X or data is not before):
                rows: Any = x.T  # type: ignore[union-attr]
                target.reshape(rows.shape)[...] = rows
        self._source_cache = data, copies, source
        return source  # type: ignore[no-any-return]

    def _flat(self, x: Any) -> tuple[Any, bool]:
        """Return an array as a flat array by sample, in the plan's dtype, and whether that is a copy."""
        xp, dtype = self.ops.xp, np.dtype(self.plan.dtype)
        converted: Any = x if x.dtype == dtype else xp.astype(x, getattr(xp, self.plan.dtype))  # class indices
        flat = flatten_by_sample(xp, converted)
        return flat, converted is not x or not x.T.flags.c_contiguous

    def _host_array(self, x: Any) -> np.ndarray:
        """Return `x` as a NumPy array; arrays on the device are downloaded once."""
        if isinstance(x, HostSamples):
            return x.array
        cached = self._host_copies.get(id(x))
        if cached is None:
            if len(self._host_copies) > 2:
                self._host_copies.clear()
            cached = self._host_copies[id(x)] = (x, self._device.download(x))
        return cached[1]


def _checked(order: np.ndarray, samples: int) -> np.ndarray:
    """Return indices of samples as a contiguous array of int64, after checking them, since the kernels do not.

    Raises
    ------
    IndexError
    """
    order = np.ascontiguousarray(order, dtype=np.int64)
    if order.size and order.view(np.uint64).max() >= samples:  # negative ones are large numbers without their sign
        raise IndexError(f"order holds indices outside 0 .. {samples - 1}")
    return order
