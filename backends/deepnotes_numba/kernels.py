"""The kernels of activations, losses and optimizers: all are generated from their expressions."""

from typing import Any, NamedTuple

from deepnotes.backends import PER_SAMPLE, Activation, Layer, Loss, LossFunction, Optimizer, formulas
from deepnotes_numba import codes, generated
from deepnotes_numba.generated import Kernel as Kernel


class ActivationKernels(NamedTuple):
    """How a layer's activation is computed: a code of :mod:`deepnotes_numba.codes`, and kernels with its constants."""

    code: int
    forward: Kernel
    backward: Kernel


@formulas.cached
def activation_kernels(g: Any, dtype: str, outputs: int, in_place: bool) -> ActivationKernels | None:
    """Return the kernels of an activation, or None for the identity, which needs none.

    With `in_place`, A overwrites Z if the derivative does not need Z.

    Raises
    ------
    NotAnExpressionError
        If its formulas cannot be traced.
    """
    outputs = _traced_outputs(g, outputs)
    forward, backward = formulas.activation(g, dtype, outputs), formulas.backward(g, dtype, outputs)
    if forward.is_input("Z") and backward.is_input("dA"):
        return None
    code = codes.BY_ELEMENT
    if any(kind.shape == PER_SAMPLE for kind in (*forward.kinds, *backward.kinds)):
        code = codes.BY_SAMPLE
    elif in_place and not backward.uses("Z"):
        code = codes.IN_PLACE
    options = formulas.options(g)
    return ActivationKernels(
        code, generated.activation(forward, options), generated.activation_backward(backward, options)
    )


class LayerKernels(NamedTuple):
    """The kernels of a layer by feature, which have the same constants.

    `in_place` are the indices of the parameters whose gradients have the terms dA, which the kernels do not write.
    """

    forward: Kernel
    backward: Kernel
    in_place: list[int]


@formulas.cached
def layer_kernels(layer: Layer, dtype: str, inputs: int) -> LayerKernels:
    """Return the kernels of a layer by feature; errors as for :func:`activation_kernels`."""
    options = formulas.options(layer)
    forward, backward = formulas.layer(layer, dtype, inputs), formulas.layer_backward(layer, dtype, inputs)
    return LayerKernels(
        generated.layer(forward, options),
        generated.layer_backward(backward, options),
        generated.terms_in_place(backward),
    )


@formulas.cached
def loss_kernel(loss: LossFunction, fused: bool, dtype: str, outputs: int) -> Kernel:
    """Return the kernel of a loss; it computes dZ if the loss is `fused` with the last layer, else dA.

    Raises
    ------
    NotAnExpressionError
        If its formulas cannot be traced.
    """
    describe = formulas.fused_loss if fused else formulas.loss_and_derivative
    return generated.loss(describe(loss, dtype, _traced_outputs(loss, outputs)), formulas.options(loss))


@formulas.cached
def update_kernel(optimizer: Optimizer, dtype: str) -> Kernel:
    """Return the kernel of an optimizer's update; errors as for :func:`loss_kernel`."""
    step = formulas.update(optimizer, dtype)
    return generated.update(step, len(optimizer.slots), step.numbers[1:])


@formulas.cached
def statistics_kernel(optimizer: Optimizer, dtype: str) -> Kernel:
    """Return the kernel of an optimizer's update of statistics; errors as for :func:`loss_kernel`."""
    step = formulas.update_statistics(optimizer, dtype)
    return generated.update(step, len(optimizer.slots), step.numbers[1:])


def _traced_outputs(part: Any, outputs: int) -> int:
    """Return the number of outputs with which to trace a part.

    The library's equations have a shortcut for one output, which would need a kernel of its own.
    """
    return 2 if type(part) in (Activation, Loss) else outputs
