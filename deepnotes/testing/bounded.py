"""An array whose elements carry a bound of their error; :mod:`deepnotes.testing.bounds` has the rules it follows."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from deepnotes.testing.bounds import Rules


class BoundedArray:
    """Values, and how far a backend's may be from them; see :class:`Rules`.

    Attributes
    ----------
    value : ndarray
        Wider than the dtype that it stands for; int64 and bool as they are.
    error : ndarray of float64
        Of the same shape; 1 where a bool may as well be the other.
    """

    __slots__ = ("error", "rules", "value")
    __array_ufunc__ = None  # NumPy's operators leave it to the ones here

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
        """The dtype that it stands for."""
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
        return self.rules.add(self, -self.rules.lift(other, self))

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
        return self.rules.exact(self.value & self.rules.lift(other, self).value)

    def __xor__(self, other: Any) -> "BoundedArray":
        return self.rules.exact(self.value ^ self.rules.lift(other, self).value)

    def __lshift__(self, other: Any) -> "BoundedArray":
        return self.rules.exact(self.value << self.rules.lift(other, self).value)

    def __rshift__(self, other: Any) -> "BoundedArray":
        return self.rules.exact(self.value >> self.rules.lift(other, self).value)

    __radd__, __rmul__ = __add__, __mul__
