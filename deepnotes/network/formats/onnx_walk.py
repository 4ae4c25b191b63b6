"""Interpretation of the nodes of an ONNX graph, in order, as layers and affine functions.

A value contains samples; it has a :class:`~deepnotes.network.formats.onnx_shapes.Shape`. If it is an affine function of
the outputs of a layer, it has an expression. Otherwise it may be an intermediate result of an activation or of a
normalization of several nodes. Such a value only has candidates: normal forms, which are compared with those of
activations and normalizations. If a layer or the output needs a value without an expression, the graph is not a chain
of layers, and is refused.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from deepnotes.network.formats.chain import Chain
from deepnotes.network.formats.composing import AnyLayer, Expression, FeatureLayer, Gated, Product, Sum, compose
from deepnotes.network.formats.normal_forms import DEFAULTS, Form, Forms
from deepnotes.network.formats.onnx_file import FOLDED, FOLDING, ML, Graph, Node
from deepnotes.network.formats.onnx_shapes import SAMPLES, UNKNOWN, Mismatch, Shape
from deepnotes.nn.activations import Activation
from deepnotes.nn.layers import LayerNorm, PReLU, RMSNorm
from deepnotes.utils.errors import ModelFileError
from deepnotes.utils.wording import brief

FLOATS = {"float16": 10, "float32": 1, "float64": 11}
"""ONNX's codes for floating-point dtypes, the narrowest first."""
NAMES = {code: name for name, code in FLOATS.items()}
"""The floating-point dtypes, by ONNX's codes."""
MAX_CANDIDATES = 8
"""The largest number of linear values that are tried as the argument of one activation.

There may be several: an operation before an activation may also be the first operation of the activation.
"""
MAX_NUMBERS = 8
"""The largest number of distinct constants in the expression of an activation with an option."""
MAX_IDENTITIES = 1 << 26
"""The largest size in bytes of all matrices that are needed only since an activation does not follow a dense layer."""
AFFINE = {"Add", "Sub", "Mul", "Div", "Neg"}
TRANSPARENT = {"Identity", "Dropout"}
REASONS = {
    "LogSoftmax": "is not over the features of each sample",
    "Clip": "does not bound its input in the same way as a ReLU",
    "PRelu": "has slopes that are not constant numbers",
    f"{ML}.Imputer": "replaces missing values, which no layer does; export the model without it",
    f"{ML}.Normalizer": "divides each sample by its own norm, which no layer does",
    "LayerNormalization": "has a scale or a bias that is not a constant with a number for each feature",
    "RMSNormalization": "has a scale that is not a constant with a number for each feature",
    "BatchNormalization": "normalizes by the batch, as in training; export the model in evaluation mode",
    "HardSigmoid": "is an unsupported activation",
    "Swish": "multiplies the argument of its sigmoid by alpha, but silu does not",
    "Celu": "has an alpha that is not above 0",
}
"""The reasons why operations are refused, always or with some attributes."""
NO_WEIGHTS = "has no constant matrix of weights"
NO_MATRICES = "has operands that are not matrices"
NO_CHAIN = "cannot be part of a chain of layers"
UNSUPPORTED_SIZES = "computes with the shape of samples by an unsupported operation"


class Refusal(ModelFileError):
    """A graph has a node that cannot be part of a chain of layers."""


class Candidate(NamedTuple):
    """A value as a function of a linear value: the normal form of the function, and the constants in it."""

    form: Form
    numbers: frozenset[float]


@dataclass(frozen=True, eq=False)
class Scaled:
    """A function of a layer's outputs that cannot be folded into the layer, as the argument of an activation."""

    expression: Expression
    outputs: int

    @property
    def name(self) -> str:
        """What it is, in text."""
        return "scaled or shifted value"


Base: TypeAlias = AnyLayer | Scaled
"""What activations and normalizations are recognized as functions of."""


@dataclass(frozen=True, eq=False)
class Value:
    """The result of a node.

    Attributes
    ----------
    shape : Shape
    dtype : str
    expression : Expression or None
        None if the value is not an affine function of a layer's outputs.
    candidates : dict of Base to Candidate
        The value as a function of what a layer computes, or of a scaled value, by this layer.
    culprit : Node or None
        The first node whose result has no expression, if this value has none.
    number : float or None
        The value of every element, if all elements are equal.
    """

    shape: Shape
    dtype: str
    expression: Expression | None
    candidates: Mapping[Base, Candidate]
    culprit: Node | None = None
    number: float | None = None


