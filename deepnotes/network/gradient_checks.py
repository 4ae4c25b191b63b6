"""Compare the gradients of a network with central differences of its cost."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from deepnotes.network.network import Network, in_double_precision
from deepnotes.nn.losses import LossFunction
from deepnotes.nn.steps import gradient_step
from deepnotes.utils import html
from deepnotes.utils.arguments import whole
from deepnotes.utils.errors import ArgumentError

STEP = 2.0**-17
"""The step of the differences, relative to a parameter or to 1, whichever is larger; about the cube root of eps."""
TOLERANCE = 1e-6
"""The largest error of a gradient, relative to the largest gradient of the network."""
ROUNDING = 32 * float(np.finfo(np.float64).eps)
"""A bound on the rounding error of a cost, relative to the cost."""
JUMP = 1e-3
"""The least difference of the slopes on both sides of a kink, relative to the largest gradient."""


@dataclass(frozen=True)
class ParameterCheck:
    """The comparison for one parameter.

    Attributes
    ----------
    name : str
    shape : tuple of int
    checked : int
        The number of elements that were compared.
    kinks : int
        The number of further elements at which the cost is not smooth, such as at a relu whose ``z`` is 0.
    largest_gradient : float
        The largest absolute value in the gradient of this parameter.
    error : float
        The largest difference between gradient and central differences, relative to the largest gradient of the
        network.
    worst : tuple of int
        The index of the element with this error.
    gradient, difference : float
        The gradient and the central difference there.
    passed : bool
    """

    name: str
    shape: tuple[int, ...]
    checked: int
    kinks: int
    largest_gradient: float
    error: float
    worst: tuple[int, ...]
    gradient: float
    difference: float
    passed: bool


@dataclass(frozen=True)
class GradientReport:
    """The result of :func:`check_gradients`, which prints as a table.

    Attributes
    ----------
    parameters : tuple of ParameterCheck
    cost : float
        The cost at which the gradients were compared.
    """

    parameters: tuple[ParameterCheck, ...]
    cost: float

    @property
    def passed(self) -> bool:
        """Whether the gradients of all parameters agree with the differences."""
        return all(check.passed for check in self.parameters)

    @property
    def error(self) -> float:
        """The largest error, relative to the largest gradient of the network."""
        return max(check.error for check in self.parameters)

    def __str__(self) -> str:
        """Return a table with a row for each parameter, and a conclusion."""
        rows = [HEADER, *self._rows()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for row in rows:
            cells = [f"{x:<{w}}" if i < 2 else f"{x:>{w}}" for i, (x, w) in enumerate(zip(row, widths, strict=True))]
            lines.append("  ".join(cells).rstrip())
        return "\n".join([lines[0], "-" * (sum(widths) + 2 * len(widths) - 2), *lines[1:], *self._conclusions()])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        """Return the table as HTML, for IPython."""
        return html.table(HEADER, self._rows(), "; ".join(self._conclusions()), text_columns=2)

    def _rows(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = []
        for c in self.parameters:
            result = "ok" if c.passed else "WRONG"
            kinks = str(c.kinks) if c.kinks else ""
            numbers = f"{c.largest_gradient:.3g}", f"{c.error:.1e}"
            rows.append((c.name, str(c.shape), f"{c.checked:,}", kinks, *numbers, result))
        return rows

    def _conclusions(self) -> list[str]:
        largest = max(c.largest_gradient for c in self.parameters)
        if self.passed:
            return [f"the gradients agree with central differences to {self.error:.1e} of the largest, {largest:.3g}"]
        return [
            f"{c.name}[{', '.join(map(str, c.worst))}]: the gradient is {c.gradient:.6g}, but central differences of "
            f"the cost give {c.difference:.6g}"
            for c in self.parameters
            if not c.passed
        ]


HEADER = ("parameter", "shape", "checked", "at kinks", "largest gradient", "error", "result")


def check_gradients(
    network: Network,
    X: Any,
    Y: Any,
    *,
    loss: str | LossFunction | None = None,
    sample_weight: Any = None,
    l1: float = 0.0,
    l2: float = 0.0,
    elements: int = 50,
) -> GradientReport:
    """Compare the gradients of a network (N11 to N16) with central differences of its cost, in float64.

    The equations run on the backend of the network or, if it has no float64, on NumPy. Dropout acts as in the first
    training step. Statistics, such as the running mean of a BatchNorm, have no gradients. The network is not changed.

    Parameters
    ----------
    network : Network
    X, Y, loss, sample_weight, l1, l2 : object
        As for :meth:`Network.fit <deepnotes.Network.fit>`; a few samples are enough.
    elements : int, default 50
        The largest number of elements of each parameter to compare; larger parameters are compared at random elements,
        drawn from the seed of the network.

    Returns
    -------
    GradientReport
        ``print`` shows it as a table; ``report.passed`` is the conclusion. Elements at which the cost is not smooth do
        not count.

    Raises
    ------
    ArgumentError, ShapeError, DTypeError, DataError, ForeignArrayError, UnknownNameError
        If an argument is not valid.

    Examples
    --------
    >>> import deepnotes as dn
    >>> net = dn.Network([dn.Dense(4, "tanh"), dn.Dense(1, "sigmoid")], inputs=3, seed=0)
    >>> X = np.array([[0.5, -1.0], [1.5, 0.1], [-0.8, 1.0]])
    >>> report = dn.check_gradients(net, X, np.array([0, 1]))
    >>> report.passed
    True
    >>> print(report)  # doctest: +ELLIPSIS, +NORMALIZE_WHITESPACE
    parameter  shape   checked  at kinks  largest gradient  error  result
    ----...
    W1         (4, 3)       12 ...  ok
    b1         (4, 1)        4 ...  ok
    W2         (1, 4)        4 ...  ok
    b2         (1, 1)        1 ...  ok
    the gradients agree with central differences to ... of the largest, ...
    """
    if not isinstance(network, Network):
        raise ArgumentError.of("network", network, "a Network")
    elements = whole("elements", elements)
    net = in_double_precision(network)
    data, plan = net.prepare_step(X, Y, loss, sample_weight, None, l2, l1)
    theta, layout = net.flat(), net.layout
    ops, backend = net.backend.ops, net.backend
    decays = backend.from_numpy(layout.decays())

    def step_at(values: np.ndarray) -> Any:
        step = backend.xp.asarray(0, dtype=backend.integer)
        return gradient_step(ops, plan, net.from_host(values), decays, step, *data)

    def cost(values: np.ndarray) -> float:
        on_backend = net.from_host(values)
        penalties = ops.l1_penalty(on_backend, decays, plan.l1) + ops.l2_penalty(on_backend, decays, plan.l2)
        return float(step_at(values).cost) + float(penalties)

    with np.errstate(all="ignore"), backend.execution_context():
        g = np.array(backend.to_numpy(step_at(theta).flat))
        differences = _Differences(cost, theta, float(abs(g[: layout.trained]).max()))
        rng = np.random.default_rng(net.seed)
        entries = [entry for name in layout.in_order if (entry := layout.entries[name]).parameter.trained]
        checks = [_check(differences, entry, g, rng, elements) for entry in entries]
    return GradientReport(tuple(checks), differences.at_theta)


class _Differences:
    """Central differences of a cost, and a search for kinks.

    Parameters
    ----------
    cost : callable
        Takes all parameters, shape (p,).
    theta : ndarray, shape (p,)
    scale : float
        The largest gradient.
    """

    def __init__(self, cost: Any, theta: np.ndarray, scale: float) -> None:
        self.cost, self.theta, self.scale = cost, theta, scale
        self.at_theta = cost(theta)

    def sides(self, i: int, h: float) -> tuple[float, float]:
        """Return the slopes of the cost above and below element i."""
        moved = self.theta.copy()
        moved[i] = self.theta[i] + h
        above = self.cost(moved)
        moved[i] = self.theta[i] - h
        return (above - self.at_theta) / h, (self.at_theta - self.cost(moved)) / h

    def compare(self, i: int, gradient: float) -> tuple[float, float, bool, bool]:
        """Return the difference, its error, whether the error is acceptable, and whether there is a kink."""
        h = STEP * max(1.0, abs(self.theta[i]))
        above, below = self.sides(i, h)
        difference = (above + below) / 2
        error = abs(gradient - difference)
        curvature = abs(above - below) / h  # stands for the third derivative in the truncation error
        allowed = TOLERANCE * self.scale + ROUNDING * abs(self.at_theta) / h + 10 * h * h * curvature
        agrees = bool(error <= allowed)
        return difference, error / (self.scale or 1.0), agrees, not agrees and self._is_kink(i, h)

    def _is_kink(self, i: int, h: float) -> bool:
        """Return whether the slopes on both sides differ by an amount that does not shrink with the step."""
        coarse, fine = (abs(above - below) for above, below in (self.sides(i, h), self.sides(i, h / 8)))
        return bool(fine > JUMP * self.scale and fine > 0.5 * coarse)


def _check(
    differences: _Differences, entry: Any, g: np.ndarray, rng: np.random.Generator, elements: int
) -> ParameterCheck:
    """Compare the gradient of one parameter at up to `elements` elements."""
    size, shape = entry.stop - entry.start, tuple(entry.parameter.shape)
    chosen = range(size) if size <= elements else sorted(rng.choice(size, elements, replace=False).tolist())
    worst, checked, kinks, passed = (-1.0, 0, 0.0, 0.0), 0, 0, True
    for i in chosen:
        gradient = float(g[entry.start + i])
        difference, error, agrees, at_kink = differences.compare(entry.start + i, gradient)
        if at_kink:
            kinks += 1
            continue
        checked, passed = checked + 1, passed and agrees
        if not error <= worst[0]:
            worst = (error, i, gradient, difference)
    error, i, gradient, difference = worst
    index = tuple(int(n) for n in np.unravel_index(i, shape))
    largest = float(abs(g[entry.start : entry.stop]).max())
    return ParameterCheck(
        entry.name, shape, checked, kinks, largest, max(error, 0.0), index, gradient, difference, passed
    )
