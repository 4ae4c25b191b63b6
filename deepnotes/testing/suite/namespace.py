"""Level 1: every function and operator of the protocols ``Array`` and ``Namespace``."""

from collections.abc import Callable
from typing import Any

import numpy as np

from deepnotes.equations.ops import Ops
from deepnotes.testing.calls import Draw
from deepnotes.testing.checks import CheckFunction, NotApplicable, Trial, check
from deepnotes.testing.inputs import EMPTY, LARGE, LAYOUTS, PRODUCTS, SHAPES

Function = Callable[..., Any]


def _draw_positive(draw: Draw, *shape: int) -> np.ndarray:
    return np.exp(draw.rng.uniform(-40, 40, shape))


def _draw_above_minus_one(draw: Draw, *shape: int) -> np.ndarray:
    small = draw.rng.uniform(-1, 1, shape) * np.exp(draw.rng.uniform(-30, 0, shape))
    return np.where(draw.rng.uniform(size=shape) < 0.2, _draw_positive(draw, *shape), np.maximum(small, -0.99))


def _draw_ties(draw: Draw, *shape: int) -> np.ndarray:
    return draw.rng.integers(-2, 3, shape).astype(np.float64)


UNARY: dict[str, tuple[Function, Function]] = {
    "exp": (lambda ops, x: ops.xp.exp(x), Draw.real),
    "expm1": (lambda ops, x: ops.xp.expm1(x), Draw.real),
    "log": (lambda ops, x: ops.xp.log(x), _draw_positive),
    "log1p": (lambda ops, x: ops.xp.log1p(x), _draw_above_minus_one),
    "sqrt": (lambda ops, x: ops.xp.sqrt(x), _draw_positive),
    "tanh": (lambda ops, x: ops.xp.tanh(x), Draw.real),
    "sign": (lambda ops, x: ops.xp.sign(x), Draw.real),
    "abs": (lambda ops, x: abs(x), Draw.real),
    "negative": (lambda ops, x: -x, Draw.real),
    "zeros_like": (lambda ops, x: ops.xp.zeros_like(x), Draw.real),
    "ones_like": (lambda ops, x: ops.xp.ones_like(x), Draw.real),
    "transpose": (lambda ops, x: x.T, Draw.real),
    "reshape": (lambda ops, x: ops.xp.reshape(x, (-1,)), Draw.real),
    "asarray": (lambda ops, x: ops.xp.asarray(x, dtype=x.dtype), Draw.real),
    "concat": (lambda ops, x: (ops.xp.concat([x, x, -x], axis=0), ops.xp.concat([x, x], axis=1)), Draw.real),
    "take": (lambda ops, x, i: ops.xp.take(x, i, axis=1), Draw.real),
    "indexing": (lambda ops, x: (x[1:, :], x[:, 1:-1], x[::2, 1::3], x[0, :]), Draw.real),
    "sum": (
        lambda ops, x: (
            ops.xp.sum(x),
            ops.xp.sum(x, axis=0),
            ops.xp.sum(x, axis=1, keepdims=True),
            ops.xp.sum(x, axis=0, keepdims=True),
        ),
        Draw.weights,
    ),
    "max": (
        lambda ops, x: (ops.xp.max(x), ops.xp.max(x, axis=0, keepdims=True), ops.xp.max(x, axis=1)),
        Draw.real,
    ),
}
"""Functions of one array, each with a function that draws the array."""
NO_EMPTY = {"take", "indexing", "max", "concat"}
"""Functions that are not checked on empty arrays."""
BINARY: dict[str, tuple[Function, Function]] = {
    "add": (lambda ops, x, y: x + y, Draw.real),
    "subtract": (lambda ops, x, y: x - y, Draw.real),
    "multiply": (lambda ops, x, y: x * y, Draw.real),
    "divide": (lambda ops, x, y: x / y, _draw_positive),
    "maximum": (lambda ops, x, y: ops.xp.maximum(x, y), _draw_ties),
    "minimum": (lambda ops, x, y: ops.xp.minimum(x, y), _draw_ties),
    "where": (lambda ops, x, y: ops.xp.where(x > y, x, y), _draw_ties),
    "comparisons": (lambda ops, x, y: (x < y, x <= y, x > y, x >= y), _draw_ties),
}
"""Functions of two arrays, each with a function that draws an array."""
NUMBERS: dict[str, Function] = {
    "add": lambda ops, x: (x + 0.1, 0.1 + x, x + 1, 1 + x),
    "subtract": lambda ops, x: (x - 0.1, 0.1 - x, 1 - x),
    "multiply": lambda ops, x: (x * 0.1, 0.1 * x, 2 * x),
    "divide": lambda ops, x: (x / 3, 0.1 / x, 1 / x),
    "comparisons": lambda ops, x: (x < 0, x <= 1, x > 0, x >= 0.5),
}
"""The operators with a Python number as one operand."""


