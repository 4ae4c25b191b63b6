"""Affine functions that apply to each feature separately, composed of additions and multiplications with constants."""

from typing import Any, NamedTuple

import numpy as np

from deepnotes.datasets.standardizer import Standardizer
from deepnotes.utils.errors import DeepnotesError, ModelFileError


class Affine(NamedTuple):
    """An affine function in two forms, ``factor x + shift`` and ``(x - mean) / scale``.

    The first form can be folded into weights and biases, and the second has the exact constants of a standardizer. All
    four arrays are in double precision, with the shape (1, 1) or (n, 1).

    Examples
    --------
    >>> affine = IDENTITY.then("Sub", np.array([[2.0], [3.0]])).then("Mul", np.array([[0.5]]))
    >>> affine(np.array([[4.0], [3.0]]))
    array([[1.],
           [0.]])
    """

    factor: np.ndarray
    shift: np.ndarray
    mean: np.ndarray
    scale: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return the value of the function for x, shape (n, m)."""
        return np.asarray(self.factor * x + self.shift)

    def then(self, op: str, c: Any) -> "Affine":
        """Return this function followed by an operation with a constant.

        Parameters
        ----------
        op : {"Add", "Sub", "Mul", "Div"}
        c : float or ndarray, shape (1, 1) or (n, 1)

        Raises
        ------
        ModelFileError
            If the result is not finite.
        """
        factor, shift, mean, scale = self
        c = np.asarray(c, np.float64).reshape(-1, 1)
        with np.errstate(all="ignore"):
            if op in {"Add", "Sub"}:
                c = c if op == "Add" else -c
                result = Affine(factor, shift + c, mean - c * scale, scale)
            elif op == "Mul":
                result = Affine(factor * c, shift * c, mean, scale / c)
            else:
                result = Affine(factor / c, shift / c, mean, scale * c)
        if not (np.isfinite(result.factor).all() and np.isfinite(result.shift).all()):
            raise ModelFileError("produces numbers that are not finite")
        return result

    @property
    def is_identity(self) -> bool:
        """Whether the function returns its argument unchanged."""
        return bool((self.factor == 1).all() and (self.shift == 0).all())

    def rows(self, start: int, stop: int) -> "Affine":
        """Return the function of a range of the features."""
        return Affine(*(x[start:stop] if len(x) > 1 else x for x in self))

    def above(self, other: "Affine", n: int, m: int) -> "Affine":
        """Return the function of n features by this function, and of m more features by another."""
        pairs = zip(self, other, strict=True)
        return Affine(*(np.vstack([np.broadcast_to(x, (n, 1)), np.broadcast_to(y, (m, 1))]) for x, y in pairs))

    def equals(self, other: "Affine") -> bool:
        """Return whether both functions have the same factors and shifts."""
        return all(np.array_equal(x, y) for x, y in zip(self[:2], other[:2], strict=True))

    def split(self, features: int) -> tuple[Standardizer | None, "Affine"]:
        """Split this function into a standardizer, or None if none is needed, and an affine function to apply after it.

        A standardizer divides by positive numbers, so the second function contains the signs of the factors, and the
        factors that are 0.
        """
        if self.is_identity:
            return None, self
        factor, shift, mean, scale = (np.broadcast_to(x, (features, 1)).astype(np.float64) for x in self)
        with np.errstate(all="ignore"):
            valid = np.isfinite(mean) & np.isfinite(scale) & (scale != 0)
        rest = IDENTITY._replace(factor=np.where(valid, np.sign(scale), factor), shift=np.where(valid, 0.0, shift))
        mean, scale = np.where(valid, mean, 0.0), np.where(valid, np.abs(scale), 1.0)
        if (mean == 0).all() and (scale == 1).all():
            return None, rest
        try:
            return Standardizer(mean, scale), rest
        except DeepnotesError as error:
            raise ModelFileError(f"the preprocessing of the inputs is not a standardization: {error}") from None


IDENTITY = Affine(*(np.full((1, 1), x) for x in (1.0, 0.0, 0.0, 1.0)))
