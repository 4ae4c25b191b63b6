"""Synthetic data for tests and teaching: any number of samples; the same seed gives the same samples."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepnotes.utils.arguments import number, whole


class Points(NamedTuple):
    """Samples as rows, with class labels.

    Attributes
    ----------
    X : float64 array, shape (m, n)
    y : int64 array, shape (m,)
        The class of each sample, an index into `classes`.
    feature_names : list of str
        ``"x0"``, ``"x1"``, ...
    classes : list of str
        ``"0"``, ``"1"``, ...
    """

    X: NDArray[np.float64]
    y: NDArray[np.int64]
    feature_names: list[str]
    classes: list[str]


class Samples(NamedTuple):
    """Samples as rows, with a number to predict for each.

    Attributes
    ----------
    X : float64 array, shape (m, n)
    y : float64 array, shape (m,)
    feature_names : list of str
        ``"x0"``, ``"x1"``, ...
    """

    X: NDArray[np.float64]
    y: NDArray[np.float64]
    feature_names: list[str]


def make_moons(samples: int = 1000, *, noise: float = 0.1, seed: int = 0) -> Points:
    """Return two interleaved half circles of radius 1; a network needs at least two layers to separate them.

    Parameters
    ----------
    samples : int, default 1000
        The number of samples, in random order; each class has half of them.
    noise : float, default 0.1
        The standard deviation of the noise added to both coordinates.
    seed : int, default 0

    Raises
    ------
    ArgumentError

    Examples
    --------
    >>> moons = make_moons(4, noise=0)
    >>> moons.X.shape, sorted(moons.y.tolist())
    ((4, 2), [0, 0, 1, 1])
    """
    y, rng = _classes(samples, 2, seed)
    angle = rng.uniform(0, np.pi, len(y))
    sign = 1 - 2 * y  # the lower moon is the upper moon rotated by 180 degrees about (1/2, 1/4)
    X = np.column_stack([y + sign * np.cos(angle), y / 2 + sign * np.sin(angle)])
    return _points(X + rng.normal(0, number("noise", noise), X.shape), y, 2)


def make_spirals(
    samples: int = 1000, *, classes: int = 2, turns: float = 1.0, noise: float = 0.1, seed: int = 0
) -> Points:
    """Return spiral arms around the origin, one for each class; a small network needs many epochs to separate them.

    Parameters
    ----------
    samples : int, default 1000
        The number of samples, in random order.
    classes : int, default 2
        The number of arms, whose sizes differ by at most one sample.
    turns : float, default 1.0
        The number of turns of each arm, which begins at the origin and ends at the radius ``2π * turns``.
    noise : float, default 0.1
        The standard deviation of the noise added to both coordinates.
    seed : int, default 0

    Raises
    ------
    ArgumentError
    """
    y, rng = _classes(samples, classes, seed)
    angle = 2 * np.pi * number("turns", turns, positive=True) * np.sqrt(rng.uniform(size=len(y)))
    start = 2 * np.pi * y / classes
    X = angle[:, None] * np.column_stack([np.cos(angle + start), np.sin(angle + start)])
    return _points(X + rng.normal(0, number("noise", noise), X.shape), y, classes)


def make_blobs(
    samples: int = 1000, *, features: int = 2, classes: int = 3, spread: float = 1.0, seed: int = 0
) -> Points:
    """Return a normally distributed cluster for each class; the coordinates of the centres are uniform in [-10, 10].

    Parameters
    ----------
    samples : int, default 1000
        The number of samples, in random order.
    features : int, default 2
        The number of features, n.
    classes : int, default 3
        The number of classes, whose sizes differ by at most one sample.
    spread : float, default 1.0
        The standard deviation of each feature within a class.
    seed : int, default 0

    Raises
    ------
    ArgumentError
    """
    y, rng = _classes(samples, classes, seed)
    centres = rng.uniform(-10, 10, (classes, whole("features", features)))
    X = centres[y] + rng.normal(0, number("spread", spread), (len(y), features))
    return _points(X, y, classes)


def make_teacher(
    samples: int = 1000, *, features: int = 10, hidden: int = 8, noise: float = 0.0, seed: int = 0
) -> Samples:
    """Return normally distributed samples, with the outputs of a small random network (the teacher) as targets.

    ``y = v · tanh(W x + b) + noise``, where b is standard normal, and W and v are normal with the standard deviations
    ``2 / sqrt(features)`` and ``1 / sqrt(hidden)``. A network with one hidden tanh layer of at least
    `hidden` neurons can represent the teacher exactly.

    Parameters
    ----------
    samples : int, default 1000
        The number of samples.
    features : int, default 10
        The number of features, n.
    hidden : int, default 8
        The number of hidden neurons of the teacher.
    noise : float, default 0.0
        The standard deviation of the noise added to y.
    seed : int, default 0

    Raises
    ------
    ArgumentError
    """
    m, n, units = whole("samples", samples), whole("features", features), whole("hidden", hidden)
    rng = np.random.default_rng(whole("seed", seed, 0))
    W, b = rng.normal(0, 2 / np.sqrt(n), (units, n)), rng.normal(size=units)
    v = rng.normal(0, 1 / np.sqrt(units), units)
    X = rng.normal(size=(m, n))
    y = np.tanh(X @ W.T + b) @ v + rng.normal(0, number("noise", noise), m)
    return Samples(X, y, _names(n))


def _classes(samples: int, classes: int, seed: int) -> tuple[NDArray[np.int64], np.random.Generator]:
    """Return the class of each sample, in random order and evenly distributed, and the generator to draw X from."""
    rng = np.random.default_rng(whole("seed", seed, 0))
    whole("classes", classes, 2)
    y = np.arange(whole("samples", samples, classes), dtype=np.int64) % classes
    return rng.permutation(y), rng


def _points(X: NDArray[np.float64], y: NDArray[np.int64], classes: int) -> Points:
    return Points(X, y, _names(X.shape[1]), [str(i) for i in range(classes)])


def _names(n: int) -> list[str]:
    return [f"x{j}" for j in range(n)]
