"""Test vectors: inputs, the expected outputs, and bounds for the error of a correct result.

The bounds are those of :mod:`deepnotes.backends.bounds`, the running error analysis, for this network and these inputs:
every program that computes the same equations in the same dtype, in any order, stays within them.
"""

from dataclasses import dataclass

import numpy as np

from deepnotes.backends.bounds import UNIT, BoundedArray, Bounds, excess, gamma
from deepnotes.network.formats.chain import Chain

ROWS = 8


@dataclass(frozen=True, eq=False)
class Vectors:
    """Test vectors, with samples as rows.

    Attributes
    ----------
    X : ndarray, shape (rows, n[0])
        The inputs, in the dtype of the network.
    A : ndarray of float64, shape (rows, n[L])
        The expected outputs.
    allowed : ndarray of float64, shape (rows, n[L])
        The largest error of a correct result.
    """

    X: np.ndarray
    A: np.ndarray
    allowed: np.ndarray


def vectors_of(chain: Chain) -> Vectors:
    """Return test vectors: eight samples of the distribution that the standardizer expects.

    One of them is zero before scaling, and one has a NaN. The same chain always gives the same vectors.
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
    """Return the outputs for X, shape (n[0], m), with the error bound of a correct result.

    Parameters
    ----------
    chain : Chain
    X : ndarray, shape (n[0], m)
    random : bool, default False
        Whether parameters and inputs are random, see :func:`~deepnotes.backends.bounds.sum_factor`; the parameters of a
        trained network are not.
    """
    bounds = Bounds(chain.dtype, random=random)
    # Standardization is in double precision, by two operations that IEEE 754 defines to the last bit.
    prepared = bounds.from_numpy(chain.prepared(X))
    with np.errstate(all="ignore"):
        A: BoundedArray = chain.forward(bounds.ops, prepared, lambda name, W: bounds.from_numpy(W))  # type: ignore
        if chain.target is None:
            return A
        mean, scale = chain.target
        value = A.value * scale + mean  # double precision is wide enough here
        own = gamma(2, UNIT["float64"]) * (abs(A.value * scale) + abs(mean))
        return BoundedArray(A.rules, value, A.error * abs(scale) + own)


def worst(found: np.ndarray, vectors: Vectors) -> float:
    """Return the largest error of outputs, shape (rows, n[L]), as a multiple of its bound: correct if at most 1."""
    rules = Bounds(str(vectors.X.dtype)).rules
    return float(excess(found, BoundedArray(rules, vectors.A, vectors.allowed / rules.slack)).max())
