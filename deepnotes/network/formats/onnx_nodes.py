"""The nodes of ONNX graphs that are not elementwise: a function for each reads it as a layer or an affine function."""

from dataclasses import replace

import numpy as np

from deepnotes.equations.activations import SELU
from deepnotes.network.formats.affine import IDENTITY, Affine
from deepnotes.network.formats.composing import Expression, Product
from deepnotes.network.formats.onnx_file import ML, Node
from deepnotes.network.formats.onnx_shapes import SAMPLES, UNKNOWN, Mismatch, positive
from deepnotes.network.formats.onnx_walk import (
    FLOATS,
    NAMES,
    NO_CHAIN,
    NO_MATRICES,
    NO_WEIGHTS,
    TRANSPARENT,
    Handlers,
    Value,
    Walk,
    is_elementwise,
)
from deepnotes.nn.activations import Activation
from deepnotes.nn.layers import LayerNorm, PReLU, RMSNorm
from deepnotes.utils.wording import brief


def matmul(walk: Walk, node: Node) -> Value:
    """Read a matrix product, whose constant operand is the weights."""
    if len(node.inputs) != 2:
        raise walk.refusal(NO_CHAIN)
    first, second = node.inputs
    if first in walk.values and second not in walk.values:  # samples are rows
        value, W = walk.values[first], walk.weights(second)
        shape = value.shape.after_product(-1, len(W), None if W.ndim == 1 else W.shape[1])
        return walk.product(value, W.reshape(len(W), -1).T, shape)
    if second not in walk.values or first in walk.values:
        raise walk.refusal(NO_WEIGHTS)
    value, W = walk.values[second], walk.weights(first)
    if len(value.shape.sizes) < 2:
        raise Mismatch("sums over the samples")
    shape = value.shape.after_product(-2, W.shape[-1], None if W.ndim == 1 else len(W))
    return walk.product(value, W.reshape(-1, W.shape[-1]), shape)


def gemm(walk: Walk, node: Node) -> Value:
    """Read ``alpha X W + beta b`` or ``alpha W X + beta b``; X and W may be transposed."""
    result = _gemm_product(walk, node)
    shape = result.shape
    alpha, beta = (float(node.attributes.get(key, 1.0)) for key in ("alpha", "beta"))
    if alpha != 1:
        result = walk.elementwise("Mul", result, np.asarray(alpha))
    b = walk.constant(node, 2)
    if b is not None and shape.with_constant(b.shape)[0] != shape:
        raise walk.refusal(f"has a constant of shape {brief(b.shape)}")
    if b is None or not beta:
        return result
    return walk.elementwise("Add", result, b if beta == 1 else walk.check_finite(b) * np.float64(beta))


def _gemm_product(walk: Walk, node: Node) -> Value:
    """Return the product of the first two operands: a value and weights, in either order."""
    if len(node.inputs) < 2:
        raise walk.refusal()
    first, second = node.inputs[:2]
    value_first = first in walk.values
    name, weights = (first, second) if value_first else (second, first)
    if name not in walk.values or weights in walk.values:
        raise walk.refusal(NO_WEIGHTS)
    value, W = walk.values[name], walk.weights(weights)
    if W.ndim != 2 or len(value.shape.sizes) != 2:
        raise walk.refusal(NO_MATRICES)
    transposed = [bool(node.attributes.get(key, 0)) for key in ("transA", "transB")]
    value_transposed, W_transposed = transposed if value_first else transposed[::-1]
    shape = value.shape
    if value_transposed:
        shape = shape._replace(sizes=shape.sizes[::-1])
    if value_first != W_transposed:  # the weights of the layer are Wᵀ in X W, but W in W X
        W = W.T
    return walk.product(value, W, shape.after_product(1 if value_first else 0, W.shape[1], len(W)))


