"""Step: a training step for batches of one size, with its own buffers, as two tapes: gradient and update."""

from typing import Any, NamedTuple

import numpy as np

from deepnotes.backends import Plan
from deepnotes_cupy import control, geometry
from deepnotes_cupy.backward import Targets, append_loss, backward
from deepnotes_cupy.device import Call, Device, Factors
from deepnotes_cupy.forward import Masks, forward, round_weights
from deepnotes_cupy.lowering import DenseRow, lower_plan
from deepnotes_cupy.sources import kernels
from deepnotes_cupy.tape import Tape

CONCURRENT = 1 << 22
"""The largest number of elements in a layer of a batch for which products run concurrently: larger ones fill a GPU."""
SCALAR_STEPS = 1 << 13
"""The number of updates whose scalars fit on the device at a time."""


class Arrays(NamedTuple):
    """The arrays that training changes: θ and the optimizer's slots, shape (p,) each."""

    theta: Any
    slots: tuple[Any, ...]


class Source(NamedTuple):
    """The arrays that batches are gathered from, flat, by sample; Y may hold class indices, and w may be None."""

    X: Any
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
    g : array, shape (p,)
        The gradient.
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
        self.control = device.empty(control.SIZE, "uint8")
        self.lowered = lower_plan(plan)
        self.columns = 1 + len(self.lowered.update.scalars)
        self.scalars = device.empty(self.columns * SCALAR_STEPS, "float64")
        self.current = device.empty(self.columns, "float64")
        self.g = device.empty(p, plan.dtype)
        self.partial = device.empty(3 * blocks, "float64")
        self.order = device.empty(0, "int64")
        self.source = device.empty(5, "int64")
        self._device = device
        self._bound: tuple[Any, ...] = ()

    def bind(self, source: Source, batch_size: int) -> None:
        """Gather batches from the arrays of `source` from now on, at the indices in `order`."""
        arrays = *source, self.order
        if not (
            self._bound
            and batch_size == self._bound[-1]
            and all(a is b for a, b in zip(arrays, self._bound, strict=False))
        ):
            addresses = [0 if x is None else self._device.address(x) for x in arrays]
            self._device.upload(np.array([*addresses, batch_size], np.int64), self.source)
            self._bound = *arrays, batch_size  # keeps the arrays alive

    def unbind(self) -> None:
        """Release the data."""
        self._bound = ()


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
        dtype, layout, theta = plan.dtype, plan.layout, arrays.theta
        inputs, k = layout.sizes[0], layout.sizes[-1]
        targets_per_sample = 1 if plan.class_indices else k
        rows, loss, optimizer_update = shared.lowered
        widest = max(row.n for row in rows)
        gradient, update = Tape(device, dtype, factors, m * widest <= CONCURRENT, True), Tape(device, dtype, factors)
        self.gradient, self.update = gradient, update
        Y = gradient.empty(m * targets_per_sample)
        w = gradient.empty(m) if weighted else None
        with gradient.aside():
            rounded = round_weights(gradient, theta, layout.decaying)
        half, kind = gradient.empty_factor(m * inputs) if isinstance(rows[0], DenseRow) else (None, 0)
        X = gradient.empty(m * inputs if half is None else 0)
        if half is not None:
            gradient.keep_factor(X, half)
        gradient.launch(
            "gather", (inputs, m), shared.source, shared.control, X, half, kind, Y, w, inputs, targets_per_sample, m
        )
        gradient.rejoin()
        targets = Targets(Y, plan.class_indices, w)
        masks = Masks(plan.seed, shared.control)
        caches = forward(gradient, rows, theta, rounded, X, m, masks, loss.fused)
        D, L = gradient.empty(m * widest), gradient.empty(m)
        row, _, Z, A = caches[-1]
        dZ = append_loss(gradient, loss, row, Z, None if loss.fused else A, theta, targets, m, D, L, scale)
        if loss.fused and dZ is None:
            dZ = D[: m * row.n]
        backward(gradient, caches, shared.g, rounded, m, D, dZ, masks, scale)
        p, decaying = layout.size, layout.decaying
        gradient.launch("gradient_norm", (p,), shared.g, theta, p, decaying, plan.l2, L, m, shared.partial)
        self.safe_step, self.clip = 1e-4 * float(np.finfo(dtype).max), plan.clip_norm or 0.0
        gradient.launch(
            "check_update", (1,), shared.control, shared.partial, shared.blocks, m, shared.scalars,
            shared.columns, shared.current, self.clip, self.safe_step,
        )  # fmt: skip
        operands = theta, shared.g, *arrays.slots, p, decaying, shared.control, shared.current
        update.launch(optimizer_update.launch, (p,), *operands)

    @property
    def names(self) -> list[str]:
        """The names of a step's calls, in order; each is a node of its graph."""
        return [*self.gradient.names, *self.update.names]

    def spoil(self) -> None:
        """Overwrite all intermediate results of a step, so that none of them can be used by accident."""
        for buffer in (*self.gradient.buffers, self._shared.g, self._shared.partial, self._shared.current):
            buffer.fill(float("nan") if buffer.dtype.kind == "f" else 0x7FFF)  # NaN in both 16-bit formats

    def compute(self) -> None:
        """Enqueue the gradient of the next batch, and the check of whether its update may be made."""
        self.gradient.run()

    def run(self) -> None:
        """Enqueue the whole step: the gradient and the update."""
        self.compute()
        self.update.run()
