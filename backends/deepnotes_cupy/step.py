"""Step: a training step for batches of one size, with its own buffers, as two tapes: gradient and update."""

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from deepnotes.backends import Plan, Sums
from deepnotes_cupy import control, geometry
from deepnotes_cupy.backward import Targets, append_loss, backward
from deepnotes_cupy.device import Call, Device, Factors
from deepnotes_cupy.forward import Masks, forward, round_weights, sources_of
from deepnotes_cupy.lowering import DenseRow, LoweredUpdate, lower_plan
from deepnotes_cupy.sources import kernels
from deepnotes_cupy.tape import Tape

CONCURRENT = 1 << 22
"""The largest number of elements in a layer of a batch for which products run concurrently: larger ones fill a GPU."""
SCALAR_STEPS = 1 << 13
"""The number of updates whose scalars fit on the device at a time."""
MAX_INDICES = 1 << 22
"""The largest number of sample indices on the device at a time."""
EPOCHS = 1 << 10
"""The largest number of epochs in a chunk."""


class Arrays(NamedTuple):
    """The arrays that training changes: θ and the optimizer's slots, shape (p,) each."""

    theta: Any
    slots: tuple[Any, ...]


class Source(NamedTuple):
    """The arrays that batches are gathered from, flat, by sample; Y may hold class indices, and w may be None."""

    X: Any
    Y: Any
    w: Any


class Batch(NamedTuple):
    """The memory of a batch: X or, if `half` is not None, X as a factor of products of a 16-bit format; Y and w."""

    X: Any
    half: Any
    kind: int
    Y: Any
    w: Any


class Shared:
    """The device memory shared by all batch sizes of a Program.

    Parameters
    ----------
    device : Device
    plan : Plan

    Attributes
    ----------
    control : array of uint8
        The structure ``Control``.
    lowered : Lowered
        The kernels of the plan.
    columns : int
        The number of scalars of an update: the learning rate, and those of the optimizer.
    scalars : array of float64
        The scalars of up to :data:`SCALAR_STEPS` updates.
    current : array of float64
        The scalars of the current update.
    targets : int
        The number of targets of a sample.
    g : array, shape (p,)
        The gradient.
    epoch_sums : array of float64
        For each epoch of a chunk, the sums of the losses and of the weights, and the last cost; see :data:`EPOCHS`.
    partial : array of float64
        For each block of the kernel ``gradient_norm``, its sum of squares, largest magnitude and sum of losses.
    order : array of int64
        The indices of the samples in a chunk.
    source : array of int64
        The structure ``Source``: the addresses of the data and of `order`.
    """

    def __init__(self, device: Device, plan: Plan) -> None:
        p = plan.layout.size
        (blocks, *_), _ = geometry.grid("gradient_norm", p, dtype=plan.dtype, processors=device.processors)
        self.blocks = blocks
        self.targets = 1 if plan.class_indices else plan.layout.sizes[-1]
        self.control = device.empty(control.SIZE, "uint8")
        self.lowered = lower_plan(plan)
        self.columns = 1 + len(self.lowered.update.scalars)
        self.scalars = device.empty(self.columns * SCALAR_STEPS, "float64")
        self.current = device.empty(self.columns, "float64")
        self.g = device.empty(p, plan.dtype)
        self.partial = device.empty(3 * blocks, "float64")
        self.epoch_sums = device.empty(3 * EPOCHS, "float64")
        self.order = device.empty(0, "int64")
        self.source = device.empty(5, "int64")
        self._device, self._dtype, self._optimizer = device, plan.dtype, plan.optimizer
        self._bound: tuple[Any, ...] = ()

    def start(self, step: int, rates: np.ndarray, sums: Sums) -> None:
        """Send the optimizer's scalars for the updates of a chunk, and the control structure at its start.

        `step` is the number of updates made before.
        """
        scalars = control.table(self._optimizer, self.lowered.update.scalars, step, rates)
        self._device.upload(scalars, self.scalars)
        self._device.upload(control.initial(step, sums), self.control)

    def send_order(self, order: np.ndarray, expected: int = 0) -> None:
        """Copy indices to the device, into memory for `expected` indices or more."""
        needed = max(len(order), min(expected, MAX_INDICES))
        if self.order.size < needed:
            self.order = self._device.empty(needed, "int64")
        self._device.upload(np.ascontiguousarray(order, np.int64), self.order)

    def bind(self, source: Source, batch_size: int) -> bool:
        """Gather batches from the arrays of `source` from now on, at the indices in `order`.

        Return whether the arrays or the batch size have changed.
        """
        arrays = *source, self.order
        changed = not (
            self._bound
            and batch_size == self._bound[-1]
            and all(a is b for a, b in zip(arrays, self._bound, strict=False))
        )
        if changed:
            addresses = [0 if x is None else self._device.address(x) for x in arrays]
            self._device.upload(np.array([*addresses, batch_size], np.int64), self.source)
            self._bound = *arrays, batch_size  # keeps the arrays alive
        return changed

    def unbind(self) -> None:
        """Release the data."""
        self._bound = ()

    @cached_property
    def end_epoch(self) -> Call:
        """A call that stores the sums of an epoch in `epoch_sums`, at its end."""
        kernel = kernels()["end_epoch"]
        return self._device.launcher(kernel, self._dtype, (1, 1, 1), kernel.threads, (self.control, self.epoch_sums))


