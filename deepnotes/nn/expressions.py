"""Expressions: the formula of an activation, a loss or an update as data, traced from the function that computes it.

A function of arrays that is called with :class:`Trace` as its namespace leaves one :class:`Node` per operation. The
operations are a closed table, `OPERATIONS`: all of them are elementwise, except for the sum and the maximum over the
outputs of each sample. So a backend can generate a kernel from an expression, a file can hold one, and
:mod:`deepnotes.nn.derivatives` can differentiate one.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple, NoReturn

import numpy as np

from deepnotes.utils.errors import ArgumentError, NotAnExpressionError

ARITHMETIC = {"add": 2, "subtract": 2, "multiply": 2, "divide": 2, "negative": 1}
"""Operations that are operators of Python as well, with their number of arguments; they accept numbers."""
FUNCTIONS = {
    "abs": 1, "exp": 1, "expm1": 1, "log": 1, "log1p": 1, "sqrt": 1, "tanh": 1, "sign": 1, "maximum": 2, "minimum": 2,
}  # fmt: skip
COMPARISONS = {"less": 2, "less_equal": 2, "greater": 2, "greater_equal": 2, "equal": 2}
LOGIC = {"bitwise_and": 2, "bitwise_xor": 2}
REDUCTIONS = {"sum": 1, "max": 1}
OPERATIONS = ARITHMETIC | FUNCTIONS | COMPARISONS | LOGIC | REDUCTIONS | {"where": 3, "number": 1, "spread": 2}
"""The number of arguments of each operation.

