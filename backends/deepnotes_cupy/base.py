"""DeviceBackend: the part of the backend that Programs and Inferences use, defined here to avoid an import cycle."""

from typing import Any

from deepnotes.backends import Backend
from deepnotes_cupy.device import PRECISIONS, Device, Factors


class DeviceBackend(Backend):
    """Arrays on one device.

    Attributes
    ----------
    device : Device
    driver : str
        How networks are trained: by graphs ("graph"), in shared memory ("resident"), or in the way that is
        expected to be faster ("auto").
    loss_scale : float, "dynamic" or None
        For float16 only.
    stage_bytes : int
        The size of each buffer for samples that are streamed from the host.
    """

    device: Device
    driver: str
    loss_scale: Any
    stage_bytes: int

    def factors(self, dtype: str) -> Factors:
        """Return the precision to which products of this dtype round their factors."""
        return "float64" if dtype == "float64" else PRECISIONS[self.matmul_precision]
