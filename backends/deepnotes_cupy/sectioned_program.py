"""The eager Program, in this backend's stream, for plans with a part that has no kernel."""

from typing import TYPE_CHECKING, Any

from deepnotes.backends import Batches, Chunk, Data, EagerProgram, Gradient, State

if TYPE_CHECKING:
    from deepnotes_cupy.base import DeviceBackend


class SectionedProgram(EagerProgram):
    """The eager Program, in this backend's stream."""

    def __init__(self, backend: "DeviceBackend", plan: Any) -> None:
        self._device = backend.device
        with self._device.section():
            super().__init__(backend, plan)

    def train(self, state: State, batches: Batches) -> Chunk:
        """Make one update per mini-batch; see :meth:`deepnotes.backends.Program.train`."""
        with self._device.section():
            return super().train(state, batches)

    def gradients(self, state: State, data: Data) -> Gradient:
        """Return the cost and gradient of `data` as one batch; see :meth:`deepnotes.backends.Program.gradients`."""
        with self._device.section():
            return super().gradients(state, data)

    def update(self, state: State, g: Any, rate: float) -> None:
        """Make one update with the gradient `g`; see :meth:`deepnotes.backends.Program.update`."""
        with self._device.section():
            super().update(state, g, rate)
