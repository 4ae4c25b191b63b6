"""A library that refuses 64-bit dtypes, with arrays of its own class, needs no conversions in its backend."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.testing import run


class Grid:
    """An array of float32, int32, uint32 or bool; other dtypes are refused."""

    __array_ufunc__ = None

    def __init__(self, values: Any) -> None:
        if values.dtype not in (np.float32, np.int32, np.uint32, np.bool_):
            raise TypeError(f"there is no {values.dtype}")
        self.values = values

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = getattr(self.values, name)
        return Grid(found) if isinstance(found, np.ndarray) else found

    def __getitem__(self, key: Any) -> "Grid":
        return Grid(np.asarray(self.values[key]))

    def __float__(self) -> float:
        return float(self.values)

    def __int__(self) -> int:
        return int(self.values)


def _wrapped(function: Any) -> Any:
    """Return a function of NumPy as one of Grids."""

    def call(*arguments: Any, **options: Any) -> Any:
        found = function(*map(_unwrapped, arguments), **options)
        return Grid(np.asarray(found)) if isinstance(found, np.ndarray | np.generic) else found

    return call


def _unwrapped(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(_unwrapped, value))
    return value.values if isinstance(value, Grid) else value


OPERATORS = (
    *("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "matmul", "neg", "abs"),
    *("lt", "le", "gt", "ge", "and", "xor", "lshift", "rshift"),
)
for _operator in OPERATORS:
    setattr(Grid, f"__{_operator}__", _wrapped(getattr(np.ndarray, f"__{_operator}__")))

FUNCTIONS = (
    *("asarray", "astype", "concat", "equal", "exp", "expm1", "log", "log1p", "max", "maximum", "minimum"),
    *("ones_like", "reshape", "sign", "sqrt", "sum", "take", "tanh", "where", "zeros_like"),
)
GRIDS: Any = SimpleNamespace(
    **{name: _wrapped(getattr(np, name)) for name in FUNCTIONS},
    **{name: np.dtype(name) for name in ("float32", "int32", "uint32", "bool")},
    arange=_wrapped(lambda start, stop=None, step=1, dtype=np.int32: np.arange(start, stop, step, dtype=dtype)),
    zeros=_wrapped(lambda shape, dtype=np.float32: np.zeros(shape, dtype)),
    finfo=np.finfo,
)


class GridBackend(dn.Backend):
    """The only conversion that cannot be derived is the one to NumPy."""

    def to_numpy(self, x: Any) -> np.ndarray:
        return x.values


def test_integers_are_passed_to_the_library_as_int32() -> None:
    backend = GridBackend("grids", GRIDS)
    assert backend.dtypes == ("float32",)
    assert backend.from_numpy(np.arange(3)).dtype == np.int32
    X, y = np.random.default_rng(0).normal(size=(4, 64)), np.arange(64) % 3
    losses = []
    for each in ("numpy", backend):
        net = dn.Network([dn.Dense(8, "relu"), dn.Dropout(0.2), dn.Dense(3, "softmax")], inputs=4, seed=0, backend=each)
        losses.append(net.fit(X, y, epochs=3, batch_size=24).loss)
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


def test_conformance_passes() -> None:
    checks = ["namespace.take", "namespace.astype", "equations.gather", "equations.one_hot", "equations.dropout_mask"]
    checks += ["transfers.*", "programs.class_indices", "programs.dropout", "semantics.empty", "determinism.*"]
    report = run(GridBackend("grids", GRIDS), checks=checks, quick=True)
    assert report.passed, [(result.check, result.message) for result in report.results if result.verdict == "failed"]


def test_without_dlpack_the_error_names_the_method_to_override() -> None:
    backend = dn.Backend("grids", GRIDS)
    with pytest.raises(TypeError, match=r"backend 'grids': cannot convert Grid to a NumPy array.* override to_numpy"):
        backend.to_numpy(backend.xp.zeros((2,)))
