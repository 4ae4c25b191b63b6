"""Random graphs: whatever ``from_onnx`` accepts computes what ONNX Runtime computes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepnotes as dn

onnx = pytest.importorskip("onnx", reason='the extra "onnx" is not installed')
pytest.importorskip("onnxruntime", reason='the extra "onnx" is not installed')
graphs = pytest.importorskip("onnx_graphs")

ACTIVATIONS = [
    "Relu", "Sigmoid", "Tanh", "Softplus", "Elu", "Selu", "Softmax", "LeakyRelu", "HardSwish", "Mish", "Abs", "Exp",
    "Erf", "Sqrt", "Reciprocal", "LogSoftmax",
]  # fmt: skip


class RandomGraph:
    """A graph of random nodes, most of which read the result of the node before."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self.inputs = int(self.rng.integers(2, 5))
        self.values = [("in", self.inputs)]  # with their numbers of features
        for _ in range(int(self.rng.integers(2, 14))):
            name, n = self.values[-1]
            steps = [
                self.product, self.activation, self.affine, self.join, self.normalize, self.formula, self.part,
                self.gate,
            ]  # fmt: skip
            steps[self.rng.choice(8, p=[0.25, 0.2, 0.2, 0.2, 0.05, 0.04, 0.03, 0.03])](name, n)

    def model(self) -> Any:
        return graphs.model(self.nodes, self.constants, self.values[-1][0], ("m", self.inputs), opset=18)

    def node(self, op: str, *inputs: str, outputs: tuple[str, ...] = (), **attributes: Any) -> str:
        outputs = outputs or (f"v{len(self.nodes)}",)
        self.nodes.append(onnx.helper.make_node(op, inputs, outputs, name=f"n{len(self.nodes)}", **attributes))
        return outputs[0]

    def constant(self, x: Any) -> str:
        name, x = f"c{len(self.constants)}", np.asarray(x)
        self.constants[name] = x.astype("f4") if x.dtype.kind == "f" else x
        return name

    def keep(self, name: str, n: int) -> None:
        self.values.append((name, n))

    def product(self, name: str, n: int) -> None:
        m = int(self.rng.choice([n, self.rng.integers(2, 6)]))
        W, b = self.rng.normal(size=(n, m)), self.rng.normal(size=m)
        self.keep(self.node("Gemm", name, self.constant(W), *[self.constant(b)] * int(self.rng.integers(2))), m)

    def activation(self, name: str, n: int) -> None:
        self.keep(self.node(str(self.rng.choice(ACTIVATIONS)), name), n)

    def affine(self, name: str, n: int) -> None:
        op, numbers = str(self.rng.choice(["Add", "Sub", "Mul", "Div", "Neg"])), self.rng.uniform(0.5, 2, n)
        if op == "Neg":
            self.keep(self.node(op, name), n)
            return
        operands = [name, self.constant(numbers if self.rng.random() < 0.5 else numbers[0])]
        self.keep(self.node(op, *operands[:: self.rng.choice([1, 1, 1, -1])]), n)

    def join(self, name: str, n: int) -> None:
        others = [other for other, size in self.values[-5:-1] if size == n]
        if others:
            operands = [name, str(self.rng.choice(others))]
            op = str(self.rng.choice(["Add", "Mul", "Sub", "Max"], p=[0.5, 0.35, 0.1, 0.05]))
            self.keep(self.node(op, *operands[:: self.rng.choice([1, -1])]), n)

    def normalize(self, name: str, n: int) -> None:
        if n == 1 or self.rng.random() < 0.4:  # ONNX Runtime 1.21 has no LayerNormalization of one feature
            slopes = self.rng.normal(size=n if self.rng.random() < 0.7 else 1)
            self.keep(self.node("PRelu", name, self.constant(slopes)), n)
        else:
            parameters = [self.constant(self.rng.normal(size=n)) for _ in range(2)]
            self.keep(self.node("LayerNormalization", name, *parameters, epsilon=0.01), n)

    def formula(self, name: str, n: int) -> None:
        last = self.constant(np.array([-1]))
        if self.rng.random() < 0.5:
            name = self.node("Sub", name, self.node("ReduceMean", name, last))
        squares = (
            self.node("Mul", name, name) if self.rng.random() < 0.5 else self.node("Pow", name, self.constant(2.0))
        )
        variance = self.node("Add", self.node("ReduceMean", squares, last), self.constant(0.01))
        deviation = self.node("Sqrt", variance)
        if self.rng.random() < 0.5:
            self.keep(self.node("Div", name, deviation), n)
        else:
            self.keep(self.node("Mul", name, self.node("Reciprocal", deviation)), n)

    def part(self, name: str, n: int) -> None:
        size = int(self.rng.integers(1, n)) if n > 1 else 1
        if size < n:
            halves = (f"v{len(self.nodes)}", f"w{len(self.nodes)}")
            self.node("Split", name, self.constant(np.array([size, n - size])), outputs=halves, axis=-1)
            self.keep(halves[0], size)
            self.keep(halves[1], n - size)

    def gate(self, name: str, n: int) -> None:
        first, second = (self.node("MatMul", name, self.constant(self.rng.normal(size=(n, n)))) for _ in range(2))
        g = self.node(str(self.rng.choice(["Sigmoid", "Tanh", "Relu"])), second)
        self.keep(self.node("Mul", *[first, g][:: self.rng.choice([1, -1])]), n)


def accepts(seed: int, folder: Path) -> bool:
    """Return whether a random graph is read; check its outputs if it is."""
    graph = RandomGraph(seed)
    if not graph.nodes:
        return False
    content = graph.model()
    try:
        net = dn.from_onnx(graphs.write(content, folder), backend="numpy")
    except dn.ModelFileError:
        return False
    X = graph.rng.normal(size=(7, graph.inputs)).astype("f4")
    expected = graphs.run(content, X)
    with np.errstate(all="ignore"):
        found = net.predict(X.T).T
    finite = np.isfinite(expected) & np.isfinite(found)
    if np.isfinite(expected).all():
        assert finite.all(), seed
    scale = max(1.0, abs(expected[finite]).max(initial=0))
    np.testing.assert_allclose(found[finite], expected[finite], rtol=0, atol=2e-3 * scale, err_msg=f"seed {seed}")
    return True


def test_what_is_read_from_random_graphs_agrees_with_onnx_runtime(tmp_path: Path) -> None:
    read = sum(accepts(seed, tmp_path) for seed in range(500))
    assert read > 40


@pytest.mark.slow
def test_what_is_read_from_many_random_graphs_agrees_with_onnx_runtime(tmp_path: Path) -> None:
    read = sum(accepts(seed, tmp_path) for seed in range(500, 12_000))
    assert read > 1_000