``number`` is 1 for True and 0 for False; ``spread`` is the first argument, broadcast to the shape of the second.
"""

NUMBER, PER_SAMPLE, FULL = range(3)
"""The shapes of values: a number; (1, m), one element per sample; the shape of the arguments, (k, m) or (p,)."""

MOST = float(np.finfo(np.float64).max)
NOT_FINITE = {"inf": np.inf, "-inf": -np.inf, "nan": np.nan}
"""The constants that JSON cannot represent as numbers."""
LARGEST = 10_000
"""The largest number of nodes of an expression."""
MOST_NAMES, LONGEST_NAME = 64, 100
"""The largest number of arguments of an expression, and the largest number of characters of a name."""


class Node(NamedTuple):
    """One value of an expression.

    Attributes
    ----------
    operation : str
        A name of `OPERATIONS`; or ``"input"``, ``"constant"``, ``"outputs"``, the number of outputs, or ``"output"``,
        the index of the output that an element belongs to, which only formulas of losses have.
    arguments : tuple of int
        The indices of the nodes that it is computed from; all of them are smaller than its own index.
    value : str, float or None
        The name of an input, or the value of a constant.
    """

    operation: str
    arguments: tuple[int, ...] = ()
    value: str | float | None = None

    @property
    def number(self) -> float:
        """The value of a constant."""
        return float(self.value)  # type: ignore[arg-type]


class Kind(NamedTuple):
    """The shape of a value (NUMBER, PER_SAMPLE or FULL), and whether its elements are True or False."""

    shape: int
    boolean: bool = False


@dataclass(frozen=True)
class Expression:
    """A formula: nodes in an order in which they can be computed.

    Attributes
    ----------
    arrays : tuple of str
        The names of the arguments that are arrays.
    numbers : tuple of str
        The names of the arguments that are numbers.
    nodes : tuple of Node
    results : tuple of int
        The indices of the nodes that are the results.
    dtype : {"float32", "float64"}
    """

    arrays: tuple[str, ...]
    numbers: tuple[str, ...]
    nodes: tuple[Node, ...]
    results: tuple[int, ...]
    dtype: str

    def uses(self, name: str) -> bool:
        """Return whether the results depend on the argument of this name."""
        return any(node.operation == "input" and node.value == name for node in self.nodes)

    def is_input(self, name: str) -> bool:
        """Return whether the only result is the argument of this name."""
        return [self.nodes[i] for i in self.results] == [Node("input", (), name)]

    @cached_property
    def _last_uses(self) -> list[list[int]]:
        """For each node, the nodes whose values nothing needs after it has been computed."""
        last = {i: index for index, node in enumerate(self.nodes) for i in node.arguments}
        uses: list[list[int]] = [[] for _ in self.nodes]
        for i, index in last.items():
            if i not in self.results:
                uses[index].append(i)
        return uses

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        """The kind of each node."""
        kinds: list[Kind] = []
        for node in self.nodes:
            kinds.append(_kind(node, [kinds[i] for i in node.arguments], self.arrays))
        return tuple(kinds)

    @cached_property
    def size(self) -> int:
        """The largest number of operations of a kernel, which may compute all values anew for each reduction."""
        return len(self.nodes) * (1 + sum(node.operation in REDUCTIONS for node in self.nodes))

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the expression; the same in every process, and for every function with this formula."""
        import hashlib  # slow to import, and rarely used

        return hashlib.sha256(json.dumps(self.to_data()).encode()).hexdigest()

    def values_of_numbers(self, like: Any) -> dict[int, float | bool]:
        """Return the values of the nodes that are the same for all elements, by their indices.

        Parameters
        ----------
        like : Array, shape (k, m)
            An array of the number of outputs and the dtype to compute with.
        """
        values: dict[int, float | bool] = {}
        for index, (node, kind) in enumerate(zip(self.nodes, self.kinds, strict=True)):
            if kind.shape == NUMBER:
                values[index] = _compute(np, node, [values[i] for i in node.arguments], {}, like)
        return values

    def to_data(self) -> dict[str, Any]:
        """Return the expression as values of JSON.

        Examples
        --------
        >>> trace(lambda xp, Z: 0.5 * Z, ["Z"], "float64").to_data()["nodes"]
        [['input', 'Z'], ['constant', 0.5], ['multiply', 1, 0]]
        """
        nodes = [[n.operation, *([] if n.value is None else [_as_json(n.value)]), *n.arguments] for n in self.nodes]
        return {
            "arrays": list(self.arrays), "numbers": list(self.numbers), "nodes": nodes, "results": list(self.results),
            "dtype": self.dtype,
        }  # fmt: skip

    @classmethod
    def from_data(cls, data: Any) -> "Expression":
        """Return the expression that :meth:`to_data` described; `data` may come from anywhere.

        Raises
        ------
        ArgumentError
            If it is not a valid expression; nothing is computed to find that out.
        """
        try:
            arrays, numbers, nodes, results, dtype = (
                data[key] for key in ("arrays", "numbers", "nodes", "results", "dtype")
            )
        except (TypeError, KeyError, IndexError):
            raise ArgumentError("expression: wanted arrays, numbers, nodes, results and dtype") from None
        names: list[str] = [*arrays, *numbers] if isinstance(arrays, list) and isinstance(numbers, list) else []
        valid = 0 < len(names) <= MOST_NAMES and all(map(is_name, names))
        if not valid or len(set(names)) != len(names):
            raise ArgumentError(f"expression: arrays and numbers must be lists of at most {MOST_NAMES} different names")
        if not isinstance(dtype, str) or dtype not in ("float32", "float64"):
            raise ArgumentError("expression: the dtype must be float32 or float64")
        if not isinstance(nodes, list) or not 0 < len(nodes) <= LARGEST:
            raise ArgumentError(f"expression: nodes must be a list of 1 to {LARGEST:,} nodes")
        read: list[Node] = []
        kinds: list[Kind] = []
        for node in nodes:
            read.append(_node(node, len(read), names))
            given = [kinds[i] for i in read[-1].arguments]
            if not _accepts(read[-1].operation, given):
                raise ArgumentError(f"expression: node {len(kinds)}: {read[-1].operation} of the wrong kind of values")
            kinds.append(_kind(read[-1], given, arrays))
        good = isinstance(results, list) and 0 < len(results) <= LARGEST
        if not good or not all(type(i) is int and 0 <= i < len(read) and not kinds[i].boolean for i in results):
            raise ArgumentError("expression: results must be a list of indices of nodes that are not conditions")
        return cls(tuple(arrays), tuple(numbers), tuple(read), tuple(results), dtype)

    def __call__(self, xp: Any, *arrays: Any, **numbers: Any) -> tuple[Any, ...]:
        """Return the results, computed with the functions of a namespace.

        Parameters
        ----------
        xp : Namespace
        *arrays : Array
            The arguments in the order of :attr:`arrays`.
        **numbers : float or 0-d Array
        """
        given = dict(zip(self.arrays, arrays, strict=True)) | numbers
        like = arrays[0]
        values: list[Any] = []
        for node, unused in zip(self.nodes, self._last_uses, strict=True):
            values.append(_compute(xp, node, [values[i] for i in node.arguments], given, like))
            for i in unused:
                values[i] = None  # so that a long expression does not keep all intermediate arrays
        return tuple(values[i] for i in self.results)


