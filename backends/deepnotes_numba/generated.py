"""Kernels generated from expressions, for activations, losses and optimizers that this backend has no kernel for.

A kernel is a function of addresses and sizes, and the interpreter calls it by its own address, so a new part compiles
its kernel and nothing else. The elements of arrays are computed in the innermost loop, over the S samples of a block;
values that belong to a sample, in rows of S elements; numbers, once, in double precision.
"""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
from numba.core import types
from numba.core.ccallback import CFunc

from deepnotes.backends import FULL, NUMBER, PER_SAMPLE, Expression
from deepnotes_numba.cache import CodeCache
from deepnotes_numba.compiling import numba
from deepnotes_numba.elementary import exp, log, tanh
from deepnotes_numba.kernel_functions import any_expm1, any_log1p, elements_of, multiply_add, rows_of

OPERATIONS = {
    "add": "({} + {})", "subtract": "({} - {})", "multiply": "({} * {})", "divide": "({} / {})", "negative": "(-{})",
    "abs": "abs({})", "sqrt": "sqrt({})", "exp": "exp({})", "expm1": "any_expm1({})", "log": "log({})",
    "log1p": "any_log1p({})", "tanh": "tanh({})", "less": "({} < {})", "less_equal": "({} <= {})",
    "greater": "({} > {})", "greater_equal": "({} >= {})", "equal": "({} == {})", "bitwise_and": "({} & {})",
    "bitwise_xor": "({} ^ {})", "number": "(one if {} else zero)", "where": "({1} if {0} else {2})", "spread": "{0}",
    "sign": "(one if {0} > zero else (-one if {0} < zero else {0} + zero))",
    "maximum": "({0} if {0} > {1} or {0} != {0} else {1})", "minimum": "({0} if {0} < {1} or {0} != {0} else {1})",
}  # fmt: skip
"""The operations as Python; their arguments are names. Those of numbers are the operators of Python."""


class KernelCache(CodeCache):
    """The disk cache of one kernel; unlike a dispatcher, a callback asks it with a signature.

    Attributes
    ----------
    compiled : int
        The number of kernels that this process has compiled instead of loaded.
    """

    compiled = 0

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the compiled code, or None."""
        return super().load_overload(sig.args, target_context)

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep compiled code, if possible."""
        KernelCache.compiled += 1
        super().save_overload(sig.args, data)


class Kernel(NamedTuple):
    """A compiled kernel: its address, and the constants that it is called with; both stay in place."""

    address: int
    constants: np.ndarray

    @property
    def addresses(self) -> tuple[int, int]:
        """The addresses of the kernel and of its constants."""
        return self.address, self.constants.ctypes.data


