"""Initial weights, drawn on the host in double precision from a seeded NumPy generator.

The same seed gives the same weights on every backend. In a float32 network, the float64 weights are rounded.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import sqrt
from typing import TypeAlias

import numpy as np

from deepnotes.utils.errors import look_up

Initializer: TypeAlias = Callable[["np.random.Generator", tuple[int, int]], np.ndarray]
"""A function that takes a generator and the shape ``(n, n_prev)``, and returns float64 weights of that shape."""


Variance: TypeAlias = Callable[[int, int], float]
"""A function that takes n and n_prev, the numbers of outputs and inputs of a layer, and returns a variance."""


@dataclass(frozen=True)
class RandomInitializer:
    """An initializer that draws random numbers with mean 0 and a variance that depends on the sizes of the layer.

    Parameters
    ----------
    variance : callable
        Takes n and n_prev, and returns the variance.
    is_uniform : bool
        True for a uniform distribution within ``±sqrt(3 variance)``, False for a normal distribution.
    sizes : (int, int), optional
        n and n_prev. By default they are the shape of the array to draw, which is right for ``W``.
    """

    variance: Variance
    is_uniform: bool
    sizes: tuple[int, int] | None = None

    def __call__(self, rng: "np.random.Generator", shape: tuple[int, int]) -> np.ndarray:
        """Return an array of random numbers with the given shape."""
        variance = self.variance(*(self.sizes or shape))
        if not self.is_uniform:
            return rng.normal(0.0, sqrt(variance), shape)
        limit = sqrt(3 * variance)
        return rng.uniform(-limit, limit, shape)


@dataclass(frozen=True)
class ConstantInitializer:
    """An initializer that sets all values to one number.

    Parameters
    ----------
    value : float
    """

    value: float

    def __call__(self, rng: "np.random.Generator", shape: tuple[int, int]) -> np.ndarray:
        """Return an array of the given shape, filled with `value`."""
        return np.full(shape, self.value, dtype=np.float64)


@dataclass(frozen=True)
class FirstRowZero:
    """Another initializer, but the first row is zero.

    Parameters
    ----------
    initializer : callable
    """

    initializer: Initializer

    def __call__(self, rng: "np.random.Generator", shape: tuple[int, int]) -> np.ndarray:
        """Return an array of the given shape, whose first row is zero."""
        values = self.initializer(rng, shape)
        values[0] = 0
        return values


def _zeros(rng: "np.random.Generator", shape: tuple[int, int]) -> np.ndarray:
    return np.zeros(shape)


def _he(n: int, n_prev: int) -> float:
    """Return the variance 2 / n_prev (He et al., arXiv:1502.01852)."""
    return 2 / n_prev


def _glorot(n: int, n_prev: int) -> float:
    """Return the variance 2 / (n + n_prev) (Glorot and Bengio, AISTATS 2010)."""
    return 2 / (n + n_prev)


def _lecun(n: int, n_prev: int) -> float:
    """Return the variance 1 / n_prev (LeCun et al., Efficient BackProp, 1998)."""
    return 1 / n_prev


def _one(n: int, n_prev: int) -> float:
    """Return the variance 1 of ``torch.nn.Embedding``."""
    return 1.0


def _torch(n: int, n_prev: int) -> float:
    """Return the variance 1 / (3 n_prev) of ``torch.nn.Linear``, which is uniform within ±1 / sqrt(n_prev)."""
    return 1 / (3 * n_prev)


def _sklearn_sigmoid(n: int, n_prev: int) -> float:
    """Return the variance 2 / (3 (n + n_prev)), which scikit-learn uses for the activation "logistic"."""
    return 2 / (3 * (n + n_prev))


LIBRARY: dict[str, Initializer] = {
    "zeros": _zeros,
    "he_normal": RandomInitializer(_he, False),
    "he_uniform": RandomInitializer(_he, True),
    "glorot_normal": RandomInitializer(_glorot, False),
    "glorot_uniform": RandomInitializer(_glorot, True),
    "lecun_normal": RandomInitializer(_lecun, False),
    "lecun_uniform": RandomInitializer(_lecun, True),
    "standard_normal": RandomInitializer(_one, False),
    "torch_uniform": RandomInitializer(_torch, True),
    "sklearn_uniform": RandomInitializer(_glorot, True),
    "sklearn_sigmoid_uniform": RandomInitializer(_sklearn_sigmoid, True),
}


def as_initializer(initializer: str | Initializer, sizes: tuple[int, int] | None = None) -> Initializer:
    """Return the initializer with the given name; a callable is returned unchanged.

    Parameters
    ----------
    initializer : str or callable
    sizes : (int, int), optional
        n and n_prev of the layer, which determine the variance. By default they are the shape of the array to draw;
        they must be given for ``b``, whose shape is (n, 1).

    Raises
    ------
    UnknownNameError
        If there is no initializer with this name.
    """
    if callable(initializer):
        return initializer
    named = look_up("initializer", initializer, LIBRARY)
    return replace(named, sizes=sizes) if sizes is not None and isinstance(named, RandomInitializer) else named
