"""Lower layers, losses and optimizers to kernels and their arguments: sizes, slices of the flat buffer, options."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from deepnotes.backends import (
    LOSSES,
    SGD,
    Activation,
    ActivationFunction,
    Adam,
    AdamW,
    Dense,
    Dropout,
    Layer,
    Layout,
    Loss,
    LossFunction,
    Optimizer,
    Plan,
    RMSProp,
    Supported,
    formulas,
    fuses,
)
from deepnotes_cupy import generated
from deepnotes_cupy.sources import Launch, codes, kernels

FROM_A = {"sigmoid", "tanh", "relu", "softmax", "exp"}
"""The library's activations whose derivative the kernels compute from A, so that A may overwrite Z.

Except for softmax, which has kernels of its own, ``slope_of_a`` in ``kernels/activations.cuh`` must agree.
"""
FUSED = {name: traits.fused[1] for name, traits in LOSSES.items() if traits.fused}
"""The kernel that computes a loss from the logits, by the name of the loss."""


class LoweredActivation(NamedTuple):
    """The kernels of an activation.

    Attributes
    ----------
    forward : Launch
        The parameters of its kernel begin with those of ``bias_activation`` or, if `by_rows`, ``softmax``.
    backward : Launch
        The parameters of its kernel begin with those of ``activation_backward`` or, if `by_rows`, ``softmax_backward``.
    by_rows : bool
        Whether outputs of a sample depend on each other.
    needs_Z, needs_A : bool
        Which of the arrays the backward pass reads.
    """

    forward: Launch
    backward: Launch
    by_rows: bool
    needs_Z: bool
    needs_A: bool


class LoweredLoss(NamedTuple):
    """The kernel of a loss, and whether it computes the loss from the logits of the last layer (N11)."""

    launch: Launch
    fused: bool


class LoweredUpdate(NamedTuple):
    """The kernel of an optimizer's update, and the names of the scalars that it reads."""

    launch: Launch
    scalars: tuple[str, ...]


def library_activation(name: str, option: float = 0.0) -> LoweredActivation:
    """Return the kernels of one of the library's activations.

    Examples
    --------
    >>> library_activation("gelu").forward.kernel.name
    'bias_activation'
    """
    needs_A, needs_Z = name in FROM_A, name not in FROM_A and name != "identity"
    if name == "softmax":
        return LoweredActivation(Launch.of("softmax"), Launch.of("softmax_backward"), True, needs_Z, needs_A)
    arguments = codes("Activation")[name], option
    forward, backward = Launch.of("bias_activation", *arguments), Launch.of("activation_backward", *arguments)
    return LoweredActivation(forward, backward, False, needs_Z, needs_A)


def is_elementwise(g: LoweredActivation) -> bool:
    """Return whether an activation is one of those that the function ``activate`` of the kernels computes."""
    return g.forward.kernel == kernels()["bias_activation"]


def lower_activation(g: ActivationFunction, dtype: str, outputs: int) -> LoweredActivation:
    """Return the kernels of an activation: generated ones, unless it is one of the library's."""
    if type(g) is Activation and g.name in codes("Activation"):
        return library_activation(g.name, next((value for _, value in g.options), 0.0))
    forward, backward = formulas.activation(g, dtype, outputs), formulas.backward(g, dtype, outputs)
    launches = generated.activation(forward, backward, formulas.options(g))
    by_rows = launches[0].kernel.name == "row_activation"
    return LoweredActivation(*launches, by_rows, backward.uses("Z"), backward.uses("A"))


def lower_loss(loss: LossFunction, last: Layer, dtype: str, outputs: int) -> LoweredLoss:
    """Return the kernel of a loss after the layer `last`: a generated one, unless it is one of the library's."""
    if type(loss) is not Loss or loss.name not in codes("Loss"):
        both = formulas.loss_and_derivative(loss, dtype, outputs)
        return LoweredLoss(generated.loss(both, formulas.options(loss)), False)
    if fuses(last, loss):
        return LoweredLoss(Launch.of(FUSED[loss.name]), True)
    option = next((value for _, value in loss.options), 0.0)
    return LoweredLoss(Launch.of("loss", codes("Loss")[loss.name], option), False)


def lower_update(optimizer: Optimizer, dtype: str) -> LoweredUpdate:
    """Return the kernel of an optimizer's update: a generated one, unless there is one for its class and options."""
    if update := update_of(optimizer):
        kernel, options = update
        return LoweredUpdate(Launch.of(kernel, *options), SCALARS)
    step = formulas.update(optimizer, dtype)
    names = step.numbers[1:]
    return LoweredUpdate(generated.update(step, len(optimizer.slots), names), names)