class Source:
    """The source of a kernel that computes an expression.

    Constants whose values may change from part to part, such as options, are arguments of the kernel: then another
    value compiles nothing.

    Parameters
    ----------
    expression : Expression
    options : collection of float
        The constants that are arguments.
    elements : dict of str to str
        For each array among the arguments, the source of its element.
    numbers : dict of str to str, optional
        For each number among the arguments, its source.
    """

    def __init__(
        self,
        expression: Expression,
        options: Collection[float],
        elements: dict[str, str],
        numbers: dict[str, str] | None = None,
    ) -> None:
        self.expression, self.elements, self.given = expression, elements, numbers or {}
        # Zeros of both signs are equal, so that one would be taken for the other.
        self.options = list(dict.fromkeys(sign * float(x) for x in options if x != 0 for sign in (1, -1)))
        self.nodes, self.shapes = expression.nodes, [kind.shape for kind in expression.kinds]
        self.constants: dict[str, float] = {}
        self.uses = [0] * len(self.nodes)
        for i in [*expression.results, *(i for node in self.nodes for i in node.arguments)]:
            self.uses[i] += 1
        products = [(index, self._product(index)) for index in range(len(self.nodes))]
        self.fused = {
            i for index, product in products if product for i in self.nodes[index].arguments if i != product[2]
        }
        """The products that are computed together with the sum that they are part of."""
        self.levels: list[int] = []
        """For each node, the number of passes over the outputs that it has to wait for."""
        for node in self.nodes:
            level = max((self.levels[i] for i in node.arguments), default=0)
            self.levels.append(level + (node.operation in ("sum", "max")))

    def names(self, indices: Sequence[int]) -> list[str]:
        """Return how the values of nodes are written in loops."""
        prefix = {NUMBER: "c{}", PER_SAMPLE: "row{}[s]", FULL: "x{}"}
        return [prefix[self.shapes[i]].format(i) for i in indices]

    def prologue(self) -> Iterator[str]:
        """Yield the computation of the numbers, and their conversion to the dtype."""
        for index, node in enumerate(self.nodes):
            if self.shapes[index] != NUMBER:
                continue
            if node.operation == "constant" and node.value not in self.options:
                self.constants[f"c{index}"] = self.constants[f"n{index}"] = node.number
                continue
            if node.operation == "constant":
                source = f"constants_[{self.options.index(node.number)}]"
            elif node.operation == "input":
                source = self.given[str(node.value)]
            elif node.operation == "outputs":
                source = "float(outputs)"
            else:
                source = OPERATIONS[node.operation].format(*(f"n{i}" for i in node.arguments))
            yield f"n{index} = {source}"
            yield f"c{index} = n{index}" if self.expression.kinds[index].boolean else f"c{index} = real(n{index})"

    def elementwise(self, results: Sequence[int]) -> Iterator[str]:
        """Yield the computation of the elements of some nodes, inside of the innermost loop."""
        needed = {i for i in results if self.shapes[i] == FULL}
        for index in range(max(needed, default=-1), -1, -1):
            if index in needed:
                needed.update(i for i in self.nodes[index].arguments if self.shapes[i] == FULL)
        for index in sorted(needed):
            if index not in self.fused:
                yield f"x{index} = {self._value(index)}"

    def rows(self) -> Iterator[str]:
        """Yield the computation of the values that belong to samples, level by level."""
        mine = [i for i, shape in enumerate(self.shapes) if shape == PER_SAMPLE]
        for index in mine:
            yield f"row{index} = carray(row_of(), (S,))"
        for level in sorted({self.levels[i] for i in mine}):
            reduced = [i for i in mine if self.levels[i] == level and self.nodes[i].operation in ("sum", "max")]
            others = [i for i in mine if self.levels[i] == level and i not in reduced]
            yield from self._reductions(reduced)
            for index in others:
                yield "for s in range(S):"
                yield f"    row{index}[s] = {self._value(index)}"

    def _reductions(self, reduced: Sequence[int]) -> Iterator[str]:
        if not reduced:
            return
        for index in reduced:
            yield "for s in range(S):"
            yield f"    row{index}[s] = {'zero' if self.nodes[index].operation == 'sum' else '-infinity'}"
        yield "for i in range(k):"
        yield "    for s in range(S):"
        arguments = [self.nodes[index].arguments[0] for index in reduced]
        yield from (f"        {line}" for line in self.elementwise(arguments))
        for index, element in zip(reduced, self.names(arguments), strict=True):
            row = f"row{index}[s]"
            if self.nodes[index].operation == "sum":
                yield f"        {row} += {element}"
            else:
                yield f"        {row} = {OPERATIONS['maximum'].format(element, row)}"

    def _value(self, index: int) -> str:
        node = self.nodes[index]
        if node.operation == "input":
            return self.elements[str(node.value)]
        if product := self._product(index):
            return "multiply_add({}, {}, {})".format(*self.names(product))
        return OPERATIONS[node.operation].format(*self.names(node.arguments))

    def _product(self, index: int) -> tuple[int, ...]:
        """Return the nodes a, b and c if a node is ``a b + c``, and nothing else needs the product."""
        node = self.nodes[index]
        if node.operation == "add" and self.shapes[index] == FULL:
            for product, other in (node.arguments, node.arguments[::-1]):
                if (
                    self.nodes[product].operation == "multiply"
                    and self.shapes[product] == FULL
                    and self.uses[product] == 1
                ):
                    return (*self.nodes[product].arguments, other)
        return ()


def activation(forward: Expression, options: Collection[float]) -> Kernel:
    """Return ``kernel(z, a, k, S, constants)``, which writes ``A = g(Z)`` (N3) of a block of k rows."""
    source = Source(forward, options, {"Z": "Z[i, s]"})
    loop = _loop(source, forward.results, ["A[i, s] = {}"])
    return _compiled(source, "z, a, k, S, constants", {"Z": "z", "A": "a"}, loop, "an activation of your own")


def activation_backward(backward: Expression, options: Collection[float]) -> Kernel:
    """Return ``kernel(d, z, a, k, S, constants)``, which turns D from dA into dZ (N12), in place."""
    source = Source(backward, options, {"dA": "D[i, s]", "Z": "Z[i, s]", "A": "A[i, s]"})
    loop = _loop(source, backward.results, ["D[i, s] = {}"])
    return _compiled(
        source, "d, z, a, k, S, constants", {"D": "d", "Z": "z", "A": "a"}, loop, "an activation of your own"
    )


def loss(both: Expression, options: Collection[float]) -> Kernel:
    """Return ``kernel(a, y, d, c, l, k, S, labelled, constants)`` for an expression of the losses and of dA.

    It writes both, times the share of each sample in the mean, c. The targets are class indices where `labelled`.
    """
    source = Source(
        both, options, {"A": "A[i, s]", "Y": "((one if Y[0, s] == real(i) else zero) if labelled else Y[i, s])"}
    )
    value, derivative = both.results
    loop = ["for s in range(S):", f"    L[0, s] = C[0, s] * {source.names([value])[0]}"]
    loop += _loop(source, [derivative], ["D[i, s] = C[0, s] * {}"])
    rows = {"A": "a", "Y": "y", "D": "d", "C": "c", "L": "l"}
    return _compiled(source, "a, y, d, c, l, k, S, labelled, constants", rows, loop, "a loss of your own")


