"""Interpretation of the nodes of an ONNX graph, in order, as layers and affine functions.

A value contains samples; it has a :class:`~deepnotes.network.formats.onnx_shapes.Shape`. If it is an affine function of
the outputs of a layer, it has an expression. Otherwise it may be an intermediate result of an activation that
consists of several nodes. Such a value only has candidates: normal forms, which are compared with those of activations.
If a layer or the output needs a value without an expression, the graph is not a chain of layers, and is refused.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from deepnotes.equations.activations import SELU
from deepnotes.network.formats.affine import IDENTITY, Affine
from deepnotes.network.formats.chain import Chain
from deepnotes.network.formats.composing import AnyLayer, Expression, FeatureLayer, Gated, Product, Sum, compose
from deepnotes.network.formats.normal_forms import DEFAULTS, Form, Forms
from deepnotes.network.formats.onnx_file import FOLDED, FOLDING, ML, Graph, Node
from deepnotes.network.formats.onnx_shapes import SAMPLES, UNKNOWN, Mismatch, Shape, positive
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
    """

    def __init__(self, graph: Graph, shape: Shape) -> None:
        self.graph = graph
        self.constants, self.samples = dict(graph.constants), shape.samples
        self.values = {graph.input: Value(shape, graph.dtype, Expression(), {})}
        self.sizes: dict[str, np.ndarray] = {}  # of dtype object; SAMPLES is the number of samples
        self.narrowest: tuple[str, Node] | None = None  # the narrowest dtype of a cast, and its node
        self.dtype: str | None = None  # the dtype of the weights
        self.forms: Forms | None = None
        self.budget = FOLDING[0] + FOLDING[1] * graph.bytes
        self.identities = 0  # see MAX_IDENTITIES
        self.last_use = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs}
        self.last_use[graph.output] = len(graph.nodes)
        self.node = graph.nodes[0]  # the current node

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
        expression = self._require_expression(value)
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
        handler = HANDLERS.get(node.op)
        if handler is not None:
            value = handler(self, node)
        elif self._operands(node):
            value = self.elementwise(node.op, *self._operands(node), **node.attributes)
        else:
            raise self.refusal()
        outputs = node.outputs
        if isinstance(value, list):
            self.values.update(zip(outputs, value, strict=True))
            return
        name = outputs[1] if node.op == f"{ML}.LinearClassifier" and len(outputs) > 1 else outputs[0]
        self.values[name] = value

    def _operands(self, node: Node) -> list[Operand]:
        """Return the operands of a node, excluding omitted optional operands at the end."""
        names = list(node.inputs)
        while names and not names[-1]:
            names.pop()
        return [self._operand(name) for name in names]

    def _operand(self, name: str) -> Operand:
        if name in self.values:
            return self.values[name]
        if name not in self.constants:
            raise self.refusal()
        return self.constants[name]

    def value(self, node: Node) -> Value:
        """Return the first operand of a node, which must be a value."""
        operand = self._operand(node.inputs[0]) if node.inputs else None
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
        if base is not None and self.forms:
            argument = Candidate(self.forms.table.variable(), frozenset())
            candidates = {**dict(list(candidates.items())[1 - MAX_CANDIDATES :]), base: argument}
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
        if x is None or y is None or first.shape.sizes != second.shape.sizes or size == UNKNOWN:
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
                and values.is_affine and not gate.is_affine and is_elementwise(gate) and y.affine.is_identity
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
        if c.dtype.kind != "f":
            raise self.refusal(f"has a constant of {c.dtype}")
        if c.size == 1:
            return np.asarray(c.astype(np.float64).reshape(1, 1))
        size = shape.size
        if size == UNKNOWN or size > self.graph.bytes:  # a layer with so many features could not be in the file
            raise self.refusal(f"has a constant of shape {brief(c.shape)} for samples of shape {brief(shape.features)}")
        return np.asarray(np.broadcast_to(c.astype(np.float64).reshape(relative_shape), shape.features).reshape(-1, 1))

    def _candidates(
        self, op: str, operands: Sequence[Operand], values: list[Value], attributes: Mapping[str, Any]
    ) -> dict[Base, Candidate]:
        """Return the result of an operation as a function of each linear value on which all `values` depend."""
        if self.forms is None or any(not isinstance(operand, Value) and operand.size != 1 for operand in operands):
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
        assert self.forms is not None or not candidates
        for base, (form, numbers) in candidates.items():
            assert self.forms is not None
            if not isinstance(base, Product) or base.is_affine:
                g = self.forms.activation(form, set(numbers))
                if g is not None:
                    return Expression(replace(self._dense(base), g=g))
            layer = None if isinstance(base, Scaled) else self.forms.normalization(form, set(numbers), base.outputs)
            if layer is not None:
                self.spend(64 * base.outputs)
                initial = layer.parameters(base.outputs)
                parameters = {name: np.full(p.shape, float(name == "gamma")) for name, p in initial.items()}
                return Expression(FeatureLayer(Expression(base), layer, parameters))  # type: ignore[arg-type]
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

    def _require_expression(self, value: Value) -> Expression:
        """Return the expression of a value; if it has none, refuse the node that is the reason."""
        if value.expression is None:
            raise self.refusal(node=value.culprit)
        return value.expression

    # --- layers ---------------------------------------------------------------------------------------------------

    def product(self, value: Value, W: np.ndarray, shape: Shape) -> Value:
        """Return the product of the weights `W`, shape (n, n_prev), and a value; the result has this `shape`."""
        if value.dtype not in FLOATS:
            raise self.refusal("computes with integers")
        expression = self._require_expression(value)
        self.check_finite(W)
        forms = self._forms(W.dtype.name)
        self.spend(W.nbytes)
        layer = Product(expression, W)
        return Value(shape, value.dtype, Expression(layer), {layer: Candidate(forms.table.variable(), frozenset())})

    def _forms(self, dtype: str) -> Forms:
        """Return the normal forms for weights of this dtype, which must be that of earlier weights."""
        if self.forms is None:
            self.dtype, self.forms = dtype, Forms(dtype)
        if self.dtype != dtype:
            raise ModelFileError(f"{self.node} has weights of {dtype}, but earlier weights are {self.dtype}")
        return self.forms

    def feature_layer(
        self, value: Value, layer: PReLU | LayerNorm | RMSNorm, shape: Shape, **parameters: np.ndarray
    ) -> Value:
        """Return the result of a layer that applies to a value, with parameters of shape (n, 1)."""
        if value.dtype not in FLOATS:
            raise self.refusal("computes with integers")
        expression, inputs = self._require_expression(value), len(next(iter(parameters.values())))
        self.spend(32 * inputs * len(parameters))
        if not expression.precedes(inputs):
            raise self.refusal("applies to scaled or shifted values, and this cannot be folded into a layer before it")
        result = FeatureLayer(expression, layer, parameters)
        assert self.forms is not None
        argument = Candidate(self.forms.table.variable(), frozenset())
        return Value(shape, value.dtype, Expression(result), {result: argument})

    def weights(self, name: str) -> np.ndarray:
        """Return a constant that can be the weights of a layer."""
        W = self.constants.get(name)
        if W is None or W.ndim not in (1, 2) or W.dtype.kind != "f":
            raise self.refusal(NO_WEIGHTS)
        return W

    def matmul(self, node: Node) -> Value:
        """Read a matrix product, whose constant operand is the weights."""
        if len(node.inputs) != 2:
            raise self.refusal(NO_CHAIN)
        first, second = node.inputs
        if first in self.values and second not in self.values:  # samples are rows
            value, W = self.values[first], self.weights(second)
            shape = value.shape.after_product(-1, len(W), None if W.ndim == 1 else W.shape[1])
            return self.product(value, W.reshape(len(W), -1).T, shape)
        if second not in self.values or first in self.values:
            raise self.refusal(NO_WEIGHTS)
        value, W = self.values[second], self.weights(first)
        if len(value.shape.sizes) < 2:
            raise Mismatch("sums over the samples")
        shape = value.shape.after_product(-2, W.shape[-1], None if W.ndim == 1 else len(W))
        return self.product(value, W.reshape(-1, W.shape[-1]), shape)

    def gemm(self, node: Node) -> Value:
        """Read ``alpha X W + beta b`` or ``alpha W X + beta b``; X and W may be transposed."""
        result = self._gemm_product(node)
        shape = result.shape
        alpha, beta = (float(node.attributes.get(key, 1.0)) for key in ("alpha", "beta"))
        if alpha != 1:
            result = self.elementwise("Mul", result, np.asarray(alpha))
        b = self.constant(node, 2)
        if b is not None and shape.with_constant(b.shape)[0] != shape:
            raise self.refusal(f"has a constant of shape {brief(b.shape)}")
        if b is None or not beta:
            return result
        return self.elementwise("Add", result, b if beta == 1 else self.check_finite(b) * np.float64(beta))

    def _gemm_product(self, node: Node) -> Value:
        """Return the product of the first two operands: a value and weights, in either order."""
        if len(node.inputs) < 2:
            raise self.refusal()
        first, second = node.inputs[:2]
        value_first = first in self.values
        name, weights = (first, second) if value_first else (second, first)
        if name not in self.values or weights in self.values:
            raise self.refusal(NO_WEIGHTS)
        value, W = self.values[name], self.weights(weights)
        if W.ndim != 2 or len(value.shape.sizes) != 2:
            raise self.refusal(NO_MATRICES)
        transposed = [bool(node.attributes.get(key, 0)) for key in ("transA", "transB")]
        value_transposed, W_transposed = transposed if value_first else transposed[::-1]
        shape = value.shape
        if value_transposed:
            shape = shape._replace(sizes=shape.sizes[::-1])
        if value_first != W_transposed:  # the weights of the layer are Wᵀ in X W, but W in W X
            W = W.T
        return self.product(value, W, shape.after_product(1 if value_first else 0, W.shape[1], len(W)))

    def linear(self, node: Node) -> Value:
        """Read one of scikit-learn's linear models, as skl2onnx writes it."""
        attributes, value = node.attributes, self.value(node)
        coefficients = attributes.get("coefficients", [])
        is_classifier = node.op.endswith("Classifier")
        labels = attributes.get("classlabels_strings") or attributes.get("classlabels_ints") or []
        outputs = len(labels) if is_classifier else attributes.get("targets", 1)
        activations = {"NONE": None, "SOFTMAX": "Softmax", "LOGISTIC": "Sigmoid"}
        transform = attributes.get("post_transform", "NONE")
        b = attributes.get("intercepts") or [0.0]
        if outputs < 1 or not coefficients or len(coefficients) % outputs or len(b) not in (1, outputs):
            raise self.refusal(
                f"has {len(coefficients):,} coefficients and {len(b):,} intercepts for {outputs:,} outputs"
            )
        if transform not in (activations if is_classifier else {"NONE"}) or (is_classifier and outputs < 2):
            raise self.refusal(f"has an unsupported post_transform ({brief(transform)}) for {outputs:,} outputs")
        if len(value.shape.sizes) != 2:
            raise self.refusal(NO_MATRICES)
        W = np.asarray(coefficients, np.float32).reshape(outputs, -1)
        result = self.product(as_float32(value), W, value.shape.after_product(1, W.shape[1], outputs))
        if result.shape.axis != 0:
            raise self.refusal("needs samples as rows, but they are columns")
        result = self.elementwise("Add", result, np.asarray(b, np.float32))
        activation = activations[transform]
        return result if activation is None else self.elementwise(activation, result)

    # --- operations that are equivalent to several others -----------------------------------------------------------

    def batch_normalization(self, node: Node) -> Value:
        """Read a batch normalization, which in evaluation mode uses the statistics of the training data."""
        value = self.value(node)
        sizes = value.shape.sizes
        if node.attributes.get("training_mode", 0) or any(node.outputs[1:]) or len(node.inputs) != 5:
            raise self.refusal()
        if len(sizes) < 2 or not node.attributes.get("spatial", 1):
            raise self.refusal("needs the features on the second axis, but they are on another axis")
        scale, b, mean, variance = (self._statistics(node, i, len(sizes)) for i in range(1, 5))
        deviation = np.sqrt(np.maximum(variance + float(node.attributes.get("epsilon", 1e-5)), 0))
        for op, c in (("Sub", mean), ("Div", deviation), ("Mul", scale), ("Add", b)):
            value = self.elementwise(op, value, c)
        return value

    def _statistics(self, node: Node, i: int, rank: int) -> np.ndarray:
        """Return operand `i`, one number per feature, with a shape that can be broadcast to values of `rank` axes."""
        x = self.constant(node, i)
        if x is None or x.ndim != 1 or x.dtype.kind != "f":
            raise self.refusal("has statistics that are not constant vectors")
        return self.check_finite(x).astype(np.float64).reshape(-1, *(1,) * (rank - 2))

    def scaler(self, node: Node) -> Value:
        """Read a standardization, as skl2onnx writes it."""
        value = as_float32(self.value(node))
        for op, key in (("Sub", "offset"), ("Mul", "scale")):
            if key in node.attributes:
                value = self.elementwise(op, value, np.asarray(node.attributes[key], np.float64))
        return value

    def normalizer(self, node: Node) -> Value:
        """Read a division by the sum of probabilities, which has no effect, since the sum is 1."""
        value = self.value(node)
        layer = value.expression.layer if value.expression is not None and value.expression.affine.is_identity else None
        norm = node.attributes.get("norm", "MAX")
        if not isinstance(layer, Product) or norm != "L1" or not sums_to_one(layer):
            raise self.refusal()
        if value.shape.sizes != (SAMPLES, len(layer.W)):
            raise self.refusal()
        return value

    def clip(self, node: Node) -> Value:
        """Read a Clip: one without bounds, or one that is an activation or a part of one, as in ReLU and ReLU6."""
        low, high = (self._bound(node, i, key) for i, key in ((1, "min"), (2, "max")))
        value = self.value(node)
        if high < np.finfo(value.dtype if value.dtype in FLOATS else "float32").max:
            if (low, high) not in {(0, 6), (0, 1)}:
                raise self.refusal(f"bounds its input to {low:g} and {high:g}, which no activation does")
            return self.elementwise("Min", self.elementwise("Max", value, np.asarray(low)), np.asarray(high))
        if low not in (0, -np.inf):
            raise self.refusal(f"bounds its input to {low:g} and {high:g}, which no activation does")
        return self.elementwise("Relu", value) if low == 0 else value

    def _bound(self, node: Node, i: int, key: str) -> float:
        """Return a bound of a Clip: operand `i` or, in older files, the attribute `key`."""
        default = {"min": -np.inf, "max": np.inf}[key]
        operand = self.constant(node, i)
        if operand is None:
            return float(node.attributes.get(key, default))
        if operand.size != 1:
            raise self.refusal()
        return float(operand.item())

    def selu(self, node: Node) -> Value:
        """Read SELU; with other constants than those of the paper, it is a multiple of ELU."""
        alpha = float(node.attributes.get("alpha", SELU[0]))
        gamma = float(node.attributes.get("gamma", SELU[1]))
        if np.allclose((alpha, gamma), SELU, rtol=1e-6, atol=0):  # the attributes are in single precision
            return self.elementwise("Selu", self.value(node))
        return self.elementwise("Mul", self.elementwise("Elu", self.value(node), alpha=alpha), np.asarray(gamma))

    def celu(self, node: Node) -> Value:
        """Read CELU, which with an alpha of 1 is ELU."""
        alpha = float(node.attributes.get("alpha", 1.0))
        if not 0 < alpha < np.inf:
            raise self.refusal()
        return self.elementwise("Elu" if alpha == 1 else "Celu", self.value(node), alpha=alpha)

    def hard_sigmoid(self, node: Node) -> Value:
        """Read a HardSigmoid, which is a part of hardswish: ``min(max(alpha x + beta, 0), 1)``."""
        alpha, beta = (float(node.attributes.get(key, default)) for key, default in (("alpha", 0.2), ("beta", 0.5)))
        if beta != 0.5 or not np.isclose(alpha, 1 / 6, rtol=1e-6, atol=0):
            raise self.refusal()
        scaled = self.elementwise("Add", self.elementwise("Div", self.value(node), np.asarray(6.0)), np.asarray(0.5))
        return self.elementwise("Min", self.elementwise("Max", scaled, np.asarray(0.0)), np.asarray(1.0))

    def swish(self, node: Node) -> Value:
        """Read SiLU, which is a single node from opset 24 on."""
        if node.attributes.get("alpha", 1.0) != 1:
            raise self.refusal()
        return self.elementwise("Mul", self.value(node), self.elementwise("Sigmoid", self.value(node)))

    def prelu(self, node: Node) -> Value:
        """Read a PRelu with constant slopes; one that is the same for all features is that of a leaky ReLU."""
        value, slope = self.value(node), self.constant(node, 1)
        if slope is None or slope.dtype.kind != "f" or not slope.size:
            raise self.refusal()
        shape, relative_shape = value.shape.with_constant(self.check_finite(slope).shape)
        if shape != value.shape:
            raise self.refusal("changes the shape of samples")
        if (slope == slope.flat[0]).all():
            return self.elementwise("LeakyRelu", value, alpha=float(slope.flat[0]))
        self._forms(slope.dtype.name)
        return self.feature_layer(value, PReLU(), shape, alpha=self.features(slope, relative_shape, shape))

    def layer_normalization(self, node: Node) -> Value:
        """Read a layer normalization over all features of each sample."""
        bias = self.constant(node, 2)
        return self._normalization(node, LayerNorm, bias)

    def rms_normalization(self, node: Node) -> Value:
        """Read a normalization by the root mean square over all features of each sample, a node since opset 23."""
        return self._normalization(node, RMSNorm, None)

    def _normalization(self, node: Node, kind: type[LayerNorm | RMSNorm], bias: np.ndarray | None) -> Value:
        value, axis = self.value(node), int(node.attributes.get("axis", -1))
        epsilon = float(str(np.float32(node.attributes.get("epsilon", 1e-5))))  # 1e-05, not 9.999999747378752e-06
        scale = self.constant(node, 1)
        if not value.shape.old_softmax_over(axis):
            raise self.refusal(f"is not over the features of each sample, whose shape is {value.shape.features}")
        if not epsilon > 0:
            raise self.refusal("has an epsilon that is not above 0")
        if scale is None or scale.dtype.kind != "f":
            raise self.refusal()
        bias = np.zeros_like(scale) if bias is None else bias
        shape, _ = value.shape.with_constant(self.check_finite(scale).shape)
        sizes = shape.sizes[positive(axis, len(shape.sizes)) :]
        if not scale.size or {scale.shape, self.check_finite(bias).shape} != {sizes} or bias.dtype != scale.dtype:
            raise self.refusal()
        self._forms(scale.dtype.name)
        parameters = {"gamma": scale, "beta": bias} if kind is LayerNorm else {"gamma": scale}
        columns = {name: x.astype(np.float64).reshape(-1, 1) for name, x in parameters.items()}
        return self.feature_layer(value, kind(epsilon), shape, **columns)

    def softmax(self, node: Node) -> Value:
        """Read a softmax, or its logarithm, over all features of each sample."""
        value, opset = self.value(node), self.graph.opset
        axis = int(node.attributes.get("axis", -1 if opset >= 13 else 1))
        shape = value.shape
        if not (shape.softmax_over(axis) if opset >= 13 else shape.old_softmax_over(axis)):
            raise self.refusal(f"is not over the features of each sample, whose shape is {shape.features}")
        return self.elementwise(node.op, value)

    def extremum(self, node: Node) -> Value:
        """Read an elementwise maximum or minimum; infinite bounds, which have no effect, are ignored."""
        no_bound = -np.inf if node.op == "Max" else np.inf
        operands = [x for x in self._operands(node) if isinstance(x, Value) or x.size != 1 or x.item() != no_bound]
        first = operands[0]
        return first if len(operands) == 1 and isinstance(first, Value) else self.elementwise(node.op, *operands)

    def reduction(self, node: Node) -> Value:
        """Read the maximum, the sum or the mean over the features of each sample, as in a softmax of several nodes."""
        value, axes = self.value(node), self.integers(node, 1, "axes")
        if axes is None or len(axes) != 1 or not value.shape.softmax_over(axes[0]):
            raise self.refusal()
        result = self.elementwise("ReduceSum" if node.op == "ReduceMean" else node.op, value)
        if node.op == "ReduceMean":
            if value.shape.size == UNKNOWN:
                raise self.refusal("is the mean of a number of features that the file does not specify")
            result = self.elementwise("Div", result, np.asarray(float(value.shape.size)))
        result = replace(result, shape=value.shape.reduced(axes[0]))
        return result if node.attributes.get("keepdims", 1) else replace(result, shape=result.shape.squeezed(axes))

    def slice(self, node: Node) -> Value:
        """Read a range of the outputs of a dense layer, such as one half of what a gate multiplies."""
        starts, stops, axes, steps = (
            self.integers(node, i, name) for i, name in enumerate(("starts", "ends", "axes", "steps"), 1)
        )
        if starts is None or stops is None or len(starts) != 1 or len(stops) != 1 or (steps or [1]) != [1]:
            raise self.refusal()
        value = self.value(node)
        size = self._features_on(value, (axes or [0])[0])
        start, stop, _ = slice(starts[0], stops[0]).indices(size)
        return self._part(value, start, stop)

    def split(self, node: Node) -> list[Value]:
        """Read a division of the outputs of a dense layer into ranges."""
        value = self.value(node)
        size, parts = self._features_on(value, int(node.attributes.get("axis", 0))), len(node.outputs)
        each = -(-size // parts)
        sizes = self.integers(node, 1, "split") or [min(each, size - i * each) for i in range(parts)]
        if sum(sizes) != size or len(sizes) != parts or min(sizes) < 1:
            raise self.refusal(f"does not divide {size:,} features into {parts:,} parts")
        stops = np.cumsum(sizes).tolist()
        return [self._part(value, stop - n, stop) for stop, n in zip(stops, sizes, strict=True)]

    def _features_on(self, value: Value, axis: int) -> int:
        """Return the number of features of a value whose samples are vectors; they must be on this axis."""
        shape = value.shape
        if len(shape.sizes) != 2 or positive(axis, 2) == shape.axis or shape.size == UNKNOWN:
            raise self.refusal("does not apply to the features of samples that are vectors")
        return shape.size

    def _part(self, value: Value, start: int, stop: int) -> Value:
        """Return a range of the outputs of a dense layer."""
        expression = self._require_expression(value)
        layer = expression.layer
        if not isinstance(layer, Product) or not expression.affine.is_identity or not is_elementwise(layer):
            raise self.refusal("takes some of the numbers of each sample, but not the outputs of a dense layer")
        if not start < stop:
            raise self.refusal("takes no numbers")
        part, shape = layer.rows(start, stop), value.shape
        sizes = tuple(stop - start if n is not SAMPLES else n for n in shape.sizes)
        assert self.forms is not None
        candidates: dict[Base, Candidate] = {part: Candidate(self.forms.table.variable(), frozenset())}
        return replace(value, shape=shape._replace(sizes=sizes), expression=Expression(part), candidates=candidates)

    def concat(self, node: Node) -> Value:
        """Read ``[1 - p, p]``, the two probabilities of a classifier whose only output is a sigmoid p, as a softmax."""
        operands = [self._operand(name) for name in node.inputs]
        values = [operand for operand in operands if isinstance(operand, Value)]
        if len(values) != 2 or len(operands) != 2 or values[0].shape != values[1].shape:
            raise self.refusal()
        shape = values[0].shape
        axis = positive(int(node.attributes.get("axis", 1)), len(shape.sizes))
        first, second = (value.expression or Expression() for value in values)
        layer = second.layer
        if not isinstance(layer, Product) or first.layer is not layer or layer.g != Activation("sigmoid"):
            raise self.refusal()
        is_pair = is_complement(first.affine) and second.affine.is_identity
        if not is_pair or not len(layer.W) == shape.size == 1 or axis == shape.axis:
            raise self.refusal()
        zero = np.zeros((1, 1))
        after = Affine(*(np.vstack([one, x]) for one, x in zip(IDENTITY, layer.after, strict=True)))
        after = after._replace(shift=np.vstack([zero, layer.after.shift]))
        W = np.vstack([0 * layer.W, layer.W])  # 1 - σ(z) and σ(z) are the softmax of 0 and z
        expression = Expression(Product(layer.A_prev, W, after, Activation("softmax")))
        sizes = tuple(2 if i == axis else n for i, n in enumerate(shape.sizes))
        return Value(shape._replace(sizes=sizes), values[0].dtype, expression, {})

    # --- operations that do not change numbers ----------------------------------------------------------------------

    def transparent(self, node: Node) -> Value:
        """Read an operation that has no effect on predictions."""
        if node.op == "Dropout" and len(node.inputs) > 2 and node.inputs[2]:
            training = self.constants.get(node.inputs[2])
            if training is None or training.any():
                raise self.refusal("drops some of its inputs, as in training; export the model in evaluation mode")
        return self.value(node)

    def cast(self, node: Node) -> Value:
        """Read a cast to a float dtype; :meth:`chain` checks that it is not narrower than the dtype of the weights."""
        name, value = NAMES.get(node.attributes.get("to", 0)), self.value(node)
        if name is None:
            raise self.refusal("does not cast to a float dtype")
        order = list(FLOATS)
        if self.narrowest is None or order.index(name) < order.index(self.narrowest[0]):
            self.narrowest = name, node
        return replace(value, dtype=name)

    def reshaping(self, node: Node) -> Value:
        """Read an operation that changes the shape of each sample, but not its numbers or their order."""
        value, attributes = self.value(node), node.attributes
        shape = value.shape
        if node.op == "Transpose":
            result = shape.transposed(attributes.get("perm"))
        elif node.op == "Flatten":
            result = shape.flattened(int(attributes.get("axis", 1)))
        elif node.op == "Squeeze":
            result = shape.squeezed(self.integers(node, 1, "axes"))
        elif node.op == "Unsqueeze":
            result = shape.unsqueezed(self.integers(node, 1, "axes") or [])
        else:
            target = self.integers(node, 1, "shape")
            if target is None:
                raise self.refusal()
            result = shape.reshaped(target, bool(attributes.get("allowzero", 0)))
        return replace(value, shape=result)

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


def as_float32(value: Value) -> Value:
    """Return a value as float32; operations of the machine learning domain convert their inputs to that dtype."""
    return replace(value, dtype="float32")


def base_of(expression: Expression | None, shape: Shape) -> Base | None:
    """Return what functions of a value are functions of: a layer, or a scaled value; None if it is neither."""
    if expression is None or expression.layer is None:
        return None
    if expression.affine.is_identity:
        return expression.layer
    return None if isinstance(expression.layer, Product) else Scaled(expression, expression.layer.outputs)


def is_elementwise(layer: Product) -> bool:
    """Return whether each output of a layer depends on one row of its weights."""
    return not (isinstance(layer.g, Activation) and layer.g.name in {"softmax", "log_softmax"})


def is_complement(affine: Affine) -> bool:
    """Return whether an affine function is 1 minus its argument."""
    return bool((affine.factor == -1).all() and (affine.shift == 1).all())


def sums_to_one(layer: Product) -> bool:
    """Return whether the outputs of a layer sum to 1: a softmax, or the sigmoids of -z and z."""
    shift = layer.after.shift
    return layer.g == Activation("softmax") or (
        layer.g == Activation("sigmoid") and len(layer.W) == 2 and bool((layer.W[0] == -layer.W[1]).all())
        and ((len(shift) == 2 and bool(shift[0] == -shift[1])) or not shift.any())
        and bool((layer.after.factor == 1).all())
    )  # fmt: skip


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

HANDLERS: dict[str, Callable[[Walk, Node], Value | list[Value]]] = {
    "BatchNormalization": Walk.batch_normalization,
    "Cast": Walk.cast,
    "Celu": Walk.celu,
    "Clip": Walk.clip,
    "Concat": Walk.concat,
    "Gemm": Walk.gemm,
    "HardSigmoid": Walk.hard_sigmoid,
    "LayerNormalization": Walk.layer_normalization,
    "LogSoftmax": Walk.softmax,
    "Max": Walk.extremum,
    "Min": Walk.extremum,
    "RMSNormalization": Walk.rms_normalization,
    "ReduceMax": Walk.reduction,
    "ReduceMean": Walk.reduction,
    "ReduceSum": Walk.reduction,
    "MatMul": Walk.matmul,
    "PRelu": Walk.prelu,
    "Selu": Walk.selu,
    "Slice": Walk.slice,
    "Softmax": Walk.softmax,
    "Split": Walk.split,
    "Swish": Walk.swish,
    f"{ML}.LinearClassifier": Walk.linear,
    f"{ML}.LinearRegressor": Walk.linear,
    f"{ML}.Normalizer": Walk.normalizer,
    f"{ML}.Scaler": Walk.scaler,
    **dict.fromkeys(TRANSPARENT, Walk.transparent),
    **dict.fromkeys(["Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"], Walk.reshaping),
}
"""The methods for operations that are not elementwise, by name."""
