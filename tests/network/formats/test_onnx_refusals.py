"""ONNX files that are no dense chains, or no files that one may trust: a ModelFileError that says what and where."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepnotes as dn

onnx = pytest.importorskip("onnx", reason='the extra "onnx" is not installed')
graphs = pytest.importorskip("onnx_graphs")
helper, chain, model, saved = onnx.helper, graphs.chain, graphs.model, graphs.saved
W, b = np.arange(12.0).reshape(3, 4) / 7, np.arange(4.0)
DENSE = ("Gemm", W, b)


def refused(content: Any, folder: Path, **options: Any) -> str:
    """Return what is said of a file that must not be read."""
    with pytest.raises(dn.ModelFileError) as caught:
        dn.from_onnx(saved(content, folder), **options)
    told = str(caught.value)
    assert told.startswith(str(folder))
    assert "\n" not in told
    return told


STRANGERS = {
    "another layer": ([("Conv", np.ones((1, 1, 1, 1)))], r"node 'n0' \(Conv\) is no part of a dense chain"),
    "another activation": ([DENSE, ("HardSwish",)], r"node 'n1' \(HardSwish\) is an activation that is not known here"),
    "another domain": ([DENSE, ("com.example.Relu",)], r"node 'n1' \(com\.example\.Relu\) is no part"),
    "an activation first": ([("Relu",), DENSE], r"node 'n0' \(Relu\) is no part"),
    "two activations": ([DENSE, ("Relu",), ("Tanh",)], r"node 'n2' \(Tanh\) is no part"),
    "scaled after an activation": ([DENSE, ("Relu",), ("Mul", 2.0)], "outputs of relu are scaled or shifted, and no"),
    "a softmax over samples": ([DENSE, ("Softmax", {"axis": 0})], r"'n1' \(Softmax\) does not go over the features"),
    "the logarithm of a softmax": ([DENSE, ("LogSoftmax",)], r"'n1' \(LogSoftmax\) gives logarithms of prob"),
    "a mean over samples": ([DENSE, ("ReduceMean",)], r"node 'n1' \(ReduceMean\)"),
    "half precision": ([DENSE, ("Cast", {"to": 10})], r"'n1' \(Cast\) rounds to float16, and the weights are of"),
    "dropping as in training": ([DENSE, ("Dropout", 0.5, np.array(True))], r"'n1' \(Dropout\) drops some of its in"),
    "dropping within an activation": (
        [DENSE, ("Sigmoid",), ("Dropout", 0.5, np.array(True)), DENSE], r"'n2' \(Dropout\) drops some of its inputs"),
    "a product and a sum in one": ([("MatMul", W, b)], r"node 'n0' \(MatMul\) is no part"),
    "samples joined": ([("Flatten", {"axis": 0}), DENSE], r"node 'n0' \(Flatten\) joins samples"),
    "samples cut": ([DENSE, ("Reshape", [-1, 2])], r"node 'n1' \(Reshape\) changes the shape of samples"),
    "samples in a row": ([DENSE, ("Reshape", [-1])], r"node 'n1' \(Reshape\) changes the shape of samples"),
    "samples squeezed": ([DENSE, ("Squeeze", [1])], r"node 'n1' \(Squeeze\) changes the shape of samples"),
    "features as samples": ([DENSE, ("Transpose",), DENSE], r"node 'n2' \(Gemm\) sums over the samples"),
    "too many features": ([DENSE, ("Relu",), DENSE], r"node 'n2' \(Gemm\) takes 3 numbers .* is given 4"),
    "of a tensor of three dimensions": ([("MatMul", np.ones((1, 3, 4)))], r"node 'n0' \(MatMul\) has no const"),
    "a bias for each sample": ([("MatMul", W), ("Add", np.ones((3, 4)))], r"'n1' \(Add\) has a constant of sh"),
    "a bias of another size": ([("Gemm", W, np.ones(3))], r"'n0' \(Gemm\) has a .* \(3,\) that does not fit .* \(4,\)"),
    "made infinite": ([("Div", 0.0), DENSE], r"'n0' \(Div\) makes numbers that are not finite"),
    "divided by before": ([("Div", 1.0, ...), DENSE], r"'n0' \(Div\) is no part of a dense chain"),
    "divided by": ([DENSE, ("Div", 1.0, ...)], r"'n1' \(Div\) is no part of a dense chain"),
    "no layer": ([("Identity",)], "it has no dense layer"),
    "scaled and no layer": ([("Mul", 2.0)], "it has no dense layer"),
}  # fmt: skip


@pytest.mark.parametrize("name", STRANGERS)
def test_what_is_no_dense_chain_is_named(name: str, tmp_path: Path) -> None:
    steps, wanted = STRANGERS[name]
    told = refused(chain(*steps), tmp_path)
    assert re.search(wanted, told)
    if "is no part" in told:
        assert "supported: Gemm and MatMul with constant weights" in told


def test_an_old_softmax_over_all_numbers(tmp_path: Path) -> None:
    """Before opset 13, axis 0 meant: of all samples together."""
    steps = [("Transpose",), ("MatMul", W.T, ...), ("Softmax", {"axis": 0})]
    assert dn.from_onnx(saved(chain(*steps, opset=13), tmp_path)).outputs == 4
    assert "node 'n2' (Softmax) does not go over the features" in refused(chain(*steps, opset=12), tmp_path)


def test_a_chain_that_branches(tmp_path: Path) -> None:
    f32 = {"W": W.astype("float32"), "V": np.eye(4, dtype="float32")}
    nodes = [
        helper.make_node("MatMul", ["in", "W"], ["h"], name="first"),
        helper.make_node("MatMul", ["h", "V"], ["z"], name="second"),
        helper.make_node("Add", ["h", "z"], ["out"], name="skip"),
    ]
    assert "node 'skip' (Add) is no part of a dense chain" in refused(model(nodes, f32, "out"), tmp_path)


def test_an_activation_with_another_constant_is_another_one(tmp_path: Path) -> None:
    """GELU as seven nodes, with the root of 2 to seven digits, and with one digit less."""
    for root, good in ((1.4142135, True), (1.41421, False)):
        f32 = {"W": W.astype("float32"), "root": np.float32(root), "one": np.float32(1), "half": np.float32(0.5)}
        nodes = [
            helper.make_node("MatMul", ["in", "W"], ["z"]),
            helper.make_node("Div", ["z", "root"], ["a"]),
            helper.make_node("Erf", ["a"], ["b"], name="gelu"),
            helper.make_node("Add", ["one", "b"], ["c"]),
            helper.make_node("Mul", ["c", "z"], ["d"]),
            helper.make_node("Mul", ["half", "d"], ["out"]),
        ]
        content = model(nodes, f32, "out")
        if good:
            assert dn.from_onnx(saved(content, tmp_path)).layers == (dn.Dense(4, "gelu"),)
        else:
            assert "node 'gelu' (Erf) is no part of a dense chain" in refused(content, tmp_path)


def test_weights_that_are_no_constants(tmp_path: Path) -> None:
    content = chain(DENSE)
    del content.graph.initializer[0]
    content.graph.input.append(helper.make_tensor_value_info("c0_1", 1, [3, 4]))
    assert "depends on 2 inputs (c0_1, in), and a dense chain has one" in refused(content, tmp_path)


def test_weights_of_several_dtypes(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["in", "W"], ["h"]), helper.make_node("MatMul", ["h", "V"], ["out"], name="n")]
    content = model(nodes, {"W": W.astype("float32"), "V": np.eye(4)}, "out")
    assert "node 'n' (MatMul) has weights of float64, and those before it are of float32" in refused(content, tmp_path)


@pytest.mark.parametrize("shape", [[3, 5], [1 << 40, 1 << 40], [0, 4], [-3, 4], [1 << 62, 4], [12]])
def test_tensors_that_are_not_what_they_claim(shape: list[int], tmp_path: Path) -> None:
    content = chain(DENSE)
    content.graph.initializer[0].dims[:] = shape
    told = refused(content, tmp_path)
    assert ("claims the shape" in told and "holds 12 numbers" in told) or "takes matrices, and is given others" in told


def test_an_input_of_a_claimed_size(tmp_path: Path) -> None:
    """Nothing is made of that size: it is only compared."""
    content = chain(("Mul", 2.0), ("Flatten",), DENSE, shape=("m", 1 << 40, 1 << 20))
    assert "takes 3 numbers of each sample, and is given" in refused(content, tmp_path)
    content = chain(("Mul", np.ones((1, 1))), ("Add", np.ones(5)), DENSE, shape=("m", 1 << 40))
    assert "has a constant of shape (5,)" in refused(content, tmp_path)


def test_expressions_that_are_short_and_have_long_normal_forms(tmp_path: Path) -> None:
    """``x`` doubled or squared again and again: the sum or product of 2^60 terms is not written out."""
    for op in ("Add", "Mul"):
        nodes = [helper.make_node("MatMul", ["in", "W"], ["v0"])]
        nodes += [helper.make_node(op, [f"v{i}", f"v{i}"], [f"v{i + 1}"]) for i in range(60)]
        told = refused(model(nodes, {"W": W.astype("float32")}, "v60"), tmp_path)
        assert f"node 'v1' ({op}) is no part" in told


def test_constants_that_are_computed_on_and_on(tmp_path: Path) -> None:
    nodes = [helper.make_node("Neg", ["W" if i == 0 else f"w{i}"], [f"w{i + 1}"]) for i in range(500)]
    nodes += [helper.make_node("MatMul", ["in", "w500"], ["out"])]
    told = refused(model(nodes, {"W": np.ones((300, 300), "float32")}, "out", ("m", 300)), tmp_path)
    assert "compute with constants at too great a length" in told
    nodes = [helper.make_node("Exp", ["W"], ["V"], name="e"), helper.make_node("MatMul", ["in", "V"], ["out"])]
    told = refused(model(nodes, {"W": W.astype("float32")}, "out"), tmp_path)
    assert "node 'e' (Exp) computes with constants, and only Add, Cast, Div, Identity" in told


def test_graphs_that_make_no_sense(tmp_path: Path) -> None:
    content = chain(DENSE, ("Relu",))
    content.graph.node[1].input[0] = "nowhere"
    assert "node 'n1' (Relu) needs 'nowhere', which nothing before it gives" in refused(content, tmp_path)
    content = chain(DENSE, ("Relu",))
    content.graph.node[1].output[0] = "v0"
    assert "node 'n1' (Relu) gives 'v0', which is there already" in refused(content, tmp_path)
    content = chain(DENSE, ("Relu",))
    content.graph.node.insert(0, content.graph.node.pop(1))
    assert "needs 'v0', which nothing before it gives" in refused(content, tmp_path)
    content = chain(DENSE)
    content.graph.node[0].input[0] = "c0_1"
    assert "node 'n0' (Gemm) computes with constants" in refused(content, tmp_path)
    content.graph.output[0].name = "c0_1"
    assert "its output 'c0_1' does not depend on its input" in refused(content, tmp_path)
    content = chain(DENSE)
    content.graph.initializer.append(content.graph.initializer[0])
    assert "two tensors of one name" in refused(content, tmp_path)
    content = chain(DENSE)
    content.graph.node[0].ClearField("output")
    assert "has no output" in refused(content, tmp_path)
    assert "opset 6; 7 and later ones are read" in refused(chain(DENSE, opset=6), tmp_path)
    assert "has 10,001 nodes; at most 10,000 are read" in refused(chain(DENSE, *[("Identity",)] * 10_000), tmp_path)
    assert "without nodes or outputs" in refused(onnx.ModelProto(ir_version=8), tmp_path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "0 bytes"),
        (b"\x00\x01nonsense", "is truncated, altered or no ONNX file"),
        (chain(DENSE).SerializeToString()[:-20], "is truncated, altered or no ONNX file"),
        (b"\x93NUMPY\x01\x00", "is truncated, altered or no ONNX file"),
    ],
    ids=["empty", "nonsense", "truncated", "npy"],
)
def test_what_is_no_onnx_file(content: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(dn.ModelFileError, match=told):
        dn.from_onnx(path)
