"""How large the numbers of a device array are, or how much two arrays differ, found without a temporary array."""

from typing import Any

import numpy as np

from deepnotes_cupy import geometry
from deepnotes_cupy.device import Device
from deepnotes_cupy.sources import kernels


def largest(device: Device, x: Any, y: Any = None) -> float:
    """Return the largest magnitude in ``x - y``, or in x if y is None; NaN if there is a NaN.

    Parameters
    ----------
    device : Device
    x, y : array
        Flat arrays of the same size and dtype, float32 or float64.
    """
    dtype = str(x.dtype)
    grid, block = geometry.grid("largest_difference", x.size, dtype=dtype, processors=device.processors)
    partial = device.empty(grid[0], "float64")
    device.launcher(kernels()["largest_difference"], dtype, grid, block, (x, y, x.size, partial))()
    return float(np.max(device.download(partial)))  # np.max keeps NaN
