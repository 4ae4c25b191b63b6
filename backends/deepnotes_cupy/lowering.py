"""Lower layers and optimizers to the arguments of kernels: sizes, slices of the flat buffer, codes."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from deepnotes.backends import (
    SGD,
    Activation,
    Adam,
    AdamW,
    Dense,
    Dropout,
    Layer,
    Layout,
    Optimizer,
    RMSProp,
    Supported,
)
from deepnotes_cupy.sources import codes

FROM_A = {"sigmoid", "tanh", "relu", "softmax", "exp"}
"""Activations whose derivative the kernels compute from A, so that A may overwrite Z.

Except for softmax, which has kernels of its own, ``slope_of_a`` in ``kernels/activations.cuh`` must agree.
"""

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
    return Supported(codes("Activation"), codes("Loss"), lambda optimizer: update_of(optimizer) is not None)


class DenseRow(NamedTuple):
    """A dense layer: its number, from 1; its sizes; the slices of θ for W and b; the activation and its option."""

    number: int
    n_prev: int
    n: int
    W: slice
    b: slice
    activation: str
    option: float


class DropoutRow(NamedTuple):
    """A dropout layer: its number, from 1; the number of neurons; and the probability of dropping a neuron."""

    number: int
    n: int
    rate: float


Row: TypeAlias = DenseRow | DropoutRow


def lower(layers: Sequence[Layer], layout: Layout, training: bool) -> list[Row]:
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
        if isinstance(layer, Dense) and isinstance(layer.g, Activation):
            option = next((value for _, value in layer.g.options), 0.0)
            rows.append(DenseRow(index + 1, n_prev, n, slices[index, "W"], slices[index, "b"], layer.g.name, option))
        elif not isinstance(layer, Dropout):
            raise NotImplementedError(f"there is no kernel for {layer!r}")
        elif training and layer.rate > 0:
            rows.append(DropoutRow(index + 1, n, layer.rate))
    return rows


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
