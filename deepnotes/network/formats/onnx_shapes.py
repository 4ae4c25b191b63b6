"""Shapes of values in an ONNX graph: one axis is the axis of samples, the others are the axes of features.

Only shapes are computed, not arrays: the elements of a sample keep their C order, so a shape fully describes the effect
of a Reshape, Squeeze or Transpose. An operation that would mix samples, repeat elements or change their order raises
:class:`Mismatch`.
"""

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

SAMPLES = None
"""Stands for the size of the axis of samples."""
UNKNOWN = 0
"""Stands for a size that the file does not specify."""
RANK = 64
"""The maximum number of axes of an array, as in NumPy."""


class Mismatch(Exception):
    """An operation is not applied to each sample separately. The message is a predicate, such as "joins samples"."""


class Shape(NamedTuple):
    """The shape of a value that contains samples.

    Attributes
    ----------
    sizes : tuple of int or None
        For each axis, its size or ``UNKNOWN``, but ``SAMPLES`` for the axis of samples.
    samples : int or None
        The number of samples, if the file specifies it.

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
        """The index of the axis of samples."""
        return self.sizes.index(SAMPLES)

    @property
    def features(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(n for n in self.sizes if n is not SAMPLES)

    @property
    def size(self) -> int:
        """The number of elements of a sample."""
        return prod(self.features)

    def _with(self, sizes: Sequence[int | None]) -> "Shape":
        """Return a shape with other sizes and the same number of samples."""
        if len(sizes) > RANK:
            raise Mismatch(f"has a result of {len(sizes):,} axes, wanted at most {RANK}")
        return self._replace(sizes=tuple(sizes))

    def softmax_over(self, axis: int) -> bool:
        """Return whether a softmax over `axis` is a softmax over all features of each sample."""
        axis = positive(axis, len(self.sizes))
        return axis != self.axis and all(n == 1 for i, n in enumerate(self.sizes) if i not in (axis, self.axis))

    def old_softmax_over(self, axis: int) -> bool:
        """Return whether a softmax over `axis` and all later axes, as before opset 13, is over all features."""
        axis = positive(axis, len(self.sizes))
        return self.axis < axis and all(n == 1 for n in self.sizes[:axis] if n is not SAMPLES)

    def transposed(self, perm: Sequence[int] | None) -> "Shape":
        """Return the shape with its axes permuted; the elements of a sample must keep their order."""
        rank = len(self.sizes)
        order = list(range(rank))[::-1] if perm is None else list(perm)
        if sorted(order) != list(range(rank)):
            raise Mismatch(f"has a perm that is not a permutation of {rank} axes")
        features = [i for i in order if self.sizes[i] not in (SAMPLES, 1)]
        if features != sorted(features):
            raise Mismatch("changes the order of numbers within a sample")
        return self._with([self.sizes[i] for i in order])

    def squeezed(self, axes: Sequence[int] | None) -> "Shape":
        """Return the shape without the given axes, which must have size 1."""
        if axes is None:
            raise Mismatch("names no axes, so with one sample it would also remove the axis of samples")
        removed = distinct(axes, len(self.sizes))
        if self.axis in removed:
            raise Mismatch("removes the axis of the samples")
        if any(self.sizes[i] != 1 for i in removed):
            raise Mismatch("changes the shape of samples")
        return self._with([n for i, n in enumerate(self.sizes) if i not in removed])

    def unsqueezed(self, axes: Sequence[int]) -> "Shape":
        """Return the shape with additional axes of size 1; `axes` are their positions in the result."""
        rank = len(self.sizes) + len(axes)
        if rank > RANK:
            raise Mismatch(f"has a result of {rank:,} axes, wanted at most {RANK}")
        new, old = distinct(axes, rank), iter(self.sizes)
        return self._with([1 if i in new else next(old) for i in range(rank)])

    def flattened(self, axis: int) -> "Shape":
        """Return the shape with two axes: one joins all axes before `axis`, the other joins `axis` and the rest."""
        axis = axis if axis == len(self.sizes) else positive(axis, len(self.sizes))
        groups = self.sizes[:axis], self.sizes[axis:]
        with_samples = next(group for group in groups if SAMPLES in group)
        if any(n not in (SAMPLES, 1) for n in with_samples):
            raise Mismatch("joins samples")
        return self._with([SAMPLES if group is with_samples else prod(n or 0 for n in group) for group in groups])

    def reshaped(self, target: Sequence[Any], allowzero: bool = False) -> "Shape":
        """Return the shape after a Reshape.

        Parameters
        ----------
        target : sequence of int or None
            As in ONNX, 0 means the size of the same axis before the Reshape, and -1 the remaining size. SAMPLES means
            the number of samples.
        allowzero : bool
            Whether 0 means a size of zero instead.
        """
        mismatch = Mismatch("changes the shape of samples")
        if len(target) > RANK or any(n is not SAMPLES and (not isinstance(n, int) or n < -1) for n in target):
            raise mismatch
        if 0 in target and (allowzero or any(n == 0 and i >= len(self.sizes) for i, n in enumerate(target))):
            raise mismatch
        sizes = [self.sizes[i] if n == 0 else n for i, n in enumerate(target)]
        if tuple(sizes) == self.sizes:
            return self
        if any(n != 1 for n in self.sizes[: self.axis]):
            raise Mismatch("changes the shape of a value with samples as columns")
        if sizes.count(-1) > 1 or sizes.count(SAMPLES) > 1:
            raise mismatch
        if SAMPLES not in sizes:
            sizes = self._with_samples(sizes)
        elif -1 in sizes:
            sizes[sizes.index(-1)] = self._remaining_size(sizes)
        axis = sizes.index(SAMPLES)
        size = prod(n or 0 for n in sizes[axis + 1 :])
        if any(n != 1 for n in sizes[:axis]) or (size and self.size and size != self.size):
            raise mismatch
        return self._with(sizes)

    def _remaining_size(self, sizes: list[int | None]) -> int:
        """Return the size that replaces -1 in `sizes`, which must contain SAMPLES."""
        others = prod(n for n in sizes if n not in (-1, SAMPLES))
        if others == 0 or self.size == 0:
            return UNKNOWN
        if self.size % others:
            raise Mismatch("changes the shape of samples")
        return self.size // others

    def _with_samples(self, sizes: list[int | None]) -> list[int | None]:
        """Return `sizes` with SAMPLES in place of the number of samples."""
        numbers = [n or 0 for n in sizes]
        if self.samples is None:  # -1 is the number of samples
            if -1 not in numbers:
                raise Mismatch("has a fixed number of samples, but the input may have any number")
            others = prod(n for n in numbers if n != -1)
            if self.size not in (others, UNKNOWN) or others == 0:
                raise Mismatch("changes the shape of samples")
            return [SAMPLES if n == -1 else n for n in numbers]
        if -1 in numbers:
            others = prod(n for n in numbers if n != -1)
            total = self.samples * self.size
            if not others or total % others:
                raise Mismatch("changes the shape of samples")
            numbers[numbers.index(-1)] = total // others  # UNKNOWN, which is 0, if the size of a sample is unknown
        for i, n in enumerate(numbers):
            if n == self.samples and prod(numbers[i + 1 :]) in (self.size, UNKNOWN):
                return [*numbers[:i], SAMPLES, *numbers[i + 1 :]]
            if n != 1:
                break
        raise Mismatch("changes the shape of samples")

    def with_constant(self, constant: tuple[int, ...]) -> tuple["Shape", tuple[int, ...]]:
        """Return the shape after an elementwise operation with a constant, and the constant's shape for one sample.

        Parameters
        ----------
        constant : tuple of int
            The shape of the constant.
        """
        rank = max(len(self.sizes), len(constant))
        padded_self = (1,) * (rank - len(self.sizes)) + self.sizes
        padded_constant = (1,) * (rank - len(constant)) + constant
        sizes, relative = list[int | None](), []
        for n, k in zip(padded_self, padded_constant, strict=True):
            fits = k == 1 if n is SAMPLES else k in (1, n) or n == UNKNOWN
            if not fits:
                reason = "differs between samples" if n is SAMPLES else f"does not fit samples of shape {self.features}"
                raise Mismatch(f"has a constant of shape {constant} that {reason}")
            sizes.append(k if n == UNKNOWN and k > 1 else n)
            if n is not SAMPLES:
                relative.append(k)
        return self._with(sizes), tuple(relative)

    def combined(self, other: "Shape") -> "Shape":
        """Return the shape of the sum of two values; they have equal shapes, or one has a single number per sample."""
        if self == other:
            return self
        if len(self.sizes) != len(other.sizes) or self.axis != other.axis or 1 not in (self.size, other.size):
            raise Mismatch(f"has operands of different shapes, {self.features} and {other.features} for each sample")
        return other if self.size == 1 else self

    def reduced(self, axis: int) -> "Shape":
        """Return the shape with size 1 along `axis`, as after a reduction with ``keepdims``."""
        axis = positive(axis, len(self.sizes))
        return self._with([1 if i == axis else n for i, n in enumerate(self.sizes)])

    def after_product(self, axis: int, inputs: int, outputs: int | None) -> "Shape":
        """Return the shape after a matrix product that maps `inputs` numbers along `axis` to `outputs` numbers.

        If `outputs` is None, the product is with a vector, which removes the axis.
        """
        axis = positive(axis, len(self.sizes))
        if axis == self.axis:
            raise Mismatch("sums over the samples")
        if any(n != 1 for i, n in enumerate(self.sizes) if i not in (axis, self.axis)):
            raise Mismatch(f"applies its weights several times to each sample, whose shape is {self.features}")
        if self.sizes[axis] not in (UNKNOWN, inputs):
            raise Mismatch(f"needs {inputs} numbers for each sample, but there are {self.sizes[axis]}")
        return self._with([*self.sizes[:axis], *([] if outputs is None else [outputs]), *self.sizes[axis + 1 :]])


def positive(axis: int, rank: int) -> int:
    """Return an axis as an index of at least 0; a negative axis counts from the end."""
    if not -rank <= axis < rank:
        raise Mismatch(f"has the axis {axis} for a value of {rank} axes")
    return axis % rank


def distinct(axes: Sequence[int], rank: int) -> set[int]:
    """Return axes as indices of at least 0; raise Mismatch if one occurs twice."""
    if len(axes) > RANK:
        raise Mismatch(f"names {len(axes):,} axes, wanted at most {RANK}")
    indices = {positive(int(axis), rank) for axis in axes}
    if len(indices) < len(axes):
        raise Mismatch("names an axis twice")
    return indices
