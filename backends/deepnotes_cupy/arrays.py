"""Conversion between matrices of samples and the kernels' flat arrays, which hold one sample after the other."""

from typing import Any


def flatten_by_sample(xp: Any, x: Any) -> Any:
    """Return `x`, shape (n, m), as a flat array, one sample after the other: a view if possible, otherwise a copy."""
    rows = x.T
    return (rows if rows.flags.c_contiguous else xp.ascontiguousarray(rows)).reshape(-1)


def unflatten_by_sample(flat: Any, n: int, m: int) -> Any:
    """Return a flat array, one sample after the other, as an array of shape (n, m)."""
    return flat.reshape(m, n).T
