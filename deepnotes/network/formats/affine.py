"""Affine functions of each feature, composed from additions of and multiplications by constants."""

from typing import Any, NamedTuple

import numpy as np

from deepnotes.datasets.standardizer import Standardizer
from deepnotes.utils.errors import DeepnotesError, ModelFileError


class Affine(NamedTuple):
    """``factor x + shift``, which is ``(x - mean) / scale``, in double precision; each has shape (1, 1) or (n, 1).

    Both forms are kept: the first is used to multiply weights, the second has the exact numbers of a standardizer.

    Examples
    --------
    >>> made = IDENTITY.then("Sub", np.array([[2.0], [3.0]])).then("Mul", np.array([[0.5]]))
    >>> made(np.array([[4.0], [3.0]]))
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
        """Return this function followed by one more operation.

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
                made = Affine(factor, shift + c, mean - c * scale, scale)
            elif op == "Mul":
                made = Affine(factor * c, shift * c, mean, scale / c)
            else:
                made = Affine(factor / c, shift / c, mean, scale * c)
        if not (np.isfinite(made.factor).all() and np.isfinite(made.shift).all()):
            raise ModelFileError("makes numbers that are not finite")
        return made

    @property
    def is_identity(self) -> bool:
        """Whether it changes nothing."""
        return bool((self.factor == 1).all() and (self.shift == 0).all())

    def split(self, features: int) -> tuple[Standardizer | None, "Affine"]:
        """Return a standardizer, or None if it is not needed, and the affine function that remains after it.

        A standardizer divides by numbers above 0, so negative factors leave a sign, and factors of 0 remain.
        """
        if self.is_identity:
            return None, self
        factor, shift, mean, scale = (np.broadcast_to(x, (features, 1)).astype(np.float64) for x in self)
        with np.errstate(all="ignore"):
            good = np.isfinite(mean) & np.isfinite(scale) & (scale != 0)
        rest = IDENTITY._replace(factor=np.where(good, np.sign(scale), factor), shift=np.where(good, 0.0, shift))
        mean, scale = np.where(good, mean, 0.0), np.where(good, np.abs(scale), 1.0)
        if (mean == 0).all() and (scale == 1).all():
            return None, rest
        try:
            return Standardizer(mean, scale), rest
        except DeepnotesError as error:
            raise ModelFileError(f"the inputs are prepared by what is no standardization: {error}") from None


IDENTITY = Affine(*(np.full((1, 1), x) for x in (1.0, 0.0, 0.0, 1.0)))
