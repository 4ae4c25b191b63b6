"""Kernels of activations, losses, optimizers and layers by feature, generated from their expressions.

A kernel is a function of addresses and sizes, and the interpreter calls it by its own address, so a new part compiles
its kernel and nothing else. Arrays have a row for each output, of m samples. Elements are computed in the innermost
loop; values that belong to a sample, in rows of at most `WIDEST` samples; numbers, once, in double precision.
"""

import ctypes
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
from deepnotes_numba.elementary import exp, expm1, log, log1p, tanh
from deepnotes_numba.kernel_functions import (
    WIDEST,
    elements_of,
    multiply_add,
    rows_of,
)

OPERATIONS = {
    "add": "({} + {})", "subtract": "({} - {})", "multiply": "({} * {})", "divide": "({} / {})", "negative": "(-{})",
    "abs": "abs({})", "sqrt": "sqrt({})", "exp": "exp({})", "expm1": "expm1({})", "log": "log({})",
    "log1p": "log1p({})", "tanh": "tanh({})", "less": "({} < {})", "less_equal": "({} <= {})",
    "greater": "({} > {})", "greater_equal": "({} >= {})", "equal": "({} == {})", "bitwise_and": "({} & {})",
    "bitwise_xor": "({} ^ {})", "number": "(one if {} else zero)", "where": "({1} if {0} else {2})", "spread": "{0}",
    "sign": "(one if {0} > zero else (-one if {0} < zero else {0} + zero))",
    "maximum": "({0} if {0} > {1} or {0} != {0} else {1})", "minimum": "({0} if {0} < {1} or {0} != {0} else {1})",
}  # fmt: skip
"""The operations as Python; their arguments are names. Those of numbers are the operators of Python."""
REDUCTIONS = ("sum", "max")
COSTLY = ("exp", "expm1", "log", "log1p", "tanh")
"""Operations that are rather loaded from memory than computed twice."""


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
    """A compiled kernel, to be called by its address or from Python, and its constants, which stay in place."""

    function: Any
    constants: np.ndarray

    @property
    def addresses(self) -> tuple[int, int]:
        """The addresses of the kernel and of its constants."""
        return ctypes.cast(self.function, ctypes.c_void_p).value or 0, self.constants.ctypes.data


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
    scratch : str, optional
        The source of an element that the kernel may overwrite before its last pass over the outputs.
    features : dict of str to str, optional
        The sources of the values that are the same for all samples of row i, by the names under which `elements` has
        them.
    """

    def __init__(
        self,
        expression: Expression,
        options: Collection[float],
        elements: dict[str, str],
        numbers: dict[str, str] | None = None,
        scratch: str | None = None,
        features: dict[str, str] | None = None,
    ) -> None:
        self.features = features or {}
        self.expression, self.elements, self.given, self.scratch = expression, elements, numbers or {}, scratch
        # Zeros of both signs are equal, so that one would be taken for the other.
        self.options = list(dict.fromkeys(sign * float(x) for x in options if x != 0 for sign in (1, -1)))
        self.nodes, self.kinds = expression.nodes, expression.kinds
        self.shapes = [kind.shape for kind in self.kinds]
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
            self.levels.append(level + (node.operation in REDUCTIONS))
        self.last = max(self.levels) + 1
        self.stored, self.stored_level = self._choose_stored() if scratch else (-1, 0)

    @property
    def has_rows(self) -> bool:
        """Whether values belong to samples or to rows, so that the arrays cannot be computed as one long row."""
        return PER_SAMPLE in self.shapes or bool(self.features)

    def names(self, indices: Sequence[int]) -> list[str]:
        """Return how the values of nodes are written in loops."""
        names = {
            (NUMBER, False): "c{}", (PER_SAMPLE, False): "row{}[s]", (FULL, False): "x{}",
            (NUMBER, True): "(c{} != zero)", (PER_SAMPLE, True): "(row{}[s] != zero)", (FULL, True): "x{}",
        }  # fmt: skip
        return [names[self.kinds[i]].format(i) for i in indices]

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

    def elementwise(self, results: Sequence[int], level: int | None = None) -> Iterator[str]:
        """Yield the computation of the elements of some nodes, inside of the innermost loop of the pass of a level."""
        level = self.last if level is None else level
        for index in self._needed(results, level):
            if index == self.stored and level > self.stored_level:
                yield f"x{index} = {self.scratch}"
            elif index not in self.fused:
                yield f"x{index} = {self._value(index)}"
                if index == self.stored:
                    yield f"{self.scratch} = x{index}"

    def reductions(self) -> Iterator[str]:
        """Yield the computation of the values that belong to samples, level by level."""
        mine = [i for i, shape in enumerate(self.shapes) if shape == PER_SAMPLE]
        for level in sorted({self.levels[i] for i in mine}):
            reduced = [i for i in mine if self.levels[i] == level and self.nodes[i].operation in REDUCTIONS]
            yield from self._pass(reduced, level)
            for index in mine:
                if self.levels[index] == level and index not in reduced:
                    yield "for s in range(S):"
                    yield f"    row{index}[s] = {self._value(index)}"

    def rows(self) -> Iterator[str]:
        """Yield the memory for the values that belong to samples."""
        for index, shape in enumerate(self.shapes):
            if shape == PER_SAMPLE:
                yield f"row{index} = carray(row_of(), ({WIDEST},))"

    def of_row(self) -> Iterator[str]:
        """Yield the values that are the same for all samples of a row, inside of the loop over the rows."""
        yield from (f"    {name} = {value}" for name, value in self.features.items())

    def _pass(self, reduced: Sequence[int], level: int) -> Iterator[str]:
        """Yield one pass over the outputs, which computes sums and maxima."""
        if not reduced:
            return
        for index in reduced:
            yield "for s in range(S):"
            yield f"    row{index}[s] = {'zero' if self.nodes[index].operation == 'sum' else '-infinity'}"
        yield "for i in range(k):"
        yield from self.of_row()
        yield "    for s in range(S):"
        arguments = [self.nodes[index].arguments[0] for index in reduced]
        yield from (f"        {line}" for line in self.elementwise(arguments, level))
        for index, element in zip(reduced, self.names(arguments), strict=True):
            row = f"row{index}[s]"
            if self.nodes[index].operation == "sum":
                yield f"        {row} += {element}"
            else:
                yield f"        {row} = {OPERATIONS['maximum'].format(element, row)}"

    def _needed(self, results: Sequence[int], level: int) -> list[int]:
        """Return the nodes whose elements the pass of a level computes or loads, for these results."""
        needed = {i for i in results if self.shapes[i] == FULL}
        for index in range(max(needed, default=-1), -1, -1):
            if index in needed and not (index == self.stored and level > self.stored_level):
                needed.update(i for i in self.nodes[index].arguments if self.shapes[i] == FULL)
        return sorted(needed)

    def _choose_stored(self) -> tuple[int, int]:
        """Return the last expensive node that the last pass and an earlier one need, and the level of the earlier."""
        self.stored = -1
        earlier: dict[int, int] = {}
        for node, level in zip(self.nodes, self.levels, strict=True):
            if node.operation in REDUCTIONS:
                for i in self._needed(node.arguments, level):
                    earlier[i] = min(level, earlier.get(i, level))
        costly = [i for i in self._needed(self.expression.results, self.last) if self.nodes[i].operation in COSTLY]
        return max(((i, earlier[i]) for i in costly if i in earlier), default=(-1, 0))

    def _value(self, index: int) -> str:
        node = self.nodes[index]
        if node.operation == "input":
            return self.elements[str(node.value)]
        if node.operation == "output":
            return "real(i)"
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


Z, A, D = "Z[i, s]", "A[i, s]", "D[i, s]"
TARGET = "Y[0 if labelled else i, s]"
Y = f"((one if {TARGET} == real(i) else zero) if labelled else {TARGET})"
"""The sources of the elements of arrays. The load of a target is no branch, so that the loop is vectorised."""


def activation(forward: Expression, options: Collection[float], in_place: bool) -> Kernel:
    """Return ``kernel(z, a, k, m, constants)``, which writes ``A = g(Z)`` (N3); A is Z if `in_place`.

    Loops over two arrays that may overlap are not vectorised, so a kernel is needed for each case.
    """
    source = Source(forward, options, {"Z": A if in_place else Z}, scratch=None if in_place else A)
    arrays = {"A": "a"} if in_place else {"Z": "z", "A": "a"}
    factor = _hidden_one(forward) if in_place else ""
    return _make_kernel(source, "z, a, k, m, constants", arrays, {A: forward.results[0]}, factor=factor)


def activation_backward(backward: Expression, options: Collection[float]) -> Kernel:
    """Return ``kernel(d, z, a, k, m, constants)``, which turns D from dA into dZ (N12), in place."""
    source = Source(backward, options, {"dA": D, "Z": Z, "A": A})
    arrays = {"D": "d"} | {name: name.lower() for name in "ZA" if backward.uses(name)}
    writes = {D: backward.results[0]}
    return _make_kernel(source, "d, z, a, k, m, constants", arrays, writes, factor=_hidden_one(backward))


def _hidden_one(expression: Expression) -> str:
    """Return the factor of the result of a kernel that works in place, as source.

    If the new value of an element may be the old one, the compiler makes stores of only those lanes of a register that
    change. On AMD's processors, such a store takes ten times as long as a store of the whole register. A factor that
    is 1, which the compiler does not know, prevents it.
    """
    operation = expression.nodes[expression.results[0]].operation
    return "one_ * " if operation in ("where", "maximum", "minimum") else ""


def loss(both: Expression, options: Collection[float]) -> Kernel:
    """Return ``kernel(z, a, y, d, c, l, k, m, labelled, constants)`` for the losses, and for dA or dZ.

    It writes both, times the share of each sample in the mean, c. The targets are class indices where `labelled`.
    """
    source = Source(both, options, {"Z": Z, "A": A, "Y": Y})
    arrays = {"Y": "y", "D": "d", "C": "c", "L": "l"} | {name: name.lower() for name in "ZA" if both.uses(name)}
    value, derivative = both.results
    losses = ["for s in range(S):", f"    L[0, s] = C[0, s] * {source.names([value])[0]}"]
    parameters = "z, a, y, d, c, l, k, m, labelled, constants"
    return _make_kernel(source, parameters, arrays, {D: derivative}, losses, "C[0, s] * ")


def layer(forward: Expression, options: Collection[float]) -> Kernel:
    """Return ``kernel(x, a, p, k, m, constants)``, which writes the k outputs A of a layer by feature.

    Its parameters, of k numbers each, begin at address p, one after the other.
    """
    elements, features = _feature_sources(forward)
    source = Source(forward, options, elements, scratch=A, features=features)
    parameters, arrays = "x, a, p, k, m, constants", {"X": "x", "A": "a"}
    return _make_kernel(source, parameters, arrays, {A: forward.results[0]}, halves=_has_halves(forward))


def layer_backward(backward: Expression, options: Collection[float]) -> Kernel:
    """Return ``kernel(d, x, p, e, t, apart, k, m, constants)``, which writes dA_prev of a layer by feature to e.

    It writes the terms of the gradients of the parameters to t, those of each parameter `apart` elements after those of
    the one before, except for terms that are dA itself.
    """
    elements, features = _feature_sources(backward)
    source = Source(backward, options, {"dA": D, **elements}, features=features)
    halves = _has_halves(backward)
    written = [i for i in range(len(features)) if i not in terms_in_place(backward)]
    targets = ["E[i, s]", *["E[i + k, s]"] * halves]
    arrays = {"D": "d", "X": "x", "E": "e"} | {f"T{i}": f"t + {i} * apart * size" for i in written}
    writes = dict(zip(targets, backward.results, strict=False))
    writes |= {f"T{i}[i, s]": backward.results[len(targets) + i] for i in written}
    return _make_kernel(source, "d, x, p, e, t, apart, k, m, constants", arrays, writes, halves=halves)


def terms_in_place(backward: Expression) -> list[int]:
    """Return the indices of the parameters of a layer by feature whose gradients have the terms dA."""
    first = 1 + _has_halves(backward)
    nodes = [backward.nodes[i] for i in backward.results[first:]]
    return [i for i, node in enumerate(nodes) if node.operation == "input" and node.value == "dA"]


def _has_halves(expression: Expression) -> bool:
    """Return whether a layer by feature has twice as many inputs as outputs."""
    return "A_prev_2" in expression.arrays


def _feature_sources(expression: Expression) -> tuple[dict[str, str], dict[str, str]]:
    """Return the sources of a layer's inputs and parameters as elements, and those of the parameters by row."""
    parameters = range(sum(name.startswith("parameter") for name in expression.arrays))
    elements = {"A_prev": "X[i, s]", "A_prev_2": "X[i + k, s]", **{f"parameter{i}": f"w{i}" for i in parameters}}
    return elements, {f"w{i}": f"carray(elements_at(p), ({len(parameters)} * k,))[{i} * k + i]" for i in parameters}


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
    return _compile_kernel("theta, g, slots, at, n, scalars, stride, constants, decays, factor", lines, source)


