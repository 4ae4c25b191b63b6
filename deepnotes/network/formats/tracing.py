"""Conversion of the equations to ONNX nodes, by a namespace that records operations instead of computing them.

The equations in :mod:`deepnotes.equations` are called with this namespace, so no formula is written a second time for
ONNX. An equation becomes a single node instead if ONNX has the same function and ONNX Runtime computes it as accurately
(`KERNELS`). Some nodes are not accurate enough: ``Sigmoid`` is 0 at -60 and too small below -18; ``Elu`` loses all
digits near 0; ``Tanh`` in double precision has errors above 3 units in the last place. ONNX Runtime has no ``Softplus``
or ``Erf`` in double precision.

Samples are columns in the equations and rows in the file: an array of shape (n, m) has shape (m, n) in the file.
"""

from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np

from deepnotes import equations
from deepnotes.utils.extras import import_optional


class Value:
    """An array in the equations, represented by a name in the ONNX graph."""

    shape: tuple[int, ...]
    """The number of features, for the argument of a formula only."""

    def __init__(self, trace: "Trace", name: str, dtype: np.dtype[Any]) -> None:
        self.trace, self.name, self.dtype = trace, name, dtype

    def __repr__(self) -> str:
        return f"Value({self.name!r}, {self.dtype})"

    def __bool__(self) -> bool:
        raise TypeError("a traced function cannot branch on the values of an array")

    def __getitem__(self, key: tuple[slice, slice]) -> "Value":
        """Return a range of the features, of all samples; the number of features must be known."""
        features, _ = key
        start, stop, _ = features.indices(self.shape[0])
        bounds = (self.trace.constant(f"{name}:{x}", np.array([x])) for name, x in (("from", start), ("to", stop)))
        axes = self.trace.constant("features", np.array([-1]))
        part = self.trace.node("Slice", self, *bounds, axes, result=self.dtype.name)
        part.shape = (stop - start,)
        return part


def _operator(op: str, swapped: bool = False) -> Callable[..., Value]:
    """Return a method of Value that adds a node; if `swapped`, ``self`` is the last operand."""

    def apply(self: Value, *other: Any) -> Value:
        return self.trace.node(op, *(*other, self) if swapped else (self, *other))

    return apply


for _name, _op in {
    "add": "Add", "sub": "Sub", "mul": "Mul", "truediv": "Div", "lt": "Less", "le": "LessOrEqual", "gt": "Greater",
    "ge": "GreaterOrEqual", "neg": "Neg", "abs": "Abs", "and": "And", "xor": "Xor",
}.items():  # fmt: skip
    setattr(Value, f"__{_name}__", _operator(_op))
    if _name in {"add", "sub", "mul", "truediv"}:
        setattr(Value, f"__r{_name}__", _operator(_op, swapped=True))


