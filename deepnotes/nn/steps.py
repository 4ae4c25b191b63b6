"""One training step as two pure functions: :func:`gradient_step` and :func:`update_step`.

They combine the equations N1 to N16, and define what every backend computes: the eager Program calls them, a recorded
Program replays their operations, and a backend that compiles its own code is checked against them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from deepnotes.equations.array import Array
from deepnotes.equations.ops import Ops
from deepnotes.nn.layers import Context, Layer
from deepnotes.nn.losses import LossFunction
from deepnotes.nn.plan import Plan, fuses


class Gradient(NamedTuple):
    """The result of :func:`gradient_step`.

    Attributes
    ----------
    cost : Array, 0-d
        By default the mean over the batch of the losses times the sample weights, without the L2 penalty; see
        :class:`~deepnotes.nn.plan.Objective`.
    weight : Array, 0-d
        The weight of `cost` in the mean over an epoch: the number of samples in the batch.
    flat : Array, shape (p,)
        The gradient ``g`` of the cost, including the L2 penalty.
    square : Array, 0-d
        ``Σ g²``. If it is finite, so is `flat`.
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
    """Return the output of the last layer (N2 and N3 for each layer, as drawn in N5), and the cache of each layer.

    Parameters
    ----------
    parameters : sequence of mapping of str to Array
        The parameters of each layer.
    X : Array, shape (n[0], m)
    seed : int
        The seed of the network.
    step : Array of int64, 0-d, or None
        The number of updates made so far; None for a prediction, where dropout has no effect.
    """
    A = X
    caches = []
    for number, (layer, layer_parameters) in enumerate(zip(layers, parameters, strict=True), 1):
        A, cache = layer.forward(ops, layer_parameters, A, Context(number, seed, step))
        caches.append(cache)
    return A, caches


def sample_losses(
    ops: Ops, layers: Sequence[Layer], loss: LossFunction, A: Array, caches: Sequence[Any], Y: Array
) -> Array:
    """Return the loss of each sample, shape (1, m), computed from the logits if loss and activation are fused (N11)."""
    if fuses(layers[-1], loss):
        return loss.value_of_logits(ops, caches[-1].Z, Y)
    return loss.value(ops, A, Y)


def gradient_step(
    ops: Ops, plan: Plan, theta: Array, decays: Array, step: Array, X: Array, Y: Array, w: Array | None = None
) -> Gradient:
    """Return the cost of a batch and its gradient: forward pass (N2, N3), loss (N10), backward pass (N11 to N15).

    N16 writes out the backward pass for two layers.

    Parameters
    ----------
    theta : Array, shape (p,)
    decays : Array, shape (p,)
        1 for the parameters to which L2 and weight decay apply, 0 for the others.
    step : Array of int64, 0-d
        The number of updates made so far.
    X : Array, shape (n[0], m)
    Y : Array, shape (k, m), or class indices of shape (1, m)
    w : Array, shape (1, m), or None
        Sample weights. Their mean over the data set is 1, so that for any batch size, the expected mean of the weighted
        losses in a batch is the weighted mean loss of the data set.
    """
    xp, loss, objective = ops.xp, plan.loss, plan.objective
    parameters = plan.layout.split(xp, theta)
    A, caches = forward(ops, plan.layers, parameters, X, plan.seed, step)
    if plan.class_indices:
        Y = ops.one_hot(Y, A.shape[0], A.dtype)

    gradients: list[dict[str, Array]] = [{} for _ in plan.layers]
    pending = len(plan.layers)  # the gradients of the first `pending` layers are not computed yet
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
    """Return the next θ and slots; the gradient `g` is clipped first if the plan has a `clip_norm`.

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
