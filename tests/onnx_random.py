"""Compare deepnotes with ONNX Runtime on small random graphs: ``python tests/onnx_random.py --graphs 10000``.

Each graph must either be refused with a ModelFileError or have the same outputs in deepnotes and in ONNX Runtime, for
several numbers of samples. Most of the random operations fit the shapes of their inputs, but some do not.
"""

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnx import helper, numpy_helper

import deepnotes as dn

SAMPLES = 11
"""The number of samples while a graph is generated: a prime, so that no other size is a multiple of it."""
SAMPLE_COUNTS = SAMPLES, 1, 2, 5
TOLERANCE = 2e-4


class WrongResult(AssertionError):
    """The error for a graph that deepnotes reads, but that ONNX Runtime refuses or evaluates differently."""


class RandomGraph:
    """A random graph.

    The attributes ``last`` and ``shape`` are the name of the last value, and its shape for ``SAMPLES`` samples.

    Parameters
    ----------
    seed : int
        The seed of all random choices.
    """

    def __init__(self, seed: int) -> None:
        self.rng = rng = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self.opset = int(rng.choice([11, 12, 13, 17, 21]))
        sample = [int(n) for n in rng.choice([1, 2, 3, 4], size=rng.choice([1, 1, 1, 2, 3]))]
        self.columns = len(sample) == 1 and rng.random() < 0.15
        self.fixed = rng.random() < 0.2
        self.input = [*sample, SAMPLES] if self.columns else [SAMPLES, *sample]
        self.last, self.shape = "x", tuple(self.input)
        self.values = {"x": self.shape}
        for _ in range(rng.integers(2, 8)):
            step = STEPS[rng.choice(len(STEPS), p=PROBABILITIES)]
            try:
                step(self)
            except (ValueError, IndexError, ZeroDivisionError):
                continue
        if not any(node.op_type in {"Gemm", "MatMul"} for node in self.nodes):
            self.last, self.shape = "x", tuple(self.input)
            self.matmul()

    # --- nodes and constants ------------------------------------------------------------------------------------

    def random_array(self, *shape: int) -> np.ndarray:
        return (self.rng.uniform(0.3, 1.7, shape) * self.rng.choice([-1, 1], shape)).astype("float32")

    def add_constant(self, x: Any) -> str:
        """Add an initializer and return its name."""
        x = np.asarray(x)
        name = f"c{len(self.constants)}"
        self.constants[name] = x.astype("float32") if x.dtype.kind == "f" else x.astype("int64")
        return name

    def add_node(self, op: str, inputs: list[str], template: Any, **attributes: Any) -> None:
        """Add a node whose result has the shape of `template`."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        self.last, self.shape = name, np.shape(template)
        self.values[name] = self.shape

    def zeros(self) -> np.ndarray:
        """Return an array with the shape of the last value."""
        return np.zeros(self.shape, "float32")

    def add_with_axes(self, op: str, axes: list[int], template: Any) -> None:
        """Add a node whose axes are an operand or, before opset 13, an attribute."""
        if self.opset >= 13:
            self.add_node(op, [self.last, self.add_constant(np.array(axes))], template)
        else:
            self.add_node(op, [self.last], template, axes=axes)

    # --- steps ------------------------------------------------------------------------------------------------------

    def matmul(self) -> None:
        """Add a MatMul with weights on the right or the left; weights on the left may sum over the axis of samples."""
        n = int(self.rng.integers(1, 5))
        if self.rng.random() < 0.7 or len(self.shape) < 2:
            W = self.random_array(self.shape[-1], n) if self.rng.random() < 0.9 else self.random_array(self.shape[-1])
            self.add_node("MatMul", [self.last, self.add_constant(W)], self.zeros() @ W)
        else:
            W = self.random_array(n, self.shape[-2])
            self.add_node("MatMul", [self.add_constant(W), self.last], W @ self.zeros())

    def gemm(self) -> None:
        """Add a Gemm with random transpositions, bias, alpha and beta."""
        if len(self.shape) != 2:
            raise ValueError
        transposed = [int(self.rng.random() < 0.2), int(self.rng.random() < 0.4)]
        A, n = self.zeros(), int(self.rng.integers(1, 5))
        left = self.rng.random() < 0.85
        A = A.T if transposed[0 if left else 1] else A
        W = self.random_array(A.shape[1], n) if left else self.random_array(n, A.shape[0])
        result = A @ W if left else W @ A
        stored = W.T if transposed[1 if left else 0] else W
        operands = [self.last, self.add_constant(stored)][:: 1 if left else -1]
        if self.rng.random() < 0.8:
            shapes = [(result.shape[1],), (1, result.shape[1]), (1,), (), (result.shape[0], 1), result.shape]
            operands.append(
                self.add_constant(self.random_array(*shapes[self.rng.choice(6, p=[0.6, 0.1, 0.1, 0.1, 0.05, 0.05])]))
            )
        options = {"alpha": 0.5} if self.rng.random() < 0.2 else {}
        options |= {"beta": float(self.rng.choice([0.0, 2.0]))} if self.rng.random() < 0.2 else {}
        self.add_node("Gemm", operands, result, transA=transposed[0], transB=transposed[1], **options)

    def affine(self) -> None:
        """Add an Add, Sub, Mul or Div with a constant that can usually be broadcast."""
        shape = [n if n != SAMPLES or self.rng.random() < 0.03 else 1 for n in self.shape]
        shape = [1 if self.rng.random() < 0.2 else n for n in shape]
        shape = shape[self.rng.integers(0, len(shape) + 1) :] if self.rng.random() < 0.4 else shape
        if self.rng.random() < 0.1:
            shape = [int(self.rng.integers(1, 4)), *shape]
        c = self.random_array(*shape)
        operands = [self.last, self.add_constant(c)][:: 1 if self.rng.random() < 0.8 else -1]
        self.add_node(str(self.rng.choice(["Add", "Sub", "Mul", "Div"])), operands, self.zeros() + c)

    def activation(self) -> None:
        """Add an activation that consists of one or two nodes."""
        x, kind = self.last, self.rng.integers(0, 13)
        template = self.zeros()
        single_ops = ["Relu", "Sigmoid", "Tanh", "Softplus", "Identity", "Neg", "Selu", "HardSigmoid"]
        if kind < len(single_ops):
            self.add_node(single_ops[kind], [x], template)
        elif kind == 8:
            self.add_node("LeakyRelu", [x], template, alpha=0.25)
        elif kind == 9:
            self.add_node("Sigmoid", [x], template)
            self.add_node("Mul", [x, self.last], template)
        elif kind == 10:
            bounds = [
                [self.add_constant(np.array(0.0))],
                [self.add_constant(np.array(0.0)), self.add_constant(np.array(6.0))],
            ]
            self.add_node("Clip", [x, *bounds[self.rng.integers(0, 2)]], template)
        elif kind == 11:
            self.add_node("Max", [x, self.add_constant(np.array(0.0))], template)
        else:
            slope = self.random_array(*self.shape[-1:]) if self.rng.random() < 0.3 else np.array([0.2])
            self.add_node("PRelu", [x, self.add_constant(slope)], template)

    def softmax(self) -> None:
        """Add a softmax over any axis."""
        axis = int(self.rng.integers(-len(self.shape), len(self.shape)))
        self.add_node("Softmax" if self.rng.random() < 0.95 else "LogSoftmax", [self.last], self.zeros(), axis=axis)

    def squeeze(self) -> None:
        """Add a Squeeze of some axes of size 1, of an axis of any size, or of all axes of size 1."""
        ones = [i for i, n in enumerate(self.shape) if n == 1]
        chance = self.rng.random()
        if chance < 0.1:
            self.add_node("Squeeze", [self.last], self.zeros().squeeze())
        elif chance < 0.15:
            self.add_with_axes("Squeeze", [int(self.rng.integers(0, len(self.shape)))], self.zeros())
        else:
            axes = [i if self.rng.random() < 0.5 else i - len(self.shape) for i in ones if self.rng.random() < 0.7]
            if not axes:
                raise ValueError
            self.add_with_axes("Squeeze", axes, self.zeros().squeeze(tuple(axes)))

    def unsqueeze(self) -> None:
        """Add an Unsqueeze with one or two new axes."""
        rank = len(self.shape) + int(self.rng.integers(1, 3))
        if rank > 5:
            raise ValueError
        axes = [int(i) for i in self.rng.choice(rank, size=rank - len(self.shape), replace=False)]
        axes = [i - rank if self.rng.random() < 0.3 else i for i in axes]
        self.add_with_axes("Unsqueeze", axes, np.expand_dims(self.zeros(), tuple(axes)))

    def transpose(self) -> None:
        """Add a Transpose."""
        perm = [int(i) for i in self.rng.permutation(len(self.shape))]
        attributes = {} if self.rng.random() < 0.2 else {"perm": perm}
        self.add_node("Transpose", [self.last], self.zeros().transpose(attributes.get("perm")), **attributes)

    def flatten(self) -> None:
        """Add a Flatten at any axis."""
        axis = int(self.rng.choice([1, 1, *range(len(self.shape) + 1), -1]))
        rows = int(np.prod(self.shape[:axis]))
        self.add_node("Flatten", [self.last], self.zeros().reshape(rows, -1), axis=axis)

    def random_sizes(self) -> list[int]:
        """Return the target sizes for a Reshape; they may be invalid."""
        rest = [n for n in self.shape if n != SAMPLES]
        size, first = int(np.prod(rest)), int(self.rng.choice([-1, -1, 0, SAMPLES if self.fixed else 0, 1]))
        shapes = [[size], rest, rest[::-1], [1, size], [size, 1], [-1], [1, -1], [2, size // 2], [-1, 1]]
        rest = shapes[self.rng.integers(0, len(shapes))]
        axis = int(self.rng.integers(0, len(rest) + 1)) if self.rng.random() < 0.2 else 0
        return [*rest[:axis], first, *rest[axis:]]

    def reshape(self) -> None:
        """Add a Reshape to constant sizes."""
        target = self.random_sizes()
        sizes = [self.shape[i] if n == 0 else n for i, n in enumerate(target)]
        self.add_node("Reshape", [self.last, self.add_constant(np.array(target))], self.zeros().reshape(sizes))

    def view(self) -> None:
        """Add a Reshape that keeps the size of one axis, usually the first; a Shape node computes this size."""
        axis = 0 if self.rng.random() < 0.8 else int(self.rng.integers(0, len(self.shape)))
        x, n, template = self.last, self.shape[axis], self.zeros()
        rest = int(self.rng.choice([-1, template.size // n]))
        result = template.reshape((n, rest))
        self.add_node("Shape", [x], ())
        self.add_node("Gather", [self.last, self.add_constant(np.array(axis))], ())
        self.add_with_axes("Unsqueeze", [0], ())
        self.add_node("Concat", [self.last, self.add_constant(np.array([rest]))], (), axis=0)
        self.add_node("Reshape", [x, self.last], result)

    def concat(self) -> None:
        """Add a Concat of ``1 - p`` and ``p``, or of the same value twice."""
        x, axis = self.last, int(self.rng.integers(-len(self.shape), len(self.shape)))
        template = np.concatenate([self.zeros(), self.zeros()], axis)
        if self.rng.random() < 0.8:
            self.add_node("Sigmoid", [x], self.zeros())
            x = self.last
            self.add_node("Sub", [self.add_constant(np.array([1.0])), x], self.zeros())
        self.add_node("Concat", [self.last, x], template, axis=axis)

    def normalize(self) -> None:
        """Add a BatchNormalization, which acts on the second axis."""
        n = self.shape[1]
        parts = [self.random_array(n), self.random_array(n), self.random_array(n), abs(self.random_array(n))]
        self.add_node("BatchNormalization", [self.last, *map(self.add_constant, parts)], self.zeros(), epsilon=0.01)

    def branch(self) -> None:
        """Add a sum, product or maximum of two values; after this, the graph is rarely a chain."""
        other = list(self.values)[self.rng.integers(0, len(self.values))]
        template = self.zeros() + np.zeros(self.values[other])
        self.add_node(str(self.rng.choice(["Add", "Mul", "Max"])), [self.last, other], template)

    def reduce(self) -> None:
        """Add a softmax that consists of several nodes, or only its first nodes."""
        axis = int(self.rng.integers(0, len(self.shape)))
        x, template = self.last, self.zeros()
        self.add_node("ReduceMax", [x], template.max(axis, keepdims=True), axes=[axis])
        if self.opset > 17:
            raise ValueError
        self.add_node("Sub", [x, self.last], template)
        self.add_node("Exp", [self.last], template)
        if self.opset < 13:
            e = self.last
            self.add_node("ReduceSum", [e], template.sum(axis, keepdims=True), axes=[axis])
            self.add_node("Div", [e, self.last], template)

    # --- the model --------------------------------------------------------------------------------------------------

    def model(self) -> Any:
        """Return the graph as a model."""
        axis = self.input.index(SAMPLES)
        shape = [n if i != axis else (SAMPLES if self.fixed else "m") for i, n in enumerate(self.input)]
        nodes: list[Any] = []
        required = {self.last}  # a step that failed may have left unused nodes
        for node in reversed(self.nodes):
            if node.output[0] in required:
                required |= set(node.input)
                nodes.insert(0, node)
        graph = helper.make_graph(
            nodes, "g", [helper.make_tensor_value_info("x", 1, shape)],
            [helper.make_tensor_value_info(self.last, 1, None)],
            [numpy_helper.from_array(x, name) for name, x in self.constants.items()],
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


STEPS: list[Callable[[RandomGraph], None]] = [
    RandomGraph.matmul, RandomGraph.gemm, RandomGraph.affine, RandomGraph.activation, RandomGraph.softmax,
    RandomGraph.squeeze, RandomGraph.unsqueeze, RandomGraph.transpose, RandomGraph.flatten, RandomGraph.reshape,
    RandomGraph.view, RandomGraph.concat, RandomGraph.normalize, RandomGraph.branch, RandomGraph.reduce,
]  # fmt: skip
PROBABILITIES = np.array([4, 5, 4, 4, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1]) / 36


def run_onnxruntime(session: Any, X: np.ndarray, shape: list[int], columns: bool) -> np.ndarray:
    """Run a graph on the rows of X, passed as columns or as samples with this shape, and return its outputs."""
    x = X.T if columns else X.reshape(len(X), *shape)
    result: np.ndarray = session.run(None, {"x": np.ascontiguousarray(x)})[0]
    return result


def check_graph(seed: int, folder: Path) -> str:
    """Check the random graph with this seed; return "read" or "refused".

    Raises
    ------
    WrongResult
        If deepnotes reads the graph, but ONNX Runtime refuses it or computes different outputs.
    """
    random_graph = RandomGraph(seed)
    content = random_graph.model()
    path = folder / "graph.onnx"
    path.write_bytes(content.SerializeToString())
    try:
        net = dn.from_onnx(path, backend="numpy")
    except dn.ModelFileError:
        return "refused"
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    sample, columns = [n for n in random_graph.input if n != SAMPLES], random_graph.columns
    counts = SAMPLE_COUNTS[:1] if random_graph.fixed else SAMPLE_COUNTS
    if random_graph.fixed and len(sample) == 1 and net.inputs == SAMPLES:  # either axis may be the axis of samples
        counts, sample, columns = (sample[0],), [SAMPLES], not columns
    elif net.inputs != np.prod(sample):
        raise WrongResult(f"seed {seed}: {net.inputs} inputs, but samples of shape {sample}")
    axis = None
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for count in counts:
            X = np.random.default_rng(seed).normal(size=(count, net.inputs)).astype("float32")
            result = run_onnxruntime(session, X, sample, columns)
            axes = [i for i, n in enumerate(result.shape) if n == count] if axis is None else [axis]
            ours = net.predict(X.T).T
            if not axes or result.size != ours.size:
                raise WrongResult(f"seed {seed}: outputs of shape {result.shape}, but {ours.shape} in deepnotes")
            errors = {i: np.abs(ours - np.moveaxis(result, i, 0).reshape(count, -1)).max() for i in axes}
            axis = min(errors, key=errors.__getitem__)
            if not errors[axis] <= TOLERANCE * max(1, np.abs(result).max()):
                raise WrongResult(f"seed {seed}: outputs are off by {errors[axis]:.3g} for {count} samples")
    except Exception as error:
        if isinstance(error, WrongResult) or type(error).__module__.partition(".")[0] != "onnxruntime":
            raise
        raise WrongResult(f"seed {seed}: ONNX Runtime refuses the graph: {str(error)[:300]}") from None
    return "read"


def main() -> int:
    """Check random graphs, print how many were read, refused or wrong, and return 1 if any was wrong, else 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--graphs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="the seed of the first graph")
    args = parser.parse_args()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(args.seed, args.seed + args.graphs):
            try:
                counts[check_graph(seed, Path(folder))] += 1
            except WrongResult as error:
                counts["wrong"] += 1
                sys.stdout.write(f"{error}\n")
    sys.stdout.write(json.dumps(counts) + "\n")
    return int(counts["wrong"] > 0)


if __name__ == "__main__":
    sys.exit(main())
