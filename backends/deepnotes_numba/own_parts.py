"""Kernels for activations, losses and optimizers that have none in this backend, by their expressions."""

from typing import Any, NamedTuple

import numpy as np

from deepnotes.backends import PER_SAMPLE, Optimizer, formulas
from deepnotes_numba import codes, generated
from deepnotes_numba.generated import Kernel as Kernel

NO_KERNEL = Kernel(0, np.empty(0))


class OwnActivation(NamedTuple):
    """An activation: its code, OWN or OWN_ROWS, and its kernels, which have the same constants."""

    code: int
    forward: Kernel
    backward: Kernel


def own_activation(g: Any, dtype: str, outputs: int) -> OwnActivation:
    """Return the kernels of an activation.

    Raises
    ------
    NotAnExpressionError
        If its formulas cannot be traced.
    """
    forward, backward = formulas.activation(g, dtype, outputs), formulas.backward(g, dtype, outputs)
    rows = any(kind.shape == PER_SAMPLE for kind in (*forward.kinds, *backward.kinds))
    options = formulas.options(g)
    return OwnActivation(
        codes.OWN_ROWS if rows else codes.OWN, generated.activation(forward, options),
        generated.activation_backward(backward, options),
    )  # fmt: skip


def own_loss(loss: Any, dtype: str, outputs: int) -> Kernel:
    """Return the kernel of a loss; errors as for :func:`own_activation`."""
    return generated.loss(formulas.loss_and_derivative(loss, dtype, outputs), formulas.options(loss))


def own_update(optimizer: Optimizer, dtype: str) -> Kernel:
    """Return the kernel of an optimizer's update; errors as for :func:`own_activation`."""
    step = formulas.update(optimizer, dtype)
    return generated.update(step, len(optimizer.slots), step.numbers[1:])
