"""NumPy arrays in the form that the compiled functions expect."""

import numpy as np

from deepnotes.backends import Array


def readable(X: Array) -> tuple[np.ndarray, bool]:
    """Return X in C order and whether it is laid out by sample, copying only if it has neither order."""
    x = np.asarray(X)
    if x.T.flags.c_contiguous and not x.flags.c_contiguous:
        return x.T, True
    return np.ascontiguousarray(x), False


def plain(x: Array | np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return x as a writable C-ordered array of `dtype`."""
    if type(x) is np.ndarray and x.dtype == dtype and x.flags.c_contiguous and x.flags.writeable:
        return x  # the usual case, which np.require would take microseconds to recognize
    return np.require(np.asarray(x), dtype, ["C", "W"])
