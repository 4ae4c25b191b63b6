"""The updates of the optimizers, which compute the next parameters θ and slots from the current ones and a gradient g.

All arrays are flat buffers of shape (p,), for the p parameters of a whole network, and have the dtype of θ. A slot is
an array that an optimizer keeps between updates, such as a velocity. Numbers that may differ between updates (``rate``,
``epsilon``, ``share``) are Python numbers or 0-d arrays of the dtype of θ; the caller computes them in double
precision.
"""

from collections.abc import Sequence

from deepnotes.equations.array import Array, Namespace


def gradient_descent(xp: Namespace, theta: Array, g: Array, rate: float) -> Array:
    """Return ``θ - rate g``, a step of gradient descent."""
    return theta - rate * g


def momentum(
    xp: Namespace, theta: Array, g: Array, v: Array, rate: float, momentum: float, nesterov: bool = False
) -> tuple[Array, Array]:
    """Return the next θ and velocity: ``v ← momentum v + g``, then ``θ ← θ - rate v``.

    With `nesterov`, ``θ ← θ - rate (g + momentum v)``. This is the method of Sutskever et al., ICML 2013, equations 3
    and 4, but θ is the point at which the gradient is taken; in their notation, that point is ``θ + momentum v``.
    """
    v = momentum * v + g
    return theta - rate * (g + momentum * v if nesterov else v), v


def rmsprop(
    xp: Namespace, theta: Array, g: Array, s: Array, rate: float, rho: float, epsilon: float
) -> tuple[Array, Array]:
    """Return the next θ and mean square: ``s ← rho s + (1 - rho) g²``, then ``θ ← θ - rate g / (sqrt s + epsilon)``.

    T. Tieleman and G. Hinton, Neural Networks for Machine Learning, lecture 6.5 (2012).
    """
    s = rho * s + (1 - rho) * (g * g)
    return theta - rate * (g / (xp.sqrt(s) + epsilon)), s


def rmsprop_inside(
    xp: Namespace, theta: Array, g: Array, s: Array, rate: float, rho: float, epsilon: float
) -> tuple[Array, Array]:
    """Return the same as :func:`rmsprop`, but with ``θ ← θ - rate g / sqrt(s + epsilon)``, as in Keras."""
    s = rho * s + (1 - rho) * (g * g)
    return theta - rate * (g / xp.sqrt(s + epsilon)), s


def adam(  # noqa: PLR0913 - the equation has nine symbols
    xp: Namespace,
    theta: Array,
    g: Array,
    m: Array,
    v: Array,
    rate: float,
    epsilon: float,
    beta1: float,
    beta2: float,
) -> tuple[Array, Array, Array]:
    """Return the next θ, ``m`` and ``v`` of Adam (Kingma and Ba, arXiv:1412.6980, algorithm 1).

    ``m ← beta1 m + g`` and ``v ← beta2 v + g²`` are discounted sums. Divided by the sums of their discount factors,
    they are the bias-corrected moment estimates of the paper. These divisions are already included in `rate` and
    `epsilon` (see :meth:`deepnotes.Adam.scalars`), so the update is ``θ ← θ - rate m / (sqrt v + epsilon)``.
    """
    m = beta1 * m + g
    v = beta2 * v + g * g
    return theta - rate * (m / (xp.sqrt(v) + epsilon)), m, v


def amsgrad(  # noqa: PLR0913 - the equation has ten symbols
    xp: Namespace,
    theta: Array,
    g: Array,
    m: Array,
    v: Array,
    largest: Array,
    rate: float,
    epsilon: float,
    beta1: float,
    beta2: float,
) -> tuple[Array, Array, Array, Array]:
    """Return the next θ, ``m``, ``v`` and largest ``v`` so far of AMSGrad (Reddi et al., ICLR 2018, algorithm 2).

    It is :func:`adam` with the largest ``v`` in the denominator, so that the step size of a parameter never grows.
    """
    m = beta1 * m + g
    v = beta2 * v + g * g
    largest = xp.maximum(largest, v)
    return theta - rate * (m / (xp.sqrt(largest) + epsilon)), m, v, largest


