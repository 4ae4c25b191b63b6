"""The losses (N10, N11 and variants), which return one value per sample, shape (1, m), and their derivatives.

``A``, ``Y`` and the derivatives ``dA = ∂L/∂A`` have shape (k, m) for k outputs and m samples. They and the losses have
the same floating-point dtype. A loss is the mean over the k outputs of a sample, so binary cross-entropy with a single
output is N10 itself. The exceptions are categorical cross-entropy and the Kullback-Leibler divergence, whose k outputs
form one distribution, and :func:`gaussian_nll`, which is the
mean over the targets. The cost is the mean of the losses over the samples, as computed by :func:`mean_loss`; N13 and
N14 compute its gradient.

Functions such as :func:`sigmoid_cross_entropy` combine an output activation and a loss. They compute the loss from the
logits ``Z``, which is accurate even where the activation saturates. The function with the suffix ``_delta`` returns
``dZ = ∂L/∂Z`` at the output layer (N11).
"""

from math import log
from typing import Any

from deepnotes.equations import samples
from deepnotes.equations.array import Array, Namespace


def binary_cross_entropy(xp: Namespace, A: Array, Y: Array) -> Array:
    """Return ``L = -(y log a + (1 - y) log(1 - a))`` (N10), with ``a`` clipped to ``eps .. 1 - eps``."""
    A = _clip_probability(xp, A)
    return _mean_over_outputs(xp, -(Y * xp.log(A) + (1 - Y) * xp.log1p(-A)))


def binary_cross_entropy_derivative(xp: Namespace, A: Array, Y: Array) -> Array:
    """Return ``dA = (a - y) / (a (1 - a)) / k``, the derivative of N10 at the clipped ``a``."""
    A = _clip_probability(xp, A)
    return (A - Y) / (A * (1 - A)) / A.shape[0]


def sigmoid_cross_entropy(xp: Namespace, Z: Array, Y: Array) -> Array:
    """Return N10 for ``a = σ(z)``, computed from the logits: ``L = max(z, 0) - y z + log(1 + e^-|z|)``.

    L is finite for finite ``z``. ``max(z, 0) - y z`` is computed as ``z (1 - y)`` for positive z, else as ``-z y``.
    This avoids cancellation, so the small loss of a confident correct prediction is accurate, both for y = 1 and for
    y = 0.
    """
    return _mean_over_outputs(xp, Z * (xp.astype(Z > 0, Z.dtype) - Y) + xp.log1p(xp.exp(-abs(Z))))


def sigmoid_cross_entropy_delta(xp: Namespace, A: Array, Y: Array) -> Array:
    """Return ``dZ = (A - Y) / k``; for one output this is N11, ``dZ[L] = A[L] - Y``."""
    return A - Y if A.shape[0] == 1 else (A - Y) / A.shape[0]


def categorical_cross_entropy(xp: Namespace, A: Array, Y: Array, label_smoothing: float = 0.0) -> Array:
    """Return ``L = -Σ y log a`` over the outputs, with ``a`` clipped to at least the smallest normal number.

    With label smoothing, y is replaced by ``(1 - label_smoothing) y + label_smoothing / k`` (Szegedy et al.,
    arXiv:1512.00567, section 7).
    """
    Y = _smooth(Y, label_smoothing)
    return -xp.sum(Y * xp.log(_clip_positive(xp, A)), axis=0, keepdims=True)


def categorical_cross_entropy_derivative(xp: Namespace, A: Array, Y: Array, label_smoothing: float = 0.0) -> Array:
    """Return ``dA = -y / a``, with ``a`` clipped to at least the smallest normal number."""
    return -_smooth(Y, label_smoothing) / _clip_positive(xp, A)


def softmax_cross_entropy(xp: Namespace, Z: Array, Y: Array, label_smoothing: float = 0.0) -> Array:
    """Return ``L = -Σ y log a`` for ``a = softmax(z)``, computed from the logits.

    L is finite for finite ``z``. With ``d = z - max z``, ``-log a = log Σ e^d - d``. If the correct class has by far
    the largest logit, ``Σ e^d`` is close to 1, and its logarithm is inaccurate. The columns of Y sum to 1, so
    ``Σ e^d - 1 = Σ (e^d - y)``, and log1p of the right-hand side is accurate.
    """
    Y = _smooth(Y, label_smoothing)
    D = Z - xp.max(Z, axis=0, keepdims=True)
    log_total = xp.log1p(xp.sum(xp.exp(D) - Y, axis=0, keepdims=True))
    zero = xp.zeros_like(Y)
    L = xp.where(xp.equal(Y, zero), zero, Y * (log_total - D))  # d may be -inf, and 0 times infinity is NaN
    return xp.sum(L, axis=0, keepdims=True)


