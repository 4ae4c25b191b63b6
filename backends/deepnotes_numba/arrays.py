"""Conversion of arrays to the memory layouts that the compiled functions need."""

import numpy as np

from deepnotes.backends import Array


def to_c_order(X: Array) -> tuple[np.ndarray, bool]:
    """Return X or its transpose, in C order, and whether it is the transpose; copy only if neither is in C order."""
    x = np.asarray(X)
    if x.T.flags.c_contiguous and not x.flags.c_contiguous:
        return x.T, True
    return np.ascontiguousarray(x), False


def to_writable(x: Array | np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return x as a writable array of `dtype` in C order, without a copy if possible."""
    if type(x) is np.ndarray and x.dtype == dtype and x.flags.c_contiguous and x.flags.writeable:
        return x  # the most frequent case, for which np.require would take microseconds
    return np.require(np.asarray(x), dtype, ["C", "W"])
