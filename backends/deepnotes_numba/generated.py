"""Kernels of activations, losses, optimizers and layers by feature, generated from their expressions.

A kernel is a function of addresses and sizes, and the interpreter calls it by its own address, so a new part compiles
its kernel and nothing else. Arrays have a row for each output, of m samples. A kernel computes as many samples at a
time as :class:`~deepnotes_numba.lanes.Lanes` hold: their elements row by row, and values that belong to a sample, such
as sums, in registers; numbers, once, in double precision.
"""

import ctypes
import hashlib
import re
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba.core import types
from numba.core.ccallback import CFunc

from deepnotes.backends import FULL, NUMBER, PER_SAMPLE, Expression
from deepnotes_numba.cache import CodeCache
from deepnotes_numba.compiling import numba
from deepnotes_numba.elementary import exp, expm1, log, log1p, tanh
from deepnotes_numba.kernel_functions import elements_of, maximum, minimum, multiply_add, sign
from deepnotes_numba.lanes import (
    absolute,
    few_lanes_of,
    lanes_of,
    load,
    load_few,
    spread,
    spread_few,
    square_root,
    store,
    store_few,
    where,
)

OPERATIONS = {
    "add": "({} + {})", "subtract": "({} - {})", "multiply": "({} * {})", "divide": "({} / {})", "negative": "(-{})",
    "abs": "absolute({})", "sqrt": "square_root({})", "exp": "exp({})", "expm1": "expm1({})", "log": "log({})",
    "log1p": "log1p({})", "tanh": "tanh({})", "less": "({} < {})", "less_equal": "({} <= {})",
    "greater": "({} > {})", "greater_equal": "({} >= {})", "equal": "({} == {})", "bitwise_and": "({} & {})",
    "bitwise_xor": "({} ^ {})", "number": "where({}, one, zero)", "where": "where({}, {}, {})", "spread": "{}",
    "sign": "sign({})", "maximum": "maximum({}, {})", "minimum": "minimum({}, {})",
}  # fmt: skip
"""The operations as Python; their arguments are names of lanes."""
OF_NUMBERS = OPERATIONS | {"number": "where({}, 1.0, 0.0)"}
"""The operations on numbers, in double precision."""
REDUCTIONS = ("sum", "max")
NAMES = {NUMBER: "c", PER_SAMPLE: "row", FULL: "x"}
"""How the names of values begin, by their shapes."""
LEFT = "LEFT"
"""What stands for the number of elements that are left, in the source of a loop; None if they fill the lanes."""
LANES = re.compile(r"\b(zero|one|infinity|factor_|share|(?:c|row|x|w)\d+|spread|load|store)\b")
"""The names of lanes, and of the functions that depend on their number."""
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


class Element(NamedTuple):
    """The source of lanes of an array in memory, from element `at` on."""

    array: str
    at: str

    @property
    def load(self) -> str:
        """The expression that loads them."""
        return f"load({self.array}, {self.at}, {LEFT})"

    def store(self, value: str) -> str:
        """Return the statement that stores them."""
        return f"store({self.array}, {self.at}, {value}, {LEFT})"