def _kind(node: Node, arguments: Sequence[Kind], arrays: Sequence[str]) -> Kind:
    if node.operation == "input":
        return Kind(FULL if node.value in arrays else NUMBER)
    if node.operation == "output":
        return Kind(FULL)
    if node.operation in ("constant", "outputs"):
        return Kind(NUMBER)
    if node.operation in REDUCTIONS:
        return Kind(PER_SAMPLE)
    shape = max(kind.shape for kind in arguments)
    return Kind(shape, node.operation in COMPARISONS or node.operation in LOGIC)


def _node(data: Any, index: int, names: Sequence[str]) -> Node:
    """Return the node number `index` from its data, after checking it."""
    if not isinstance(data, list) or not data or not isinstance(data[0], str) or len(data) > 4:
        raise ArgumentError(f"expression: node {index}: wanted a list of an operation and its arguments")
    operation, *rest = data
    if operation == "input" and len(rest) == 1 and isinstance(rest[0], str) and rest[0] in names:
        return Node("input", (), rest[0])
    if operation == "constant" and len(rest) == 1 and type(rest[0]) in (int, float) and abs(rest[0]) <= MOST:
        return Node("constant", (), float(rest[0]))
    if operation == "constant" and len(rest) == 1 and isinstance(rest[0], str) and rest[0] in NOT_FINITE:
        return Node("constant", (), NOT_FINITE[rest[0]])
    if operation == "outputs" and not rest:
        return Node("outputs")
    if OPERATIONS.get(operation) == len(rest) and all(type(i) is int and 0 <= i < index for i in rest):
        return Node(operation, tuple(rest))
    raise ArgumentError(f"expression: node {index}: {operation[:40]!r} with these arguments is not a known operation")


def is_name(name: Any) -> bool:
    """Return whether `name` may be a name in a file: an identifier of Python, of limited length."""
    return isinstance(name, str) and len(name) <= LONGEST_NAME and name.isidentifier()


def _as_json(value: str | float) -> str | float:
    """Return the value of a node as JSON can represent it."""
    return value if isinstance(value, str) or np.isfinite(value) else str(value)


def _accepts(operation: str, arguments: Sequence[Kind]) -> bool:
    """Return whether an operation may have arguments of these kinds."""
    shapes = [kind.shape for kind in arguments]
    if (operation in REDUCTIONS and shapes != [FULL]) or (operation == "spread" and not shapes[0] < shapes[1]):
        return False
    return [kind.boolean for kind in arguments] == _booleans(operation)


def _booleans(operation: str) -> list[bool]:
    """Return whether each argument of an operation is True or False, instead of a number."""
    if operation in LOGIC:
        return [True, True]
    return [i == 0 and operation in ("where", "number") for i in range(OPERATIONS.get(operation, 0))]


PYTHON: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b, "subtract": lambda a, b: a - b, "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b, "negative": lambda a: -a, "abs": abs, "less": lambda a, b: a < b,
    "less_equal": lambda a, b: a <= b, "greater": lambda a, b: a > b, "greater_equal": lambda a, b: a >= b,
    "bitwise_and": lambda a, b: a & b, "bitwise_xor": lambda a, b: a ^ b,
}  # fmt: skip


