"""Initial weights, drawn on the host in double precision from a seeded NumPy generator.

They are the same for the same seed on every backend, and the same in every dtype up to the final rounding.
"""

from collections.abc import Callable
from functools import partial
from math import sqrt
from typing import TypeAlias

import numpy as np

from deepnotes.errors import look_up

Initializer: TypeAlias = Callable[["np.random.Generator", tuple[int, int]], np.ndarray]
"""Takes the generator and the shape ``(n, n_prev)``, returns float64 weights of that shape."""


Variance: TypeAlias = Callable[[int, int], float]


def _normal(variance: Variance, rng: "np.random.Generator", shape: tuple[int, int]) -> np.ndarray:
    return rng.normal(0.0, sqrt(variance(*shape)), shape)


def _uniform(variance: Variance, rng: "np.random.Generator", shape: tuple[int, int]) -> np.ndarray:
    limit = sqrt(3 * variance(*shape))
    return rng.uniform(-limit, limit, shape)


def _zeros(rng: "np.random.Generator", shape: tuple[int, int]) -> np.ndarray:
    return np.zeros(shape)


def _he(n: int, n_prev: int) -> float:
    """Return the variance 2 / n_prev (arXiv:1502.01852)."""
    return 2 / n_prev


def _glorot(n: int, n_prev: int) -> float:
    """Return the variance 2 / (n + n_prev) (Glorot and Bengio, AISTATS 2010)."""
    return 2 / (n + n_prev)


def _lecun(n: int, n_prev: int) -> float:
    """Return the variance 1 / n_prev (LeCun et al., Efficient BackProp, 1998)."""
    return 1 / n_prev


LIBRARY: dict[str, Initializer] = {
    "zeros": _zeros,
    "he_normal": partial(_normal, _he),
    "he_uniform": partial(_uniform, _he),
    "glorot_normal": partial(_normal, _glorot),
    "glorot_uniform": partial(_uniform, _glorot),
    "lecun_normal": partial(_normal, _lecun),
    "lecun_uniform": partial(_uniform, _lecun),
}


def as_initializer(initializer: str | Initializer) -> Initializer:
    """Return an initializer given by name or by itself.

    Raises
    ------
    UnknownNameError
        If there is none of that name.
    """
    return initializer if callable(initializer) else look_up("initializer", initializer, LIBRARY)
