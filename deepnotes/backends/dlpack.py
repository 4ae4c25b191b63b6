"""The device of an array, as DLPack reports it."""

from typing import Any

HOST = {1, 3, 11}
"""DLPack's device types for memory that the host can read: ordinary memory, and memory pinned by CUDA or ROCm."""

Device = tuple[int, int]
"""A device as DLPack reports it: the type of the device, and its number among the devices of that type."""


def device_of(x: Any) -> Device | None:
    """Return the device of an array, or None if the array does not report one through DLPack.

    Examples
    --------
    >>> import numpy as np
    >>> device_of(np.zeros(3)), device_of([1, 2])
    ((1, 0), None)
    """
    try:
        kind, number = x.__dlpack_device__()
        return int(kind), int(number)
    except Exception:  # a foreign array may raise any error, as PyTorch's do on the device "meta"
        return None
