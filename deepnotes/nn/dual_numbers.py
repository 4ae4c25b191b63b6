"""Dual numbers: arrays that carry their derivative in one direction, for the exact derivative of any computation.

:class:`DualNamespace` has the functions of a namespace, on such arrays. An equation that runs on it computes its result
and the result's derivative, by the chain rule: forward accumulation. For the gradient of a network, this is the product
of the Hessian with the direction (the R operator of B. A. Pearlmutter, Neural Computation 6 (1994) 147).

At a kink, the conventions are those of :mod:`deepnotes.nn.derivatives`: ReLU has the slope 0 at 0 (N8).
"""

from collections.abc import Callable
from typing import Any

from deepnotes.equations.array import Array, DType, Namespace, Shape
from deepnotes.utils.errors import NotAnExpressionError


class Dual:
    """An array with its derivative in one direction.

    Parameters
    ----------
    xp : Namespace
        The namespace of both arrays.
    value : Array
    tangent : Array or None
        The derivative, of the same shape; None if it is 0, as that of whole numbers and truth values always is.
    """

    __array_ufunc__ = None  # so that arrays of NumPy and CuPy leave operators to this class

    def __init__(self, xp: Namespace, value: Array, tangent: Array | None = None) -> None:
        self.xp, self.value, self.tangent = xp, value, tangent

    @property
    def shape(self) -> Shape:
        return self.value.shape

    @property
    def ndim(self) -> int:
        return self.value.ndim

    @property
    def dtype(self) -> DType:
        return self.value.dtype

    @property
    def T(self) -> "Dual":
        return self._linear(lambda x: x.T)

    def __add__(self, other: Any) -> "Dual":
        b = value_of(other)
        return self._combine(self.value + b, self.tangent, tangent_of(other))

    def __sub__(self, other: Any) -> "Dual":
        d = tangent_of(other)
        return self._combine(self.value - value_of(other), self.tangent, None if d is None else -d)

    def __rsub__(self, other: Any) -> "Dual":
        return (-self).__add__(other)

    def __mul__(self, other: Any) -> "Dual":
        a, b = self.value, value_of(other)
        return self._combine(a * b, _times(self.tangent, b), _times(tangent_of(other), a))

    __radd__, __rmul__ = __add__, __mul__

    def __truediv__(self, other: Any) -> "Dual":
        b = value_of(other)
        y = self.value / b
        d = tangent_of(other)
        return self._combine(y, None if self.tangent is None else self.tangent / b, None if d is None else -(d * y) / b)

    def __rtruediv__(self, other: Any) -> "Dual":
        y = other / self.value
        return Dual(self.xp, y, None if self.tangent is None else -(self.tangent * y) / self.value)

    def __matmul__(self, other: "Dual") -> "Dual":
        a, b = self.value, other.value
        first = None if self.tangent is None else self.tangent @ b
        return self._combine(a @ b, first, None if other.tangent is None else a @ other.tangent)

    def __neg__(self) -> "Dual":
        return self._linear(lambda x: -x)

    def __abs__(self) -> "Dual":
        return Dual(self.xp, abs(self.value), _times(self.tangent, self.xp.sign(self.value)))

    def __lt__(self, other: Any) -> "Dual":
        return Dual(self.xp, self.value < value_of(other))

    def __le__(self, other: Any) -> "Dual":
        return Dual(self.xp, self.value <= value_of(other))

    def __gt__(self, other: Any) -> "Dual":
        return Dual(self.xp, self.value > value_of(other))

    def __ge__(self, other: Any) -> "Dual":
        return Dual(self.xp, self.value >= value_of(other))

    def __and__(self, other: Any) -> "Dual":
        return Dual(self.xp, self.value & value_of(other))

    def __xor__(self, other: Any) -> "Dual":
        return Dual(self.xp, self.value ^ value_of(other))

    def __lshift__(self, other: Any) -> "Dual":
        return Dual(self.xp, self.value << value_of(other))

    def __rshift__(self, other: Any) -> "Dual":
        return Dual(self.xp, self.value >> value_of(other))

    def __getitem__(self, key: Any) -> "Dual":
        return self._linear(lambda x: x[key])

    def __float__(self) -> float:
        return float(self.value)

    def _linear(self, function: Callable[[Any], Any]) -> "Dual":
        """Return a linear function of the array, which is also that of the derivative."""
        return Dual(self.xp, function(self.value), None if self.tangent is None else function(self.tangent))

    def _combine(self, value: Array, *tangents: Array | None) -> "Dual":
        """Return a result whose derivative is the sum of `tangents`, which are broadcast to its shape."""
        terms = [d for d in tangents if d is not None]
        if not terms:
            return Dual(self.xp, value)
        total = terms[0] if len(terms) == 1 else terms[0] + terms[1]
        return Dual(self.xp, value, total if total.shape == value.shape else total + self.xp.zeros_like(value))


def value_of(x: Any) -> Any:
    """Return the array without its derivative; return a number unchanged."""
    return x.value if isinstance(x, Dual) else x


def tangent_of(x: Any) -> Any:
    """Return the derivative of an array, or None if it is 0."""
    return x.tangent if isinstance(x, Dual) else None


def _times(tangent: Any, factor: Any) -> Any:
    return None if tangent is None else tangent * factor


SLOPES: dict[str, Callable[[Any, Any, Any], Any]] = {
    "exp": lambda xp, x, y: y,
    "expm1": lambda xp, x, y: y + 1,
    "log": lambda xp, x, y: 1 / x,
    "log1p": lambda xp, x, y: 1 / (1 + x),
    "sqrt": lambda xp, x, y: 0.5 / y,
    "tanh": lambda xp, x, y: 1 - y * y,
}
"""The derivative of each elementwise function, given the namespace, the argument and the result."""


