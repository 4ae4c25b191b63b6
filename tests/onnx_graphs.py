"""Hand-made ONNX models for the tests of ``from_onnx``."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

KINDS = {"float32": onnx.TensorProto.FLOAT, "float64": onnx.TensorProto.DOUBLE, "int64": onnx.TensorProto.INT64}

Step = tuple[Any, ...]


def chain(
    *steps: Step, shape: Any = ("m", 3), dtype: str = "float32", opset: int = 17, inputs: str = "float32"
) -> onnx.ModelProto:
    """Return a model in which the input of each node is the output of the previous node.

    Parameters
    ----------
    *steps : (str, ...) or (str, ..., dict)
        An operation, its operands and its attributes. Arrays become initializers, and ``...`` is the output of the
        previous node; if ``...`` is not given, this output is the first operand.
    shape : tuple
        The shape of the input.
    dtype, inputs : str
        The dtype of floats in initializers, and the dtype of the input.
    opset : int
        The version of the ONNX operators.
    """
    nodes, constants, last = [], {}, "in"
    for i, (op, *operands) in enumerate(steps):
        attributes = operands.pop() if operands and isinstance(operands[-1], dict) else {}
        if not any(x is ... for x in operands):
            operands.insert(0, ...)
        names = []
        for j, x in enumerate(operands):
            if x is ...:
                names.append(last)
                continue
            x = np.asarray(x)
            constants[f"c{i}_{j}"] = x.astype(dtype) if x.dtype.kind == "f" else x
            names.append(f"c{i}_{j}")
        domain, _, op = op.rpartition(".")
        nodes.append(helper.make_node(op, names, [f"v{i}"], name=f"n{i}", domain=domain, **attributes))
        last = f"v{i}"
    return model(nodes, constants, last, shape, inputs, opset)


def model(
    nodes: list[Any], constants: dict[str, Any], output: str, shape: Any = ("m", 3), inputs: str = "float32",
    opset: int = 17,
) -> onnx.ModelProto:  # fmt: skip
    """Return a model with these nodes; its input ``in`` has the given shape."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("in", KINDS[inputs], shape)],
        [helper.make_tensor_value_info(output, KINDS["float32"], None)],
        [numpy_helper.from_array(np.asarray(x), name) for name, x in constants.items()],
    )
    domains = sorted({node.domain for node in nodes} - {""})
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def run(content: onnx.ModelProto, X: np.ndarray, output: str | None = None) -> np.ndarray:
    """Run a model in ONNX Runtime and return its output."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # ONNX Runtime 1.21 fuses a Transpose without effect with the product after it, and gives wrong results.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content.SerializeToString(), options, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None if output is None else [output], {session.get_inputs()[0].name: X})[0]
    return result


def write(content: onnx.ModelProto, folder: Path) -> Path:
    """Write a model and return its path."""
    path = folder / "model.onnx"
    path.write_bytes(content.SerializeToString())
    return path