Operand: TypeAlias = Value | np.ndarray


class Walk:
    """One pass through the nodes of a graph, in order.

    Parameters
    ----------
    graph : Graph
    shape : Shape
        The shape of the input.
    handlers : dict of str to function
        The functions that read nodes, by operation; the other nodes are elementwise.
    """

    def __init__(self, graph: Graph, shape: Shape, handlers: "Handlers") -> None:
        self.graph, self._handlers = graph, handlers
        self.constants, self.samples = dict(graph.constants), shape.samples
        self.sizes: dict[str, np.ndarray] = {}  # of dtype object; SAMPLES is the number of samples
        self.narrowest: tuple[str, Node] | None = None  # the narrowest dtype of a cast, and its node
        self.dtype: str | None = None  # the dtype of the weights
        self.forms = Forms(graph.dtype if graph.dtype in FLOATS else "float32")  # until weights have another dtype
        self.values = {graph.input: self._input(shape)}
        self.budget = FOLDING[0] + FOLDING[1] * graph.bytes
        self.identities = 0  # see MAX_IDENTITIES
        self.last_use = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs}
        self.last_use[graph.output] = len(graph.nodes)
        self.node = graph.nodes[0]  # the current node

    def _input(self, shape: Shape) -> Value:
        """Return the input, of which the first layer may be a normalization."""
        candidates: dict[Base, Candidate] = {}
        base = base_of(Expression(), shape)
        if base is not None and shape.size < self.graph.bytes:  # otherwise no weights in the file are for the input
            candidates[base] = self.argument()
        return Value(shape, self.graph.dtype, Expression(), candidates)

    def argument(self) -> Candidate:
        """Return the candidate of what other values are functions of."""
        return Candidate(self.forms.table.variable(), frozenset())

    def chain(self) -> Chain:
        """Return the chain that the graph computes.

        Raises
        ------
        ModelFileError
            If the graph is not a chain of layers.
        """
        for i, node in enumerate(self.graph.nodes):
            self.node = node
            try:
                self._process(node)
            except Mismatch as error:
                raise self.refusal(str(error)) from None
            for name in node.inputs:
                if self.last_use.get(name) == i:
                    self.values.pop(name, None)
        value = self.values.get(self.graph.output)
        if value is None:
            raise Refusal(f"its output {brief(repr(self.graph.output))} is not an array of samples")
        expression = self.require_expression(value)
        if self.dtype is None:
            raise ModelFileError("it has no dense layer")
        order = list(FLOATS)
        if self.narrowest is not None and order.index(self.narrowest[0]) < order.index(self.dtype):
            self.node = self.narrowest[1]
            raise self.refusal(f"rounds to {self.narrowest[0]}, but the weights have the dtype {self.dtype}")
        dtype = "float64" if self.dtype == "float64" else "float32"
        standardizer, links = compose(expression, dtype)
        metadata = dict(self.graph.metadata)
        if self.graph.classes and "classes" not in metadata:
            metadata["classes"] = [str(name) for name in self.graph.classes]
        return Chain(tuple(links), dtype, standardizer, None, metadata)

    def refusal(self, problem: str = "", node: Node | None = None) -> Refusal:
        """Return the error that refuses a node, by default the current node; `problem` is a predicate for the node."""
        node = node or self.node
        return Refusal(f"{node} {problem or REASONS.get(node.op, NO_CHAIN)}")

    def _process(self, node: Node) -> None:
        """Compute and store the result of a node."""
        inputs = [name for name in node.inputs if name]
        if node.op == "Shape" or any(name in self.sizes for name in inputs):
            self._process_sizes(node, inputs)
            return
        handler = self._handlers.get(node.op)
        if handler is not None:
            value = handler(self, node)
        elif self.operands(node):
            value = self.elementwise(node.op, *self.operands(node), **node.attributes)
        else:
            raise self.refusal()
        outputs = node.outputs
        if isinstance(value, list):
            self.values.update((name, one) for name, one in zip(outputs, value, strict=True) if one is not None)
            return
        name = outputs[1] if node.op == f"{ML}.LinearClassifier" and len(outputs) > 1 else outputs[0]
        self.values[name] = value

    def operands(self, node: Node) -> list[Operand]:
        """Return the operands of a node, excluding omitted optional operands at the end."""
        names = list(node.inputs)
        while names and not names[-1]:
            names.pop()
        return [self.operand(name) for name in names]

    def operand(self, name: str) -> Operand:
        """Return the value or the constant of this name."""
        if name in self.values:
            return self.values[name]
        if name not in self.constants:
            raise self.refusal()
        return self.constants[name]

    def value(self, node: Node) -> Value:
        """Return the first operand of a node, which must be a value."""
        operand = self.operand(node.inputs[0]) if node.inputs else None
        if not isinstance(operand, Value):
            raise self.refusal()
        return operand

    def constant(self, node: Node, i: int) -> np.ndarray | None:
        """Return operand `i`, which must be a constant, or None if it is omitted."""
        if len(node.inputs) <= i or not node.inputs[i]:
            return None
        if node.inputs[i] not in self.constants:
            raise self.refusal()
        return self.constants[node.inputs[i]]

    def integers(self, node: Node, i: int, attribute: str) -> list[int] | None:
        """Return a list of integers: operand `i` or, in older files, an attribute; None if both are omitted."""
        operand = self.constant(node, i)
        if operand is None:
            value = node.attributes.get(attribute)
            return None if value is None else [int(n) for n in np.ravel(value)]
        if operand.dtype.kind != "i":
            raise self.refusal(f"has {attribute} of {operand.dtype}, wanted integers")
        return [int(n) for n in operand.ravel()]

    # --- expressions ----------------------------------------------------------------------------------------------

    def elementwise(self, op: str, *operands: Operand, **attributes: Any) -> Value:
        """Return the value of an elementwise operation on values and constants."""
        operands = replace_uniform_values(operands)
        values = [operand for operand in operands if isinstance(operand, Value)]
        if not values or any(value.dtype not in FLOATS for value in values):
            raise self.refusal("computes with integers" if values else "")
        shape = values[0].shape
        for value in values[1:]:
            shape = shape.combined(value.shape)
        constants = []
        for operand in operands:
            if isinstance(operand, Value):
                continue
            self.check_finite(operand)
            shape, relative_shape = shape.with_constant(operand.shape)
            constants.append((operand, relative_shape))
        expression = self._affine(op, operands, shape, constants) if op in AFFINE and len(values) == 1 else None
        candidates = self._candidates(op, operands, values, attributes)
        expression = self._recognized(candidates) or expression
        if expression is None and op in {"Add", "Mul"} and len(values) == len(operands) == 2:
            expression = self._residual(*values) if op == "Add" else self._gated(*values)
        base = base_of(expression, shape)
        if base is not None:
            candidates = {**dict(list(candidates.items())[1 - MAX_CANDIDATES :]), base: self.argument()}
        culprit = None if expression is not None else next((v.culprit for v in values if v.culprit), self.node)
        return Value(shape, values[0].dtype, expression, candidates, culprit)

    def check_finite(self, x: np.ndarray) -> np.ndarray:
        """Return a constant unchanged, or raise ModelFileError if it contains NaN or infinity."""
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            raise ModelFileError(f"{self.node} has a constant that is not finite")
        return x

    def _affine(
        self, op: str, operands: Sequence[Operand], shape: Shape, constants: list[tuple[np.ndarray, tuple[int, ...]]]
    ) -> Expression | None:
        """Return the result of an affine operation on one value; None for ``c / x``, or if the value has no expression.

        `constants` are the constant operands, each with its shape relative to one sample.
        """
        (value,) = (operand for operand in operands if isinstance(operand, Value))
        if value.expression is None:
            return None
        if op == "Neg":
            return self._then(value.expression, "Mul", -1.0) if len(operands) == 1 else None
        if len(operands) != 2:
            return None
        c = self.features(*constants[0], shape)
        if operands[0] is value:
            return self._then(value.expression, op, c)
        if op == "Sub":
            return self._then(self._then(value.expression, "Mul", -1.0), "Add", c)
        return self._then(value.expression, op, c) if op in {"Add", "Mul"} else None

    def _residual(self, first: Value, second: Value) -> Expression | None:
        """Return the sum of two values if one is a residual block whose inputs are the other, else None."""
        size, (x, y) = first.shape.size, (first.expression, second.expression)
        if x is None or y is None or first.shape.sizes != second.shape.sizes:
            return None
        if size == UNKNOWN or size > self.graph.bytes:
            return None
        for block, source in ((x, y), (y, x)):
            if block.is_block_of(source, size):
                return Expression(Sum(block, source.layer, size))
        return None

    def _gated(self, first: Value, second: Value) -> Expression | None:
        """Return the product of two values if it is a gate, else None."""
        for x, y in ((first.expression, second.expression), (second.expression, first.expression)):
            if x is None or y is None or first.shape.sizes != second.shape.sizes:
                continue
            values, gate = x.layer, y.layer
            if (
                isinstance(values, Product) and isinstance(gate, Product) and values.outputs == gate.outputs
                and values.is_affine and not (gate.is_affine and gate.W is values.W) and y.affine.is_identity
                and values.A_prev.is_same(gate.A_prev)
            ):  # fmt: skip
                self.spend(values.W.nbytes + gate.W.nbytes)
                return Expression(Gated(values, gate))
        return None

    def _then(self, expression: Expression, op: str, c: Any) -> Expression:
        """Return an expression followed by an operation with a constant; errors name the current node."""
        self.spend(np.size(c) * 32 if np.size(c) > 1 else 0)
        try:
            return expression.then(op, c)
        except ModelFileError as error:
            raise ModelFileError(f"{self.node} {error}") from None

    def spend(self, size: int) -> None:
        """Count `size` computed bytes; refuse the file if the total is too large for the size of the file."""
        self.budget -= size
        if self.budget < 0:
            raise ModelFileError(f"{self.node} and the nodes before it compute too many constants for the file's size")

    def features(self, c: np.ndarray, relative_shape: tuple[int, ...], shape: Shape) -> np.ndarray:
        """Return a constant in double precision: one number, shape (1, 1), or one for each feature, shape (n, 1)."""
        if c.dtype.kind == "f" and c.size == 1:
            return np.asarray(c.astype(np.float64).reshape(1, 1))
        return self.column(c, relative_shape, shape)

    def column(self, c: np.ndarray, relative_shape: tuple[int, ...], shape: Shape) -> np.ndarray:
        """Return a constant in double precision, with a number for each feature: shape (n, 1)."""
        if c.dtype.kind != "f":
            raise self.refusal(f"has a constant of {c.dtype}")
        size = shape.size
        if size == UNKNOWN or size > self.graph.bytes:  # a layer with so many features could not be in the file
            raise self.refusal(f"has a constant of shape {brief(c.shape)} for samples of shape {brief(shape.features)}")
        return np.asarray(np.broadcast_to(c.astype(np.float64).reshape(relative_shape), shape.features).reshape(-1, 1))

    def _candidates(
        self, op: str, operands: Sequence[Operand], values: list[Value], attributes: Mapping[str, Any]
    ) -> dict[Base, Candidate]:
        """Return the result of an operation as a function of each linear value on which all `values` depend."""
        if any(not isinstance(operand, Value) and operand.size != 1 for operand in operands):
            return {}
        table, result = self.forms.table, dict[Base, Candidate]()
        attributes = {**DEFAULTS.get(op, {}), **attributes}
        constants = {x for x in attributes.values() if isinstance(x, float)}
        constants |= {float(operand.item()) for operand in operands if not isinstance(operand, Value)}
        for base in values[0].candidates:
            if any(base not in value.candidates for value in values):
                continue
            forms = [
                operand.candidates[base].form if isinstance(operand, Value) else table.constant(float(operand.item()))
                for operand in operands
            ]
            form = table.node(op, forms, attributes)
            if form is not None:
                numbers = constants.union(*(value.candidates[base].numbers for value in values))
                result[base] = Candidate(form, frozenset(sorted(numbers)[: MAX_NUMBERS + 1]))
        return result

    def _recognized(self, candidates: Mapping[Base, Candidate]) -> Expression | None:
        """Return an activation or a normalization, for the first candidate that is recognized as one, or None."""
        for base, (form, numbers) in candidates.items():
            expression = base.expression if isinstance(base, Scaled) else Expression(base)
            if may_be_activated(base) and (g := self.forms.activation(form, set(numbers))):
                return Expression(replace(self._dense(base), g=g))
            layer = self.forms.normalization(form, base.outputs)
            if layer is not None and expression.precedes(base.outputs):
                self.spend(64 * base.outputs)
                initial = layer.parameters(base.outputs)
                parameters = {name: np.full(p.shape, float(name == "gamma")) for name, p in initial.items()}
                return Expression(FeatureLayer(expression, layer, parameters))
        return None

    def _dense(self, base: Base) -> Product:
        """Return a dense layer without an activation; its weights are the identity unless `base` is one."""
        if isinstance(base, Product):
            return base
        self.identities += 4 * base.outputs**2
        if self.identities > MAX_IDENTITIES:
            raise self.refusal(f"is an activation of {base.outputs:,} outputs of a {base.name}, which is too many")
        expression = base.expression if isinstance(base, Scaled) else Expression(base)
        return Product(expression, np.eye(base.outputs, dtype=np.float32))

    def require_expression(self, value: Value) -> Expression:
        """Return the expression of a value; if it has none, refuse the node that is the reason."""
        if value.expression is None:
            raise self.refusal(node=value.culprit)
        return value.expression

    # --- layers ---------------------------------------------------------------------------------------------------

    def product(self, value: Value, W: np.ndarray, shape: Shape) -> Value:
        """Return the product of the weights `W`, shape (n, n_prev), and a value; the result has this `shape`."""
        if value.dtype not in FLOATS:
            raise self.refusal("computes with integers")
        expression = self.require_expression(value)
        self.check_finite(W)
        self.use_dtype(W.dtype.name)
        self.spend(W.nbytes)
        layer = Product(expression, W)
        return Value(shape, value.dtype, Expression(layer), {layer: self.argument()})

    def use_dtype(self, dtype: str) -> None:
        """Use the dtype of weights, which must be that of earlier weights."""
        if self.dtype is None:
            self.dtype = dtype
            if self.forms.dtype != dtype:
                self.forms = Forms(dtype)
                self.values = {name: replace(value, candidates={}) for name, value in self.values.items()}
        if self.dtype != dtype:
            raise ModelFileError(f"{self.node} has weights of {dtype}, but earlier weights are {self.dtype}")

    def feature_layer(
        self, value: Value, layer: PReLU | LayerNorm | RMSNorm, shape: Shape, **parameters: np.ndarray
    ) -> Value:
        """Return the result of a layer that applies to a value, with parameters of shape (n, 1)."""
        if value.dtype not in FLOATS:
            raise self.refusal("computes with integers")
        expression, inputs = self.require_expression(value), len(next(iter(parameters.values())))
        self.spend(32 * inputs * len(parameters))
        if not expression.precedes(inputs):
            raise self.refusal("applies to scaled or shifted values, and this cannot be folded into a layer before it")
        result = FeatureLayer(expression, layer, parameters)
        return Value(shape, value.dtype, Expression(result), {result: self.argument()})

    def weights(self, name: str) -> np.ndarray:
        """Return a constant that can be the weights of a layer."""
        W = self.constants.get(name)
        if W is None or W.ndim not in (1, 2) or W.dtype.kind != "f":
            raise self.refusal(NO_WEIGHTS)
        return W

    # --- shapes -----------------------------------------------------------------------------------------------------

    def _process_sizes(self, node: Node, inputs: list[str]) -> None:
        """Process a node that computes with the shape of a value, or that reshapes a value to a computed shape."""
        if node.op == "Shape":
            sizes = [n if n != UNKNOWN else ... for n in self.value(node).shape.sizes]
            sizes = sizes[slice(node.attributes.get("start", 0), node.attributes.get("end"))]
            self._store_sizes(node, np.array([*sizes, 0], object)[:-1])
            return
        if node.op in {"Reshape", "Expand"} and len(inputs) == 2 and inputs[0] in self.values:
            target = [n if n is SAMPLES else _size(n) for n in np.ravel(self.sizes[inputs[1]])]
            value = self.values[inputs[0]]
            allowzero = node.op == "Expand" or bool(node.attributes.get("allowzero", 0))
            shape = value.shape.reshaped(target, allowzero)
            if node.op == "Expand" and shape != value.shape:
                raise self.refusal("repeats numbers of a sample")
            self.values[node.outputs[0]] = replace(value, shape=shape)
            return
        if any(name not in self.sizes and name not in self.constants for name in inputs):
            raise self.refusal()
        if node.op == "Expand" and self.constants.get(inputs[0], np.zeros(2)).size == 1:
            self._fill(node, self.constants[inputs[0]], self.sizes[inputs[1]])
            return
        operands = [self.sizes.get(name, self.constants.get(name)) for name in inputs]
        if node.op == "Cast" and node.attributes.get("to") in (6, 7):
            self._store_sizes(node, np.asarray(operands[0]))
            return
        if node.op not in SIZE_OPERATIONS and node.op not in FOLDED:
            raise self.refusal(UNSUPPORTED_SIZES)
        try:
            result = (SIZE_OPERATIONS.get(node.op) or FOLDED[node.op])(operands, node.attributes)  # type: ignore[arg-type]
        except (ValueError, TypeError, IndexError, KeyError, OverflowError) as error:
            raise self.refusal(f"{UNSUPPORTED_SIZES} ({brief(error)})") from None
        self.spend(result.nbytes)
        self._store_sizes(node, result)

    def _fill(self, node: Node, x: np.ndarray, sizes: np.ndarray) -> None:
        """Store the result of an Expand: a value of shape `sizes` whose elements are all the number `x`."""
        target = tuple(n if n is SAMPLES else _size(n) for n in sizes.ravel())
        if target.count(SAMPLES) != 1 or len(target) < x.ndim or x.dtype.kind != "f":
            raise self.refusal()
        number = float(self.check_finite(x).item())
        shape = Shape(target, self.samples)
        self.values[node.outputs[0]] = Value(shape, x.dtype.name, None, {}, node, number)

    def _store_sizes(self, node: Node, sizes: np.ndarray) -> None:
        """Store sizes as the result of a node; they become a constant if all of them are known."""
        name = node.outputs[0]
        if all(isinstance(n, int | np.integer) for n in sizes.ravel()):
            self.constants[name] = sizes.astype(np.int64)
        else:
            self.sizes[name] = sizes


