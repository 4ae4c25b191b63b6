"""Affine nodes, and activations as exporters write them, become layers whose outputs agree with ONNX Runtime."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepnotes as dn

onnx = pytest.importorskip("onnx", reason='the extra "onnx" is not installed')
pytest.importorskip("onnxruntime", reason='the extra "onnx" is not installed')
graphs = pytest.importorskip("onnx_graphs")
helper, chain, model, run, write = onnx.helper, graphs.chain, graphs.model, graphs.run, graphs.write
rng = np.random.default_rng(11)
W1, b1, W2, b2 = rng.normal(size=(3, 5)), rng.normal(size=5), rng.normal(size=(5, 2)), rng.normal(size=2)
X = rng.normal(size=(40, 3)).astype("float32") * 3
FIRST, LAST = ("Gemm", W1, b1), ("Gemm", W2, b2)


def normalization(n: int, gamma: Any = None) -> tuple[Any, ...]:
    """Return a BatchNormalization node for n features, in the notation of onnx_graphs.chain."""
    scale = rng.normal(size=n) if gamma is None else np.asarray(gamma)
    return (
        "BatchNormalization",
        scale,
        rng.normal(size=n),
        rng.normal(size=n),
        rng.uniform(0.1, 2, n),
        {"epsilon": 0.01},
    )


GRAPHS: dict[str, tuple[list[Any], str]] = {
    "BatchNormalization before": ([normalization(3), FIRST, ("Tanh",), LAST], "tanh"),
    "BatchNormalization between": ([FIRST, normalization(5), ("Gelu",), LAST], "gelu"),
    "BatchNormalization after": ([FIRST, ("Relu",), normalization(5), LAST, normalization(2)], "relu"),
    "a feature with a scale of 0": ([normalization(3, [0.0, -1.0, 2.0]), FIRST, ("Relu",), LAST], "relu"),
    "negated inputs": ([("Mul", np.array([1.0, -1.0, 0.0])), ("Add", 2.0), FIRST, ("Tanh",), LAST], "tanh"),
    "inputs subtracted from a number": ([("Sub", 1.0, ...), ("Neg",), FIRST, ("Tanh",), LAST], "tanh"),
    "scaled after an activation": ([FIRST, ("Sigmoid",), ("Mul", 2.0), ("Sub", 1.0), LAST], "sigmoid"),
    "each feature scaled": ([FIRST, ("Elu",), ("Div", b1), ("Add", b1, ...), LAST], "elu"),
    "a Clip from 0": ([FIRST, ("Clip", 0.0), LAST], "relu"),
    "a Clip from 0 to the largest float": ([FIRST, ("Clip", 0.0, 3.4028235e38), LAST], "relu"),
    "a maximum": ([FIRST, ("Max", 0.0, ...), LAST], "relu"),
    "Selu": ([FIRST, ("Selu",), LAST], "selu"),
    "Selu with other constants": ([FIRST, ("Selu", {"alpha": 1.5, "gamma": 2.0}), LAST], "elu"),
    "Celu with alpha 1": ([FIRST, ("Celu",), LAST], "elu"),
    "Celu with alpha 2": ([FIRST, ("Celu", {"alpha": 2.0}), LAST], "celu"),
    "Mish": ([FIRST, ("Mish",), LAST], "mish"),
    "HardSwish": ([FIRST, ("HardSwish",), LAST], "hardswish"),
    "Softsign": ([FIRST, ("Softsign",), LAST], "softsign"),
    "a Clip from 0 to 6": ([FIRST, ("Clip", 0.0, 6.0), LAST], "relu6"),
    "LogSoftmax": ([FIRST, ("LogSoftmax",), LAST], "log_softmax"),
    "PRelu with a single slope": ([FIRST, ("PRelu", np.array([0.2])), LAST], "leaky_relu"),
    "PRelu with equal slopes": ([FIRST, ("PRelu", np.full(5, 0.2)), LAST], "leaky_relu"),
    "scaled outputs of tanh": ([FIRST, ("Relu",), LAST, ("Tanh",), ("Mul", 2.5)], "relu"),
    "an affine function before the activation": ([FIRST, ("Mul", 0.5), ("Add", 1.0), ("Softplus",), LAST], "softplus"),
    "an unbounded maximum": ([FIRST, ("Max", -np.inf), ("Relu",), ("Min", np.inf), LAST], "relu"),
}  # fmt: skip


@pytest.mark.parametrize("name", GRAPHS)
def test_affine_functions_are_folded_into_layers(name: str, tmp_path: Path) -> None:
    steps, activation = GRAPHS[name]
    content = chain(*steps, opset=20)
    net = dn.from_onnx(write(content, tmp_path), backend="numpy")
    assert net.layers[0].g.name == activation  # type: ignore[attr-defined]
    assert len(net.layers) == 2 + (name == "scaled outputs of tanh")
    expected = run(content, X)
    np.testing.assert_allclose(net.predict(X.T).T, expected, rtol=2e-5, atol=2e-5 * abs(expected).max())


def test_swish_is_read_as_silu(tmp_path: Path) -> None:
    assert dn.from_onnx(write(chain(FIRST, ("Swish",), opset=24), tmp_path)).layers == (dn.Dense(5, "silu"),)
    with pytest.raises(dn.ModelFileError, match=r"'n1' \(Swish\) multiplies the argument of its sigmoid"):
        dn.from_onnx(write(chain(FIRST, ("Swish", {"alpha": 1.7}), opset=24), tmp_path))


@pytest.mark.parametrize("reduced", [True, False])
def test_a_softmax_of_several_nodes_is_recognized(reduced: bool, tmp_path: Path) -> None:
    """ReduceMax removes the axis, as in files written by jax2onnx, or keeps it with size 1."""
    keepdims = int(not reduced)
    nodes = [
        helper.make_node("MatMul", ["in", "W"], ["z"]),
        helper.make_node("ReduceMax", ["z", "axis"], ["largest"], keepdims=keepdims),
        helper.make_node("Max", ["no_bound", "largest"], ["M"]),
        *([helper.make_node("Unsqueeze", ["M", "axis"], ["Mk"])] if reduced else []),
        helper.make_node("Sub", ["z", "Mk" if reduced else "M"], ["d"]),
        helper.make_node("Exp", ["d"], ["e"]),
        helper.make_node("ReduceSum", ["e", "axis"], ["s"], keepdims=1),
        helper.make_node("Div", ["e", "s"], ["out"]),
    ]
    constants = {"W": W1.astype("float32"), "axis": np.array([1]), "no_bound": np.float32(-np.inf)}
    content = model(nodes, constants, "out", opset=18)
    net = dn.from_onnx(write(content, tmp_path), backend="numpy")
    assert net.layers == (dn.Dense(5, "softmax"),)
    np.testing.assert_allclose(net.predict(X.T).T, run(content, X), rtol=1e-5)
    constants["axis"] = np.array([0])
    with pytest.raises(dn.ModelFileError, match=r"\(ReduceMax\) cannot be part of a chain of layers"):
        dn.from_onnx(write(model(nodes, constants, "out", opset=18), tmp_path))


@pytest.mark.parametrize(("transform", "classes"), [("SOFTMAX", 3), ("LOGISTIC", 2), ("NONE", 4)])
def test_linear_models_of_scikit_learn_are_read(transform: str, classes: int, tmp_path: Path) -> None:
    half = rng.normal(size=(classes, 3))
    W = np.vstack([-half[:1], half[:1]]) if transform == "LOGISTIC" else half
    node = helper.make_node(
        "LinearClassifier", ["in"], ["label", "scores"], domain="ai.onnx.ml", coefficients=W.ravel().tolist(),
        intercepts=[0.0] * classes, classlabels_strings=list("abcd")[:classes], post_transform=transform,
    )  # fmt: skip
    norm = helper.make_node("Normalizer", ["scores"], ["out"], domain="ai.onnx.ml", norm="L1")
    content = model([node, norm] if transform != "NONE" else [node], {}, "out" if transform != "NONE" else "scores")
    net = dn.from_onnx(write(content, tmp_path), backend="numpy")
    assert net.metadata["classes"] == list("abcd")[:classes]
    np.testing.assert_allclose(net.predict(X.T).T, run(content, X), rtol=1e-4, atol=1e-6)


def test_weights_in_half_precision_are_read_as_float32(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["in"], ["x"], to=10),
        helper.make_node("Gemm", ["x", "W", "b"], ["z"]),
        helper.make_node("LeakyRelu", ["z"], ["a"], alpha=0.1),
        helper.make_node("MatMul", ["a", "V"], ["y"]),
        helper.make_node("Cast", ["y"], ["out"], to=1),
    ]
    constants = {name: x.astype("float16") for name, x in (("W", W1), ("b", b1), ("V", W2))}
    content = model(nodes, constants, "out")
    net = dn.from_onnx(write(content, tmp_path), backend="numpy")
    assert (net.dtype, net.layers[0]) == ("float32", dn.Dense(5, dn.Activation("leaky_relu", slope=0.1)))
    np.testing.assert_array_equal(net.parameters["W1"], constants["W"].T.astype("float32"))
    np.testing.assert_allclose(net.predict(X.T).T, run(content, X), rtol=1e-2, atol=2e-2)
    content.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    content.graph.node[-1].attribute[0].i = 10
    assert dn.from_onnx(write(content, tmp_path)).outputs == 2


REFUSED: dict[str, tuple[list[Any], str]] = {
    "a Clip from 0 to 5": ([FIRST, ("Clip", 0.0, 5.0)], r"'n1' \(Clip\) bounds its input to 0 and 5"),
    "a Clip from 0 to 1": ([FIRST, ("Clip", 0.0, 1.0)], r"'n1' \(Clip\) does not bound its input in the same way"),
    "Celu with alpha -1": ([FIRST, ("Celu", {"alpha": -1.0})], r"'n1' \(Celu\) has an alpha that is not above 0"),
    "HardSigmoid": ([FIRST, ("HardSigmoid",)], r"'n1' \(HardSigmoid\) is an unsupported activation"),
    "a LogSoftmax over the samples": ([FIRST, ("LogSoftmax", {"axis": 0})], r"'n1' \(LogSoftmax\) is not over the"),
    "BatchNormalization in training mode": (
        [FIRST, ("BatchNormalization", *[np.ones(5)] * 4, {"training_mode": 1})], r"ization\) normalizes by the batch"),
    "division by norms of samples": (
        [("ai.onnx.ml.Normalizer", {"norm": "L2"}), FIRST], r"divides each sample by its own norm"),
    "missing values replaced": (
        [("ai.onnx.ml.Imputer", {"imputed_value_floats": [0.0]}), FIRST], r"\(ai.onnx.ml.Imputer\) replaces missing"),
    "NaN among the weights": ([("Gemm", np.where(W1 > 1, np.nan, W1))], r"'n0' \(Gemm\) has a constant that is not fi"),
    "an infinite bias": ([("Gemm", W1, np.array([1, 2, 3, 4, np.inf]))], r"'n0' \(Gemm\) has a constant that is not f"),
    "an infinite alpha": ([("Gemm", W1, {"alpha": np.inf})], r"'n0' \(Gemm\) has alpha that is not finite"),
    "a slope that is NaN": ([FIRST, ("LeakyRelu", {"alpha": np.nan})], r"'n1' \(LeakyRelu\) has alpha that is not fin"),
    "an infinite epsilon": (
        [FIRST, ("BatchNormalization", *[np.ones(5)] * 4, {"epsilon": np.inf})], "has epsilon that is not finite"),
    "a gamma that is NaN": ([FIRST, ("Selu", {"gamma": np.nan})], r"'n1' \(Selu\) has gamma that is not finite"),
    "no variance": (
        [FIRST, ("BatchNormalization", *[np.ones(5)] * 3, -np.ones(5))], r"ization\) produces numbers that are not"),
    "a scale that is NaN": (
        [("ai.onnx.ml.Scaler", {"scale": [1.0, np.nan, 1.0]}), FIRST], "has scale that is not finite"),
    "weights that overflow": (
        [FIRST, ("Mul", 1e30), ("Mul", 1e30)], "into weights gives numbers that are not finite"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_unsupported_operations_and_non_finite_constants_are_refused(name: str, tmp_path: Path) -> None:
    steps, message = REFUSED[name]
    with pytest.raises(dn.ModelFileError, match=message):
        dn.from_onnx(write(chain(*steps, opset=20), tmp_path))