def _compute(xp: Any, node: Node, values: list[Any], given: dict[str, Any], like: Any) -> Any:
    """Return the value of one node; an operation that is an operator of the Array protocol is computed by it."""
    name = node.operation
    if not node.arguments:
        return _leaf(xp, node, given, like)
    if all(isinstance(value, bool | int | float) for value in values):
        return _number(name, values, str(like.dtype).rpartition(".")[2])
    if name in LOGIC:
        values = [xp.asarray(value) if isinstance(value, bool) else value for value in values]
    if name in PYTHON:
        return PYTHON[name](*values)
    if name in REDUCTIONS:
        return getattr(xp, name)(values[0], axis=0, keepdims=True)
    if name == "number":
        return xp.astype(values[0], like.dtype)
    if name == "spread":  # zeros of a trace are a number, which would not broadcast
        return xp.apply(name, *values) if isinstance(xp, Trace) else xp.zeros_like(values[1]) + values[0]
    arrays = [
        xp.asarray(v, dtype=xp.bool if isinstance(v, bool) else like.dtype) if isinstance(v, int | float) else v
        for v in values
    ]
    return getattr(xp, name)(*arrays)


def _leaf(xp: Any, node: Node, given: dict[str, Any], like: Any) -> Any:
    """Return the value of a node without arguments."""
    if node.operation == "input":
        return given[str(node.value)]
    if node.operation == "constant":
        return node.value
    if node.operation == "outputs":
        return like.shape[0]
    if isinstance(xp, Trace):
        return xp.output()
    return xp.zeros_like(like) + xp.reshape(xp.arange(like.shape[0], dtype=like.dtype), (-1, 1))


def _number(name: str, values: Sequence[Any], dtype: str) -> Any:
    """Return an operation on numbers: operators in double precision, as in Python, and functions in the dtype.

    There is no error where Python would raise one: 1 / 0 is infinite.
    """
    if name == "where":
        return values[1] if values[0] else values[2]
    if name == "number":
        return float(values[0])
    kind = np.dtype(dtype).type if name in FUNCTIONS else np.bool if name in LOGIC else np.float64
    with np.errstate(all="ignore"):
        return getattr(np, name)(*map(kind, values)).item()


class Symbol:
    """A value while tracing: an array of unknown elements, or a number that is not known yet."""

    __array_ufunc__ = None  # NumPy's functions must not take it for an object
    __hash__ = object.__hash__

    def __init__(self, trace: "Trace", index: int, kind: Kind) -> None:
        self.trace, self.index, self.kind = trace, index, kind

    @property
    def dtype(self) -> Any:
        return np.dtype(bool) if self.kind.boolean else self.trace.dtype

    @property
    def ndim(self) -> int:
        return self.trace.dimensions if self.kind.shape else 0

    @property
    def shape(self) -> tuple[Any, ...]:
        if self.trace.dimensions != 2 or not self.kind.shape:
            raise NotAnExpressionError("the shape of a flat array or of a number")
        return (self.trace.outputs if self.kind.shape == FULL else 1, Samples())

    def __bool__(self) -> NoReturn:
        raise NotAnExpressionError("a branch on the values of an array")

    def __eq__(self, other: object) -> NoReturn:
        raise NotAnExpressionError("==, which is not in the Array protocol (use xp.equal)")

    __ne__ = __eq__

    def __float__(self) -> NoReturn:
        raise NotAnExpressionError("the values of an array as Python numbers")

    def __getitem__(self, key: Any) -> "Symbol":
        return self.trace.row(self, key)

    __int__ = __index__ = __float__
    __iter__ = None

    def __pow__(self, exponent: Any) -> NoReturn:
        raise NotAnExpressionError("a power, which is not in the Array protocol (write products instead)")


class Samples:
    """The number of samples while tracing, on which an expression must not depend."""

    def _refuse(self, *others: Any) -> NoReturn:
        raise NotAnExpressionError("the number of samples")

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _refuse
    __int__ = __index__ = __float__ = __bool__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse


