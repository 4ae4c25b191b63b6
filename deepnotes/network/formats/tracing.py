"""Tracing of the equations as nodes of an ONNX graph, by a namespace that records operations instead of computing them.

So a file holds the operations of :mod:`deepnotes.equations` one by one, in any precision, and no formula is written a
second time. Where ONNX has the same function, and ONNX Runtime computes it as accurately as the equation, its node is
used (`KERNELS`). These are not: ``Sigmoid``, which is 0 at -60 and too small below -18; ``Elu``, which loses all digits
near 0; ``Tanh`` in double precision, whose error exceeds the 3 units in the last place of a good library; and
``Softplus`` and ``Erf``, which ONNX Runtime lacks in double precision.

Arrays of shape (n, m) in the equations have shape (m, n) in the file, where samples are rows.
"""

from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np

from deepnotes import equations
from deepnotes.utils.extras import needed


class Value:
    """An array of the equations: a name in the graph."""

    def __init__(self, trace: "Trace", name: str, dtype: np.dtype[Any]) -> None:
        self.trace, self.name, self.dtype = trace, name, dtype

    def __repr__(self) -> str:
        return f"Value({self.name!r}, {self.dtype})"

    def __bool__(self) -> bool:
        raise TypeError("what becomes a file cannot branch on the values of an array")


def _operator(op: str, swapped: bool = False) -> Callable[..., Value]:
    def apply(self: Value, *other: Any) -> Value:
        return self.trace.node(op, *(*other, self) if swapped else (self, *other))

    return apply


for _name, _op in {
    "add": "Add", "sub": "Sub", "mul": "Mul", "truediv": "Div", "lt": "Less", "le": "LessOrEqual", "gt": "Greater",
    "ge": "GreaterOrEqual", "neg": "Neg", "abs": "Abs",
}.items():  # fmt: skip
    setattr(Value, f"__{_name}__", _operator(_op))
    if _name in {"add", "sub", "mul", "truediv"}:
        setattr(Value, f"__r{_name}__", _operator(_op, swapped=True))