def _make_kernel(
    source: Source, parameters: str, arrays: dict[str, str], writes: dict[str, int], before: Sequence[str] = (),
    factor: str = "", halves: bool = False,
) -> Kernel:  # fmt: skip
    """Return a kernel for arrays with a row for each output.

    Without values that belong to samples, the arrays are computed as one long row, else some samples at a time.
    `writes` are the nodes to write in the last pass, times `factor`, by the source of the element; `before` precedes
    that pass. With `halves`, the arrays X and E have two rows for each output.
    """
    rows = {"C": "1", "L": "1", "Y": "1 if labelled else k"}
    if halves:
        rows |= dict.fromkeys("XE", "2 * k")
    # An index `first + s` would not be known to be positive, so that loops would not be vectorised.
    views = [
        f"{name} = carray(elements_at({start} + first * size), ({rows.get(name, 'k')}, m))"
        for name, start in arrays.items()
    ]
    loop = [*before, "for i in range(k):", *source.of_row(), "    for s in range(S):"]
    loop += [f"        {line}" for line in source.elementwise([*writes.values()])]
    names = source.names([*writes.values()])
    loop += [f"        {element} = {factor}{name}" for element, name in zip(writes, names, strict=True)]
    if source.has_rows:
        loop = [f"S = min({WIDEST}, m - first)", *views, *source.reductions(), *loop]
        lines = [*source.prologue(), *source.rows(), f"for first in range(0, m, {WIDEST}):"]
        lines += [f"    {line}" for line in loop]
    else:
        lines = ["k, m = 1, k * m", "first, S = 0, m", *views, *source.prologue(), *loop]
    return _compile_kernel(parameters, ["outputs = k", *lines], source)


