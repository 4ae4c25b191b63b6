"""Nodes of ONNX files that become layers other than Dense: their outputs agree with ONNX Runtime."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepnotes as dn

onnx = pytest.importorskip("onnx", reason='the extra "onnx" is not installed')
pytest.importorskip("onnxruntime", reason='the extra "onnx" is not installed')
graphs = pytest.importorskip("onnx_graphs")
helper, chain, model, run, write = onnx.helper, graphs.chain, graphs.model, graphs.run, graphs.write
rng = np.random.default_rng(17)
W1, b1, W2, b2 = rng.normal(size=(3, 5)), rng.normal(size=5), rng.normal(size=(5, 2)), rng.normal(size=2)
X = rng.normal(size=(40, 3)) * 3
FIRST, LAST = ("Gemm", W1, b1), ("Gemm", W2, b2)
SLOPES = np.array([0.1, -0.2, 0.0, 1.0, 2.0])
PRELU = ("PRelu", SLOPES)


def norm(n: int, **attributes: Any) -> tuple[Any, ...]:
    """Return a LayerNormalization node for n features, in the notation of onnx_graphs.chain."""
    return "LayerNormalization", rng.normal(size=n), rng.normal(size=n), {"epsilon": 0.25, **attributes}


Norm, PReLU = dn.LayerNorm(0.25), dn.PReLU()
GRAPHS: dict[str, tuple[list[Any], list[Any]]] = {
    "PRelu between": ([FIRST, PRELU, LAST], [dn.Dense(5), PReLU, dn.Dense(2)]),
    "PRelu first": ([("PRelu", SLOPES[:3]), FIRST], [PReLU, dn.Dense(5)]),
    "PRelu with a single slope first": ([("PRelu", SLOPES[:1]), FIRST], [PReLU, dn.Dense(5)]),
    "PRelu last": ([FIRST, PRELU], [dn.Dense(5), PReLU]),
    "PRelu after an activation": ([FIRST, ("Tanh",), PRELU, LAST], [dn.Dense(5, "tanh"), PReLU, dn.Dense(2)]),
    "PRelu before scaled inputs": ([FIRST, PRELU, ("Mul", b1), ("Sub", 2.0), LAST], [dn.Dense(5), PReLU, dn.Dense(2)]),
    "PRelu of a scaled layer": ([FIRST, ("Mul", b1), PRELU, LAST], [dn.Dense(5), PReLU, dn.Dense(2)]),
    "PRelu of rows of slopes": ([FIRST, ("PRelu", SLOPES.reshape(1, 5)), LAST], [dn.Dense(5), PReLU, dn.Dense(2)]),
    "PRelu of two axes": (
        [("Gemm", W1[:, :4], b1[:4]), ("Reshape", [-1, 2, 2]), ("PRelu", np.array([[0.5], [2.0]])), ("Flatten",)],
        [dn.Dense(4), PReLU]),
    "two PRelu": ([FIRST, PRELU, ("PRelu", -SLOPES), LAST], [dn.Dense(5), PReLU, PReLU, dn.Dense(2)]),
    "LayerNormalization between": ([FIRST, norm(5), LAST], [dn.Dense(5), Norm, dn.Dense(2)]),
    "LayerNormalization first": ([norm(3), FIRST], [Norm, dn.Dense(5)]),
    "LayerNormalization last": ([FIRST, norm(5)], [dn.Dense(5), Norm]),
    "LayerNormalization alone": ([norm(3)], [Norm]),
    "LayerNormalization of standardized inputs": (
        [("Sub", np.array([1.0, 2.0, 3.0])), ("Div", np.array([2.0, 3.0, 4.0])), norm(3), FIRST], [Norm, dn.Dense(5)]),
    "LayerNormalization without a bias": (
        [FIRST, ("LayerNormalization", b1, {"epsilon": 0.25}), LAST], [dn.Dense(5), Norm, dn.Dense(2)]),
    "the default epsilon": (
        [FIRST, ("LayerNormalization", b1), LAST], [dn.Dense(5), dn.LayerNorm(1e-5), dn.Dense(2)]),
    "axis 1": ([FIRST, norm(5, axis=1), LAST], [dn.Dense(5), Norm, dn.Dense(2)]),
    "an affine function before": ([FIRST, ("Mul", b1), ("Add", 1.0), norm(5)], [dn.Dense(5), Norm]),
    "an affine function after": (
        [FIRST, norm(5), ("Mul", b1), ("Add", b1, ...), LAST], [dn.Dense(5), Norm, dn.Dense(2)]),
    "scaled outputs": ([FIRST, norm(5), ("Neg",), ("Mul", b1), ("Sub", 2.0, ...)], [dn.Dense(5), Norm]),
    "scaled between two layers": (
        [FIRST, norm(5), ("Mul", 3.0), ("Add", b1), PRELU, norm(5), LAST],
        [dn.Dense(5), Norm, PReLU, Norm, dn.Dense(2)]),
    "over two axes": (
        [("Gemm", W1[:, :4], b1[:4]), ("Reshape", [-1, 2, 2]),
         ("LayerNormalization", rng.normal(size=(2, 2)), {"axis": 1, "epsilon": 0.25}), ("Flatten",)],
        [dn.Dense(4), Norm]),
    "an activation of PRelu": (
        [FIRST, PRELU, ("Relu",), LAST], [dn.Dense(5), PReLU, dn.Dense(5, "relu"), dn.Dense(2)]),
    "an activation of LayerNormalization": (
        [FIRST, norm(5), ("Sigmoid",), LAST], [dn.Dense(5), Norm, dn.Dense(5, "sigmoid"), dn.Dense(2)]),
    "an activation of scaled outputs": (
        [FIRST, norm(5), ("Mul", b1), ("Add", b1, ...), ("Tanh",), ("Mul", 2.0), LAST],
        [dn.Dense(5), Norm, dn.Dense(5, "tanh"), dn.Dense(2)]),
    "a softmax of LayerNormalization": ([FIRST, norm(5), ("Softmax",)], [dn.Dense(5), Norm, dn.Dense(5, "softmax")]),
    "an activation after the next layer": (
        [FIRST, ("Relu",), norm(5), LAST, ("Softmax",)], [dn.Dense(5, "relu"), Norm, dn.Dense(2, "softmax")]),
}  # fmt: skip


CASES = [
    (name, dtype)
    for name, (steps, _) in GRAPHS.items()
    for dtype in ("float32", "float64")
    if dtype == "float32" or not any(op == "PRelu" for op, *_ in steps)  # ONNX Runtime has no PRelu in double precision
]


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_nodes_become_layers_with_the_same_outputs(name: str, dtype: str, tmp_path: Path) -> None:
    steps, layers = GRAPHS[name]
    content = chain(*steps, opset=20, dtype=dtype, inputs=dtype)
    content.graph.output[0].type.tensor_type.elem_type = graphs.KINDS[dtype]
    net = dn.from_onnx(write(content, tmp_path), backend="numpy")
    assert (net.layers, net.dtype) == (tuple(layers), dtype)
    assert (net.standardizer is None) == (name != "LayerNormalization of standardized inputs")
    expected = run(content, X.astype(dtype))
    # ONNX Runtime computes the inverse of the deviation in single precision or with an epsilon in single precision.
    tolerance = 1e-6 if dtype == "float64" else 5e-5
    np.testing.assert_allclose(
        net.predict(X.T).T, expected.reshape(40, -1), rtol=0, atol=tolerance * abs(expected).max()
    )


def test_layers_that_are_read_can_be_trained_saved_and_exported(tmp_path: Path) -> None:
    net = dn.from_onnx(write(chain(FIRST, PRELU, norm(5), LAST), tmp_path), backend="numpy")
    before = net.predict(X.T)
    net.save(tmp_path / "net.safetensors")
    np.testing.assert_array_equal(dn.load(tmp_path / "net.safetensors", backend="numpy").predict(X.T), before)
    net.to_onnx(tmp_path / "again.onnx")
    again = run(onnx.load(tmp_path / "again.onnx"), X.astype("float32"))
    np.testing.assert_allclose(again.T, before, rtol=1e-5, atol=1e-4)
    net.fit(X.T, np.zeros((2, 40)), epochs=2)
    assert abs(net.predict(X.T)).sum() < abs(before).sum()


COLUMNS = [("Transpose",), ("MatMul", W1.T, ...)]  # the samples are columns
REFUSED: dict[str, tuple[list[Any], str]] = {
    "slopes for other features": ([FIRST, ("PRelu", SLOPES[:4])], r"'n1' \(PRelu\) has a constant of shape"),
    "a slope for each sample": ([*COLUMNS, PRELU], r"'n2' \(PRelu\) has a constant of shape \(5,\) that differs"),
    "slopes of more axes": ([FIRST, ("PRelu", np.ones((1, 1, 5)) * SLOPES)], r"'n1' \(PRelu\) changes the shape"),
    "slopes that are NaN": ([FIRST, ("PRelu", SLOPES * np.nan)], r"'n1' \(PRelu\) has a constant that is not finite"),
    "PRelu of a scaled activation": ([FIRST, ("Tanh",), ("Mul", 2.0), PRELU, LAST], r"\(PRelu\) applies to scaled or"),
    "PRelu of a scaled PRelu": ([FIRST, PRELU, ("Neg",), PRELU, LAST], r"'n3' \(PRelu\) applies to scaled or shifted"),
    "PRelu of negated inputs": ([("Neg",), ("PRelu", SLOPES[:3]), FIRST], r"'n1' \(PRelu\) applies to scaled or"),
    "scaled outputs of PRelu": ([FIRST, PRELU, ("Mul", 2.0)], "the outputs of PReLU are scaled or shifted"),
    "over the samples": ([FIRST, norm(5, axis=0)], r"'n1' \(LayerNormalization\) is not over the features of each"),
    "over the columns": ([*COLUMNS, norm(5)], r"'n2' \(LayerNormalization\) is not over the features of each sample"),
    "over some of the features": (
        [("Gemm", W1[:, :4]), ("Reshape", [-1, 2, 2]), norm(2)], r"\(LayerNormalization\) is not over the features"),
    "an axis that does not exist": ([FIRST, norm(5, axis=2)], r"'n1' \(LayerNormalization\) has the axis 2"),
    "a scale for other features": ([FIRST, norm(4)], r"'n1' \(LayerNormalization\) has a constant of shape \(4,\)"),
    "one scale": ([FIRST, norm(1)], r"'n1' \(LayerNormalization\) has a scale or a bias that is not a constant with"),
    "a bias of another shape": (
        [FIRST, ("LayerNormalization", b1, b1.reshape(1, 5))], r"\(LayerNormalization\) has a scale or a bias that is"),
    "an epsilon of 0": ([FIRST, norm(5, epsilon=0.0)], r"\(LayerNormalization\) has an epsilon that is not above 0"),
    "a scale that is infinite": (
        [FIRST, ("LayerNormalization", b1 * np.inf)], r"\(LayerNormalization\) has a constant that is not finite"),
    "a normalization of a scaled activation": (
        [FIRST, ("Relu",), ("Mul", b1), norm(5)], r"'n3' \(LayerNormalization\) applies to scaled or shifted values"),
    "a factor that overflows": (
        [FIRST, norm(5), ("Mul", 1e30), ("Mul", 1e30)], "into weights gives numbers that are not finite"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_nodes_that_no_layer_computes_are_refused(name: str, tmp_path: Path) -> None:
    steps, message = REFUSED[name]
    with pytest.raises(dn.ModelFileError, match=message):
        dn.from_onnx(write(chain(*steps, opset=20), tmp_path))


W = rng.normal(size=(5, 5))
SQUARE, BEFORE = ("Gemm", W, b1), ("Gemm", rng.normal(size=(3, 3)))
BLOCKS: dict[str, tuple[list[Any], list[tuple[int, int]], list[Any]]] = {
    "of a hidden layer": ([FIRST, ("Relu",), SQUARE, LAST], [(1, 2)], [
        dn.Dense(5, "relu"), dn.Residual([dn.Dense(5)]), dn.Dense(2)]),
    "of a linear layer": ([FIRST, SQUARE, ("Tanh",), LAST], [(0, 2)], [
        dn.Dense(5), dn.Residual([dn.Dense(5, "tanh")]), dn.Dense(2)]),
    "of the inputs": ([BEFORE, ("Tanh",), FIRST], [(-1, 1)], [dn.Residual([dn.Dense(3, "tanh")]), dn.Dense(5)]),
    "of standardized inputs": ([("Div", np.array([2.0, 3.0, 4.0])), BEFORE, ("Tanh",), FIRST], [(0, 2)], [
        dn.Residual([dn.Dense(3, "tanh")]), dn.Dense(5)]),
    "before the outputs": ([FIRST, ("Relu",), SQUARE, ("Mul", 2.0)], [(1, 3)], [
        dn.Dense(5, "relu"), dn.Residual([dn.Dense(5)])]),
    "with an activation after it": ([FIRST, ("Relu",), SQUARE, ("Relu",), LAST], [(1, 2)], [
        dn.Dense(5, "relu"), dn.Residual([dn.Dense(5)]), dn.Dense(5, "relu"), dn.Dense(2)]),
    "with an activation after it is scaled": (
        [FIRST, ("Relu",), SQUARE, ("Mul", b1), ("Sub", 2.0), ("Relu",), LAST], [(1, 2)],
        [dn.Dense(5, "relu"), dn.Residual([dn.Dense(5)]), dn.Dense(5, "relu"), dn.Dense(2)]),
    "that is scaled": ([FIRST, ("Relu",), SQUARE, ("Mul", b1), LAST], [(1, 2)], [
        dn.Dense(5, "relu"), dn.Residual([dn.Dense(5)]), dn.Dense(2)]),
    "with normalizations": ([FIRST, norm(5), SQUARE, ("Relu",), SQUARE, norm(5), LAST], [(0, 4)], [
        dn.Dense(5), dn.Residual([Norm, dn.Dense(5, "relu"), dn.Dense(5)]), Norm, dn.Dense(2)]),
    "nested": ([FIRST, ("Relu",), SQUARE, ("Tanh",), SQUARE, LAST], [(3, 4), (1, 4)], [
        dn.Dense(5, "relu"), dn.Residual([dn.Dense(5, "tanh"), dn.Residual([dn.Dense(5)])]), dn.Dense(2)]),
    "one after the other": ([FIRST, SQUARE, ("Tanh",), SQUARE, LAST], [(0, 2), (2, 3)], [
        dn.Dense(5), dn.Residual([dn.Dense(5, "tanh")]), dn.Residual([dn.Dense(5)]), dn.Dense(2)]),
}  # fmt: skip
"""A chain; for each sum, the steps whose results are added (-1 is the input); and the layers."""


def with_sums(steps: list[Any], sums: list[tuple[int, int]], swapped: bool = False, **settings: Any) -> Any:
    """Return a chain in which the results of two steps are added, and the next step reads the sum."""
    content = chain(*steps, opset=20, **settings)
    nodes, latest = list(content.graph.node), dict[str, str]()
    names = [content.graph.input[0].name, *(node.output[0] for node in nodes)]
    del content.graph.node[:]
    for i, node in enumerate(nodes):
        node.input[0] = latest.get(node.input[0], node.input[0])
        content.graph.node.append(node)
        for number, (start, end) in enumerate(sums):
            if end == i:
                first = latest.get(names[start + 1], names[start + 1])
                terms = [first, latest.get(names[end + 1], names[end + 1])]
                content.graph.node.append(helper.make_node("Add", terms[::-1] if swapped else terms, [f"sum{number}"]))
                latest[names[end + 1]] = f"sum{number}"
    content.graph.output[0].name = latest.get(names[-1], names[-1])
    return content


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("name", BLOCKS)
def test_sums_become_residual_blocks(name: str, swapped: bool, tmp_path: Path) -> None:
    steps, sums, layers = BLOCKS[name]
    content = with_sums(steps, sums, swapped)
    net = dn.from_onnx(write(content, tmp_path), backend="numpy")
    assert net.layers == dn.Network(layers, 3, backend="numpy").layers
    expected = run(content, X.astype("float32"))
    np.testing.assert_allclose(net.predict(X.T).T, expected, rtol=0, atol=1e-5 * abs(expected).max())


NO_BLOCKS: dict[str, tuple[list[Any], list[tuple[int, int]]]] = {
    "a value twice": ([FIRST, ("Relu",), LAST], [(1, 1)]),
    "the inputs of an activation": ([FIRST, ("Tanh",), LAST], [(0, 1)]),
    "a scaled shortcut": ([FIRST, ("Relu",), ("Mul", b1), SQUARE, LAST], [(2, 3)]),
    "a scaled block": ([FIRST, ("Relu",), SQUARE, ("Tanh",), ("Mul", 2.0), LAST], [(1, 4)]),
    "raw and scaled inputs": ([("Neg",), BEFORE, ("Tanh",), FIRST], [(-1, 2)]),
    "negated inputs": ([("Neg",), BEFORE, ("Tanh",), FIRST], [(0, 2)]),
    "one number and many": ([("Gemm", W1[:, :1]), ("Tanh",), ("Gemm", np.ones((1, 5))), ("Tanh",), LAST], [(1, 3)]),
    "scaled outputs": ([FIRST, ("Relu",), SQUARE, ("Mul", 2.0)], [(1, 2)]),
}


@pytest.mark.parametrize("name", NO_BLOCKS)
def test_other_sums_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(dn.ModelFileError, match=r"\(Add\)|outputs of Shortcut are scaled"):
        dn.from_onnx(write(with_sums(*NO_BLOCKS[name]), tmp_path))


def test_an_activation_of_several_nodes_after_a_normalization_is_recognized(tmp_path: Path) -> None:
    content = chain(FIRST, norm(5), ("Sigmoid",), LAST)
    content.graph.node[2].output[0] = "gate"
    product = helper.make_node("Mul", [content.graph.node[1].output[0], "gate"], [content.graph.node[3].input[0]])
    content.graph.node.insert(3, product)
    net = dn.from_onnx(write(content, tmp_path), backend="numpy")
    assert net.layers == (dn.Dense(5), Norm, dn.Dense(5, "silu"), dn.Dense(2))
    np.testing.assert_allclose(net.predict(X.T).T, run(content, X.astype("float32")), rtol=1e-4, atol=1e-5)


def test_activations_of_too_many_outputs_are_refused(tmp_path: Path) -> None:
    """Each needs a square matrix, but a small file must not need much memory."""
    steps = [("LayerNormalization", np.ones(5000)), ("Relu",)]
    with pytest.raises(dn.ModelFileError, match=r"'n1' \(Relu\) is an activation of 5,000 outputs of a LayerNorm"):
        dn.from_onnx(write(chain(*steps, opset=20, shape=("m", 5000)), tmp_path))


def test_the_statistics_of_a_normalization_are_refused(tmp_path: Path) -> None:
    content = chain(FIRST, norm(5), LAST)
    content.graph.node[1].output.append("mean")
    assert dn.from_onnx(write(content, tmp_path)).outputs == 2  # nothing uses the mean
    content.graph.node[2].input[0] = "mean"
    with pytest.raises(dn.ModelFileError, match=r"'n2' \(Gemm\)"):
        dn.from_onnx(write(content, tmp_path))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pytorch_exports_are_read(dtype: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    nn = torch.nn
    torch.manual_seed(3)
    module = nn.Sequential(
        nn.LayerNorm(3), nn.Linear(3, 5), nn.PReLU(5), nn.LayerNorm(5), nn.GELU(), nn.Linear(5, 2)
    )  # fmt: skip
    module = module.to(getattr(torch, dtype)).eval()
    with torch.no_grad():
        for p in module.parameters():
            p += torch.randn_like(p) / 4
    inputs = torch.tensor(X.astype(dtype))
    path = tmp_path / "torch.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the TorchScript exporter is deprecated
        torch.onnx.export(module, (inputs,), str(path), opset_version=17, dynamo=False)
    net = dn.from_onnx(path, backend="numpy")
    assert [type(layer) for layer in net.layers] == [
        dn.LayerNorm, dn.Dense, dn.PReLU, dn.LayerNorm, dn.Dense, dn.Dense
    ]  # fmt: skip
    assert net.layers[0] == dn.LayerNorm(1e-5)
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    np.testing.assert_allclose(net.predict(X.T).T, module(inputs).detach().numpy(), rtol=tolerance, atol=tolerance)
