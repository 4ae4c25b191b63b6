"""Random expressions, values to compute them on, and the comparison of results with NumPy's and with error bounds."""

from dataclasses import replace
from typing import Any

import numpy as np

from deepnotes.backends.bounds import Bounds, excess
from deepnotes.nn.expressions import (
    ARITHMETIC,
    COMPARISONS,
    FULL,
    FUNCTIONS,
    LOGIC,
    OPERATIONS,
    REDUCTIONS,
    Expression,
    Kind,
    Node,
)  # fmt: skip

ARRAYS = ("a", "b")
CONSTANTS = (0.0, -0.0, 1.0, -1.0, 0.5, 3.0, -1e-3, 40.0)
SELECTIONS = {"maximum", "minimum", "max"}
"""The operations whose result is a zero of either sign for zeros of both signs."""


def special_values(dtype: str) -> list[float]:
    """Return zeros, infinities, NaN, subnormal and large numbers, and some ordinary numbers."""
    info = np.finfo(dtype)
    tiny, most, eps = float(info.tiny), float(info.max), float(info.eps)
    positive = [0.0, tiny * 2.0**-9, tiny, eps, 0.3, 1.0, 2.5, 7.0, 20.0, 90.0, 800.0, most**0.5, most, np.inf]
    return [np.nan, *(sign * x for x in positive for sign in (1, -1))]


def draw_values(rng: np.random.Generator, dtype: str, shape: tuple[int, int]) -> np.ndarray:
    """Return normally distributed numbers, with special values in a third of the samples."""
    x = rng.normal(0, 2, shape)
    chosen = (rng.random(shape) < 0.5) & (rng.random(shape[1]) < 0.4)
    return np.where(chosen, rng.choice(special_values(dtype), shape), x).astype(dtype)


def draw_expression(
    rng: np.random.Generator, operations: int, dtype: str, arrays: tuple[str, ...] = ARRAYS, reductions: bool = True
) -> Expression:
    """Return an expression of random operations on arrays; its results are the values that nothing else uses."""
    names = sorted(set(OPERATIONS) - (set() if reductions else {*REDUCTIONS, "spread"}))
    nodes = [Node("input", (), name) for name in arrays] + ([Node("outputs")] if reductions else [])
    nodes += [Node("constant", (), float(x)) for x in rng.choice(CONSTANTS, 3, replace=False)]
    results: list[int] = []
    least = len(nodes) + operations
    while len(nodes) < least or not results:
        kinds = Expression(arrays, (), tuple(nodes), (0,), dtype).kinds
        name = str(rng.choice(names))
        if name in {*LOGIC, "number", "where"} and not any(kind.boolean for kind in kinds):
            continue
        nodes.append(Node(name, _draw_arguments(rng, name, kinds)))
        kinds = Expression(arrays, (), tuple(nodes), (0,), dtype).kinds
        used = {i for node in nodes for i in node.arguments}
        results = [i for i, kind in enumerate(kinds) if i not in used and not kind.boolean and kind.shape]
    nodes += [Node("spread", (i, 0)) for i in results]
    return Expression(arrays, (), tuple(nodes), tuple(range(len(nodes) - len(results), len(nodes))), dtype)


def _draw_arguments(rng: np.random.Generator, name: str, kinds: tuple[Kind, ...]) -> tuple[int, ...]:
    """Return arguments of the right kind for an operation; most of them are recent values."""
    conditions = [i for i, kind in enumerate(kinds) if kind.boolean]
    numbers = [i for i, kind in enumerate(kinds) if not kind.boolean]
    full = [i for i in numbers if kinds[i].shape == FULL]
    recent = [i for i in numbers if kinds[i].shape][-4:]
    drawn = [int(rng.choice(recent if rng.random() < 0.6 else numbers)) for _ in range(OPERATIONS[name])]
    if name in LOGIC:
        return tuple(int(rng.choice(conditions)) for _ in drawn)
    if name in {"number", "where"}:
        return (int(rng.choice(conditions)), *drawn[1:])
    if name in REDUCTIONS:
        return (int(rng.choice(full)),)
    return (drawn[0], int(rng.choice(full))) if name == "spread" else tuple(drawn)


