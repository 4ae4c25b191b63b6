"""Regularization: penalties (L1, L2), clipping of gradients, the maximum norm of weights, dropout and noise.

Parameters and gradients are flat buffers of shape (p,), as in :mod:`deepnotes.equations.optimizers`.
"""

from math import ceil, sqrt
from typing import Any

from deepnotes.equations.array import Array, Namespace


def l1_penalty(xp: Namespace, theta: Array, decays: Array, l1: float) -> Array:
    """Return ``l1 Σ |w|`` as a 0-d array; the sum is over the weights (`decays` is 1), not the biases (0).

    Tibshirani, J. R. Stat. Soc. B 58 (1996) 267.
    """
    return l1 * xp.sum(decays * abs(theta))


def l1_gradient(xp: Namespace, g: Array, theta: Array, decays: Array, l1: float) -> Array:
    """Return ``g + l1 sign(w)`` for weights, ``g`` for biases: the gradient of the cost with :func:`l1_penalty`.

    Where a weight is 0, the penalty has a kink, and ``sign(0) = 0`` is the subgradient that frameworks choose.
    """
    return g + l1 * decays * xp.sign(theta)


def l2_penalty(xp: Namespace, theta: Array, decays: Array, l2: float) -> Array:
    """Return ``(l2 / 2) Σ w²`` as a 0-d array; the sum is over the weights (`decays` is 1), not the biases (0)."""
    return 0.5 * l2 * xp.sum(decays * (theta * theta))


def l2_gradient(xp: Namespace, g: Array, theta: Array, decays: Array, l2: float) -> Array:
    """Return ``g + l2 w`` for weights, ``g`` for biases: the gradient of the cost plus that of :func:`l2_penalty`."""
    return g + l2 * decays * theta


def clip_by_global_norm(xp: Namespace, g: Array, max_norm: float) -> Array:
    """Return ``g min(1, max_norm / ‖g‖)``, where ``‖g‖`` is the Euclidean norm of the whole gradient.

    Pascanu et al., arXiv:1211.5063, algorithm 1.
    """
    limit = xp.asarray(max_norm, dtype=g.dtype)
    scale = xp.maximum(xp.max(abs(g)), limit)  # without this scale, the sum of squares could overflow
    scaled = g / scale
    norm = xp.sqrt(xp.sum(scaled * scaled))
    return g * (limit / scale / xp.maximum(norm, limit / scale))


def max_norm(xp: Namespace, W: Array, limit: float) -> Array:
    """Return W with each row scaled down to the norm `limit` if its Euclidean norm is larger.

    Srivastava et al., JMLR 15 (2014) 1929, section 5.1.

    Parameters
    ----------
    W : Array, shape (n, n_prev)
    limit : float

    Returns
    -------
    Array, shape (n, n_prev)
    """
    largest = xp.asarray(limit, dtype=W.dtype)
    norms = xp.sqrt(xp.sum(W * W, axis=1, keepdims=True))
    return W * (largest / xp.maximum(norms, largest))


def dropout(xp: Namespace, A: Array, keep: Array, rate: float) -> Array:
    """Return ``A / (1 - rate)`` where `keep` is 1, else 0 (Srivastava et al., JMLR 15 (2014) 1929).

    Due to the factor ``1 / (1 - rate)``, each element has the same expected value as without dropout. The backward form
    is the same function, called with dA instead of A.

    Parameters
    ----------
    A : Array, shape (n, m)
    keep : Array, shape (n, m)
        The result of :func:`dropout_mask`.
    rate : float
        The probability of dropping an element, ``0 <= rate < 1``.

    Returns
    -------
    Array, shape (n, m)
    """
    return A * (keep * (1 / (1 - rate)))


