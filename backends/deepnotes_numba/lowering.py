"""Lower a plan to the tables and codes that the compiled functions use."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from deepnotes.backends import Dense, Dropout, Layer, Layout, LossFunction, Plan, fuses
from deepnotes_numba import codes, interpreter
from deepnotes_numba.arguments import Objective
from deepnotes_numba.kernels import ActivationKernels, Kernel, activation_kernels, loss_kernel
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
    kernels : list of ActivationKernels
        The kernels whose addresses are in the tables.
    """

    tables: tuple[np.ndarray, np.ndarray, np.ndarray]
    units: int
    tiles: int
    kernels: list[ActivationKernels]


def lower_network(
    layers: Sequence[Layer], layout: Layout, dtype: np.dtype, class_indices: bool, training: bool
) -> Lowered:
    """Return the tables for a network of supported layers; dropout layers are left out unless `training`.

    Raises
    ------
    NotImplementedError
        If there is no kernel for a layer.
    """
    starts = {(e.layer, e.key): e.start for e in layout.entries.values()}
    rows, rates, kept = [], [], []
    for index, layer in enumerate(layers):
        sizes = layout.sizes[index : index + 2]
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
            rows.append([interpreter.DENSE, *sizes, *place, code, index + 1, *addresses])
            rates.append(0.0)
        elif not isinstance(layer, Dropout):
            raise NotImplementedError(f"there is no kernel for {layer!r}")
        elif training:
            rows.append([interpreter.DROPOUT, *sizes, 0, 0, codes.IDENTITY, index + 1, 0, 0, 0])
            rates.append(layer.rate)
    table = np.zeros((len(rows), interpreter.COLUMNS), np.int64)
    table[:, : interpreter.CONSTANTS + 1] = rows
    targets = 1 if class_indices else layout.sizes[-1]
    regions = interpreter.assign_regions(table, block_of(dtype), targets, training)
    units, tiles = int(regions[interpreter.END]), int(regions[-1])
    return Lowered((table, np.array(rates, dtype), regions), units, tiles, kept)


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
            loss.fused, plan.class_indices, float(plan.l2), float(objective.scale), float(objective.reported_scale),
            bool(objective.share_l2), bool(objective.weighted_mean), *loss.kernel.addresses,
        )
    )  # fmt: skip
