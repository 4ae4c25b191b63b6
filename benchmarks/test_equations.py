"""Measure the time of every equation on each backend, in float32 and float64."""

from typing import Any

import numpy as np
import pytest

from deepnotes.backends.base import Backend
from deepnotes.equations import EQUATIONS
from deepnotes.equations.ops import Ops
from deepnotes.testing.bench.limits import Work, location, operations
from deepnotes.testing.calls import CALLS, Draw, call
from deepnotes.testing.checks import DTYPE, Derived

N, K, M = 128, 256, 64
"""The number of neurons, the length of the sums in a matrix product, and the number of samples."""


def draw_arguments(name: str, dtype: str) -> list[Any]:
    """Return arguments for the equation `name`: floating-point arrays in the dtype, everything else unchanged."""
    arguments: list[Any] = []
    for x in CALLS[name](Draw(np.random.default_rng(0), special=False), N, K, M):
        if isinstance(x, Derived):
            x = getattr(Ops(np, {}), x.equation)(arguments[x.source], **x.options)  # type: ignore[arg-type]
        if isinstance(x, np.ndarray | np.generic):
            x = np.asarray(x)
            x = x.astype(dtype) if x.dtype.kind == "f" else x
        arguments.append(x)
    return arguments


def equation_work(name: str, arguments: list[Any], dtype: str) -> Work:
    """Return the number of operations of an equation, and the bytes of its inputs and outputs."""
    arrays = [x for x in arguments if isinstance(x, np.ndarray)]
    moved = sum(x.nbytes for x in arrays)

    def run(xp: Any, *symbols: Any) -> list[Any]:
        nonlocal moved
        remaining = iter(symbols)
        values = [
            next(remaining) if isinstance(x, np.ndarray) else np.dtype(dtype) if x is DTYPE else x for x in arguments
        ]
        results = call(name, {})(Ops(xp, {}), *values)
        results = list(results) if isinstance(results, tuple) else [results]
        moved += sum(result.model.nbytes for result in results)
        return results

    flops = operations(run, [x.shape for x in arrays], [x.dtype for x in arrays])
    return Work(flops, moved, moved)


@np.errstate(all="ignore")  # intermediate results may overflow, as in Programs
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", EQUATIONS)
def test_equation(time_calls: Any, backend: Backend, name: str, dtype: str) -> None:
    arguments = draw_arguments(name, dtype)
    backend_arguments = [
        backend.from_numpy(x) if isinstance(x, np.ndarray) else getattr(backend.xp, dtype) if x is DTYPE else x
        for x in arguments
    ]
    function, on_device = call(name, {}), location(backend) != "host"

    def run() -> None:
        result = function(backend.ops, *backend_arguments)
        if on_device:
            last = result[-1] if isinstance(result, tuple) else result
            backend.to_numpy(last[:1] if last.ndim else last)  # waits for the device

    time_calls(run, backend, equation_work(name, arguments, dtype), dtype)