def softmax_cross_entropy_delta(xp: Namespace, A: Array, Y: Array, label_smoothing: float = 0.0) -> Array:
    """Return ``dZ = A - Y``: N11 for softmax with categorical cross-entropy, where the columns of Y sum to 1."""
    return A - _smooth(Y, label_smoothing)


def kl_divergence(xp: Namespace, A: Array, Y: Array) -> Array:
    """Return ``L = Σ (y log(y / a) - y + a)`` over the outputs, of two distributions (Kullback and Leibler, 1951).

    For distributions, ``Σ (a - y)`` is 0; with it, each term is at least 0 and is accurate near its minimum, see
    :func:`half_poisson_deviance`.
    """
    return xp.sum(_poisson_deviance_terms(xp, A, Y), axis=0, keepdims=True)


def kl_divergence_derivative(xp: Namespace, A: Array, Y: Array) -> Array:
    """Return ``dA = 1 - y / a``, computed as ``(a - y) / a``."""
    A = _clip_positive(xp, A)
    return (A - Y) / A


def softmax_kl_divergence(xp: Namespace, Z: Array, Y: Array) -> Array:
    """Return the divergence for ``a = softmax(z)``, from the logits: :func:`softmax_cross_entropy` plus ``Σ y log y``.

    Near its minimum, it has the absolute error of these two terms.
    """
    return softmax_cross_entropy(xp, Z, Y) + xp.sum(_y_log_y(xp, Y), axis=0, keepdims=True)


def softmax_kl_divergence_delta(xp: Namespace, A: Array, Y: Array) -> Array:
    """Return ``dZ = A - Y``, as for the cross-entropy, since ``Σ y log y`` does not depend on the logits."""
    return A - Y


def focal(xp: Namespace, A: Array, Y: Array, gamma: float = 2.0) -> Array:
    """Return the mean over the outputs of ``-y (1 - a)^γ log a - (1 - y) a^γ log(1 - a)``.

    The factors reduce the loss of samples that are already classified well (Lin et al., arXiv:1708.02002). ``a`` is
    clipped to ``eps .. 1 - eps``, and ``x^γ`` is computed as ``e^(γ log x)``.
    """
    A = _clip_probability(xp, A)
    log_a, log_b = xp.log(A), xp.log1p(-A)
    return _mean_over_outputs(xp, -(Y * xp.exp(gamma * log_b) * log_a + (1 - Y) * xp.exp(gamma * log_a) * log_b))


def focal_derivative(xp: Namespace, A: Array, Y: Array, gamma: float = 2.0) -> Array:
    """Return ``dA = (y b^γ (γ log a / b - 1 / a) + (1 - y) a^γ (1 / b - γ log b / a)) / k`` with ``b = 1 - a``."""
    A = _clip_probability(xp, A)
    B = 1 - A
    log_a, log_b = xp.log(A), xp.log1p(-A)
    of_ones = xp.exp(gamma * log_b) * (gamma * log_a / B - 1 / A)
    of_zeros = xp.exp(gamma * log_a) * (1 / B - gamma * log_b / A)
    return (Y * of_ones + (1 - Y) * of_zeros) / A.shape[0]


def sigmoid_focal(xp: Namespace, Z: Array, Y: Array, gamma: float = 2.0) -> Array:
    """Return :func:`focal` for ``a = σ(z)``, computed from the logits with ``-log a = log(1 + e^-z)``."""
    log_a, log_b = _log_sigmoids(xp, Z)
    return _mean_over_outputs(xp, -(Y * xp.exp(gamma * log_b) * log_a + (1 - Y) * xp.exp(gamma * log_a) * log_b))


def sigmoid_focal_delta(xp: Namespace, A: Array, Y: Array, gamma: float = 2.0) -> Array:
    """Return ``dZ = (y b^γ (γ a log a - b) + (1 - y) a^γ (a - γ b log b)) / k`` with ``b = 1 - a``."""
    B = 1 - A
    log_a, log_b = xp.log(_clip_positive(xp, A)), xp.log(_clip_positive(xp, B))
    of_ones = xp.exp(gamma * log_b) * (gamma * A * log_a - B)
    of_zeros = xp.exp(gamma * log_a) * (A - gamma * B * log_b)
    return (Y * of_ones + (1 - Y) * of_zeros) / A.shape[0]


