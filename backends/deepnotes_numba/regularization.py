"""The gradients of the L1 and L2 penalties, and sums of squares; see :mod:`deepnotes.equations.regularization`."""

from deepnotes_numba.compiling import jit
from deepnotes_numba.vectors import as_of, block, squares, view


@jit
def add_penalties(g, theta, at, n, l1, l2):
    """Add the gradients of the penalties to a range of g; return the sum of squares of g, and the penalties of θ."""
    penalty = 0.0
    if l2 != 0:
        G, W, factor = view(g, at, n), view(theta, at, n), as_of(l2, g)
        for i in range(n):
            G[i] += factor * W[i]
        penalty += 0.5 * l2 * _sum_of_squares(theta, at, n)
    if l1 != 0:
        _add_signs(g, theta, at, n, as_of(l1, g))
        penalty += l1 * _sum_of_absolutes(theta, at, n)
    return _sum_of_squares(g, at, n), penalty


@jit
def _add_signs(g, theta, at, n, factor):
    """Add ``factor sign(w)`` to a range of g, where ``sign(0) = 0``."""
    G, W, zero = view(g, at, n), view(theta, at, n), as_of(0, g)
    for i in range(n):
        G[i] += factor if W[i] > zero else (-factor if W[i] < zero else zero)


@jit
def _sum_of_absolutes(x, at, n):
    values, total = view(x, at, n), 0.0
    for i in range(n):
        total += abs(values[i])
    return total


@jit
def _sum_of_squares(x, at, n):
    lanes = block(x) // 2
    whole = n // lanes * lanes
    total = squares(x, at, n // lanes)
    rest = view(x, at + whole, n - whole)
    for i in range(n - whole):
        total += rest[i] * rest[i]
    return total
