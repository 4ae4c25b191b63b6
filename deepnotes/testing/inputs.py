"""Shapes and memory layouts of the inputs of checks."""

from collections.abc import Callable

import numpy as np

SHAPES = [(1, 1), (1, 7), (5, 1), (3, 4), (17, 33), (64, 128), (127, 131)]
"""Shapes of matrices, with sizes of 1, primes and powers of two."""
EMPTY = [(3, 0), (0, 4), (0, 0)]
"""Shapes of empty matrices."""
PRODUCTS = [(1, 1, 1), (2, 3, 5), (7, 1, 4), (1, 64, 1), (16, 16, 16), (31, 37, 29), (128, 300, 67)]
"""Sizes (n, k, m) for the product of an (n, k) and a (k, m) matrix."""
LARGE = (523, 769, 1031)
"""Sizes (n, k, m) of a product whose factors and result are larger than a core's cache."""


def round_to_7_bits(x: np.ndarray) -> np.ndarray:
    """Return x rounded to 7 significant bits, so that the numbers are exact at every precision of products."""
    mantissa, exponent = np.frexp(x)
    rounded: np.ndarray = np.ldexp(np.round(mantissa * 128) / 128, exponent)
    return rounded


def to_c_order(x: np.ndarray) -> np.ndarray:
    """Return x in C order."""
    return np.array(x, order="C")


def to_fortran_order(x: np.ndarray) -> np.ndarray:
    """Return x in Fortran order."""
    return np.array(x, order="F")


def take_slice(x: np.ndarray) -> np.ndarray:
    """Return x as a slice of a larger array; for a matrix, every second column of every third row, with NaN between."""
    if x.ndim != 2:
        return np.repeat(x, 2, axis=-1)[..., ::2] if x.ndim else x
    wide = np.full((3 * x.shape[0], 2 * x.shape[1]), np.nan if x.dtype.kind == "f" else 1).astype(x.dtype)
    wide[::3, ::2] = x
    return wide[::3, ::2]


def reverse_strides(x: np.ndarray) -> np.ndarray:
    """Return x with negative strides."""
    return np.flip(np.flip(x).copy())


def make_read_only(x: np.ndarray) -> np.ndarray:
    """Return a read-only copy of x."""
    x = x.copy()
    x.flags.writeable = False
    return x


def misalign(x: np.ndarray) -> np.ndarray:
    """Return a copy of x at an address that is not a multiple of the element size."""
    raw = np.zeros(x.nbytes + 1, np.uint8)
    out = raw[1:].view(x.dtype).reshape(x.shape)
    out[...] = x
    return out


def repeat_first_column(x: np.ndarray) -> np.ndarray:
    """Return an array of the shape of x in which a stride of 0 repeats the first column of x."""
    return np.broadcast_to(x[..., :1], x.shape) if x.ndim else x


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "C order": to_c_order,
    "Fortran order": to_fortran_order,
    "sliced": take_slice,
    "backwards": reverse_strides,
    "read-only": make_read_only,
    "unaligned": misalign,
    "broadcast": repeat_first_column,
}
"""Functions that return a matrix in a memory layout; only "broadcast" changes the values."""
