"""What generated kernels call, in addition to the elementary functions."""

from typing import Any

from numba.core import cgutils, types
from numba.extending import intrinsic

from deepnotes_numba import vectors

WIDEST = 64
"""No block has more samples."""


@intrinsic
def multiply_add(typingctx, a, b, c):
    """Return ``a b + c``, rounded once where the processor does that."""

    def generate(context, builder, signature, arguments):
        return vectors.multiply_add(builder, *arguments)

    return a(a, b, c), generate


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
