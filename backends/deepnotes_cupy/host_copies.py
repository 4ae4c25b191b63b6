"""Copies within the memory of the host, by several threads: one thread copies more slowly than a GPU receives."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import numpy as np

MOST_THREADS = 8
"""The largest number of threads: they copy as fast as the fastest bus of a GPU, 50 GB/s, or as the memory allows."""
PART_BYTES = 1 << 20
"""The smallest number of bytes that a thread copies: that takes longer than to pass the part to the thread."""


def copy_in_parts(copy: Callable[[int, int], None], samples: int, nbytes: int) -> None:
    """Call ``copy(start, stop)`` for consecutive ranges of samples, in several threads if there are enough bytes.

    Parameters
    ----------
    copy : callable
        Copies the samples from `start` to `stop`; NumPy releases the GIL while it does so.
    samples : int
    nbytes : int
        The number of bytes of all samples.
    """
    parts = min(_threads(), samples, nbytes // PART_BYTES)
    bounds = [samples * i // parts for i in range(parts + 1)] if parts > 1 else [0, samples]
    others = [_executor().submit(copy, *part) for part in pairwise(bounds[1:])]
    try:
        copy(bounds[0], bounds[1])
    finally:
        for other in others:
            other.result()


def gather_rows(x: np.ndarray, indices: np.ndarray, out: np.ndarray) -> None:
    """Write the columns of `x`, (n, samples), at `indices` to the rows of `out`, (m, n), converted to its dtype."""
    rows = x.T
    takes = rows.flags.c_contiguous and rows.dtype == out.dtype

    def copy(start: int, stop: int) -> None:
        if takes:
            rows.take(indices[start:stop], 0, out[start:stop], "clip")
        else:
            out[start:stop] = rows[indices[start:stop]]

    copy_in_parts(copy, len(indices), out.nbytes)


def copy_rows(rows: np.ndarray, out: np.ndarray) -> None:
    """Copy `rows` to `out`; both have the shape (m, n)."""

    def copy(start: int, stop: int) -> None:
        out[start:stop] = rows[start:stop]

    copy_in_parts(copy, len(rows), out.nbytes)


def _threads() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return min(MOST_THREADS, len(affinity(0)) if affinity else os.cpu_count() or 1)


@cache
def _executor() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(MOST_THREADS - 1, "deepnotes-copy")