class DualNamespace:
    """The functions of a namespace that the equations use, on :class:`Dual` arrays.

    Parameters
    ----------
    xp : Namespace

    Examples
    --------
    >>> import numpy as np
    >>> xp = DualNamespace(np)
    >>> x = Dual(np, np.array([2.0]), np.array([1.0]))
    >>> (xp.exp(x * x)).tangent / np.exp(4)
    array([4.])
    """

    def __init__(self, xp: Namespace) -> None:
        self.xp = xp
        self.bool, self.float32, self.finfo = xp.bool, xp.float32, xp.finfo
        for name in ("int64", "uint32", "float64"):  # a library may lack one of them
            if hasattr(xp, name):
                setattr(self, name, getattr(xp, name))
        for name in SLOPES:
            setattr(self, name, self._elementwise(name))

    def __getattr__(self, name: str) -> Any:
        raise NotAnExpressionError(f"{name}, which is not in the array protocol, so that its derivative is unknown")

    def _elementwise(self, name: str) -> Callable[[Dual], Dual]:
        function: Any = getattr(self.xp, name)

        def dual(x: Dual) -> Dual:
            y = function(x.value)
            return Dual(self.xp, y, None if x.tangent is None else x.tangent * SLOPES[name](self.xp, x.value, y))

        return dual

    def asarray(self, obj: Any, /, *, dtype: DType | None = None, copy: bool | None = None) -> Dual:
        tangent = tangent_of(obj)
        value = self.xp.asarray(value_of(obj), dtype=dtype, copy=copy)
        return Dual(self.xp, value, None if tangent is None else self.xp.asarray(tangent, dtype=dtype))

    def arange(self, start: int, /, stop: int | None = None, step: int = 1, *, dtype: DType | None = None) -> Dual:
        return Dual(self.xp, self.xp.arange(start, stop, step, dtype=dtype))

    def zeros(self, shape: Shape, *, dtype: DType | None = None) -> Dual:
        return Dual(self.xp, self.xp.zeros(shape, dtype=dtype))

    def zeros_like(self, x: Dual, /) -> Dual:
        return Dual(self.xp, self.xp.zeros_like(x.value))

    def ones_like(self, x: Dual, /) -> Dual:
        return Dual(self.xp, self.xp.ones_like(x.value))

    def astype(self, x: Dual, dtype: DType, /) -> Dual:
        return x._linear(lambda a: self.xp.astype(a, dtype))

    def reshape(self, x: Dual, /, shape: Shape) -> Dual:
        return x._linear(lambda a: self.xp.reshape(a, shape))

    def concat(self, arrays: list[Dual] | tuple[Dual, ...], /, *, axis: int | None = 0) -> Dual:
        value = self.xp.concat([x.value for x in arrays], axis=axis)
        if all(x.tangent is None for x in arrays):
            return Dual(self.xp, value)
        return Dual(self.xp, value, self.xp.concat([self._tangent(x) for x in arrays], axis=axis))

    def take(self, x: Dual, indices: Dual, /, *, axis: int) -> Dual:
        return x._linear(lambda a: self.xp.take(a, value_of(indices), axis=axis))

    def sign(self, x: Dual, /) -> Dual:
        return Dual(self.xp, self.xp.sign(x.value))

    def equal(self, x1: Dual, x2: Dual, /) -> Dual:
        return Dual(self.xp, self.xp.equal(x1.value, x2.value))

    def maximum(self, x1: Dual, x2: Dual, /) -> Dual:
        return self._choose(self.xp.maximum(x1.value, x2.value), x1, x2, x1.value > x2.value, x2.value > x1.value)

    def minimum(self, x1: Dual, x2: Dual, /) -> Dual:
        return self._choose(self.xp.minimum(x1.value, x2.value), x1, x2, x1.value < x2.value, x2.value < x1.value)

    def where(self, condition: Dual, x1: Dual, x2: Dual, /) -> Dual:
        xp = self.xp
        value = xp.where(condition.value, x1.value, x2.value)
        if x1.tangent is None and x2.tangent is None:
            return Dual(xp, value)
        return Dual(xp, value, xp.where(condition.value, self._tangent(x1), self._tangent(x2)))

    def sum(self, x: Dual, /, *, axis: int | None = None, keepdims: bool = False) -> Dual:
        return x._linear(lambda a: self.xp.sum(a, axis=axis, keepdims=keepdims))

    def max(self, x: Dual, /, *, axis: int | None = None, keepdims: bool = False) -> Dual:
        xp = self.xp
        value = xp.max(x.value, axis=axis, keepdims=keepdims)
        if x.tangent is None:
            return Dual(xp, value)
        largest = xp.astype(xp.equal(x.value, xp.max(x.value, axis=axis, keepdims=True)), x.dtype)
        total = xp.sum(largest * x.tangent, axis=axis, keepdims=keepdims)
        return Dual(xp, value, total / xp.sum(largest, axis=axis, keepdims=keepdims))

    def _tangent(self, x: Dual) -> Array:
        return self.xp.zeros_like(x.value) if x.tangent is None else x.tangent

    def _choose(self, value: Array, x1: Dual, x2: Dual, first: Array, second: Array) -> Dual:
        """Return a maximum or minimum; where both are equal, each has half of the derivative, or none if one is given.

        `first` is true where the result is `x1` alone, `second` where it is `x2` alone.
        """
        xp = self.xp
        if x1.tangent is None and x2.tangent is None:
            return Dual(xp, value)
        d1, d2 = self._tangent(x1), self._tangent(x2)
        is_given = x1.tangent is None or x2.tangent is None
        if_equal = xp.zeros_like(value) if is_given else 0.5 * (d1 + d2)
        return Dual(xp, value, xp.where(first, d1, xp.where(second, d2, if_equal)))
