"""Embeddings: each category of a column is a vector, whose numbers are learned.

A table ``E`` has one row for each category. Its vectors are what a dense layer without biases computes from one-hot
columns (N2), with ``E`` as ``Wᵀ``; so its gradient is N13. Source: Y. Bengio, R. Ducharme, P. Vincent and C. Jauvin, A
Neural Probabilistic Language Model, JMLR 3 (2003) 1137.
"""

from deepnotes.equations import samples
from deepnotes.equations.array import Array, Namespace
from deepnotes.equations.losses import one_hot


def embedding(xp: Namespace, E: Array, x: Array) -> Array:
    """Return the rows of `E` at the indices `x`, as columns: the vector of each sample's category.

    Parameters
    ----------
    E : Array, shape (categories, size)
    x : Array, shape (1, m)
        Whole numbers in ``0 .. categories - 1``, of any dtype, which this function does not check.

    Returns
    -------
    Array, shape (size, m)

    Examples
    --------
    >>> import numpy as np
    >>> embedding(np, np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), np.array([[2.0, 0.0, 2.0]]))
    array([[5., 1., 5.],
           [6., 2., 6.]])
    """
    integer = xp.arange(1).dtype  # int64, or int32 in a library that lacks it
    return xp.take(E, xp.astype(x[0, :], integer), axis=0).T


def embedding_gradient(xp: Namespace, dA: Array, x: Array, categories: int) -> Array:
    """Return ``dE = (1/m) one_hot(x) dAᵀ``: for each category, the sum over its samples (N13), divided by m.

    Parameters
    ----------
    dA : Array, shape (size, m)
        The derivative of the loss of each sample by its vector.
    x : Array, shape (1, m)
        As for :func:`embedding`.
    categories : int

    Returns
    -------
    Array, shape (categories, size)

    Examples
    --------
    >>> import numpy as np
    >>> embedding_gradient(np, np.array([[4.0, 1.0, 3.0, 0.0]]), np.array([[2.0, 0.0, 2.0, 1.0]]), 3)
    array([[0.25],
           [0.  ],
           [1.75]])
    """
    m = dA.shape[1]
    return samples.sum_in_blocks(lambda x, dA: one_hot(xp, x, categories, dA.dtype) @ dA.T, x, 1 / m * dA)