class Outputs(int):
    """The number of outputs while tracing: a value to compute with, and a whole number to branch on."""

    trace: "Trace"


def _operator(name: str, swapped: bool = False) -> Callable[..., Any]:
    def apply(self: Any, *other: Any) -> Any:
        return self.trace.apply(name, *(*other, self) if swapped else (self, *other))

    return apply


for _name, _operation in {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "neg": "negative", "abs": "abs",
    "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal",
    "and": "bitwise_and", "xor": "bitwise_xor",
}.items():  # fmt: skip
    setattr(Symbol, f"__{_name}__", _operator(_operation))
    if _operation in ARITHMETIC and ARITHMETIC[_operation] == 2:
        setattr(Symbol, f"__r{_name}__", _operator(_operation, swapped=True))
        setattr(Outputs, f"__{_name}__", _operator(_operation))
        setattr(Outputs, f"__r{_name}__", _operator(_operation, swapped=True))


class Trace:
    """A namespace that records operations as nodes; equal nodes are recorded once, and constants are folded.

    Parameters
    ----------
    dtype : {"float32", "float64"}
    outputs : int, default 2
        The number of outputs that a function sees if it branches on it.
    dimensions : int, default 2
        The number of dimensions of the arrays: 2, or 1 for the flat arrays of an update.
    by_output : bool, default False
        Whether the function may tell the outputs apart: take one row of an array, make an array of one row for each
        output, or use a constant for each output.
    """

    bool, int64, float32, float64 = np.dtype(np.bool), np.dtype(np.int64), np.dtype(np.float32), np.dtype(np.float64)
    finfo = staticmethod(np.finfo)

    def __init__(self, dtype: str, outputs: int = 2, dimensions: int = 2, by_output: Any = False) -> None:
        self.dtype, self.dimensions, self.by_output = np.dtype(dtype), dimensions, by_output
        self.outputs = Outputs(outputs)
        self.outputs.trace = self
        self.nodes: list[Node] = []
        self.symbols: list[Symbol] = []
        self._seen: dict[tuple[Any, ...], Symbol] = {}
        self._arrays: tuple[str, ...] = ()

    def input(self, name: str, number: Any = False) -> Symbol:
        """Return the symbol of an argument."""
        if not number:
            self._arrays = (*self._arrays, name)
        return self._node(Node("input", (), name))

    def constant(self, value: float) -> Symbol:
        """Return the symbol of a number."""
        return self._node(Node("constant", (), float(value)))

    def expression(self, results: Sequence[Symbol], arrays: Sequence[str], numbers: Sequence[str] = ()) -> Expression:
        """Return the expression of these results, without the nodes that they do not depend on."""
        used = {x.index for x in results}
        for index in range(len(self.nodes) - 1, -1, -1):
            if index in used:
                used.update(self.nodes[index].arguments)
        places = {index: place for place, index in enumerate(sorted(used))}
        nodes = [
            self.nodes[index]._replace(arguments=tuple(places[i] for i in self.nodes[index].arguments))
            for index in sorted(used)
        ]
        return Expression(
            tuple(arrays), tuple(numbers), tuple(nodes), tuple(places[x.index] for x in results), self.dtype.name
        )

    # --- the functions of the protocol ------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Callable[..., Symbol]:
        if name in FUNCTIONS or name in COMPARISONS or name == "where":
            return partial(self.apply, name)
        raise NotAnExpressionError(f"the function {name}")

    def asarray(self, obj: Any, /, *, dtype: Any = None, copy: Any = None) -> Symbol:
        """Return a number or a value of the trace."""
        if isinstance(obj, Symbol):
            return obj if dtype is None else self.astype(obj, dtype)
        if np.ndim(obj):
            if not self.by_output or np.shape(obj) != (self.outputs, 1):
                raise NotAnExpressionError("an array of constants")
            return self._rows([self.constant(row[0]) for row in obj])
        if isinstance(obj, bool | np.bool):
            return self.symbol(self.apply("equal", 1.0, float(obj)))  # there are no constants of this kind
        return self.symbol(obj)

    def astype(self, x: Symbol, dtype: Any, /) -> Symbol:
        """Return True and False as 1 and 0; the only conversion of an expression."""
        if np.dtype(dtype) == x.dtype:
            return x
        if not x.kind.boolean or np.dtype(dtype) != self.dtype:
            raise NotAnExpressionError(f"a conversion from {x.dtype} to {np.dtype(dtype)}")
        number: Symbol = self.apply("number", x)
        return number

    def zeros_like(self, x: Symbol, /) -> Symbol:
        """Return zeros of the shape of x."""
        return self._like(0.0, x)

    def ones_like(self, x: Symbol, /) -> Symbol:
        """Return ones of the shape of x."""
        return self._like(1.0, x)

    def _like(self, value: float, x: Symbol) -> Symbol:
        """Return a number, broadcast to the shape of x, on which sums over the outputs depend."""
        x, number = self.symbol(x), self.constant(value)
        return number if x.kind.shape == NUMBER else self.symbol(self.apply("spread", number, x))

    def sum(self, x: Symbol, /, *, axis: Any = None, keepdims: Any = False) -> Symbol:
        """Return the sum over the outputs."""
        return self._reduce("sum", x, axis, keepdims)

    def max(self, x: Symbol, /, *, axis: Any = None, keepdims: Any = False) -> Symbol:
        """Return the maximum over the outputs."""
        return self._reduce("max", x, axis, keepdims)

    def _reduce(self, name: str, x: Symbol, axis: Any, keepdims: Any) -> Symbol:
        if self.dimensions != 2 or axis not in (0, -2) or not keepdims:
            raise NotAnExpressionError(f"{name} with axis={axis}, keepdims={keepdims} instead of axis=0, keepdims=True")
        if x.kind.shape == PER_SAMPLE:
            return x
        if x.kind.shape == NUMBER:
            return self.symbol(x * self.outputs) if name == "sum" else x  # type: ignore[operator]
        return self.symbol(self.apply(name, x))

    def row(self, x: Symbol, key: Any) -> Symbol:
        """Return one row of x, as its sum over the outputs without the others, or x itself for all rows."""
        rows = key[0] if isinstance(key, tuple) and key[1:] == (slice(None),) else key
        if not self.by_output or x.kind.shape != FULL or not isinstance(rows, slice):
            raise NotAnExpressionError("an index")
        chosen = range(int(self.outputs))[rows]
        if len(chosen) == self.outputs and rows.step in (None, 1):
            return x
        if len(chosen) != 1:
            raise NotAnExpressionError("an index of several rows")
        is_chosen = self.apply("equal", self.output(), float(chosen[0]))
        return self.sum(self.apply("where", is_chosen, x, 0.0), axis=0, keepdims=True)

    def concat(self, arrays: Any, /, *, axis: Any = 0) -> Symbol:
        """Return the array of these rows, one for each output."""
        rows = [self.symbol(x) for x in arrays]
        is_each_output = axis == 0 and len(rows) == self.outputs and all(x.kind.shape == PER_SAMPLE for x in rows)
        if not self.by_output or not is_each_output:
            raise NotAnExpressionError("the function concat")
        return self._rows(rows)

    def _rows(self, rows: Sequence[Symbol]) -> Symbol:
        """Return the array with one value for each output."""
        result = rows[-1]
        for i, row in reversed(list(enumerate(rows[:-1]))):
            result = self.apply("where", self.apply("equal", self.output(), float(i)), row, result)
        return result

    def output(self) -> Symbol:
        """Return the index of the output that each element belongs to."""
        return self._node(Node("output"))

    # --- recording --------------------------------------------------------------------------------------------------

    def symbol(self, x: Any) -> Symbol:
        """Return the symbol of an operand."""
        if isinstance(x, Symbol):
            if x.trace is not self:
                raise NotAnExpressionError("a value of another trace")
            return x
        if isinstance(x, Outputs):
            return self._node(Node("outputs"))
        if isinstance(x, Samples):
            raise NotAnExpressionError("the number of samples")
        if isinstance(x, bool | np.bool) or not isinstance(x, int | float | np.number | np.ndarray) or np.ndim(x):
            raise NotAnExpressionError(f"an operand of type {type(x).__name__}")
        return self.constant(float(x))

    def apply(self, name: str, *operands: Any) -> Any:
        """Return the result of an operation: simplified, equal to an earlier one, or a new node."""
        if len(operands) != OPERATIONS[name]:
            raise NotAnExpressionError(f"{name} with {len(operands)} arguments")
        symbols = [self.symbol(x) for x in operands]
        if [x.kind.boolean for x in symbols] != _booleans(name):
            raise NotAnExpressionError(f"{name} of a condition (use xp.astype), or a number as a condition")
        simpler = self._simplified(name, symbols)
        return self._node(Node(name, tuple(x.index for x in symbols))) if simpler is None else simpler

    def _simplified(self, name: str, symbols: Sequence[Symbol]) -> Symbol | None:
        nodes = [self.nodes[x.index] for x in symbols]
        values = [node.value if node.operation == "constant" else None for node in nodes]
        if all(value is not None for value in values):
            return self._folded(name, values)
        if name == "multiply" and 1.0 in values:
            return symbols[1 - values.index(1.0)]
        if name == "divide" and values[1] == 1.0:
            return symbols[0]
        if name == "negative" and nodes[0].operation == "negative":
            return self.symbols[nodes[0].arguments[0]]
        return None

    def _folded(self, name: str, values: Sequence[Any]) -> Symbol | None:
        """Return an operation on constants as a constant."""
        if name in ARITHMETIC or name in FUNCTIONS:
            return self.constant(_number(name, values, self.dtype.name))
        return None

    def _node(self, node: Node) -> Symbol:
        key = node.operation, node.arguments, repr(node.value)  # -0.0 equals 0.0, and NaN does not equal itself
        if key not in self._seen:
            if len(self.nodes) >= LARGEST:
                raise NotAnExpressionError(f"more than {LARGEST:,} operations")
            kind = _kind(node, [self.symbols[i].kind for i in node.arguments], self._arrays)
            self.nodes.append(node)
            self.symbols.append(Symbol(self, len(self.nodes) - 1, kind))
            self._seen[key] = self.symbols[-1]
        return self._seen[key]


