"""Interpretation of the nodes of an ONNX graph, one after the other, as layers and affine functions.

A value holds samples, of a :class:`~deepnotes.network.formats.onnx_shapes.Shape`. It is known as an affine function of
a layer's outputs; or, while it may be part of an activation that is written as several nodes, only by its normal form.
If a layer or the end of the graph needs a value that is neither, the graph is not a dense chain and is refused.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from deepnotes.network.formats.affine import IDENTITY, Affine
from deepnotes.network.formats.chain import Chain
from deepnotes.network.formats.composing import Known, Product, composed
from deepnotes.network.formats.normal_forms import DEFAULTS, Form, Forms
from deepnotes.network.formats.onnx_file import FOLDED, FOLDING, ML, Graph, Node
from deepnotes.network.formats.onnx_shapes import SAMPLES, UNKNOWN, Mismatch, Shape, positive
from deepnotes.nn.activations import Activation
from deepnotes.utils.errors import ModelFileError
from deepnotes.utils.wording import brief

FLOATS = {"float16": 10, "float32": 1, "float64": 11}
"""Floating point dtypes, narrowest first, and ONNX's codes for them."""
NAMES = {code: name for name, code in FLOATS.items()}
READINGS = 8
"""The number of linear values that are tried as an expression's argument: affine functions may begin an activation."""
NUMBERS = 8
"""The largest number of different numbers in the expression of an activation with an option."""
AFFINE = {"Add", "Sub", "Mul", "Div", "Neg"}
TRANSPARENT = {"Identity", "Dropout"}
REASONS = {
    "LogSoftmax": "gives logarithms of probabilities; export the model without it, or with Softmax",
    "Clip": "bounds its input otherwise than a ReLU",
    "PRelu": "has a slope for each feature, and leaky_relu one for all",
    f"{ML}.Imputer": "replaces missing values, which a network does not; export what comes after it",
    f"{ML}.Normalizer": "divides each sample by its own norm, which no layer does",
    "LayerNormalization": "normalizes each sample by its own mean and deviation, which no layer does",
    "BatchNormalization": "normalizes by the batch, as in training; export the model in evaluation mode",
    "Mish": "is an activation that is not known here",
    "HardSwish": "is an activation that is not known here",
    "HardSigmoid": "is an activation that is not known here",
    "Swish": "has a factor in its sigmoid, and silu has none",
    "Celu": "has another alpha than 1, and elu has none of that kind",
}
"""Messages for operations that are refused, or are refused in some of their forms."""


class Refusal(ModelFileError):
    """The file holds something that cannot be part of a dense chain."""


class Reading(NamedTuple):
    """A value as an expression of a linear one."""

    form: Form
    numbers: frozenset[float]


@dataclass(frozen=True, eq=False)
class Value:
    """The result of a node.

    Attributes
    ----------
    shape : Shape
    dtype : str
    known : Known or None
        None while it is not an affine function of a layer's outputs.
    readings : dict of Product to Reading
        The expressions that it may be, by the linear layer that is the argument.
    culprit : Node or None
        The node from which on it is not known.
    number : float or None
        Its elements, if all of them are the same number.
    """

    shape: Shape
    dtype: str
    known: Known | None
    readings: Mapping[Product, Reading]
    culprit: Node | None = None
    number: float | None = None


Part: TypeAlias = Value | np.ndarray


