"""Where arrays lie, by DLPack."""

from typing import Any

HOST = {1, 3, 11}
"""What DLPack calls memory that the host can read: its own, and its own as CUDA and ROCm have pinned it."""

Device = tuple[int, int]
"""As DLPack tells it: the kind, and the number among its kind."""


def device_of(x: Any) -> Device | None:
    """Return where an array lies; None for what does not say so, or is where DLPack does not reach.

    Examples
    --------
    >>> import numpy as np
    >>> device_of(np.zeros(3)), device_of([1, 2])
    ((1, 0), None)
    """
    try:
        kind, number = x.__dlpack_device__()
        return int(kind), int(number)
    except Exception:  # whatever a foreign array raises for a device without a number, such as PyTorch's meta
        return None