class Trace:
    """An array namespace that records a graph; its arrays are of the class :class:`Value`.

    Parameters
    ----------
    dtype : {"float32", "float64"}
        The dtype of the network.

    Attributes
    ----------
    nodes : list of onnx.NodeProto
        The nodes recorded so far.
    constants : dict of str to ndarray
        The initializers, by name.
    scope : str
        The prefix of the names of new nodes.
    """

    bool, int64 = np.dtype("bool"), np.dtype("int64")
    float32, float64 = np.dtype("float32"), np.dtype("float64")

    def __init__(self, dtype: str) -> None:
        self.onnx = import_optional("onnx", "onnx", "an ONNX file")
        self.dtype = np.dtype(dtype)
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self.scope = ""
        self._numbers = count(1)

    # --- nodes and constants --------------------------------------------------------------------------------------

    def constant(self, name: str, x: np.ndarray) -> Value:
        """Add an array as an initializer, and return its Value."""
        self.constants[name] = x
        return Value(self, name, x.dtype)

    def number(self, x: float, dtype: np.dtype[Any]) -> Value:
        """Add a number as an initializer, unless an equal one exists, and return its Value."""
        with np.errstate(over="ignore"):
            return self.constant(f"{float(x)!r}:{dtype.name}", np.asarray(x, dtype))

    def node(self, op: str, *inputs: Any, result: str | None = None, **attributes: Any) -> Value:
        """Add a node, and return its result.

        Parameters
        ----------
        op : str
            The type of the node, such as ``"Add"``.
        *inputs : Value or float
            At least one of them is a Value; numbers become initializers in the dtype of the last Value.
        result : str, optional
            The dtype of the result; by default the dtype of the last input.
        **attributes
            The attributes of the node.
        """
        dtype = next(x for x in reversed(inputs) if isinstance(x, Value)).dtype
        values = [x if isinstance(x, Value) else self.number(x, dtype) for x in inputs]
        name = f"{self.scope}{op}_{next(self._numbers)}"
        self.nodes.append(self.onnx.helper.make_node(op, [x.name for x in values], [name], name=name, **attributes))
        result = "bool" if op in CONDITIONS else result
        return Value(self, name, np.dtype(result) if result else values[-1].dtype)

    def cast(self, x: Value, dtype: str) -> Any:
        """Return x converted to `dtype`."""
        kind = self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return x if x.dtype == dtype else self.node("Cast", x, result=dtype, to=kind)

    # --- functions of the array protocol --------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in FUNCTIONS:
            raise AttributeError(f"{name} cannot be traced as ONNX nodes")
        return lambda *inputs: self.node(FUNCTIONS[name], *inputs)

    def asarray(self, obj: Any, /, *, dtype: Any = None, copy: Any = None) -> Value:
        """Return a number as an array."""
        return self.number(obj, np.dtype(dtype))

    def maximum(self, x1: Any, x2: Any, /) -> Any:
        """Return the larger of two values, or NaN where x1 is NaN; ``Max`` in ONNX Runtime 1.15 ignores NaN."""
        return self.where(x1 < x2, x2, x1)

    def minimum(self, x1: Any, x2: Any, /) -> Any:
        """Return the smaller of two values, or NaN where x1 is NaN."""
        return self.where(x1 > x2, x2, x1)

    def tanh(self, x: Any, /) -> Any:
        """Return the hyperbolic tangent (N7): in single precision, the node ``Tanh``.

        In double precision it is computed as ``-t / (t + 2)`` times the sign of x, where ``t = e^(-2 |x|) - 1``.
        """
        if x.dtype == "float32":
            return self.node("Tanh", x)
        t = self.expm1(-2 * abs(x))
        negative = t / (t + 2)
        return self.where(x < 0, negative, -negative)

    def log1p(self, x: Any, /) -> Any:
        """Return ``log(1 + x)`` for x from 0 to 1, to full accuracy.

        It is computed as ``x log(u) / (u - 1)`` with ``u = 1 + x``. The rounding error of u cancels, since it affects
        log(u) and u - 1 alike (W. Kahan; N. J. Higham, Accuracy and Stability of Numerical Algorithms, problem 1.5).
        """
        u: Any = 1 + x
        return self.where(self.node("Equal", u, 1), x, self.log(u) * (x / (u - 1)))

    def expm1(self, x: Any, /) -> Any:
        """Return ``e^x - 1`` for x of at most 0, to full accuracy, as ``x (u - 1) / log(u)`` with ``u = e^x``.

        Where u is 0, its logarithm is infinite, and the result is -1.
        """
        u = self.exp(x)
        naive = u - 1
        accurate = self.where(self.node("Equal", u, 1), x, naive * (x / self.log(u)))
        return self.where(self.node("Equal", naive, -1), naive, accurate)


