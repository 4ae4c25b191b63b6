"""A training step with Adam in JAX, which the benchmarks on a CPU and on a GPU share."""

from collections.abc import Callable
from typing import Any

Step = Callable[[Any, Any, Any], tuple[Any, Any]]


def adam_step(
    cost: Callable[[Any, Any, Any], Any], learning_rate: float, beta1: float, beta2: float, epsilon: float
) -> Step:
    """Return a function ``step(state, A, Y)`` that makes one Adam step and returns the next state and the loss.

    Parameters
    ----------
    cost : callable
        ``cost(layers, A, Y)`` returns the loss of a batch; `layers` has W and b of each layer.
    learning_rate, beta1, beta2, epsilon : float
        The options of Adam.
    """
    import jax
    import jax.numpy as jnp

    def step(state: Any, A: Any, Y: Any) -> tuple[Any, Any]:
        layers, m, v, t = state
        loss, gradient = jax.value_and_grad(cost)(layers, A, Y)
        t = t + 1
        m = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, m, gradient)
        v = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * g * g, v, gradient)

        def update(theta: Any, m: Any, v: Any) -> Any:
            m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
            return theta - learning_rate * m_hat / (jnp.sqrt(v_hat) + epsilon)

        return (jax.tree.map(update, layers, m, v), m, v, t), loss

    return step