def trace(
    function: Callable[..., Any],
    arrays: Sequence[str],
    dtype: str,
    outputs: int = 2,
    numbers: Sequence[str] = (),
    dimensions: int = 2,
    by_output: bool = False,
) -> Expression:
    """Return the expression that a function computes.

    Parameters
    ----------
    function : callable
        Takes a namespace, the arrays and the numbers, and returns an array or a tuple of arrays.
    arrays, numbers : sequence of str
        The names of its arguments.
    dtype : {"float32", "float64"}
    outputs : int, default 2
        The number of outputs that it sees if it branches on it.
    dimensions : int, default 2
    by_output : bool, default False
        As for :class:`Trace`.

    Raises
    ------
    NotAnExpressionError
        If it does something that an expression cannot represent.

    Examples
    --------
    >>> square = trace(lambda xp, Z: Z * Z, ["Z"], "float64")
    >>> square.nodes[-1]
    Node(operation='multiply', arguments=(0, 0), value=None)
    >>> square(np, np.array([[3.0]]))
    (array([[9.]]),)
    """
    xp = Trace(dtype, outputs, dimensions, by_output)
    symbols = [xp.input(name) for name in arrays] + [xp.input(name, number=True) for name in numbers]
    try:
        results = function(xp, *symbols)
    except NotAnExpressionError:
        raise
    except Exception as error:  # it may do anything: only what it does on arrays is known to work
        problem = f"{type(error).__name__}: {error}"
        raise NotAnExpressionError(
            f"something that fails while it is traced, where only operators and functions of ops.xp work ({problem})"
        ) from None
    results = results if isinstance(results, tuple) else (results,)
    return xp.expression([xp.symbol(x) for x in results], arrays, numbers)
