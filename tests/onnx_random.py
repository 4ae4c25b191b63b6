"""Small random ONNX graphs, read here and run by ONNX Runtime: ``python tests/onnx_random.py --graphs 10000``.

Each graph is either refused with a typed error, or gives the same outputs here as there, for several numbers of
samples. Shapes, axes and constants are drawn so that most steps fit what comes before them, and some do not.
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
"""Samples while a graph is drawn: a prime that no other size is a multiple of."""
COUNTS = MANY, 1, 2, 5
TOLERANCE = 2e-4


class Mistaken(AssertionError):
    """A graph that was read, and that gives other outputs in ONNX Runtime."""


class Draw:
    """A graph in the making, with the shape that its last value has for ``MANY`` samples.

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
        self.at, self.shape = "x", tuple(self.input)
        self.values = {"x": self.shape}
        for _ in range(rng.integers(2, 8)):
            step = STEPS[rng.choice(len(STEPS), p=CHANCES)]
            try:
                step(self)
            except (ValueError, IndexError, ZeroDivisionError):
                continue
        if not any(node.op_type in {"Gemm", "MatMul"} for node in self.nodes):
            self.at, self.shape = "x", tuple(self.input)
            self.matmul()

    # --- what steps are made of ---------------------------------------------------------------------------------

    def array(self, *shape: int) -> np.ndarray:
        return (self.rng.uniform(0.3, 1.7, shape) * self.rng.choice([-1, 1], shape)).astype("float32")

    def constant(self, x: Any) -> str:
        x = np.asarray(x)
        name = f"c{len(self.constants)}"
        self.constants[name] = x.astype("float32") if x.dtype.kind == "f" else x.astype("int64")
        return name

    def put(self, op: str, inputs: list[str], like: Any, **attributes: Any) -> None:
        """Add a node, whose result has the shape of `like`."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        self.at, self.shape = name, np.shape(like)
        self.values[name] = self.shape

    def now(self) -> np.ndarray:
        return np.zeros(self.shape, "float32")

    def axes(self, op: str, axes: list[int], like: Any) -> None:
        """Add a node whose axes are an operand, or an attribute before opset 13."""
        if self.opset >= 13:
            self.put(op, [self.at, self.constant(np.array(axes))], like)
        else:
            self.put(op, [self.at], like, axes=axes)

    # --- steps ------------------------------------------------------------------------------------------------------

    def matmul(self) -> None:
        """A product from the right or the left; sometimes one over the samples."""
        n = int(self.rng.integers(1, 5))
        if self.rng.random() < 0.7 or len(self.shape) < 2:
            W = self.array(self.shape[-1], n) if self.rng.random() < 0.9 else self.array(self.shape[-1])
            self.put("MatMul", [self.at, self.constant(W)], self.now() @ W)
        else:
            W = self.array(n, self.shape[-2])
            self.put("MatMul", [self.constant(W), self.at], W @ self.now())

    def gemm(self) -> None:
        """A Gemm with all that it has."""
        if len(self.shape) != 2:
            raise ValueError
        flips = [int(self.rng.random() < 0.2), int(self.rng.random() < 0.4)]
        A, n = self.now(), int(self.rng.integers(1, 5))
        left = self.rng.random() < 0.85
        flip = flips[0 if left else 1]
        A = A.T if flip else A
        W = self.array(A.shape[1], n) if left else self.array(n, A.shape[0])
        made = A @ W if left else W @ A
        stored = W.T if flips[1 if left else 0] else W
        operands = [self.at, self.constant(stored)][:: 1 if left else -1]
        if self.rng.random() < 0.8:
            shapes = [(made.shape[1],), (1, made.shape[1]), (1,), (), (made.shape[0], 1), made.shape]
            operands.append(self.constant(self.array(*shapes[self.rng.choice(6, p=[0.6, 0.1, 0.1, 0.1, 0.05, 0.05])])))
        options = {"alpha": 0.5} if self.rng.random() < 0.2 else {}
        options |= {"beta": float(self.rng.choice([0.0, 2.0]))} if self.rng.random() < 0.2 else {}
        self.put("Gemm", operands, made, transA=flips[0], transB=flips[1], **options)

    def affine(self) -> None:
        """Add, Sub, Mul or Div with a constant of some shape that can be broadcast."""
        shape = [n if n != MANY or self.rng.random() < 0.03 else 1 for n in self.shape]
        shape = [1 if self.rng.random() < 0.2 else n for n in shape]
        shape = shape[self.rng.integers(0, len(shape) + 1) :] if self.rng.random() < 0.4 else shape
        if self.rng.random() < 0.1:
            shape = [int(self.rng.integers(1, 4)), *shape]
        c = self.array(*shape)
        operands = [self.at, self.constant(c)][:: 1 if self.rng.random() < 0.8 else -1]
        self.put(str(self.rng.choice(["Add", "Sub", "Mul", "Div"])), operands, self.now() + c)

    def activation(self) -> None:
        """An activation of one node or two."""
        x, kind = self.at, self.rng.integers(0, 13)
        like = self.now()
        plain = ["Relu", "Sigmoid", "Tanh", "Softplus", "Identity", "Neg", "Selu", "HardSigmoid"]
        if kind < len(plain):
            self.put(plain[kind], [x], like)
        elif kind == 8:
            self.put("LeakyRelu", [x], like, alpha=0.25)
        elif kind == 9:
            self.put("Sigmoid", [x], like)
            self.put("Mul", [x, self.at], like)
        elif kind == 10:
            bounds = [[self.constant(np.array(0.0))], [self.constant(np.array(0.0)), self.constant(np.array(6.0))]]
            self.put("Clip", [x, *bounds[self.rng.integers(0, 2)]], like)
        elif kind == 11:
            self.put("Max", [x, self.constant(np.array(0.0))], like)
        else:
            slope = self.array(*self.shape[-1:]) if self.rng.random() < 0.3 else np.array([0.2])
            self.put("PRelu", [x, self.constant(slope)], like)

    def softmax(self) -> None:
        """A softmax over one of the axes."""
        axis = int(self.rng.integers(-len(self.shape), len(self.shape)))
        self.put("Softmax" if self.rng.random() < 0.95 else "LogSoftmax", [self.at], self.now(), axis=axis)

    def squeeze(self) -> None:
        """Squeeze of axes of size 1, of one that has another, or of all that have."""
        ones = [i for i, n in enumerate(self.shape) if n == 1]
        chance = self.rng.random()
        if chance < 0.1:
            self.put("Squeeze", [self.at], self.now().squeeze())
        elif chance < 0.15:
            self.axes("Squeeze", [int(self.rng.integers(0, len(self.shape)))], self.now())
        else:
            axes = [i if self.rng.random() < 0.5 else i - len(self.shape) for i in ones if self.rng.random() < 0.7]
            if not axes:
                raise ValueError
            self.axes("Squeeze", axes, self.now().squeeze(tuple(axes)))

    def unsqueeze(self) -> None:
        """Another axis or two, anywhere."""
        rank = len(self.shape) + int(self.rng.integers(1, 3))
        if rank > 5:
            raise ValueError
        axes = [int(i) for i in self.rng.choice(rank, size=rank - len(self.shape), replace=False)]
        axes = [i - rank if self.rng.random() < 0.3 else i for i in axes]
        self.axes("Unsqueeze", axes, np.expand_dims(self.now(), tuple(axes)))

    def transpose(self) -> None:
        """Axes in another order."""
        perm = [int(i) for i in self.rng.permutation(len(self.shape))]
        given = {} if self.rng.random() < 0.2 else {"perm": perm}
        self.put("Transpose", [self.at], self.now().transpose(given.get("perm")), **given)

    def flatten(self) -> None:
        """A Flatten at any axis."""
        axis = int(self.rng.choice([1, 1, *range(len(self.shape) + 1), -1]))
        rows = int(np.prod(self.shape[:axis]))
        self.put("Flatten", [self.at], self.now().reshape(rows, -1), axis=axis)

    def target(self) -> list[int]:
        """Sizes for a Reshape: likely and unlikely ones."""
        rest = [n for n in self.shape if n != MANY]
        size, first = int(np.prod(rest)), int(self.rng.choice([-1, -1, 0, MANY if self.fixed else 0, 1]))
        ways: list[list[int]] = [[size], rest, rest[::-1], [1, size], [size, 1], [-1], [1, -1], [2, size // 2], [-1, 1]]
        rest = ways[self.rng.integers(0, len(ways))]
        where = int(self.rng.integers(0, len(rest) + 1)) if self.rng.random() < 0.2 else 0
        return [*rest[:where], first, *rest[where:]]

    def reshape(self) -> None:
        """A Reshape to constant sizes."""
        target = self.target()
        sizes = [self.shape[i] if n == 0 else n for i, n in enumerate(target)]
        self.put("Reshape", [self.at, self.constant(np.array(target))], self.now().reshape(sizes))

    def view(self) -> None:
        """A Reshape to sizes of which one is that of an axis: the first, most often."""
        axis = 0 if self.rng.random() < 0.8 else int(self.rng.integers(0, len(self.shape)))
        x, n, like = self.at, self.shape[axis], self.now()
        rest = int(self.rng.choice([-1, like.size // n]))
        made = like.reshape((n, rest))
        self.put("Shape", [x], ())
        self.put("Gather", [self.at, self.constant(np.array(axis))], ())
        self.axes("Unsqueeze", [0], ())
        self.put("Concat", [self.at, self.constant(np.array([rest]))], (), axis=0)
        self.put("Reshape", [x, self.at], made)

    def concat(self) -> None:
        """``[1 - p, p]``, or the value twice."""
        x, axis = self.at, int(self.rng.integers(-len(self.shape), len(self.shape)))
        like = np.concatenate([self.now(), self.now()], axis)
        if self.rng.random() < 0.8:
            self.put("Sigmoid", [x], self.now())
            x = self.at
            self.put("Sub", [self.constant(np.array([1.0])), x], self.now())
        self.put("Concat", [self.at, x], like, axis=axis)

    def normalize(self) -> None:
        """A BatchNormalization along the second axis."""
        n = self.shape[1]
        parts = [self.array(n), self.array(n), self.array(n), abs(self.array(n))]
        self.put("BatchNormalization", [self.at, *map(self.constant, parts)], self.now(), epsilon=0.01)

    def branch(self) -> None:
        """A sum of two values, which is a chain only by chance."""
        other = list(self.values)[self.rng.integers(0, len(self.values))]
        like = self.now() + np.zeros(self.values[other])
        self.put(str(self.rng.choice(["Add", "Mul", "Max"])), [self.at, other], like)

    def reduce(self) -> None:
        """The largest along an axis, as in a softmax that is written out."""
        axis = int(self.rng.integers(0, len(self.shape)))
        x, like = self.at, self.now()
        self.put("ReduceMax", [x], like.max(axis, keepdims=True), axes=[axis])
        if self.opset > 17:
            raise ValueError
        self.put("Sub", [x, self.at], like)
        self.put("Exp", [self.at], like)
        if self.opset < 13:
            e = self.at
            self.put("ReduceSum", [e], like.sum(axis, keepdims=True), axes=[axis])
            self.put("Div", [e, self.at], like)

    # --- what comes of it -------------------------------------------------------------------------------------------

    def model(self) -> Any:
        """Return the model."""
        axis = self.input.index(MANY)
        shape = [n if i != axis else (MANY if self.fixed else "m") for i, n in enumerate(self.input)]
        nodes: list[Any] = []
        wanted = {self.at}  # a step that failed may have left nodes that nothing needs
        for node in reversed(self.nodes):
            if node.output[0] in wanted:
                wanted |= set(node.input)
                nodes.insert(0, node)
        graph = helper.make_graph(
            nodes, "g", [helper.make_tensor_value_info("x", 1, shape)],
            [helper.make_tensor_value_info(self.at, 1, None)],
            [numpy_helper.from_array(x, name) for name, x in self.constants.items()],
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


STEPS: list[Callable[[Draw], None]] = [
    Draw.matmul, Draw.gemm, Draw.affine, Draw.activation, Draw.softmax, Draw.squeeze, Draw.unsqueeze, Draw.transpose,
    Draw.flatten, Draw.reshape, Draw.view, Draw.concat, Draw.normalize, Draw.branch, Draw.reduce,
]  # fmt: skip
CHANCES = np.array([4, 5, 4, 4, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1]) / 36


def outputs(session: Any, X: np.ndarray, shape: list[int], columns: bool) -> np.ndarray:
    """Return what ONNX Runtime makes of rows, in the shape that the graph gives it."""
    given = X.T if columns else X.reshape(len(X), *shape)
    found: np.ndarray = session.run(None, {"x": np.ascontiguousarray(given)})[0]
    return found


def hold(seed: int, folder: Path) -> str:
    """Return whether a graph was read or refused.

    Raises
    ------
    Mistaken
        If it was read, and ONNX Runtime refuses it or computes something else.
    """
    draw = Draw(seed)
    content = draw.model()
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
    sample, columns = [n for n in draw.input if n != MANY], draw.columns
    counts = COUNTS[:1] if draw.fixed else COUNTS
    if draw.fixed and len(sample) == 1 and net.inputs == MANY:  # either axis may be that of the samples
        counts, sample, columns = (sample[0],), [MANY], not columns
    elif net.inputs != np.prod(sample):
        raise Mistaken(f"seed {seed}: {net.inputs} inputs, and samples of shape {sample}")
    axis = None
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for count in counts:
            X = np.random.default_rng(seed).normal(size=(count, net.inputs)).astype("float32")
            found = outputs(session, X, sample, columns)
            axes = [i for i, n in enumerate(found.shape) if n == count] if axis is None else [axis]
            ours = net.predict(X.T).T
            if not axes or found.size != ours.size:
                raise Mistaken(f"seed {seed}: outputs of shape {found.shape}, here {ours.shape}")
            off = {i: np.abs(ours - np.moveaxis(found, i, 0).reshape(count, -1)).max() for i in axes}
            axis = min(off, key=off.__getitem__)
            if not off[axis] <= TOLERANCE * max(1, np.abs(found).max()):
                raise Mistaken(f"seed {seed}: outputs are off by {off[axis]:.3g} for {count} samples")
    except Exception as error:
        if isinstance(error, Mistaken) or type(error).__module__.partition(".")[0] != "onnxruntime":
            raise
        raise Mistaken(f"seed {seed}: ONNX Runtime refuses it: {str(error)[:300]}") from None
    return "read"


def main() -> int:
    """Try many graphs, say how many were read, and return whether one was mistaken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--graphs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first of them")
    args = parser.parse_args()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(args.seed, args.seed + args.graphs):
            try:
                counts[hold(seed, Path(folder))] += 1
            except Mistaken as error:
                counts["mistaken"] += 1
                sys.stdout.write(f"{error}\n")
    sys.stdout.write(json.dumps(counts) + "\n")
    return int(counts["mistaken"] > 0)


if __name__ == "__main__":
    sys.exit(main())