class Step:
    """A training step on `m` samples.

    Parameters
    ----------
    device : Device
    plan : Plan
        A plan whose parts all have kernels.
    factors : str
        The precision to which products round their factors.
    scale : float
        The factor by which dZ is multiplied before it is rounded to 16 bits.
    shared : Shared
    arrays : Arrays
    m : int
    weighted : bool
        Whether the samples have weights.

    Raises
    ------
    DeviceMemoryError
    """

    def __init__(
        self, device: Device, plan: Plan, factors: Factors, scale: float, shared: Shared, arrays: Arrays, m: int,
        weighted: bool,
    ) -> None:  # fmt: skip
        self.m, self._device, self._plan, self._shared, self._arrays = m, device, plan, shared, arrays
        self._scale, self._masks = scale, Masks(plan.seed, shared.control)
        concurrent = m * max(row.n for row in shared.lowered.rows) <= CONCURRENT
        self._batches = Tape(device, plan.dtype, factors)
        self._gathers: list[tuple[Tape, Call]] = []
        self._gradients: list[tuple[Tape, int]] = []
        for _ in range(2 if concurrent else 1):  # two batches, so that one can be gathered while the other is used
            batch = self._batch(weighted)
            self._gathers.append((self._gather(batch, 0), device.aside(self._gather(batch, 1).calls)))
            # The tapes share all other memory.
            buffers = self._gradients[0][0].buffers if self._gradients else None
            tape = Tape(device, plan.dtype, factors, concurrent, True, buffers)
            self._gradients.append((tape, self._gradient(tape, batch)))
        self.update = Tape(device, plan.dtype, factors)
        self._add_update(shared.lowered.update, slice(0, plan.layout.trained), plan.layout.decaying)
        if shared.lowered.statistics is not None:
            self._add_update(shared.lowered.statistics, slice(plan.layout.trained, plan.layout.size), -1)

    def _add_update(self, update: LoweredUpdate, part: slice, decaying: int) -> None:
        """Add the update of a part of θ to the tape."""
        shared, p = self._shared, part.stop - part.start
        arrays = [x[part] for x in (self._arrays.theta, shared.g, *self._arrays.slots)]
        self.update.launch(update.launch, (p,), *arrays, p, decaying, shared.control, shared.current)

    def _batch(self, weighted: bool) -> Batch:
        """Return memory for a batch; X is gathered as a factor of products if nothing else reads it."""
        tape, inputs, rows = self._batches, self._plan.layout.sizes[0], self._shared.lowered.rows
        multiplied = isinstance(rows[0], DenseRow) and 0 not in sources_of(rows)
        half, kind = tape.empty_factor(self.m, inputs) if multiplied else (None, 0)
        X, Y = tape.empty(self.m * inputs if half is None else 0), tape.empty(self.m * self._shared.targets)
        return Batch(X, half, kind, Y, tape.empty(self.m) if weighted else None)

    def _gather(self, batch: Batch, ahead: int) -> Tape:
        """Return a tape that gathers the current batch or, if `ahead` is 1, the next one."""
        tape, shared, inputs = (
            Tape(self._device, self._plan.dtype, self._batches.factors),
            self._shared,
            self._plan.inputs,
        )
        operands = shared.source, shared.control, ahead, *batch, inputs, shared.targets, self.m
        tape.launch("gather", (inputs, self.m), *operands)
        return tape

    def _gradient(self, tape: Tape, batch: Batch) -> int:
        """Add the gradient of a batch, and the check of whether its update may be made, to a tape.

        Return the number of calls before the loss.
        """
        plan, shared, m, theta = self._plan, self._shared, self.m, self._arrays.theta
        rows, loss = shared.lowered.rows, shared.lowered.loss
        if batch.half is not None:
            tape.keep_factor(batch.X, batch.half)
        rounded = round_weights(tape, theta, plan.layout.decaying)
        caches = forward(tape, rows, theta, rounded, batch.X, m, self._masks, loss.fused)
        before_loss = len(tape.calls)
        D, L = tape.empty(m * max(row.n for row in rows)), tape.empty(m)
        row, _, Z, A = caches[-1]
        targets = Targets(batch.Y, plan.class_indices, batch.w)
        dZ = append_loss(tape, loss, row, Z, None if loss.fused else A, theta, targets, m, D, L, self._scale)
        if loss.fused and dZ is None:
            dZ = D[: m * row.n]
        backward(tape, caches, theta, shared.g, rounded, m, D, dZ, self._masks, self._scale)
        p, size, decaying = plan.layout.trained, plan.layout.size, plan.layout.decaying
        tape.launch(
            "gradient_norm", (size,), shared.g, theta, p, size, decaying, plan.l1, plan.l2, L, m, shared.partial
        )
        tape.launch(
            "check_update", (1,), shared.control, shared.partial, shared.blocks, m, shared.scalars, shared.columns,
            shared.current, plan.clip_norm or 0.0, 1e-4 * float(np.finfo(plan.dtype).max),
        )  # fmt: skip
        return before_loss

    @property
    def names(self) -> list[str]:
        """The names of a step's calls, in order; each is a node of its graph."""
        return ["gather", *self._gradients[0][0].names, *self.update.names]

    def spoil(self) -> None:
        """Overwrite all intermediate results of a step, so that none of them can be used by accident."""
        shared = self._shared
        for buffer in (
            *self._batches.buffers,
            *self._gradients[0][0].buffers,
            shared.g,
            shared.partial,
            shared.current,
        ):
            buffer.fill(float("nan") if buffer.dtype.kind == "f" else 0x7FFF)  # NaN in both 16-bit formats

    def compute(self) -> None:
        """Enqueue the gradient of the next batch, and the check of whether its update may be made."""
        self._gathers[0][0].run()
        self._gradients[0][0].run()

    def run(self, steps: int = 1) -> None:
        """Enqueue whole steps: batches are gathered while the ones before train."""
        count = len(self._gathers)
        for number in range(steps):
            if count == 1 or not number:
                self._gathers[number % count][0].run()
            tape, before_loss = self._gradients[number % count]
            for index, call in enumerate(tape.calls):
                if index == before_loss and count > 1 and number + 1 < steps:
                    # Not earlier: it would slow down the product of the first layer, which needs the whole device.
                    self._gathers[(number + 1) % count][1]()
                call()
            self.update.run()
