"""Lower a plan to the tables and codes that the compiled functions use."""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from deepnotes.backends import Activation, Dense, Dropout, Layer, Layout, Loss, Plan, fuses
from deepnotes_numba import codes, interpreter
from deepnotes_numba.arguments import Objective
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
    """

    tables: tuple[np.ndarray, np.ndarray, np.ndarray]
    units: int
    tiles: int


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
    for index, layer in enumerate(layers):
        sizes = layout.sizes[index : index + 2]
        if isinstance(layer, Dense) and isinstance(layer.g, Activation):
            code = codes.ACTIVATIONS[layer.g.name]
            rows.append([interpreter.DENSE, *sizes, starts[index, "W"], starts[index, "b"], code, index + 1])
            options.append(next((value for _, value in layer.g.options), 0.0))
        elif not isinstance(layer, Dropout):
            raise NotImplementedError(f"there is no kernel for {layer!r}")
        elif training:
            rows.append([interpreter.DROPOUT, *sizes, 0, 0, codes.IDENTITY, index + 1])
            options.append(layer.rate)
    table = np.zeros((len(rows), interpreter.TILES + 1), np.int64)
    table[:, : interpreter.NUMBER + 1] = rows
    targets = 1 if class_indices else layout.sizes[-1]
    regions = interpreter.assign_regions(table, block_of(dtype), targets, training)
    units, tiles = int(regions[interpreter.END]), int(regions[-1])
    return Lowered((table, np.array(options, dtype), regions), units, tiles)


def block_of(dtype: np.dtype) -> int:
    """Return S, the number of samples in a block."""
    return 2 * REGISTER // dtype.itemsize


def lower_loss(loss: Loss, last: Layer, dtype: np.dtype) -> tuple[int, np.floating]:
    """Return the code of a loss that follows the layer `last`, and the option of the loss."""
    code = codes.LOSSES[loss.name]
    if fuses(last, loss):
        code = codes.FUSED[code]
    return code, dtype.type(dict(loss.options).get("delta", 1.0))


def lower_objective(plan: Plan, dtype: np.dtype) -> tuple[Any, ...]:
    """Return the fields of :class:`deepnotes_numba.arguments.Objective`, as a plain tuple."""
    code, option = lower_loss(cast(Loss, plan.loss), plan.layers[-1], dtype)
    objective = plan.objective
    return tuple(
        Objective(
            code, option, plan.class_indices, float(plan.l2), float(objective.scale), float(objective.reported_scale),
            bool(objective.share_l2), bool(objective.weighted_mean),
        )
    )  # fmt: skip


def lower_optimizer(plan: Plan) -> tuple[int, float, float, float, int]:
    """Return the first fields of :class:`deepnotes_numba.arguments.Optimizer`: all except the last two, the limits.

    Raises
    ------
    NotImplementedError
        If there is no kernel for the optimizer.
    """
    update = codes.update_of(plan.optimizer)
    if update is None:
        raise NotImplementedError(f"there is no kernel for {plan.optimizer!r}")
    code, beta1, beta2 = update
    return code, float(beta1), float(beta2), float(plan.clip_norm or 0.0), plan.layout.decaying
