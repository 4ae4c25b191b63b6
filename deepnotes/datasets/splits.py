"""Split samples into a training set and a validation set, or into folds."""

from numbers import Integral, Real

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepnotes.utils.array_checks import refuse_masked
from deepnotes.utils.errors import ArgumentError

__all__ = ["folds", "train_validation_split"]

Indices = NDArray[np.int64]


def train_validation_split(
    m: int, share: float, rng: np.random.Generator, stratify: ArrayLike | None = None
) -> tuple[Indices, Indices]:
    """Split the samples 0 .. m-1 at random.

    Parameters
    ----------
    m : int
        The number of samples, at least 2.
    share : float
        The fraction of the samples in the validation set, strictly between 0 and 1. The number of samples is rounded.
    rng : numpy.random.Generator
        The source of randomness; the same seed gives the same split.
    stratify : integer array, shape (m,), optional
        The class of each sample. The validation set then contains the fraction `share` of each class, rounded to whole
        samples, but at least one sample of each class stays in the training set.

    Returns
    -------
    train, validation : int64 arrays
        The indices of the samples in each set, sorted. Each sample is in exactly one set, and neither set is empty.

    Raises
    ------
    ArgumentError
        If an argument is outside its range, or one of the two sets would be empty.

    Examples
    --------
    >>> train, validation = train_validation_split(10, 0.2, np.random.default_rng(0))
    >>> train.size, validation.size
    (8, 2)
    >>> labels = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 1])
    >>> train, validation = train_validation_split(10, 0.5, np.random.default_rng(0), stratify=labels)
    >>> labels[validation]
    array([0, 0, 0, 1, 1])
    """
    if not isinstance(m, Integral) or m < 2:
        raise ArgumentError.of("m", m, "an integer of at least 2")
    if not isinstance(share, Real) or not 0 < share < 1:
        raise ArgumentError.of("share", share, "a number strictly between 0 and 1")
    if not isinstance(rng, np.random.Generator):
        raise ArgumentError.of("rng", rng, "a numpy.random.Generator")
    labels = np.zeros(m, np.int64) if stratify is None else _labels(stratify, m)
    wanted = round(m * float(share))
    if not 0 < wanted < m:
        part = "validation" if wanted == 0 else "training"
        raise ArgumentError(f"share {share} of {m} samples leaves the {part} set empty; both sets need samples")

    _, class_of, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    counts = _validation_counts(sizes, float(share), wanted)
    if not counts.any():
        raise ArgumentError(
            f"stratify has {sizes.size} classes with one sample each; since at least one sample of each class stays "
            "in the training set, the validation set is empty"
        )
    order = rng.permutation(m)
    by_class = order[np.argsort(class_of[order], kind="stable")]
    rank_in_class = np.arange(m) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    chosen = rank_in_class < np.repeat(counts, sizes)
    return np.sort(by_class[~chosen]), np.sort(by_class[chosen])


def folds(m: int, k: int, rng: np.random.Generator, stratify: ArrayLike | None = None) -> list[Indices]:
    """Divide the samples 0 .. m-1 at random into k folds for cross-validation.

    Parameters
    ----------
    m : int
        The number of samples.
    k : int
        The number of folds, at least 2 and at most m.
    rng : numpy.random.Generator
        The source of randomness; the same seed gives the same folds.
    stratify : integer array, shape (m,), optional
        The class of each sample. The numbers of samples of a class then differ by at most one between folds.

    Returns
    -------
    list of int64 arrays
        The indices of the samples in each fold, sorted. The sizes of the folds differ by at most one.

    Raises
    ------
    ArgumentError
        If an argument is outside its range.

    Examples
    --------
    >>> [fold.size for fold in folds(11, 3, np.random.default_rng(0))]
    [4, 4, 3]
    """
    if not isinstance(m, Integral) or m < 2:
        raise ArgumentError.of("m", m, "an integer of at least 2")
    if not isinstance(k, Integral) or not 2 <= k <= m:
        raise ArgumentError.of("k", k, f"an integer from 2 to the number of samples, {m}")
    if not isinstance(rng, np.random.Generator):
        raise ArgumentError.of("rng", rng, "a numpy.random.Generator")
    order = rng.permutation(m)
    if stratify is not None:
        order = order[np.argsort(_labels(stratify, m)[order], kind="stable")]
    return [np.sort(order[i::k]) for i in range(k)]


def _labels(stratify: ArrayLike, m: int) -> NDArray[np.integer]:
    """Return `stratify` as an array of m integers; raise ArgumentError if it is not one."""
    refuse_masked(stratify, "stratify")
    try:
        labels = np.asarray(stratify)
    except ValueError as error:
        raise ArgumentError(f"stratify is not an array ({error}), wanted integer labels") from error
    if labels.dtype.kind not in "iu":
        raise ArgumentError(f"stratify has dtype {labels.dtype}, wanted integer labels")
    if labels.shape != (m,):
        raise ArgumentError(f"stratify has shape {labels.shape}, wanted {(m,)}: one label per sample")
    return labels


def _validation_counts(sizes: Indices, share: float, wanted: int) -> Indices:
    """Return the number of validation samples from each class, `wanted` in total, by the largest remainder method.

    At least one sample of each class is left for training.
    """
    limits = sizes - 1
    quotas = sizes * share
    counts = np.minimum(np.floor(quotas).astype(np.int64), limits)
    remainders = np.where(counts < limits, quotas - counts, -1.0)
    largest = np.argsort(-remainders, kind="stable")[: wanted - counts.sum()]
    counts[largest[remainders[largest] >= 0]] += 1
    result: Indices = counts
    return result
