"""Control: the numbers that change from update to update, kept in device memory so that graphs can be replayed."""

from collections.abc import Sequence

import numpy as np

from deepnotes.backends import Optimizer, Sums, scalar_table
from deepnotes_cupy import sources

SIZE = sources.control().itemsize

NOT_FINITE, MAY_OVERFLOW = 1, 2
"""Values of the field `stopped`: the cost or the gradient is not finite; the update may overflow."""


def initial(step: int, sums: Sums = (0.0, 0.0)) -> np.ndarray:
    """Return the structure ``Control`` for the start of a chunk, as bytes.

    Parameters
    ----------
    step : int
        The number of updates made so far.
    sums : (float, float)
        The sums of losses and weights so far.
    """
    structure = np.zeros(1, sources.control())
    structure["loss_sum"], structure["weight_sum"] = sums
    structure["clip"], structure["step"] = 1.0, step
    return structure.view(np.uint8)


def read(content: np.ndarray) -> np.void:
    """Return the fields, by name, of a structure ``Control`` that was downloaded."""
    fields: np.void = content.view(sources.control())[0]
    return fields


def table(optimizer: Optimizer, names: Sequence[str], step: int, rates: np.ndarray) -> np.ndarray:
    """Return the learning rates and the scalars of these names for the updates that follow update number `step`.

    The array has shape (updates, 1 + scalars), float64.
    """
    return np.column_stack([rates, *scalar_table(optimizer, names, step, rates)])
