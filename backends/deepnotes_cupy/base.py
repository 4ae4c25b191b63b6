"""The backend as its Programs and Inferences know it; the backend itself knows them."""

from typing import Any

from deepnotes.backends import Backend
from deepnotes_cupy.device import PRECISIONS, Device, Factors


class DeviceBackend(Backend):
    """Arrays on one device.

    Attributes
    ----------
    device : Device
    loss_scale : float, "dynamic" or None
        For float16 only.
    stage_bytes : int
        Of the buffers that samples on the host pass through.
    """

    device: Device
    loss_scale: Any
    stage_bytes: int

    def factors(self, dtype: str) -> Factors:
        """Return how products of this dtype see their factors."""
        return "float64" if dtype == "float64" else PRECISIONS[self.matmul_precision]