def _compile_kernel(parameters: str, lines: Sequence[str], source: Source) -> Kernel:
    """Compile a kernel, or load it from the disk cache."""
    one = f"one_ = real(constants_[{len(source.options)}])"
    text = "\n    ".join([f"def kernel({parameters}):", "constants_ = doubles_at(constants)", one, *lines])
    function = _compile(text, tuple(sorted(source.constants.items())), source.expression.dtype)
    return Kernel(function.ctypes, np.array([*source.options, 1.0]))


@cache  # compiled code is never unloaded, and the interpreter keeps its address
def _compile(text: str, constants: tuple[tuple[str, float], ...], dtype: str) -> Any:
    real = np.dtype(dtype).type
    digest = hashlib.sha256(repr((text, [(name, value.hex()) for name, value in constants], dtype)).encode())
    kind = numba.from_dtype(np.dtype(dtype))
    namespace: dict[str, Any] = {
        "carray": numba.carray, "elements_at": elements_of(kind), "doubles_at": elements_of(types.float64),
        "words_at": elements_of(types.intp), "row_of": rows_of(kind), "size": kind.bitwidth // 8, "real": real,
        "zero": real(0), "one": real(1), "infinity": real(np.inf), "sqrt": sqrt, "exp": exp, "expm1": expm1, "log": log,
        "log1p": log1p, "tanh": tanh, "multiply_add": multiply_add,
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
    callback._cache = KernelCache(kernel, "activations, losses and updates")
    callback.compile()
    return callback
