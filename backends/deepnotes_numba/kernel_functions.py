"""What generated kernels call, in addition to the elementary functions."""

from typing import Any

from numba.core import types
from numba.extending import intrinsic

from deepnotes_numba import vectors
from deepnotes_numba.compiling import inline_code
from deepnotes_numba.elementary import ONE, ZERO
from deepnotes_numba.lanes import where


@intrinsic
def multiply_add(typingctx, a, b, c):
    """Return ``a b + c``, rounded once where the processor does that."""

    def generate(context, builder, signature, arguments):
        return vectors.multiply_add(builder, *arguments)

    return a(a, b, c), generate


@inline_code
def maximum(a, b):
    """Return the greater one of two numbers, or NaN if one of them is NaN."""
    return where((a > b) | (a != a), a, b)


@inline_code
def minimum(a, b):
    """Return the smaller one of two numbers, or NaN if one of them is NaN."""
    return where((a < b) | (a != a), a, b)


@inline_code
def sign(x):
    """Return 1 or -1, by the sign of x; 0 for zeros of both signs, and NaN for NaN."""
    return where(x > ZERO(x), ONE(x), where(x < ZERO(x), -ONE(x), x + ZERO(x)))


def elements_of(kind: Any) -> Any:
    """Return a function from an address to a pointer to numbers of a type."""

    @intrinsic
    def elements_at(typingctx, address):
        def generate(context, builder, signature, arguments):
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(kind)(address), generate

    return elements_at
