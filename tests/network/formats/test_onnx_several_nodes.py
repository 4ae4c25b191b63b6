"""Normalizations and gates that ONNX files write as several nodes: their outputs agree with ONNX Runtime."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.nn.activations import LIBRARY

onnx = pytest.importorskip("onnx", reason='the extra "onnx" is not installed')
pytest.importorskip("onnxruntime", reason='the extra "onnx" is not installed')
graphs = pytest.importorskip("onnx_graphs")
rng = np.random.default_rng(3)
X = rng.normal(size=(40, 3)) * 2
WEIGHTS: dict[str, Any] = {
    "W1": rng.normal(size=(3, 6)), "b1": rng.normal(size=6), "W2": rng.normal(size=(3, 6)), "b2": rng.normal(size=6),
    "W3": rng.normal(size=(6, 2)), "b3": rng.normal(size=2), "W4": rng.normal(size=(3, 2)), "gamma": rng.normal(size=6),
    "beta": rng.normal(size=6), "epsilon": np.float64(0.01), "two": np.float64(2), "one": np.float64(1),
    "1.702": np.float64(1.702), "last": np.array([-1]), "three": np.array([3]), "zero": np.array([0]),
    "six": np.array([6]), "4 and 2": np.array([4, 2]),
}  # fmt: skip
OUTPUTS = "Gemm h W3 b3 -> out"


def graph(*lines: str, opset: int = 18) -> Any:
    """Return a model; a line is an operation, its inputs, an arrow, its outputs, and integer attributes (``a=1``)."""
    nodes = []
    for line in lines:
        before, after = line.split(" -> ")
        op, *inputs = (word.replace("_", " ") for word in before.split())
        outputs = [word for word in after.split() if "=" not in word]
        attributes = {key: [int(x) for x in value.split(",")] if key == "axes" else int(value)
                      for key, _, value in (word.partition("=") for word in after.split() if "=" in word)}  # fmt: skip
        nodes.append(onnx.helper.make_node(op, inputs, outputs, name=outputs[0], **attributes))
    used = {name for node in nodes for name in node.input}
    constants = {name: x if x.dtype.kind == "i" else x.astype("f4") for name, x in WEIGHTS.items() if name in used}
    return graphs.model(nodes, constants, nodes[-1].output[0], opset=opset)


def check(content: Any, layers: list[dn.Layer], folder: Path) -> None:
    net = dn.from_onnx(graphs.write(content, folder), backend="numpy")
    assert net.layers == dn.Network(layers, 3, backend="numpy").layers
    expected = graphs.run(content, X.astype("float32"))
    np.testing.assert_allclose(net.predict(X.T).T, expected, rtol=1e-4, atol=1e-5 * abs(expected).max())


CENTERED = ["Gemm in W1 b1 -> x", "ReduceMean x last -> mean", "Sub x mean -> c"]
SCALED = ["Mul normal gamma -> scaled", "Add scaled beta -> h", OUTPUTS]
Norm, RMS = dn.LayerNorm(0.01), dn.RMSNorm(0.01)
NORMALIZATIONS: dict[str, tuple[list[str], dn.Layer]] = {
    "as PyTorch writes it": (
        [*CENTERED, "Pow c two -> squares", "ReduceMean squares last -> v", "Add v epsilon -> u", "Sqrt u -> s",
         "Div c s -> normal", *SCALED], Norm),
    "with a product and an inverse": (
        [*CENTERED, "Mul c c -> squares", "ReduceMean squares last -> v", "Add epsilon v -> u", "Sqrt u -> s",
         "Reciprocal s -> r", "Mul r c -> normal", *SCALED], Norm),
    "centered twice": (
        [*CENTERED, "Sub x mean -> again", "Mul again c -> squares", "ReduceMean squares last -> v",
         "Add v epsilon -> u", "Sqrt u -> s", "Div again s -> normal", *SCALED], Norm),
    "without parameters": (
        [*CENTERED, "Mul c c -> squares", "ReduceMean squares last -> v", "Add v epsilon -> u", "Sqrt u -> s",
         "Div c s -> h", OUTPUTS], Norm),
    "by the root mean square": (
        ["Gemm in W1 b1 -> x", "Pow x two -> squares", "ReduceMean squares last -> v", "Add v epsilon -> u",
         "Sqrt u -> s", "Div one s -> r", "Mul x r -> normal", "Mul gamma normal -> h", OUTPUTS], RMS),
    "by the root mean square, with a division": (
        ["Gemm in W1 b1 -> x", "Mul x x -> squares", "ReduceMean squares last -> v", "Add v epsilon -> u",
         "Sqrt u -> s", "Div x s -> normal", "Mul normal gamma -> h", OUTPUTS], RMS),
    "by the root mean square, shifted": (
        ["Gemm in W1 b1 -> x", "Mul x x -> squares", "ReduceMean squares last -> v", "Add v epsilon -> u",
         "Sqrt u -> s", "Div x s -> normal", *SCALED], RMS),
}  # fmt: skip


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_normalizations_of_several_nodes(name: str, tmp_path: Path) -> None:
    lines, layer = NORMALIZATIONS[name]
    check(graph(*lines), [dn.Dense(6), layer, dn.Dense(2)], tmp_path)


def test_a_normalization_with_attributes_for_axes(tmp_path: Path) -> None:
    lines = [line.replace(" last ->", " ->") for line in NORMALIZATIONS["as PyTorch writes it"][0]]
    lines = [line + " axes=-1" if line.startswith("ReduceMean") else line for line in lines]
    check(graph(*lines, opset=13), [dn.Dense(6), Norm, dn.Dense(2)], tmp_path)


def test_a_normalization_after_an_activation(tmp_path: Path) -> None:
    lines = [line.replace(" x ", " a ") for line in NORMALIZATIONS["as PyTorch writes it"][0][1:]]
    check(graph("Gemm in W1 b1 -> x", "Relu x -> a", *lines), [dn.Dense(6, "relu"), Norm, dn.Dense(2)], tmp_path)


def test_a_normalization_of_standardized_inputs(tmp_path: Path) -> None:
    lines = [line.replace(" x ", " a ") for line in NORMALIZATIONS["without parameters"][0][1:-2]]
    content = graph("Sub in b3 -> y", "Div y two -> a", *lines, "Div c s -> h", "Gemm h W1 b1 -> out")
    position = [x.name for x in content.graph.initializer].index("b3")
    content.graph.initializer[position].CopyFrom(onnx.numpy_helper.from_array(np.array([1, -2, 3], "f4"), "b3"))
    check(content, [Norm, dn.Dense(6)], tmp_path)


def test_an_activation_of_a_shifted_normalization(tmp_path: Path) -> None:
    lines = NORMALIZATIONS["by the root mean square, shifted"][0][:-2]
    content = graph(*lines, "Add scaled beta -> y", "Tanh y -> h", OUTPUTS)
    check(content, [dn.Dense(6), RMS, dn.Dense(6, "tanh"), dn.Dense(2)], tmp_path)


@pytest.mark.parametrize("faulty", ["Pow c one -> squares", "Pow x two -> squares", "Mul mean c -> squares"])
def test_what_is_almost_a_normalization_is_refused(faulty: str, tmp_path: Path) -> None:
    lines = [line if not line.startswith("Pow") else faulty for line in NORMALIZATIONS["as PyTorch writes it"][0]]
    with pytest.raises(dn.ModelFileError, match="cannot be part of a chain of layers"):
        dn.from_onnx(graphs.write(graph(*lines), tmp_path))


def test_the_node_of_a_normalization_by_the_root_mean_square(tmp_path: Path) -> None:
    """It is compared with the formula, since older versions of ONNX Runtime do not have the node."""
    content = graph("Gemm in W1 b1 -> x", "RMSNormalization x gamma -> h", OUTPUTS, opset=23)
    net = dn.from_onnx(graphs.write(content, tmp_path), backend="numpy")
    assert net.layers == (dn.Dense(6), dn.RMSNorm(1e-5), dn.Dense(2))
    H = X @ WEIGHTS["W1"] + WEIGHTS["b1"]
    H = H / np.sqrt((H**2).mean(axis=1, keepdims=True) + 1e-5) * WEIGHTS["gamma"]
    np.testing.assert_allclose(net.predict(X.T).T, H @ WEIGHTS["W3"] + WEIGHTS["b3"], rtol=1e-4, atol=1e-4)


TWO = ["Gemm in W1 b1 -> v", "Gemm in W2 b2 -> g"]
GATES: dict[str, tuple[list[str], dn.Layer]] = {
    "two layers": ([*TWO, "Sigmoid g -> s", "Mul v s -> h", OUTPUTS], dn.GLU(6)),
    "two layers, swapped": ([*TWO, "Sigmoid g -> s", "Mul s v -> h", OUTPUTS], dn.GLU(6)),
    "silu of two nodes": ([*TWO, "Sigmoid g -> s", "Mul g s -> silu", "Mul silu v -> h", OUTPUTS], dn.SwiGLU(6)),
    "a softmax": ([*TWO, "Softmax g -> s", "Mul v s -> h", OUTPUTS], dn.Gate("softmax")),
    "no activation": ([*TWO, "Mul v g -> h", OUTPUTS], dn.Gate("identity")),
    "scaled values": ([*TWO, "Mul v gamma -> w", "Tanh g -> s", "Mul w s -> h", OUTPUTS], dn.Gate("tanh")),
    "a function of its own argument": (
        ["Gemm in W1 b1 -> x", "Mul x 1.702 -> y", "Sigmoid y -> s", "Mul x s -> h", OUTPUTS], dn.GLU(6)),
    "shifted products": ([*TWO, "Sigmoid g -> s", "Mul v s -> y", "Add y beta -> h", OUTPUTS], dn.GLU(6)),
}  # fmt: skip


@pytest.mark.parametrize("name", GATES)
def test_products_of_two_layers_become_gates(name: str, tmp_path: Path) -> None:
    lines, layer = GATES[name]
    layers = [dn.Dense(12), layer] if isinstance(layer, dn.Gate) else [layer]
    check(graph(*lines), [*layers, dn.Dense(2)], tmp_path)


HALVES = {
    "Split": ["Split x -> v g axis=-1 num_outputs=2"],
    "Slice": ["Slice x zero three last -> v", "Slice x three six last -> g"],
    "the halves are swapped": ["Split x -> g v axis=1 num_outputs=2"],
}


@pytest.mark.parametrize("name", HALVES)
def test_halves_of_a_layer_become_a_gate(name: str, tmp_path: Path) -> None:
    content = graph("Gemm in W1 b1 -> x", *HALVES[name], "Sigmoid g -> s", "Mul v s -> h")
    check(content, [dn.GLU(3)], tmp_path)


def test_a_part_of_a_layer_is_a_smaller_layer(tmp_path: Path) -> None:
    content = graph("Gemm in W1 b1 -> x", "Tanh x -> t", "Split t 4_and_2 -> a b axis=1", "Mul b two -> h")
    net = dn.from_onnx(graphs.write(content, tmp_path), backend="numpy")
    expected = graphs.run(content, X.astype("float32"))
    np.testing.assert_allclose(net.predict(X.T).T, expected, rtol=1e-5, atol=1e-5)
    assert net.layers[0] == dn.Dense(2, "tanh")


def test_parts_that_nothing_uses_are_not_made(tmp_path: Path) -> None:
    names = [f"p{i}" for i in range(6)]
    content = graph("Gemm in W1 b1 -> x", f"Split x -> {' '.join(names)} axis=1 num_outputs=6", "Mul p3 two -> h")
    net = dn.from_onnx(graphs.write(content, tmp_path), backend="numpy")
    np.testing.assert_allclose(net.predict(X.T).T, graphs.run(content, X.astype("float32")), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("Slice", {"starts": "abc", "ends": [3]}),
        ("Slice", {"starts": [np.inf], "ends": [3]}),
        ("Split", {"split": "abc"}),
        ("Split", {"num_outputs": 2.5}),
        ("Reshape", {"shape": "abc"}),
    ],
)
def test_attributes_of_a_wrong_type_are_refused(op: str, attributes: dict[str, Any], tmp_path: Path) -> None:
    content = graph("Gemm in W1 b1 -> x", "Relu x -> h")
    content.graph.node[1].CopyFrom(onnx.helper.make_node(op, ["x"], ["h"], **attributes))
    with pytest.raises(dn.ModelFileError, match=next(iter(attributes))):
        dn.from_onnx(graphs.write(content, tmp_path))


def test_an_input_of_a_size_that_no_memory_holds_is_refused(tmp_path: Path) -> None:
    nodes = [
        onnx.helper.make_node("Mul", ["in", "two"], ["y"], name="y"),
        onnx.helper.make_node("Add", ["y", "in"], ["z"], name="z"),
        onnx.helper.make_node("MatMul", ["z", "W"], ["h"], name="h"),
    ]
    constants = {"two": np.float32(2), "W": np.ones((3, 2), np.float32)}
    for size in (10**12, 2**62):
        with pytest.raises(dn.ModelFileError):
            dn.from_onnx(graphs.write(graphs.model(nodes, constants, "h", ("m", size)), tmp_path))


def test_a_small_epsilon_in_half_precision(tmp_path: Path) -> None:
    lines = NORMALIZATIONS["as PyTorch writes it"][0][:-3]
    lines = [line.replace("Gemm in", "Gemm half").replace(" x ", " X ") for line in lines]
    nodes = graph("Cast in -> half to=10", lines[0], "Cast x -> X to=1", *lines[1:], "Identity normal -> h")
    for tensor in nodes.graph.initializer:
        x = onnx.numpy_helper.to_array(tensor)
        x = np.float32(1e-12) if tensor.name == "epsilon" else x.astype("f2") if tensor.name in ("W1", "b1") else x
        tensor.CopyFrom(onnx.numpy_helper.from_array(x, tensor.name))
    net = dn.from_onnx(graphs.write(nodes, tmp_path), backend="numpy")
    assert net.layers == (dn.Dense(6), dn.LayerNorm(1e-12))


def test_many_normalizations_with_epsilons_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines, name = ["Gemm in W1 b1 -> x0"], "x0"
    for i in range(300):
        monkeypatch.setitem(WEIGHTS, f"e{i}", np.float64(0.01 + i * 1e-4))
        lines += [f"Mul {name} {name} -> q{i}", f"ReduceMean q{i} last -> v{i}", f"Add v{i} e{i} -> u{i}"]
        lines += [f"Sqrt u{i} -> s{i}", f"Div {name} s{i} -> x{i + 1}"]
        name = f"x{i + 1}"
    net = dn.from_onnx(graphs.write(graph(*lines), tmp_path), backend="numpy")
    assert net.layers[1:] == tuple(dn.RMSNorm(round(0.01 + i * 1e-4, 4)) for i in range(300))


@pytest.mark.parametrize("before", ["relu", None])
def test_equal_slopes_after_what_is_not_linear_stay_a_prelu(before: str | None, tmp_path: Path) -> None:
    layers = [dn.Dense(6, before), dn.PReLU(0.3)] if before else [dn.PReLU(0.3), dn.Dense(6)]
    net = dn.Network(layers, 3, seed=0, backend="numpy")
    net.to_onnx(tmp_path / "net.onnx")
    back = dn.from_onnx(tmp_path / "net.onnx", backend="numpy")
    assert [type(layer) for layer in back.layers] == [type(layer) for layer in layers]
    np.testing.assert_array_equal(back.predict(X.T), net.predict(X.T))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", sorted(LIBRARY))
def test_gates_of_all_activations_come_back(activation: str, dtype: str, tmp_path: Path) -> None:
    net = dn.Network([dn.Dense(8), dn.Gate(activation), dn.Dense(3)], 3, seed=0, dtype=dtype, backend="numpy")
    net.to_onnx(tmp_path / "net.onnx")
    back = dn.from_onnx(tmp_path / "net.onnx", backend="numpy")
    assert activation == "celu" or back.layers == net.layers  # celu with alpha 1 is elu
    np.testing.assert_array_equal(back.predict(X.T), net.predict(X.T))


REFUSED = {
    "two activations": ([*TWO, "Sigmoid g -> s", "Tanh v -> t", "Mul t s -> h"], r"\(Mul\) cannot"),
    "a square": (["Gemm in W1 b1 -> v", "Mul v v -> h"], r"\(Mul\) cannot"),
    "different inputs": (
        ["Gemm in W1 b1 -> v", "Mul in two -> y", "Gemm y W2 b2 -> g", "Sigmoid g -> s", "Mul v s -> h"],
        r"\(Mul\) cannot"),
    "a scaled gate": ([*TWO, "Sigmoid g -> s", "Mul s two -> t", "Mul v t -> h"], r"\(Mul\) cannot"),
    "a part of a softmax": (["Gemm in W1 b1 -> x", "Softmax x -> s", "Slice s zero three last -> h"], r"\(Slice\)"),
    "some samples": (["Gemm in W1 b1 -> x", "Slice x zero three zero -> h"], r"\(Slice\) does not apply to the feat"),
    "no features": (["Gemm in W1 b1 -> x", "Slice x three three last -> h"], r"\(Slice\) takes no numbers"),
    "steps of two": (["Gemm in W1 b1 -> x", "Slice x zero six last two -> h"], r"\(Slice\)"),
    "too few features": (["Gemm in W4 b3 -> x", "Split x 4_and_2 -> h b axis=1"], r"\(Split\) does not divide 2"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_other_products_and_parts_are_refused(name: str, tmp_path: Path) -> None:
    lines, message = REFUSED[name]
    with pytest.raises(dn.ModelFileError, match=message):
        dn.from_onnx(graphs.write(graph(*lines), tmp_path))


NETWORKS: dict[str, list[Any]] = {
    "LayerNorm": [dn.Dense(8, "relu"), dn.LayerNorm(1e-3), dn.Dense(3, "softmax")],
    "LayerNorm first": [dn.LayerNorm(), dn.Dense(8, "relu"), dn.Dense(3)],
    "RMSNorm first": [dn.RMSNorm(0.1), dn.Dense(3)],
    "RMSNorm": [dn.Dense(8, "tanh"), dn.RMSNorm(), dn.RMSNorm(0.1), dn.Dense(3)],
    "PReLU": [dn.Dense(8), dn.PReLU(), dn.Dense(3, "sigmoid")],
    "gates": [dn.Dense(5, "relu"), dn.SwiGLU(8), dn.GLU(4), dn.Dense(6), dn.Gate("gelu"), dn.Dense(3)],
    "residual blocks": [
        dn.Dense(8), dn.Residual([dn.LayerNorm(), dn.SwiGLU(12), dn.Dense(8)]),
        dn.Residual([dn.RMSNorm(), dn.Dense(8, "relu")]), dn.LayerNorm(), dn.Dense(3, "softmax"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NETWORKS)
def test_files_of_to_onnx_come_back_bit_for_bit(name: str, dtype: str, tmp_path: Path) -> None:
    if (name, dtype) == ("PReLU", "float64"):
        pytest.skip("ONNX Runtime has no PRelu in double precision, so a formula is exported, which is not read")
    net = dn.Network(NETWORKS[name], 3, seed=0, dtype=dtype, backend="numpy")
    net.fit(X.T, np.tile([[1.0], [0.0], [0.0]], (1, 40)), loss="mean_squared_error", epochs=2)
    net.to_onnx(tmp_path / "net.onnx")
    back = dn.from_onnx(tmp_path / "net.onnx", backend="numpy")
    assert (back.layers, back.dtype) == (net.layers, net.dtype)
    np.testing.assert_array_equal(back.predict(X.T), net.predict(X.T))