def linear(walk: Walk, node: Node) -> Value:
    """Read one of scikit-learn's linear models, as skl2onnx writes it."""
    attributes, value = node.attributes, walk.value(node)
    coefficients = attributes.get("coefficients", [])
    is_classifier = node.op.endswith("Classifier")
    labels = attributes.get("classlabels_strings") or attributes.get("classlabels_ints") or []
    outputs = len(labels) if is_classifier else attributes.get("targets", 1)
    activations = {"NONE": None, "SOFTMAX": "Softmax", "LOGISTIC": "Sigmoid"}
    transform = attributes.get("post_transform", "NONE")
    b = attributes.get("intercepts") or [0.0]
    if outputs < 1 or not coefficients or len(coefficients) % outputs or len(b) not in (1, outputs):
        raise walk.refusal(f"has {len(coefficients):,} coefficients and {len(b):,} intercepts for {outputs:,} outputs")
    if transform not in (activations if is_classifier else {"NONE"}) or (is_classifier and outputs < 2):
        raise walk.refusal(f"has an unsupported post_transform ({brief(transform)}) for {outputs:,} outputs")
    if len(value.shape.sizes) != 2:
        raise walk.refusal(NO_MATRICES)
    W = np.asarray(coefficients, np.float32).reshape(outputs, -1)
    result = walk.product(as_float32(value), W, value.shape.after_product(1, W.shape[1], outputs))
    if result.shape.axis != 0:
        raise walk.refusal("needs samples as rows, but they are columns")
    result = walk.elementwise("Add", result, np.asarray(b, np.float32))
    activation = activations[transform]
    return result if activation is None else walk.elementwise(activation, result)


# --- operations that are equivalent to several others -----------------------------------------------------------


def batch_normalization(walk: Walk, node: Node) -> Value:
    """Read a batch normalization, which in evaluation mode uses the statistics of the training data."""
    value = walk.value(node)
    sizes = value.shape.sizes
    if node.attributes.get("training_mode", 0) or any(node.outputs[1:]) or len(node.inputs) != 5:
        raise walk.refusal()
    if len(sizes) < 2 or not node.attributes.get("spatial", 1):
        raise walk.refusal("needs the features on the second axis, but they are on another axis")
    scale, b, mean, variance = (_statistics(walk, node, i, len(sizes)) for i in range(1, 5))
    deviation = np.sqrt(np.maximum(variance + float(node.attributes.get("epsilon", 1e-5)), 0))
    for op, c in (("Sub", mean), ("Div", deviation), ("Mul", scale), ("Add", b)):
        value = walk.elementwise(op, value, c)
    return value


def _statistics(walk: Walk, node: Node, i: int, rank: int) -> np.ndarray:
    """Return operand `i`, one number per feature, with a shape that can be broadcast to values of `rank` axes."""
    x = walk.constant(node, i)
    if x is None or x.ndim != 1 or x.dtype.kind != "f":
        raise walk.refusal("has statistics that are not constant vectors")
    return walk.check_finite(x).astype(np.float64).reshape(-1, *(1,) * (rank - 2))


def scaler(walk: Walk, node: Node) -> Value:
    """Read a standardization, as skl2onnx writes it."""
    value = as_float32(walk.value(node))
    for op, key in (("Sub", "offset"), ("Mul", "scale")):
        if key in node.attributes:
            value = walk.elementwise(op, value, np.asarray(node.attributes[key], np.float64))
    return value


def normalizer(walk: Walk, node: Node) -> Value:
    """Read a division by the sum of probabilities, which has no effect, since the sum is 1."""
    value = walk.value(node)
    layer = value.expression.layer if value.expression is not None and value.expression.affine.is_identity else None
    norm = node.attributes.get("norm", "MAX")
    if not isinstance(layer, Product) or norm != "L1" or not sums_to_one(layer):
        raise walk.refusal()
    if value.shape.sizes != (SAMPLES, len(layer.W)):
        raise walk.refusal()
    return value


def clip(walk: Walk, node: Node) -> Value:
    """Read a Clip: one without bounds, or one that is an activation or a part of one, as in ReLU and ReLU6."""
    low, high = (_bound(walk, node, i, key) for i, key in ((1, "min"), (2, "max")))
    value = walk.value(node)
    if high < np.finfo(value.dtype if value.dtype in FLOATS else "float32").max:
        if (low, high) not in {(0, 6), (0, 1)}:
            raise walk.refusal(f"bounds its input to {low:g} and {high:g}, which no activation does")
        return walk.elementwise("Min", walk.elementwise("Max", value, np.asarray(low)), np.asarray(high))
    if low not in (0, -np.inf):
        raise walk.refusal(f"bounds its input to {low:g} and {high:g}, which no activation does")
    return walk.elementwise("Relu", value) if low == 0 else value


def _bound(walk: Walk, node: Node, i: int, key: str) -> float:
    """Return a bound of a Clip: operand `i` or, in older files, the attribute `key`."""
    default = {"min": -np.inf, "max": np.inf}[key]
    operand = walk.constant(node, i)
    if operand is None:
        return float(node.attributes.get(key, default))
    if operand.size != 1:
        raise walk.refusal()
    return float(operand.item())


