"""Small random ONNX graphs, in deepnotes and in ONNX Runtime: ``python tests/onnx_random.py --graphs 10000``.

Each graph must either be refused with a ModelFileError, or have the same outputs in both, for several numbers of
samples. Shapes, axes and constants are drawn so that most operations fit their inputs, and some do not.
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

MANY = 11
"""The number of samples while a graph is generated: a prime, so that other sizes are not multiples of it."""
COUNTS = MANY, 1, 2, 5
TOLERANCE = 2e-4


class WrongResult(AssertionError):
    """A graph was read, but its outputs differ from ONNX Runtime's."""


class RandomGraph:
    """A random graph.

    The attributes ``last`` and ``shape`` are the name of the last value and its shape for ``MANY`` samples.

    Parameters
    ----------
    seed : int
    """

    def __init__(self, seed: int) -> None:
        self.rng = rng = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self.opset = int(rng.choice([11, 12, 13, 17, 21]))
        sample = [int(n) for n in rng.choice([1, 2, 3, 4], size=rng.choice([1, 1, 1, 2, 3]))]
        self.columns = len(sample) == 1 and rng.random() < 0.15
        self.fixed = rng.random() < 0.2
        self.input = [*sample, MANY] if self.columns else [MANY, *sample]
        self.last, self.shape = "x", tuple(self.input)
        self.values = {"x": self.shape}
        for _ in range(rng.integers(2, 8)):
            step = STEPS[rng.choice(len(STEPS), p=CHANCES)]
            try:
                step(self)
            except (ValueError, IndexError, ZeroDivisionError):
                continue
        if not any(node.op_type in {"Gemm", "MatMul"} for node in self.nodes):
            self.last, self.shape = "x", tuple(self.input)
            self.matmul()

    # --- nodes and constants ------------------------------------------------------------------------------------

    def array(self, *shape: int) -> np.ndarray:
        return (self.rng.uniform(0.3, 1.7, shape) * self.rng.choice([-1, 1], shape)).astype("float32")

    def constant(self, x: Any) -> str:
        x = np.asarray(x)
        name = f"c{len(self.constants)}"
        self.constants[name] = x.astype("float32") if x.dtype.kind == "f" else x.astype("int64")
        return name

    def add(self, op: str, inputs: list[str], like: Any, **attributes: Any) -> None:
        """Add a node whose result has the shape of `like`."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        self.last, self.shape = name, np.shape(like)
        self.values[name] = self.shape

    def zeros(self) -> np.ndarray:
        """Return an array with the shape of the last value."""
        return np.zeros(self.shape, "float32")

    def add_with_axes(self, op: str, axes: list[int], like: Any) -> None:
        """Add a node whose axes are an operand or, before opset 13, an attribute."""
        if self.opset >= 13:
            self.add(op, [self.last, self.constant(np.array(axes))], like)
        else:
            self.add(op, [self.last], like, axes=axes)

    # --- steps ------------------------------------------------------------------------------------------------------

    def matmul(self) -> None:
        """Add a product with weights on the right or the left; on the left it may be over the samples."""
        n = int(self.rng.integers(1, 5))
        if self.rng.random() < 0.7 or len(self.shape) < 2:
            W = self.array(self.shape[-1], n) if self.rng.random() < 0.9 else self.array(self.shape[-1])
            self.add("MatMul", [self.last, self.constant(W)], self.zeros() @ W)
        else:
            W = self.array(n, self.shape[-2])
            self.add("MatMul", [self.constant(W), self.last], W @ self.zeros())

    def gemm(self) -> None:
        """Add a Gemm with random transpositions, bias, alpha and beta."""
        if len(self.shape) != 2:
            raise ValueError
        transposed = [int(self.rng.random() < 0.2), int(self.rng.random() < 0.4)]
        A, n = self.zeros(), int(self.rng.integers(1, 5))
        left = self.rng.random() < 0.85
        A = A.T if transposed[0 if left else 1] else A
        W = self.array(A.shape[1], n) if left else self.array(n, A.shape[0])
        result = A @ W if left else W @ A
        stored = W.T if transposed[1 if left else 0] else W
        operands = [self.last, self.constant(stored)][:: 1 if left else -1]
        if self.rng.random() < 0.8:
            shapes = [(result.shape[1],), (1, result.shape[1]), (1,), (), (result.shape[0], 1), result.shape]
            operands.append(self.constant(self.array(*shapes[self.rng.choice(6, p=[0.6, 0.1, 0.1, 0.1, 0.05, 0.05])])))
        options = {"alpha": 0.5} if self.rng.random() < 0.2 else {}
        options |= {"beta": float(self.rng.choice([0.0, 2.0]))} if self.rng.random() < 0.2 else {}
        self.add("Gemm", operands, result, transA=transposed[0], transB=transposed[1], **options)

    def affine(self) -> None:
        """Add an Add, Sub, Mul or Div with a constant, whose shape can usually be broadcast."""
        shape = [n if n != MANY or self.rng.random() < 0.03 else 1 for n in self.shape]
        shape = [1 if self.rng.random() < 0.2 else n for n in shape]
        shape = shape[self.rng.integers(0, len(shape) + 1) :] if self.rng.random() < 0.4 else shape
        if self.rng.random() < 0.1:
            shape = [int(self.rng.integers(1, 4)), *shape]
        c = self.array(*shape)
        operands = [self.last, self.constant(c)][:: 1 if self.rng.random() < 0.8 else -1]
        self.add(str(self.rng.choice(["Add", "Sub", "Mul", "Div"])), operands, self.zeros() + c)

    def activation(self) -> None:
        """Add an activation of one or two nodes."""
        x, kind = self.last, self.rng.integers(0, 13)
        like = self.zeros()
        plain = ["Relu", "Sigmoid", "Tanh", "Softplus", "Identity", "Neg", "Selu", "HardSigmoid"]
        if kind < len(plain):
            self.add(plain[kind], [x], like)
        elif kind == 8:
            self.add("LeakyRelu", [x], like, alpha=0.25)
        elif kind == 9:
            self.add("Sigmoid", [x], like)
            self.add("Mul", [x, self.last], like)
        elif kind == 10:
            bounds = [[self.constant(np.array(0.0))], [self.constant(np.array(0.0)), self.constant(np.array(6.0))]]
            self.add("Clip", [x, *bounds[self.rng.integers(0, 2)]], like)
        elif kind == 11:
            self.add("Max", [x, self.constant(np.array(0.0))], like)
        else:
            slope = self.array(*self.shape[-1:]) if self.rng.random() < 0.3 else np.array([0.2])
            self.add("PRelu", [x, self.constant(slope)], like)

    def softmax(self) -> None:
        """Add a softmax over any axis."""
        axis = int(self.rng.integers(-len(self.shape), len(self.shape)))
        self.add("Softmax" if self.rng.random() < 0.95 else "LogSoftmax", [self.last], self.zeros(), axis=axis)

    def squeeze(self) -> None:
        """Add a Squeeze of some axes of size 1, of an axis of any size, or of all axes of size 1."""
        ones = [i for i, n in enumerate(self.shape) if n == 1]
        chance = self.rng.random()
        if chance < 0.1:
            self.add("Squeeze", [self.last], self.zeros().squeeze())
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
        self.add("Transpose", [self.last], self.zeros().transpose(attributes.get("perm")), **attributes)

    def flatten(self) -> None:
        """Add a Flatten at any axis."""
        axis = int(self.rng.choice([1, 1, *range(len(self.shape) + 1), -1]))
        rows = int(np.prod(self.shape[:axis]))
        self.add("Flatten", [self.last], self.zeros().reshape(rows, -1), axis=axis)

    def target(self) -> list[int]:
        """Return sizes for a Reshape, which may not fit."""
        rest = [n for n in self.shape if n != MANY]
        size, first = int(np.prod(rest)), int(self.rng.choice([-1, -1, 0, MANY if self.fixed else 0, 1]))
        shapes = [[size], rest, rest[::-1], [1, size], [size, 1], [-1], [1, -1], [2, size // 2], [-1, 1]]
        rest = shapes[self.rng.integers(0, len(shapes))]
        axis = int(self.rng.integers(0, len(rest) + 1)) if self.rng.random() < 0.2 else 0
        return [*rest[:axis], first, *rest[axis:]]

    def reshape(self) -> None:
        """Add a Reshape to constant sizes."""
        target = self.target()
        sizes = [self.shape[i] if n == 0 else n for i, n in enumerate(target)]
        self.add("Reshape", [self.last, self.constant(np.array(target))], self.zeros().reshape(sizes))

    def view(self) -> None:
        """Add a Reshape that keeps the size of one axis, usually the first, which is computed with Shape."""
        axis = 0 if self.rng.random() < 0.8 else int(self.rng.integers(0, len(self.shape)))
        x, n, like = self.last, self.shape[axis], self.zeros()
        rest = int(self.rng.choice([-1, like.size // n]))
        result = like.reshape((n, rest))
        self.add("Shape", [x], ())
        self.add("Gather", [self.last, self.constant(np.array(axis))], ())
        self.add_with_axes("Unsqueeze", [0], ())
        self.add("Concat", [self.last, self.constant(np.array([rest]))], (), axis=0)
        self.add("Reshape", [x, self.last], result)

    def concat(self) -> None:
        """Add a Concat: ``[1 - p, p]``, or the same value twice."""
        x, axis = self.last, int(self.rng.integers(-len(self.shape), len(self.shape)))
        like = np.concatenate([self.zeros(), self.zeros()], axis)
        if self.rng.random() < 0.8:
            self.add("Sigmoid", [x], self.zeros())
            x = self.last
            self.add("Sub", [self.constant(np.array([1.0])), x], self.zeros())
        self.add("Concat", [self.last, x], like, axis=axis)

    def normalize(self) -> None:
        """Add a BatchNormalization, which is along the second axis."""
        n = self.shape[1]
        parts = [self.array(n), self.array(n), self.array(n), abs(self.array(n))]
        self.add("BatchNormalization", [self.last, *map(self.constant, parts)], self.zeros(), epsilon=0.01)

    def branch(self) -> None:
        """Add a sum, product or maximum of two values; only rarely the graph is still a chain."""
        other = list(self.values)[self.rng.integers(0, len(self.values))]
        like = self.zeros() + np.zeros(self.values[other])
        self.add(str(self.rng.choice(["Add", "Mul", "Max"])), [self.last, other], like)

    def reduce(self) -> None:
        """Add the first nodes of a softmax of several nodes, or all of them."""
        axis = int(self.rng.integers(0, len(self.shape)))
        x, like = self.last, self.zeros()
        self.add("ReduceMax", [x], like.max(axis, keepdims=True), axes=[axis])
        if self.opset > 17:
            raise ValueError
        self.add("Sub", [x, self.last], like)
        self.add("Exp", [self.last], like)
        if self.opset < 13:
            e = self.last
            self.add("ReduceSum", [e], like.sum(axis, keepdims=True), axes=[axis])
            self.add("Div", [e, self.last], like)

    # --- the model --------------------------------------------------------------------------------------------------

    def model(self) -> Any:
        """Return the graph as a model."""
        axis = self.input.index(MANY)
        shape = [n if i != axis else (MANY if self.fixed else "m") for i, n in enumerate(self.input)]
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
CHANCES = np.array([4, 5, 4, 4, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1]) / 36


def outputs(session: Any, X: np.ndarray, shape: list[int], columns: bool) -> np.ndarray:
    """Return the outputs of ONNX Runtime for rows X, which the graph takes as columns or as samples of some shape."""
    x = X.T if columns else X.reshape(len(X), *shape)
    result: np.ndarray = session.run(None, {"x": np.ascontiguousarray(x)})[0]
    return result


def check_graph(seed: int, folder: Path) -> str:
    """Return "read" or "refused" for the random graph of a seed.

    Raises
    ------
    WrongResult
        If the graph was read, and ONNX Runtime refuses it or computes different outputs.
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
    sample, columns = [n for n in random_graph.input if n != MANY], random_graph.columns
    counts = COUNTS[:1] if random_graph.fixed else COUNTS
    if random_graph.fixed and len(sample) == 1 and net.inputs == MANY:  # either axis may be the axis of samples
        counts, sample, columns = (sample[0],), [MANY], not columns
    elif net.inputs != np.prod(sample):
        raise WrongResult(f"seed {seed}: {net.inputs} inputs, and samples of shape {sample}")
    axis = None
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for count in counts:
            X = np.random.default_rng(seed).normal(size=(count, net.inputs)).astype("float32")
            result = outputs(session, X, sample, columns)
            axes = [i for i, n in enumerate(result.shape) if n == count] if axis is None else [axis]
            ours = net.predict(X.T).T
            if not axes or result.size != ours.size:
                raise WrongResult(f"seed {seed}: outputs of shape {result.shape}, here {ours.shape}")
            errors = {i: np.abs(ours - np.moveaxis(result, i, 0).reshape(count, -1)).max() for i in axes}
            axis = min(errors, key=errors.__getitem__)
            if not errors[axis] <= TOLERANCE * max(1, np.abs(result).max()):
                raise WrongResult(f"seed {seed}: outputs are off by {errors[axis]:.3g} for {count} samples")
    except Exception as error:
        if isinstance(error, WrongResult) or type(error).__module__.partition(".")[0] != "onnxruntime":
            raise
        raise WrongResult(f"seed {seed}: ONNX Runtime refuses it: {str(error)[:300]}") from None
    return "read"


def main() -> int:
    """Check many graphs, print the numbers of graphs that were read and refused, and return 1 if any was wrong."""
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