class Walk:
    """A walk through the nodes of a graph.

    Parameters
    ----------
    graph : Graph
    shape : Shape
        The shape of the input.
    """

    def __init__(self, graph: Graph, shape: Shape) -> None:
        self.graph = graph
        self.constants, self.samples = dict(graph.constants), shape.samples
        self.values = {graph.input: Value(shape, graph.dtype, Known(), {})}
        self.sizes: dict[str, np.ndarray] = {}  # arrays of dtype object, with SAMPLES for the number of samples
        self.narrowest: tuple[str, Node] | None = None
        self.dtype: str | None = None  # that of the weights
        self.forms: Forms | None = None
        self.budget = FOLDING[0] + FOLDING[1] * graph.bytes
        self.last = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs}
        self.last[graph.output] = len(graph.nodes)
        self.node = graph.nodes[0]  # the current one

    def chain(self) -> Chain:
        """Return the chain that the graph computes.

        Raises
        ------
        ModelFileError
            If it does not compute one.
        """
        for i, node in enumerate(self.graph.nodes):
            self.node = node
            try:
                self._take(node)
            except Mismatch as error:
                raise self.refusal(str(error)) from None
            for name in node.inputs:
                if self.last.get(name) == i:
                    self.values.pop(name, None)
        value = self.values.get(self.graph.output)
        if value is None:
            raise Refusal(f"its output {brief(repr(self.graph.output))} is no array of samples")
        known = self._settled(value)
        if self.dtype is None:
            raise ModelFileError("it has no dense layer")
        order = list(FLOATS)
        if self.narrowest is not None and order.index(self.narrowest[0]) < order.index(self.dtype):
            self.node = self.narrowest[1]
            raise self.refusal(f"rounds to {self.narrowest[0]}, and the weights are of {self.dtype}")
        dtype = "float64" if self.dtype == "float64" else "float32"
        standardizer, links = composed(known, dtype)
        metadata = dict(self.graph.metadata)
        if self.graph.classes and "classes" not in metadata:
            metadata["classes"] = [str(name) for name in self.graph.classes]
        return Chain(tuple(links), dtype, standardizer, None, metadata)

    def refusal(self, why: str = "", node: Node | None = None) -> Refusal:
        """Return the error that names a node, by default the current one."""
        node = node or self.node
        return Refusal(f"{node} {why or REASONS.get(node.op, 'is no part of a dense chain there')}")

    def _take(self, node: Node) -> None:
        """Process a node."""
        given = [name for name in node.inputs if name]
        if node.op == "Shape" or any(name in self.sizes for name in given):
            self._measure(node, given)
            return
        taken = TAKEN.get(node.op)
        if taken is not None:
            value = taken(self, node)
        elif self._parts(node):
            value = self.expression(node.op, *self._parts(node), **node.attributes)
        else:
            raise self.refusal()
        outputs = node.outputs
        name = outputs[1] if node.op == f"{ML}.LinearClassifier" and len(outputs) > 1 else outputs[0]
        self.values[name] = value

    def _parts(self, node: Node) -> list[Part]:
        """Return the operands of a node."""
        names = list(node.inputs)
        while names and not names[-1]:
            names.pop()
        return [self._part(name) for name in names]

    def _part(self, name: str) -> Part:
        if name in self.values:
            return self.values[name]
        if name not in self.constants:
            raise self.refusal()
        return self.constants[name]

    def value(self, node: Node) -> Value:
        """Return the first operand, which must hold samples."""
        found = self._part(node.inputs[0]) if node.inputs else None
        if not isinstance(found, Value):
            raise self.refusal()
        return found

    def constant(self, node: Node, i: int) -> np.ndarray | None:
        """Return an operand that must be constant, or None if it is not given."""
        if len(node.inputs) <= i or not node.inputs[i]:
            return None
        if node.inputs[i] not in self.constants:
            raise self.refusal()
        return self.constants[node.inputs[i]]

    def integers(self, node: Node, i: int, attribute: str) -> list[int] | None:
        """Return a list of integers that is an operand or, in older files, an attribute."""
        found = self.constant(node, i)
        if found is None:
            listed = node.attributes.get(attribute)
            return None if listed is None else [int(n) for n in np.ravel(listed)]
        if found.dtype.kind != "i":
            raise self.refusal(f"has {attribute} of {found.dtype}")
        return [int(n) for n in found.ravel()]

    # --- expressions ----------------------------------------------------------------------------------------------

    def expression(self, op: str, *parts: Part, **attributes: Any) -> Value:
        """Return the value of an elementwise operation on values and constants."""
        parts = numbers_for_filled(parts)
        values = [part for part in parts if isinstance(part, Value)]
        if not values or any(value.dtype not in FLOATS for value in values):
            raise self.refusal("computes with integers" if values else "")
        shape = values[0].shape
        for value in values[1:]:
            shape = shape.beside(value.shape)
        beside = []
        for part in parts:
            if isinstance(part, Value):
                continue
            self.check_finite(part)
            shape, wanted = shape.with_constant(part.shape)
            beside.append((part, wanted))
        known = self._affine(op, parts, shape, beside) if op in AFFINE and len(values) == 1 else None
        readings = self._readings(op, parts, values, attributes)
        known = self._activated(readings) or known
        if known is not None and known.layer is not None and known.layer.is_linear and self.forms:
            fresh = Reading(self.forms.table.variable(), frozenset())
            readings = {**dict(list(readings.items())[1 - READINGS :]), known.layer: fresh}
        culprit = None if known is not None else next((v.culprit for v in values if v.culprit), self.node)
        return Value(shape, values[0].dtype, known, readings, culprit)

    def check_finite(self, x: np.ndarray) -> np.ndarray:
        """Return a constant, or raise ModelFileError if it holds NaN or infinity."""
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            raise ModelFileError(f"{self.node} has a constant that is not finite")
        return x

    def _affine(
        self, op: str, parts: Sequence[Part], shape: Shape, beside: list[tuple[np.ndarray, tuple[int, ...]]]
    ) -> Known | None:
        """Return the result of an affine operation if its operand is known; None for ``c / x``."""
        (value,) = (part for part in parts if isinstance(part, Value))
        if value.known is None:
            return None
        if op == "Neg":
            return self._then(value.known, "Mul", -1.0) if len(parts) == 1 else None
        if len(parts) != 2:
            return None
        c = self.features(*beside[0], shape)
        if parts[0] is value:
            return self._then(value.known, op, c)
        if op == "Sub":
            return self._then(self._then(value.known, "Mul", -1.0), "Add", c)
        return self._then(value.known, op, c) if op in {"Add", "Mul"} else None

    def _then(self, known: Known, op: str, c: Any) -> Known:
        self.spend(np.size(c) * 32 if np.size(c) > 1 else 0)
        try:
            return known.then(op, c)
        except ModelFileError as error:
            raise ModelFileError(f"{self.node} {error}") from None

    def spend(self, size: int) -> None:
        """Count bytes that are computed, and refuse a file that needs too many for its length."""
        self.budget -= size
        if self.budget < 0:
            raise ModelFileError(f"{self.node} and those before it compute with constants at too great a length")

    def features(self, c: np.ndarray, beside: tuple[int, ...], shape: Shape) -> np.ndarray:
        """Return a constant as one number, or one for each feature, shape (n, 1), in double precision."""
        if c.dtype.kind != "f":
            raise self.refusal(f"has a constant of {c.dtype}")
        if c.size == 1:
            return np.asarray(c.astype(np.float64).reshape(1, 1))
        size = shape.size
        if size == UNKNOWN or size > self.graph.bytes:  # the file cannot hold weights for this many
            raise self.refusal(f"has a constant of shape {brief(c.shape)} for samples of shape {brief(shape.features)}")
        return np.asarray(np.broadcast_to(c.astype(np.float64).reshape(beside), shape.features).reshape(-1, 1))

    def _readings(
        self, op: str, parts: Sequence[Part], values: list[Value], attributes: Mapping[str, Any]
    ) -> dict[Product, Reading]:
        """Return the expressions for the result of an operation, by the linear value that all operands depend on."""
        if self.forms is None or any(not isinstance(part, Value) and part.size != 1 for part in parts):
            return {}
        table, made = self.forms.table, dict[Product, Reading]()
        attributes = {**DEFAULTS.get(op, {}), **attributes}
        own = {x for x in attributes.values() if isinstance(x, float)}
        own |= {float(part.item()) for part in parts if not isinstance(part, Value)}
        for base in values[0].readings:
            if any(base not in value.readings for value in values):
                continue
            forms = [
                part.readings[base].form if isinstance(part, Value) else table.constant(float(part.item()))
                for part in parts
            ]
            form = table.node(op, forms, attributes)
            if form is not None:
                numbers = own.union(*(value.readings[base].numbers for value in values))
                made[base] = Reading(form, frozenset(sorted(numbers)[: NUMBERS + 1]))
        return made

    def _activated(self, readings: Mapping[Product, Reading]) -> Known | None:
        """Return the outputs of a layer with an activation, for the first expression that is one; else None."""
        assert self.forms is not None or not readings
        for base, (form, numbers) in readings.items():
            if self.forms is not None and (g := self.forms.activation(form, set(numbers))):
                return Known(replace(base, g=g))
        return None

    def _settled(self, value: Value) -> Known:
        """Return the known function of a value that is now needed, or refuse the node that made it unknown."""
        if value.known is None:
            raise self.refusal(node=value.culprit)
        return value.known

    # --- layers ---------------------------------------------------------------------------------------------------

    def product(self, value: Value, W: np.ndarray, shape: Shape) -> Value:
        """Return the product of weights, shape (n, n_prev), with the features of a value."""
        if value.dtype not in FLOATS:
            raise self.refusal("computes with integers")
        known = self._settled(value)
        self.check_finite(W)
        dtype = W.dtype.name
        if self.dtype is None:
            self.dtype, self.forms = dtype, Forms(dtype)
        if self.dtype != dtype:
            raise ModelFileError(f"{self.node} has weights of {dtype}, and those before it are of {self.dtype}")
        assert self.forms is not None
        self.spend(W.nbytes)
        made = known.times(W)
        assert made.layer is not None
        reading = Reading(self.forms.table.variable(), frozenset())
        return Value(shape, value.dtype, made, {made.layer: reading})

    def weights(self, name: str) -> np.ndarray:
        """Return a constant that can be the weights of a layer."""
        W = self.constants.get(name)
        if W is None or W.ndim not in (1, 2) or W.dtype.kind != "f":
            raise self.refusal("has no constant matrix of weights")
        return W

    def matmul(self, node: Node) -> Value:
        """Read a product, whose constant operand is the weights."""
        if len(node.inputs) != 2:
            raise self.refusal("is no part of a dense chain there")
        first, second = node.inputs
        if first in self.values and second not in self.values:  # samples are rows
            value, W = self.values[first], self.weights(second)
            made = None if W.ndim == 1 else W.shape[1]
            shape = value.shape.after_product(-1, len(W), made)
            return self.product(value, W.reshape(len(W), -1).T, shape)
        if second not in self.values or first in self.values:
            raise self.refusal("has no constant matrix of weights")
        value, W = self.values[second], self.weights(first)
        if len(value.shape.sizes) < 2:
            raise Mismatch("sums over the samples")
        shape = value.shape.after_product(-2, W.shape[-1], None if W.ndim == 1 else len(W))
        return self.product(value, W.reshape(-1, W.shape[-1]), shape)

    def gemm(self, node: Node) -> Value:
        """Read a product and a sum."""
        attributes = node.attributes
        if len(node.inputs) < 2:
            raise self.refusal()
        left = node.inputs[0] in self.values
        name, other = node.inputs[:2] if left else (node.inputs[1], node.inputs[0])
        if name not in self.values or other in self.values:
            raise self.refusal("has no constant matrix of weights")
        value, W = self.values[name], self.weights(other)
        flips = [bool(attributes.get(key, 0)) for key in ("transA", "transB")]
        if W.ndim != 2 or len(value.shape.sizes) != 2:
            raise self.refusal("takes matrices, and is given others")
        flipped, W_flipped = flips if left else flips[::-1]
        shape = value.shape
        if flipped:
            shape = shape._replace(sizes=shape.sizes[::-1])
        if left:  # X W
            W = W.T if not W_flipped else W
            shape = shape.after_product(1, W.shape[1], len(W))
        else:  # W X
            W = W.T if W_flipped else W
            shape = shape.after_product(0, W.shape[1], len(W))
        made = self.product(value, W, shape)
        alpha, beta = float(attributes.get("alpha", 1.0)), float(attributes.get("beta", 1.0))
        if alpha != 1:
            made = self.expression("Mul", made, np.asarray(alpha))
        b = self.constant(node, 2)
        if b is None:
            return made
        if shape.with_constant(b.shape)[0] != shape:
            raise self.refusal(f"has a constant of shape {brief(b.shape)}")
        if not beta:
            return made
        if beta != 1:
            b = self.check_finite(b) * np.float64(beta)
        return self.expression("Add", made, b)

    def linear(self, node: Node) -> Value:
        """Read scikit-learn's linear models, as skl2onnx writes them."""
        attributes, value = node.attributes, self.value(node)
        numbers = attributes.get("coefficients", [])
        classifier = node.op.endswith("Classifier")
        labels = attributes.get("classlabels_strings") or attributes.get("classlabels_ints") or []
        count = len(labels) if classifier else attributes.get("targets", 1)
        after = {"NONE": None, "SOFTMAX": "Softmax", "LOGISTIC": "Sigmoid"}
        transform = attributes.get("post_transform", "NONE")
        b = attributes.get("intercepts") or [0.0]
        if count < 1 or not numbers or len(numbers) % count or len(b) not in (1, count):
            raise self.refusal(f"has {len(numbers):,} coefficients and {len(b):,} intercepts for {count:,} outputs")
        if transform not in (after if classifier else {"NONE"}) or (classifier and count < 2):
            raise self.refusal(f"has outputs of another kind ({brief(transform)})")
        if len(value.shape.sizes) != 2:
            raise self.refusal("takes matrices, and is given others")
        W = np.asarray(numbers, np.float32).reshape(count, -1)
        made = self.product(as_float32(value), W, value.shape.after_product(1, W.shape[1], count))
        if made.shape.axis != 0:
            raise self.refusal("takes samples to be rows, and they are columns")
        made = self.expression("Add", made, np.asarray(b, np.float32))
        then = after[transform]
        return made if then is None else self.expression(then, made)

    # --- operations that stand for several others -------------------------------------------------------------------

    def batch_normalization(self, node: Node) -> Value:
        """Read the normalization by the training's statistics, one pair for each feature."""
        value, sizes = self.value(node), self.value(node).shape.sizes
        if node.attributes.get("training_mode", 0) or any(node.outputs[1:]) or len(node.inputs) != 5:
            raise self.refusal()
        if len(sizes) < 2 or not node.attributes.get("spatial", 1):
            raise self.refusal("takes features to lie along the second axis, and they do not")
        scale, b, mean, variance = (self._statistics(node, i, len(sizes)) for i in range(1, 5))
        deviation = np.sqrt(np.maximum(variance + float(node.attributes.get("epsilon", 1e-5)), 0))
        for op, c in (("Sub", mean), ("Div", deviation), ("Mul", scale), ("Add", b)):
            value = self.expression(op, value, c)
        return value

    def _statistics(self, node: Node, i: int, rank: int) -> np.ndarray:
        x = self.constant(node, i)
        if x is None or x.ndim != 1 or x.dtype.kind != "f":
            raise self.refusal("has statistics that are no constant vectors")
        return self.check_finite(x).astype(np.float64).reshape(-1, *(1,) * (rank - 2))

    def scaler(self, node: Node) -> Value:
        """Read a standardization."""
        value = as_float32(self.value(node))
        for op, key in (("Sub", "offset"), ("Mul", "scale")):
            if key in node.attributes:
                value = self.expression(op, value, np.asarray(node.attributes[key], np.float64))
        return value

    def normalizer(self, node: Node) -> Value:
        """Read a division by the sum of probabilities, which is 1."""
        value = self.value(node)
        layer = value.known.layer if value.known is not None and value.known.affine.is_identity else None
        norm = node.attributes.get("norm", "MAX")
        if layer is None or norm != "L1" or not sums_to_one(layer) or value.shape.sizes != (SAMPLES, len(layer.W)):
            raise self.refusal()
        return value

    def clip(self, node: Node) -> Value:
        """Read a ReLU that is written as a lower bound."""
        low, high = (self._bound(node, i, key) for i, key in ((1, "min"), (2, "max")))
        value = self.value(node)
        if high < np.finfo(value.dtype if value.dtype in FLOATS else "float32").max or low not in (0, -np.inf):
            raise self.refusal(f"bounds its input to {low:g} and {high:g}, which no activation here does")
        return self.expression("Relu", value) if low == 0 else value

    def _bound(self, node: Node, i: int, key: str) -> float:
        default = {"min": -np.inf, "max": np.inf}[key]
        found = self.constant(node, i)
        if found is None:
            return float(node.attributes.get(key, default))
        if found.size != 1:
            raise self.refusal()
        return float(found.item())

    def selu(self, node: Node) -> Value:
        """Read SELU, a multiple of ELU."""
        alpha = float(node.attributes.get("alpha", 1.67326319217681884765625))
        gamma = float(node.attributes.get("gamma", 1.05070102214813232421875))
        return self.expression("Mul", self.expression("Elu", self.value(node), alpha=alpha), np.asarray(gamma))

    def celu(self, node: Node) -> Value:
        """Read CELU if it is the same as ELU."""
        if node.attributes.get("alpha", 1.0) != 1:
            raise self.refusal()
        return self.expression("Elu", self.value(node), alpha=1.0)

    def swish(self, node: Node) -> Value:
        """Read SiLU, for which later opsets have a node."""
        if node.attributes.get("alpha", 1.0) != 1:
            raise self.refusal()
        return self.expression("Mul", self.value(node), self.expression("Sigmoid", self.value(node)))

    def prelu(self, node: Node) -> Value:
        """Read a leaky ReLU whose slope is a parameter; the slope may be repeated for each feature."""
        value, slope = self.value(node), self.constant(node, 1)
        if slope is None or slope.dtype.kind != "f" or (slope != slope.flat[0]).any():
            raise self.refusal()
        shape, _ = value.shape.with_constant(self.check_finite(slope).shape)
        if shape != value.shape:
            raise self.refusal("changes the shape of samples")
        return self.expression("LeakyRelu", value, alpha=float(slope.flat[0]))

    def softmax(self, node: Node) -> Value:
        """Read a softmax over all features of each sample."""
        value, opset = self.value(node), self.graph.opset
        axis = int(node.attributes.get("axis", -1 if opset >= 13 else 1))
        shape = value.shape
        if not (shape.softmax_over(axis) if opset >= 13 else shape.old_softmax_over(axis)):
            raise self.refusal(f"does not go over the features of each sample, whose shape is {shape.features}")
        return self.expression("Softmax", value)

    def extremum(self, node: Node) -> Value:
        """Read the maximum or minimum of some values, without infinite bounds, which change nothing."""
        none = -np.inf if node.op == "Max" else np.inf
        parts = [x for x in self._parts(node) if isinstance(x, Value) or x.size != 1 or x.item() != none]
        only = parts[0]
        return only if len(parts) == 1 and isinstance(only, Value) else self.expression(node.op, *parts)

    def reduction(self, node: Node) -> Value:
        """Read the maximum or the sum of the features of each sample, which are parts of a softmax."""
        value, axes = self.value(node), self.integers(node, 1, "axes")
        if axes is None or len(axes) != 1 or not value.shape.softmax_over(axes[0]):
            raise self.refusal()
        made = replace(self.expression(node.op, value), shape=value.shape.reduced(axes[0]))
        return made if node.attributes.get("keepdims", 1) else replace(made, shape=made.shape.squeezed(axes))

    def concat(self, node: Node) -> Value:
        """Read ``[1 - p, p]`` of one sigmoid, as in classifiers of two classes, as a softmax."""
        parts = [self._part(name) for name in node.inputs]
        values = [part for part in parts if isinstance(part, Value)]
        if len(values) != 2 or len(parts) != 2 or values[0].shape != values[1].shape:
            raise self.refusal()
        shape = values[0].shape
        axis = positive(int(node.attributes.get("axis", 1)), len(shape.sizes))
        first, second = (value.known or Known() for value in values)
        layer = second.layer
        is_sigmoid = layer is not None and first.layer is layer and layer.g == Activation("sigmoid")
        is_pair = is_complement(first.affine) and second.affine.is_identity
        if layer is None or not (is_sigmoid and is_pair and len(layer.W) == shape.size == 1) or axis == shape.axis:
            raise self.refusal()
        zero = np.zeros((1, 1))
        both = Affine(*(np.vstack([one, x]) for one, x in zip(IDENTITY, layer.after, strict=True)))
        both = both._replace(shift=np.vstack([zero, layer.after.shift]))
        W = np.vstack([0 * layer.W, layer.W])  # 1 - σ(z) and σ(z) are the softmax of 0 and z
        known = Known(Product(layer.given, W, both, Activation("softmax")))
        sizes = tuple(2 if i == axis else n for i, n in enumerate(shape.sizes))
        return Value(shape._replace(sizes=sizes), values[0].dtype, known, {})

    # --- operations that change no numbers --------------------------------------------------------------------------

    def transparent(self, node: Node) -> Value:
        """Read an operation that does nothing when predicting."""
        if node.op == "Dropout" and len(node.inputs) > 2 and node.inputs[2]:
            training = self.constants.get(node.inputs[2])
            if training is None or training.any():
                raise self.refusal("drops some of its inputs, as in training; export the model in evaluation mode")
        return self.value(node)

    def cast(self, node: Node) -> Value:
        """Read a cast between floats, or from integers; the end checks that none is narrower than the weights."""
        name, value = NAMES.get(node.attributes.get("to", 0)), self.value(node)
        if name is None:
            raise self.refusal("makes numbers that are no floats")
        order = list(FLOATS)
        if self.narrowest is None or order.index(name) < order.index(self.narrowest[0]):
            self.narrowest = name, node
        return replace(value, dtype=name)

    def reshaping(self, node: Node) -> Value:
        """Read an operation that gives each sample another shape, with the same numbers in the same order."""
        value, attributes = self.value(node), node.attributes
        shape = value.shape
        if node.op == "Transpose":
            made = shape.transposed(attributes.get("perm"))
        elif node.op == "Flatten":
            made = shape.flattened(int(attributes.get("axis", 1)))
        elif node.op == "Squeeze":
            made = shape.squeezed(self.integers(node, 1, "axes"))
        elif node.op == "Unsqueeze":
            made = shape.unsqueezed(self.integers(node, 1, "axes") or [])
        else:
            target = self.integers(node, 1, "shape")
            if target is None:
                raise self.refusal()
            made = shape.reshaped(target, bool(attributes.get("allowzero", 0)))
        return replace(value, shape=made)

    # --- shapes -----------------------------------------------------------------------------------------------------

    def _measure(self, node: Node, given: list[str]) -> None:
        """Read a node that computes with the shape of a value, or reshapes a value to a computed shape."""
        if node.op == "Shape":
            sizes = [n if n != UNKNOWN else ... for n in self.value(node).shape.sizes]
            sizes = sizes[slice(node.attributes.get("start", 0), node.attributes.get("end"))]
            self._put_sizes(node, np.array([*sizes, 0], object)[:-1])
            return
        if node.op in {"Reshape", "Expand"} and len(given) == 2 and given[0] in self.values:
            target = [n if n is SAMPLES else _size(n) for n in np.ravel(self.sizes[given[1]])]
            value = self.values[given[0]]
            allowed = node.op == "Expand" or bool(node.attributes.get("allowzero", 0))
            shape = value.shape.reshaped(target, allowed)
            if node.op == "Expand" and shape != value.shape:
                raise self.refusal("repeats numbers of a sample")
            self.values[node.outputs[0]] = replace(value, shape=shape)
            return
        if any(name not in self.sizes and name not in self.constants for name in given):
            raise self.refusal()
        if node.op == "Expand" and self.constants.get(given[0], np.zeros(2)).size == 1:
            self._fill(node, self.constants[given[0]], self.sizes[given[1]])
            return
        parts = [self.sizes.get(name, self.constants.get(name)) for name in given]
        if node.op == "Cast" and node.attributes.get("to") in (6, 7):
            self._put_sizes(node, np.asarray(parts[0]))
            return
        if node.op not in MEASURED and node.op not in FOLDED:
            raise self.refusal("computes with the shape of samples in a way that is not read")
        try:
            made = (MEASURED.get(node.op) or FOLDED[node.op])(parts, node.attributes)  # type: ignore[arg-type]
        except (ValueError, TypeError, IndexError, KeyError, OverflowError) as error:
            raise self.refusal(
                f"computes with the shape of samples in a way that is not read ({brief(error)})"
            ) from None
        self.spend(made.nbytes)
        self._put_sizes(node, made)

    def _fill(self, node: Node, x: np.ndarray, sizes: np.ndarray) -> None:
        """Read a number that is repeated to the shape of samples."""
        target = tuple(n if n is SAMPLES else _size(n) for n in sizes.ravel())
        if target.count(SAMPLES) != 1 or len(target) < x.ndim or x.dtype.kind != "f":
            raise self.refusal()
        number = float(self.check_finite(x).item())
        shape = Shape(target, self.samples)
        self.values[node.outputs[0]] = Value(shape, x.dtype.name, None, {}, node, number)

    def _put_sizes(self, node: Node, sizes: np.ndarray) -> None:
        """Keep sizes, as a constant if all of them are known."""
        name = node.outputs[0]
        if all(isinstance(n, int | np.integer) for n in sizes.ravel()):
            self.constants[name] = sizes.astype(np.int64)
        else:
            self.sizes[name] = sizes