def dropout_mask(
    xp: Namespace, shape: tuple[int, int], rate: float, seed: int, step: Array, layer: int, dtype: object
) -> Array:
    """Return a random mask: 1 with probability ``1 - rate``, else 0. It is the same on every backend.

    Element i of the mask is determined by word ``i % 4`` of :func:`philox`, whose counter consists of ``i // 4``,
    `layer` and `step`.

    Parameters
    ----------
    shape : (int, int)
        n and m, the numbers of neurons and of samples.
    rate : float
        The probability of dropping an element, ``0 <= rate < 1``.
    seed : int
        The 64-bit key of the generator.
    step : Array of int64, 0-d
        The number of updates made so far. If it is an int32, since the library lacks int64, words are computed in
        uint32, with the same result.
    layer : int
        The index of the layer, from 1.
    dtype : dtype
        The dtype of the result.

    Returns
    -------
    Array, shape (n, m)
        Elements are numbered sample by sample, so the mask of a sample does not depend on how many samples follow it.
    """
    return dropout_mask_from(xp, shape, rate, seed, step, layer, dtype, 0)


def dropout_mask_from(
    xp: Namespace, shape: tuple[int, int], rate: float, seed: int, step: Array, layer: int, dtype: object, first: int
) -> Array:
    """Return the columns from `first` on of the mask that :func:`dropout_mask` returns for a larger batch.

    A batch whose samples are divided among several processes has the mask that it has in one process.

    Parameters
    ----------
    shape : (int, int)
        n and m, the numbers of neurons and of samples.
    rate, seed, step, layer, dtype : object
        As for :func:`dropout_mask`.
    first : int
        The position of the first sample in the batch.

    Returns
    -------
    Array, shape (n, m)

    Examples
    --------
    >>> import numpy as np
    >>> mask = dropout_mask(np, (3, 9), 0.5, 7, np.asarray(0), 1, np.float32)
    >>> bool((dropout_mask_from(np, (3, 4), 0.5, 7, np.asarray(0), 1, np.float32, 5) == mask[:, 5:]).all())
    True
    """
    n, m = shape
    start, skipped = divmod(first * n, 4)
    word_arrays = _random_words(xp, start, ceil((first + m) * n / 4), seed, step, layer)
    words = xp.reshape(xp.concat([xp.reshape(word, (-1, 1)) for word in word_arrays], axis=1), (-1,))
    words = words[skipped : skipped + n * m]
    threshold = round(rate * 2**32)
    keep = words >= _constant(xp, threshold, words) if threshold < 2**32 else words < 0
    return xp.astype(xp.reshape(keep, (m, n)).T, dtype)


def noise(xp: Namespace, shape: tuple[int, int], seed: int, step: Array, layer: int, dtype: object) -> Array:
    """Return random numbers with mean 0 and standard deviation 1, which are nearly normally distributed.

    Element i is the sum of the eight halves of the words of :func:`philox`, whose counter consists of i, `layer` and
    `step`; the sum is shifted and scaled. The sum of eight uniform numbers differs from a normal distribution by less
    than 0.005 in its distribution function (Irwin-Hall distribution), and can be computed with whole numbers, so that
    it is the same on every backend. No element is larger than 4.9.

    Parameters
    ----------
    shape : (int, int)
        n and m, the numbers of neurons and of samples.
    seed, step, layer, dtype
        As for :func:`dropout_mask`.

    Returns
    -------
    Array, shape (n, m)
        Elements are numbered sample by sample.
    """
    return noise_from(xp, shape, seed, step, layer, dtype, 0)


def noise_from(
    xp: Namespace, shape: tuple[int, int], seed: int, step: Array, layer: int, dtype: object, first: int
) -> Array:
    """Return the columns from `first` on of the numbers that :func:`noise` returns for a larger batch.

    Parameters
    ----------
    shape : (int, int)
        n and m, the numbers of neurons and of samples.
    seed, step, layer, dtype
        As for :func:`dropout_mask`.
    first : int
        The position of the first sample in the batch.

    Returns
    -------
    Array, shape (n, m)

    Examples
    --------
    >>> import numpy as np
    >>> whole = noise(np, (3, 9), 7, np.asarray(0), 1, np.float32)
    >>> bool((noise_from(np, (3, 4), 7, np.asarray(0), 1, np.float32, 5) == whole[:, 5:]).all())
    True
    """
    n, m = shape
    words = _random_words(xp, first * n, (first + m) * n, seed, step, layer)
    one, *others = [half for word in words for half in (word & 0xFFFF, word >> 16)]
    total = sum(others, start=one)
    deviation = sqrt(8 * (65536**2 - 1) / 12)
    return xp.reshape(xp.astype(total, dtype) - 4 * 65535, (m, n)).T * (1 / deviation)


