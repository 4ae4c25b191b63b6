"""Target: ONNX files, as ``dn.from_onnx`` reads them; without the extra ``onnx`` there is none."""

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

    GOOD = to_onnx(Chain.of(hostile.network()))
    OPS = [
        "Gemm", "MatMul", "Add", "Sub", "Mul", "Div", "Relu", "Identity", "Cast", "Reshape", "Flatten", "Transpose",
        "Softmax", "Squeeze", "Constant", "Neg", "Sigmoid", "Concat", "Where", "Pow", "LeakyRelu", "Elu", "Loop", "Max",
        "Unsqueeze", "Shape", "Gather", "Expand", "Clip", "Selu", "PRelu", "BatchNormalization", "ReduceMax",
    ]  # fmt: skip

    WAYS = ["op", "input", "output", "attribute", "dims", "type", "raw", "gone", "copy", "text"]
    ATTRIBUTES = ["axis", "axes", "transA", "alpha", "beta", "to", "perm", "value", "epsilon", "keepdims"]

    @st.composite
    def altered(draw: st.DrawFn) -> bytes:
        """Return the good file with other operations, operands, attributes, shapes or numbers; it can be parsed."""
        content = ModelProto.FromString(GOOD)
        graph = content.graph
        names = [t.name for t in graph.initializer] + [node.output[0] for node in graph.node] + ["X", "", "nowhere"]
        for _ in range(draw(st.integers(1, 4))):
            node = graph.node[draw(st.integers(0, len(graph.node) - 1))]
            tensor = graph.initializer[draw(st.integers(0, len(graph.initializer) - 1))]
            small = st.integers(-(2**31), 2**31 - 1) | st.sampled_from([x for x in NUMBERS if abs(x) < 2**62])
            do = draw(st.sampled_from(WAYS))
            if do == "op":
                node.op_type = draw(st.sampled_from(OPS))
            elif do == "input":
                node.input[:] = draw(st.lists(st.sampled_from(names), max_size=4))
            elif do == "output":
                node.output[:] = draw(st.lists(st.sampled_from(names), max_size=2))
            elif do == "attribute":
                made: Any = node.attribute.add(name=draw(st.sampled_from(ATTRIBUTES)))
                made.type = draw(st.integers(0, 8))
                made.i, made.f = draw(small), draw(st.floats(width=32))
                made.ints.extend(draw(st.lists(small, max_size=3)))
            elif do == "dims":
                tensor.dims[:] = draw(st.lists(small, max_size=3))
            elif do == "type":
                tensor.data_type = draw(st.integers(0, 20))
            elif do == "raw":
                tensor.raw_data = draw(st.binary(max_size=100))
            elif do == "gone":
                graph.node.remove(node)
                if not graph.node:
                    break
            elif do == "copy":
                graph.node.insert(draw(st.integers(0, len(graph.node))), node)
            else:
                entry = content.metadata_props[0]
                entry.value = draw(st.sampled_from([w for w in WORDS if w != "\ud800"])) or draw(st.text(max_size=9))
        return bytes(content.SerializeToString())

    files = st.one_of(st.just(GOOD), damaged(GOOD), altered(), altered().flatmap(damaged), st.binary(max_size=200))

    @target("onnx", files, ".onnx")
    def read(path: Path) -> None:
        """Read a network: the original one, if the file is; in any case one that predicts, and that can be saved."""
        net = dn.from_onnx(path, backend="numpy")
        if path.read_bytes() == GOOD:
            np.testing.assert_array_equal(net.flat(), hostile.network().flat())
        assert net.flat().nbytes <= 2 * path.stat().st_size
        assert net.predict(np.ones((net.inputs, 2), np.float32)).shape == (net.outputs, 2)
        net.save(path.with_suffix(".copy"))
