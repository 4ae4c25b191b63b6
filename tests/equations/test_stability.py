"""The equations are numerically stable: their error bounds are not much larger than their conditioning requires.

:mod:`deepnotes.backends.bounds` computes the error bound of an equation as it is written. An equation that loses digits
by cancellation has a large bound, which every backend satisfies, so comparing backends with bounds cannot reveal the
lost digits. These tests compare the bounds with the conditioning of the function: with the unit roundoff u, rounding an
argument x changes f by ``u |x ∂f/∂x|``, and rounding the result changes it by ``u |f|``. The bound of an equation must
not be much larger than the sum of these terms. Targets are data and have no rounding errors.
"""

from collections.abc import Callable, Iterator
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest

from deepnotes import equations as eq
from deepnotes.backends.bounds import UNIT, Bounds
from deepnotes.equations.ops import Ops
from deepnotes.nn.activations import LIBRARY as ACTIVATIONS
from deepnotes.nn.losses import LIBRARY as LOSSES

DTYPES = ["float32", "float64"]
MAX_RATIO = 128
"""The factor by which a bound may exceed the sum described above. It is large because the rules for bounds count an
exponential as 8 roundings, and treat the rounding errors of the arguments as independent."""
LOGITS = np.concatenate([np.linspace(-100, 100, 161), *np.outer([1, -1], np.geomspace(1e-6, 12, 30))])


