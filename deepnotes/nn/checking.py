"""Checks of the derivatives of activations and losses against central differences, and a search for their kinks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from deepnotes.equations.ops import Ops
from deepnotes.nn import formulas
from deepnotes.nn.activations import ActivationFunction
from deepnotes.nn.expressions import COMPARISONS, Expression
from deepnotes.nn.losses import LossFunction, losses_of
from deepnotes.utils.errors import ArgumentError, NotAnExpressionError

NUMPY: Any = np
OUTPUTS = 3
"""The number of outputs of the samples on which a part is checked."""
TOLERANCE = 1e-6
"""The largest error of a derivative, relative to its size or to 1, whichever is larger."""
JUMP = 1e-3
"""The least difference of the slopes on both sides of a point at which a function has a kink."""
LARGE = (20.0, 100.0, 800.0, 1e5)
"""Sizes at which outputs and derivatives have to be finite."""


@dataclass(frozen=True)
class DerivativeReport:
    """The result of :func:`check`.

    Attributes
    ----------
    part : str
    points : int
        The number of points at which the derivative was compared.
    largest_error : float
        The largest difference from central differences, relative to their size or to 1, whichever is larger.
    kinks : tuple of float
        Where the function is not smooth: arguments of an activation, differences ``a - y`` of a loss.
    not_finite : tuple of float
        Arguments at which the function is finite, but its derivative is not.
    """

    part: str
    points: int
    largest_error: float
    kinks: tuple[float, ...]
    not_finite: tuple[float, ...]

    def __str__(self) -> str:
        """Return the report in three lines."""
        return (
            f"{self.part}: the derivative agrees with central differences to {self.largest_error:.1e} at "
            f"{self.points:,} points\nnot smooth at: {_listed(self.kinks)}\n"
            f"derivative not finite at: {_listed(self.not_finite)}"
        )


def check(part: ActivationFunction | LossFunction) -> DerivativeReport:
    """Compare the derivative of an activation or a loss with central differences, in float64.

    Parameters
    ----------
    part : ActivationFunction or LossFunction

    Returns
    -------
    DerivativeReport
        It also lists the points at which the function is not smooth, and those at which its derivative is not finite.

    Raises
    ------
    ArgumentError
        If the derivative is wrong; the message names the first such point. Points close to a kink do not count.
    NotAnExpressionError
        If there is no derivative, and none can be derived.

    Examples
    --------
    >>> import deepnotes as dn
    >>> print(dn.check(dn.Activation("leaky_relu", slope=0.1)))  # doctest: +ELLIPSIS
    Activation('leaky_relu', slope=0.1): the derivative agrees with central differences to ... at ... points
    not smooth at: 0
    derivative not finite at: none
    """
    if isinstance(part, ActivationFunction):
        return _Check(part, "backward", _activation(part)).report()
    if isinstance(part, LossFunction):
        return _Check(part, "derivative", _loss(part)).report()
    raise ArgumentError(f"part: got {type(part).__name__}, wanted an activation or a loss")


@dataclass(frozen=True)
class _Function:
    """A scalar function of each column of x, with its derivative, and where to look at it."""

    value: Callable[[np.ndarray], np.ndarray]
    """From x, shape (k, m), to shape (m,)."""
    derivative: Callable[[np.ndarray], np.ndarray]
    """From x to its shape."""
    at: np.ndarray
    """The columns to check it at, shape (k, m)."""
    along: Callable[[np.ndarray], np.ndarray]
    """From numbers, shape (m,), to columns: the line on which kinks are searched for."""
    span: tuple[float, float]
    """The ends of this line."""
    switches: Callable[[np.ndarray], list[np.ndarray]]
    """From columns to differences that change sign where the formula takes another branch."""
    large: np.ndarray
    """Numbers on this line at which the derivative has to be finite."""


def _activation(part: Any) -> _Function:
    ops = Ops(NUMPY, {})
    rng = np.random.default_rng(0)
    grid = np.broadcast_to(np.linspace(-6, 6, 241), (OUTPUTS, 241))
    at = np.concatenate([grid + rng.normal(size=grid.shape) * 1e-3, rng.normal(size=(OUTPUTS, 400)) * 3], axis=1)
    weights = rng.normal(size=(OUTPUTS, 1))  # of the outputs, in the scalar that is differentiated

    def value(Z: np.ndarray) -> np.ndarray:
        total: np.ndarray = np.asarray(weights * part.forward(ops, Z)).sum(axis=0)
        return total

    def derivative(Z: np.ndarray) -> np.ndarray:
        dA = np.broadcast_to(weights, Z.shape)
        return np.asarray(part.backward(ops, dA, Z, part.forward(ops, Z)))

    def along(z: np.ndarray) -> np.ndarray:
        return np.concatenate([z[None], np.full((OUTPUTS - 1, len(z)), 0.3)])

    switches = _switches(lambda: formulas.activation(part, "float64", OUTPUTS))
    large = np.array([sign * size for size in LARGE for sign in (-1, 1)])
    return _Function(value, derivative, at, along, (-10.0, 10.0), lambda Z: switches(Z), large)


def _loss(part: Any) -> _Function:
    ops = Ops(NUMPY, {})
    rng = np.random.default_rng(0)
    outputs = part.outputs_per_target if part.outputs_per_target > 1 else OUTPUTS
    A = rng.normal(size=(outputs, 400)) * 2
    span, large = (-10.0, 10.0), np.array([sign * size for size in LARGE for sign in (-1, 1)])
    if "real" not in part.outputs:
        A = 0.05 + abs(A)
        span, large = (1e-3, 10.0), np.array(LARGE)
        if "positive" not in part.outputs:
            A = A / (A.sum(axis=0) + ("simplex" not in part.outputs))
            span, large = (1e-3, 1 - 1e-3), np.array([])
    size = A.shape
    Y = {
        "real": rng.normal(size=size) * 2,
        "count": rng.integers(0, 5, size).astype(np.float64),
        "unit": rng.choice([0.0, 0.3, 1.0], size),
        "simplex": np.eye(outputs)[:, rng.integers(0, outputs, size[1])],
    }[part.targets]
    y = {"real": 0.0, "count": 2.0, "unit": 0.3, "simplex": 1.0}[part.targets]

    def targets(A: np.ndarray) -> np.ndarray:
        return Y if A.shape == Y.shape else np.full(A.shape, y)

    def along(e: np.ndarray) -> np.ndarray:
        return np.concatenate([e[None] + y, np.full((outputs - 1, len(e)), 0.3)])

    def value(A: np.ndarray) -> np.ndarray:
        L: np.ndarray = np.asarray(losses_of(part, ops, cast(Any, A), cast(Any, targets(A))))[0]
        return L

    def derivative(A: np.ndarray) -> np.ndarray:
        return np.asarray(part.derivative(ops, A, targets(A)))

    switches = _switches(lambda: formulas.loss(part, "float64", outputs))
    line = (span[0] - y, span[1] - y)
    return _Function(value, derivative, A, along, line, lambda A: switches(A, targets(A)), large - y)


def _switches(formula: Callable[[], Expression]) -> Callable[..., list[np.ndarray]]:
    """Return a function from arrays to the differences whose signs select the branches of a formula."""
    try:
        expression = formula()
    except NotAnExpressionError:
        return lambda *arrays: []
    pairs: list[tuple[int, int | None]] = []
    for node in expression.nodes:
        if node.operation in {"maximum", "minimum", *COMPARISONS}:
            pairs.append((node.arguments[0], node.arguments[1]))
        elif node.operation in {"abs", "sign"}:
            pairs.append((node.arguments[0], None))
    needed = [i for pair in pairs for i in pair if i is not None]
    every = Expression(expression.arrays, (), expression.nodes, tuple(needed), expression.dtype)

    def differences(*arrays: np.ndarray) -> list[np.ndarray]:
        values = iter(every(np, *arrays))
        found = []
        for _, second in pairs:
            difference = next(values) - (0 if second is None else next(values))
            found.append(np.broadcast_to(difference, arrays[0].shape)[0])
        return found

    return differences


class _Check:
    """One check: the comparison with central differences, and the search for kinks."""

    def __init__(self, part: Any, method: str, function: _Function) -> None:
        self.part, self.method, self.function = part, method, function

    def report(self) -> DerivativeReport:
        """Return the report, or raise ArgumentError if the derivative is wrong."""
        with np.errstate(all="ignore"):
            kinks = self._kinks()
            error = self._compare()
            large = self.function.along(self.function.large)
            bad = np.isfinite(self.function.value(large)) & ~np.isfinite(self.function.derivative(large)).all(axis=0)
        return DerivativeReport(
            repr(self.part), self.function.at.size, error, kinks, tuple(self.function.large[bad].tolist())
        )

    def _compare(self) -> float:
        """Return the largest error; points where the slopes on both sides differ do not count."""
        f, at = self.function, self.function.at
        found, middle = f.derivative(at), f.value(at)
        if found.shape != at.shape:
            name = type(self.part).__name__
            raise ArgumentError(f"{name}.{self.method}: returned the shape {found.shape}, wanted {at.shape}")
        worst = 0.0
        for i in range(len(at)):
            step = np.zeros_like(at)
            step[i] = h = 1e-5 * np.maximum(1, abs(at[i]))
            above, below = f.value(at + step), f.value(at - step)
            wanted = (above - below) / (2 * h)
            smooth = _jump([above, middle, below], h) < JUMP
            errors = np.where(smooth, abs(found[i] - wanted) / np.maximum(1, abs(wanted)), 0)
            j = int(np.argmax(np.where(np.isnan(errors), np.inf, errors)))
            if not errors[j] <= TOLERANCE:
                raise ArgumentError(
                    f"{type(self.part).__name__}.{self.method}: at {at[i, j]:.6g} it returned {found[i, j]:.6g}, "
                    f"central differences give {wanted[j]:.6g}"
                )
            worst = max(worst, float(errors[j]))
        return worst

    def _kinks(self) -> tuple[float, ...]:
        """Return the points of the line at which the slopes on both sides differ."""
        f = self.function
        grid = np.linspace(*f.span, 2001)
        points = {float(x) for x in np.arange(-10.0, 10.5, 0.5) if f.span[0] < x < f.span[1]}
        for index, difference in enumerate(f.switches(f.along(grid))):
            for j in np.flatnonzero(np.sign(difference[:-1]) * np.sign(difference[1:]) < 0):
                points.add(self._root(index, grid[j], grid[j + 1]))
            points.update(grid[difference == 0].tolist() if (difference == 0).sum() < 10 else [])
        x = np.array(sorted(points))
        coarse, fine = (_jump([f.value(f.along(x + s)) for s in (h, 0, -h)], h) for h in (1e-5, 1e-6))
        # The difference of the slopes of a smooth function is proportional to h.
        return tuple(_merged(x[(fine > JUMP) & (fine > 0.5 * coarse)]))

    def _root(self, index: int, low: float, high: float) -> float:
        """Return where a difference changes its sign, by bisection."""
        f = self.function
        start = np.sign(f.switches(f.along(np.array([low])))[index][0])
        for _ in range(60):
            middle = (low + high) / 2
            if np.sign(f.switches(f.along(np.array([middle])))[index][0]) == start:
                low = middle
            else:
                high = middle
        return float(high)


def _jump(values: list[np.ndarray], h: Any) -> Any:
    """Return the difference of the slopes on both sides of a point, relative to the slope or to 1 if it is less."""
    above, middle, below = values
    return abs(above - 2 * middle + below) / h / np.maximum(1, abs(above - below) / (2 * h))


def _merged(points: np.ndarray) -> list[float]:
    """Return points in order, without those that differ from the one before by rounding alone."""
    found: list[float] = []
    for x in points.tolist():
        if not found or x - found[-1] > 1e-6:
            found.append(0.0 if abs(x) < 1e-9 else x)
    return found


def _listed(points: tuple[float, ...]) -> str:
    return ", ".join(f"{x:.6g}" for x in points) or "none"
