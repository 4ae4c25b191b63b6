"""One training step as two pure functions: the gradient of the cost, and the update.

This is where N1 to N16 are composed. All training goes through these two: the eager Program runs them, the recorded
Program replays them, and a backend that compiles its own code is checked against them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

from deepnotes.equations.array import Array
from deepnotes.equations.ops import Ops
from deepnotes.nn.layers import Context, Dense, Layer
from deepnotes.nn.losses import LossFunction
from deepnotes.nn.plan import Plan


class Gradient(NamedTuple):
    """The result of :func:`gradient_step`.

    Attributes
    ----------
    cost : Array, 0-d
        By default the mean over the batch of the losses, each times its weight, without the L2 penalty; see
        :class:`~deepnotes.nn.plan.Objective`.
    weight : Array, 0-d
        The weight of `cost` in the mean over an epoch, which is the number of samples of the batch.
    flat : Array, shape (p,)
        The gradient of the cost, the L2 penalty included.
    square : Array, 0-d
        ``Σ g²``; finite only if `flat` is finite.
    """

    cost: Array
    weight: Array
    flat: Array
    square: Array


def forward(
    ops: Ops,
    layers: Sequence[Layer],
    parameters: Sequence[Mapping[str, Array]],
    X: Array,
    seed: int,
    step: Array | None,
) -> tuple[Array, list[Any]]:
    """Return the output of the last layer (N2, N3, layer by layer, as in the drawing N5), and each layer's cache.

    Parameters
    ----------
    X : Array, shape (n[0], m)
    step : Array of int64, 0-d, or None
        The number of updates made so far; None when predicting, so that nothing is dropped.
    """
    A = X
    caches = []
    for number, (layer, own) in enumerate(zip(layers, parameters, strict=True), 1):
        A, cache = layer.forward(ops, own, A, Context(number, seed, step))
        caches.append(cache)
    return A, caches


def fuses(last: Layer, loss: LossFunction) -> TypeGuard[Dense]:
    """Return whether ``dZ = A - Y`` is computed at once for the last layer and the loss (N11).

    This is never so for a class derived from Dense, which may compute A from Z differently.
    """
    return type(last) is Dense and loss.fused_with(last.g)


def sample_losses(
    ops: Ops, layers: Sequence[Layer], loss: LossFunction, A: Array, caches: Sequence[Any], Y: Array
) -> Array:
    """Return the loss of each sample, shape (1, m), from the logits if the loss and the activation are fused (N11)."""
    if fuses(layers[-1], loss):
        return loss.value_of_logits(ops, caches[-1].Z, Y)
    return loss.value(ops, A, Y)


def gradient_step(
    ops: Ops, plan: Plan, theta: Array, decays: Array, step: Array, X: Array, Y: Array, w: Array | None = None
) -> Gradient:
    """Return the cost of a batch and its gradient: forward (N2, N3), loss (N10), backward (N11 to N15).

    For two layers, backward is the chain that is written out in N16.

    Parameters
    ----------
    theta : Array, shape (p,)
    decays : Array, shape (p,)
        1 for the parameters that L2 and weight decay apply to, 0 for the others.
    step : Array of int64, 0-d
        The number of updates made so far.
    X : Array, shape (n[0], m)
    Y : Array, shape (k, m), or class indices of shape (1, m)
    w : Array, shape (1, m), or None
        Sample weights, with mean 1 over the data set: then the mean of a batch's weighted losses is, on average, the
        weighted mean over the data set, whatever the batch size.
    """
    xp, loss, objective = ops.xp, plan.loss, plan.objective
    parameters = plan.layout.split(xp, theta)
    A, caches = forward(ops, plan.layers, parameters, X, plan.seed, step)
    if plan.class_indices:
        Y = ops.one_hot(Y, A.shape[0], A.dtype)

    gradients: list[dict[str, Array]] = [{} for _ in plan.layers]
    pending = len(plan.layers)  # the number of layers, from the first, whose gradients are not computed yet
    last = plan.layers[-1]
    L = sample_losses(ops, plan.layers, loss, A, caches, Y)
    samples = xp.asarray(L.shape[1], dtype=L.dtype)
    scale, total = w, samples
    if w is not None and objective.weighted_mean:
        scale, total = ops.sample_scale(w), ops.total_weight(w)
    cost = ops.mean_loss(L if scale is None else L * scale)
    if objective.scale != 1:
        scale = xp.asarray(objective.scale, dtype=L.dtype) if scale is None else objective.scale * scale
    if fuses(last, loss):
        dZ = loss.delta(ops, A, Y)
        pending -= 1
        dZ = dZ if scale is None else dZ * scale
        dA, gradients[-1] = last.backward_linear(ops, parameters[-1], caches[-1].A_prev, dZ)
    else:
        dA = loss.derivative(ops, A, Y)
        dA = dA if scale is None else dA * scale
    for i in reversed(range(pending)):
        dA, gradients[i] = plan.layers[i].backward(ops, parameters[i], caches[i], dA)

    g = plan.layout.join(xp, gradients)
    if objective.reported_scale != 1:
        cost = objective.reported_scale * cost
    if plan.l2:
        l2: Any = plan.l2
        if objective.share_l2:
            l2 = plan.l2 / xp.where(total > 0, total, xp.ones_like(total))
            cost = cost + ops.l2_penalty(theta, decays, l2)
        g = ops.l2_gradient(g, theta, decays, l2)
    return Gradient(cost, samples, g, xp.sum(g * g))


def update_step(
    ops: Ops, plan: Plan, theta: Array, decays: Array, g: Array, slots: tuple[Array, ...], scalars: Mapping[str, Any]
) -> tuple[Array, tuple[Array, ...]]:
    """Return the next θ and slots, after clipping the gradient `g` if the plan has a `clip_norm`.

    Parameters
    ----------
    theta, decays, g : Array, shape (p,)
    slots : tuple of Array, shape (p,)
    scalars : mapping of str to float or 0-d Array
        The result of the optimizer's ``scalars``.
    """
    if plan.clip_norm is not None:
        g = ops.clip_by_global_norm(g, plan.clip_norm)
    return plan.optimizer.update(ops, theta, g, slots, decays, scalars)