def _row(array: str, row: str = "i") -> Element:
    """Return the elements of a row of an array with m columns."""
    return Element(array, f"{row} * m + first")


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
        For each array among the arguments, the source of its elements, as lanes.
    numbers : dict of str to str, optional
        For each number among the arguments, its source, a number of double precision.
    scratch : Element, optional
        An element that the kernel may overwrite before its last pass over the outputs.
    features : dict of str to str, optional
        The sources of the lanes that are the same for all samples of row i, by the names under which `elements` has
        them.
    """

    def __init__(
        self,
        expression: Expression,
        options: Collection[float],
        elements: dict[str, str],
        numbers: dict[str, str] | None = None,
        scratch: Element | None = None,
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
        """Return the names of the values of nodes, as lanes."""
        return [f"{NAMES[self.shapes[i]]}{i}" for i in indices]

    def computed_numbers(self) -> Iterator[str]:
        """Yield the computation of the numbers."""
        for index, node in enumerate(self.nodes):
            if self.shapes[index] != NUMBER:
                continue
            if node.operation == "constant" and node.value not in self.options:
                self.constants[f"n{index}"] = node.number
            elif node.operation == "constant":
                yield f"n{index} = constants_[{self.options.index(node.number)}]"
            elif node.operation == "input":
                yield f"n{index} = {self.given[str(node.value)]}"
            elif node.operation == "outputs":
                yield f"n{index} = float(outputs)"
            else:
                yield f"n{index} = {OF_NUMBERS[node.operation].format(*(f'n{i}' for i in node.arguments))}"

    def spread_numbers(self) -> Iterator[str]:
        """Yield the conversion of the numbers to lanes."""
        yield "zero, one, infinity = spread(real(0)), spread(real(1)), spread(real(inf))"
        for index, shape in enumerate(self.shapes):
            if shape == NUMBER:
                yield f"c{index} = spread(real(n{index})){' != zero' if self.kinds[index].boolean else ''}"

    def elementwise(self, results: Sequence[int], level: int | None = None) -> Iterator[str]:
        """Yield the computation of the elements of some nodes, inside of the innermost loop of the pass of a level."""
        level = self.last if level is None else level
        for index in self._needed(results, level):
            if self.scratch and index == self.stored and level > self.stored_level:
                yield f"x{index} = {self.scratch.load}"
            elif index not in self.fused:
                yield f"x{index} = {self._value(index)}"
                if self.scratch and index == self.stored:
                    yield self.scratch.store(f"x{index}")

    def reductions(self) -> Iterator[str]:
        """Yield the computation of the values that belong to samples, level by level."""
        mine = [i for i, shape in enumerate(self.shapes) if shape == PER_SAMPLE]
        for level in sorted({self.levels[i] for i in mine}):
            reduced = [i for i in mine if self.levels[i] == level and self.nodes[i].operation in REDUCTIONS]
            yield from self._pass(reduced, level)
            for index in mine:
                if self.levels[index] == level and index not in reduced:
                    yield f"row{index} = {self._value(index)}"

    def of_row(self) -> Iterator[str]:
        """Yield the values that are the same for all samples of a row, inside of the loop over the rows."""
        yield from (f"    {name} = {value}" for name, value in self.features.items())

    def _pass(self, reduced: Sequence[int], level: int) -> Iterator[str]:
        """Yield one pass over the outputs, which computes sums and maxima."""
        if not reduced:
            return
        for index in reduced:
            yield f"row{index} = {'zero' if self.nodes[index].operation == 'sum' else '-infinity'}"
        yield "for i in range(k):"
        yield from self.of_row()
        arguments = [self.nodes[index].arguments[0] for index in reduced]
        yield from (f"    {line}" for line in self.elementwise(arguments, level))
        for index, element in zip(reduced, self.names(arguments), strict=True):
            if self.nodes[index].operation == "sum":
                yield f"    row{index} = row{index} + {element}"
            else:
                yield f"    row{index} = {OPERATIONS['maximum'].format(element, f'row{index}')}"

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
            return "spread(real(i))"
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


Z, A, D, X = _row("Z"), _row("A"), _row("D"), _row("X")
TARGET = _row("Y", "(0 if labelled else i)").load
LABELLED = "spread(real(labelled)) != zero"
Y = f"where({LABELLED}, where({TARGET} == spread(real(i)), one, zero), {TARGET})"
SHARE = Element("C", "first")


def activation(forward: Expression, options: Collection[float]) -> Kernel:
    """Return ``kernel(z, a, k, m, constants)``, which writes ``A = g(Z)`` (N3).

    A may be Z, unless a value belongs to a sample.
    """
    source = Source(forward, options, {"Z": Z.load}, scratch=A)
    return _make_kernel(source, "z, a, k, m, constants", {"Z": "z", "A": "a"}, {A: forward.results[0]})


def activation_backward(backward: Expression, options: Collection[float]) -> Kernel:
    """Return ``kernel(d, z, a, k, m, constants)``, which turns D from dA into dZ (N12), in place."""
    source = Source(backward, options, {"dA": D.load, "Z": Z.load, "A": A.load})
    arrays = {"D": "d", "Z": "z", "A": "a"}
    return _make_kernel(source, "d, z, a, k, m, constants", arrays, {D: backward.results[0]})


def loss(both: Expression, options: Collection[float]) -> Kernel:
    """Return ``kernel(z, a, y, d, c, l, k, m, labelled, constants)`` for the losses, and for dA or dZ.

    It writes both, times the share of each sample in the mean, c. The targets are class indices where `labelled`.
    """
    source = Source(both, options, {"Z": Z.load, "A": A.load, "Y": Y})
    arrays = {name: name.lower() for name in "ZAYDCL"}
    value, derivative = both.results
    losses = [f"share = {SHARE.load}", Element("L", "first").store(f"share * {source.names([value])[0]}")]
    parameters = "z, a, y, d, c, l, k, m, labelled, constants"
    return _make_kernel(source, parameters, arrays, {D: derivative}, losses, "share * ")


def layer(forward: Expression, options: Collection[float]) -> Kernel:
    """Return ``kernel(x, a, p, k, m, constants)``, which writes the k outputs A of a layer by feature.

    Its parameters, of k numbers each, begin at address p, one after the other.
    """
    elements, features = _feature_sources(forward)
    source = Source(forward, options, elements, scratch=A, features=features)
    return _make_kernel(source, "x, a, p, k, m, constants", {"X": "x", "A": "a"}, {A: forward.results[0]})


def layer_backward(backward: Expression, options: Collection[float]) -> Kernel:
    """Return ``kernel(d, x, p, e, t, apart, k, m, constants)``, which writes dA_prev of a layer by feature to e.

    It writes the terms of the gradients of the parameters to t, those of each parameter `apart` elements after those of
    the one before, except for terms that are dA itself.
    """
    elements, features = _feature_sources(backward)
    source = Source(backward, options, {"dA": D.load, **elements}, features=features)
    halves = _has_halves(backward)
    written = [i for i in range(len(features)) if i not in terms_in_place(backward)]
    targets = [_row("E"), *[_row("E", "(i + k)")] * halves]
    arrays = {"D": "d", "X": "x", "E": "e"} | {f"T{i}": f"t + {i} * apart * size" for i in written}
    writes = dict(zip(targets, backward.results, strict=False))
    writes |= {_row(f"T{i}"): backward.results[len(targets) + i] for i in written}
    return _make_kernel(source, "d, x, p, e, t, apart, k, m, constants", arrays, writes)


def terms_in_place(backward: Expression) -> list[int]:
    """Return the indices of the parameters of a layer by feature whose gradients have the terms dA."""
    first = 1 + _has_halves(backward)
    nodes = [backward.nodes[i] for i in backward.results[first:]]
    return [i for i, node in enumerate(nodes) if node.operation == "input" and node.value == "dA"]


def _has_halves(expression: Expression) -> bool:
    """Return whether a layer by feature has twice as many inputs as outputs."""
    return "A_prev_2" in expression.arrays


def _feature_sources(expression: Expression) -> tuple[dict[str, str], dict[str, str]]:
    """Return the sources of a layer's inputs and parameters as elements, and those of its parameters by row."""
    parameters = range(sum(name.startswith("parameter") for name in expression.arrays))
    elements = {"A_prev": X.load, "A_prev_2": _row("X", "(i + k)").load}
    elements |= {f"parameter{i}": f"w{i}" for i in parameters}
    return elements, {f"w{i}": f"spread(elements_at(p)[{i} * k + i])" for i in parameters}


