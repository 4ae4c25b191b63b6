"""One training step as two pure functions: :func:`gradient_step` and :func:`update_step`.

They combine the equations N1 to N16, and define what every backend computes: the eager Program calls them, a recorded
Program replays their operations, and a backend that compiles its own code is checked against them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from deepnotes.equations.array import Array, Namespace
from deepnotes.equations.ops import Ops
from deepnotes.nn.layers import Context, Layer, Shortcut, is_random
from deepnotes.nn.losses import LossFunction, losses_of
from deepnotes.nn.optimizer_base import updated_by
from deepnotes.nn.plan import Layout, Plan, fuses

Observer: TypeAlias = Callable[[str, int, Array], None]
"""A function that is called with each intermediate result of a step: its name, the index of its layer, the array."""


def ignore(name: str, layer: int, array: Array) -> None:
    """Observe a step, and do nothing."""


class Gradient(NamedTuple):
    """The result of :func:`gradient_step`.

    Attributes
    ----------
    cost : Array, 0-d
        By default the mean over the batch of the losses times the sample weights, without the L1 and L2 penalties; see
        :class:`~deepnotes.nn.plan.Objective`.
    weight : Array, 0-d
        The weight of `cost` in the mean over an epoch: the number of samples in the batch.
    flat : Array, shape (p,)
        The gradient ``g`` of the cost, including the L1 and L2 penalties. For each statistic, see
        :class:`~deepnotes.nn.layers.Parameter`, it contains the number to subtract from it.
    square : Array, 0-d
        ``Σ g²`` over the trained parameters. If it is finite, so is `flat`.
    """

    cost: Array
    weight: Array
    flat: Array
    square: Array


def forward(  # noqa: PLR0913 - the data and the state of a step
    ops: Ops,
    layers: Sequence[Layer],
    parameters: Sequence[Mapping[str, Array]],
    X: Array,
    seed: int,
    step: Array | None,
    observe: Observer = ignore,
    first_sample: int = 0,
    only_random: bool = False,
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
    observe : callable, optional
        Called with the output "A" of each layer.
    first_sample : int, default 0
        The position of the first sample in the batch, on which the dropout masks depend.
    only_random : bool, default False
        Whether only the layers that may draw random numbers work as in training, and the others as in a prediction.
    """
    A = X
    caches, inputs, kept = [], {}, set(_sources(layers).values())
    for number, (layer, layer_parameters) in enumerate(zip(layers, parameters, strict=True), 1):
        if number - 1 in kept:
            inputs[number - 1] = A
        layer_step = None if only_random and not is_random(layer) else step
        A, cache = layer.forward(ops, layer_parameters, A, Context(number, seed, layer_step, first_sample))
        if type(layer) is Shortcut:
            A = A + inputs[number - 1 - layer.layers]
        caches.append(cache)
        observe("A", number, A)
    return A, caches


def _sources(layers: Sequence[Layer]) -> dict[int, int]:
    """Return, for the index of each shortcut, the index of the first layer of its block, whose input it adds."""
    return {i: i - layer.layers for i, layer in enumerate(layers) if type(layer) is Shortcut}


def backward(
    ops: Ops,
    layers: Sequence[Layer],
    parameters: Sequence[Mapping[str, Array]],
    caches: Sequence[Any],
    dA: Array,
    observe: Observer = ignore,
) -> tuple[Array, list[dict[str, Array]]]:
    """Return ``dA[0]`` and the gradients of each layer (N12 to N15 for each layer), given ``dA`` of the last layer.

    Parameters
    ----------
    caches : sequence
        The caches of :func:`forward`.
    dA : Array, shape (n[L], m)
    observe : callable, optional
        Called with the derivative "dA" by the output of each layer before its backward pass, then with its gradients.
    """
    gradients: list[dict[str, Array]] = [{} for _ in layers]
    sources = _sources(layers)
    skipped: dict[int, Array] = {}  # the derivatives by the inputs of blocks, as far as they come from the shortcuts
    for i in reversed(range(len(layers))):
        observe("dA", i + 1, dA)
        if i in sources:
            source = sources[i]
            skipped[source] = skipped[source] + dA if source in skipped else dA
        dA, gradients[i] = layers[i].backward(ops, parameters[i], caches[i], dA)
        if i in skipped:
            dA = dA + skipped.pop(i)
        _observe_gradients(observe, i + 1, gradients[i])
    return dA, gradients


def _observe_gradients(observe: Observer, layer: int, gradients: Mapping[str, Array]) -> None:
    for name, gradient in gradients.items():
        observe(f"d{name}", layer, gradient)


def sample_losses(
    ops: Ops, layers: Sequence[Layer], loss: LossFunction, A: Array, caches: Sequence[Any], Y: Array
) -> Array:
    """Return the loss of each sample, shape (1, m), computed from the logits if loss and activation are fused (N11)."""
    if fuses(layers[-1], loss):
        return loss.value_of_logits(ops, caches[-1].Z, Y)
    return losses_of(loss, ops, A, Y)


