"""Lower a plan to the tables and codes that the compiled functions use."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from deepnotes.backends import Activation, Dense, Dropout, Layer, Layout, Loss, LossFunction, Plan, fuses
from deepnotes_numba import codes, interpreter
from deepnotes_numba.arguments import Objective
from deepnotes_numba.own_parts import NO_KERNEL, Kernel, OwnActivation, own_activation, own_loss
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
    constants : list of ndarray
        The constants of generated kernels, whose addresses are in the tables.
    """

    tables: tuple[np.ndarray, np.ndarray, np.ndarray]
    units: int
    tiles: int
    constants: list[np.ndarray]


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
    rows, options = [], []
    kernels: dict[int, OwnActivation] = {}
    for index, layer in enumerate(layers):
        sizes = layout.sizes[index : index + 2]
        if type(layer) is Dense and type(layer.g) is Activation and layer.g.name in codes.ACTIVATIONS:
            code = codes.ACTIVATIONS[layer.g.name]
            rows.append([interpreter.DENSE, *sizes, starts[index, "W"], starts[index, "b"], code, index + 1])
            options.append(next((value for _, value in layer.g.options), 0.0))
        elif type(layer) is Dense:
            own = own_activation(layer.g, dtype.name, sizes[1])
            kernels[len(rows)] = own
            rows.append([interpreter.DENSE, *sizes, starts[index, "W"], starts[index, "b"], own.code, index + 1])
            options.append(0.0)
        elif not isinstance(layer, Dropout):
            raise NotImplementedError(f"there is no kernel for {layer!r}")
        elif training:
            rows.append([interpreter.DROPOUT, *sizes, 0, 0, codes.IDENTITY, index + 1])
            options.append(layer.rate)
    table = np.zeros((len(rows), interpreter.COLUMNS), np.int64)
    table[:, : interpreter.NUMBER + 1] = rows
    for at, own in kernels.items():
        table[at, interpreter.FORWARD], table[at, interpreter.BACKWARD] = own.forward.address, own.backward.address
        table[at, interpreter.CONSTANTS] = own.forward.constants.ctypes.data
    targets = 1 if class_indices else layout.sizes[-1]
    regions = interpreter.assign_regions(table, block_of(dtype), targets, training)
    units, tiles = int(regions[interpreter.END]), int(regions[-1])
    constants = [own.forward.constants for own in kernels.values()]
    return Lowered((table, np.array(options, dtype), regions), units, tiles, constants)


def block_of(dtype: np.dtype) -> int:
    """Return S, the number of samples in a block."""
    return 2 * REGISTER // dtype.itemsize


class LoweredLoss(NamedTuple):
    """A loss after the last layer: its code and its option; or OWN, and the generated kernel."""

    code: int
    option: np.floating
    kernel: Kernel


def lower_loss(loss: LossFunction, last: Layer, outputs: int, dtype: np.dtype) -> LoweredLoss:
    """Return a loss that follows the layer `last`, with this number of outputs, as the compiled functions read it."""
    if type(loss) is not Loss or loss.name not in codes.LOSSES:
        return LoweredLoss(codes.OWN, dtype.type(0), own_loss(loss, dtype.name, outputs))
    code = codes.LOSSES[loss.name]
    if fuses(last, loss):
        code = codes.FUSED[code]
    return LoweredLoss(code, dtype.type(dict(loss.options).get("delta", 1.0)), NO_KERNEL)


def lower_objective(plan: Plan, loss: LoweredLoss) -> tuple[Any, ...]:
    """Return the fields of :class:`deepnotes_numba.arguments.Objective`, as a plain tuple."""
    objective = plan.objective
    return tuple(
        Objective(
            loss.code, loss.option, plan.class_indices, float(plan.l2), float(objective.scale),
            float(objective.reported_scale), bool(objective.share_l2), bool(objective.weighted_mean),
            *loss.kernel.addresses,
        )
    )  # fmt: skip


def lower_optimizer(plan: Plan, kernel: Kernel) -> tuple[int, float, float, float, int, int, int]:
    """Return the first fields of :class:`deepnotes_numba.arguments.Optimizer`: all except the slots and the limits.

    Raises
    ------
    NotImplementedError
        If there is no kernel for the optimizer, and `kernel` is NO_KERNEL.
    """
    update = codes.update_of(plan.optimizer)
    if update is None and kernel is NO_KERNEL:
        raise NotImplementedError(f"there is no kernel for {plan.optimizer!r}")
    code, beta1, beta2 = update or (codes.OWN, 0.0, 0.0)
    clip_norm = float(plan.clip_norm or 0.0)
    return code, float(beta1), float(beta2), clip_norm, plan.layout.decaying, *kernel.addresses
