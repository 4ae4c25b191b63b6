"""Inference on this backend: the forward pass and the losses, for a limited number of samples at a time."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from deepnotes.backends import DeviceMemoryError, EagerInference, Layer, Layout, LossFunction
from deepnotes_cupy import geometry
from deepnotes_cupy.arrays import flatten_by_sample, unflatten_by_sample
from deepnotes_cupy.backward import Targets, append_loss
from deepnotes_cupy.device import Device, Slot
from deepnotes_cupy.forward import predict, predict_few
from deepnotes_cupy.lowering import SUPPORTED, DenseRow, LoweredLoss, lower, lower_loss
from deepnotes_cupy.small_networks import SAMPLES, small_networks
from deepnotes_cupy.sources import constant, kernels
from deepnotes_cupy.streaming import HostParts
from deepnotes_cupy.tape import Tape

if TYPE_CHECKING:
    from deepnotes_cupy.base import DeviceBackend

PART_BYTES = 1 << 28
"""The most that the widest layer writes for a part; parts whose outputs stay in the L2 cache were slower on an H200."""
MIN_PART = 1024
"""The smallest number of samples of a part, unless memory is short: products of fewer samples are slow."""
HOST_PART_BYTES = 16 << 20
"""The size of the parts in which samples are sent to the device."""
MAX_PREPARED = 4
"""The largest number of tapes that are kept: two sizes, since the last part is smaller, for outputs and for losses."""


class SectionedInference(EagerInference):
    """The eager Inference, in this backend's stream.

    Parameters
    ----------
    backend : DeviceBackend
    layers : sequence of Layer
    layout : Layout
    dtype : {"float32", "float64"}
    """

    backend: "DeviceBackend"

    def predict(self, theta: Any, X: Any) -> Any:
        """Return the outputs; see :meth:`deepnotes.backends.Inference.predict`."""
        with self.backend.device.section():
            return super().predict(theta, X)

    def losses(self, theta: Any, X: Any, Y: Any, loss: LossFunction) -> tuple[Any, Any]:
        """Return outputs and losses; see :meth:`deepnotes.backends.Inference.losses`."""
        with self.backend.device.section():
            return super().losses(theta, X, Y, loss)


class Prepared(NamedTuple):
    """The computation for a number of samples: a tape, and its arguments that change from call to call."""

    tape: Tape
    slots: tuple[Slot, ...]

    def run(self, arrays: tuple[Any, ...]) -> None:
        """Enqueue the computation with these arrays."""
        for slot, array in zip(self.slots, arrays, strict=True):
            slot.array = array
        try:
            self.tape.run()
        finally:
            for slot in self.slots:
                slot.array = None  # so that their memory can be released


class CupyInference(SectionedInference):
    """Computes outputs and losses with the fused kernels; all layers must have kernels.

    A small network runs as one launch, see :mod:`deepnotes_cupy.small_networks`. Otherwise, a few samples take a launch
    or two for each layer, and more samples the products of cuBLAS, in parts of limited size. The tapes and their memory
    are kept for the last sizes.
    """

    def __init__(self, backend: "DeviceBackend", layers: Sequence[Layer], layout: Layout, dtype: str) -> None:
        super().__init__(backend, layers, layout, dtype)
        device = backend.device
        self._rows = lower(layers, layout, dtype, training=False)
        self._factors = backend.factors(dtype)
        dense = [row for row in self._rows if isinstance(row, DenseRow)]
        only_dense = len(dense) == len(self._rows)
        self._small = small_networks(device, dense, dtype, self._factors) if only_dense else []
        self._few = constant("FEW") if self._factors == dtype and only_dense else 0
        self._part_size = part_size(device, layout, dtype)
        self._theta: Any = None
        self._prepared: dict[tuple[Any, ...], Prepared] = {}
        device.release_on_shortage(self)

    def predict(self, theta: Any, X: Any) -> Any:
        """Return the outputs; see :meth:`deepnotes.backends.Inference.predict`."""
        with self.backend.device.section():
            return self._run(theta, X)[0]

    def predict_host(self, theta: Any, X: np.ndarray) -> np.ndarray:
        """Return the outputs in a NumPy array; see :class:`deepnotes.backends.Inference`."""
        m, (inputs, *_, k) = X.shape[1], self.layout.sizes
        device, size = self.backend.device, np.dtype(self.dtype).itemsize
        with device.section():
            if X.nbytes <= HOST_PART_BYTES:
                return device.download(self._run(theta, self.backend.from_numpy(X))[0])
            parts = HostParts(device, X, k, max(1, HOST_PART_BYTES // (inputs * size)))
            for x, out in parts.stream():
                self._run(theta, unflatten_by_sample(x, inputs, len(x) // inputs), out=out)
            return cast(np.ndarray, unflatten_by_sample(parts.result, k, m))

    def losses(self, theta: Any, X: Any, Y: Any, loss: LossFunction) -> tuple[Any, Any]:
        """Return outputs and losses; see :meth:`deepnotes.backends.Inference.losses`."""
        outputs = self.layout.sizes[-1]
        if not SUPPORTED.has_loss(loss, outputs, self.layers[-1]):
            return super().losses(theta, X, Y, loss)
        with self.backend.device.section():
            return self._run(theta, X, Y, lower_loss(loss, self.layers[-1], self.dtype, outputs))

    def release(self) -> None:
        """Release the tapes and their memory."""
        self._prepared.clear()
        self._theta = None

    def _run(
        self, theta: Any, X: Any, Y: Any = None, loss: LoweredLoss | None = None, out: Any = None
    ) -> tuple[Any, Any]:
        device, m, (inputs, *_, k) = self.backend.device, X.shape[1], self.layout.sizes
        xp: Any = self.backend.xp
        out = device.empty(m * k, self.dtype) if out is None else out
        L = None if loss is None else device.empty(m, self.dtype)
        by_sample = not (self._small and X.flags.c_contiguous and m > 1)
        x = flatten_by_sample(xp, X) if by_sample else X
        if Y is not None:
            targets, Y = Y.shape[0], Y if Y.dtype == out.dtype else xp.astype(Y, getattr(xp, self.dtype))
            y = flatten_by_sample(xp, Y)
        else:
            targets, y = k, None
        key = loss, targets != k, by_sample
        start, part_size = 0, m if self._small and loss is None else self._part_size
        while start < m:
            count = -(-(m - start) // part_size)  # parts of about the same size
            stop = start + -(-(m - start) // count)
            try:
                prepared = self._prepare(theta, stop - start, *key)
            except DeviceMemoryError:
                if stop - start == 1:
                    raise
                part_size = self._part_size = (stop - start) // 2  # fewer samples at a time from now on
                continue
            if stop - start == m:
                prepared.run((x, y, out, L))
            else:
                x_part = x[start * inputs : stop * inputs] if by_sample else xp.ascontiguousarray(x[:, start:stop])
                y_part = None if y is None else y[start * targets : stop * targets]
                L_part = None if L is None else L[start:stop]
                prepared.run((x_part, y_part, out[start * k : stop * k], L_part))
            start = stop
        return unflatten_by_sample(out, k, m), None if L is None else L.reshape(1, -1)

    def _prepare(self, theta: Any, m: int, loss: LoweredLoss | None, class_indices: bool, by_sample: bool) -> Prepared:
        """Return the computation for m samples, from the last ones if possible."""
        if theta is not self._theta:
            self.release()
            self._theta = theta
        key = m, loss, class_indices, by_sample
        prepared = self._prepared.pop(key, None) or self._build(theta, *key)
        if len(self._prepared) >= MAX_PREPARED:
            del self._prepared[next(iter(self._prepared))]
        self._prepared[key] = prepared  # the last one
        return prepared

    def _build(self, theta: Any, m: int, loss: LoweredLoss | None, class_indices: bool, by_sample: bool) -> Prepared:
        """Return the computation of the outputs of m samples and, if a loss is given, of their losses."""
        tape = Tape(self.backend.device, self.dtype, self._factors)
        row = self._rows[-1]
        sizes = m * self.layout.sizes[0], m * (1 if class_indices else row.n), m * row.n, m
        X, Y, out, L = (Slot(size) for size in sizes)
        logits = loss is not None and loss.fused
        Z = tape.empty(m * row.n) if logits else out
        if self._small:
            few_blocks = m <= SAMPLES[0] * self.backend.device.processors
            self._small[0 if few_blocks else -1].append(tape, X, theta, Z, m, by_sample, logits)
        else:
            predict_or_few: Any = predict_few if m <= self._few else predict
            predict_or_few(tape, self._rows, theta, X, m, Z, logits)
        if loss is not None:
            derivatives = tape.empty(m * row.n)  # the kernels write them, but nothing reads them
            append_loss(tape, loss, row, Z, out, theta, Targets(Y, class_indices), m, derivatives, L)
        return Prepared(tape, (X, Y, out, L))


def weighted_sums(device: Device, x: Any, w: Any = None) -> tuple[float, float]:
    """Return the sum of all elements of x, times w unless w is None, and the sum of w, in double precision."""
    dtype = str(x.dtype)
    grid, block = geometry.grid("weighted_sums", x.size, dtype=dtype, processors=device.processors)
    partial = device.empty(2 * grid[0], "float64")
    device.launcher(kernels()["weighted_sums"], dtype, grid, block, (x, w, partial, x.size))()
    total, weight = device.download(partial).reshape(-1, 2).sum(0)
    return float(total), float(weight)


def part_size(device: Device, layout: Layout, dtype: str) -> int:
    """Return the number of samples of a part, so that what the widest layer writes has a limited size.

    If possible, it is a multiple of a number for which the tiles of a product, of 128 rows and columns, occupy all
    multiprocessors equally long.
    """
    most = PART_BYTES // (np.dtype(dtype).itemsize * max(layout.sizes[1:]))
    even = 32 * device.processors
    return max(most // even * even or most, MIN_PART)