def update(step: Expression, slots: int, names: Sequence[str]) -> Kernel:
    """Return a kernel for an optimizer's update of a range of the flat arrays, in place.

    It is ``kernel(theta, g, slots, at, n, scalars, stride, constants, decays, factor)``: the range begins with element
    `at`; `slots` is the address of the addresses of the slots; the scalar number r is ``scalars[r * stride]``; the
    gradient is multiplied by `factor`; `decays` is 1.0 or 0.0.
    """
    options = [node.number for node in step.nodes if node.operation == "constant"]
    elements = {"theta": "W[s]", "g": "(factor_ * G[s])", **{f"slot{i}": f"V{i}[s]" for i in range(slots)}}
    numbers = {name: f"scalars_[{row} * stride]" for row, name in enumerate(names)} | {"decays": "decays"}
    source = Source(step, options, elements, numbers)
    targets = ["W[s]", *(f"V{i}[s]" for i in range(slots))]
    lines = ["scalars_ = doubles_at(scalars)", "factor_ = real(factor)"]
    lines += ["W, G = carray(elements_at(theta + at * size), (n,)), carray(elements_at(g + at * size), (n,))"]
    lines += [f"V{i} = carray(elements_at(words_at(slots)[{i}] + at * size), (n,))" for i in range(slots)]
    lines += [*source.prologue(), "for s in range(n):"]
    lines += [f"    {line}" for line in source.elementwise(step.results)]
    lines += [f"    {to} = {x}" for to, x in zip(targets, source.names(step.results), strict=True)]
    return _address(
        "theta, g, slots, at, n, scalars, stride, constants, decays, factor", lines, source, "an optimizer of your own"
    )


def _loop(source: Source, results: Sequence[int], writes: Sequence[str]) -> list[str]:
    """Return the last pass over the outputs, which writes the results."""
    lines = ["for i in range(k):", "    for s in range(S):"]
    lines += [f"        {line}" for line in source.elementwise(results)]
    return lines + [f"        {write.format(name)}" for write, name in zip(writes, source.names(results), strict=True)]


def _compiled(source: Source, parameters: str, arrays: dict[str, str], loop: list[str], what: str) -> Kernel:
    """Return a kernel over a block; without rows, the block is taken as one long row."""
    lines = ["outputs = k"]
    if PER_SAMPLE not in source.shapes and "Y" not in arrays:
        lines.append("k, S = 1, k * S")
    rows = {"C": "1", "L": "1", "Y": "1 if labelled else k"}
    lines += [f"{name} = carray(elements_at({at}), ({rows.get(name, 'k')}, S))" for name, at in arrays.items()]
    return _address(parameters, [*lines, *source.prologue(), *source.rows(), *loop], source, what)


def _address(parameters: str, lines: Sequence[str], source: Source, what: str) -> Kernel:
    """Compile a kernel, or load it from the disk cache."""
    text = "\n    ".join([f"def kernel({parameters}):", "constants_ = doubles_at(constants)", *lines])
    constants = tuple(sorted(source.constants.items()))
    callback = _compile(text, constants, source.expression.dtype, what)
    return Kernel(callback.address, np.array(source.options, np.float64))


@cache  # compiled code is never unloaded, and the interpreter keeps its address
def _compile(text: str, constants: tuple[tuple[str, float], ...], dtype: str, what: str) -> Any:
    real = np.dtype(dtype).type
    digest = hashlib.sha256(repr((text, [(name, value.hex()) for name, value in constants], dtype)).encode())
    kind = numba.from_dtype(np.dtype(dtype))
    namespace: dict[str, Any] = {
        "carray": numba.carray, "elements_at": elements_of(kind), "doubles_at": elements_of(types.float64),
        "words_at": elements_of(types.intp), "row_of": rows_of(kind), "size": kind.bitwidth // 8, "real": real,
        "zero": real(0), "one": real(1), "infinity": real(np.inf), "sqrt": sqrt, "exp": exp, "log": log, "tanh": tanh,
        "multiply_add": multiply_add, "any_expm1": any_expm1, "any_log1p": any_log1p,
    }  # fmt: skip
    with np.errstate(over="ignore"):
        namespace |= {name: value if name[0] == "n" else real(value) for name, value in constants}
    exec(compile(text, "<kernel>", "exec"), namespace)
    kernel = namespace["kernel"]
    kernel.__module__ = __name__
    kernel.__qualname__ = kernel.__name__ = f"kernel_{digest.hexdigest()[:32]}"
    parameters = kernel.__code__.co_argcount
    signature: list[Any] = [types.intp] * parameters
    if "factor" in kernel.__code__.co_varnames[:parameters]:
        signature[-2:] = types.float64, types.float64
    callback: Any = CFunc(kernel, (tuple(signature), types.void), {}, {"error_model": "numpy"})
    callback._cache = KernelCache(kernel, what)
    callback.compile()
    return callback
