"""Control: the numbers that change between updates, in device memory so that a captured graph can be replayed."""

import numpy as np

from deepnotes.backends import Optimizer, Sums, scalar_table
from deepnotes_cupy import sources

SIZE = sources.control().itemsize

SCALARS = ("learning_rate", "rate", "epsilon", "share")
"""The columns of the table of scalars, which has a row for each update."""

NOT_FINITE, CAREFUL = 1, 2
"""Values of `stopped`: the cost or the gradient is not finite, or the update may overflow."""


def initial(step: int, sums: Sums = (0.0, 0.0)) -> np.ndarray:
    """Return the control at the start of a chunk, as bytes.

    Parameters
    ----------
    step : int
        The number of updates made so far.
    sums : (float, float)
        The sums of losses and weights so far.
    """
    control = np.zeros(1, sources.control())
    control["loss_sum"], control["weight_sum"] = sums
    control["clip"], control["step"] = 1.0, step
    return control.view(np.uint8)


def read(content: np.ndarray) -> np.void:
    """Return the fields of a downloaded control by name."""
    fields: np.void = content.view(sources.control())[0]
    return fields


def table(optimizer: Optimizer, step: int, rates: np.ndarray) -> np.ndarray:
    """Return the scalars of the updates after `step`, shape (updates, 4), float64."""
    return np.column_stack([rates, *scalar_table(optimizer, SCALARS[1:], step, rates)])