def selu(walk: Walk, node: Node) -> Value:
    """Read SELU; with other constants than those of the paper, it is a multiple of ELU."""
    alpha = float(node.attributes.get("alpha", SELU[0]))
    gamma = float(node.attributes.get("gamma", SELU[1]))
    if np.allclose((alpha, gamma), SELU, rtol=1e-6, atol=0):  # the attributes are in single precision
        return walk.elementwise("Selu", walk.value(node))
    return walk.elementwise("Mul", walk.elementwise("Elu", walk.value(node), alpha=alpha), np.asarray(gamma))


def celu(walk: Walk, node: Node) -> Value:
    """Read CELU, which with an alpha of 1 is ELU."""
    alpha = float(node.attributes.get("alpha", 1.0))
    if not 0 < alpha < np.inf:
        raise walk.refusal()
    return walk.elementwise("Elu" if alpha == 1 else "Celu", walk.value(node), alpha=alpha)


def hard_sigmoid(walk: Walk, node: Node) -> Value:
    """Read a HardSigmoid, which is a part of hardswish: ``min(max(alpha x + beta, 0), 1)``."""
    alpha, beta = (float(node.attributes.get(key, default)) for key, default in (("alpha", 0.2), ("beta", 0.5)))
    if beta != 0.5 or not np.isclose(alpha, 1 / 6, rtol=1e-6, atol=0):
        raise walk.refusal()
    scaled = walk.elementwise("Add", walk.elementwise("Div", walk.value(node), np.asarray(6.0)), np.asarray(0.5))
    return walk.elementwise("Min", walk.elementwise("Max", scaled, np.asarray(0.0)), np.asarray(1.0))


def swish(walk: Walk, node: Node) -> Value:
    """Read SiLU, which is a single node from opset 24 on."""
    if node.attributes.get("alpha", 1.0) != 1:
        raise walk.refusal()
    return walk.elementwise("Mul", walk.value(node), walk.elementwise("Sigmoid", walk.value(node)))


def prelu(walk: Walk, node: Node) -> Value:
    """Read a PRelu with constant slopes; after a linear layer, slopes that are all equal are that of a leaky ReLU."""
    value, slope = walk.value(node), walk.constant(node, 1)
    if slope is None or slope.dtype.kind != "f" or not slope.size:
        raise walk.refusal()
    shape, relative_shape = value.shape.with_constant(walk.check_finite(slope).shape)
    if shape != value.shape:
        raise walk.refusal("changes the shape of samples")
    if (slope == slope.flat[0]).all():
        leaky = walk.elementwise("LeakyRelu", value, alpha=float(slope.flat[0]))
        if leaky.expression is not None or value.expression is None:
            return leaky
    walk.use_dtype(slope.dtype.name)
    return walk.feature_layer(value, PReLU(), shape, alpha=walk.column(slope, relative_shape, shape))


def layer_normalization(walk: Walk, node: Node) -> Value:
    """Read a layer normalization over all features of each sample."""
    bias = walk.constant(node, 2)
    return _normalization(walk, node, LayerNorm, bias)


def rms_normalization(walk: Walk, node: Node) -> Value:
    """Read a normalization by the root mean square over all features of each sample, a node since opset 23."""
    return _normalization(walk, node, RMSNorm, None)


def _normalization(walk: Walk, node: Node, kind: type[LayerNorm | RMSNorm], bias: np.ndarray | None) -> Value:
    value, axis = walk.value(node), int(node.attributes.get("axis", -1))
    epsilon = float(str(np.float32(node.attributes.get("epsilon", 1e-5))))  # 1e-05, not 9.999999747378752e-06
    scale = walk.constant(node, 1)
    if not value.shape.old_softmax_over(axis):
        raise walk.refusal(f"is not over the features of each sample, whose shape is {value.shape.features}")
    if not epsilon > 0:
        raise walk.refusal("has an epsilon that is not above 0")
    if scale is None or scale.dtype.kind != "f":
        raise walk.refusal()
    bias = np.zeros_like(scale) if bias is None else bias
    shape, _ = value.shape.with_constant(walk.check_finite(scale).shape)
    sizes = shape.sizes[positive(axis, len(shape.sizes)) :]
    if not scale.size or {scale.shape, walk.check_finite(bias).shape} != {sizes} or bias.dtype != scale.dtype:
        raise walk.refusal()
    walk.use_dtype(scale.dtype.name)
    parameters = {"gamma": scale, "beta": bias} if kind is LayerNorm else {"gamma": scale}
    columns = {name: x.astype(np.float64).reshape(-1, 1) for name, x in parameters.items()}
    return walk.feature_layer(value, kind(epsilon), shape, **columns)