class Trace:
    """A namespace whose arrays are :class:`Value`, and the graph that it records.

    Parameters
    ----------
    dtype : {"float32", "float64"}

    Attributes
    ----------
    nodes : list of onnx.NodeProto
    constants : dict of str to ndarray
        The initializers, by name.
    scope : str
        The prefix of the names of new nodes.
    """

    bool, int64 = np.dtype("bool"), np.dtype("int64")
    float32, float64 = np.dtype("float32"), np.dtype("float64")

    def __init__(self, dtype: str) -> None:
        self.onnx = needed("onnx", "onnx", "an ONNX file")
        self.dtype = np.dtype(dtype)
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self.scope = ""
        self._numbers = count(1)

    # --- the parts of a graph -------------------------------------------------------------------------------------

    def constant(self, name: str, x: np.ndarray) -> Value:
        """Add an array as an initializer of that name, and return it."""
        self.constants[name] = x
        return Value(self, name, x.dtype)

    def number(self, x: float, dtype: np.dtype[Any]) -> Value:
        """Return a number as an initializer; equal numbers share one."""
        with np.errstate(over="ignore"):
            return self.constant(f"{float(x)!r}:{dtype.name}", np.asarray(x, dtype))

    def node(self, op: str, *inputs: Any, result: str | None = None, **attributes: Any) -> Value:
        """Add a node, and return its result.

        Parameters
        ----------
        op : str
        *inputs : Value or float
        result : str, optional
            The dtype of the result, if it is not that of the last input.
        **attributes
        """
        like = next(x for x in reversed(inputs) if isinstance(x, Value)).dtype
        named = [x if isinstance(x, Value) else self.number(x, like) for x in inputs]
        name = f"{self.scope}{op}_{next(self._numbers)}"
        self.nodes.append(self.onnx.helper.make_node(op, [x.name for x in named], [name], name=name, **attributes))
        return Value(self, name, np.dtype(result) if result else named[-1].dtype)

    def cast(self, x: Value, dtype: str) -> Any:
        """Return x in another dtype."""
        kind = self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return x if x.dtype == dtype else self.node("Cast", x, result=dtype, to=kind)

    # --- functions of the protocol --------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in FUNCTIONS:
            raise AttributeError(f"{name} has no form in ONNX here")
        return lambda *inputs: self.node(FUNCTIONS[name], *inputs)

    def asarray(self, obj: Any, /, *, dtype: Any = None, copy: Any = None) -> Value:
        """Return a number as an array."""
        return self.number(obj, np.dtype(dtype))

    def maximum(self, x1: Any, x2: Any, /) -> Any:
        """Return the larger, and NaN where x1 is NaN, which the ``Max`` of ONNX Runtime 1.15 would lose."""
        return self.where(x1 < x2, x2, x1)

    def minimum(self, x1: Any, x2: Any, /) -> Any:
        """Return the smaller, and NaN where x1 is NaN."""
        return self.where(x1 > x2, x2, x1)

    def tanh(self, x: Any, /) -> Any:
        """Return the hyperbolic tangent (N7), as the node ``Tanh`` in single precision.

        In double precision it is ``-t / (t + 2)`` with ``t = e^(-2 |x|) - 1``, and then gets the sign of x.
        """
        if x.dtype == "float32":
            return self.node("Tanh", x)
        t = self.expm1(-2 * abs(x))
        T = t / (t + 2)
        return self.where(x < 0, T, -T)

    def log1p(self, x: Any, /) -> Any:
        """Return ``log(1 + x)`` for x from 0 to 1, to full accuracy.

        It is ``x log(u) / (u - 1)`` with ``u = 1 + x``: the rounding error of u cancels, since it is in both log(u) and
        u - 1 (W. Kahan; N. J. Higham, Accuracy and Stability of Numerical Algorithms, problem 1.5).
        """
        u: Any = 1 + x
        return self.where(self.node("Equal", u, 1), x, self.log(u) * (x / (u - 1)))

    def expm1(self, x: Any, /) -> Any:
        """Return ``e^x - 1`` for x of at most 0, to full accuracy, as ``x (u - 1) / log(u)`` with ``u = e^x``.

        Where u is 0, its logarithm is infinite, and the result is -1.
        """
        u = self.exp(x)
        less = u - 1
        near = self.where(self.node("Equal", u, 1), x, less * (x / self.log(u)))
        return self.where(self.node("Equal", less, -1), less, near)


FUNCTIONS = {
    "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "sign": "Sign",
    "where": "Where", "equal": "Equal",
}  # fmt: skip
"""Functions of the protocol that are one node of opset 13, in both dtypes."""


def linear(xp: Any, W: Any, A_prev: Any, b: Any) -> Any:
    """Return N2 as one Gemm."""
    return xp.node("Gemm", A_prev, W, b, transB=1)


def relu(xp: Any, Z: Any) -> Any:
    """Return N8 as one Relu in single precision; in double, ONNX Runtime 1.15 fuses it into a Gemm that it lacks."""
    return xp.node("Relu", Z) if Z.dtype == "float32" else equations.relu(xp, Z)


def leaky_relu(xp: Any, Z: Any, slope: float = 0.001) -> Any:
    """Return N9 as one LeakyRelu in single precision; ONNX Runtime has none in double."""
    return xp.node("LeakyRelu", Z, alpha=slope) if Z.dtype == "float32" else equations.leaky_relu(xp, Z, slope)


def softmax(xp: Any, Z: Any) -> Any:
    """Return softmax over the features, which are the last axis in the file."""
    return xp.node("Softmax", Z, axis=-1)


KERNELS: dict[str, Callable[..., Any]] = {
    "linear": linear,
    "relu": relu,
    "leaky_relu": leaky_relu,
    "softmax": softmax,
}
"""Equations that are written as a single ONNX node, in the form of a backend's kernels."""
