"""Sums over the samples of a batch, computed in blocks to keep the rounding errors of large batches small.

If a library adds m terms one after another, the error may be ``m u`` times the sum of their absolute values, where u is
the unit roundoff. If the sums of blocks are added pairwise, this factor is at most ``(SAMPLES + log2(m / SAMPLES)) u``
(N. J. Higham, SIAM J. Sci. Comput. 14 (1993) 783); it is smaller if the library adds the terms in a block pairwise.
"""

from collections.abc import Callable

from deepnotes.equations.array import Array

SAMPLES = 1024
"""The number of samples in a block. It is so large that splitting a matrix product into blocks costs no time."""


def sum_in_blocks(function: Callable[..., Array], *arrays: Array) -> Array:
    """Split the columns of `arrays`, which are samples, into blocks, and return the sum of ``function(*blocks)``.

    Parameters
    ----------
    function : callable
        A function that returns a sum over the samples of its arguments.
    *arrays : Array, shape (..., m)

    Examples
    --------
    >>> import numpy as np
    >>> float(sum_in_blocks(np.sum, np.ones((1, 3000))))
    3000.0
    """
    m = arrays[0].shape[1]
    if m <= SAMPLES:
        return function(*arrays)
    half = -(-m // (2 * SAMPLES)) * SAMPLES
    return sum_in_blocks(function, *(x[:, :half] for x in arrays)) + sum_in_blocks(
        function, *(x[:, half:] for x in arrays)
    )