def update(step: Expression, slots: int, names: Sequence[str]) -> Kernel:
    """Return a kernel for an optimizer's update of a range of the flat arrays, in place.

    It is ``kernel(theta, g, slots, at, n, scalars, stride, constants, decays, factor)``: the range begins with element
    `at`; `slots` is the address of the addresses of the slots; the scalar number r is ``scalars[r * stride]``; the
    gradient is multiplied by `factor`; `decays` is 1.0 or 0.0.
    """
    options = [node.number for node in step.nodes if node.operation == "constant"]
    theta, g, *places = [Element(name, "first") for name in ("W", "G", *(f"V{i}" for i in range(slots)))]
    elements = {"theta": theta.load, "g": f"(factor_ * {g.load})"}
    elements |= {f"slot{i}": place.load for i, place in enumerate(places)}
    numbers = {name: f"scalars_[{row} * stride]" for row, name in enumerate(names)} | {"decays": "decays"}
    source = Source(step, options, elements, numbers)
    lines = ["scalars_ = doubles_at(scalars)"]
    lines += ["W, G = elements_at(theta + at * size), elements_at(g + at * size)"]
    lines += [f"V{i} = elements_at(words_at(slots)[{i}] + at * size)" for i in range(slots)]
    loop = ["factor_ = spread(real(factor))", *source.elementwise(step.results)]
    loop += _stores(source, dict(zip([theta, *places], step.results, strict=True)))
    lines += [*source.computed_numbers(), *_for_lanes("n", source, loop)]
    return _compile_kernel("theta, g, slots, at, n, scalars, stride, constants, decays, factor", lines, source)


