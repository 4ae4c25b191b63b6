"""Operations that Python cannot express: views without reference counts, and operations on vector registers.

The intrinsics build LLVM instructions, which Numba compiles. A *block* is a matrix of S columns in C order; S elements
fill two registers, and ``block(x)`` returns S for the dtype of x.
"""

from itertools import chain
from platform import machine

from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from deepnotes_numba.compiling import jit, numba

carray = numba.carray


def _has(feature):
    """Return whether an x86 processor has a feature, according to Numba's setting or, without it, to the processor."""
    if numba.config.CPU_FEATURES is not None:
        return f"+{feature}" in numba.config.CPU_FEATURES
    return binding.get_host_cpu_features().get(feature, False)


FUSED = _has("fma") or machine() not in {"x86_64", "AMD64"}
"""Whether the processor can compute ``a b + c`` with one rounding; all current processors can, except some x86 ones."""
WIDE = _has("avx512f")
REGISTER = 64 if WIDE else 32
"""The number of bytes in a vector register; wider registers of the processor are not used."""
ROWS = 8 if WIDE else 6
"""The number of rows in a full tile of a product: the processor has two registers for each row."""
WORD = ir.IntType(64)


def _lanes(kind):
    """Return the number of elements that fit in a register, for an array type."""
    return REGISTER * 8 // kind.dtype.bitwidth


def pointer_to_element(context, builder, kind, x, at):
    """Build the address of element number `at`, counted from a pointer or from the start of an array in C order."""
    if not isinstance(kind, types.CPointer):
        x = context.make_array(kind)(context, builder, x).data
    return builder.gep(x, [at])


def multiply_add(builder, a, b, c):
    """Build ``a b + c`` for numbers or registers, with one rounding if the processor can."""
    return call_function(builder, "fma", [a, b, c]) if FUSED else builder.fadd(builder.fmul(a, b), c)


def call_function(builder, name, arguments):
    """Build the call of a function of LLVM that takes and returns numbers, or registers."""
    kind = arguments[0].type
    function = ir.FunctionType(kind, [kind] * len(arguments))
    return builder.call(builder.module.declare_intrinsic(f"llvm.{name}.{_name(kind)}", fnty=function), arguments)


def _name(kind):
    """Return the name of a type, as it ends the names of LLVM's functions."""
    return f"v{kind.count}{kind.element.intrinsic_name}" if isinstance(kind, ir.VectorType) else kind.intrinsic_name


@intrinsic
def block(typingctx, x):
    """Return S, the number of columns of a block with x's dtype; it is a constant in the compiled code."""

    def generate(context, builder, signature, arguments):
        return WORD(2 * _lanes(signature.args[0]))

    return types.intp(x), generate


@intrinsic
def pointer(typingctx, x, at):
    """Return the address of x[at]; an address takes one word as an argument, and an array takes seven or more."""

    def generate(context, builder, signature, arguments):
        return pointer_to_element(context, builder, signature.args[0], *arguments)

    return types.CPointer(x.dtype)(x, types.intp), generate


@intrinsic
def scratch(typingctx, like):
    """Return the address of memory for one tile of a product, allocated on the stack of the caller."""

    def generate(context, builder, signature, arguments):
        number = context.get_data_type(signature.args[0].dtype)
        return cgutils.alloca_once(builder, number, ROWS * 2 * _lanes(signature.args[0]))

    return types.CPointer(like.dtype)(like), generate


@intrinsic
def doubles(typingctx):
    """Return the address of memory for 16 numbers in double precision, allocated on the stack of the caller."""

    def generate(context, builder, signature, arguments):
        return cgutils.alloca_once(builder, ir.DoubleType(), 16)

    return types.CPointer(types.float64)(), generate


