"""Lower a plan to the tables and codes that the compiled functions use."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from deepnotes.backends import (
    BatchNorm,
    Dense,
    Dropout,
    Embedding,
    Layer,
    Layout,
    LossFunction,
    Noise,
    Plan,
    Shortcut,
    fuses,
)
from deepnotes_numba import codes, interpreter
from deepnotes_numba.arguments import Objective
from deepnotes_numba.kernels import (
    ActivationKernels,
    Kernel,
    LayerKernels,
    activation_kernels,
    layer_kernels,
    loss_kernel,
)
from deepnotes_numba.vectors import REGISTER


class Lowered(NamedTuple):
    """A network in the form that the compiled functions use.

    Attributes
    ----------
    tables : tuple of ndarray
        The fields of :class:`deepnotes_numba.arguments.Tables`, as a plain tuple.
    units : int
        The number of workspace elements for each sample.
    tiles : int
        The number of tiles of rows in the weights of all layers.
    kept : list
        The kernels and constants whose addresses are in the tables.
    """

    tables: tuple[np.ndarray, np.ndarray, np.ndarray]
    units: int
    tiles: int
    kept: list[ActivationKernels | LayerKernels | np.ndarray]

    @property
    def weights(self) -> int:
        """The number of weights of the dense layers, each of which is multiplied once for each sample."""
        layers = self.tables[0]
        dense = layers[layers[:, interpreter.KIND] == interpreter.DENSE]
        return int((dense[:, interpreter.INPUTS] * dense[:, interpreter.OUTPUTS]).sum())


def lower_network(
    layers: Sequence[Layer], layout: Layout, dtype: np.dtype, class_indices: bool, training: bool
) -> Lowered:
    """Return the tables for a network of supported layers; dropout and noise are left out unless `training`.

    Raises
    ------
    NotAnExpressionError
        If there is no kernel for a layer.
    """
    starts = {(e.layer, e.key): e.start for e in layout.entries.values()}
    rows: list[list[int]] = []
    rates: list[float] = []
    kept: list[ActivationKernels | LayerKernels | np.ndarray] = []
    row_of = [-1]  # the row of the table that computes the input of each layer; -1 for X
    for index, layer in enumerate(layers):
        sizes, number = layout.sizes[index : index + 2], index + 1
        if type(layer) is Dense:
            # A fused loss needs Z of the last layer.
            in_place = index < len(layers) - 1
            kernels = activation_kernels(layer.g, dtype.name, sizes[1], in_place)
            place = starts[index, "W"], starts[index, "b"]
            code, addresses = codes.IDENTITY, (0, 0, 0)
            if kernels:
                kept.append(kernels)
                code, (forward, constants) = kernels.code, kernels.forward.addresses
                addresses = forward, kernels.backward.addresses[0], constants
            rows.append([interpreter.DENSE, *sizes, *place, code, number, *addresses, 0, 0])
        elif type(layer) is Shortcut:
            source = row_of[index - layer.layers]
            rows.append([interpreter.SHORTCUT, *sizes, 0, 0, codes.IDENTITY, number, 0, 0, 0, 0, source])
        elif type(layer) is BatchNorm:
            settings = np.array([layer.epsilon, layer.momentum], dtype)
            kept.append(settings)
            place = starts[index, "running_mean"], starts[index, "gamma"]
            addresses = 0, 0, settings.ctypes.data
            rows.append([interpreter.BATCH_NORM, *sizes, *place, codes.IDENTITY, number, *addresses, 2, 0])
        elif type(layer) is Embedding:
            rows += _embedding_rows(layer, sizes, starts)
        elif type(layer) in (Dropout, Noise):
            if training:
                kind = interpreter.DROPOUT if type(layer) is Dropout else interpreter.NOISE
                rows.append([kind, *sizes, 0, 0, codes.IDENTITY, number, 0, 0, 0, 0, 0])
                rates.append(layer.rate if isinstance(layer, Dropout) else layer.std)  # type: ignore[attr-defined]
        else:
            of_layer = layer_kernels(layer, dtype.name, sizes[0])
            kept.append(of_layer)
            (forward, constants), (backward, _) = of_layer.forward.addresses, of_layer.backward.addresses
            entries = [e for e in layout.entries.values() if e.layer == index]
            place = sum(1 << i for i in of_layer.in_place), entries[0].start if entries else 0
            kind = interpreter.BY_FEATURE
            rows.append([kind, *sizes, *place, 0, number, forward, backward, constants, len(entries), 0])
        rates += [0.0] * (len(rows) - len(rates))
        row_of.append(len(rows) - 1)
    table = np.zeros((len(rows), interpreter.COLUMNS), np.int64)
    table[:, : interpreter.SOURCE + 1] = rows
    targets = 1 if class_indices else layout.sizes[-1]
    regions = interpreter.assign_regions(table, block_of(dtype), targets, training)
    units, tiles = int(regions[interpreter.END]), int(regions[-1])
    return Lowered((table, np.array(rates, dtype), regions), units, tiles, kept)


def _embedding_rows(layer: Embedding, sizes: list[int], starts: dict[tuple[int, str], int]) -> Iterator[list[int]]:
    """Yield the rows of an embedding, the first layer: one for each range of columns to copy, and for each table."""
    at = 0
    for columns in layer.numeric(sizes[0]):
        yield [interpreter.COPY, *sizes, columns.start, 0, codes.IDENTITY, 1, at, len(columns), 0, 0, 0]
        at += len(columns)
    for table in layer:
        shape = table.size, table.categories
        yield [interpreter.EMBEDDING, *sizes, starts[0, table.key], table.column, codes.IDENTITY, 1, at, *shape, 0, 0]
        at += table.size


def block_of(dtype: np.dtype) -> int:
    """Return S, the number of samples in a block."""
    return 2 * REGISTER // dtype.itemsize


class LoweredLoss(NamedTuple):
    """A loss after the last layer: its kernel, and whether it computes dZ instead of dA."""

    kernel: Kernel
    fused: bool


def lower_loss(loss: LossFunction, last: Layer, outputs: int, dtype: np.dtype) -> LoweredLoss:
    """Return a loss that follows the layer `last`, with this number of outputs."""
    fused = fuses(last, loss)
    return LoweredLoss(loss_kernel(loss, fused, dtype.name, outputs), fused)


def lower_objective(plan: Plan, loss: LoweredLoss) -> tuple[Any, ...]:
    """Return the fields of :class:`deepnotes_numba.arguments.Objective`, as a plain tuple."""
    objective = plan.objective
    return tuple(
        Objective(
            loss.fused, plan.class_indices, float(plan.l1), float(plan.l2), float(objective.scale),
            float(objective.reported_scale), bool(objective.share_l2), bool(objective.weighted_mean),
            *loss.kernel.addresses,
        )
    )  # fmt: skip
