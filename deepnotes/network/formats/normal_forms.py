"""Recognition of activations and normalizations in ONNX graphs by the normal forms of expressions.

An exporter may write GELU as one node, or as seven nodes in any order. So expressions are converted to a normal form:
sums and products are flattened and sorted; a difference becomes a sum; a square, a cube, or a quotient by a number
becomes a product. An expression that has the same normal form as an activation is recognized as that activation. The
expressions that deepnotes itself writes are traced from the equations.
"""

from collections.abc import Callable, Mapping
from functools import cache, partial
from math import pi, sqrt
from typing import Any

import numpy as np

from deepnotes.equations.activations import SELU
from deepnotes.equations.ops import Ops
from deepnotes.network.formats.tracing import KERNELS, Trace, Value
from deepnotes.nn.activations import LIBRARY, Activation
from deepnotes.nn.layers import LayerNorm, RMSNorm

DIGITS = {"float16": 3, "float32": 7, "float64": 14}
"""The number of significant digits in which two constants must agree to count as equal, by the dtype of the file."""
MAX_TERMS = 64
"""The largest number of terms of a flattened sum or product; even a few nodes can expand to a huge sum."""
DEFAULTS: dict[str, dict[str, Any]] = {
    "LeakyRelu": {"alpha": 0.01}, "Elu": {"alpha": 1.0}, "Gelu": {"approximate": "none"}, "Celu": {"alpha": 1.0},
}  # fmt: skip
"""The attributes that affect the result of a node, with their default values, by operation."""
MAX_OPTION_VALUES = 256
"""The largest number of constants in a file that are tried as values of an activation's option."""
COMMUTATIVE = {"Max", "Min", "Equal"}
TRANSPARENT = {"Identity", "Dropout"}
ELEMENTARY = COMMUTATIVE | {
    "Relu", "Sigmoid", "Tanh", "Erf", "Exp", "Log", "Softplus", "Abs", "Sqrt", "Where", "Greater", "GreaterOrEqual",
    "Less", "LessOrEqual", "LeakyRelu", "Elu", "Gelu", "Softmax", "ReduceMax", "ReduceSum", "Not", "Sign",
    "LogSoftmax", "Celu", "Selu", "Mish", "HardSwish", "Softsign",
}  # fmt: skip
ALGEBRA = {"Add", "Sub", "Mul", "Div", "Neg", "Pow", "Reciprocal"}
OPERATIONS = ELEMENTARY | ALGEBRA | TRANSPARENT
"""The operations that a normal form may contain."""
OPERANDS = dict.fromkeys(["Add", "Sub", "Mul", "Div", "Pow", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"], 2)
OPERANDS |= {"Max": 2, "Min": 2, "Equal": 2, "Where": 3}
"""The number of operands of each operation that does not have exactly one operand."""

Form = Any
"""The index of an expression in a :class:`Table`, or None if the expression has no normal form."""


class Table:
    """Expressions in normal form; each is stored once and is identified by its index.

    Parameters
    ----------
    dtype : {"float16", "float32", "float64"}
        Constants count as equal if they agree in 3, 7 or 14 significant digits, respectively.
    """

    def __init__(self, dtype: str) -> None:
        self.digits = DIGITS[dtype]
        self._indices: dict[Any, int] = {}
        self._entries: list[Any] = []
        self._below_roots: dict[int, float] = {}  # see added_below_root

    def copy(self) -> "Table":
        """Return an independent copy of this table."""
        other = Table.__new__(Table)
        other.digits, other._indices, other._entries = self.digits, dict(self._indices), list(self._entries)
        other._below_roots = dict(self._below_roots)
        return other

    def _put(self, *entry: Any) -> int:
        """Return the index of an entry, after adding it if it is new.

        An entry consists of an operation, a number or an attribute, and the forms of the operands.
        """
        op, number, *operands = entry
        key = op, self._round(number) if isinstance(number, float) else number, *operands
        if key not in self._indices:
            index = self._indices[key] = len(self._entries)
            self._entries.append(entry)
            below = self._entries[operands[0]] if op == "Sqrt" else ("", 0.0)
            if below[0] == "+":
                self._below_roots[index] = below[1]
            elif inherited := [x for x in operands if x in self._below_roots]:
                self._below_roots[index] = self._below_roots[inherited[0]]
        return self._indices[key]

    def _round(self, x: float) -> float:
        """Return x, rounded to the number of digits in which equal constants must agree."""
        return float(f"{x:.{self.digits - 1}e}") + 0.0  # -0 becomes 0

    def variable(self) -> Form:
        """Return the form of the argument x."""
        return self._put("x", None)

    def constant(self, x: float) -> Form:
        """Return the form of a number."""
        return self._put("c", float(x))

    def added_below_root(self, form: Form) -> float | None:
        """Return the number that is added to the argument of a square root in a form, such as an epsilon, or None."""
        return self._below_roots.get(form)

    def _constant_of(self, form: Form) -> float | None:
        entry = self._entries[form]
        return entry[1] if entry[0] == "c" else None

    def node(self, op: str, operands: list[Form], attributes: Mapping[str, Any]) -> Form:
        """Return the form of an operation on `operands`, or None if it has no normal form."""
        if not operands or any(operand is None for operand in operands) or op not in OPERATIONS:
            return None
        if op in TRANSPARENT:  # the second operand of Dropout is its rate
            return operands[0]
        if len(operands) != OPERANDS.get(op, 1):
            return None
        if op in ALGEBRA:
            return self._algebraic(op, operands[0], operands[-1])
        (attribute,) = [attributes.get(name, default) for name, default in DEFAULTS.get(op, {"": None}).items()]
        return self._put(op, attribute, *(sorted(operands) if op in COMMUTATIVE else operands))

    def _algebraic(self, op: str, first: Form, last: Form) -> Form:
        """Return the form of an operation in ``ALGEBRA``; for a single operand, `first` and `last` are the same."""
        number = self._constant_of(last)
        match op:
            case "Add":
                return self._sum([first, last])
            case "Sub":
                return self._sum([first, self._product([last, self.constant(-1)])])
            case "Mul":
                return self._product([first, last])
            case "Neg":
                return self._product([first, self.constant(-1)])
            case "Div" if number:
                return self._product([first, self.constant(1 / number)])
            case "Div":
                return self._put("Div", None, first, last)
            case "Reciprocal":
                return self._put("Div", None, self.constant(1), first)
            case _:  # Pow
                return self._product([first] * int(number)) if number in (2, 3) else None

    def _sum(self, operands: list[Form]) -> Form:
        return self._flatten("+", operands, 0.0, lambda a, b: a + b)

    def _product(self, operands: list[Form]) -> Form:
        return self._flatten("*", operands, 1.0, lambda a, b: a * b)

    def _flatten(self, op: str, operands: list[Form], neutral: float, join: Callable[[float, float], float]) -> Form:
        """Return the form of a sum or product: the constants become one number, and the other terms are sorted."""
        number, terms = neutral, list[int]()
        for operand in operands:
            if operand is None:
                return None
            entry = self._entries[operand]
            if entry[0] == "c":
                number = join(number, entry[1])
            elif entry[0] == op:
                number, terms = join(number, entry[1]), [*terms, *entry[2:]]
            else:
                terms.append(operand)
        if len(terms) > MAX_TERMS or not np.isfinite(number):
            return None
        if not terms:
            return self.constant(number)
        if self._round(number) == neutral and len(terms) == 1:
            return terms[0]
        return self._put(op, number, *sorted(terms))

    def of_function(self, function: Callable[[Trace, Any], Any], dtype: str) -> Form:
        """Return the form of a function by tracing it: the function is called with a namespace and the argument x."""
        dtype = "float64" if dtype == "float64" else "float32"
        trace = Trace(dtype)
        result = function(trace, Value(trace, "x", np.dtype(dtype)))
        forms = {name: self.constant(float(value)) for name, value in trace.constants.items() if value.ndim == 0}
        forms["x"] = self.variable()
        for node in trace.nodes:
            operands = [name for name in node.input if name in forms]  # without the axes of a sum
            forms[node.output[0]] = self.node(
                node.op_type, [forms[name] for name in operands], attributes_of(trace.onnx, node)
            )
        return forms[result.name]


def attributes_of(onnx: Any, node: Any) -> dict[str, Any]:
    """Return the attributes of a node that are numbers, strings, or lists of numbers or strings, by name."""
    kinds = onnx.AttributeProto
    plain = {kinds.FLOAT: "f", kinds.INT: "i", kinds.STRING: "s", kinds.FLOATS: "floats", kinds.INTS: "ints"}
    plain |= {kinds.STRINGS: "strings"}
    values: dict[str, Any] = {}
    for attribute in node.attribute:
        if attribute.type in plain:
            value = getattr(attribute, plain[attribute.type])
            values[attribute.name] = value if isinstance(value, int | float | bytes) else list(value)
    return {name: x.decode("utf-8", "replace") if isinstance(x, bytes) else x for name, x in values.items()}


def _erf_gelu(xp: Any, x: Any) -> Any:
    return 0.5 * x * (1 + xp.node("Erf", x / sqrt(2)))


def _tanh_gelu(xp: Any, x: Any) -> Any:
    return 0.5 * x * (1 + xp.node("Tanh", sqrt(2 / pi) * (x + 0.044715 * x * x * x)))


def _softmax(xp: Any, x: Any) -> Any:
    E = xp.exp(x - xp.node("ReduceMax", x))
    return E / xp.node("ReduceSum", E)


def _leaky_relu_max(xp: Any, x: Any, slope: float) -> Any:
    return xp.node("Max", x, slope * x) if 0 <= slope <= 1 else xp.node("LeakyRelu", x, alpha=slope)


def _leaky_relu_ge(xp: Any, x: Any, slope: float) -> Any:
    return xp.where(x >= 0, x, slope * x)


def _leaky_relu_gt(xp: Any, x: Any, slope: float) -> Any:
    return xp.where(x > 0, x, slope * x)


def _elu_without_overflow(xp: Any, x: Any, alpha: float) -> Any:
    return xp.where(x > 0, x, alpha * (xp.exp(xp.where(x > 0, 0, x)) - 1))


def _stable_softplus(xp: Any, x: Any) -> Any:
    return xp.node("Max", x, 0) + xp.log(1 + xp.exp(-abs(x)))


def _logaddexp(xp: Any, x: Any) -> Any:
    return xp.where(xp.node("Not", xp.node("Equal", x, x)), x, _stable_softplus(xp, x))


def _softplus_node(xp: Any, x: Any) -> Any:
    return xp.node("Softplus", x)


def _softplus_mish(xp: Any, x: Any, softplus: Callable[[Any, Any], Any]) -> Any:
    return x * xp.node("Tanh", softplus(xp, x))


def _elu_selu(xp: Any, x: Any) -> Any:
    return SELU[1] * _elu_without_overflow(xp, x, SELU[0])


def _celu_without_overflow(xp: Any, x: Any, alpha: float) -> Any:
    return xp.where(x > 0, x, alpha * (xp.exp(xp.where(x > 0, 0, x) / alpha) - 1))


def _clip(xp: Any, x: Any, low: float, high: float) -> Any:
    return xp.node("Min", xp.node("Max", x, low), high)


def _log_softmax(xp: Any, x: Any) -> Any:
    D = x - xp.node("ReduceMax", x)
    return D - xp.log(xp.node("ReduceSum", xp.exp(D)))


EXPORTER_EXPRESSIONS: dict[str, list[Callable[..., Any]]] = {
    "relu": [lambda xp, x: xp.node("Relu", x), lambda xp, x: xp.node("Max", x, 0)],
    "sigmoid": [lambda xp, x: xp.node("Sigmoid", x)],
    "tanh": [lambda xp, x: xp.node("Tanh", x)],
    "silu": [lambda xp, x: x * xp.node("Sigmoid", x)],
    "softplus": [
        lambda xp, x: xp.node("Softplus", x),
        lambda xp, x: xp.log(1 + xp.exp(x)),
        _stable_softplus,
        _logaddexp,
    ],
    "gelu": [_erf_gelu, lambda xp, x: xp.node("Gelu", x)],
    "gelu_tanh": [_tanh_gelu, lambda xp, x: xp.node("Gelu", x, approximate="tanh")],
    "leaky_relu": [
        lambda xp, x, slope: xp.node("LeakyRelu", x, alpha=slope),
        _leaky_relu_max,
        _leaky_relu_ge,
        _leaky_relu_gt,
    ],
    "elu": [lambda xp, x, alpha: xp.node("Elu", x, alpha=alpha), _elu_without_overflow],
    "softmax": [_softmax],
    "log_softmax": [lambda xp, x: xp.node("LogSoftmax", x), _log_softmax],
    "selu": [lambda xp, x: xp.node("Selu", x), _elu_selu],
    "celu": [lambda xp, x, alpha: xp.node("Celu", x, alpha=alpha), _celu_without_overflow],
    "softsign": [lambda xp, x: xp.node("Softsign", x)],
    "relu6": [
        lambda xp, x: _clip(xp, x, 0, 6),
        lambda xp, x: xp.node("Min", xp.node("Relu", x), 6),
        lambda xp, x: xp.node("Max", xp.node("Min", x, 6), 0),
    ],
    "hardswish": [
        lambda xp, x: xp.node("HardSwish", x),
        lambda xp, x: x * _clip(xp, x + 3, 0, 6) / 6,
        lambda xp, x: x * xp.node("Min", xp.node("Relu", x + 3), 6) / 6,
        lambda xp, x: x * xp.node("Max", xp.node("Min", x + 3, 6), 0) / 6,
        lambda xp, x: x * _clip(xp, x / 6 + 0.5, 0, 1),
    ],
    "mish": [
        lambda xp, x: xp.node("Mish", x),
        *(partial(_softplus_mish, softplus=f) for f in (_softplus_node, _stable_softplus, _logaddexp)),
    ],
}
"""The expressions that other exporters write, by activation, without those that the equations already give."""


def _pytorch_softplus(xp: Any, x: Any) -> Any:
    """Return softplus as PyTorch exports it: x where x > 20, which is equal to softplus in single precision."""
    return xp.where(x > 20, x, xp.node("Softplus", x))


def _scaled_by_deviation(xp: Any, x: Any, n: int, epsilon: float, centered: bool, inverted: bool) -> Any:
    """Return x, less its mean if `centered`, divided by the root of the mean of its squares plus epsilon.

    If `inverted`, it is multiplied by the inverse of the root instead.
    """
    x = x - xp.node("ReduceSum", x) / n if centered else x
    deviation = xp.sqrt(xp.node("ReduceSum", x * x) / n + epsilon)
    return x * (1 / deviation) if inverted else x / deviation


NORMALIZATIONS: dict[type[LayerNorm | RMSNorm], list[Callable[..., Any]]] = {
    layer: [partial(_scaled_by_deviation, centered=centered, inverted=inverted) for inverted in (False, True)]
    for layer, centered in ((LayerNorm, True), (RMSNorm, False))
}
"""The expressions of normalizations without their parameters, as exporters and the equations write them."""


@cache
def _activations_by_form(dtype: str) -> tuple[Table, dict[Form, Activation]]:
    """Return a table, and a dict of the activations that have no options, by their forms in the table."""
    table, activations = Table(dtype), {}
    for name, traits in LIBRARY.items():
        if not traits.options and name != "identity":
            others = EXPORTER_EXPRESSIONS.get(name, []) + [_pytorch_softplus] * (
                name == "softplus" and dtype != "float64"
            )
            for function in [_equation(name), *others]:
                form = table.of_function(function, dtype)
                assert form is not None, f"{name} is traced to a node without a normal form"
                activations[form] = Activation(name)
    return table, activations


def _equation(name: str) -> Callable[..., Any]:
    """Return the equation of an activation as a function to trace."""
    return lambda xp, x, **options: getattr(Ops(xp, KERNELS), name)(x, **options)


class Forms:
    """The normal forms of activations; one object is used per file.

    Parameters
    ----------
    dtype : {"float16", "float32", "float64"}
        The dtype of the file's weights.
    """

    def __init__(self, dtype: str) -> None:
        table, self._without_options = _activations_by_form(dtype)
        self.table, self.dtype = table.copy(), dtype
        self._with_options: dict[float, dict[Form, Activation]] = {}
        self._normalizations: dict[tuple[float, int], dict[Form, type[LayerNorm | RMSNorm]]] = {}

    def activation(self, form: Form, numbers: set[float]) -> Activation | None:
        """Return the activation with this form, or None; for an option, only the values in `numbers` are tried."""
        if form in self._without_options:
            return self._without_options[form]
        if len(numbers) > 8:  # more than any activation with an option contains
            return None
        for number in sorted(numbers):
            if number not in self._with_options and len(self._with_options) < MAX_OPTION_VALUES:
                self._with_options[number] = self._activations_with_option(number)
            if form in self._with_options.get(number, {}):
                return self._with_options[number][form]
        return None

    def normalization(self, form: Form, n: int) -> LayerNorm | RMSNorm | None:
        """Return the normalization of n features with this form, or None."""
        epsilon = self.table.added_below_root(form)
        if epsilon is None or not epsilon > 0:
            return None
        key = epsilon, n
        if key not in self._normalizations:
            self._normalizations[key] = {
                self.table.of_function(partial(function, epsilon=epsilon, n=n), self.dtype): layer
                for layer, functions in NORMALIZATIONS.items()
                for function in functions
            }
        layer = self._normalizations[key].get(form)
        return None if layer is None else layer(self.shortest(epsilon))

    def _activations_with_option(self, number: float) -> dict[Form, Activation]:
        """Return all activations that have an option, with `number` as its value, by their forms."""
        activations: dict[Form, Activation] = {}
        for name, traits in LIBRARY.items():
            for option in traits.options if number > 0 or not traits.positive else ():
                for function in [_equation(name), *EXPORTER_EXPRESSIONS[name]]:
                    form = self.table.of_function(partial(function, **{option: number}), self.dtype)
                    activations.setdefault(form, Activation(name, **{option: self.shortest(number)}))
        return activations

    def shortest(self, number: float) -> float:
        """Return the shortest decimal number, such as 0.01, that rounds to `number`.

        It is rounded to the dtype of the file; in half precision to float32, in which the network computes.
        """
        dtype = np.float64 if self.dtype == "float64" else np.float32
        with np.errstate(all="ignore"):
            rounded = float(str(dtype(number)))
        return rounded if 0 < abs(rounded) < np.inf else number