@intrinsic
def pointer_to(typingctx, address, like):
    """Convert an address, an integer, to a pointer to numbers with the dtype of `like`."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(address, like), generate


@intrinsic
def prefetch(typingctx, x, at):
    """Prefetch the cache line of x[at]; any address is allowed."""

    def generate(context, builder, signature, arguments):
        address = pointer_to_element(context, builder, signature.args[0], *arguments)
        word = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [address.type, word, word, word])
        function = builder.module.declare_intrinsic("llvm.prefetch.p0", fnty=kind)
        builder.call(
            function, [address, word(0), word(3), word(1)]
        )  # prefetch data, for reading, into all levels of cache
        return context.get_dummy_value()

    return types.void(x, types.intp), generate


@intrinsic
def as_of(typingctx, value, x):
    """Convert a number to the dtype of x."""

    def generate(context, builder, signature, arguments):
        return context.cast(builder, arguments[0], signature.args[0], signature.return_type)

    return x.dtype(value, x), generate


@jit
def view(x, at, n):
    """Return ``x[at : at + n]`` without touching a reference count; the caller keeps the memory alive."""
    return carray(pointer(x, at), (n,))


@jit
def matrix(x, at, n, m):
    """Return ``x[at : at + n * m]`` with the shape (n, m), as :func:`view` does."""
    return carray(pointer(x, at), (n, m))


@jit
def view_vector(x):
    """Return a vector as :func:`view` does: counting references takes time at each access."""
    return view(x, 0, x.shape[0])


@jit
def view_matrix(x):
    """Return a matrix as :func:`view` does."""
    return matrix(x, 0, x.shape[0], x.shape[1])


@jit
def matrix_at(address, shape, like):
    """Return the matrix in C order at an address, with the dtype of `like`.

    Matrices are passed by address, since Numba would compile separate functions for read-only arrays.
    """
    return carray(pointer_to(address, like), shape)


def _tile(rows, registers):
    """Return a function that computes a tile of a product: some rows, and columns that fill one or two registers."""

    @intrinsic
    def tile(typingctx, W, factor, A, a, out, tile, extent):
        """Write the sums ``Σ W[r, p] A[p, :]`` over p, for each row r, to a tile of `out`.

        W[r, p] is at ``W[factor.start + r factor.row + p factor.column]``, and A begins at offset `a`. Each sum has
        `extent.repeats` parts of `extent.terms` terms. From part to part, the position moves by `factor.repeat`
        elements in W, and by `extent.terms` rows in A. See :class:`Tile` and :class:`Sum` for the other fields.
        """

        def generate(context, builder, signature, arguments):
            W, factor, A, a, out, tile, extent = arguments
            w, w_row, w_column, w_repeat = cgutils.unpack_tuple(builder, factor)
            o, o_row, columns = cgutils.unpack_tuple(builder, tile)
            terms, repeats, start, b = cgutils.unpack_tuple(builder, extent)
            kinds = signature.args
            lanes = _lanes(kinds[0])
            register = ir.VectorType(context.get_data_type(kinds[0].dtype), lanes)
            align = kinds[0].dtype.bitwidth // 8
            weights, begin = (pointer_to_element(context, builder, kinds[0], W, at) for at in (w, b))
            panel = pointer_to_element(context, builder, kinds[2], A, a)
            first = pointer_to_element(context, builder, kinds[4], out, o)

            sums = [[cgutils.alloca_once(builder, register) for _ in range(registers)] for _ in range(rows)]
            out_rows = [builder.gep(first, [builder.mul(o_row, WORD(r))]) for r in range(rows)]
            _initialize(builder, sums, start, out_rows, begin)

            with cgutils.for_range(builder, repeats) as repeat:
                part_weights = builder.gep(weights, [builder.mul(repeat.index, w_repeat)])
                part_panel = builder.gep(panel, [builder.mul(repeat.index, builder.mul(terms, WORD(2 * lanes)))])
                lines = [builder.gep(part_weights, [builder.mul(w_row, WORD(r))]) for r in range(rows)]
                with cgutils.for_range(builder, terms) as term:
                    row = builder.gep(part_panel, [builder.mul(term.index, WORD(2 * lanes))])
                    across = builder.mul(term.index, w_column)
                    halves = [
                        builder.load(_part(builder, row, half, register), align=align) for half in range(registers)
                    ]
                    for line, totals in zip(lines, sums, strict=True):
                        weight = broadcast(builder, builder.load(builder.gep(line, [across])), lanes)
                        for values, total in zip(halves, totals, strict=True):
                            builder.store(multiply_add(builder, weight, values, builder.load(total)), total)
            _store_tile(builder, sums, out_rows, columns)
            return context.get_dummy_value()

        return types.void(W, factor, A, types.intp, out, tile, extent), generate

    return tile


def _part(builder, row, half, register):
    """Build the address of the first (`half` 0) or second (`half` 1) register of a row."""
    return builder.bitcast(builder.gep(row, [WORD(half * register.count)]), register.as_pointer())


def _initialize(builder, sums, start, out_rows, biases):
    """Build the initial values of the sums: zero, the current results if `start` is 1, or the biases if it is 2."""
    register = sums[0][0].type.pointee
    align, lanes = _alignment(register), register.count
    for total in chain(*sums):
        builder.store(ir.Constant(register, [0.0] * lanes), total)
    with builder.if_then(builder.icmp_signed("==", start, WORD(1))):
        for row, totals in zip(out_rows, sums, strict=True):
            for half, total in enumerate(totals):
                builder.store(builder.load(_part(builder, row, half, register), align=align), total)
    with builder.if_then(builder.icmp_signed("==", start, WORD(2))):
        for r, totals in enumerate(sums):
            bias = builder.load(builder.gep(biases, [WORD(r)]))
            for total in totals:
                builder.store(broadcast(builder, bias, lanes), total)


def _store_tile(builder, sums, out_rows, columns):
    """Build the stores of a tile's sums: all, or the first `columns` of each row if that is fewer."""
    register = sums[0][0].type.pointee
    align, lanes = _alignment(register), register.count
    fewer = builder.icmp_signed("<", columns, WORD(len(sums[0]) * lanes))
    with builder.if_else(fewer) as (narrow, full):
        with narrow:
            for half in range(len(sums[0])):
                mask = mask_first(builder, builder.sub(columns, WORD(half * lanes)), lanes)
                for row, totals in zip(out_rows, sums, strict=True):
                    address = _part(builder, row, half, register)
                    store_masked(builder, builder.load(totals[half]), address, align, mask)
        with full:
            for row, totals in zip(out_rows, sums, strict=True):
                for half, total in enumerate(totals):
                    builder.store(builder.load(total), _part(builder, row, half, register), align=align)