Handlers: TypeAlias = Mapping[str, Callable[[Walk, Node], Value | list[Value | None]]]


def _size(n: Any) -> int:
    """Return a size as an int; raise Mismatch if the file does not specify it."""
    if not isinstance(n, int | np.integer):
        raise Mismatch("depends on a size that the file does not specify")
    return int(n)


def replace_uniform_values(operands: Sequence[Operand]) -> tuple[Operand, ...]:
    """Replace each value whose elements are equal by their number, if another value has the same shape."""
    shapes = [operand.shape for operand in operands if isinstance(operand, Value) and operand.number is None]
    return tuple(
        np.asarray(operand.number)
        if isinstance(operand, Value) and operand.number is not None and operand.shape in shapes
        else operand
        for operand in operands
    )


def base_of(expression: Expression | None, shape: Shape) -> Base | None:
    """Return what functions of a value are functions of: a layer, or a scaled value; None if it is neither."""
    if expression is None:
        return None
    layer = expression.layer
    if layer is None:
        return Scaled(expression, shape.size) if shape.size != UNKNOWN else None
    if expression.affine.is_identity:
        return layer
    return None if isinstance(layer, Product) else Scaled(expression, layer.outputs)


def may_be_activated(base: Base) -> bool:
    """Return whether an activation may follow: not right after another one, nor after the inputs."""
    if isinstance(base, Scaled):
        return base.expression.layer is not None
    return not isinstance(base, Product) or base.is_affine