def pairs(first: Any, second: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return all pairs of elements of `first` and `second`, as two arrays of shape (1, m)."""
    X, Y = np.meshgrid(np.array(first), np.array(second))
    return X.reshape(1, -1), Y.reshape(1, -1)


def three_classes() -> tuple[np.ndarray, np.ndarray]:
    """Return logits and targets for three classes.

    The first class has the probability 1 in the first half of the columns, and 0.75 in the second half.
    """
    Z = np.vstack([LOGITS, np.zeros_like(LOGITS), np.full_like(LOGITS, -0.5)])
    one_hot, probable = np.zeros_like(Z), np.zeros_like(Z) + np.array([[0.75], [0.125], [0.125]])
    one_hot[0] = 1
    return np.hstack([Z, Z]), np.hstack([one_hot, probable])


ELEMENTWISE = [name for name in ACTIVATIONS if name not in {"softmax", "log_softmax"}]
PROBABILITIES = np.concatenate([np.geomspace(1e-6, 0.5, 20), 1 - np.geomspace(1e-6, 0.5, 20)])
COUNTS = np.concatenate([np.geomspace(1e-3, 1e3, 30), 2 * (1 + np.outer([1, -1], np.geomspace(1e-6, 0.1, 10)).ravel())])
CASES: dict[str, tuple[np.ndarray, ...]] = {
    **dict.fromkeys(ELEMENTWISE, (LOGITS[None],)),
    **{f"{name}_backward": (np.ones((1, len(LOGITS))), LOGITS[None]) for name in ELEMENTWISE},
    # For larger logits σ is exactly 1, but the rules assume that σ has a rounding error, which is multiplied by z³.
    "gelu_tanh_backward": (np.ones((1, 121)), np.append(np.linspace(-100, 5, 120), 6)[None]),
    "softmax": three_classes()[:1],
    "log_softmax": three_classes()[:1],
    **{name + end: pairs(COUNTS, [0.0, 1.0, 2.0]) for name in LOSSES for end in ("", "_derivative")},
    **{f"binary_cross_entropy{end}": pairs(PROBABILITIES, [0.0, 0.5, 1.0]) for end in ("", "_derivative")},
    **{f"categorical_cross_entropy{end}": pairs(PROBABILITIES, [0.0, 0.5, 1.0]) for end in ("", "_derivative")},
    **{f"focal{end}": pairs(PROBABILITIES, [0.0, 0.5, 1.0]) for end in ("", "_derivative")},
    "sigmoid_focal": pairs(LOGITS, [0.0, 1.0]),
    "sigmoid_cross_entropy": pairs(LOGITS, [0.0, 1e-3, 0.5, 0.999, 1.0]),
    "softmax_cross_entropy": three_classes(),
}


WITH_TARGETS = {*LOSSES, "sigmoid_focal", "sigmoid_cross_entropy", "softmax_cross_entropy"}
"""The equations whose last argument is the targets."""


def max_bound(
    function: Callable[..., Any], arguments: tuple[np.ndarray, ...], dtype: str, targets: bool = False
) -> float:
    """Return the largest bound of a function, as a multiple of the effect of rounding its arguments and its result.

    Parameters
    ----------
    function : callable
        Takes an Ops and the arguments.
    arguments : tuple of ndarray
    dtype : str
    targets : bool
        Whether the last argument is the targets, which have no rounding error.
    """
    bounds = Bounds(dtype)
    wide, ops = bounds.rules.wide, Ops(np, {})
    arguments = tuple(x.astype(dtype) for x in arguments)
    with np.errstate(all="ignore"):
        result = function(bounds.ops, *map(bounds.from_numpy, arguments))
        exact = tuple(x.astype(wide) for x in arguments)
        value, condition = result.value, abs(result.value)
        step = wide.type(2.0**-20)
        for perturbed in perturb(exact, step, targets):
            condition = condition + abs(function(ops, *perturbed) - value) / step
        multiple = result.error / (UNIT[dtype] * condition + 64 * bounds.rules.tiny)
    return float(np.nanmax(np.where(np.isfinite(result.error), multiple, 0)))


def perturb(arguments: tuple[np.ndarray, ...], step: Any, targets: bool) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield the arguments with one row of one argument multiplied by ``1 + step`` or ``1 - step``, for all rows."""
    for i, x in enumerate(arguments[:-1] if targets else arguments):
        for row in range(len(x)):
            for sign in (1, -1):
                perturbed = x.copy()
                perturbed[row] *= 1 + sign * step
                yield (*arguments[:i], perturbed, *arguments[i + 1 :])


def bind(name: str) -> Callable[..., Any]:
    """Return an equation as a function of an Ops and the arguments in CASES; backward forms compute A from Z first."""
    if name.endswith("_backward"):
        activation = name.removesuffix("_backward")
        return lambda ops, dA, Z: getattr(ops, name)(dA, Z, getattr(ops, activation)(Z))
    return lambda ops, *arguments: getattr(ops, name)(*arguments)


FROM_OUTPUTS = {"sigmoid_backward", "tanh_backward"}
"""Derivatives computed from A alone, as in N6 and N7; they inherit the rounding error of A where 1 - A is small."""


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", sorted(set(CASES) - FROM_OUTPUTS))
def test_an_equation_is_as_accurate_as_its_arguments(name: str, dtype: str) -> None:
    assert max_bound(bind(name), CASES[name], dtype, name.split("_derivative")[0] in WITH_TARGETS) <= MAX_RATIO


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", sorted(FROM_OUTPUTS))
def test_a_derivative_computed_from_outputs_is_as_accurate_as_the_outputs(name: str, dtype: str) -> None:
    A = np.concatenate([PROBABILITIES, -PROBABILITIES])[None] if name == "tanh_backward" else PROBABILITIES[None]
    slope = lambda ops, A: getattr(ops, name)(ops.xp.ones_like(A), A, A)  # noqa: E731
    assert max_bound(slope, (A,), dtype) <= MAX_RATIO


UNSTABLE: dict[str, tuple[str, Callable[..., Any]]] = {
    "softplus(z) - y z": ("sigmoid_cross_entropy", lambda ops, Z, Y: ops.softplus(Z) - Y * Z),
    "log(Σ e^z) - Σ y z": (
        "softmax_cross_entropy",
        lambda ops, Z, Y: (
            -ops.xp.sum(Y * (Z - ops.xp.log(ops.xp.sum(ops.xp.exp(Z), axis=0, keepdims=True))), axis=0, keepdims=True)
        ),
    ),
    "e^z - 1": ("elu", lambda ops, Z: ops.xp.where(Z > 0, Z, ops.xp.exp(Z) - 1)),
    "y log y - y log a": (
        "half_poisson_deviance",
        lambda ops, A, Y: Y * ops.xp.log(ops.xp.where(Y > 0, Y, ops.xp.ones_like(Y))) - Y * ops.xp.log(A) - Y + A,
    ),
    "d - log(Σ e^d)": (
        "log_softmax",
        lambda ops, Z: Z - ops.xp.log(ops.xp.sum(ops.xp.exp(Z), axis=0, keepdims=True)),
    ),
    "1 + tanh": ("gelu_tanh", lambda ops, Z: 0.5 * Z * (1 + ops.xp.tanh(0.7978845608028654 * Z))),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", UNSTABLE)
def test_unstable_formulas_are_detected(name: str, dtype: str) -> None:
    case, function = UNSTABLE[name]
    assert max_bound(function, CASES[case], dtype, case in WITH_TARGETS) > 100 * MAX_RATIO


@pytest.mark.parametrize("dtype", DTYPES)
def test_binary_cross_entropy_of_logits_is_accurate(dtype: str) -> None:
    """The relative error, measured with 120 digits, is at most 8 roundings for correct, wrong and undecided logits."""
    Z, Y = (x.astype(dtype) for x in CASES["sigmoid_cross_entropy"])
    for z, y, loss in zip(Z[0], Y[0], eq.sigmoid_cross_entropy(np, Z, Y)[0], strict=True):
        with localcontext(prec=120):
            logit, target = Decimal(float(z)), Decimal(float(y))
            exact = max(logit, Decimal(0)) - target * logit + (1 + (-abs(logit)).exp()).ln()
            error = abs(Decimal(float(loss)) - exact)
            assert error <= 8 * Decimal(UNIT[dtype]) * exact + Decimal(float(np.finfo(dtype).tiny)), (z, y)


@pytest.mark.parametrize("dtype", DTYPES)
def test_categorical_cross_entropy_of_logits_is_accurate(dtype: str) -> None:
    """The targets are one-hot; the logits are correct, wrong, or 1000 equal values."""
    Z, Y = (x[:, : len(LOGITS)].astype(dtype) for x in CASES["softmax_cross_entropy"])
    for label in (0, 1):
        targets = np.zeros_like(Y)
        targets[label] = 1
        losses: Any = eq.softmax_cross_entropy(np, Z, targets)
        for j, loss in enumerate(losses[0]):
            with localcontext(prec=120):
                z = [Decimal(float(x)) for x in Z[:, j]]
                exact = sum(((x - z[label]).exp() for i, x in enumerate(z) if i != label), Decimal(1)).ln()
                error = abs(Decimal(float(loss)) - exact)
                limit = (16 + abs(z[0])) * 4 * Decimal(UNIT[dtype])
                assert error <= limit * exact + Decimal(float(np.finfo(dtype).tiny)), Z[:, j]
    equal = np.zeros((1000, 1), dtype)
    one_hot = np.eye(1000, 1, dtype=dtype)
    L = eq.softmax_cross_entropy(np, equal, one_hot)
    np.testing.assert_allclose(L, np.log(1000), rtol=4 * np.finfo(dtype).eps)
