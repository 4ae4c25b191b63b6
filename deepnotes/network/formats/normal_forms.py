"""Recognition of activations, in the many ways in which exporters write them, by a normal form.

An exporter writes GELU as one node, or as seven in an order of its own. So expressions are brought into a normal form:
sums and products are flat and sorted, a difference becomes a sum, and a quotient by a number or a power of 2 or 3
becomes a product. An expression with the normal form of an activation is that activation. The forms that deepnotes
itself writes are traced from the equations.
"""

from collections.abc import Callable, Mapping
from functools import cache, partial
from math import pi, sqrt
from typing import Any

import numpy as np

from deepnotes.equations.ops import Ops
from deepnotes.network.formats.tracing import KERNELS, Trace, Value
from deepnotes.nn.activations import LIBRARY, Activation

DIGITS = {"float16": 3, "float32": 7, "float64": 14}
"""The number of digits to which constants must agree to be the same number, by the precision of the file."""
TERMS = 64
"""The largest number of terms of a flat sum or product, since a short expression can have a very long sum."""
DEFAULTS: dict[str, dict[str, Any]] = {
    "LeakyRelu": {"alpha": 0.01}, "Elu": {"alpha": 1.0}, "Gelu": {"approximate": "none"},
}  # fmt: skip
"""Attributes that affect what a node computes, with their default values."""
OPTIONS = 256
"""The number of different numbers in a file that are tried as options of an activation."""
COMMUTATIVE = {"Max", "Min", "Equal"}
TRANSPARENT = {"Identity", "Dropout"}
PLAIN = COMMUTATIVE | {
    "Relu", "Sigmoid", "Tanh", "Erf", "Exp", "Log", "Softplus", "Abs", "Sqrt", "Where", "Greater", "GreaterOrEqual",
    "Less", "LessOrEqual", "LeakyRelu", "Elu", "Gelu", "Softmax", "ReduceMax", "ReduceSum", "Not",
}  # fmt: skip
ALGEBRA = {"Add", "Sub", "Mul", "Div", "Neg", "Pow", "Reciprocal"}
OPERATIONS = PLAIN | ALGEBRA | TRANSPARENT
"""The operations that a form may consist of."""
OPERANDS = dict.fromkeys(["Add", "Sub", "Mul", "Div", "Pow", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"], 2)
OPERANDS |= {"Max": 2, "Min": 2, "Equal": 2, "Where": 3}
"""The number of operands of an operation, if it is not one."""

Form = Any
"""The number of an expression in a table, or None for an expression without normal form."""


class Table:
    """Expressions in normal form, each of which is stored once and identified by its number.

    Parameters
    ----------
    dtype : {"float16", "float32", "float64"}
        Constants are the same if they agree to 3, 7 or 14 digits.
    """

    def __init__(self, dtype: str) -> None:
        self.digits = DIGITS[dtype]
        self._numbers: dict[Any, int] = {}
        self._entries: list[Any] = []

    def copy(self) -> "Table":
        """Return a table with the same expressions, to which more can be added."""
        other = Table.__new__(Table)
        other.digits, other._numbers, other._entries = self.digits, dict(self._numbers), list(self._entries)
        return other

    def _put(self, *entry: Any) -> int:
        """Return the number of an entry: an operation, a number or attributes, and the forms of its operands."""
        op, number, *parts = entry
        key = op, self._rounded(number) if isinstance(number, float) else number, *parts
        if key not in self._numbers:
            self._numbers[key] = len(self._entries)
            self._entries.append(entry)
        return self._numbers[key]

    def _rounded(self, x: float) -> float:
        return float(f"{x:.{self.digits - 1}e}") + 0.0  # -0 becomes 0

    def variable(self) -> Form:
        """Return the form of the argument x."""
        return self._put("x", None)

    def constant(self, x: float) -> Form:
        """Return the form of a number."""
        return self._put("c", float(x))

    def _constant_of(self, form: Form) -> float | None:
        entry = self._entries[form]
        return entry[1] if entry[0] == "c" else None

    def node(self, op: str, parts: list[Form], attributes: Mapping[str, Any]) -> Form:
        """Return the form of an operation on expressions; None if it has no normal form."""
        if not parts or any(part is None for part in parts) or op not in OPERATIONS:
            return None
        if op in TRANSPARENT:  # Dropout also takes its rate
            return parts[0]
        if len(parts) != OPERANDS.get(op, 1):
            return None
        if op in PLAIN:
            (given,) = [attributes.get(name, value) for name, value in DEFAULTS.get(op, {"": None}).items()]
            return self._put(op, given, *(sorted(parts) if op in COMMUTATIVE else parts))
        numbers = [self._constant_of(part) for part in parts]
        if op == "Neg":
            return self._product([parts[0], self.constant(-1)])
        if op == "Sub":
            return self._sum([parts[0], self._product([parts[1], self.constant(-1)])])
        if op == "Pow":
            power = numbers[-1]
            return self._product([parts[0]] * int(power)) if power in (2, 3) else None
        if op == "Reciprocal":
            return self._put("Div", None, self.constant(1), parts[0])
        if op == "Div":
            if numbers[1]:
                return self._product([parts[0], self.constant(1 / numbers[1])])
            return self._put("Div", None, *parts)
        return self._sum(parts) if op == "Add" else self._product(parts)

    def _sum(self, parts: list[Form]) -> Form:
        return self._flat("+", parts, 0.0, lambda a, b: a + b)

    def _product(self, parts: list[Form]) -> Form:
        return self._flat("*", parts, 1.0, lambda a, b: a * b)

    def _flat(self, op: str, parts: list[Form], neutral: float, join: Callable[[float, float], float]) -> Form:
        number, terms = neutral, list[int]()
        for part in parts:
            if part is None:
                return None
            entry = self._entries[part]
            if entry[0] == "c":
                number = join(number, entry[1])
            elif entry[0] == op:
                number, terms = join(number, entry[1]), [*terms, *entry[2:]]
            else:
                terms.append(part)
        if len(terms) > TERMS or not np.isfinite(number):
            return None
        if not terms:
            return self.constant(number)
        if self._rounded(number) == neutral and len(terms) == 1:
            return terms[0]
        return self._put(op, number, *sorted(terms))

    def of_trace(self, make: Callable[[Trace, Any], Any], dtype: str) -> Form:
        """Return the form of the expression that a function records, given a trace and its argument."""
        dtype = "float64" if dtype == "float64" else "float32"
        trace = Trace(dtype)
        result = make(trace, Value(trace, "x", np.dtype(dtype)))
        forms = {name: self.constant(float(value)) for name, value in trace.constants.items()}
        forms["x"] = self.variable()
        for node in trace.nodes:
            forms[node.output[0]] = self.node(
                node.op_type, [forms[name] for name in node.input], attributes_of(trace.onnx, node)
            )
        return forms[result.name]


def attributes_of(onnx: Any, node: Any) -> dict[str, Any]:
    """Return the attributes of a node that are numbers, text or lists of them, by name."""
    kinds = onnx.AttributeProto
    plain = {kinds.FLOAT: "f", kinds.INT: "i", kinds.STRING: "s", kinds.FLOATS: "floats", kinds.INTS: "ints"}
    plain |= {kinds.STRINGS: "strings"}
    found: dict[str, Any] = {}
    for attribute in node.attribute:
        if attribute.type in plain:
            value = getattr(attribute, plain[attribute.type])
            found[attribute.name] = value if isinstance(value, int | float | bytes) else list(value)
    return {name: x.decode("utf-8", "replace") if isinstance(x, bytes) else x for name, x in found.items()}


def _erf_gelu(xp: Any, x: Any) -> Any:
    return 0.5 * x * (1 + xp.node("Erf", x / sqrt(2)))


def _tanh_gelu(xp: Any, x: Any) -> Any:
    return 0.5 * x * (1 + xp.node("Tanh", sqrt(2 / pi) * (x + 0.044715 * x * x * x)))


def _softmax(xp: Any, x: Any) -> Any:
    E = xp.exp(x - xp.node("ReduceMax", x))
    return E / xp.node("ReduceSum", E)


def _larger(xp: Any, x: Any, slope: float) -> Any:
    return xp.node("Max", x, slope * x) if 0 <= slope <= 1 else xp.node("LeakyRelu", x, alpha=slope)


def _leaky(xp: Any, x: Any, slope: float) -> Any:
    return xp.where(x >= 0, x, slope * x)


def _leaky_above(xp: Any, x: Any, slope: float) -> Any:
    return xp.where(x > 0, x, slope * x)


def _guarded_elu(xp: Any, x: Any, alpha: float) -> Any:
    return xp.where(x > 0, x, alpha * (xp.exp(xp.where(x > 0, 0, x)) - 1))


def _larger_and_rest(xp: Any, x: Any) -> Any:
    return xp.node("Max", x, 0) + xp.log(1 + xp.exp(-abs(x)))


def _logaddexp(xp: Any, x: Any) -> Any:
    return xp.where(xp.node("Not", xp.node("Equal", x, x)), x, _larger_and_rest(xp, x))


OTHERS: dict[str, list[Callable[..., Any]]] = {
    "relu": [lambda xp, x: xp.node("Relu", x), lambda xp, x: xp.node("Max", x, 0)],
    "sigmoid": [lambda xp, x: xp.node("Sigmoid", x)],
    "tanh": [lambda xp, x: xp.node("Tanh", x)],
    "silu": [lambda xp, x: x * xp.node("Sigmoid", x)],
    "softplus": [
        lambda xp, x: xp.node("Softplus", x),
        lambda xp, x: xp.log(1 + xp.exp(x)),
        _larger_and_rest,
        _logaddexp,
    ],
    "gelu": [_erf_gelu, lambda xp, x: xp.node("Gelu", x)],
    "gelu_tanh": [_tanh_gelu, lambda xp, x: xp.node("Gelu", x, approximate="tanh")],
    "leaky_relu": [
        lambda xp, x, slope: xp.node("LeakyRelu", x, alpha=slope),
        _larger,
        _leaky,
        _leaky_above,
    ],
    "elu": [lambda xp, x, alpha: xp.node("Elu", x, alpha=alpha), _guarded_elu],
    "softmax": [_softmax],
}
"""The forms in which other exporters write activations, in addition to those of the equations."""


def _softplus_or_itself(xp: Any, x: Any) -> Any:
    """Return softplus as PyTorch writes it: above 20 it is x, which in single precision is the same number."""
    return xp.where(x > 20, x, xp.node("Softplus", x))


@cache
def _known(dtype: str) -> tuple[Table, dict[Form, Activation]]:
    """Return a table, and the activations without options by their forms in it."""
    table, found = Table(dtype), {}
    for name, traits in LIBRARY.items():
        if not traits.options and name != "identity":
            others = OTHERS.get(name, []) + [_softplus_or_itself] * (name == "softplus" and dtype != "float64")
            for form in [_equation(name), *others]:
                found[table.of_trace(form, dtype)] = Activation(name)
    return table, found


def _equation(name: str) -> Callable[..., Any]:
    return lambda xp, x, **options: getattr(Ops(xp, KERNELS), name)(x, **options)


class Forms:
    """The forms of activations that are known while a file is read.

    Parameters
    ----------
    dtype : {"float16", "float32", "float64"}
        The dtype of its weights.
    """

    def __init__(self, dtype: str) -> None:
        table, self._plain = _known(dtype)
        self.table, self.dtype = table.copy(), dtype
        self._options: dict[float, dict[Form, Activation]] = {}

    def activation(self, form: Form, numbers: set[float]) -> Activation | None:
        """Return the activation of a form; its option, if it has one, is one of the `numbers` in the expression."""
        if form in self._plain:
            return self._plain[form]
        if len(numbers) > 8:  # more than in any form of an activation with an option
            return None
        for number in sorted(numbers):
            if number not in self._options and len(self._options) < OPTIONS:
                self._options[number] = self._with_option(number)
            if form in self._options.get(number, {}):
                return self._options[number][form]
        return None

    def _with_option(self, number: float) -> dict[Form, Activation]:
        found = {}
        for name, traits in LIBRARY.items():
            for option in traits.options:
                for form in [_equation(name), *OTHERS[name]]:
                    made = self.table.of_trace(partial(form, **{option: number}), self.dtype)
                    found[made] = Activation(name, **{option: self.shortest(number)})
        return found

    def shortest(self, number: float) -> float:
        """Return the shortest decimal number that the file's precision rounds to `number`, such as 0.01."""
        return float(str(np.dtype(self.dtype).type(number)))