def nadam(  # noqa: PLR0913 - the equation has ten symbols
    xp: Namespace,
    theta: Array,
    g: Array,
    m: Array,
    v: Array,
    rate: float,
    gain: float,
    epsilon: float,
    beta1: float,
    beta2: float,
) -> tuple[Array, Array, Array]:
    """Return the next θ, ``m`` and ``v`` of Adam with Nesterov momentum (T. Dozat, ICLR workshop 2016, algorithm 2).

    ``m`` and ``v`` are those of :func:`adam`, and ``θ ← θ - (rate m + gain g) / (sqrt v + epsilon)``. `rate` and `gain`
    include the momentum of this update and of the next one, and the bias corrections.
    """
    m = beta1 * m + g
    v = beta2 * v + g * g
    return theta - (rate * m + gain * g) / (xp.sqrt(v) + epsilon), m, v


def radam(  # noqa: PLR0913 - the equation has ten symbols
    xp: Namespace,
    theta: Array,
    g: Array,
    m: Array,
    v: Array,
    rate: float,
    gain: float,
    epsilon: float,
    beta1: float,
    beta2: float,
) -> tuple[Array, Array, Array]:
    """Return the next θ, ``m`` and ``v`` of rectified Adam (Liu et al., arXiv:1908.03265, algorithm 2).

    ``m`` and ``v`` are those of :func:`adam`, and ``θ ← θ - rate m / (sqrt v + epsilon) - gain m``. While ``v`` is a
    mean of few gradients, `rate` is 0, and the update is one of momentum; later `gain` is 0.
    """
    m = beta1 * m + g
    v = beta2 * v + g * g
    return theta - (rate * (m / (xp.sqrt(v) + epsilon)) + gain * m), m, v


def adamax(  # noqa: PLR0913 - the equation has nine symbols
    xp: Namespace,
    theta: Array,
    g: Array,
    m: Array,
    u: Array,
    rate: float,
    epsilon: float,
    beta1: float,
    beta2: float,
) -> tuple[Array, Array, Array]:
    """Return the next θ, ``m`` and ``u`` of Adamax, Adam with the infinity norm (arXiv:1412.6980, algorithm 2).

    ``m ← beta1 m + g``, ``u ← max(beta2 u, |g| + epsilon)``, and ``θ ← θ - rate m / u``; `rate` includes the bias
    correction.
    """
    m = beta1 * m + g
    u = xp.maximum(beta2 * u, abs(g) + epsilon)
    return theta - rate * (m / u), m, u


def adagrad(xp: Namespace, theta: Array, g: Array, s: Array, rate: float, epsilon: float) -> tuple[Array, Array]:
    """Return the next θ and sum of squares: ``s ← s + g²``, then ``θ ← θ - rate g / (sqrt s + epsilon)``.

    J. Duchi, E. Hazan and Y. Singer, JMLR 12 (2011) 2121.
    """
    s = s + g * g
    return theta - rate * (g / (xp.sqrt(s) + epsilon)), s


def adadelta(
    xp: Namespace, theta: Array, g: Array, s: Array, d: Array, rate: float, rho: float, epsilon: float
) -> tuple[Array, Array, Array]:
    """Return the next θ, mean square of the gradients s, and mean square of the steps d (Zeiler, arXiv:1212.5701).

    ``s ← rho s + (1 - rho) g²``; the step is ``Δ = g sqrt(d + epsilon) / sqrt(s + epsilon)``; then
    ``d ← rho d + (1 - rho) Δ²`` and ``θ ← θ - rate Δ``.
    """
    s = rho * s + (1 - rho) * (g * g)
    step = g * (xp.sqrt(d + epsilon) / xp.sqrt(s + epsilon))
    return theta - rate * step, s, rho * d + (1 - rho) * (step * step)


def lion(
    xp: Namespace, theta: Array, g: Array, m: Array, rate: float, beta1: float, beta2: float
) -> tuple[Array, Array]:
    """Return the next θ and momentum: ``θ ← θ - rate sign(beta1 m + (1 - beta1) g)``, ``m ← beta2 m + (1 - beta2) g``.

    Chen et al., arXiv:2302.06675, algorithm 2.
    """
    return theta - rate * xp.sign(beta1 * m + (1 - beta1) * g), beta2 * m + (1 - beta2) * g


