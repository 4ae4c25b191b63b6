"""ONNX files that are invalid or not chains of layers are refused with a ModelFileError that names the node."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepnotes as dn

onnx = pytest.importorskip("onnx", reason='the extra "onnx" is not installed')
graphs = pytest.importorskip("onnx_graphs")
helper, chain, model, write = onnx.helper, graphs.chain, graphs.model, graphs.write
W, b = np.arange(12.0).reshape(3, 4) / 7, np.arange(4.0)
DENSE = ("Gemm", W, b)


def refusal(content: Any, folder: Path, **options: Any) -> str:
    """Return the error message for a file that must be refused."""
    with pytest.raises(dn.ModelFileError) as caught:
        dn.from_onnx(write(content, folder), **options)
    message = str(caught.value)
    assert message.startswith(str(folder))
    assert "\n" not in message
    return message


REFUSED: dict[str, Any] = {
    "an unsupported layer": ([("Conv", np.ones((1, 1, 1, 1)))], r"node 'n0' \(Conv\) cannot be part of a chain of"),
    "an unsupported activation": ([DENSE, ("HardSigmoid",)], r"node 'n1' \(HardSigmoid\) is an unsupported activation"),
    "an unsupported domain": ([DENSE, ("com.example.Relu",)], r"node 'n1' \(com\.example\.Relu\) cannot be part"),
    "an activation first": ([("Relu",), DENSE], r"node 'n0' \(Relu\) cannot be part"),
    "two activations": ([DENSE, ("Relu",), ("Tanh",)], r"node 'n2' \(Tanh\) cannot be part"),
    "scaled after an activation": ([DENSE, ("Relu",), ("Mul", 2.0)], "outputs of relu are scaled or shifted, and"),
    "a softmax over samples": ([DENSE, ("Softmax", {"axis": 0})], r"'n1' \(Softmax\) is not over the features"),
    "a mean over samples": ([DENSE, ("ReduceMean",)], r"node 'n1' \(ReduceMean\)"),
    "half precision": ([DENSE, ("Cast", {"to": 10})], r"'n1' \(Cast\) rounds to float16, but the weights have"),
    "dropout in training mode": ([DENSE, ("Dropout", 0.5, np.array(True))], r"'n1' \(Dropout\) drops some of its in"),
    "dropout within an activation": (
        [DENSE, ("Sigmoid",), ("Dropout", 0.5, np.array(True)), DENSE], r"'n2' \(Dropout\) drops some of its inputs"),
    "a MatMul with a bias": ([("MatMul", W, b)], r"node 'n0' \(MatMul\) cannot be part"),
    "samples joined by a Flatten": ([("Flatten", {"axis": 0}), DENSE], r"node 'n0' \(Flatten\) joins samples"),
    "samples split into two": ([DENSE, ("Reshape", [-1, 2])], r"node 'n1' \(Reshape\) changes the shape of samples"),
    "all samples in one vector": ([DENSE, ("Reshape", [-1])], r"node 'n1' \(Reshape\) changes the shape of samples"),
    "samples squeezed": ([DENSE, ("Squeeze", [1])], r"node 'n1' \(Squeeze\) changes the shape of samples"),
    "features transposed into samples": ([DENSE, ("Transpose",), DENSE], r"node 'n2' \(Gemm\) sums over the samples"),
    "too many features": ([DENSE, ("Relu",), DENSE], r"node 'n2' \(Gemm\) needs 3 numbers .* there are 4"),
    "weights with three axes": ([("MatMul", np.ones((1, 3, 4)))], r"node 'n0' \(MatMul\) has no const"),
    "a bias for each sample": ([("MatMul", W), ("Add", np.ones((3, 4)))], r"'n1' \(Add\) has a constant of sh"),
    "a bias of the wrong size": (
        [("Gemm", W, np.ones(3))], r"'n0' \(Gemm\) has a .* \(3,\) that does not fit .* \(4,\)"),
    "inputs that become infinite": ([("Div", 0.0), DENSE], r"'n0' \(Div\) produces numbers that are not finite"),
    "reciprocals of the inputs": ([("Div", 1.0, ...), DENSE], r"'n0' \(Div\) cannot be part of a chain of layers"),
    "reciprocals of the outputs": ([DENSE, ("Div", 1.0, ...)], r"'n1' \(Div\) cannot be part of a chain of layers"),
    "no dense layer": ([("Identity",)], "it has no dense layer"),
    "a scaling without a dense layer": ([("Mul", 2.0)], "it has no dense layer"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_graphs_that_are_not_dense_chains_are_refused(name: str, tmp_path: Path) -> None:
    steps, expected = REFUSED[name]
    message = refusal(chain(*steps), tmp_path)
    assert re.search(expected, message)
    if "cannot be part" in message:
        assert "supported: Gemm and MatMul with constant weights" in message


def test_a_softmax_over_axis_0_is_refused_before_opset_13(tmp_path: Path) -> None:
    """Before opset 13, a Softmax with axis 0 normalizes all outputs of all samples together."""
    steps = [("Transpose",), ("MatMul", W.T, ...), ("Softmax", {"axis": 0})]
    assert dn.from_onnx(write(chain(*steps, opset=13), tmp_path)).outputs == 4
    assert "node 'n2' (Softmax) is not over the features" in refusal(chain(*steps, opset=12), tmp_path)


def test_a_graph_with_parallel_layers_is_refused(tmp_path: Path) -> None:
    constants = {"W": W.astype("float32"), "V": 2 * W.astype("float32")}
    nodes = [
        helper.make_node("MatMul", ["in", "W"], ["h"], name="first"),
        helper.make_node("MatMul", ["in", "V"], ["z"], name="second"),
        helper.make_node("Add", ["h", "z"], ["out"], name="sum"),
    ]
    assert "node 'sum' (Add) cannot be part of a chain of layers" in refusal(model(nodes, constants, "out"), tmp_path)


def test_a_gelu_with_a_wrong_constant_is_refused(tmp_path: Path) -> None:
    """A GELU of several nodes is recognized if √2 is given with eight digits, but not if it is given with six."""
    for root, is_gelu in ((1.4142135, True), (1.41421, False)):
        constants = {"W": W.astype("float32"), "root": np.float32(root), "one": np.float32(1), "half": np.float32(0.5)}
        nodes = [
            helper.make_node("MatMul", ["in", "W"], ["z"]),
            helper.make_node("Div", ["z", "root"], ["a"]),
            helper.make_node("Erf", ["a"], ["b"], name="gelu"),
            helper.make_node("Add", ["one", "b"], ["c"]),
            helper.make_node("Mul", ["c", "z"], ["d"]),
            helper.make_node("Mul", ["half", "d"], ["out"]),
        ]
        content = model(nodes, constants, "out")
        if is_gelu:
            assert dn.from_onnx(write(content, tmp_path)).layers == (dn.Dense(4, "gelu"),)
        else:
            assert "node 'gelu' (Erf) cannot be part of a chain of layers" in refusal(content, tmp_path)


def test_weights_that_are_graph_inputs_are_refused(tmp_path: Path) -> None:
    content = chain(DENSE)
    del content.graph.initializer[0]
    content.graph.input.append(helper.make_tensor_value_info("c0_1", 1, [3, 4]))
    assert "depends on 2 inputs (c0_1, in), but a chain of layers has one input" in refusal(content, tmp_path)


def test_weights_of_different_dtypes_are_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["in", "W"], ["h"]), helper.make_node("MatMul", ["h", "V"], ["out"], name="n")]
    content = model(nodes, {"W": W.astype("float32"), "V": np.eye(4)}, "out")
    assert "node 'n' (MatMul) has weights of float64, but earlier weights are float32" in refusal(content, tmp_path)


@pytest.mark.parametrize("shape", [[3, 5], [1 << 40, 1 << 40], [0, 4], [-3, 4], [1 << 62, 4], [12]])
def test_tensors_whose_data_do_not_fit_their_shape_are_refused(shape: list[int], tmp_path: Path) -> None:
    content = chain(DENSE)
    content.graph.initializer[0].dims[:] = shape
    message = refusal(content, tmp_path)
    assert ("has the shape" in message and "12 numbers" in message) or "has operands that are not matrices" in message


def test_an_input_of_a_huge_declared_size_is_refused_without_allocating_it(tmp_path: Path) -> None:
    content = chain(("Mul", 2.0), ("Flatten",), DENSE, shape=("m", 1 << 40, 1 << 20))
    assert "needs 3 numbers for each sample, but there are" in refusal(content, tmp_path)
    content = chain(("Mul", np.ones((1, 1))), ("Add", np.ones(5)), DENSE, shape=("m", 1 << 40))
    assert "has a constant of shape (5,)" in refusal(content, tmp_path)


def test_expressions_with_very_long_normal_forms_are_refused(tmp_path: Path) -> None:
    """Doubling or squaring ``x`` 60 times would give a sum or product of 2^60 terms."""
    for op in ("Add", "Mul"):
        nodes = [helper.make_node("MatMul", ["in", "W"], ["v0"])]
        nodes += [helper.make_node(op, [f"v{i}", f"v{i}"], [f"v{i + 1}"]) for i in range(60)]
        message = refusal(model(nodes, {"W": W.astype("float32")}, "v60"), tmp_path)
        assert f"node 'v1' ({op}) cannot be part" in message


def test_long_computations_with_constants_are_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Neg", ["W" if i == 0 else f"w{i}"], [f"w{i + 1}"]) for i in range(500)]
    nodes += [helper.make_node("MatMul", ["in", "w500"], ["out"])]
    message = refusal(model(nodes, {"W": np.ones((300, 300), "float32")}, "out", ("m", 300)), tmp_path)
    assert "compute too many constants for the file's size" in message
    nodes = [helper.make_node("Exp", ["W"], ["V"], name="e"), helper.make_node("MatMul", ["in", "V"], ["out"])]
    message = refusal(model(nodes, {"W": W.astype("float32")}, "out"), tmp_path)
    assert "node 'e' (Exp) computes with constants, but only Add, Cast, Div, Identity" in message


def test_invalid_graphs_are_refused(tmp_path: Path) -> None:
    content = chain(DENSE, ("Relu",))
    content.graph.node[1].input[0] = "nowhere"
    assert "node 'n1' (Relu) needs 'nowhere', which no earlier node computes" in refusal(content, tmp_path)
    content = chain(DENSE, ("Relu",))
    content.graph.node[1].output[0] = "v0"
    assert "node 'n1' (Relu) has the output 'v0', but an earlier node or tensor has the same name" in refusal(
        content, tmp_path
    )
    content = chain(DENSE, ("Relu",))
    content.graph.node.insert(0, content.graph.node.pop(1))
    assert "needs 'v0', which no earlier node computes" in refusal(content, tmp_path)
    content = chain(DENSE)
    content.graph.node[0].input[0] = "c0_1"
    assert "node 'n0' (Gemm) computes with constants" in refusal(content, tmp_path)
    content.graph.output[0].name = "c0_1"
    assert "its output 'c0_1' does not depend on its input" in refusal(content, tmp_path)
    content = chain(DENSE)
    content.graph.initializer.append(content.graph.initializer[0])
    assert "two tensors with the same name" in refusal(content, tmp_path)
    content = chain(DENSE)
    content.graph.node[0].ClearField("output")
    assert "has no output" in refusal(content, tmp_path)
    assert "has opset 6, wanted at least 7" in refusal(chain(DENSE, opset=6), tmp_path)
    assert "has 10,001 nodes, wanted at most 10,000" in refusal(chain(DENSE, *[("Identity",)] * 10_000), tmp_path)
    assert "its graph has no nodes or outputs" in refusal(onnx.ModelProto(ir_version=8), tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes"),
        (b"\x00\x01nonsense", "is truncated, corrupted or not an ONNX file"),
        (chain(DENSE).SerializeToString()[:-20], "is truncated, corrupted or not an ONNX file"),
        (b"\x93NUMPY\x01\x00", "is truncated, corrupted or not an ONNX file"),
    ],
    ids=["empty", "nonsense", "truncated", "npy"],
)
def test_files_that_are_not_onnx_models_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(dn.ModelFileError, match=message):
        dn.from_onnx(path)
