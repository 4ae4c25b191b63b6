"""The equations themselves lose no digits: their own bounds are as narrow as the conditioning of what they compute.

The bounds of :mod:`deepnotes.backends.bounds` are those of an equation as it is written. One that loses digits by
cancellation has a wide bound, which no backend can miss. Whether it has to be so wide is a question of what it
computes: an argument that was rounded once moves f by ``u |x ∂f/∂x|`` already, and the result is rounded to ``u |f|``.
No equation may have a bound of much more than that. Targets are given, not computed, and so not rounded.
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
ROUNDINGS = 128
"""Times the above: an exponential counts for 8, and a rule takes the roundings of its arguments for independent."""
LOGITS = np.concatenate([np.linspace(-100, 100, 161), *np.outer([1, -1], np.geomspace(1e-6, 12, 30))])


def pairs(first: Any, second: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return every one of the first with every one of the second, shape (1, m)."""
    X, Y = np.meshgrid(np.array(first), np.array(second))
    return X.reshape(1, -1), Y.reshape(1, -1)


def of_classes() -> tuple[np.ndarray, np.ndarray]:
    """Return logits and targets of three classes, the first ahead by each logit, and certain or only likely."""
    Z = np.vstack([LOGITS, np.zeros_like(LOGITS), np.full_like(LOGITS, -0.5)])
    sure, unsure = np.zeros_like(Z), np.zeros_like(Z) + np.array([[0.75], [0.125], [0.125]])
    sure[0] = 1
    return np.hstack([Z, Z]), np.hstack([sure, unsure])


PROBABILITIES = np.concatenate([np.geomspace(1e-6, 0.5, 20), 1 - np.geomspace(1e-6, 0.5, 20)])
COUNTS = np.concatenate([np.geomspace(1e-3, 1e3, 30), 2 * (1 + np.outer([1, -1], np.geomspace(1e-6, 0.1, 10)).ravel())])
CASES: dict[str, tuple[np.ndarray, ...]] = {
    **{name: (LOGITS[None],) for name in ACTIVATIONS if name != "softmax"},
    **{f"{name}_backward": (np.ones((1, len(LOGITS))), LOGITS[None]) for name in ACTIVATIONS if name != "softmax"},
    # Beyond, σ is 1 to the last bit, which the rules do not know: they take it for rounded, times z³.
    "gelu_tanh_backward": (np.ones((1, 121)), np.append(np.linspace(-100, 5, 120), 6)[None]),
    "softmax": of_classes()[:1],
    **{name + end: pairs(COUNTS, [0.0, 1.0, 2.0]) for name in LOSSES for end in ("", "_derivative")},
    **{f"binary_cross_entropy{end}": pairs(PROBABILITIES, [0.0, 0.5, 1.0]) for end in ("", "_derivative")},
    **{f"categorical_cross_entropy{end}": pairs(PROBABILITIES, [0.0, 0.5, 1.0]) for end in ("", "_derivative")},
    "sigmoid_cross_entropy": pairs(LOGITS, [0.0, 1e-3, 0.5, 0.999, 1.0]),
    "softmax_cross_entropy": of_classes(),
}


OF_TARGETS = {*LOSSES, "sigmoid_cross_entropy", "softmax_cross_entropy"}


def widest(function: Callable[..., Any], arguments: tuple[np.ndarray, ...], dtype: str, targets: bool = False) -> float:
    """Return the bound of a function, as a multiple of what rounding its arguments and its result would do.

    The last argument is `targets`, or one like the others.
    """
    bounds = Bounds(dtype)
    wide, ops = bounds.rules.wide, Ops(np, {})
    arguments = tuple(x.astype(dtype) for x in arguments)
    with np.errstate(all="ignore"):
        found = function(bounds.ops, *map(bounds.from_numpy, arguments))
        exact = tuple(x.astype(wide) for x in arguments)
        value, condition = found.value, abs(found.value)
        step = wide.type(2.0**-20)
        for moved in one_moved(exact, step, targets):
            condition = condition + abs(function(ops, *moved) - value) / step
        times = found.error / (UNIT[dtype] * condition + 64 * bounds.rules.tiny)
    return float(np.nanmax(np.where(np.isfinite(found.error), times, 0)))


