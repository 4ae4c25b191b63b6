"""Sums and products before the first layer, put together to one Standardizer."""

import numpy as np

from deepnotes.errors import DeepnotesError, ModelFileError
from deepnotes.preprocessing import Standardizer


class Standardization:
    """``(x - mean) / scale`` in the making, in double precision.

    Examples
    --------
    >>> made = Standardization()
    >>> made.add("a node", "Sub", np.array([[2.0], [3.0]]))
    >>> made.add("another", "Mul", np.array([[0.5]]))
    >>> made.standardizer(2)(np.array([[4.0], [3.0]]))
    array([[1.],
           [0.]])
    """

    def __init__(self) -> None:
        self.mean, self.scale = np.zeros((1, 1)), np.ones((1, 1))
        self.last = ""

    def add(self, name: str, op: str, c: np.ndarray) -> None:
        """Put one more operation after those that are there.

        Parameters
        ----------
        name : str
            Of the node, for messages.
        op : {"Add", "Sub", "Mul", "Div"}
        c : ndarray, shape (1, 1) or (n, 1)

        Raises
        ------
        ModelFileError
            If it does not fit the others in length.
        """
        if len(c) > 1 and len(self.mean) not in (1, len(c)):
            raise ModelFileError(f"{name} has {len(c)} constants, and those before it {len(self.mean)}")
        if len(c) > 1:
            self.mean, self.scale = (np.broadcast_to(x, c.shape) for x in (self.mean, self.scale))
        self.last = name
        with np.errstate(all="ignore"):
            if op in {"Add", "Sub"}:
                self.mean = self.mean + (c if op == "Sub" else -c) * self.scale
            else:
                self.scale = self.scale * c if op == "Div" else self.scale / c

    def standardizer(self, features: int) -> Standardizer | None:
        """Return it, for so many features; None where it does nothing.

        Raises
        ------
        ModelFileError
            If it is none: a feature is turned round, or made infinite.
        """
        if (self.mean == 0).all() and (self.scale == 1).all():
            return None
        if len(self.mean) not in (1, features):
            raise ModelFileError(f"{self.last} has {len(self.mean)} constants, and there are {features} features")
        try:
            mean, scale = (np.array(np.broadcast_to(x, (features, 1))) for x in (self.mean, self.scale))
            return Standardizer(mean, scale)
        except DeepnotesError as error:
            raise ModelFileError(f"{self.last} ends what is no standardization: {error}") from None