def _alignment(register):
    """Return the number of bytes in one element of a register."""
    return 4 if isinstance(register.element, ir.FloatType) else 8


def broadcast(builder, x, lanes):
    """Build a register with x in each of its lanes."""
    first = builder.insert_element(ir.Constant(ir.VectorType(x.type, lanes), ir.Undefined), x, ir.IntType(32)(0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes))


def mask_first(builder, count, lanes):
    """Build a mask that selects the first `count` lanes."""
    numbers = ir.Constant(ir.VectorType(WORD, lanes), list(range(lanes)))
    return builder.icmp_signed("<", numbers, broadcast(builder, count, lanes))


def load_masked(builder, pointer, align, mask):
    """Build the load of those lanes that the mask selects; the others are 0."""
    kind = pointer.type.pointee
    parameters = [pointer.type, ir.IntType(32), mask.type, kind]
    load = builder.module.declare_intrinsic(
        f"llvm.masked.load.{_name(kind)}.p0", fnty=ir.FunctionType(kind, parameters)
    )
    return builder.call(load, [pointer, ir.IntType(32)(align), mask, ir.Constant(kind, [0.0] * kind.count)])


def store_masked(builder, x, pointer, align, mask):
    """Build the store of those lanes of x that the mask selects."""
    parameters = [x.type, pointer.type, ir.IntType(32), mask.type]
    name, kind = f"llvm.masked.store.{_name(x.type)}.p0", ir.FunctionType(ir.VoidType(), parameters)
    builder.call(builder.module.declare_intrinsic(name, fnty=kind), [x, pointer, ir.IntType(32)(align), mask])


tile_full, tile4, tile2, tile1 = (_tile(rows, 2) for rows in (ROWS, 4, 2, 1))
narrow_full, narrow4, narrow2, narrow1 = (_tile(rows, 1) for rows in (ROWS, 4, 2, 1))