def one_moved(arguments: tuple[np.ndarray, ...], step: Any, targets: bool) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield the arguments with a row of one of them moved by a share of itself, up and down."""
    for i, x in enumerate(arguments[:-1] if targets else arguments):
        for row in range(len(x)):
            for sign in (1, -1):
                moved = x.copy()
                moved[row] *= 1 + sign * step
                yield (*arguments[:i], moved, *arguments[i + 1 :])


def called(name: str) -> Callable[..., Any]:
    """Return an equation as a function of what CASES has; backward forms get ``A = g(Z)`` as well."""
    if name.endswith("_backward"):
        of = name.removesuffix("_backward")
        return lambda ops, dA, Z: getattr(ops, name)(dA, Z, getattr(ops, of)(Z))
    return lambda ops, *arguments: getattr(ops, name)(*arguments)


SATURATED = {"sigmoid_backward", "tanh_backward"}
"""Slopes taken from A alone, as N6 and N7 are: A has been rounded, and 1 - A keeps what is left of it."""


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", sorted(set(CASES) - SATURATED))
def test_an_equation_is_as_exact_as_its_arguments(name: str, dtype: str) -> None:
    assert widest(called(name), CASES[name], dtype, name.split("_derivative")[0] in OF_TARGETS) <= ROUNDINGS


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", sorted(SATURATED))
def test_a_slope_from_outputs_is_as_exact_as_they_are(name: str, dtype: str) -> None:
    A = np.concatenate([PROBABILITIES, -PROBABILITIES])[None] if name == "tanh_backward" else PROBABILITIES[None]
    slope = lambda ops, A: getattr(ops, name)(ops.xp.ones_like(A), A, A)  # noqa: E731
    assert widest(slope, (A,), dtype) <= ROUNDINGS


UNSTABLE: dict[str, tuple[str, Callable[..., Any]]] = {
    "softplus less y z": ("sigmoid_cross_entropy", lambda ops, Z, Y: ops.softplus(Z) - Y * Z),
    "the logarithm of a sum that holds a 1": (
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
    "1 + tanh": ("gelu_tanh", lambda ops, Z: 0.5 * Z * (1 + ops.xp.tanh(0.7978845608028654 * Z))),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", UNSTABLE)
def test_a_formula_that_loses_digits_is_found(name: str, dtype: str) -> None:
    case, function = UNSTABLE[name]
    assert widest(function, CASES[case], dtype, case in OF_TARGETS) > 100 * ROUNDINGS


@pytest.mark.parametrize("dtype", DTYPES)
def test_binary_cross_entropy_of_logits_has_its_digits(dtype: str) -> None:
    """Against 120 digits, right and wrong and between: a few units in the last place."""
    Z, Y = (x.astype(dtype) for x in CASES["sigmoid_cross_entropy"])
    for z, y, found in zip(Z[0], Y[0], eq.sigmoid_cross_entropy(np, Z, Y)[0], strict=True):
        with localcontext(prec=120):
            exact, share = Decimal(float(z)), Decimal(float(y))
            wanted = max(exact, Decimal(0)) - share * exact + (1 + (-abs(exact)).exp()).ln()
            off = abs(Decimal(float(found)) - wanted)
            assert off <= 8 * Decimal(UNIT[dtype]) * wanted + Decimal(float(np.finfo(dtype).tiny)), (z, y)


@pytest.mark.parametrize("dtype", DTYPES)
def test_categorical_cross_entropy_of_logits_has_its_digits(dtype: str) -> None:
    """Of certain classes, right and wrong, and of many classes that are tied."""
    Z, Y = (x[:, : len(LOGITS)].astype(dtype) for x in CASES["softmax_cross_entropy"])
    for which in (0, 1):
        targets = np.zeros_like(Y)
        targets[which] = 1
        losses: Any = eq.softmax_cross_entropy(np, Z, targets)
        for j, found in enumerate(losses[0]):
            with localcontext(prec=120):
                z = [Decimal(float(x)) for x in Z[:, j]]
                wanted = sum(((x - z[which]).exp() for i, x in enumerate(z) if i != which), Decimal(1)).ln()
                off = abs(Decimal(float(found)) - wanted)
                limit = (16 + abs(z[0])) * 4 * Decimal(UNIT[dtype])
                assert off <= limit * wanted + Decimal(float(np.finfo(dtype).tiny)), Z[:, j]
    tied = np.zeros((1000, 1), dtype)
    one = np.eye(1000, 1, dtype=dtype)
    np.testing.assert_allclose(eq.softmax_cross_entropy(np, tied, one), np.log(1000), rtol=4 * np.finfo(dtype).eps)
