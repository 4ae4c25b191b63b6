"""Arrays by address. A read-only array has a type of its own in Numba, and would be compiled for anew."""

from numba.extending import intrinsic

from deepnotes_numba.compiling import jit, numba

carray, types = numba.carray, numba.types


@intrinsic
def _pointer(typing, address):
    """Return an integer as a pointer."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(address), generate


@jit
def matrix_at(address, shape, like):
    """Return the C-ordered matrix at an address, of the dtype of `like`; whoever calls keeps its memory alive."""
    return carray(_pointer(address), shape, like.dtype)
