"""Sums over the samples of a batch, in blocks, so that the error does not grow with the batch.

A library is free to add m terms one after the other, with an error of up to ``m u`` times the sum of their absolute
values, u being the unit roundoff. With blocks that are added in a tree, the factor is at most
``(SAMPLES + log2(m / SAMPLES)) u`` (N. J. Higham, SIAM J. Sci. Comput. 14 (1993) 783), and less if the library itself
adds the terms of a block in parts.
"""

from collections.abc import Callable

from deepnotes.equations.array import Array

SAMPLES = 1024
"""The number of samples in a block: large enough that products of blocks are as fast as longer ones."""


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
