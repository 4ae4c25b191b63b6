"""Shapes and memory layouts of the inputs of checks."""

from collections.abc import Callable

import numpy as np

SHAPES = [(1, 1), (1, 7), (5, 1), (3, 4), (17, 33), (64, 128), (127, 131)]
"""Shapes of matrices, with sizes of 1, primes and powers of two."""
EMPTY = [(3, 0), (0, 4), (0, 0)]
PRODUCTS = [(1, 1, 1), (2, 3, 5), (7, 1, 4), (1, 64, 1), (16, 16, 16), (31, 37, 29), (128, 300, 67)]
"""n, k, m of an (n, k) by (k, m) product."""
LARGE = (523, 769, 1031)
"""A product whose factors and result are larger than a core's cache."""


def c_order(x: np.ndarray) -> np.ndarray:
    """Return x in C order."""
    return np.array(x, order="C")


def fortran_order(x: np.ndarray) -> np.ndarray:
    """Return x in Fortran order."""
    return np.array(x, order="F")


def sliced(x: np.ndarray) -> np.ndarray:
    """Return x as every second element of every third row of a larger array, whose other elements are NaN."""
    if x.ndim != 2:
        return np.repeat(x, 2, axis=-1)[..., ::2] if x.ndim else x
    wide = np.full((3 * x.shape[0], 2 * x.shape[1]), np.nan if x.dtype.kind == "f" else 1).astype(x.dtype)
    wide[::3, ::2] = x
    return wide[::3, ::2]


def backwards(x: np.ndarray) -> np.ndarray:
    """Return x with negative strides."""
    return np.flip(np.flip(x).copy())


def read_only(x: np.ndarray) -> np.ndarray:
    """Return a read-only copy of x."""
    x = x.copy()
    x.flags.writeable = False
    return x


def unaligned(x: np.ndarray) -> np.ndarray:
    """Return x at an address that is not a multiple of its element size."""
    raw = np.zeros(x.nbytes + 1, np.uint8)
    out = raw[1:].view(x.dtype).reshape(x.shape)
    out[...] = x
    return out


def broadcast(x: np.ndarray) -> np.ndarray:
    """Return the first column of x, repeated by a stride of zero."""
    return np.broadcast_to(x[..., :1], x.shape) if x.ndim else x


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "C order": c_order,
    "Fortran order": fortran_order,
    "sliced": sliced,
    "backwards": backwards,
    "read-only": read_only,
    "unaligned": unaligned,
    "broadcast": broadcast,
}
"""Functions that return their argument in a memory layout; the last one repeats the first column instead."""
