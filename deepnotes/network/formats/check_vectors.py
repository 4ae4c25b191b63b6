"""Test vectors: inputs, expected outputs, and bounds for the errors of correct results.

The bounds apply to one network and these inputs, and are computed by the running error analysis of
:mod:`deepnotes.backends.bounds`. Every program that computes the same equations in the same dtype, in any order of
operations, stays within the bounds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from deepnotes.backends.bounds import UNIT, BoundedArray, Bounds, excess, gamma
from deepnotes.network.formats.chain import Chain, EmbeddingLink, Exportable

ROWS = 8
"""The number of samples in the test vectors."""


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
        The largest error that a correct result may have.
    """

    X: np.ndarray
    A: np.ndarray
    allowed: np.ndarray


def vectors_of(chain: Exportable) -> Vectors:
    """Return test vectors for the inputs of :func:`inputs_of`."""
    return vectors_from(chain, inputs_of(chain), forward_of)


def inputs_of(chain: Exportable) -> np.ndarray:
    """Return eight samples, shape (n[0], 8), drawn from a normal distribution with the standardizer's mean and scale.

    One sample is zero after standardization, and one contains a NaN; but columns of categories hold indices. The
    result is always the same for the same chain.
    """
    rng = np.random.default_rng(0)
    X: np.ndarray = rng.normal(size=(chain.inputs, ROWS))
    X[:, -2] = 0
    X[rng.integers(chain.inputs), -1] = np.nan
    standardizer = chain.members[0][1].standardizer
    with np.errstate(all="ignore"):
        if standardizer is not None:
            X = X * standardizer.scale + standardizer.mean
        for _, member in chain.members:
            if isinstance(member.links[0], EmbeddingLink):
                for column, categories, _ in member.links[0].layer:
                    X[column] = rng.integers(0, categories, ROWS)
        return X.astype(chain.dtype)


Forward: TypeAlias = Callable[[Chain, Bounds, Any], Any]
"""A function that computes a chain's outputs from its preprocessed inputs, on arrays with error bounds."""


def forward_of(chain: Chain, bounds: Bounds, A: Any) -> Any:
    """Return the outputs of a chain."""
    return chain.forward(bounds.ops, A, lambda _, W: bounds.from_numpy(W))


def vectors_from(chain: Exportable, X: np.ndarray, forward: Forward = forward_of) -> Vectors:
    """Return test vectors for inputs X, shape (n[0], rows), whose outputs `forward` computes."""
    A = expected(chain, X, forward=forward)
    allowed = A.rules.slack * A.error
    may_overflow = np.isfinite(A.value) & (abs(A.value) + allowed > (1 - A.rules.u) * A.rules.largest)
    return Vectors(X.T.astype(chain.dtype), A.value.astype(np.float64).T, np.where(may_overflow, np.inf, allowed).T)


def expected(chain: Exportable, X: np.ndarray, random: bool = False, forward: Forward = forward_of) -> BoundedArray:
    """Return the outputs for X, with the error bounds of a correct result.

    Parameters
    ----------
    chain : Chain or ChainMean
    X : ndarray, shape (n[0], m)
    random : bool, default False
        Whether parameters and inputs are random; see :func:`~deepnotes.backends.bounds.sum_factor`. The parameters of a
        trained network are not random.
    forward : callable
        Computes the outputs of each chain.
    """
    bounds = Bounds(chain.dtype, random=random)
    # Standardization needs no error bound: IEEE 754 determines the results of its two operations in double precision.
    with np.errstate(all="ignore"):
        A: BoundedArray = chain.combine(
            [forward(member, bounds, bounds.from_numpy(member.preprocess(X))) for _, member in chain.members]
        )
        if chain.target is None:
            return A
        mean, scale = chain.target
        value = A.value * scale + mean  # double precision suffices here
        rounding = gamma(2, UNIT["float64"]) * (abs(A.value * scale) + abs(mean))
        return BoundedArray(A.rules, value, A.error * abs(scale) + rounding)


def worst(outputs: np.ndarray, vectors: Vectors) -> float:
    """Return the largest error of `outputs`, shape (rows, n[L]), divided by its bound: at most 1 if all are correct."""
    rules = Bounds(str(vectors.X.dtype)).rules
    return float(excess(outputs, BoundedArray(rules, vectors.A, vectors.allowed / rules.slack)).max())
