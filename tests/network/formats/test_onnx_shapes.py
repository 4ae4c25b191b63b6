"""ONNX graphs with reshaping nodes are read if they treat all samples alike, as a chain of layers does."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepnotes as dn

onnx = pytest.importorskip("onnx", reason='the extra "onnx" is not installed')
pytest.importorskip("onnxruntime", reason='the extra "onnx" is not installed')
graphs, onnx_random = pytest.importorskip("onnx_graphs"), pytest.importorskip("onnx_random")
helper, chain, model, run, write = onnx.helper, graphs.chain, graphs.model, graphs.run, graphs.write
rng = np.random.default_rng(7)
W, W1, b = rng.normal(size=(3, 4)), rng.normal(size=(3, 1)), rng.normal(size=4)
X = rng.normal(size=(6, 3)).astype("float32")


@pytest.mark.thinned(4)
@pytest.mark.parametrize("block", range(4))
def test_random_graphs_are_refused_or_match_onnx_runtime(block: int, tmp_path: Path) -> None:
    """`python tests/onnx_random.py` runs the same check on more graphs."""
    results = [onnx_random.check_graph(seed, tmp_path) for seed in range(150 * block, 150 * (block + 1))]
    assert 15 < results.count("read") < 135


REFUSED: dict[str, Any] = {
    "softmax over samples, after a Squeeze of the axis of features": (
        [("Gemm", W1), ("Squeeze", [-1]), ("Softmax", {"axis": -1})], r"'n2' \(Softmax\) is not over the"),
    "softmax over samples, after a Reshape": (
        [("Gemm", W1), ("Reshape", [-1]), ("Softmax", {"axis": 0})], r"'n2' \(Softmax\) is not over"),
    "softmax over one of two axes": (
        [("Gemm", W), ("Reshape", [-1, 2, 2]), ("Softmax", {"axis": -1})], r"'n2' \(Softmax\) is not over"),
    "softmax over an axis of size 1": (
        [("Gemm", W), ("Unsqueeze", [2]), ("Softmax", {"axis": 2})], r"'n2' \(Softmax\) is not over"),
    "samples in one row": ([("Reshape", [1, -1]), ("Gemm", W)], r"'n0' \(Reshape\) changes the shape of samples"),
    "a Reshape to one sample": ([("Reshape", [1, 3]), ("Gemm", W)], r"'n0' \(Reshape\) has a fixed number of samples"),
    "a constant with a value for each sample": (
        [("MatMul", W), ("Add", np.ones((5, 1)))], r"'n1' \(Add\) has a constant of .* differs between samples"),
    "a constant that broadcasts one output to three": (
        [("Gemm", W1), ("Add", np.ones(3))], r"'n1' \(Add\) has a constant of shape \(3,\) that does not fit"),
    "a constant after the axis of features is removed": (
        [("Gemm", W1), ("Squeeze", [1]), ("Mul", np.ones(4))], r"'n2' \(Mul\) has .* differs between samples"),
    "all axes of size 1 removed": ([("Gemm", W1), ("Squeeze",)], r"'n1' \(Squeeze\) names no axes"),
    "weights applied to two rows of a sample": (
        [("Reshape", [-1, 2, 2]), ("MatMul", np.ones((2, 2)))], r"'n1' \(MatMul\) applies its weights several times"),
    "features reordered": ([("Transpose", {"perm": [0, 2, 1]}), ("Flatten",)], r"'n0' \(Transpose\) changes the"),
    "samples joined with features": ([("Gemm", W), ("Flatten", {"axis": 2})], r"'n1' \(Flatten\) joins samples"),
    "an axis out of range": ([("Gemm", W), ("Softmax", {"axis": 2})], r"'n1' \(Softmax\) has the axis 2 for a"),
    "an integer division": ([("Div", np.array(2)), ("Cast", {"to": 1}), ("Gemm", W)], r"'n0' \(Div\) computes with"),
}  # fmt: skip
SHAPES = {"weights applied to two rows of a sample": ("m", 4), "features reordered": ("m", 2, 3)}
"""The shape of the input, where it is not ``("m", 3)``."""


@pytest.mark.parametrize("name", REFUSED)
def test_operations_that_no_dense_chain_contains_are_refused(name: str, tmp_path: Path) -> None:
    steps, message = REFUSED[name]
    inputs = "int64" if name == "an integer division" else "float32"
    content = chain(*steps, shape=SHAPES.get(name, ("m", 3)), inputs=inputs)
    with pytest.raises(dn.ModelFileError, match=message):
        dn.from_onnx(write(content, tmp_path))


READ: dict[str, Any] = {
    "one output, with its axis removed": [("Gemm", W1), ("Tanh",), ("Squeeze", [-1])],
    "softmax over features, after an added axis": [("Gemm", W, b), ("Unsqueeze", [0]), ("Softmax", {"axis": 2})],
    "three axes": [("Unsqueeze", [1]), ("MatMul", W), ("Add", b.reshape(1, 1, 4)), ("Relu",), ("Squeeze", [1])],
    "Transposes that keep the order of samples": [
        ("Transpose", {"perm": [0, 1]}), ("Gemm", W, b), ("Unsqueeze", [1]), ("Transpose", {"perm": [1, 0, 2]}),
        ("Relu",)],
    "a vector of weights": [("Gemm", W, b), ("Relu",), ("MatMul", rng.normal(size=4))],
    "a constant with an additional axis": [("Gemm", W), ("Add", b.reshape(1, 1, 4)), ("Relu",)],
    "samples as column vectors": [("Unsqueeze", [2]), ("MatMul", W.T, ...), ("Squeeze", [2]), ("Softmax", {"axis": 1})],
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_operations_on_each_sample_separately_are_read(name: str, tmp_path: Path) -> None:
    content = chain(*READ[name])
    net = dn.from_onnx(write(content, tmp_path), backend="numpy")
    expected = run(content, X)
    np.testing.assert_allclose(net.predict(X.T).T.ravel(), expected.ravel(), rtol=1e-4, atol=1e-6)


def reshape_by_samples(rest: int) -> Any:
    """Return a model whose Reshape depends on the number of samples, as PyTorch exports ``x.view(x.size(0), rest)``."""
    nodes = [
        helper.make_node("Shape", ["in"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["m"], axis=0),
        helper.make_node("Unsqueeze", ["m", "axis"], ["ms"]),
        helper.make_node("Concat", ["ms", "rest"], ["sizes"], axis=0),
        helper.make_node("Reshape", ["in", "sizes"], ["flat"], name="view"),
        helper.make_node("Gemm", ["flat", "W"], ["out"]),
    ]
    constants = {"zero": np.array(0), "axis": np.array([0]), "rest": np.array([rest]), "W": np.eye(6, dtype="float32")}
    return model(nodes, constants, "out", ("m", 2, 3))


def test_a_reshape_that_depends_on_the_number_of_samples_is_read(tmp_path: Path) -> None:
    images = rng.normal(size=(5, 2, 3)).astype("float32")
    for rest in (-1, 6):
        net = dn.from_onnx(write(reshape_by_samples(rest), tmp_path))
        np.testing.assert_array_equal(net.predict(images.reshape(5, 6).T).T, run(reshape_by_samples(rest), images))
    with pytest.raises(dn.ModelFileError, match=r"'view' \(Reshape\) changes the shape of samples"):
        dn.from_onnx(write(reshape_by_samples(3), tmp_path))


def test_a_file_with_a_fixed_batch_size_is_read(tmp_path: Path) -> None:
    """PyTorch fixes the batch size unless the axis is declared dynamic; the network accepts any number of samples."""
    content = chain(("Reshape", [6, 3]), ("Gemm", W, b), ("Reshape", [6, -1]), ("Relu",), shape=(6, 3))
    net = dn.from_onnx(write(content, tmp_path))
    np.testing.assert_allclose(net.predict(X.T).T, run(content, X), rtol=1e-5, atol=1e-6)
    assert net.predict(X[:2].T).shape == (4, 2)
    with pytest.raises(dn.ModelFileError, match=r"'n0' \(Reshape\) changes the shape of samples"):
        dn.from_onnx(write(chain(("Reshape", [3, 6]), ("MatMul", np.eye(6)), shape=(6, 3)), tmp_path))