def _size(n: Any) -> int:
    """Return a size, which must be a number."""
    if not isinstance(n, int | np.integer):
        raise Mismatch("goes by a size that the file leaves open")
    return int(n)


def numbers_for_filled(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Return operands, with a number instead of each constant-filled value whose shape another value has."""
    shapes = [part.shape for part in parts if isinstance(part, Value) and part.number is None]
    return tuple(
        np.asarray(part.number)
        if isinstance(part, Value) and part.number is not None and part.shape in shapes
        else part
        for part in parts
    )


def as_float32(value: Value) -> Value:
    """Return a value as an operation of the machine learning domain takes it: in single precision."""
    return replace(value, dtype="float32")


def is_complement(affine: Affine) -> bool:
    """Return whether an affine function is 1 minus its argument."""
    return bool((affine.factor == -1).all() and (affine.shift == 1).all())


def sums_to_one(layer: Product) -> bool:
    """Return whether the outputs of a layer sum to 1: those of a softmax, or of sigmoids of z and -z."""
    shift = layer.after.shift
    return layer.g == Activation("softmax") or (
        layer.g == Activation("sigmoid") and len(layer.W) == 2 and bool((layer.W[0] == -layer.W[1]).all())
        and ((len(shift) == 2 and bool(shift[0] == -shift[1])) or not shift.any())
        and bool((layer.after.factor == 1).all())
    )  # fmt: skip


def _slice(parts: list[Any], attributes: Mapping[str, Any]) -> np.ndarray:
    data, (start, *_), (end, *_), *more = parts
    step = int(more[1].item()) if len(more) > 1 else 1
    if data.ndim != 1 or step == 0:
        raise ValueError("it is no vector")
    return np.asarray(data[int(start) : int(end) : step])


def _gather(parts: list[Any], attributes: Mapping[str, Any]) -> np.ndarray:
    data, indices = parts
    made = np.empty(indices.shape, object)
    made[...] = data[indices.astype(np.int64)]
    return made


MEASURED: dict[str, Callable[[list[Any], Mapping[str, Any]], np.ndarray]] = {
    "Gather": _gather,
    "Slice": _slice,
    "Concat": lambda parts, attributes: np.concatenate([part.astype(object) for part in parts]),
    "Mul": lambda parts, attributes: np.asarray(parts[0] * parts[1], object),
    "Add": lambda parts, attributes: np.asarray(parts[0] + parts[1], object),
    "ReduceProd": lambda parts, attributes: np.asarray([np.prod(parts[0])], object).reshape(
        (1,) if attributes.get("keepdims", 1) else ()
    ),
}
"""Operations on sizes; the number of samples can be moved, but not computed with."""

TAKEN: dict[str, Callable[[Walk, Node], Value]] = {
    "BatchNormalization": Walk.batch_normalization,
    "Cast": Walk.cast,
    "Celu": Walk.celu,
    "Clip": Walk.clip,
    "Concat": Walk.concat,
    "Gemm": Walk.gemm,
    "Max": Walk.extremum,
    "Min": Walk.extremum,
    "ReduceMax": Walk.reduction,
    "ReduceSum": Walk.reduction,
    "MatMul": Walk.matmul,
    "PRelu": Walk.prelu,
    "Selu": Walk.selu,
    "Softmax": Walk.softmax,
    "Swish": Walk.swish,
    f"{ML}.LinearClassifier": Walk.linear,
    f"{ML}.LinearRegressor": Walk.linear,
    f"{ML}.Normalizer": Walk.normalizer,
    f"{ML}.Scaler": Walk.scaler,
    **dict.fromkeys(TRANSPARENT, Walk.transparent),
    **dict.fromkeys(["Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"], Walk.reshaping),
}
"""Operations that are not simply elementwise, by name."""
