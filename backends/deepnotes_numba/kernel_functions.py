"""Functions that generated kernels call, in addition to the elementary ones."""

from typing import Any

from numba.core import cgutils, types
from numba.extending import intrinsic

from deepnotes_numba import vectors
from deepnotes_numba.compiling import inline_code
from deepnotes_numba.elementary import INFINITY, ONE, constant, exp, expm1, log

WIDEST = 64
"""No block has more samples."""
EXACT = constant(40.0, 40.0)  # from there on, e^x - 1 rounds to e^x


@intrinsic
def multiply_add(typingctx, a, b, c):
    """Return ``a b + c``, rounded once where the processor does that."""

    def generate(context, builder, signature, arguments):
        return vectors.multiply_add(builder, *arguments)

    return a(a, b, c), generate


@inline_code
def any_expm1(x):
    """Return ``e^x - 1`` for any x."""
    small = expm1(x if x < EXACT(x) else EXACT(x))
    return small if x < EXACT(x) else exp(x)


@inline_code
def any_log1p(x):
    """Return ``log(1 + x)`` for any x, corrected to first order for the rounding of ``1 + x``."""
    w = ONE(x) + x
    y = log(w)
    y = y + (x - (w - ONE(x))) / w if x > -ONE(x) and x < INFINITY(x) else y
    return x if w == ONE(x) else y  # zeros of both signs as well


def elements_of(kind: Any) -> Any:
    """Return a function from an address to a pointer to numbers of a type."""

    @intrinsic
    def elements_at(typingctx, address):
        def generate(context, builder, signature, arguments):
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(kind)(address), generate

    return elements_at


def rows_of(kind: Any) -> Any:
    """Return a function that reserves a row of numbers on the stack."""

    @intrinsic
    def row_of(typingctx):
        def generate(context, builder, signature, arguments):
            return cgutils.alloca_once(builder, context.get_data_type(kind), WIDEST)

        return types.CPointer(kind)(), generate

    return row_of