def gradient_step(  # noqa: PLR0913 - the data and the state of a step
    ops: Ops,
    plan: Plan,
    theta: Array,
    decays: Array,
    step: Array | None,
    X: Array,
    Y: Array,
    w: Array | None = None,
    observe: Observer = ignore,
    first_sample: int = 0,
) -> Gradient:
    """Return the cost of a batch and its gradient: forward pass (N2, N3), loss (N10), backward pass (N11 to N15).

    N16 writes out the backward pass for two layers.

    Parameters
    ----------
    theta : Array, shape (p,)
    decays : Array, shape (p,)
        1 for the parameters to which L1, L2 and weight decay apply, 0 for the others.
    step : Array of int64, 0-d, or None
        The number of updates made so far; None for a step without dropout.
    X : Array, shape (n[0], m)
    Y : Array, shape (k, m), or class indices of shape (1, m)
    w : Array, shape (1, m), or None
        Sample weights. Their mean over the data set is 1, so that for any batch size, the expected mean of the weighted
        losses in a batch is the weighted mean loss of the data set.
    observe : callable, optional
        Called as by :func:`forward` and :func:`backward`, and in between with the losses "L" and the "cost".
    first_sample : int, default 0
        As for :func:`forward`.
    """
    xp, loss, objective = ops.xp, plan.loss, plan.objective
    parameters = plan.layout.split(xp, theta)
    A, caches = forward(ops, plan.layers, parameters, X, plan.seed, step, observe, first_sample)
    if plan.class_indices:
        Y = ops.one_hot(Y, A.shape[0], A.dtype)

    layers, last = plan.layers, plan.layers[-1]
    L = sample_losses(ops, layers, loss, A, caches, Y)
    observe("L", len(layers), L)
    samples = xp.asarray(L.shape[1], dtype=L.dtype)
    scale, total = w, samples
    if w is not None and objective.weighted_mean:
        scale, total = ops.sample_scale(w), ops.total_weight(w)
    cost = ops.mean_loss(L if scale is None else L * scale)
    observe("cost", len(layers), cost)
    if objective.scale != 1:
        scale = xp.asarray(objective.scale, dtype=L.dtype) if scale is None else objective.scale * scale
    if fuses(last, loss):
        dZ = loss.delta(ops, A, Y)
        dZ = dZ if scale is None else dZ * scale
        dA, of_last = last.backward_linear(ops, parameters[-1], caches[-1].A_prev, dZ)
        _observe_gradients(observe, len(layers), of_last)
        dA, gradients = backward(ops, layers[:-1], parameters[:-1], caches[:-1], dA, observe)
        gradients.append(of_last)
    else:
        dA = loss.derivative(ops, A, Y)
        dA = dA if scale is None else dA * scale
        dA, gradients = backward(ops, layers, parameters, caches, dA, observe)
    observe("dA", 0, dA)

    g = plan.layout.join(xp, gradients)
    if objective.reported_scale != 1:
        cost = objective.reported_scale * cost
    penalties = (plan.l2, ops.l2_penalty, ops.l2_gradient), (plan.l1, ops.l1_penalty, ops.l1_gradient)
    for factor, penalty, add_gradient in penalties:
        if not factor:
            continue
        share: Any = factor
        if objective.share_l2:
            share = factor / xp.where(total > 0, total, xp.ones_like(total))
            cost = cost + penalty(theta, decays, share)
        g = add_gradient(g, theta, decays, share)
    return Gradient(cost, samples, g, squared_norm(xp, plan.layout, g))


def squared_norm(xp: Namespace, layout: Layout, g: Array) -> Array:
    """Return ``Σ g²`` over the trained parameters, 0-d; NaN if the change of a statistic is not finite."""
    if layout.trained == layout.size:
        return xp.sum(g * g)
    of_trained, changes = g[: layout.trained], g[layout.trained :]
    return xp.sum(of_trained * of_trained) + xp.sum(0 * changes)


def update_step(
    ops: Ops, plan: Plan, theta: Array, decays: Array, g: Array, slots: tuple[Array, ...], scalars: Mapping[str, Any]
) -> tuple[Array, tuple[Array, ...]]:
    """Return the next θ and slots.

    The gradient `g` of the trained parameters is clipped first if the plan has a `clip_norm`. The statistics, at the
    end of θ, are not updated by the optimizer: see :meth:`~deepnotes.nn.optimizer_base.Optimizer.update_statistics`.

    Parameters
    ----------
    theta, decays, g : Array, shape (p,)
    slots : tuple of Array, shape (p,)
    scalars : mapping of str to float or 0-d Array
        The result of the optimizer's ``scalars``.
    """
    if (n := plan.layout.trained) == plan.layout.size:
        return _update_trained(ops, plan, theta, decays, g, slots, scalars)
    first, last = (tuple(slot[part] for slot in slots) for part in (slice(n), slice(n, None)))
    trained, first = _update_trained(ops, plan, theta[:n], decays[:n], g[:n], first, scalars)
    statistics, last = plan.optimizer.update_statistics(ops, theta[n:], g[n:], last, scalars)
    pairs = [(trained, statistics), *zip(first, last, strict=True)]
    theta, *joined = [ops.xp.concat(pair, axis=0) for pair in pairs]
    return theta, tuple(joined)


def _update_trained(
    ops: Ops, plan: Plan, theta: Array, decays: Array, g: Array, slots: tuple[Array, ...], scalars: Mapping[str, Any]
) -> tuple[Array, tuple[Array, ...]]:
    if plan.clip_norm is not None:
        g = ops.clip_by_global_norm(g, plan.clip_norm)
    return updated_by(plan.optimizer, ops, theta, g, slots, decays, scalars)
