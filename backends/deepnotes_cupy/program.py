"""The Program of this backend: it enqueues a chunk of mini-batches as CUDA graphs, then reads the result."""

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.backends import (
    ArgumentError,
    Batches,
    Chunk,
    Data,
    DeviceMemoryError,
    EagerProgram,
    Gradient,
    Plan,
    State,
    Sums,
    squared_norm,
)
from deepnotes_cupy import control
from deepnotes_cupy.arrays import flatten_by_sample
from deepnotes_cupy.lowering import stored_per_sample
from deepnotes_cupy.replay import Replay
from deepnotes_cupy.resident import Refused, Resident, fit
from deepnotes_cupy.scaling import LossScale
from deepnotes_cupy.step import EPOCHS, SCALAR_STEPS, Arrays, Shared, Source, Step
from deepnotes_cupy.streaming import HostSamples, Stage

if TYPE_CHECKING:
    from deepnotes_cupy.base import DeviceBackend

MAX_REPLAYS = 3
"""The largest number of batch sizes whose buffers are kept. Most training runs have two: the last batch is smaller."""
MAX_RESIDENTS = 16
"""The same for training in shared memory, where there are no buffers."""
MAX_INDICES = 1 << 22
"""The largest number of sample indices on the device at a time."""


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
        self._targets = 1 if plan.class_indices else plan.layout.sizes[-1]
        self._arrays: Arrays | None = None
        self._replays: dict[tuple[int, bool], Replay] = {}
        self._driver, self._residents = backend.driver, dict[int, Resident | None]()
        if self._driver == "resident":
            self._resident(1)
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
                    self._replays.clear()
                    stopped = 0
                if stopped:
                    break
        return chunk._replace(steps=done)

    def train_epochs(self, state: State, batches: Batches) -> list[Chunk]:
        """Make the updates of several epochs; see :meth:`deepnotes.backends.EpochProgram.train_epochs`.

        The host waits for the device only at the end of a chunk of epochs.
        """
        order, (epochs, updates), chunks = batches.order, batches.rates.shape, list[Chunk]()
        per_epoch = updates * min(batches.batch_size, order.shape[1])  # with the last batch filled up
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
            step = self._replay(state, m, data.w is not None).step
            self._send_order(np.arange(m), m)
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
            drivers: list[Replay | Resident | None] = [*self._replays.values(), *self._residents.values()]
            for driver in drivers:
                if driver:
                    driver.unbind()

    # --- a chunk ----------------------------------------------------------------------------------------------------

    def _train(self, state: State, batches: Batches) -> tuple[Chunk, int]:
        """Enqueue as many updates as the buffers hold; return the Chunk, and the field `stopped` of ``Control``."""
        steps = min(
            len(batches.rates), SCALAR_STEPS, max(1, MAX_INDICES // batches.batch_size), self._scale.until_growth
        )
        data, order, batch_size, rates, sums = batches.first(steps)
        # This comes first, since its error suggests a batch size that fits.
        self._trainer(state, min(batch_size, len(order)), data.w is not None)
        self._start(state, rates, sums)
        if any(isinstance(x, HostSamples) for x in data):
            self._enqueue_from_host(state, data, order, batch_size)
        else:
            self._send_order(order, data.X.shape[1])
            self._enqueue(state, self._source(data), batch_size, len(order))
        result = control.read(self._device.download(self._shared.control))
        done, stopped = int(result["updates"]), int(result["stopped"])
        if done != steps and not stopped:
            raise RuntimeError(f"the device made only {done} of {steps} updates, but reported no reason to stop")
        state.step += done
        if self._scale.record(done):
            self._replays.clear()
        chunk = Chunk(float(result["loss_sum"]), float(result["weight_sum"]), done, float(result["cost"]))
        return chunk, stopped

    def _train_epochs(self, state: State, batches: Batches) -> list[Chunk]:
        """Enqueue all epochs; return a Chunk for each, up to the one in which training stops."""
        data, _, batch_size, rates, sums = batches
        (epochs, updates), samples = rates.shape, data.X.shape[1]
        order = _checked(batches.order, samples)
        per_epoch = order.shape[1]
        batch_size = min(batch_size, per_epoch)
        # Batch number i begins at index i * batch_size. So each epoch is filled up to whole batches; the indices that
        # are added are not used.
        order = np.pad(order, ((0, 0), (0, updates * batch_size - per_epoch)))
        with self._device.section():
            self._trainer(state, batch_size, data.w is not None)  # first, as in `_train`
            self._start(state, rates.ravel(), sums)
            self._send_order(order.ravel(), order.size)
            drivers = self._drivers(state, self._source(data), batch_size, per_epoch)
            for _ in range(epochs):
                for driver, steps in drivers:
                    driver.run(steps)
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

    def _start(self, state: State, rates: np.ndarray, sums: Sums) -> None:
        """Send the optimizer's scalars for the updates of a chunk, and the control structure at its start."""
        scalars = control.table(self.plan.optimizer, self._shared.lowered.update.scalars, state.step, rates)
        self._device.upload(scalars, self._shared.scalars)
        self._device.upload(control.initial(state.step, sums), self._shared.control)

    def _drivers(
        self, state: State, source: Source, batch_size: int, count: int
    ) -> list[tuple[Replay | Resident, int]]:
        """Return what trains on `count` samples of `source` in batches, with the numbers of steps, in order."""
        if self._shared.bind(source, batch_size):  # launches on the data before would keep them in memory
            for resident in self._residents.values():
                if resident:
                    resident.unbind()
        drivers = []
        for m, steps in ((batch_size, count // batch_size), (count % batch_size, 1)):
            if m and steps:
                driver = self._trainer(state, m, source.w is not None)
                driver.bind(source, batch_size)
                drivers.append((driver, steps))
        return drivers

    def _enqueue(self, state: State, source: Source, batch_size: int, count: int) -> None:
        """Enqueue the steps for the next `count` samples, gathered from `source` in batches."""
        for driver, steps in self._drivers(state, source, batch_size, count):
            driver.run(steps)

    def _enqueue_from_host(self, state: State, data: Data, order: np.ndarray, batch_size: int) -> None:
        """Enqueue the steps for samples that stay on the host, part by part."""
        if data is not self._streamed:  # another call of fit: the arrays may have changed
            self._host_copies.clear()
            self._streamed = data
        hosts: list[np.ndarray] = [self._host_array(x) for x in data if x is not None]
        widths = self.plan.inputs, self._targets, int(data.w is not None)
        if self._stage is None or (self._stage.widths, self._stage.batch_size) != (widths, batch_size):
            self._stage = None  # released first, since the memory may not suffice for both
            self._stage = Stage(self._device, widths, self.plan.dtype, batch_size, self._stage_bytes)
        stage = self._stage
        self._send_order(stage.positions(len(order)), 2 * stage.capacity)
        for number, start in enumerate(range(0, len(order), stage.capacity)):
            part = order[start : start + stage.capacity]
            stage.send(number, hosts, part)
            self._enqueue(state, stage.source, batch_size, len(part))
            stage.release(number)

    # --- buffers and graphs -----------------------------------------------------------------------------------------

    def _trainer(self, state: State, m: int, weighted: bool) -> Replay | Resident:
        """Return what trains this state's arrays on batches of `m` samples."""
        self._use(state)
        if m not in self._residents:
            if len(self._residents) >= MAX_RESIDENTS:
                del self._residents[next(iter(self._residents))]
            self._residents[m] = self._resident(m)
        return self._residents[m] or self._replay(state, m, weighted)

    def _resident(self, m: int) -> Resident | None:
        """Return a new Resident for batches of `m` samples, or None if graphs are better.

        Raises
        ------
        ArgumentError
            If the driver "resident" was asked for, but cannot train this plan.
        """
        forced = self._driver == "resident"
        if self._driver == "graph" or (self._factors not in ("float32", "float64") and not forced):
            return None
        try:
            if self._factors not in ("float32", "float64"):
                raise Refused(f"products have {self._factors} factors")
            found = fit(self.plan, self._shared.lowered, m, self._device, forced)
        except Refused as error:
            if forced:
                raise ArgumentError(f"driver='resident' cannot train this network: {error}") from None
            logging.getLogger("deepnotes").debug("cupy: training by graphs, not in shared memory: %s", error)
            return None
        return self._arrays and Resident(self._device, self.plan, found, self._shared, self._arrays, m)

    def _use(self, state: State) -> None:
        """Prepare to train the arrays of this state."""
        arrays = (state.theta, *state.slots)
        if self._arrays is None or any(
            a is not b for a, b in zip(arrays, (self._arrays.theta, *self._arrays.slots), strict=True)
        ):
            self._arrays = Arrays(state.theta, tuple(state.slots))
            self._replays.clear()
            self._residents.clear()

    def _replay(self, state: State, m: int, weighted: bool) -> Replay:
        """Return the Replay that trains this state's arrays on batches of `m` samples."""
        self._use(state)
        key = m, weighted
        if key not in self._replays:
            if len(self._replays) >= MAX_REPLAYS:
                del self._replays[next(iter(self._replays))]
            self._replays[key] = self._capture(m, weighted)
        return self._replays[key]

    def _capture(self, m: int, weighted: bool) -> Replay:
        """Return a new Replay for batches of `m` samples, or raise an error that suggests a batch size that fits."""
        assert self._arrays is not None
        device, plan, shared, arrays = self._device, self.plan, self._shared, self._arrays
        requested = 0
        try:
            step = Step(device, plan, self._factors, self._scale.value, shared, arrays, m, weighted)
            return Replay(device, plan, step, shared, arrays, self._factors)
        except DeviceMemoryError as error:
            requested = error.requested
        # The caught exception keeps arrays alive, so the new one is raised only after it was released.
        self._replays.clear()
        free = device.free_bytes()
        per_sample = stored_per_sample(shared.lowered.rows, plan.inputs, self._targets, self._factors)
        fits = int(0.8 * free / (per_sample * np.dtype(plan.dtype).itemsize))
        if fits < 1:
            raise DeviceMemoryError(requested, free, "no batch of this network would fit")
        fits = min(1 << (fits.bit_length() - 1), max(1, m // 2))
        raise DeviceMemoryError(requested, free, f"batch_size={fits} would fit", fits)

    def _send_order(self, order: np.ndarray, expected: int) -> None:
        """Copy indices to the device, into memory for `expected` indices or more."""
        needed = max(len(order), min(expected, MAX_INDICES))
        if self._shared.order.size < needed:
            self._shared.order = self._device.empty(needed, "int64")
        self._device.upload(np.ascontiguousarray(order, np.int64), self._shared.order)

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
