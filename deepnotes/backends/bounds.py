"""Error bounds: the largest errors that correct results may have. The bounds of all checks come from this module.

The equations are pure functions of a namespace. This module is a namespace whose arrays carry an error bound for each
value: the running error analysis of J. H. Wilkinson (N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd
ed., SIAM 2002, section 3.3). The bounds are for the dtype that a backend computes in; the values are computed in a
wider dtype. An equation, a layer or a whole training run that is computed on these arrays gives the reference values
and the largest errors that a backend may have. No bound is fitted to the observed results of a backend. The rules, with
the unit roundoff ``u``:

- **Rounding.** An operation has an error of at most ``u |x|``; a result below the smallest normal number ``tiny`` may
  become 0. A Python number that the dtype cannot represent counts as one rounding.
- **Errors of arguments.** An error ``e`` of an argument ``x`` is multiplied by the largest derivative between ``x - e``
  and ``x + e``: for a sum, the errors add up; ``x y`` has the error ``|x| e_y + |y| e_x + e_x e_y``; and so on. Exact
  arguments have no errors.
- **Sums of k terms**, and therefore also the matrix products N2, N13, N15 and the sum N14, have an error of at most
  ``γ_k Σ |terms|`` with ``γ_k = k u / (1 - k u)``, in any order and with or without fused operations (Higham, section
  3.1). On random data the roundings are independent and mostly cancel, so the error grows as the square root of k: for
  `random` inputs the factor is the smaller of ``γ_k`` and ``2 sqrt(k) u`` (N. J. Higham and T. Mary, SIAM J. Sci.
  Comput. 41 (2019) A2815, theorem 2.4 with λ = 2). For structured data, such as constants, it is always ``γ_k``.
- **Elementary functions** have an error of a few units in the last place (`ULPS`), as in good libraries. A backend that
  loses digits because it uses a different, unstable formula exceeds the bounds. If an equation itself were unstable,
  its bound would be wide and would hide the loss; therefore tests/equations/test_stability.py compares each equation's
  bound with the effect of rounding its arguments alone.
- **Sums over samples** are not a special case: the equations add them in blocks (:mod:`deepnotes.equations.samples`),
  so their bound does not grow with the batch.
- **Comparisons.** If the difference of two numbers is smaller than its error, either outcome of a comparison is
  correct, and the error of a value selected by the comparison includes the difference of the two alternatives. So the
  kink of ReLU needs no exception: near it, where the outcome is uncertain, the bound is wide.
- **Overflow.** Beyond the largest number of the dtype, both the value and infinity are correct. The computation of the
  bounds may overflow as well, without a warning. A value that is infinite even in the wider dtype must be infinite in
  the result. If an error bound is infinite or NaN, any result is accepted.
"""

import builtins
from typing import Any, TypeVar

import numpy as np

from deepnotes.backends.base import DTYPES, Backend