def is_elementwise(layer: Product) -> bool:
    """Return whether each output of a layer depends on one row of its weights."""
    return not (isinstance(layer.g, Activation) and layer.g.name in {"softmax", "log_softmax"})


def _slice(operands: list[Any], attributes: Mapping[str, Any]) -> np.ndarray:
    data, (start, *_), (end, *_), *more = operands
    step = int(more[1].item()) if len(more) > 1 else 1
    if data.ndim != 1 or step == 0:
        raise ValueError("not a vector, or a step of 0")
    return np.asarray(data[int(start) : int(end) : step])


def _gather(operands: list[Any], attributes: Mapping[str, Any]) -> np.ndarray:
    data, indices = operands
    result = np.empty(indices.shape, object)
    result[...] = data[indices.astype(np.int64)]
    return result


SIZE_OPERATIONS: dict[str, Callable[[list[Any], Mapping[str, Any]], np.ndarray]] = {
    "Gather": _gather,
    "Slice": _slice,
    "Concat": lambda operands, attributes: np.concatenate([operand.astype(object) for operand in operands]),
    "Mul": lambda operands, attributes: np.asarray(operands[0] * operands[1], object),
    "Add": lambda operands, attributes: np.asarray(operands[0] + operands[1], object),
    "ReduceProd": lambda operands, attributes: np.asarray([np.prod(operands[0])], object).reshape(
        (1,) if attributes.get("keepdims", 1) else ()
    ),
}
"""Operations on sizes; they may copy the number of samples, but cannot compute with it."""
