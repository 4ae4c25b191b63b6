"""Standardization of the inputs of a network; it is saved with the network."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deepnotes.datasets.on_disk import OnDisk, statistics
from deepnotes.utils.array_checks import refuse_masked
from deepnotes.utils.errors import ArgumentError, DataError, ShapeError


@dataclass(frozen=True, eq=False)
class Standardizer:
    """Standardization of each feature: subtract the mean and divide by the standard deviation of the training data.

    Parameters
    ----------
    mean, scale : ndarray of float64, shape (n, 1)
        The mean and the standard deviation of each feature; a constant feature has the scale 1.

    Raises
    ------
    ShapeError, DataError
        If the shapes differ, a value is not finite, or a scale is not positive.
    """

    mean: np.ndarray
    scale: np.ndarray

    def __post_init__(self) -> None:
        refuse_masked(self.mean, "mean")
        refuse_masked(self.scale, "scale")
        if self.mean.ndim != 2 or self.mean.shape[1] != 1 or self.mean.shape != self.scale.shape:
            raise ShapeError(f"mean and scale have shapes {self.mean.shape} and {self.scale.shape}, wanted (n, 1)")
        if not (np.isfinite(self.mean).all() and np.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise DataError("mean and scale must be finite, and scale must be positive")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.mean):,} feature{'' if len(self.mean) == 1 else 's'})"

    @classmethod
    def fit(cls, X: np.ndarray | OnDisk, unchanged: Sequence[int] = ()) -> "Standardizer":
        """Return the standardizer for the samples X, shape (n, m); the scale of a constant feature is 1.

        Samples that stay on disk are read three times, in parts that fit into memory.

        Parameters
        ----------
        X : ndarray or OnDisk, shape (n, m)
        unchanged : sequence of int, optional
            The features to leave as they are, with the mean 0 and the scale 1, such as the indices of categories for
            an :class:`~deepnotes.Embedding`.

        Examples
        --------
        >>> Standardizer.fit(np.array([[1.0, 3.0], [5.0, 5.0]]))(np.array([[1.0], [6.0]]))
        array([[-1.],
               [ 1.]])
        """
        refuse_masked(X, "X")
        X = X if isinstance(X, OnDisk) else np.asarray(X, dtype=np.float64)
        if X.ndim != 2 or 0 in X.shape:
            raise ShapeError.of("X", X.shape, "(n, m): n features, m samples, at least one of each")
        with np.errstate(all="ignore"):  # __post_init__ refuses a mean or scale that is not finite
            low, high, mean, scale = statistics(X) if isinstance(X, OnDisk) else _statistics(X)
        # For a constant feature, the computed deviation may be a rounding error instead of 0.
        constant = (low == high) | (scale <= 4 * np.finfo(np.float64).eps * np.abs(mean))
        mean, scale = mean.copy(), np.where(constant, 1.0, scale)
        for feature in unchanged:
            if not 0 <= feature < len(mean):
                raise ArgumentError.of("unchanged", feature, f"features from 0 to {len(mean) - 1}")
            mean[feature], scale[feature] = 0.0, 1.0
        return cls(mean, scale)

    def __call__(self, X: np.ndarray) -> np.ndarray:
        """Return X, shape (n, m), after standardization in double precision."""
        refuse_masked(X, "X")
        return np.asarray((X - self.mean) / self.scale)


def _statistics(X: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the minimum, maximum, mean and standard deviation of each feature, each of shape (n, 1)."""
    # Scaling by a power of 2 is exact, and prevents the overflow of sums and squares.
    _, power = np.frexp(np.abs(X).max(axis=1, keepdims=True))
    X = np.ldexp(X, -power)
    low, high = X.min(axis=1, keepdims=True), X.max(axis=1, keepdims=True)
    mean = np.ldexp(np.clip(X.mean(axis=1, keepdims=True), low, high), power)
    return low, high, mean, np.ldexp(X.std(axis=1, keepdims=True), power)
