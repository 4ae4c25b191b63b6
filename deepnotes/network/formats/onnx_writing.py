"""Export of networks and ensembles to ONNX files."""

import json
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from deepnotes.equations.ops import Ops
from deepnotes.network.formats.chain import Chain, Exportable, FeatureLink, ShortcutLink
from deepnotes.network.formats.check_vectors import Vectors
from deepnotes.network.formats.containers import as_path
from deepnotes.network.formats.tracing import KERNELS, FormulaTrace, Trace, Value
from deepnotes.nn.activations import Activation
from deepnotes.utils.atomic_files import replacing
from deepnotes.utils.errors import ModelFileError
from deepnotes.utils.extras import import_optional
from deepnotes.utils.version import __version__
from deepnotes.utils.wording import brief, reason

OPSET, IR_VERSION = 13, 7
"""The first versions with all operations that are used here; they date from 2020, and later runtimes can read them."""
INPUT, OUTPUT, SAMPLES = "X", "A", "m"
LIMIT = (1 << 31) - (1 << 20)
"""The maximum size of the parameters in bytes. A Protocol Buffers message, including the names and nodes, must be
smaller than 2 GiB."""


def to_onnx(chain: Exportable) -> bytes:
    """Return the bytes of an ONNX file for `chain`, checked by ``onnx.checker``.

    The input ``X`` has shape (m, n[0]), and the output ``A`` has shape (m, n[L]). Both have the chain's dtype, but
    outputs that are scaled to the units of a target are in double precision. Each metadata entry is written as JSON.

    Raises
    ------
    ModelFileError
        If the metadata cannot be written as JSON, or the file would be too large for the format.
    MissingExtraError
    """
    onnx = import_optional("onnx", "onnx", "an ONNX file")
    trace, A = trace_chain(chain)
    for node in trace.nodes:  # the last node need not be the one that computes A
        for names in (node.input, node.output):
            if A.name in names:
                names[:] = [OUTPUT if name == A.name else name for name in names]
    size = sum(x.nbytes for x in trace.constants.values())
    if size > LIMIT:
        raise ModelFileError(f"the parameters have {size:,} bytes, but an ONNX file must be smaller than 2 GiB")
    model = _model(onnx, chain, trace, A.dtype)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def trace_chain(chain: Exportable) -> tuple[Trace, Any]:
    """Return the trace of the computation of a chain's outputs from the input ``X``, and the traced outputs."""
    trace = Trace(chain.dtype)
    parts = [_trace_member(trace, member, prefix and f"{prefix}/") for prefix, member in chain.members]
    trace.scope = "mean/"
    A = chain.combine(parts)
    if chain.target is not None:
        trace.scope = "target/"
        A = trace.cast(A, "float64") * chain.target.scale + chain.target.mean
    return trace, A


def _trace_member(trace: Trace, chain: Chain, prefix: str) -> Any:
    """Trace the computation of a chain's outputs, before they are scaled to the units of a target.

    The names of all nodes and constants begin with `prefix`.
    """
    ops = Ops(trace, KERNELS)  # type: ignore[arg-type]
    formula_ops = Ops(FormulaTrace(trace), {})  # type: ignore[arg-type]
    A: Any = Value(trace, INPUT, np.dtype(chain.dtype))
    if chain.standardizer is not None:
        trace.scope = f"{prefix}standardize/"
        constants = (
            trace.constant(prefix + name, x.reshape(1, -1))
            for name, x in (("input_mean", chain.standardizer.mean), ("input_scale", chain.standardizer.scale))
        )
        A = trace.cast(ops.standardize(trace.cast(A, "float64"), *constants), chain.dtype)
    inputs = []
    for index, (number, link) in enumerate(chain.numbered, 1):
        trace.scope = f"{prefix}layer{index}/"
        inputs.append(A)
        if isinstance(link, ShortcutLink):
            A = A + inputs[link.source]
            continue
        parameters: list[Any] = [
            trace.constant(f"{prefix}{key}{number}", x if key == "W" else x.reshape(-1))
            for key, x in link.parameters.items()
        ]
        if isinstance(link, FeatureLink):
            A.shape = (link.inputs,)
            A = link.forward(formula_ops, A, parameters)
            continue
        W, b = parameters
        Z: Any = ops.linear(W, A, b)
        Z.shape = (len(link.W),)
        A = link.g.forward(ops if type(link.g) is Activation else formula_ops, Z)
    return A


def write(path: str | PathLike[str], content: bytes | str) -> Path:
    """Write a file atomically, and return its path.

    Raises
    ------
    ModelFileError
        If the file cannot be written.
    """
    path = as_path(path)
    try:
        with replacing(path, text=isinstance(content, str)) as file:
            file.write(content)
    except (OSError, ValueError) as error:  # a NUL in the path is a ValueError
        raise ModelFileError(f"cannot write {path}: {reason(error)}") from None
    return path


def run(content: bytes, vectors: Vectors) -> tuple[np.ndarray, str]:
    """Run an ONNX file on the inputs of test vectors; return the outputs and the name and version of ONNX Runtime.

    Raises
    ------
    MissingExtraError
    """
    runtime = import_optional("onnxruntime", "onnx", "running an ONNX file")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {INPUT: vectors.X})
    return outputs, f"onnxruntime {runtime.__version__}"


def _model(onnx: Any, chain: Exportable, trace: Trace, result: np.dtype[Any]) -> Any:
    """Return the ONNX model of a traced chain; its outputs have the dtype `result`."""
    helper = onnx.helper
    kinds = {name: helper.np_dtype_to_tensor_dtype(np.dtype(name)) for name in ("float32", "float64")}
    used = {name for node in trace.nodes for name in node.input}
    graph = helper.make_graph(
        trace.nodes,
        "deepnotes",
        [helper.make_tensor_value_info(INPUT, kinds[chain.dtype], [SAMPLES, chain.inputs])],
        [helper.make_tensor_value_info(OUTPUT, kinds[result.name], [SAMPLES, chain.outputs])],
        [
            onnx.numpy_helper.from_array(np.ascontiguousarray(x), name)
            for name, x in trace.constants.items()
            if name in used
        ],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="deepnotes",
        producer_version=__version__,
        doc_string=f"{chain}; X holds one sample in each row",
    )
    try:
        texts = {str(key): json.dumps(value, allow_nan=False) for key, value in chain.output_metadata().items()}
        helper.set_model_props(model, texts)
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelFileError(f"metadata: wanted JSON values only ({brief(error)})") from None
    return model
