"""The dense layer: its linear part (N2; each row of N2 is N1) and its gradients (N13 to N15).

Samples are columns. The symbols in the shapes are those of the notes: ``n`` is the number of neurons of layer ``l``,
``n_prev`` the number of neurons of layer ``l - 1``, and ``m`` the number of samples. The first argument of every
function is the namespace ``xp``. The result has the dtype of the floating-point arguments.
"""

from deepnotes.equations import samples
from deepnotes.equations.array import Array, Namespace


def linear(xp: Namespace, W: Array, A_prev: Array, b: Array) -> Array:
    """Return ``Z = W A_prev + b`` (N2). Row ``j`` of Z is ``z_j`` of N1 for each sample.

    Parameters
    ----------
    W : Array, shape (n, n_prev)
    A_prev : Array, shape (n_prev, m)
    b : Array, shape (n, 1)
        Broadcast over the samples.

    Returns
    -------
    Array, shape (n, m)

    Examples
    --------
    >>> import numpy as np
    >>> linear(np, np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]]), np.array([[0.5]]))
    array([[11.5]])
    """
    return W @ A_prev + b


def weight_gradient(xp: Namespace, dZ: Array, A_prev: Array) -> Array:
    """Return ``dW = (1/m) dZ A_prevᵀ`` (N13), summed over blocks of samples.

    Parameters
    ----------
    dZ : Array, shape (n, m)
        The derivative of the loss of each sample, not of the mean loss, as everywhere in N11 to N16.
    A_prev : Array, shape (n_prev, m)

    Returns
    -------
    Array, shape (n, n_prev)
    """
    m = dZ.shape[1]
    return samples.sum_in_blocks(lambda dZ, A_prev: dZ @ A_prev.T, 1 / m * dZ, A_prev)


def bias_gradient(xp: Namespace, dZ: Array) -> Array:
    """Return ``db = (1/m) Σ_samples dZ`` (N14) with ``keepdims=True``, summed over blocks of samples.

    Parameters
    ----------
    dZ : Array, shape (n, m)

    Returns
    -------
    Array, shape (n, 1)
    """
    m = dZ.shape[1]
    return samples.sum_in_blocks(lambda dZ: xp.sum(dZ, axis=1, keepdims=True), 1 / m * dZ)


def input_gradient(xp: Namespace, W: Array, dZ: Array) -> Array:
    """Return ``dA_prev = Wᵀ dZ`` (N15). It has no factor ``1/m``, since N13 and N14 take the mean over the samples.

    Parameters
    ----------
    W : Array, shape (n, n_prev)
    dZ : Array, shape (n, m)

    Returns
    -------
    Array, shape (n_prev, m)
    """
    return W.T @ dZ


def gather(xp: Namespace, X: Array, indices: Array) -> Array:
    """Return the columns of `X` at `indices`, in the order of `indices`: the samples of one mini-batch.

    Parameters
    ----------
    X : Array, shape (n, samples)
    indices : Array of int64, shape (m,)
        Each in ``0 .. samples - 1``, which this function does not check.

    Returns
    -------
    Array, shape (n, m)
    """
    return xp.take(X, indices, axis=1)


def standardize(xp: Namespace, X: Array, mean: Array, scale: Array) -> Array:
    """Return ``(X - mean) / scale`` for each feature.

    Parameters
    ----------
    X : Array, shape (n, m)
    mean, scale : Array, shape (n, 1)

    Returns
    -------
    Array, shape (n, m)
    """
    return (X - mean) / scale
