"""What optimizers and constraints know of the layout of the parameters, which is built on both."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np


class LayoutLike(Protocol):
    """A :class:`~deepnotes.nn.plan.Layout`."""

    @property
    def size(self) -> int:
        """The number of elements of the flat buffer, p."""

    @property
    def entries(self) -> Mapping[str, Any]:
        """By name, the :class:`~deepnotes.nn.plan.Entry` of each parameter."""

    def by_layer(self, values: Mapping[int, float], default: float) -> np.ndarray:
        """Return an array with the value of its layer for each parameter, shape (p,), float64."""