def single_operations(dtype: str) -> Expression:
    """Return an expression with one result for each elementwise operation, of the arrays or of their comparisons."""
    nodes = [Node("input", (), "a"), Node("input", (), "b")]
    results = []
    for name in ARITHMETIC | FUNCTIONS:
        nodes.append(Node(name, (0, 1)[: OPERATIONS[name]]))
        results.append(len(nodes) - 1)
    for name in COMPARISONS:
        nodes.append(Node(name, (0, 1)))
        condition = len(nodes) - 1
        nodes += [Node("number", (condition,)), Node("where", (condition, 0, 1))]
        results += [len(nodes) - 2, len(nodes) - 1]
    for name in LOGIC:
        conditions = [i for i, node in enumerate(nodes) if node.operation in ("less", "equal")]
        nodes += [Node(name, tuple(conditions)), Node("number", (len(nodes),))]
        results.append(len(nodes) - 1)
    return Expression(ARRAYS, (), tuple(nodes), tuple(results), dtype)


def overflows(expression: Expression, *arrays: np.ndarray) -> np.ndarray:
    """Return a mask of the samples for which a value is infinite in the dtype, but finite in a wider one."""
    numeric = tuple(i for i, kind in enumerate(expression.kinds) if not kind.boolean)
    every = replace(expression, results=numeric)
    wide = np.longdouble if expression.dtype == "float64" else np.float64
    mask = np.zeros(arrays[0].shape, bool)
    with np.errstate(all="ignore"):
        for found, exact in zip(every(np, *arrays), every(np, *(x.astype(wide) for x in arrays)), strict=True):
            mask |= np.isinf(found) & np.isfinite(exact)
            mask |= (np.isnan(found) != np.isnan(exact)) | (np.isinf(exact) & (found != exact) & ~np.isnan(found))
    return np.asarray(mask.any(axis=0))


def compare(found: Any, expression: Expression, *arrays: np.ndarray) -> int:
    """Check results against bounds, and that NaN and infinity are where NumPy has them; return the number checked.

    Samples with an overflow are left out: an operation that is fused with the next one does not overflow.
    """
    bounds = Bounds(expression.dtype, random=False)
    with np.errstate(all="ignore"):
        eager = expression(np, *arrays)
        expected = expression(bounds.xp, *map(bounds.from_numpy, arrays))
    ordinary = ~overflows(expression, *arrays)
    signs_vary = any(node.operation in SELECTIONS for node in expression.nodes)
    count = 0
    for number, (result, like, bound) in enumerate(zip(found, eager, expected, strict=True)):
        assert result.dtype == expression.dtype
        times = excess(result, bound)
        reference = excess(like, bound)
        assert_where(times <= 1, ordinary & (reference <= 1), f"result {number}: {{}} times its bound", times)
        certain = ordinary & np.isfinite(bound.error)
        assert_where(np.isnan(result) == np.isnan(like), certain, f"result {number}: {{}}, NumPy has {like}", result)
        if not signs_vary:
            equal = (abs(result) != np.inf) | (result == like)
            assert_where(equal, certain, f"result {number}: {{}}, NumPy has {like}", result)
        count += int(certain.sum())
    return count


def assert_where(condition: np.ndarray, where: np.ndarray, message: str, values: np.ndarray) -> None:
    """Fail with the first value where a condition should hold and does not."""
    wrong = np.broadcast_to(where, condition.shape) & ~condition
    assert not wrong.any(), message.format(values[wrong][0]) + f" at {np.argwhere(wrong)[0].tolist()}"


def central_difference(expression: Expression, Z: np.ndarray, output: int, h: float) -> np.ndarray:
    """Return the derivative of the sum of the results of each sample by one of its logits, from two values."""
    step = np.zeros_like(Z)
    step[output] = h
    (above,), (below,) = expression(np, Z + step), expression(np, Z - step)
    return np.asarray((above - below).sum(axis=0) / (2 * h))
