"""Arrays of samples in the layout of the kernels: flat, one sample after the other."""

from typing import Any


def by_sample(xp: Any, x: Any) -> Any:
    """Return `x`, shape (n, m), as a flat array by sample: a view if it has that layout, else a copy."""
    rows = x.T
    return (rows if rows.flags.c_contiguous else xp.ascontiguousarray(rows)).reshape(-1)


def in_columns(flat: Any, n: int, m: int) -> Any:
    """Return a flat array by sample as one of shape (n, m)."""
    return flat.reshape(m, n).T