def hinge(xp: Namespace, A: Array, Y: Array) -> Array:
    """Return the mean over the outputs of ``max(0, 1 - t a)`` with ``t = 2 y - 1``, so ``t = ±1`` for y = 1 and 0.

    This is the loss of support vector machines (C. Cortes and V. Vapnik, Machine Learning 20 (1995) 273).
    """
    return _mean_over_outputs(xp, xp.maximum(1 - (2 * Y - 1) * A, xp.zeros_like(A)))


def hinge_derivative(xp: Namespace, A: Array, Y: Array) -> Array:
    """Return ``dA = -t / k`` where ``t a < 1``, else 0."""
    T = 2 * Y - 1
    return -T * xp.astype(1 - T * A > 0, A.dtype) / A.shape[0]


def mean_squared_error(xp: Namespace, A: Array, Y: Array) -> Array:
    """Return the mean of ``(a - y)²`` over the outputs."""
    E = A - Y
    return _mean_over_outputs(xp, E * E)


def mean_squared_error_derivative(xp: Namespace, A: Array, Y: Array) -> Array:
    """Return ``dA = 2 (a - y) / k``."""
    return 2 / A.shape[0] * (A - Y)


def mean_absolute_error(xp: Namespace, A: Array, Y: Array) -> Array:
    """Return the mean of ``|a - y|`` over the outputs."""
    return _mean_over_outputs(xp, abs(A - Y))


def mean_absolute_error_derivative(xp: Namespace, A: Array, Y: Array) -> Array:
    """Return ``dA = sign(a - y) / k``, which is 0 at ``a = y``."""
    return xp.sign(A - Y) / A.shape[0]


def huber(xp: Namespace, A: Array, Y: Array, delta: float = 1.0) -> Array:
    """Return the mean over the outputs of ``e²/2`` if ``|e| <= delta``, else of ``delta (|e| - delta/2)``.

    Here ``e = a - y`` (P. J. Huber, Ann. Math. Statist. 35 (1964) 73). Both cases are computed as ``c (|e| - c/2)``
    with ``c = min(|e|, delta)``.
    """
    error = abs(A - Y)
    clipped = xp.minimum(error, xp.asarray(delta, dtype=error.dtype))
    return _mean_over_outputs(xp, clipped * (error - 0.5 * clipped))


def huber_derivative(xp: Namespace, A: Array, Y: Array, delta: float = 1.0) -> Array:
    """Return ``dA = e / k``, with ``e = a - y`` clipped to ``-delta .. delta``."""
    E = A - Y
    limit = xp.asarray(delta, dtype=E.dtype)
    return xp.maximum(xp.minimum(E, limit), -limit) / A.shape[0]


def log_cosh(xp: Namespace, A: Array, Y: Array) -> Array:
    """Return the mean over the outputs of ``log cosh e`` with ``e = a - y``.

    It is about ``e²/2`` near 0, and ``|e| - log 2`` far from it. Where ``|e| < 1``, it is computed as
    ``-log(1 - tanh² e) / 2``, and elsewhere as ``|e| + log1p(e^(-2 |e|)) - log 2``, which would lose digits near 0.
    """
    E = abs(A - Y)
    t = xp.tanh(xp.minimum(E, xp.ones_like(E)))
    return _mean_over_outputs(xp, xp.where(E < 1, -0.5 * xp.log1p(-t * t), E + xp.log1p(xp.exp(-2 * E)) - log(2)))


def log_cosh_derivative(xp: Namespace, A: Array, Y: Array) -> Array:
    """Return ``dA = tanh(a - y) / k``."""
    return xp.tanh(A - Y) / A.shape[0]


def pinball(xp: Namespace, A: Array, Y: Array, quantile: float = 0.5) -> Array:
    """Return the mean over the outputs of ``q e`` where ``e = y - a`` is positive, else of ``(q - 1) e``.

    Its minimum is the quantile q of the targets (R. Koenker and G. Bassett, Econometrica 46 (1978) 33).
    """
    E = Y - A
    return _mean_over_outputs(xp, xp.maximum(quantile * E, quantile * E - E))


def pinball_derivative(xp: Namespace, A: Array, Y: Array, quantile: float = 0.5) -> Array:
    """Return ``dA = -q / k`` where ``y > a``, ``(1 - q) / k`` where ``y < a``, and their mean at ``y = a``."""
    return (0.5 - 0.5 * xp.sign(Y - A) - quantile) / A.shape[0]


def quantile_loss(xp: Namespace, A: Array, Y: Array, quantiles: tuple[float, ...]) -> Array:
    """Return the mean over the outputs of :func:`pinball`, with a quantile for each output.

    The k outputs are one block of rows for each quantile, with a row for each target; Y has the targets once for each
    block.
    """
    return pinball(xp, A, Y, _quantile_of_rows(xp, A, quantiles))