def make_unary_check(name: str) -> CheckFunction:
    """Return the check of a function of one array."""
    function, draw_array = UNARY[name]

    def run(trial: Trial) -> None:
        draw = Draw(trial.rng)
        for dtype in trial.dtypes:
            for shape in SHAPES[:5] if trial.quick else SHAPES:
                indices = [draw.indices(shape[1], 5)] if name == "take" else []
                trial.check(function, [draw_array(draw, *shape), *indices], dtype, f"{dtype} {shape}")
            for shape in [] if name in NO_EMPTY else EMPTY:
                trial.check(function, [np.zeros(shape)], dtype, f"{dtype} {shape}")
            for layout, to_layout in LAYOUTS.items():
                indices = [draw.indices(11, 5)] if name == "take" else []
                arguments, random = [draw_array(draw, 6, 11), *indices], layout != "broadcast"
                trial.check(function, arguments, dtype, f"{dtype} (6, 11) {layout}", to_layout, random)

    return run


def make_binary_check(name: str) -> CheckFunction:
    """Return the check of a function of two arrays, with broadcasting and with a number as one argument."""
    function, draw_array = BINARY[name]

    def run(trial: Trial) -> None:
        draw = Draw(trial.rng)
        pairs = [
            ((6, 11), (6, 11)),
            ((6, 11), (6, 1)),
            ((1, 11), (6, 11)),
            ((6, 11), ()),
            ((5, 1), (1, 7)),
            ((3, 0), (3, 1)),
        ]
        for dtype in trial.dtypes:
            for first, second in pairs:
                arguments = [draw_array(draw, *first), draw_array(draw, *second)]
                trial.check(function, arguments, dtype, f"{dtype} {first} with {second}")
            for layout, to_layout in LAYOUTS.items():
                arguments = [draw_array(draw, 6, 11), draw_array(draw, 6, 11)]
                trial.check(function, arguments, dtype, f"{dtype} (6, 11) {layout}", to_layout)
            if name in NUMBERS:
                trial.check(NUMBERS[name], [draw_array(draw, 6, 11)], dtype, f"{dtype} (6, 11) with a number")

    return run


for _name in UNARY:
    check(f"namespace.{_name}", "correct for all shapes and layouts")(make_unary_check(_name))
for _name in BINARY:
    check(f"namespace.{_name}", "correct with broadcasting, and with a number as one operand")(make_binary_check(_name))


@check("namespace.matmul")
def matmul(trial: Trial) -> None:
    """Matrix products of all shapes and layouts, some larger than a cache, are within their error bounds."""
    draw = Draw(trial.rng)

    def product(ops: Ops, a: Any, b: Any) -> Any:
        return a @ b

    for dtype in trial.dtypes:
        for n, k, m in PRODUCTS:
            trial.check(product, [draw.weights(n, k), draw.weights(k, m)], dtype, f"{dtype} ({n}, {k}) ({k}, {m})")
        for n, k, m in [(0, 3, 2), (2, 0, 3), (3, 2, 0)]:
            trial.check(product, [np.zeros((n, k)), np.zeros((k, m))], dtype, f"{dtype} ({n}, {k}) ({k}, {m})")
        for layout, to_layout in LAYOUTS.items():
            arguments, random = [draw.weights(6, 9), draw.weights(9, 11)], layout != "broadcast"
            trial.check(product, arguments, dtype, f"{dtype} (6, 9) (9, 11) {layout}", to_layout, random)
        arguments = [draw.weights(9, 6), draw.weights(11, 9)]
        trial.check(lambda ops, a, b: a.T @ b.T, arguments, dtype, f"{dtype} (6, 9) (9, 11), transposed factors")
    if not trial.quick:
        n, k, m = LARGE
        trial.check(product, [draw.weights(n, k), draw.weights(k, m)], "float32", f"float32 {LARGE}")