class BoundedArray:
    """Reference values, with bounds on the errors that a backend's values may have; see :class:`Rules`.

    Attributes
    ----------
    value : ndarray
        The reference values. Floating-point values have a wider dtype than the backend's.
    error : ndarray of float64
        The error bounds, of the same shape. The bound of a bool is 1 if its value is uncertain.
    """

    __slots__ = ("error", "rules", "value")
    __array_ufunc__ = None  # NumPy's operators defer to those of this class

    def __init__(self, rules: "Rules", value: Any, error: Any) -> None:
        self.rules = rules
        self.value = np.asarray(value)
        self.error = np.broadcast_to(np.asarray(error, np.float64), self.value.shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape."""
        return self.value.shape

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return self.value.ndim

    @property
    def dtype(self) -> Any:
        """The dtype of the backend's array that this one is the reference for."""
        return self.rules.dtype if self.value.dtype.kind == "f" else self.value.dtype

    @property
    def T(self) -> "BoundedArray":
        """The transpose."""
        return BoundedArray(self.rules, self.value.T, self.error.T)

    def __getitem__(self, key: Any) -> "BoundedArray":
        return BoundedArray(self.rules, self.value[key], self.error[key])

    def __float__(self) -> float:
        return float(self.value)

    def __neg__(self) -> "BoundedArray":
        return BoundedArray(self.rules, -self.value, self.error)

    def __abs__(self) -> "BoundedArray":
        return BoundedArray(self.rules, abs(self.value), self.error)

    def __add__(self, other: Any) -> "BoundedArray":
        return self.rules.add(self, self.rules.lift(other, self))

    def __sub__(self, other: Any) -> "BoundedArray":
        difference = self.rules.add(self, -self.rules.lift(other, self))
        if not isinstance(other, Largest) or other.argument is not self:
            return difference
        is_zero = self.rules.is_largest(self, other)
        return BoundedArray(self.rules, difference.value, np.where(is_zero, 0.0, difference.error))

    def __rsub__(self, other: Any) -> "BoundedArray":
        return self.rules.add(self.rules.lift(other, self), -self)

    def __mul__(self, other: Any) -> "BoundedArray":
        return self.rules.multiply(self, self.rules.lift(other, self))

    def __truediv__(self, other: Any) -> "BoundedArray":
        return self.rules.divide(self, self.rules.lift(other, self))

    def __rtruediv__(self, other: Any) -> "BoundedArray":
        return self.rules.divide(self.rules.lift(other, self), self)

    def __matmul__(self, other: "BoundedArray") -> "BoundedArray":
        return self.rules.matmul(self, other)

    def __lt__(self, other: Any) -> "BoundedArray":
        return self.rules.compare(np.less, self, self.rules.lift(other, self))

    def __le__(self, other: Any) -> "BoundedArray":
        return self.rules.compare(np.less_equal, self, self.rules.lift(other, self))

    def __gt__(self, other: Any) -> "BoundedArray":
        return self.rules.compare(np.greater, self, self.rules.lift(other, self))

    def __ge__(self, other: Any) -> "BoundedArray":
        return self.rules.compare(np.greater_equal, self, self.rules.lift(other, self))

    def __and__(self, other: Any) -> "BoundedArray":
        return self.rules.combine(np.bitwise_and, self, self.rules.lift(other, self))

    def __xor__(self, other: Any) -> "BoundedArray":
        return self.rules.combine(np.bitwise_xor, self, self.rules.lift(other, self))

    def __lshift__(self, other: Any) -> "BoundedArray":
        return self.rules.exact(self.value << self.rules.lift(other, self).value)

    def __rshift__(self, other: Any) -> "BoundedArray":
        return self.rules.exact(self.value >> self.rules.lift(other, self).value)

    __radd__, __rmul__ = __add__, __mul__


class Largest(BoundedArray):
    """The maxima of `argument` along an axis; so a comparison with `argument` tells which elements attain them.

    Without `argument`, the maximum would be a number with an error of its own, and the element that attains it would
    not be certain to equal it.
    """

    __slots__ = ("argument", "axis")

    def __init__(self, result: BoundedArray, argument: BoundedArray, axis: int | None) -> None:
        super().__init__(result.rules, result.value, result.error)
        self.argument, self.axis = argument, axis


UNIT = {"float64": 2.0**-53, "float32": 2.0**-24, "tf32": 2.0**-11, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""The unit roundoff of each dtype, and of each precision that matrix products may have instead."""
SUBNORMAL_ERROR = {"float16": 2.0**-25}
"""The largest absolute rounding error of subnormal factors, for which the relative error in `UNIT` does not hold."""
ULPS = {"exp": 4, "expm1": 4, "log": 4, "log1p": 4, "tanh": 3, "sqrt": 1}
"""The largest errors of elementary functions, in units in the last place."""


def gamma(k: int, u: float) -> float:
    """Return ``γ_k = k u / (1 - k u)``, which bounds the relative error of k roundings; infinite if ``k u >= 1``.

    Examples
    --------
    >>> gamma(2, 0.25)
    1.0
    """
    return k * u / (1 - k * u) if k * u < 1 else float("inf")


def sum_factor(k: int, u: float, random: bool) -> float:
    """Return the error bound of a sum of k terms, divided by ``Σ |terms|``.

    Parameters
    ----------
    k : int
    u : float
        The unit roundoff.
    random : bool
        Whether the terms are random, so that roundings mostly cancel.
    """
    worst = gamma(k, u)
    return min(worst, 2 * k**0.5 * u) if random else worst


T = TypeVar("T")


def without_warnings(cls: type[T]) -> type[T]:
    """Decorate a class so that its methods compute without floating-point warnings, regardless of NumPy's settings."""
    for name, method in list(vars(cls).items()):
        if callable(method):
            setattr(cls, name, np.errstate(all="ignore")(method))
    return cls


@without_warnings
class Rules:
    """The namespace of :class:`BoundedArray`: each function computes values and error bounds.

    Parameters
    ----------
    dtype : {"float32", "float64"}
        The dtype that the backend computes in.
    products : str, optional
        The precision of matrix products, such as "tf32", if it differs from `dtype`.
    random : bool, default True
        Whether inputs are random, see :func:`sum_factor`.

    Attributes
    ----------
    slack : float
        The factor by which all bounds are multiplied: 1, or 2 if there is no wider dtype, because then the reference
        values have rounding errors as well.
    """

    bool, int64 = np.dtype("bool"), np.dtype("int64")
    float32, float64 = np.dtype("float32"), np.dtype("float64")

    def __init__(self, dtype: str, products: str | None = None, random: builtins.bool = True) -> None:
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.random = random
        self.wide: np.dtype[Any] = np.dtype(np.longdouble if dtype == "float64" else np.float64)
        self.u, self.products_u = UNIT[dtype], UNIT[products or dtype]
        self.subnormal_error = SUBNORMAL_ERROR.get(products or dtype, 0.0)
        info = np.finfo(self.dtype)
        self.tiny, self.largest = float(info.tiny), float(info.max)
        self.slack = 2.0 if np.finfo(self.wide).eps > info.eps / 64 else 1.0

    # --- construction of values and errors ------------------------------------------------------------------------

    def exact(self, value: Any) -> BoundedArray:
        """Return values with error bounds of 0: every backend must match them exactly."""
        return BoundedArray(self, value, 0.0)

    def lift(self, x: Any, like: BoundedArray) -> BoundedArray:
        """Return a Python number as an array of the same kind as `like`; arrays are returned unchanged."""
        if isinstance(x, BoundedArray):
            return x
        if like.value.dtype.kind != "f":
            return self.exact(np.asarray(x, like.value.dtype))
        rounded = float(self.dtype.type(x)) if abs(x) <= self.largest else x
        return BoundedArray(self, np.asarray(x, self.wide), 0.0 if rounded == x else self.u * abs(x))

    def with_errors(self, value: Any, error: Any) -> BoundedArray:
        """Return values with these error bounds; a backend must match non-finite values exactly."""
        error = np.where(np.isnan(error), np.inf, error)
        return BoundedArray(self, value, np.where(np.isfinite(value), error, 0.0))

    def add_rounding(self, value: Any, error: Any, roundings: float = 1.0) -> BoundedArray:
        """Return the result of an operation; `error` is the error caused by its arguments, to which roundings add."""
        own = roundings * self.u * (abs(value) + error) + self.tiny
        return self.with_errors(value, np.where((value == 0) & (error == 0), 0.0, error + own))

    def elementary(self, name: str, value: Any, error: Any) -> BoundedArray:
        """Return the result of an elementary function; a unit in the last place counts as two roundings."""
        return self.add_rounding(value, error, 2 * ULPS[name])

    def may_overflow(self, x: BoundedArray) -> np.ndarray:
        """Return a mask of the elements for which a backend may return infinity instead of a finite value."""
        mask: np.ndarray = np.isfinite(x.value) & (abs(x.value) + x.error > self.largest)
        return mask

    def _unless_overflow(self, x: BoundedArray, error: Any) -> Any:
        """Return the error of a function of x; it is infinite where a backend may have infinity instead of x."""
        return np.where(self.may_overflow(x), np.inf, error)

    # --- operators --------------------------------------------------------------------------------------------------

    def add(self, a: BoundedArray, b: BoundedArray) -> BoundedArray:
        """Return ``a + b``."""
        if a.value.dtype.kind != "f":
            return self.exact(a.value + b.value)
        return self.add_rounding(a.value + b.value, a.error + b.error)

    def multiply(self, a: BoundedArray, b: BoundedArray) -> BoundedArray:
        """Return ``a b``."""
        if a.value.dtype.kind != "f":
            return self.exact(a.value * b.value)
        error = abs(a.value) * b.error + abs(b.value) * a.error + a.error * b.error
        is_uncertain = self.may_overflow(a) | self.may_overflow(b)
        return self.add_rounding(a.value * b.value, np.where(is_uncertain, np.inf, error))

    def divide(self, a: BoundedArray, b: BoundedArray) -> BoundedArray:
        """Return ``a / b``; where b may overflow, a backend may return 0."""
        quotient = a.value / b.value
        smallest_divisor = abs(b.value) - b.error
        inexact = (a.error > 0) | (b.error > 0)
        with np.errstate(all="ignore"):
            error = (a.error + abs(quotient) * b.error) / smallest_divisor
            error = np.where(smallest_divisor > 0, error, np.inf)
        error = np.where(inexact, error, 0.0) + np.where(self.may_overflow(b), abs(quotient), 0.0)
        return self.add_rounding(quotient, np.where(self.may_overflow(a), np.inf, error))

    def matmul(self, a: BoundedArray, b: BoundedArray) -> BoundedArray:
        """Return ``a b``, the matrix product."""
        value, k = a.value @ b.value, a.value.shape[-1]
        abs_a, abs_b = (np.asarray(abs(x.value), np.float64) + x.error for x in (a, b))
        abs_product = abs_a @ abs_b
        error = sum_factor(k, self.products_u, self.random) * abs_product + k * self.tiny
        if self.products_u > self.u:  # the factors are rounded as well
            error = error + 2 * self.products_u * abs_product
            if self.subnormal_error:
                sums = abs_a.sum(-1, keepdims=True) + abs_b.sum(-2, keepdims=True)
                error = error + 2 * self.subnormal_error * sums
        if a.error.any():
            error = error + a.error @ abs_b
        if b.error.any():
            error = error + abs_a @ b.error
        return self.with_errors(value, np.where(abs_product == 0, 0.0, error))

    def compare(self, comparison: Any, a: BoundedArray, b: BoundedArray) -> BoundedArray:
        """Return the outcome of a comparison, with an error of 1 where it is uncertain."""
        error = a.error + b.error
        return BoundedArray(self, comparison(a.value, b.value), (error > 0) & (abs(a.value - b.value) <= error))

    def combine(self, operation: Any, a: BoundedArray, b: BoundedArray) -> BoundedArray:
        """Return ``a & b`` or ``a ^ b``; it is uncertain if it depends on an uncertain argument."""
        value = operation(a.value, b.value)
        if value.dtype.kind != "b":
            return self.exact(value)
        others = [x.value ^ (x.error > 0) for x in (a, b)]
        outcomes = [operation(x, y) for x in (a.value, others[0]) for y in (b.value, others[1])]
        return BoundedArray(self, value, np.any([outcome != value for outcome in outcomes], axis=0))

    # --- functions of the protocol --------------------------------------------------------------------------------

    def asarray(self, obj: Any, /, *, dtype: Any = None, copy: Any = None) -> BoundedArray:
        """Return host data, rounded to the dtype, as exact values; Python numbers are treated as in :meth:`lift`."""
        if isinstance(obj, BoundedArray):
            return obj if dtype is None else self.astype(obj, dtype)
        kind = np.dtype(dtype) if dtype is not None else np.asarray(obj).dtype
        if kind.kind != "f":
            return self.exact(np.asarray(obj, kind))
        if isinstance(obj, float | int):
            return self.lift(obj, self.exact(np.zeros((), self.wide)))
        return self.exact(np.asarray(obj).astype(self.dtype).astype(self.wide))

    def arange(self, *bounds: int, dtype: Any = None) -> BoundedArray:
        """Return consecutive integers."""
        return self.exact(np.arange(*bounds, dtype=dtype))

    def zeros(self, shape: tuple[int, ...], *, dtype: Any = None) -> BoundedArray:
        """Return zeros."""
        return self.exact(np.zeros(shape, self.wide))

    def zeros_like(self, x: BoundedArray, /) -> BoundedArray:
        """Return zeros of the shape and dtype of x."""
        return self.exact(np.zeros_like(x.value))

    def ones_like(self, x: BoundedArray, /) -> BoundedArray:
        """Return ones of the shape and dtype of x."""
        return self.exact(np.ones_like(x.value))

    def finfo(self, dtype: Any, /) -> Any:
        """Return the limits of the dtype that the backend computes in."""
        return np.finfo(self.dtype)

    def astype(self, x: BoundedArray, dtype: Any, /) -> BoundedArray:
        """Return x as another dtype; an uncertain bool becomes a number with an error of 1."""
        kind = np.dtype(dtype)
        value = x.value.astype(self.wide if kind.kind == "f" else kind)
        if kind.kind == "f" and x.value.dtype.kind in "iu" and np.any(value != value.astype(self.dtype)):
            return self.add_rounding(value, 0.0)
        return BoundedArray(self, value, x.error)

    def reshape(self, x: BoundedArray, /, shape: tuple[int, ...]) -> BoundedArray:
        """Return x in another shape."""
        return BoundedArray(self, x.value.reshape(shape), x.error.reshape(shape))

    def concat(self, arrays: Any, /, *, axis: int | None = 0) -> BoundedArray:
        """Return the concatenation of arrays."""
        return BoundedArray(
            self, np.concatenate([x.value for x in arrays], axis), np.concatenate([x.error for x in arrays], axis)
        )

    def take(self, x: BoundedArray, indices: BoundedArray, /, *, axis: int) -> BoundedArray:
        """Return elements at indices."""
        return BoundedArray(self, np.take(x.value, indices.value, axis), np.take(x.error, indices.value, axis))

    def exp(self, x: BoundedArray, /) -> BoundedArray:
        """Return ``exp(x)``. An error d of x multiplies the result by ``exp(d)``. ``exp(0)`` is 1 on every backend."""
        result = self.elementary("exp", np.exp(x.value), _exp_error(x.value, x.error))
        return self.with_errors(result.value, np.where((x.value == 0) & (x.error == 0), 0.0, result.error))

    def expm1(self, x: BoundedArray, /) -> BoundedArray:
        """Return ``exp(x) - 1``."""
        return self.elementary("expm1", np.expm1(x.value), _exp_error(x.value, x.error))

    def log(self, x: BoundedArray, /) -> BoundedArray:
        """Return the logarithm. An error d of x changes the result by at most its distance to ``log(x - d)``."""
        return self.elementary("log", np.log(x.value), self._unless_overflow(x, _log_error(x.value, x.error)))

    def log1p(self, x: BoundedArray, /) -> BoundedArray:
        """Return ``log(1 + x)``."""
        return self.elementary("log1p", np.log1p(x.value), self._unless_overflow(x, _log_error(1 + x.value, x.error)))

    def sqrt(self, x: BoundedArray, /) -> BoundedArray:
        """Return the square root. An error d of x changes the result by at most its distance to ``sqrt(x - d)``.

        The distance is computed without cancellation, as ``d / (sqrt(x) + sqrt(x - d))``.
        """
        root = np.sqrt(x.value)
        below = np.sqrt(np.maximum(x.value - x.error, 0))
        error = np.where(x.error > 0, np.maximum(x.error / np.maximum(root + below, 1e-300), 0), 0.0)
        return self.elementary("sqrt", root, self._unless_overflow(x, error))

    def tanh(self, x: BoundedArray, /) -> BoundedArray:
        """Return the hyperbolic tangent; its slope ``1 / cosh² x`` is largest where ``abs(x)`` is smallest."""
        steepest = np.maximum(abs(x.value) - x.error, 0).astype(np.float64)
        return self.elementary("tanh", np.tanh(x.value), x.error / np.cosh(np.minimum(steepest, 300)) ** 2)

    def sign(self, x: BoundedArray, /) -> BoundedArray:
        """Return -1, 0 or 1."""
        return self.with_errors(np.sign(x.value), np.where((x.error > 0) & (abs(x.value) <= x.error), 2.0, 0.0))

    def is_largest(self, x: BoundedArray, largest: Largest) -> np.ndarray:
        """Return a mask of the elements that are certain to be the maximum of x along an axis, and the only one."""
        may_be = x.value + x.error >= np.max(x.value - x.error, axis=largest.axis, keepdims=True)
        mask: np.ndarray = may_be & (np.sum(may_be, axis=largest.axis, keepdims=True) == 1)
        return mask

    def equal(self, x1: BoundedArray, x2: BoundedArray, /) -> BoundedArray:
        """Return whether the elements of two arrays are equal; x2 may be the maxima of x1 along an axis."""
        result = self.compare(np.equal, x1, x2)
        if not isinstance(x2, Largest) or x2.argument is not x1:
            return result
        low, high = x1.value - x1.error, x1.value + x1.error
        may_be_largest = high >= np.max(low, axis=x2.axis, keepdims=True)
        is_tie = np.sum(may_be_largest, axis=x2.axis, keepdims=True) > 1
        return BoundedArray(self, result.value, (result.error > 0) & may_be_largest & is_tie)

    def maximum(self, x1: BoundedArray, x2: BoundedArray, /) -> BoundedArray:
        """Return the larger element.

        The error bound is that of the element if it is certainly the larger one, else the larger of the two bounds.
        """
        return self._select(np.maximum(x1.value, x2.value), x1.value > x2.value, x1, x2)

    def minimum(self, x1: BoundedArray, x2: BoundedArray, /) -> BoundedArray:
        """Return the smaller element, with errors as in :meth:`maximum`."""
        return self._select(np.minimum(x1.value, x2.value), x1.value < x2.value, x1, x2)

    def where(self, condition: BoundedArray, x1: BoundedArray, x2: BoundedArray, /) -> BoundedArray:
        """Return x1 where the condition holds, else x2.

        Where the condition is uncertain, the error bound also covers the alternative that was not selected.
        """
        value = np.where(condition.value, x1.value, x2.value)
        own, other = (np.where(c, x1.error, x2.error) for c in (condition.value, ~condition.value))
        is_uncertain = condition.error > 0
        with np.errstate(invalid="ignore"):
            widened = np.maximum(own, abs(x1.value - x2.value) + other)
        return self.with_errors(value, np.where(is_uncertain, widened, own))

    def sum(self, x: BoundedArray, /, *, axis: int | None = None, keepdims: Any = False) -> BoundedArray:
        """Return the sum along an axis."""
        value = np.sum(x.value, axis=axis, keepdims=keepdims)
        if x.value.dtype.kind != "f":
            return self.exact(value)
        k = x.value.size if axis is None else x.value.shape[axis]
        abs_sum = np.sum(abs(x.value) + x.error, axis=axis, keepdims=keepdims)
        rounding = sum_factor(k, self.u, self.random) * abs_sum + k * self.tiny if k > 1 else 0.0
        error = np.sum(x.error, axis=axis, keepdims=keepdims) + rounding
        return self.with_errors(value, np.where(abs_sum == 0, 0.0, error))

    def max(self, x: BoundedArray, /, *, axis: int | None = None, keepdims: Any = False) -> BoundedArray:
        """Return the maximum along an axis; its error bound is the largest error bound of an element."""
        error = np.max(x.error, axis=axis, keepdims=keepdims)
        return Largest(self.with_errors(np.max(x.value, axis=axis, keepdims=keepdims), error), x, axis)

    def _select(self, value: np.ndarray, first: np.ndarray, x1: BoundedArray, x2: BoundedArray) -> BoundedArray:
        if value.dtype.kind != "f":
            return self.exact(value)
        with np.errstate(invalid="ignore"):
            is_uncertain = abs(x1.value - x2.value) <= x1.error + x2.error
        error = np.where(is_uncertain, np.maximum(x1.error, x2.error), np.where(first, x1.error, x2.error))
        return self.with_errors(value, error)


def _exp_error(value: Any, error: Any) -> Any:
    """Return the distance between ``exp(value + error)`` and ``exp(value)``."""
    with np.errstate(all="ignore"):
        distance = np.exp(value) * np.expm1(error)
        distance = np.where(np.isfinite(distance), distance, np.exp(value + error))
    return np.where(error > 0, distance, 0.0)


def _log_error(value: Any, error: Any) -> Any:
    """Return the distance between ``log(value - error)`` and ``log(value)``."""
    with np.errstate(all="ignore"):
        distance = np.where(error < value, -np.log1p(-error / value), np.inf)
    return np.where(error > 0, distance, 0.0)


class Bounds(Backend):
    """The reference backend: equations, layers and Programs run on it as on any other backend.

    Parameters
    ----------
    dtype, products, random
        As for :class:`Rules`.

    Examples
    --------
    A sum of two products in single precision:

    >>> bounds = Bounds("float32")
    >>> W, A, b = (bounds.from_numpy(np.array(x)) for x in ([[1.0, 2.0]], [[3.0], [4.0]], [[0.5]]))
    >>> Z = bounds.ops.linear(W, A, b)
    >>> Z.value.item(), Z.error.item() < 4 * 2.0**-24 * 11.5
    (11.5, True)
    """

    dtypes = DTYPES

    def __init__(self, dtype: str, products: str | None = None, random: builtins.bool = True) -> None:
        self.rules = Rules(dtype, products, random)
        super().__init__("bounds", self.rules)

    def to_numpy(self, x: Any) -> np.ndarray:
        """Return the values."""
        return np.asarray(x.value, np.float64)

    def describe(self) -> str:
        """Return one line with the dtype that this backend is the reference for, and the dtype that it computes in."""
        return f"the reference for {self.rules.dtype}, in {self.rules.wide}, with error bounds"


def excess(found: np.ndarray, expected: BoundedArray) -> np.ndarray:
    """Return the error of each element of a result, divided by its bound: an element is correct if this is at most 1.

    NaN and infinite reference values must be matched exactly.

    Parameters
    ----------
    found : ndarray
        The result of a backend, of the same shape as `expected`.
    expected : BoundedArray
        The reference values and their error bounds.
    """
    rules = expected.rules
    value, error = expected.value, rules.slack * expected.error
    with np.errstate(all="ignore"):
        deviation = abs(found.astype(rules.wide) - value)
        ratio = np.where(deviation == 0, 0.0, deviation / error)
        is_equal = (found == value) | (np.isnan(found) & np.isnan(value))
        is_allowed_overflow = (
            np.isinf(found) & (np.sign(found) == np.sign(value)) & (abs(value) + error > (1 - rules.u) * rules.largest)
        )
    ratio = np.where(np.isinf(error) | is_allowed_overflow, 0.0, np.where(np.isnan(ratio), np.inf, ratio))
    return np.asarray(np.where(is_equal, 0.0, np.where(np.isfinite(value), ratio, np.inf)), np.float64)