def _random_words(
    xp: Namespace, start: int, stop: int, seed: int, step: Array, layer: int
) -> tuple[Array, Array, Array, Array]:
    """Return the words of :func:`philox` for the counters whose first word is from `start` to ``stop - 1``."""
    if _is_int64(xp, step):
        blocks, low, high = xp.arange(start, stop, dtype=xp.int64), step & 0xFFFFFFFF, step >> 32
    else:
        low = xp.astype(step, xp.uint32)
        blocks, high = xp.arange(start, stop, dtype=xp.uint32), xp.zeros_like(low)
    return philox(xp, (blocks, layer, low, high), seed)


def philox(xp: Namespace, counter: tuple[Array, int, Array, Array], seed: int) -> tuple[Array, Array, Array, Array]:
    """Return four random 32-bit words for each counter, in its dtype: Philox-4x32-10 (Salmon et al., SC'11).

    Parameters
    ----------
    counter : (Array, int, Array, Array)
        The four words of the counter, each below 2^32. The arrays have the dtype int64 or all uint32, and are broadcast
        against each other.
    seed : int
        The 64-bit key.

    Notes
    -----
    The product of two 32-bit words has 64 unsigned bits. One factor is split into halves, so that every intermediate
    result is below 2^49 and fits into int64. In uint32, for libraries that lack int64, both factors are.
    """
    word = 0xFFFFFFFF
    key0, key1 = seed & word, seed >> 32 & word
    c0, c1, c2, c3 = counter
    product = _product if _is_int64(xp, c0) else _product_of_halves
    x0, x2 = c0, c2 + xp.zeros_like(c0)
    x1, x3 = c1 + xp.zeros_like(c0), c3 + xp.zeros_like(c0)
    for _ in range(10):
        high0, low0 = product(x0, 0xD2511F53)
        high2, low2 = product(x2, 0xCD9E8D57)
        x0, x1, x2, x3 = high2 ^ x1 ^ _constant(xp, key0, c0), low2, high0 ^ x3 ^ _constant(xp, key1, c0), low0
        key0, key1 = key0 + 0x9E3779B9 & word, key1 + 0xBB67AE85 & word
    return x0, x1, x2, x3


def _is_int64(xp: Namespace, x: Array) -> bool:
    return bool(x.dtype == getattr(xp, "int64", None))


def _constant(xp: Namespace, value: int, x: Array) -> Any:
    """Return a number to compute with the elements of x; libraries that lack int64 take Python's for an int32."""
    return value if _is_int64(xp, x) else xp.asarray(value, dtype=xp.uint32)


def _product(x: Array, factor: int) -> tuple[Array, Array]:
    """Return the high and the low 32-bit word of the product of two unsigned 32-bit integers."""
    upper = (x >> 16) * factor
    lower = (x & 0xFFFF) * factor + ((upper & 0xFFFF) << 16)
    return (upper >> 16) + (lower >> 32), lower & 0xFFFFFFFF


def _product_of_halves(x: Array, factor: int) -> tuple[Array, Array]:
    """Return what :func:`_product` returns, with all intermediate results below 2^32."""
    x0, x1, f0, f1 = x & 0xFFFF, x >> 16, factor & 0xFFFF, factor >> 16
    low, upper = x0 * f0, x1 * f0
    middle = x0 * f1 + (low >> 16)
    middle_sum = (middle & 0xFFFF) + (upper & 0xFFFF)
    high = x1 * f1 + (upper >> 16) + (middle >> 16) + (middle_sum >> 16)
    return high, ((middle_sum & 0xFFFF) << 16) + (low & 0xFFFF)
