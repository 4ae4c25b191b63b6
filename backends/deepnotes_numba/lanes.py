"""Vectors of numbers that compiled functions use like numbers: an operation computes all lanes at once.

They hold one row of a block. The compiler could vectorise a loop over the row, too, but it does so only for loops that
are much longer, and computes shorter ones number by number.
"""

import operator
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel.models import PrimitiveModel
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, register_model

from deepnotes_numba import vectors

LANE = ir.IntType(32)
"""The type of the number of a lane."""


class Lanes(types.Type):
    """Some numbers, or as many conditions.

    Parameters
    ----------
    kind : numba type
        The type of a lane: float32, float64 or boolean.
    count : int
        The number of lanes.
    """

    def __init__(self, kind: Any, count: int) -> None:
        self.kind, self.count = kind, count
        super().__init__(name=f"Lanes({kind} x {count})")


LLVM_TYPES = {types.boolean: ir.IntType(1), types.float32: ir.FloatType(), types.float64: ir.DoubleType()}


@register_model(Lanes)
class LanesModel(PrimitiveModel):
    """Lanes are vectors of LLVM."""

    def __init__(self, manager: Any, kind: Lanes) -> None:
        super().__init__(manager, kind, ir.VectorType(LLVM_TYPES[kind.kind], kind.count))


