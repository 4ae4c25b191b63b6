"""The events of a training step: its arrays, each with its name, its formula and its equations."""

import textwrap
from dataclasses import dataclass

import numpy as np

from deepnotes.network.inspection.matrices import beside

WIDTH = 62
"""The number of characters after which a formula continues in the next line."""


@dataclass(frozen=True, eq=False)
class Event:
    """One array that a training step computes.

    Attributes
    ----------
    number : int
        The position in the step, from 1.
    name : str
        The name in the notes, with the number of the layer: ``Z1``, ``A1``, ``dZ2``, ``dW2``, ``db2``; ``L`` and
        ``cost``.
    formula : str
        Its formula, in terms of arrays that came before.
    equations : tuple of str
        The numbers of the equations in the notes, such as ``("N2",)``; empty for what is not in the notes.
    shapes : str
        The shape of the array and, for products of matrices, the shapes of the factors.
    direction : {"forward", "loss", "backward"}
    value : ndarray
        The array, in the dtype of the network.
    """

    number: int
    name: str
    formula: str
    equations: tuple[str, ...]
    shapes: str
    direction: str
    value: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return self.value.shape

    def __str__(self) -> str:
        """Return the event as it stands on the page of its trace."""
        return self.text()

    def text(self, width: int = 0, numbered: bool = False) -> str:
        """Return the formula in the first line, the shapes below it, and the numbers beside them.

        Parameters
        ----------
        width : int
            The least width of the left-hand side.
        numbered : bool
            Whether to begin with the position in the step.
        """
        lead = f"{self.number:>3}  " if numbered else ""
        indent = " " * len(lead)
        lines = textwrap.wrap(lead + self.headline, WIDTH, subsequent_indent=f"{indent}    ", break_on_hyphens=False)
        return beside([*lines, indent + self.shapes], self.value, width)

    @property
    def headline(self) -> str:
        """The name, the formula, and the numbers of the equations."""
        tags = f"  ({', '.join(self.equations)})" if self.equations else ""
        return f"{self.name} = {self.formula}{tags}"
