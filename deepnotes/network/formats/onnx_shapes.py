"""Shapes of values in an ONNX graph: one axis counts the samples, and the others hold the numbers of each sample.

No array is moved: the numbers of a sample keep their C order, so a shape fully describes the effect of a Reshape,
Squeeze or Transpose. An operation that would mix samples, repeat numbers or change their order is a :class:`Mismatch`.
"""

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

SAMPLES = None
"""In a shape: the axis of the samples."""
UNKNOWN = 0
"""In a shape: a size that the file does not state."""
RANK = 64
"""The largest number of axes of an array, as in NumPy."""


class Mismatch(Exception):
    """An operation does not treat its input as samples of features; the message says what it does instead."""


class Shape(NamedTuple):
    """The shape of a value that holds samples.

    Attributes
    ----------
    sizes : tuple of int or None
        ``SAMPLES`` once, sizes, or ``UNKNOWN``.
    samples : int or None
        The number of samples, if the file fixes it.

    Examples
    --------
    >>> Shape((SAMPLES, 2, 3)).reshaped([0, -1]).sizes
    (None, 6)
    >>> Shape((SAMPLES, 1)).squeezed([-1]).softmax_over(-1)
    False
    """

    sizes: tuple[int | None, ...]
    samples: int | None = None

    @property
    def axis(self) -> int:
        """The axis of the samples."""
        return self.sizes.index(SAMPLES)

    @property
    def features(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(n for n in self.sizes if n is not SAMPLES)

    @property
    def size(self) -> int:
        """The number of numbers in a sample."""
        return prod(self.features)

    def _with(self, sizes: Sequence[int | None]) -> "Shape":
        if len(sizes) > RANK:
            raise Mismatch(f"makes {len(sizes):,} axes, and at most {RANK} are read")
        return self._replace(sizes=tuple(sizes))

    def softmax_over(self, axis: int) -> bool:
        """Return whether a sum over an axis is the sum over all features of each sample."""
        axis = positive(axis, len(self.sizes))
        return axis != self.axis and all(n == 1 for i, n in enumerate(self.sizes) if i not in (axis, self.axis))

    def old_softmax_over(self, axis: int) -> bool:
        """Return the same for a sum over an axis and all later ones, as before opset 13."""
        axis = positive(axis, len(self.sizes))
        return self.axis < axis and all(n == 1 for n in self.sizes[:axis] if n is not SAMPLES)

    def transposed(self, perm: Sequence[int] | None) -> "Shape":
        """Return the shape with its axes permuted; the numbers of a sample must keep their order."""
        rank = len(self.sizes)
        order = list(range(rank))[::-1] if perm is None else list(perm)
        if sorted(order) != list(range(rank)):
            raise Mismatch(f"has an order of axes that does not fit {rank} of them")
        kept = [i for i in order if self.sizes[i] not in (SAMPLES, 1)]
        if kept != sorted(kept):
            raise Mismatch("changes the order of numbers within a sample")
        return self._with([self.sizes[i] for i in order])

    def squeezed(self, axes: Sequence[int] | None) -> "Shape":
        """Return the shape without some axes of size 1."""
        if axes is None:
            raise Mismatch("names no axes, so that a single sample would lose its own")
        gone = distinct(axes, len(self.sizes))
        if self.axis in gone:
            raise Mismatch("removes the axis of the samples")
        if any(self.sizes[i] != 1 for i in gone):
            raise Mismatch("changes the shape of samples")
        return self._with([n for i, n in enumerate(self.sizes) if i not in gone])

    def unsqueezed(self, axes: Sequence[int]) -> "Shape":
        """Return the shape with additional axes of size 1, at these positions in the result."""
        rank = len(self.sizes) + len(axes)
        if rank > RANK:
            raise Mismatch(f"makes {rank:,} axes, and at most {RANK} are read")
        new, old = distinct(axes, rank), iter(self.sizes)
        return self._with([1 if i in new else next(old) for i in range(rank)])

    def flattened(self, axis: int) -> "Shape":
        """Return the shape with two axes: those before `axis` joined into one, all others into another."""
        axis = axis if axis == len(self.sizes) else positive(axis, len(self.sizes))
        halves = self.sizes[:axis], self.sizes[axis:]
        own = next(half for half in halves if SAMPLES in half)
        if any(n not in (SAMPLES, 1) for n in own):
            raise Mismatch("joins samples")
        return self._with([SAMPLES if half is own else prod(n or 0 for n in half) for half in halves])

    def reshaped(self, target: Sequence[Any], allowzero: bool = False) -> "Shape":
        """Return the shape after a Reshape.

        Parameters
        ----------
        target : sequence of int or None
            As in ONNX: 0 copies a size, -1 stands for the remaining size; SAMPLES for the number of samples.
        allowzero : bool
            Whether 0 means a size of 0 instead.
        """
        changes = Mismatch("changes the shape of samples")
        if len(target) > RANK or any(n is not SAMPLES and (not isinstance(n, int) or n < -1) for n in target):
            raise changes
        if 0 in target and (allowzero or any(n == 0 and i >= len(self.sizes) for i, n in enumerate(target))):
            raise changes
        sizes = [self.sizes[i] if n == 0 else n for i, n in enumerate(target)]
        if tuple(sizes) == self.sizes:
            return self
        if any(n != 1 for n in self.sizes[: self.axis]):
            raise Mismatch("changes the shape of what has samples as columns")
        if sizes.count(-1) > 1 or sizes.count(SAMPLES) > 1:
            raise changes
        if SAMPLES not in sizes:
            sizes = self._with_samples(sizes)
        elif -1 in sizes:
            sizes[sizes.index(-1)] = self._left(sizes)
        at = sizes.index(SAMPLES)
        size = prod(n or 0 for n in sizes[at + 1 :])
        if any(n != 1 for n in sizes[:at]) or (size and self.size and size != self.size):
            raise changes
        return self._with(sizes)

    def _left(self, sizes: list[int | None]) -> int:
        """Return the size that -1 stands for, next to an axis of samples."""
        others = prod(n for n in sizes if n not in (-1, SAMPLES))
        if others == 0 or self.size == 0:
            return UNKNOWN
        if self.size % others:
            raise Mismatch("changes the shape of samples")
        return self.size // others

    def _with_samples(self, sizes: list[int | None]) -> list[int | None]:
        """Return the sizes with the axis of the samples marked."""
        numbers = [n or 0 for n in sizes]
        if self.samples is None:  # whatever the number of samples is, -1 stands for it
            if -1 not in numbers:
                raise Mismatch("fixes the number of samples, which the input leaves open")
            others = prod(n for n in numbers if n != -1)
            if self.size not in (others, UNKNOWN) or others == 0:
                raise Mismatch("changes the shape of samples")
            return [SAMPLES if n == -1 else n for n in numbers]
        if -1 in numbers:
            others = prod(n for n in numbers if n != -1)
            total = self.samples * self.size
            if not others or total % others:
                raise Mismatch("changes the shape of samples")
            numbers[numbers.index(-1)] = total // others  # 0 if the size of a sample is not known
        for i, n in enumerate(numbers):
            if n == self.samples and prod(numbers[i + 1 :]) in (self.size, UNKNOWN):
                return [*numbers[:i], SAMPLES, *numbers[i + 1 :]]
            if n != 1:
                break
        raise Mismatch("changes the shape of samples")

    def with_constant(self, of: tuple[int, ...]) -> tuple["Shape", tuple[int, ...]]:
        """Return the shape after an operation with a constant, and the constant's shape relative to one sample."""
        rank = max(len(self.sizes), len(of))
        mine = (1,) * (rank - len(self.sizes)) + self.sizes
        theirs = (1,) * (rank - len(of)) + of
        made, beside = list[int | None](), []
        for n, k in zip(mine, theirs, strict=True):
            fits = k == 1 if n is SAMPLES else k in (1, n) or n == UNKNOWN
            if not fits:
                why = "differs between samples" if n is SAMPLES else f"does not fit samples of shape {self.features}"
                raise Mismatch(f"has a constant of shape {of} that {why}")
            made.append(k if n == UNKNOWN and k > 1 else n)
            if n is not SAMPLES:
                beside.append(k)
        return self._with(made), tuple(beside)

    def beside(self, other: "Shape") -> "Shape":
        """Return the shape of the sum of two values, of which one may have a single number for each sample."""
        if self == other:
            return self
        if len(self.sizes) != len(other.sizes) or self.axis != other.axis or 1 not in (self.size, other.size):
            raise Mismatch(f"takes values of different shapes, {self.features} and {other.features} for each sample")
        return other if self.size == 1 else self

    def reduced(self, axis: int) -> "Shape":
        """Return the shape with size 1 along an axis."""
        axis = positive(axis, len(self.sizes))
        return self._with([1 if i == axis else n for i, n in enumerate(self.sizes)])

    def after_product(self, axis: int, given: int, made: int | None) -> "Shape":
        """Return the shape after a product with a matrix that maps `given` numbers along an axis to `made` numbers.

        If `made` is None, the matrix is a vector, and the axis is removed.
        """
        axis = positive(axis, len(self.sizes))
        if axis == self.axis:
            raise Mismatch("sums over the samples")
        if any(n != 1 for i, n in enumerate(self.sizes) if i not in (axis, self.axis)):
            raise Mismatch(f"uses its weights several times for each sample, whose shape is {self.features}")
        if self.sizes[axis] not in (UNKNOWN, given):
            raise Mismatch(f"takes {given} numbers of each sample, and is given {self.sizes[axis]}")
        return self._with([*self.sizes[:axis], *([] if made is None else [made]), *self.sizes[axis + 1 :]])


def positive(axis: int, rank: int) -> int:
    """Return an axis as an index from 0; negative ones count from the last."""
    if not -rank <= axis < rank:
        raise Mismatch(f"has the axis {axis} of a value of {rank} axes")
    return axis % rank


def distinct(axes: Sequence[int], rank: int) -> set[int]:
    """Return axes as indices from 0, or raise Mismatch if one occurs twice."""
    if len(axes) > RANK:
        raise Mismatch(f"has {len(axes):,} axes, and at most {RANK} are read")
    found = {positive(int(axis), rank) for axis in axes}
    if len(found) < len(axes):
        raise Mismatch("names an axis twice")
    return found
