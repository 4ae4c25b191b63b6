"""Fuzzing target: ONNX files, read by ``dn.from_onnx``; it is defined only if the extra ``onnx`` is installed."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from fuzzing import NUMBERS, WORDS, damaged, target
from hypothesis import strategies as st

import deepnotes as dn

if find_spec("onnx"):
    import hostile
    from onnx import ModelProto

    from deepnotes.network.formats.chain import Chain
    from deepnotes.network.formats.onnx_writing import to_onnx

    VALID = to_onnx(Chain.of(hostile.network()))
    OPS = [
        "Gemm", "MatMul", "Add", "Sub", "Mul", "Div", "Relu", "Identity", "Cast", "Reshape", "Flatten", "Transpose",
        "Softmax", "Squeeze", "Constant", "Neg", "Sigmoid", "Concat", "Where", "Pow", "LeakyRelu", "Elu", "Loop", "Max",
        "Unsqueeze", "Shape", "Gather", "Expand", "Clip", "Selu", "PRelu", "BatchNormalization", "ReduceMax",
    ]  # fmt: skip

    NODE_CHANGES = ["op", "inputs", "outputs", "attribute", "remove", "copy"]
    TENSOR_CHANGES = ["dims", "type", "data"]
    ATTRIBUTES = ["axis", "axes", "transA", "alpha", "beta", "to", "perm", "value", "epsilon", "keepdims"]
    INTEGERS = st.integers(-(2**31), 2**31 - 1) | st.sampled_from([x for x in NUMBERS if abs(x) < 2**62])

    def alter_node(draw: st.DrawFn, graph: Any, names: list[str], change: str) -> None:
        """Change the operator, operands (to some of `names`) or an attribute of a random node, or copy or remove it."""
        node = graph.node[draw(st.integers(0, len(graph.node) - 1))]
        if change == "op":
            node.op_type = draw(st.sampled_from(OPS))
        elif change == "inputs":
            node.input[:] = draw(st.lists(st.sampled_from(names), max_size=4))
        elif change == "outputs":
            node.output[:] = draw(st.lists(st.sampled_from(names), max_size=2))
        elif change == "attribute":
            attribute = node.attribute.add(name=draw(st.sampled_from(ATTRIBUTES)))
            attribute.type = draw(st.integers(0, 8))
            attribute.i, attribute.f = draw(INTEGERS), draw(st.floats(width=32))
            attribute.ints.extend(draw(st.lists(INTEGERS, max_size=3)))
        elif change == "remove":
            graph.node.remove(node)
        else:
            graph.node.insert(draw(st.integers(0, len(graph.node))), node)

    def alter_tensor(draw: st.DrawFn, tensor: Any, change: str) -> None:
        """Change the shape, the data type or the data of a tensor."""
        if change == "dims":
            tensor.dims[:] = draw(st.lists(INTEGERS, max_size=3))
        elif change == "type":
            tensor.data_type = draw(st.integers(0, 20))
        else:
            tensor.raw_data = draw(st.binary(max_size=100))

    @st.composite
    def altered(draw: st.DrawFn) -> bytes:
        """Return the valid file with changed nodes, tensors or metadata; the result is valid protobuf."""
        content = ModelProto.FromString(VALID)
        graph = content.graph
        names = [t.name for t in graph.initializer] + [node.output[0] for node in graph.node] + ["X", "", "nowhere"]
        for _ in range(draw(st.integers(1, 4))):
            change = draw(st.sampled_from([*NODE_CHANGES, *TENSOR_CHANGES, "metadata"]))
            if change in NODE_CHANGES:
                alter_node(draw, graph, names, change)
            elif change in TENSOR_CHANGES:
                alter_tensor(draw, graph.initializer[draw(st.integers(0, len(graph.initializer) - 1))], change)
            else:
                entry = content.metadata_props[0]
                entry.value = draw(st.sampled_from([w for w in WORDS if w != "\ud800"])) or draw(st.text(max_size=9))
            if not graph.node:
                break
        return bytes(content.SerializeToString())

    files = st.one_of(st.just(VALID), damaged(VALID), altered(), altered().flatmap(damaged), st.binary(max_size=200))

    @target("onnx", files, ".onnx")
    def read(path: Path) -> None:
        """Read a network; it must be able to predict and to be saved."""
        net = dn.from_onnx(path, backend="numpy")
        if path.read_bytes() == VALID:
            np.testing.assert_array_equal(net.flat(), hostile.network().flat())
        assert net.flat().nbytes <= 2 * path.stat().st_size
        assert net.predict(np.ones((net.inputs, 2), np.float32)).shape == (net.outputs, 2)
        net.save(path.with_suffix(".copy"))
