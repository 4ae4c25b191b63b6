"""Arrays of samples in the layout of the kernels: flat, one sample after the other."""

from typing import Any


def by_sample(xp: Any, x: Any) -> Any:
    """Return `x`, shape (n, m), as a flat array, one sample after the other: a view if possible, else a copy."""
    rows = x.T
    return (rows if rows.flags.c_contiguous else xp.ascontiguousarray(rows)).reshape(-1)


def in_columns(flat: Any, n: int, m: int) -> Any:
    """Return a flat array, one sample after the other, as an array of shape (n, m)."""
    return flat.reshape(m, n).T
