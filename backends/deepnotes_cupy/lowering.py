"""From layers to what the kernels are called with: sizes, places in the flat buffer, codes."""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from deepnotes.activations import Activation
from deepnotes.layers import Dense, Dropout, Layer
from deepnotes.plan import Layout

FROM_A = {"sigmoid", "tanh", "relu", "softmax", "exp"}
"""Activations whose slope the kernels take from A, so that Z need not be kept (``slope_of_a`` in ``kernels/``)."""


class DenseRow(NamedTuple):
    """A dense layer: its number from 1, sizes, where W and b lie in the flat buffer, activation and its option."""

    number: int
    n_prev: int
    n: int
    W: slice
    b: slice
    activation: str
    option: float


class DropoutRow(NamedTuple):
    """A dropout layer: its number from 1, neurons, and the share that is dropped."""

    number: int
    n: int
    rate: float


Row: TypeAlias = DenseRow | DropoutRow


def lower(layers: Sequence[Layer], layout: Layout, training: bool) -> list[Row]:
    """Return the rows of the library's own layers; dropout is for `training` alone, and where it drops anything."""
    places = {(entry.layer, entry.key): slice(entry.start, entry.stop) for entry in layout.entries.values()}
    rows: list[Row] = []
    for index, layer in enumerate(layers):
        n_prev, n = layout.sizes[index : index + 2]
        if isinstance(layer, Dense) and isinstance(layer.g, Activation):
            option = next((value for _, value in layer.g.options), 0.0)
            rows.append(DenseRow(index + 1, n_prev, n, places[index, "W"], places[index, "b"], layer.g.name, option))
        elif isinstance(layer, Dropout) and training and layer.rate > 0:
            rows.append(DropoutRow(index + 1, n, layer.rate))
    return rows


def numbers_of_a_sample(rows: Sequence[Row], inputs: int, targets: int, factors: str) -> int:
    """Return how many numbers of memory one sample of a batch takes at most: what a batch size is suggested from."""
    widest = max(row.n for row in rows)
    kept = 2 * sum(row.n for row in rows)  # Z, A and what dropout makes of it
    if factors in ("bfloat16", "float16"):
        kept += (inputs + 2 * sum(row.n for row in rows)) // 2
    return inputs + targets + 3 + kept + 2 * widest
