"""The updates of the optimizers: from parameters θ, their gradient and the slots to the next θ and slots.

All arrays are flat buffers of shape (p,), so one call updates a whole network. Numbers that change from step to step
(``rate``, ``epsilon``, ``share``) may be Python numbers or 0-d arrays of θ's dtype; the caller computes them in double
precision.
"""

from deepnotes.equations.array import Array, Namespace


def gradient_descent(xp: Namespace, theta: Array, g: Array, rate: float) -> Array:
    """Return ``θ - rate g``."""
    return theta - rate * g


def momentum(
    xp: Namespace, theta: Array, g: Array, v: Array, rate: float, momentum: float, nesterov: bool = False
) -> tuple[Array, Array]:
    """Return θ and ``v``: ``v ← momentum v + g``, ``θ ← θ - rate v``.

    With `nesterov` the step looks ahead along the velocity: ``θ ← θ - rate (g + momentum v)`` (Sutskever et al., ICML
    2013, in the form that keeps θ itself as the state).
    """
    v = momentum * v + g
    return theta - rate * (g + momentum * v if nesterov else v), v


def rmsprop(
    xp: Namespace, theta: Array, g: Array, s: Array, rate: float, rho: float, epsilon: float
) -> tuple[Array, Array]:
    """Return θ and ``s``: ``s ← rho s + (1 - rho) g²``, ``θ ← θ - rate g / (sqrt s + epsilon)`` (Hinton, 2012)."""
    s = rho * s + (1 - rho) * (g * g)
    return theta - rate * (g / (xp.sqrt(s) + epsilon)), s


def rmsprop_inside(
    xp: Namespace, theta: Array, g: Array, s: Array, rate: float, rho: float, epsilon: float
) -> tuple[Array, Array]:
    """Return θ and ``s`` as :func:`rmsprop`, but with ``θ ← θ - rate g / sqrt(s + epsilon)``, as in Keras."""
    s = rho * s + (1 - rho) * (g * g)
    return theta - rate * (g / xp.sqrt(s + epsilon)), s


def adam(
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
    """Return θ, ``m`` and ``v`` after one step of Adam (Kingma and Ba, arXiv:1412.6980).

    ``m ← beta1 m + g`` and ``v ← beta2 v + g²`` are discounted sums; divided by the sums of their discounts they are
    the paper's bias-corrected means. `rate` and `epsilon` already include these divisions, see
    :meth:`deepnotes.Adam.scalars`, so the update is ``θ ← θ - rate m / (sqrt v + epsilon)``.
    """
    m = beta1 * m + g
    v = beta2 * v + g * g
    return theta - rate * (m / (xp.sqrt(v) + epsilon)), m, v


def weight_decay(xp: Namespace, theta: Array, decays: Array, share: float) -> Array:
    """Return ``θ - share θ`` where `decays` is 1 (weights), θ where it is 0 (biases); ``share = rate * decay``.

    The decoupled decay of Loshchilov and Hutter, arXiv:1711.05101; AdamW is this, then :func:`adam`.
    """
    return theta - share * (decays * theta)