def quantile_loss_derivative(xp: Namespace, A: Array, Y: Array, quantiles: tuple[float, ...]) -> Array:
    """Return ``dA`` as :func:`pinball_derivative`, with a quantile for each output."""
    return pinball_derivative(xp, A, Y, _quantile_of_rows(xp, A, quantiles))


def _quantile_of_rows(xp: Namespace, A: Array, quantiles: tuple[float, ...]) -> Any:
    """Return the quantile of each row, shape (k, 1)."""
    targets = A.shape[0] // len(quantiles)
    return xp.asarray([[q] for q in quantiles for _ in range(targets)], dtype=A.dtype)


def gaussian_nll(xp: Namespace, A: Array, Y: Array, epsilon: float = 1e-6) -> Array:
    """Return the mean over the targets of ``(s + (y - μ)² e^-s) / 2``, where ``μ`` and ``s`` are outputs.

    This is the negative log-likelihood of a normal distribution of mean ``μ`` and variance ``e^s``, without the
    constant ``log(2π) / 2`` (D. A. Nix and A. S. Weigend, ICNN 1994, p. 55). The first half of the rows of A are ``μ``,
    and the second half ``s``; Y has the targets in both halves. ``s`` is clipped to at least ``log epsilon``.
    """
    E, s = _errors_and_log_variances(xp, A, Y, epsilon)
    return _mean_over_outputs(xp, 0.5 * (s + E * E * xp.exp(-s)))


def gaussian_nll_derivative(xp: Namespace, A: Array, Y: Array, epsilon: float = 1e-6) -> Array:
    """Return ``dμ = (μ - y) e^-s / k`` above ``ds = (1 - (μ - y)² e^-s) / 2 / k``, for k targets."""
    E, s = _errors_and_log_variances(xp, A, Y, epsilon)
    R = E * xp.exp(-s)
    return xp.concat([R / E.shape[0], (0.5 - 0.5 * E * R) / E.shape[0]], axis=0)


def _errors_and_log_variances(xp: Namespace, A: Array, Y: Array, epsilon: float) -> tuple[Array, Array]:
    targets = A.shape[0] // 2
    s = xp.maximum(A[targets:, :], xp.asarray(log(epsilon), dtype=A.dtype))
    return A[:targets, :] - Y[:targets, :], s


def poisson(xp: Namespace, A: Array, Y: Array) -> Array:
    """Return the mean over the outputs of ``a - y log a``.

    This is the negative log-likelihood of the count ``y`` under a Poisson distribution of rate ``a > 0``, without the
    term ``log y!``, which does not depend on ``a``.
    """
    A = _clip_positive(xp, A)
    return _mean_over_outputs(xp, A - Y * xp.log(A))


def poisson_derivative(xp: Namespace, A: Array, Y: Array) -> Array:
    """Return ``dA = (1 - y / a) / k``, computed as ``(a - y) / a / k``, which is accurate for ``a`` close to ``y``."""
    A = _clip_positive(xp, A)
    return (A - Y) / A / A.shape[0]


def exp_poisson(xp: Namespace, Z: Array, Y: Array) -> Array:
    """Return :func:`poisson` for ``a = e^z``, computed from the logits as the mean of ``e^z - y z``."""
    return _mean_over_outputs(xp, xp.exp(Z) - Y * Z)


def exp_poisson_delta(xp: Namespace, A: Array, Y: Array) -> Array:
    """Return ``dZ = (A - Y) / k``: N11 for the activation exp with the loss :func:`poisson`."""
    return A - Y if A.shape[0] == 1 else (A - Y) / A.shape[0]


def half_poisson_deviance(xp: Namespace, A: Array, Y: Array) -> Array:
    """Return the mean over the outputs of ``y log(y / a) - y + a``: :func:`poisson` minus its minimum at ``a = y``.

    Near the minimum, where ``|e| < y / 2`` with ``e = a - y``, it is computed as ``e - y log1p(e / y)``, which is as
    accurate as ``a`` itself.
    """
    return _mean_over_outputs(xp, _poisson_deviance_terms(xp, A, Y))


def half_poisson_deviance_derivative(xp: Namespace, A: Array, Y: Array) -> Array:
    """Return ``dA = (1 - y / a) / k``, the same as :func:`poisson_derivative`."""
    return poisson_derivative(xp, A, Y)


