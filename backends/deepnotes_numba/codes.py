"""The activations, losses and optimizers that have kernels, and their codes in the compiled functions.

Plans with any others run eagerly. This module does not import Numba, since that takes a second.
"""

from collections.abc import Callable
from typing import Any

from deepnotes.backends import SGD, Adam, AdamW, Optimizer, RMSProp, Supported

OWN = -1
"""The code of a part whose kernel is generated from its expression; of a loss, it is not computed from the logits."""
OWN_ROWS = -2
"""The code of an activation whose generated kernel needs all rows of a block, as softmax does."""
IDENTITY, SIGMOID, TANH, RELU, LEAKY_RELU, SOFTMAX, ELU, GELU, GELU_TANH, SILU, SOFTPLUS, EXP = range(12)
ACTIVATIONS = {
    "identity": IDENTITY, "sigmoid": SIGMOID, "tanh": TANH, "relu": RELU, "leaky_relu": LEAKY_RELU, "softmax": SOFTMAX,
    "elu": ELU, "gelu": GELU, "gelu_tanh": GELU_TANH, "silu": SILU, "softplus": SOFTPLUS, "exp": EXP,
}  # fmt: skip

BINARY, CATEGORICAL, SQUARED, ABSOLUTE, HUBER, POISSON, HALF_POISSON = range(7)
SIGMOID_FUSED, SOFTMAX_FUSED, EXP_FUSED = range(7, 10)
LOSSES = {
    "binary_cross_entropy": BINARY, "categorical_cross_entropy": CATEGORICAL, "mean_squared_error": SQUARED,
    "mean_absolute_error": ABSOLUTE, "huber": HUBER, "poisson": POISSON, "half_poisson_deviance": HALF_POISSON,
}  # fmt: skip
FUSED = {BINARY: SIGMOID_FUSED, CATEGORICAL: SOFTMAX_FUSED, HALF_POISSON: EXP_FUSED}
"""The code of each loss that can be computed from the logits (N11), by its code for a loss of the outputs."""

PLAIN, MOMENTUM, NESTEROV, RMSPROP, ADAM = range(5)
Update = tuple[int, float, float]
"""The code of an optimizer, and its two decay rates."""


def _sgd(o: SGD) -> Update:
    return (NESTEROV if o.nesterov else MOMENTUM) if o.momentum else PLAIN, o.momentum, 0.0


def _rmsprop(o: RMSProp) -> Update | None:
    return None if o.epsilon_inside else (RMSPROP, 0.0, o.rho)


def _adam(o: Adam) -> Update:
    return ADAM, o.beta1, o.beta2


def _adamw(o: AdamW) -> Update | None:
    return None if o.decay_biases else _adam(o)


OPTIMIZERS: dict[type[Optimizer], Callable[[Any], Update | None]] = {
    SGD: _sgd, RMSProp: _rmsprop, Adam: _adam, AdamW: _adamw,
}  # fmt: skip


def update_of(optimizer: Optimizer) -> Update | None:
    """Return the update of an optimizer, or None if there is no kernel for its class or its options."""
    lower_optimizer = OPTIMIZERS.get(type(optimizer))
    return lower_optimizer(optimizer) if lower_optimizer else None


SUPPORTED = Supported(ACTIVATIONS, LOSSES, lambda optimizer: update_of(optimizer) is not None, generates=True)