def orthogonalize(xp: Namespace, G: Array, steps: int, epsilon: float) -> Array:
    """Return a matrix near ``U Vᵀ``, where ``G = U S Vᵀ`` is the singular value decomposition of G.

    Each step of the Newton-Schulz iteration maps each singular value s to ``3.4445 s - 4.7750 s³ + 2.0315 s⁵``, which
    takes small values quickly near 1; after five steps most are between 0.7 and 1.2. K. Jordan et al., Muon: an
    optimizer for hidden layers in neural networks (2024).

    Parameters
    ----------
    G : Array, shape (n, n_prev)
    steps : int
    epsilon : float
        The least norm that G is divided by.

    Returns
    -------
    Array, shape (n, n_prev)
    """
    is_tall = G.shape[0] > G.shape[1]
    X = G.T if is_tall else G
    X = X / xp.maximum(xp.sqrt(xp.sum(X * X)), xp.asarray(epsilon, dtype=X.dtype))  # so no singular value exceeds 1
    for _ in range(steps):
        S = X @ X.T
        X = 3.4445 * X + (2.0315 * (S @ S) - 4.7750 * S) @ X
    return X.T if is_tall else X


def lbfgs_direction(xp: Namespace, g: Array, S: Sequence[Array], Y: Sequence[Array]) -> Array:
    """Return ``-H g``, where H is the approximation of the inverse Hessian by L-BFGS, from its last pairs ``s, y``.

    This is the two-loop recursion: J. Nocedal and S. J. Wright, Numerical Optimization, second edition (2006),
    algorithm 7.4, with the scale ``γ = sᵀy / yᵀy`` of the last pair (7.20); D. C. Liu and J. Nocedal, Mathematical
    Programming 45 (1989) 503. A pair of zeros counts for nothing; without pairs, the result is ``-g``.

    Parameters
    ----------
    g : Array, shape (p,)
    S, Y : sequence of Array, shape (p,)
        The changes of θ in the last iterations, and those of its gradient, from the oldest to the latest.

    Returns
    -------
    Array, shape (p,)
    """
    products = [xp.sum(s * y) for s, y in zip(S, Y, strict=True)]
    rho = [xp.where(sy > 0, 1.0 / xp.where(sy > 0, sy, xp.ones_like(sy)), xp.zeros_like(sy)) for sy in products]
    q, alphas = g, []
    for s, y, r in zip(reversed(S), reversed(Y), reversed(rho), strict=True):
        alphas.append(r * xp.sum(s * q))
        q = q - alphas[-1] * y
    yy = xp.sum(Y[-1] * Y[-1])
    q = q * xp.where(products[-1] > 0, products[-1] / xp.where(yy > 0, yy, xp.ones_like(yy)), xp.ones_like(yy))
    for s, y, r, alpha in zip(S, Y, rho, reversed(alphas), strict=True):
        q = q + (alpha - r * xp.sum(y * q)) * s
    return -q


def weight_decay(xp: Namespace, theta: Array, decays: Array, share: float) -> Array:
    """Return ``θ - share θ`` where `decays` is 1 (weights), and θ where it is 0 (biases); ``share = rate * decay``.

    This is the decoupled weight decay of Loshchilov and Hutter, arXiv:1711.05101. AdamW is this function followed by
    :func:`adam`.
    """
    return theta - share * (decays * theta)


def weight_average(xp: Namespace, average: Array, theta: Array, share: float) -> Array:
    """Return ``average + share (θ - average)``, the next average of the parameters.

    With a constant `share` it is an exponential moving average; with ``share = 1 / n`` for the n-th update, the mean.
    """
    return average + share * (theta - average)


def scaled_step(xp: Namespace, theta: Array, updated: Array, factor: Array) -> Array:
    """Return ``θ + factor (θ' - θ)``, given θ' after an update: the same with `factor` times the learning rate.

    It has the values of θ' where `factor` is 1, and the bits of θ where it is 0.
    """
    return xp.where(factor > 0, updated + (factor - 1) * (updated - theta), theta)