def exp_half_poisson_deviance(xp: Namespace, Z: Array, Y: Array) -> Array:
    """Return :func:`half_poisson_deviance` for ``a = e^z``, computed as the mean of ``y log y - y z - y + e^z``."""
    return _mean_over_outputs(xp, _y_log_y(xp, Y) - Y * Z - Y + xp.exp(Z))


def exp_half_poisson_deviance_delta(xp: Namespace, A: Array, Y: Array) -> Array:
    """Return ``dZ = (A - Y) / k``: N11 for the activation exp with the half Poisson deviance."""
    return A - Y if A.shape[0] == 1 else (A - Y) / A.shape[0]


def one_hot(xp: Namespace, y: Array, k: int, dtype: object) -> Array:
    """Return class indices as one-hot columns: 1 in row ``y``, else 0.

    Parameters
    ----------
    y : Array of int64, shape (1, m)
        Each in ``0 .. k - 1``, which this function does not check.
    k : int
        The number of classes.
    dtype : dtype
        The dtype of the result.

    Returns
    -------
    Array, shape (k, m)
    """
    rows = xp.reshape(xp.arange(k, dtype=y.dtype), (k, 1))
    return xp.astype(xp.equal(rows, y), dtype)


def total_weight(xp: Namespace, w: Array) -> Array:
    """Return the sum of the sample weights `w`, shape (1, m), as a 0-d array, summed over blocks of samples."""
    return samples.sum_in_blocks(xp.sum, w)


def sample_scale(xp: Namespace, w: Array) -> Array:
    """Return the sample weights `w`, shape (1, m), scaled to mean 1, so that a mean of ``w L`` is a weighted mean of L.

    If all weights are 0, they stay 0, and so do the loss and the gradient of the batch.
    """
    total = total_weight(xp, w)
    return w * (w.shape[1] / xp.where(total > 0, total, xp.ones_like(total)))


def mean_loss(xp: Namespace, L: Array) -> Array:
    """Return the cost (N10) as a 0-d array: the mean of the losses `L`, shape (1, m), over the samples.

    The losses are divided by m before they are summed over blocks of samples, so the mean of finite losses is finite.
    """
    return samples.sum_in_blocks(xp.sum, 1 / L.shape[1] * L)


def _mean_over_outputs(xp: Namespace, L: Array) -> Array:
    """Return the mean of `L`, shape (k, m), over the outputs; shape (1, m)."""
    return L if L.shape[0] == 1 else xp.sum(1 / L.shape[0] * L, axis=0, keepdims=True)


def _poisson_deviance_terms(xp: Namespace, A: Array, Y: Array) -> Array:
    """Return ``y log(y / a) - y + a`` for each output."""
    A = _clip_positive(xp, A)
    E = A - Y
    is_near = abs(E) < 0.5 * Y
    log_ratio = xp.log1p(xp.where(is_near, E, xp.zeros_like(E)) / xp.where(is_near, Y, xp.ones_like(Y)))  # log(a / y)
    return xp.where(is_near, E - Y * log_ratio, _y_log_y(xp, Y) - Y * xp.log(A) + E)


def _smooth(Y: Array, label_smoothing: float) -> Array:
    """Return ``(1 - s) y + s / k`` for k outputs and the label smoothing s."""
    return Y - label_smoothing * (Y - 1 / Y.shape[0]) if label_smoothing else Y


def _log_sigmoids(xp: Namespace, Z: Array) -> tuple[Array, Array]:
    """Return ``log σ(z)`` and ``log(1 - σ(z)) = log σ(-z)``."""
    shared = xp.log1p(xp.exp(-abs(Z)))
    zero = xp.zeros_like(Z)
    return xp.minimum(Z, zero) - shared, xp.minimum(-Z, zero) - shared


def _y_log_y(xp: Namespace, Y: Array) -> Array:
    """Return ``y log y``, and 0 where ``y = 0``."""
    return Y * xp.log(xp.where(Y > 0, Y, xp.ones_like(Y)))


def _clip_positive(xp: Namespace, A: Array) -> Array:
    """Return A, clipped to at least the smallest normal number of its dtype, whose logarithm is finite."""
    return xp.maximum(A, xp.asarray(xp.finfo(A.dtype).smallest_normal, dtype=A.dtype))


def _clip_probability(xp: Namespace, A: Array) -> Array:
    """Return A, clipped to ``eps .. 1 - eps``; eps is the machine epsilon of its dtype."""
    eps = float(xp.finfo(A.dtype).eps)
    return xp.minimum(xp.maximum(A, xp.asarray(eps, dtype=A.dtype)), xp.asarray(1 - eps, dtype=A.dtype))
