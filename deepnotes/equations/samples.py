"""Sums over the samples of a batch, in blocks, so that the rounding error does not grow in proportion to the batch.

A library may add m terms one after the other, which has an error of up to ``m u`` times the sum of their absolute
values, where u is the unit roundoff. If the sums of blocks are added pairwise, the factor is at most
``(SAMPLES + log2(m / SAMPLES)) u`` (N. J. Higham, SIAM J. Sci. Comput. 14 (1993) 783), and less if the library adds
the terms of a block pairwise as well.
"""

from collections.abc import Callable

from deepnotes.equations.array import Array

SAMPLES = 1024
"""The number of samples in a block. It is large enough that splitting a matrix product into blocks costs no time."""


def in_blocks(function: Callable[..., Array], *arrays: Array) -> Array:
    """Return the sum of ``function(*blocks)`` over the blocks of samples of `arrays`, whose columns are the samples.

    Parameters
    ----------
    function : callable
        Returns a sum over the samples of its arguments.
    *arrays : Array, shape (..., m)

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