def _sums(rows):
    """Return a function that computes the sums of some rows over blocks."""

    @intrinsic
    def sums(typingctx, x, at, step, repeats, out, o):
        """Write the sums of the rows from x[at] on, over `repeats` blocks that are `step` apart, to ``out[o:]``."""

        def generate(context, builder, signature, arguments):
            x, at, step, repeats, out, o = arguments
            lanes = _lanes(signature.args[0])
            number = context.get_data_type(signature.args[0].dtype)
            register = ir.VectorType(number, lanes)
            align = signature.args[0].dtype.bitwidth // 8
            begin = pointer_to_element(context, builder, signature.args[0], x, at)
            results = pointer_to_element(context, builder, signature.args[4], out, o)
            totals = [cgutils.alloca_once(builder, register) for _ in range(rows)]
            for r in range(rows):
                builder.store(ir.Constant(register, [0.0] * lanes), totals[r])
            with cgutils.for_range(builder, repeats) as repeat:
                block_start = builder.gep(begin, [builder.mul(repeat.index, step)])
                for r in range(rows):
                    for half in range(2):
                        pointer = builder.gep(block_start, [WORD((2 * r + half) * lanes)])
                        part = builder.load(builder.bitcast(pointer, register.as_pointer()), align=align)
                        builder.store(builder.fadd(builder.load(totals[r]), part), totals[r])
            folded = _fold_rows(builder, [builder.load(total) for total in totals])
            for i, part in enumerate(folded):
                place = builder.gep(results, [WORD(i * part.type.count)])
                builder.store(part, builder.bitcast(place, part.type.as_pointer()), align=align)
            return context.get_dummy_value()

        return types.void(x, *[types.intp] * 3, out, types.intp), generate

    return sums


sums8, sums1 = _sums(8), _sums(1)


def _dots(rows):
    """Return a function that computes the dot products of some rows with one vector."""

    @intrinsic
    def dots(typingctx, W, w, step, x, at, registers, out, o, b):  # noqa: PLR0913 - a tuple would take longer to compile
        """Write ``W[b + r] + Σ W[w + r step + p] x[at + p]`` to out[o + r], for the p in `registers` registers."""

        def generate(context, builder, signature, arguments):
            W, w, step, x, at, registers, out, o, b = arguments
            kinds = signature.args
            lanes, align = _lanes(kinds[0]), kinds[0].dtype.bitwidth // 8
            number = context.get_data_type(kinds[0].dtype)
            register = ir.VectorType(number, lanes)
            begin, biases = (pointer_to_element(context, builder, kinds[0], W, start) for start in (w, b))
            vector = pointer_to_element(context, builder, kinds[3], x, at)
            results = pointer_to_element(context, builder, kinds[6], out, o)
            lines = [builder.gep(begin, [builder.mul(step, WORD(r))]) for r in range(rows)]
            totals = [cgutils.alloca_once(builder, register) for _ in range(rows)]
            for r in range(rows):
                builder.store(ir.Constant(register, [0.0] * lanes), totals[r])

            def load(start, offset):
                return builder.load(builder.bitcast(builder.gep(start, [offset]), register.as_pointer()), align=align)

            with cgutils.for_range(builder, registers) as part:
                offset = builder.mul(part.index, WORD(lanes))
                factor = load(vector, offset)
                for r in range(rows):
                    total = multiply_add(builder, load(lines[r], offset), factor, builder.load(totals[r]))
                    builder.store(total, totals[r])
            for r in range(rows):
                total = _fold(builder, builder.load(totals[r]), lanes)
                bias = builder.load(builder.gep(biases, [WORD(r)]))
                builder.store(builder.fadd(bias, total), builder.gep(results, [WORD(r)]))
            return context.get_dummy_value()

        return types.void(W, *[types.intp] * 2, x, *[types.intp] * 2, out, *[types.intp] * 2), generate

    return dots


def _fold(builder, x, lanes):
    """Build the sum of a register's lanes, adding the upper half to the lower half until one lane is left."""
    half = lanes // 2
    while half:
        mask = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [(c + half) % lanes for c in range(lanes)])
        x = builder.fadd(x, builder.shuffle_vector(x, x, mask))
        half //= 2
    return builder.extract_element(x, ir.IntType(32)(0))


def _fold_rows(builder, rows):
    """Build the sums of the lanes of several registers, 2^n of them, as `_fold` adds them; return registers of sums."""
    lanes = rows[0].type.count  # that belong to one sum
    while lanes > 1:
        pairs = zip(rows[::2], rows[1::2], strict=True) if len(rows) > 1 else [(rows[0], None)]
        rows = [_add_halves(builder, one, other, lanes) for one, other in pairs]
        lanes //= 2
    return rows