@check("namespace.creation")
def creation(trial: Trial) -> None:
    """Arrays created by zeros, arange and asarray have the requested dtype."""
    xp = trial.backend.xp
    for dtype in trial.dtypes:
        kind = getattr(xp, dtype)
        trial.same(xp.zeros((3, 2), dtype=kind), np.zeros((3, 2), dtype), f"zeros, {dtype}")
        trial.same(xp.asarray(0.1, dtype=kind), np.asarray(0.1, dtype), f"asarray of a number, {dtype}")
        trial.same(xp.asarray([[1.5, 2.0]], dtype=kind), np.asarray([[1.5, 2.0]], dtype), f"asarray of a list, {dtype}")
    trial.same(xp.arange(5, dtype=trial.backend.integer), np.arange(5), "arange with stop")
    trial.same(xp.arange(2, 9, 3, dtype=trial.backend.integer), np.arange(2, 9, 3), "arange with start, stop and step")


@check("namespace.astype")
def astype(trial: Trial) -> None:
    """Conversions between bool, int64 and the floating-point dtypes are exact."""
    xp, backend = trial.backend.xp, trial.backend
    x = trial.rng.integers(-9, 9, (4, 5))
    for dtype in trial.dtypes:
        kind = getattr(xp, dtype)
        trial.same(xp.astype(backend.from_numpy(x), kind), x.astype(dtype), f"int64 to {dtype}")
        trial.same(xp.astype(backend.from_numpy(x > 0), kind), (x > 0).astype(dtype), f"bool to {dtype}")
        floats = backend.from_numpy(x.astype(dtype))
        trial.same(xp.astype(floats, backend.integer), x, f"{dtype} to int64")
        for other in trial.dtypes:
            trial.same(xp.astype(floats, getattr(xp, other)), x.astype(other), f"{dtype} to {other}")


@check("namespace.finfo")
def finfo(trial: Trial) -> None:
    """``finfo`` gives the same eps, max and smallest_normal as NumPy."""
    for dtype in trial.dtypes:
        result, expected = trial.backend.xp.finfo(getattr(trial.backend.xp, dtype)), np.finfo(dtype)
        for name in ("eps", "max", "smallest_normal"):
            trial.that(
                float(getattr(result, name)) == float(getattr(expected, name)), f"finfo({dtype}).{name} equals NumPy's"
            )


@check("namespace.integers")
def integers(trial: Trial) -> None:
    """Arithmetic of 64-bit integers, from which dropout masks are generated, is exact."""
    if not trial.has_int64:
        raise NotApplicable("the backend has no int64")
    backend = trial.backend
    x = trial.rng.integers(0, 2**32, (7, 5))
    y = trial.rng.integers(0, 2**16, (7, 5))
    a, b = backend.from_numpy(x), backend.from_numpy(y)
    for name, result, expected in [
        ("x * y", a * b, x * y),
        ("x + y", a + b, x + y),
        ("x ^ y", a ^ b, x ^ y),
        ("x & number", a & 0xFFFF, x & 0xFFFF),
        ("x >> number", a >> 16, x >> 16),
        ("y << number", b << 16, y << 16),
        ("x >= number", a >= 2**31, x >= 2**31),
        ("equal", backend.xp.equal(a, b), x == y),
        ("x * large number", a * 0xCD9E, x * 0xCD9E),
    ]:
        trial.same(result, expected, name)


@check("namespace.scalars")
def scalars(trial: Trial) -> None:
    """Arrays without dimensions convert to Python numbers and broadcast."""
    for dtype in trial.dtypes:
        x = trial.backend.from_numpy(np.asarray(0.5, dtype))
        trial.that(float(x) == 0.5, f"float() of a 0-d {dtype} array")
        trial.that(tuple(x.shape) == () and x.ndim == 0, f"a 0-d {dtype} array has no dimensions")
        product = x * trial.backend.from_numpy(np.ones((2, 3), dtype))
        trial.same(product, np.full((2, 3), 0.5, dtype), f"a 0-d {dtype} array as a factor")
