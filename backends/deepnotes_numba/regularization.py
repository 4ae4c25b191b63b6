"""The gradient of the L2 penalty, and sums of squares; see :mod:`deepnotes.equations.regularization`."""

from deepnotes_numba.compiling import jit
from deepnotes_numba.vectors import as_of, block, squares, view


@jit
def add_l2(g, theta, at, n, l2):
    """Add the gradient of the L2 penalty to a range of g; return the sums of squares of g and, if l2 is not 0, of θ."""
    weights = as_of(0, g)
    if l2 != 0:
        G, W, factor = view(g, at, n), view(theta, at, n), as_of(l2, g)
        for i in range(n):
            G[i] += factor * W[i]
        weights = _sum_of_squares(theta, at, n)
    return _sum_of_squares(g, at, n), weights


@jit
def _sum_of_squares(x, at, n):
    lanes = block(x) // 2
    whole = n // lanes * lanes
    total = squares(x, at, n // lanes)
    rest = view(x, at + whole, n - whole)
    for i in range(n - whole):
        total += rest[i] * rest[i]
    return total