def _make_kernel(
    source: Source, parameters: str, arrays: dict[str, str], writes: dict[Element, int], before: Sequence[str] = (),
    factor: str = "",
) -> Kernel:  # fmt: skip
    """Return a kernel for arrays with a row for each output.

    Without values that belong to samples or rows, the arrays are computed as one long row. `arrays` are the sources of
    the addresses of the arrays. `writes` are the nodes to write in the last pass, times `factor`; `before` precedes
    that pass.
    """
    loop = [*before, "for i in range(k):", *source.of_row()]
    loop += [f"    {line}" for line in source.elementwise([*writes.values()])]
    loop += [f"    {line}" for line in _stores(source, writes, factor)]
    lines = ["outputs = k", *(f"{name} = elements_at({start})" for name, start in arrays.items())]
    lines += [] if source.has_rows else ["k, m = 1, k * m"]
    lines += [*source.computed_numbers(), *_for_lanes("m", source, [*source.reductions(), *loop])]
    return _compile_kernel(parameters, lines, source)


def _stores(source: Source, writes: dict[Element, int], factor: str = "") -> list[str]:
    """Return the stores of nodes, times `factor`."""
    names = source.names([*writes.values()])
    return [element.store(factor + name) for element, name in zip(writes, names, strict=True)]


def _for_lanes(count: str, source: Source, body: Sequence[str]) -> list[str]:
    """Return a loop over `count` numbers, as many at a time as lanes hold, and one over those that are left.

    The second loop has the same lines for a few lanes, whose names end with ``_few``, so that the prediction of one
    sample does not compute as much as that of many.
    """
    start, body = list(source.spread_numbers()), [f"    {line}" for line in body]
    whole = [f"whole = {count} & -lanes", *start, "for first in range(0, whole, lanes):", *body]
    rest = [*start, f"for first in range(whole, {count}, few):", f"    left = {count} - first", *body]
    return [
        *(line.replace(LEFT, "None") for line in whole),
        f"if whole < {count}:",
        *("    " + LANES.sub(r"\1_few", line).replace(LEFT, "left") for line in rest),
    ]


def _compile_kernel(parameters: str, lines: Sequence[str], source: Source) -> Kernel:
    """Compile a kernel, or load it from the disk cache."""
    begin = [
        f"def kernel({parameters}):",
        "constants_ = doubles_at(constants)",
    ]
    text = "\n    ".join([*begin, *lines])
    constants = tuple((name, value.hex()) for name, value in sorted(source.constants.items()))  # 0.0 is equal to -0.0
    function = _compile(text, constants, source.expression.dtype)
    return Kernel(function.ctypes, np.array(source.options))


@cache  # compiled code is never unloaded, and the interpreter keeps its address
def _compile(text: str, constants: tuple[tuple[str, str], ...], dtype: str) -> Any:
    real = np.dtype(dtype).type
    digest = hashlib.sha256(repr((text, constants, dtype)).encode())
    kind = numba.from_dtype(np.dtype(dtype))
    namespace: dict[str, Any] = {
        "elements_at": elements_of(kind), "doubles_at": elements_of(types.float64),
        "words_at": elements_of(types.intp), "size": kind.bitwidth // 8, "real": real, "inf": np.inf,
        "lanes": lanes_of(kind).count, "few": few_lanes_of(kind).count, "spread": spread, "spread_few": spread_few,
        "load": load, "load_few": load_few, "store": store, "store_few": store_few, "where": where,
        "absolute": absolute, "square_root": square_root, "exp": exp, "expm1": expm1, "log": log, "log1p": log1p,
        "tanh": tanh, "sign": sign, "maximum": maximum, "minimum": minimum, "multiply_add": multiply_add,
    }  # fmt: skip
    namespace |= {name: float.fromhex(value) for name, value in constants}
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
