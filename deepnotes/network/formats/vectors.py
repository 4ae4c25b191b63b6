"""Test vectors: inputs, the outputs that they have to give, and how far from these a right result may be.

The bounds are those of :mod:`deepnotes.backends.bounds`, the running error analysis, for this network and these inputs:
whoever computes the same equations in the same dtype, in whatever order, stays within them.
"""

from dataclasses import dataclass

import numpy as np

from deepnotes.backends.bounds import UNIT, BoundedArray, Bounds, excess, gamma
from deepnotes.network.formats.chain import Chain

ROWS = 8


@dataclass(frozen=True, eq=False)
class Vectors:
    """Rows in, rows out.

    Attributes
    ----------
    X : ndarray, shape (rows, n[0])
        In the dtype of the network.
    A : ndarray of float64, shape (rows, n[L])
    allowed : ndarray of float64, shape (rows, n[L])
        How far from A a right result may be.
    """

    X: np.ndarray
    A: np.ndarray
    allowed: np.ndarray


def vectors_of(chain: Chain) -> Vectors:
    """Return test vectors: eight samples as the standardizer expects them, one of them zero and one with a NaN.

    The same chain has the same ones each time.
    """
    rng = np.random.default_rng(0)
    X = rng.normal(size=(chain.inputs, ROWS))
    X[:, -2] = 0
    X[rng.integers(chain.inputs), -1] = np.nan
    if chain.standardizer is not None:
        with np.errstate(all="ignore"):
            X = X * chain.standardizer.scale + chain.standardizer.mean
    with np.errstate(all="ignore"):
        X = X.astype(chain.dtype)
    A = expected(chain, X)
    allowed = A.rules.slack * A.error
    may_overflow = np.isfinite(A.value) & (abs(A.value) + allowed > (1 - A.rules.u) * A.rules.largest)
    return Vectors(X.T, A.value.astype(np.float64).T, np.where(may_overflow, np.inf, allowed).T)


def expected(chain: Chain, X: np.ndarray, random: bool = False) -> BoundedArray:
    """Return the outputs for X, shape (n[0], m), and how far a right result may be from them.

    Parameters
    ----------
    chain : Chain
    X : ndarray, shape (n[0], m)
    random : bool, default False
        Whether parameters and inputs are random, see :func:`~deepnotes.backends.bounds.sum_factor`. Those of a trained
        network are not.
    """
    bounds = Bounds(chain.dtype, random=random)
    # What is standardized is so in double precision, by two operations that IEEE 754 defines to the last bit.
    prepared = bounds.from_numpy(chain.prepared(X))
    with np.errstate(all="ignore"):
        A: BoundedArray = chain.forward(bounds.ops, prepared, lambda name, W: bounds.from_numpy(W))  # type: ignore
        if chain.target is None:
            return A
        mean, scale = chain.target
        value = A.value * scale + mean  # in double precision, and so wide enough
        own = gamma(2, UNIT["float64"]) * (abs(A.value * scale) + abs(mean))
        return BoundedArray(A.rules, value, A.error * abs(scale) + own)


def worst(found: np.ndarray, vectors: Vectors) -> float:
    """Return how many times its bound the outputs `found`, shape (rows, n[L]), are off: at most 1 if all are right."""
    rules = Bounds(str(vectors.X.dtype)).rules
    return float(excess(found, BoundedArray(rules, vectors.A, vectors.allowed / rules.slack)).max())