def softmax(walk: Walk, node: Node) -> Value:
    """Read a softmax, or its logarithm, over all features of each sample."""
    value, opset = walk.value(node), walk.graph.opset
    axis = int(node.attributes.get("axis", -1 if opset >= 13 else 1))
    shape = value.shape
    if not (shape.softmax_over(axis) if opset >= 13 else shape.old_softmax_over(axis)):
        raise walk.refusal(f"is not over the features of each sample, whose shape is {shape.features}")
    return walk.elementwise(node.op, value)


def extremum(walk: Walk, node: Node) -> Value:
    """Read an elementwise maximum or minimum; infinite bounds, which have no effect, are ignored."""
    no_bound = -np.inf if node.op == "Max" else np.inf
    operands = [x for x in walk.operands(node) if isinstance(x, Value) or x.size != 1 or x.item() != no_bound]
    first = operands[0]
    return first if len(operands) == 1 and isinstance(first, Value) else walk.elementwise(node.op, *operands)


def reduction(walk: Walk, node: Node) -> Value:
    """Read the maximum, the sum or the mean over the features of each sample.

    They occur in a softmax and in normalizations of several nodes.
    """
    value, axes = walk.value(node), walk.integers(node, 1, "axes")
    if axes is None or len(axes) != 1 or not value.shape.softmax_over(axes[0]):
        raise walk.refusal()
    result = walk.elementwise("ReduceSum" if node.op == "ReduceMean" else node.op, value)
    if node.op == "ReduceMean":
        if value.shape.size == UNKNOWN:
            raise walk.refusal("is the mean of a number of features that the file does not specify")
        result = walk.elementwise("Div", result, np.asarray(float(value.shape.size)))
    result = replace(result, shape=value.shape.reduced(axes[0]))
    return result if node.attributes.get("keepdims", 1) else replace(result, shape=result.shape.squeezed(axes))


def slicing(walk: Walk, node: Node) -> Value:
    """Read a range of the outputs of a dense layer, such as one half of what a gate multiplies."""
    starts, stops, axes, steps = (
        walk.integers(node, i, name) for i, name in enumerate(("starts", "ends", "axes", "steps"), 1)
    )
    if starts is None or stops is None or len(starts) != 1 or len(stops) != 1 or (steps or [1]) != [1]:
        raise walk.refusal()
    value = walk.value(node)
    size = _features_on(walk, value, (axes or [0])[0])
    start, stop, _ = slice(starts[0], stops[0]).indices(size)
    return _part(walk, value, start, stop)