def lanes_of(kind: Any) -> Lanes:
    """Return the type of lanes that fill two registers, for numbers of type float32 or float64."""
    return Lanes(kind, 2 * vectors.REGISTER * 8 // kind.bitwidth)


def few_lanes_of(kind: Any) -> Lanes:
    """Return the type of lanes that fill 16 bytes, the smallest registers of all processors."""
    return Lanes(kind, 128 // kind.bitwidth)


def conditions_of(kind: Any) -> Any:
    """Return the type of a comparison of two numbers, or of lanes."""
    return Lanes(types.boolean, kind.count) if isinstance(kind, Lanes) else types.boolean


def fill(kind: Any, value: float) -> Any:
    """Return a constant of an LLVM type, a number or a vector with that number in each lane."""
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


ARITHMETIC = {
    operator.add: ir.IRBuilder.fadd, operator.sub: ir.IRBuilder.fsub, operator.mul: ir.IRBuilder.fmul,
    operator.truediv: ir.IRBuilder.fdiv, operator.neg: ir.IRBuilder.fneg,
}  # fmt: skip
LOGICAL = {operator.and_: ir.IRBuilder.and_, operator.or_: ir.IRBuilder.or_, operator.xor: ir.IRBuilder.xor}
COMPARISONS = {
    operator.lt: "<", operator.le: "<=", operator.gt: ">", operator.ge: ">=", operator.eq: "==", operator.ne: "!=",
}  # fmt: skip
"""How LLVM computes each operator of Python that accepts lanes."""


def _define(operation: Any, build: Any) -> None:
    """Make an operator accept lanes."""
    arguments = 1 if operation is operator.neg else 2

    @infer_global(operation)
    class Operation(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            kind = args[0]
            if not isinstance(kind, Lanes) or args != (kind,) * arguments:
                return None
            if (kind.kind == types.boolean) != (operation in LOGICAL):
                return None
            return signature(conditions_of(kind) if operation in COMPARISONS else kind, *args)

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return build(builder, *values)

    lower_builtin(operation, *[Lanes] * arguments)(lower)


def _comparison(symbol: str) -> Any:
    """Return a function that builds a comparison; NaN differs from all numbers, and is neither less nor greater."""
    compare = ir.IRBuilder.fcmp_unordered if symbol == "!=" else ir.IRBuilder.fcmp_ordered
    return lambda builder, a, b: compare(builder, symbol, a, b)


for _operation, _build in (ARITHMETIC | LOGICAL).items():
    _define(_operation, _build)
for _operation, _symbol in COMPARISONS.items():
    _define(_operation, _comparison(_symbol))


def _elementary(name: str) -> Any:
    """Return a function of a number or of lanes that the compiler has."""

    @intrinsic
    def function(typingctx, x):
        def generate(context, builder, signature, arguments):
            return vectors.call_function(builder, name, arguments)

        return x(x), generate

    return function


absolute, square_root, nearest = _elementary("fabs"), _elementary("sqrt"), _elementary("rint")


@intrinsic
def where(typingctx, condition, a, b):
    """Return a where the condition is true, else b: numbers or lanes."""

    def generate(context, builder, signature, arguments):
        return builder.select(*arguments)

    return (a(condition, a, b), generate) if condition == conditions_of(a) and a == b else None


def _spread(lanes: Any) -> Any:
    """Return a function from a number to lanes that are all equal to it; `lanes` makes their type from its type."""

    @intrinsic
    def spread(typingctx, x):
        def generate(context, builder, signature, arguments):
            return vectors.broadcast(builder, arguments[0], signature.return_type.count)

        return lanes(x)(x), generate

    return spread


spread, spread_few = _spread(lanes_of), _spread(few_lanes_of)


@intrinsic
def first_lanes(typingctx, count, like):
    """Return the condition that is true in the first `count` lanes, for lanes such as `like`."""

    def generate(context, builder, signature, arguments):
        return vectors.mask_first(builder, arguments[0], signature.return_type.count)

    return conditions_of(like)(count, like), generate


@intrinsic
def load(typingctx, x, at, mask):
    """Return the numbers from x[at] on; x is an array in C order or a pointer.

    The mask is None, or the condition that selects the lanes to load: the others are 0, and their memory is not read.
    """

    def generate(context, builder, signature, arguments):
        place, align = _place(context, builder, signature, arguments[:2], signature.return_type)
        if signature.args[2] == types.none:
            return builder.load(place, align=align)
        return vectors.load_masked(builder, place, align, arguments[2])

    return lanes_of(x.dtype)(x, at, mask), generate


@intrinsic
def store(typingctx, x, at, value, mask):
    """Write lanes to x[at] and the elements after it; the arguments are those of :func:`load`."""

    def generate(context, builder, signature, arguments):
        place, align = _place(context, builder, signature, arguments[:2], signature.args[2])
        if signature.args[3] == types.none:
            builder.store(arguments[2], place, align=align)
        else:
            vectors.store_masked(builder, arguments[2], place, align, arguments[3])
        return context.get_dummy_value()

    return types.void(x, at, value, mask), generate


@intrinsic
def load_few(typingctx, x, at, count):
    """Return few lanes with the numbers from x[at] on, at least 1 and at most `count` of them; the other lanes are 0.

    A masked load or store of few lanes would take longer than these branches.
    """

    def generate(context, builder, signature, arguments):
        x, at, count = arguments
        place, align = _place(context, builder, signature, (x, at), signature.return_type)
        kind, lanes = place.type.pointee, signature.return_type.count
        result = cgutils.alloca_once(builder, kind)
        with builder.if_else(_at_least(builder, count, lanes)) as (all_lanes, some):
            with all_lanes:
                builder.store(builder.load(place, align=align), result)
            with some:
                number = vectors.pointer_to_element(context, builder, signature.args[0], x, at)
                builder.store(builder.insert_element(fill(kind, 0.0), builder.load(number), LANE(0)), result)
                for lane in range(1, lanes - 1):
                    with builder.if_then(_at_least(builder, count, lane + 1)):
                        element = builder.load(builder.gep(number, [vectors.WORD(lane)]))
                        builder.store(builder.insert_element(builder.load(result), element, LANE(lane)), result)
        return builder.load(result)

    return few_lanes_of(x.dtype)(x, at, count), generate


@intrinsic
def store_few(typingctx, x, at, value, count):
    """Write the first of few lanes to x[at] and the elements after it, at least 1 and at most `count` of them."""

    def generate(context, builder, signature, arguments):
        x, at, value, count = arguments
        place, align = _place(context, builder, signature, (x, at), signature.args[2])
        lanes = signature.args[2].count
        with builder.if_else(_at_least(builder, count, lanes)) as (all_lanes, some):
            with all_lanes:
                builder.store(value, place, align=align)
            with some:
                number = vectors.pointer_to_element(context, builder, signature.args[0], x, at)
                builder.store(builder.extract_element(value, LANE(0)), number)
                for lane in range(1, lanes - 1):
                    with builder.if_then(_at_least(builder, count, lane + 1)):
                        address = builder.gep(number, [vectors.WORD(lane)])
                        builder.store(builder.extract_element(value, LANE(lane)), address)
        return context.get_dummy_value()

    return types.void(x, at, value, count), generate


def _at_least(builder: Any, count: Any, least: int) -> Any:
    """Build the comparison of an integer with another one."""
    return builder.icmp_signed(">=", count, vectors.WORD(least))


def _place(context: Any, builder: Any, signature: Any, arguments: Any, lanes: Lanes) -> tuple[Any, int]:
    """Build the address of lanes in memory; also return the alignment of a number."""
    number = vectors.pointer_to_element(context, builder, signature.args[0], *arguments)
    kind = context.get_value_type(lanes)
    return builder.bitcast(number, kind.as_pointer()), lanes.kind.bitwidth // 8