def _add_halves(builder, one, other, lanes):
    """Build the sums of the lower and the upper half of each group of lanes, of one register or of two."""
    starts = range(0, one.type.count * (1 if other is None else 2), lanes)
    low, high = (
        builder.shuffle_vector(
            one, one if other is None else other, ir.Constant(ir.VectorType(ir.IntType(32), len(c)), c)
        )
        for c in ([start + half + i for start in starts for i in range(lanes // 2)] for half in (0, lanes // 2))
    )
    return builder.fadd(low, high)


dots8, dots1 = _dots(8), _dots(1)


@intrinsic
def squares(typingctx, x, at, registers):
    """Return the sum of the squares of the elements in `registers` registers, from x[at] on, summed lane by lane."""

    def generate(context, builder, signature, arguments):
        x, at, registers = arguments
        lanes, align = _lanes(signature.args[0]), signature.args[0].dtype.bitwidth // 8
        register = ir.VectorType(context.get_data_type(signature.args[0].dtype), lanes)
        begin = pointer_to_element(context, builder, signature.args[0], x, at)
        totals = [cgutils.alloca_once(builder, register) for _ in range(4)]
        for total in totals:
            builder.store(ir.Constant(register, [0.0] * lanes), total)

        def add(number, total):
            address = builder.gep(begin, [builder.mul(number, WORD(lanes))])
            values = builder.load(builder.bitcast(address, register.as_pointer()), align=align)
            builder.store(multiply_add(builder, values, values, builder.load(total)), total)

        fours = builder.sdiv(registers, WORD(4))
        done = builder.mul(fours, WORD(4))
        with cgutils.for_range(builder, fours) as four:
            for part, total in enumerate(totals):
                add(builder.add(builder.mul(four.index, WORD(4)), WORD(part)), total)
        with cgutils.for_range(builder, builder.sub(registers, done)) as rest:
            add(builder.add(done, rest.index), totals[0])
        low, high = (builder.fadd(*map(builder.load, pair)) for pair in (totals[:2], totals[2:]))
        return _fold(builder, builder.fadd(low, high), lanes)

    return x.dtype(x, *[types.intp] * 2), generate


@intrinsic
def _transpose_square(typingctx, x, at, out, o):
    """Transpose a square, one register wide, at x[at] in a block, and write it at out[o] in another block."""

    def generate(context, builder, signature, arguments):
        x, at, out, o = arguments
        lanes = _lanes(signature.args[0])
        number = context.get_data_type(signature.args[0].dtype)
        register = ir.VectorType(number, lanes)
        align = signature.args[0].dtype.bitwidth // 8

        def address(kind, array, start, row):
            pointer = builder.gep(pointer_to_element(context, builder, kind, array, start), [WORD(row * 2 * lanes)])
            return builder.bitcast(pointer, register.as_pointer())

        rows = [builder.load(address(signature.args[0], x, at, r), align=align) for r in range(lanes)]
        half = lanes // 2
        while half:  # swap the off-diagonal quarters of squares that get smaller and smaller
            for r in range(lanes):
                if r & half:
                    continue
                upper, lower = rows[r], rows[r + half]
                left = [c if not c & half else lanes + c - half for c in range(lanes)]
                right = [c + half if not c & half else lanes + c for c in range(lanes)]
                for into, chosen in ((r, left), (r + half, right)):
                    mask = ir.Constant(ir.VectorType(ir.IntType(32), lanes), chosen)
                    rows[into] = builder.shuffle_vector(upper, lower, mask)
            half //= 2
        for r in range(lanes):
            builder.store(rows[r], address(signature.args[2], out, o, r), align=align)
        return context.get_dummy_value()

    return types.void(x, types.intp, out, types.intp), generate


@jit
def transpose(x, at, out, o, rows, columns):
    """Write the transpose of the first `rows` and `columns` of the block at x[at] to the block at out[o]."""
    S = block(x)
    L = S // 2
    for r in range(0, rows, L):
        for c in range(0, columns, L):
            _transpose_square(x, at + r * S + c, out, o + c * S + r)


@intrinsic
def invoke(typingctx, address, arguments):
    """Call the function at an address, which returns nothing, with a tuple of numbers as its arguments."""

    def generate(context, builder, signature, values):
        numbers = cgutils.unpack_tuple(builder, values[1])
        kind = ir.FunctionType(ir.VoidType(), [x.type for x in numbers])
        builder.call(builder.inttoptr(values[0], ir.PointerType(kind)), numbers)
        return context.get_dummy_value()

    return types.void(address, arguments), generate


@intrinsic
def address(typingctx, x, at):
    """Return the address of x[at] as an integer."""

    def generate(context, builder, signature, arguments):
        return builder.ptrtoint(pointer_to_element(context, builder, signature.args[0], *arguments), WORD)

    return types.intp(x, types.intp), generate