class FormulaTrace:
    """The namespace of formulas, whose functions take any arguments, unlike those that the equations need.

    Parameters
    ----------
    trace : Trace
        Records the nodes.
    """

    def __init__(self, trace: Trace) -> None:
        self._trace = trace

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trace, name)

    def astype(self, x: Value, dtype: Any, /) -> Any:
        """Return True and False as 1 and 0."""
        return self._trace.cast(x, np.dtype(dtype).name)

    def zeros_like(self, x: Value, /) -> Value:
        """Return zeros of the shape of x, also where x is not finite."""
        zero = self._trace.number(0.0, x.dtype)
        return self._trace.where(self._trace.equal(x, x), zero, zero)  # type: ignore[no-any-return]

    def maximum(self, x1: Any, x2: Any, /) -> Any:
        """Return the larger of two values, or NaN where one is NaN; ``Max`` in ONNX Runtime 1.15 ignores NaN."""
        return self.where(x1 < x2, x2, self._unless_nan(x1, x2))

    def minimum(self, x1: Any, x2: Any, /) -> Any:
        """Return the smaller of two values, or NaN where one is NaN."""
        return self.where(x1 > x2, x2, self._unless_nan(x1, x2))

    def _unless_nan(self, x1: Any, x2: Value) -> Any:
        """Return x1, or NaN where x2 is NaN; no node is needed if x2 is a number."""
        is_number = not np.isnan(self._trace.constants.get(x2.name, np.nan))
        return x1 if is_number else self.where(self.equal(x2, x2), x1, x2)

    def expm1(self, x: Any, /) -> Any:
        """Return ``e^x - 1`` to full accuracy; above 1, the subtraction is accurate."""
        return self.where(x > 1, self.exp(x) - 1, self._trace.expm1(x))

    def log1p(self, x: Any, /) -> Any:
        """Return ``log(1 + x)`` to full accuracy; above 1, the sum is accurate."""
        return self.where(x > 1, self.log(1 + x), self._trace.log1p(x))

    def sum(self, x: Any, /, *, axis: Any, keepdims: Any) -> Any:
        """Return the sum over the features, which are the last axis in the file."""
        axes = self._trace.constant("features", np.array([-1]))
        return self._trace.node("ReduceSum", x, axes, keepdims=1, result=x.dtype.name)

    def max(self, x: Any, /, *, axis: Any, keepdims: Any) -> Any:
        """Return the maximum over the features, or NaN if one of them is NaN; ``ReduceMax`` may ignore NaN."""
        largest = self._trace.node("ReduceMax", x, axes=[-1], keepdims=1)
        total = self.sum(self.where(self.equal(x, x), self.zeros_like(x), x), axis=axis, keepdims=keepdims)
        return self.where(self.equal(total, total), largest, total)


CONDITIONS = {"Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal", "And", "Xor"}
"""The nodes whose results are True and False."""

FUNCTIONS = {
    "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "sign": "Sign",
    "where": "Where", "equal": "Equal",
}  # fmt: skip
"""Functions of the array protocol that are a single node of opset 13, in single and in double precision."""


def linear(xp: Any, W: Any, A_prev: Any, b: Any) -> Any:
    """Return ``Z = W A_prev + b`` (N2) as one Gemm node."""
    return xp.node("Gemm", A_prev, W, b, transB=1)


def relu(xp: Any, Z: Any) -> Any:
    """Return ReLU (N8) as one Relu node in single precision.

    In double precision, ONNX Runtime 1.15 would fuse the Relu with the Gemm before it, but has no kernel for that.
    """
    return xp.node("Relu", Z) if Z.dtype == "float32" else equations.relu(xp, Z)


def leaky_relu(xp: Any, Z: Any, slope: float = 0.001) -> Any:
    """Return leaky ReLU (N9) as one LeakyRelu node in single precision; ONNX Runtime has none for double precision."""
    return xp.node("LeakyRelu", Z, alpha=slope) if Z.dtype == "float32" else equations.leaky_relu(xp, Z, slope)


def softmax(xp: Any, Z: Any) -> Any:
    """Return the softmax over the features (the last axis in the file) as one Softmax node."""
    return xp.node("Softmax", Z, axis=-1)


def log_softmax(xp: Any, Z: Any) -> Any:
    """Return the logarithm of the softmax; a LogSoftmax node would lose a logarithm close to 0."""
    return equations.log_softmax(FormulaTrace(xp), Z)  # type: ignore[arg-type]


KERNELS: dict[str, Callable[..., Any]] = {
    "linear": linear,
    "relu": relu,
    "leaky_relu": leaky_relu,
    "softmax": softmax,
    "log_softmax": log_softmax,
}
"""The equations that are not traced with the namespace of the trace, with the signatures of a backend's kernels."""
