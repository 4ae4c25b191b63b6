"""Normalization of each sample over its features, or of each feature over the samples of a batch.

The results have mean square 1 over the features of a sample, and after :func:`center` also mean 0; those of batch
normalization have mean 0 and mean square 1 over the samples. Samples are columns: ``n`` is the number of features and
``m`` the number of samples. Sources: J. L. Ba, J. R. Kiros and G. E. Hinton, Layer Normalization, arXiv:1607.06450; B.
Zhang and R. Sennrich, Root Mean Square Layer Normalization, arXiv:1910.07467; S. Ioffe and C. Szegedy, Batch
Normalization, arXiv:1502.03167.
"""

from deepnotes.equations.array import Array, Namespace


def feature_mean(xp: Namespace, X: Array) -> Array:
    """Return the mean over the features of each sample, ``(1/n) Σ_features X``.

    Parameters
    ----------
    X : Array, shape (n, m)

    Returns
    -------
    Array, shape (1, m)

    Examples
    --------
    >>> import numpy as np
    >>> feature_mean(np, np.array([[1.0, 4.0], [3.0, 0.0]]))
    array([[2., 2.]])
    """
    return xp.sum(X, axis=0, keepdims=True) / X.shape[0]


def center(xp: Namespace, X: Array) -> Array:
    """Return ``X`` minus the mean over the features of each sample.

    Parameters
    ----------
    X : Array, shape (n, m)

    Returns
    -------
    Array, shape (n, m)
    """
    return X - feature_mean(xp, X)


def inverse_rms(xp: Namespace, X: Array, epsilon: float) -> Array:
    """Return ``1 / sqrt((1/n) Σ_features X² + epsilon)`` for each sample (arXiv:1910.07467, equation 4).

    For a centered `X`, this is the inverse of the standard deviation (arXiv:1607.06450, equation 3).

    Parameters
    ----------
    X : Array, shape (n, m)
    epsilon : float
        Above 0, so that the result is finite for a sample whose features are all 0.

    Returns
    -------
    Array, shape (1, m)

    Examples
    --------
    >>> import numpy as np
    >>> inverse_rms(np, np.array([[3.0], [5.0]]), epsilon=8.0)
    array([[0.2]])
    """
    return 1 / xp.sqrt(feature_mean(xp, X * X) + epsilon)


def rms_norm_backward(xp: Namespace, dX_hat: Array, X: Array, inverse: Array) -> Array:
    """Return ``dX`` of ``X_hat = X * inverse``, where `inverse` is :func:`inverse_rms` of `X`.

    ``dX = inverse * (dX_hat - X_hat * mean_features(dX_hat * X_hat))``.

    Parameters
    ----------
    dX_hat : Array, shape (n, m)
        The derivative of the loss of each sample with respect to ``X_hat``.
    X : Array, shape (n, m)
    inverse : Array, shape (1, m)

    Returns
    -------
    Array, shape (n, m)
    """
    return inverse * (dX_hat - X * inverse * (inverse * feature_mean(xp, dX_hat * X)))


def layer_norm_backward(xp: Namespace, dX_hat: Array, C: Array, inverse: Array) -> Array:
    """Return ``dX`` of ``X_hat = C * inverse``, where `C` is the centered X and `inverse` :func:`inverse_rms` of `C`.

    ``dX = inverse * (dX_hat - mean_features(dX_hat) - X_hat * mean_features(dX_hat * X_hat))``.

    Parameters
    ----------
    dX_hat : Array, shape (n, m)
        The derivative of the loss of each sample with respect to ``X_hat``.
    C : Array, shape (n, m)
        The result of :func:`center`.
    inverse : Array, shape (1, m)

    Returns
    -------
    Array, shape (n, m)
    """
    return inverse * (center(xp, dX_hat) - C * inverse * (inverse * feature_mean(xp, dX_hat * C)))


def sample_mean(xp: Namespace, X: Array) -> Array:
    """Return the mean over the samples of each feature, ``(1/m) Σ_samples X`` (arXiv:1502.03167, algorithm 1).

    Parameters
    ----------
    X : Array, shape (n, m)

    Returns
    -------
    Array, shape (n, 1)

    Examples
    --------
    >>> import numpy as np
    >>> sample_mean(np, np.array([[1.0, 4.0], [3.0, 0.0]]))
    array([[2.5],
           [1.5]])
    """
    return xp.sum(X, axis=1, keepdims=True) / X.shape[1]


def sample_variance(xp: Namespace, C: Array) -> Array:
    """Return the variance over the samples of each feature, ``(1/m) Σ_samples C²`` (arXiv:1502.03167, algorithm 1).

    Parameters
    ----------
    C : Array, shape (n, m)
        X minus its :func:`sample_mean`.

    Returns
    -------
    Array, shape (n, 1)
    """
    return sample_mean(xp, C * C)


def inverse_std(xp: Namespace, variance: Array, epsilon: float) -> Array:
    """Return ``1 / sqrt(variance + epsilon)``.

    Parameters
    ----------
    variance : Array, shape (n, 1)
    epsilon : float
        Above 0, so that the result is finite for a feature that is the same in all samples.

    Returns
    -------
    Array, shape (n, 1)

    Examples
    --------
    >>> import numpy as np
    >>> inverse_std(np, np.array([[17.0]]), epsilon=8.0)
    array([[0.2]])
    """
    return 1 / xp.sqrt(variance + epsilon)


def batch_norm_backward(xp: Namespace, dX_hat: Array, C: Array, inverse: Array) -> Array:
    """Return ``dX`` of ``X_hat = C * inverse``, where C is X minus its mean over the samples of the batch.

    ``dX = inverse * (dX_hat - mean_samples(dX_hat) - X_hat * mean_samples(dX_hat * X_hat))`` (arXiv:1502.03167, section
    3, simplified).

    Parameters
    ----------
    dX_hat : Array, shape (n, m)
        m times the derivative of the mean loss with respect to ``X_hat``.
    C : Array, shape (n, m)
    inverse : Array, shape (n, 1)
        The result of :func:`inverse_std` for the :func:`sample_variance` of C.

    Returns
    -------
    Array, shape (n, m)
    """
    centered = dX_hat - sample_mean(xp, dX_hat)
    return inverse * (centered - C * inverse * (inverse * sample_mean(xp, dX_hat * C)))
