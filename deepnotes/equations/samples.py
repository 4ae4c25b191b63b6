"""Sums over the samples of a batch, in blocks: their error does not grow with the batch.

A library is free to add m terms one after the other, which is off by up to ``m u``, u being the unit roundoff. In
blocks that are added in a tree the error is at most ``(SAMPLES + log2(m / SAMPLES)) u`` (N. J. Higham, SIAM J. Sci.
Comput. 14 (1993) 783), and less where the library itself adds within a block in parts.
"""

from collections.abc import Callable

from deepnotes.equations.array import Array

SAMPLES = 1024
"""Samples of a block: a product of so many terms is as fast as a longer one."""


def in_blocks(function: Callable[..., Array], *arrays: Array) -> Array:
    """Return the sum of ``function(*arrays)`` over blocks of samples, which are the columns of all `arrays`.

    Examples
    --------
    >>> import numpy as np
    >>> float(in_blocks(np.sum, np.ones((1, 3000))))
    3000.0
    """
    m = arrays[0].shape[1]
    if m <= SAMPLES:
        return function(*arrays)
    half = -(-m // (2 * SAMPLES)) * SAMPLES
    return in_blocks(function, *(x[:, :half] for x in arrays)) + in_blocks(function, *(x[:, half:] for x in arrays))
