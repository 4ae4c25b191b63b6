"""The formulas of activations and layers as C99 functions, generated from their expressions."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from deepnotes.nn.expressions import FULL, PER_SAMPLE, Expression

OPERATIONS = {
    "add": "{} + {}", "subtract": "{} - {}", "multiply": "{} * {}", "divide": "{} / {}", "negative": "-{}",
    "less": "{} < {}", "less_equal": "{} <= {}", "greater": "{} > {}", "greater_equal": "{} >= {}",
    "equal": "{} == {}", "bitwise_and": "{} & {}", "bitwise_xor": "{} ^ {}", "where": "{} ? {} : {}", "spread": "{0}",
    "number": "{} ? 1 : 0", "sign": "{0} > 0 ? 1 : {0} < 0 ? -1 : {0} + 0",
    "maximum": "{0} > {1} || {0} != {0} ? {0} : {1}", "minimum": "{0} < {1} || {0} != {0} ? {0} : {1}",
}  # fmt: skip
"""The operations of expressions in C; the others are functions of ``math.h``. A NaN remains a NaN."""
FUNCTIONS = {"abs": "fabs"} | {name: name for name in ("exp", "expm1", "log", "log1p", "sqrt", "tanh")}
REDUCTIONS = ("sum", "max")


def literal(x: float, dtype: str) -> str:
    """Return a number as a constant of C, in hexadecimal so that it is exact.

    Examples
    --------
    >>> literal(0.1, "float64"), literal(-3.0, "float32"), literal(float("-inf"), "float32")
    ('0x1.999999999999ap-4', '-3.0f', '-INFINITY')
    """
    with np.errstate(over="ignore"):
        value = float(np.dtype(dtype).type(x))
    suffix = "f" if dtype == "float32" else ""
    if np.isnan(value):
        return f"({'double' if dtype == 'float64' else 'float'})NAN"
    if np.isinf(value):
        return f"{'-' * (value < 0)}INFINITY"
    if value.is_integer() and abs(value) < 1e6:
        return f"{value}{suffix}"
    mantissa, _, exponent = value.hex().partition("p")
    return f"{mantissa.rstrip('0')}p{int(exponent)}{suffix}"


def function_of(formula: Expression, name: str, outputs: int, others: Mapping[str, str] | None = None) -> list[str]:
    """Return the lines of a C function that replaces Z, an array of one sample's `outputs`, by ``A = g(Z)`` (N3).

    `others` are the sources of the elements of the formula's other arguments.
    """
    numbers = formula.values_of_numbers(np.empty((outputs, 0), formula.dtype))
    return [f"static void {name}(real *a)", "{", *_Body(formula, numbers, outputs, others or {}).lines(), "}"]


class _Body:
    """The statements of one function: a loop over the outputs for each reduction, and one for the result.

    A loop computes the elements that it needs again, so that no memory is needed for them.
    """

    def __init__(
        self, formula: Expression, numbers: dict[int, float | bool], outputs: int, others: Mapping[str, str]
    ) -> None:
        self.others = others
        self.nodes, self.shapes = formula.nodes, [kind.shape for kind in formula.kinds]
        self.booleans = [kind.boolean for kind in formula.kinds]
        self.result, self.dtype, self.outputs = formula.results[0], formula.dtype, outputs
        self.names = [f"{'r' if shape == PER_SAMPLE else 't'}{i}" for i, shape in enumerate(self.shapes)]
        for index, value in numbers.items():
            self.names[index] = str(int(value)) if isinstance(value, bool) else self._constant(value)

    def _constant(self, value: float) -> str:
        text = literal(value, self.dtype)
        return f"({text})" if text.startswith("-") else text

    def lines(self) -> Iterator[str]:
        """Yield the statements."""
        yield "    int i;"
        mine = [i for i, shape in enumerate(self.shapes) if shape == PER_SAMPLE]
        for index in mine:
            kind = "int" if self.booleans[index] else "real"
            start = {"sum": " = 0", "max": " = -INFINITY"}.get(self.nodes[index].operation, "")
            yield f"    {kind} {self.names[index]}{start};"
        for index in mine:
            if self.nodes[index].operation in REDUCTIONS:
                yield from self._reduction(index)
            else:
                yield f"    {self.names[index]} = {self._value(index)};"
        yield from self._loop([self.result], f"a[i] = {self.names[self.result]};")

    def _reduction(self, index: int) -> Iterator[str]:
        (argument,), name = self.nodes[index].arguments, self.names[index]
        x = self.names[argument]
        if self.nodes[index].operation == "sum":
            yield from self._loop([argument], f"{name} += {x};")
        else:
            yield from self._loop([argument], f"{name} = {OPERATIONS['maximum'].format(x, name)};")

    def _loop(self, wanted: Sequence[int], last: str) -> Iterator[str]:
        """Yield a loop over the outputs that computes the elements of some nodes and ends with a statement."""
        needed = {i for i in wanted if self.shapes[i] == FULL}
        for index in range(max(needed, default=-1), -1, -1):
            if index in needed:
                needed.update(i for i in self.nodes[index].arguments if self.shapes[i] == FULL)
        yield f"    for (i = 0; i < {self.outputs}; i++) {{"
        for index in sorted(needed):
            kind = "int" if self.booleans[index] else "real"
            yield f"        const {kind} {self.names[index]} = {self._value(index)};"
        yield f"        {last}"
        yield "    }"

    def _value(self, index: int) -> str:
        node = self.nodes[index]
        if node.operation == "input":
            return self.others.get(str(node.value), "a[i]")
        arguments = [self.names[i] for i in node.arguments]
        if node.operation in FUNCTIONS:
            return f"{FUNCTIONS[node.operation]}{'f' if self.dtype == 'float32' else ''}({arguments[0]})"
        return OPERATIONS[node.operation].format(*arguments)