SCALARS = ("rate", "epsilon", "share")
"""The scalars that the package's updates read, see the enumeration ``Scalar`` in ``kernels/updates.cu``."""

Update: TypeAlias = tuple[str, tuple[Any, ...]]
"""The name of an optimizer's kernel, and the kernel's last arguments: the options of the optimizer."""


def _sgd(o: SGD) -> Update | None:
    if o.momentum and o.rate_in_velocity:
        return None
    return ("momentum", (o.momentum, int(o.nesterov))) if o.momentum else ("sgd", ())


def _rmsprop(o: RMSProp) -> Update | None:
    return None if o.epsilon_inside else ("rmsprop", (o.rho, 1 - o.rho))


def _adam(o: Adam) -> Update:
    return "adam", (o.beta1, o.beta2)


def _adamw(o: AdamW) -> Update | None:
    return None if o.decay_biases else _adam(o)


OPTIMIZERS: dict[type[Optimizer], Callable[[Any], Update | None]] = {
    SGD: _sgd, RMSProp: _rmsprop, Adam: _adam, AdamW: _adamw,
}  # fmt: skip


def update_of(optimizer: Optimizer) -> Update | None:
    """Return the update of an optimizer, or None if there is no kernel for its class or its options."""
    lower_optimizer = OPTIMIZERS.get(type(optimizer))
    return lower_optimizer(optimizer) if lower_optimizer else None


def supported() -> Supported:
    """Return which activations, losses and optimizers have kernels."""
    known = codes("Activation"), codes("Loss"), lambda optimizer: update_of(optimizer) is not None
    return Supported(*known, generates=True)


class DenseRow(NamedTuple):
    """A dense layer: its number, from 1; its sizes; the slices of θ for W and b; the activation."""

    number: int
    n_prev: int
    n: int
    W: slice
    b: slice
    g: LoweredActivation


class DropoutRow(NamedTuple):
    """A dropout layer: its number, from 1; the number of neurons; and the probability of dropping a neuron."""

    number: int
    n: int
    rate: float


Row: TypeAlias = DenseRow | DropoutRow


def lower(layers: Sequence[Layer], layout: Layout, dtype: str, training: bool) -> list[Row]:
    """Return the rows of supported layers, with dropout layers only if `training` and their rate is not 0.

    Raises
    ------
    NotImplementedError
        If there is no kernel for a layer.
    """
    slices = {(entry.layer, entry.key): slice(entry.start, entry.stop) for entry in layout.entries.values()}
    rows: list[Row] = []
    for index, layer in enumerate(layers):
        n_prev, n = layout.sizes[index : index + 2]
        if type(layer) is Dense:
            g = lower_activation(layer.g, dtype, n)
            rows.append(DenseRow(index + 1, n_prev, n, slices[index, "W"], slices[index, "b"], g))
        elif not isinstance(layer, Dropout):
            raise NotImplementedError(f"there is no kernel for {layer!r}")
        elif training and layer.rate > 0:
            rows.append(DropoutRow(index + 1, n, layer.rate))
    return rows


class Lowered(NamedTuple):
    """A plan as kernels: those of its layers, of the loss and of the update."""

    rows: list[Row]
    loss: LoweredLoss
    update: LoweredUpdate


def lower_plan(plan: Plan) -> Lowered:
    """Return the kernels of a plan whose parts all have kernels; errors as for :func:`lower`."""
    return Lowered(
        lower(plan.layers, plan.layout, plan.dtype, training=True),
        lower_loss(plan.loss, plan.layers[-1], plan.dtype, plan.layout.sizes[-1]),
        lower_update(plan.optimizer, plan.dtype),
    )


def stored_per_sample(rows: Sequence[Row], inputs: int, targets: int, factors: str) -> int:
    """Return an upper bound on the number of elements stored for each sample of a batch, to suggest a batch size."""
    widest = max(row.n for row in rows)
    stored = 2 * sum(row.n for row in rows)  # Z, A and the result of dropout
    if factors in ("bfloat16", "float16"):
        stored += (inputs + 2 * sum(row.n for row in rows)) // 2
    blocks = max(
        row.n_prev + row.n for row in rows if isinstance(row, DenseRow)
    )  # the products that Tape.product_over_samples adds
    return inputs + targets + 3 + stored + 2 * widest + blocks