def splitting(walk: Walk, node: Node) -> list[Value | None]:
    """Read a division of the outputs of a dense layer into ranges; those that nothing uses are None."""
    value = walk.value(node)
    size, parts = _features_on(walk, value, int(node.attributes.get("axis", 0))), len(node.outputs)
    each = -(-size // parts)
    if node.attributes.get("num_outputs", parts) != parts:
        raise walk.refusal(f"has {parts:,} outputs, but num_outputs is {node.attributes['num_outputs']:,}")
    sizes = walk.integers(node, 1, "split") or [min(each, size - i * each) for i in range(parts)]
    if sum(sizes) != size or len(sizes) != parts or min(sizes) < 1:
        raise walk.refusal(f"does not divide {size:,} features into {parts:,} parts")
    stops = np.cumsum(sizes).tolist()
    return [
        _part(walk, value, stop - n, stop) if name in walk.last_use else None
        for name, stop, n in zip(node.outputs, stops, sizes, strict=True)
    ]


def _features_on(walk: Walk, value: Value, axis: int) -> int:
    """Return the number of features of a value whose samples are vectors; they must be on this axis."""
    shape = value.shape
    if len(shape.sizes) != 2 or positive(axis, 2) == shape.axis or shape.size == UNKNOWN:
        raise walk.refusal("does not apply to the features of samples that are vectors")
    return shape.size


def _part(walk: Walk, value: Value, start: int, stop: int) -> Value:
    """Return a range of the outputs of a dense layer."""
    expression = walk.require_expression(value)
    layer = expression.layer
    if not isinstance(layer, Product) or not expression.affine.is_identity or not is_elementwise(layer):
        raise walk.refusal("takes some of the numbers of each sample, but not the outputs of a dense layer")
    if not start < stop:
        raise walk.refusal("takes no numbers")
    part = layer.rows(start, stop)
    shape = value.shape._replace(sizes=tuple(stop - start if n is not SAMPLES else n for n in value.shape.sizes))
    return replace(value, shape=shape, expression=Expression(part), candidates={part: walk.argument()})


def concat(walk: Walk, node: Node) -> Value:
    """Read ``[1 - p, p]``, the two probabilities of a classifier whose only output is a sigmoid p, as a softmax."""
    operands = [walk.operand(name) for name in node.inputs]
    values = [operand for operand in operands if isinstance(operand, Value)]
    if len(values) != 2 or len(operands) != 2 or values[0].shape != values[1].shape:
        raise walk.refusal()
    shape = values[0].shape
    axis = positive(int(node.attributes.get("axis", 1)), len(shape.sizes))
    first, second = (value.expression or Expression() for value in values)
    layer = second.layer
    if not isinstance(layer, Product) or first.layer is not layer or layer.g != Activation("sigmoid"):
        raise walk.refusal()
    is_pair = is_complement(first.affine) and second.affine.is_identity
    if not is_pair or not len(layer.W) == shape.size == 1 or axis == shape.axis:
        raise walk.refusal()
    zero = np.zeros((1, 1))
    after = Affine(*(np.vstack([one, x]) for one, x in zip(IDENTITY, layer.after, strict=True)))
    after = after._replace(shift=np.vstack([zero, layer.after.shift]))
    W = np.vstack([0 * layer.W, layer.W])  # 1 - σ(z) and σ(z) are the softmax of 0 and z
    expression = Expression(Product(layer.A_prev, W, after, Activation("softmax")))
    sizes = tuple(2 if i == axis else n for i, n in enumerate(shape.sizes))
    return Value(shape._replace(sizes=sizes), values[0].dtype, expression, {})


# --- operations that do not change numbers ----------------------------------------------------------------------


def transparent(walk: Walk, node: Node) -> Value:
    """Read an operation that has no effect on predictions."""
    if node.op == "Dropout" and len(node.inputs) > 2 and node.inputs[2]:
        training = walk.constants.get(node.inputs[2])
        if training is None or training.any():
            raise walk.refusal("drops some of its inputs, as in training; export the model in evaluation mode")
    return walk.value(node)


def cast(walk: Walk, node: Node) -> Value:
    """Read a cast to a float dtype; :meth:`chain` checks that it is not narrower than the dtype of the weights."""
    name, value = NAMES.get(node.attributes.get("to", 0)), walk.value(node)
    if name is None:
        raise walk.refusal("does not cast to a float dtype")
    order = list(FLOATS)
    if walk.narrowest is None or order.index(name) < order.index(walk.narrowest[0]):
        walk.narrowest = name, node
    return replace(value, dtype=name)


def reshaping(walk: Walk, node: Node) -> Value:
    """Read an operation that changes the shape of each sample, but not its numbers or their order."""
    value, attributes = walk.value(node), node.attributes
    shape = value.shape
    if node.op == "Transpose":
        result = shape.transposed(attributes.get("perm"))
    elif node.op == "Flatten":
        result = shape.flattened(int(attributes.get("axis", 1)))
    elif node.op == "Squeeze":
        result = shape.squeezed(walk.integers(node, 1, "axes"))
    elif node.op == "Unsqueeze":
        result = shape.unsqueezed(walk.integers(node, 1, "axes") or [])
    else:
        target = walk.integers(node, 1, "shape")
        if target is None:
            raise walk.refusal()
        result = shape.reshaped(target, bool(attributes.get("allowzero", 0)))
    return replace(value, shape=result)


def as_float32(value: Value) -> Value:
    """Return a value as float32; operations of the machine learning domain convert their inputs to that dtype."""
    return replace(value, dtype="float32")


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


HANDLERS: Handlers = {
    "BatchNormalization": batch_normalization,
    "Cast": cast,
    "Celu": celu,
    "Clip": clip,
    "Concat": concat,
    "Gemm": gemm,
    "HardSigmoid": hard_sigmoid,
    "LayerNormalization": layer_normalization,
    "LogSoftmax": softmax,
    "Max": extremum,
    "Min": extremum,
    "RMSNormalization": rms_normalization,
    "ReduceMax": reduction,
    "ReduceMean": reduction,
    "ReduceSum": reduction,
    "MatMul": matmul,
    "PRelu": prelu,
    "Selu": selu,
    "Slice": slicing,
    "Softmax": softmax,
    "Split": splitting,
    "Swish": swish,
    f"{ML}.LinearClassifier": linear,
    f"{ML}.LinearRegressor": linear,
    f"{ML}.Normalizer": normalizer,
    f"{ML}.Scaler": scaler,
    **dict.fromkeys(TRANSPARENT, transparent),
    **dict.fromkeys(["Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"], reshaping),
}
"""The functions for operations that are not elementwise, by name."""
