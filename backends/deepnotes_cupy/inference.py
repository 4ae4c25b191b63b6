"""Inference on this backend: the forward pass and the losses, for a limited number of samples at a time."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from deepnotes.backends import ELEMENTS, DeviceMemoryError, EagerInference, Layer, Layout, LossFunction
from deepnotes_cupy.arrays import flatten_by_sample, unflatten_by_sample
from deepnotes_cupy.backward import Targets, append_loss
from deepnotes_cupy.forward import activate, forward, linear, round_weights
from deepnotes_cupy.lowering import DenseRow, LoweredLoss, lower, lower_loss, supported
from deepnotes_cupy.tape import Tape

if TYPE_CHECKING:
    from deepnotes_cupy.base import DeviceBackend


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


class CupyInference(SectionedInference):
    """Computes outputs and losses with the fused kernels; all layers must have kernels."""

    def __init__(self, backend: "DeviceBackend", layers: Sequence[Layer], layout: Layout, dtype: str) -> None:
        super().__init__(backend, layers, layout, dtype)
        self._rows = lower(layers, layout, dtype, training=False)
        self._factors = backend.factors(dtype)
        self._part_size = max(1, ELEMENTS // max(layout.sizes))

    def predict(self, theta: Any, X: Any) -> Any:
        """Return the outputs; see :meth:`deepnotes.backends.Inference.predict`."""
        with self.backend.device.section():
            return self._run(theta, X)[0]

    def losses(self, theta: Any, X: Any, Y: Any, loss: LossFunction) -> tuple[Any, Any]:
        """Return outputs and losses; see :meth:`deepnotes.backends.Inference.losses`."""
        outputs = self.layout.sizes[-1]
        if not supported().has_loss(loss, outputs):
            return super().losses(theta, X, Y, loss)
        with self.backend.device.section():
            return self._run(theta, X, Y, lower_loss(loss, self.layers[-1], self.dtype, outputs))

    def _run(self, theta: Any, X: Any, Y: Any = None, loss: LoweredLoss | None = None) -> tuple[Any, Any]:
        device, xp = self.backend.device, self.backend.xp
        m, (inputs, *_, k) = X.shape[1], self.layout.sizes
        out = device.empty(m * k, self.dtype)
        L = device.empty(m if loss else 0, self.dtype)
        x = flatten_by_sample(xp, X)
        y = None if Y is None else flatten_by_sample(xp, xp.astype(Y, getattr(xp, self.dtype)))
        targets = 0 if Y is None else Y.shape[0]
        start = 0
        while start < m:
            stop = min(m, start + self._part_size)
            try:
                y_part = None if y is None else y[start * targets : stop * targets]
                arguments = x[start * inputs : stop * inputs], y_part, loss, out[start * k : stop * k], L[start:stop]
                self._enqueue(theta, *arguments, stop - start, targets != k)
            except DeviceMemoryError:
                if stop - start == 1:
                    raise
                self._part_size = (stop - start) // 2  # fewer samples at a time from now on
                continue
            start = stop
        return unflatten_by_sample(out, k, m), L.reshape(1, -1)

    def _enqueue(
        self, theta: Any, x: Any, y: Any, loss: LoweredLoss | None, out: Any, L: Any, m: int, class_indices: bool
    ) -> None:
        """Enqueue the computation of the outputs of some samples and, if a loss is given, of their losses."""
        device = self.backend.device
        tape = Tape(device, self.dtype, self._factors)
        rounded = round_weights(tape, theta, self.layout.decaying)
        *before, row = self._rows
        assert isinstance(row, DenseRow)
        caches = forward(tape, before, theta, rounded, x, m, None, fused=False)
        Z = linear(tape, row, rounded, caches[-1].A if caches else x, m)
        if loss is None or not loss.fused:
            activate(tape, row, theta, Z, m, out)
        if loss is not None:
            derivatives = device.empty(m * row.n, self.dtype)  # the kernels write them, but nothing reads them
            append_loss(tape, loss, row, Z, out, theta, Targets(y, class_indices), m, derivatives, L)
        tape.run()
