"""Conversion of arrays to the layouts that the compiled functions expect."""

import numpy as np

from deepnotes.backends import Array


def readable(X: Array) -> tuple[np.ndarray, bool]:
    """Return X or its transpose, in C order, and whether it was transposed; copy only if neither is in C order."""
    x = np.asarray(X)
    if x.T.flags.c_contiguous and not x.flags.c_contiguous:
        return x.T, True
    return np.ascontiguousarray(x), False


def plain(x: Array | np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return x as a writable C-ordered array of `dtype`."""
    if type(x) is np.ndarray and x.dtype == dtype and x.flags.c_contiguous and x.flags.writeable:
        return x  # the most frequent case, for which np.require would take microseconds
    return np.require(np.asarray(x), dtype, ["C", "W"])
