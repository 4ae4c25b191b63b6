"""Export of networks and ensembles to ONNX files."""

import json
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from deepnotes.datasets.encoding import Encoder
from deepnotes.equations.ops import Ops
from deepnotes.network.formats import onnx_encoding
from deepnotes.network.formats.chain import Chain, EmbeddingLink, Exportable, FeatureLink, ShortcutLink
from deepnotes.network.formats.check_vectors import Vectors
from deepnotes.network.formats.containers import as_path
from deepnotes.network.formats.tracing import KERNELS, FormulaTrace, Trace, Value
from deepnotes.nn.activations import Activation
from deepnotes.nn.layers import Gate, PReLU
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


def to_onnx(chain: Exportable, encoder: Encoder | None = None) -> bytes:
    """Return the bytes of an ONNX file for `chain`, checked by ``onnx.checker``.

    The input ``X`` has shape (m, n[0]), and the output ``A`` has shape (m, n[L]). Both have the chain's dtype, but
    outputs that are scaled to the units of a target are in double precision. Each metadata entry is written as JSON.
    With an encoder, the inputs are its columns instead: see :mod:`deepnotes.network.formats.onnx_encoding`.

    Raises
    ------
    ModelFileError
        If the metadata cannot be written as JSON, or the file would be too large for the format.
    MissingExtraError
    """
    onnx = import_optional("onnx", "onnx", "an ONNX file")
    trace, A = trace_chain(chain, encoder)
    output = output_name(encoder)
    for node in trace.nodes:  # the last node need not be the one that computes A
        for names in (node.input, node.output):
            if A.name in names:
                names[:] = [output if name == A.name else name for name in names]
    size = sum(x.nbytes for x in trace.constants.values())
    if size > LIMIT:
        raise ModelFileError(f"the parameters have {size:,} bytes, but an ONNX file must be smaller than 2 GiB")
    model = _model(onnx, chain, trace, A.dtype, encoder)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def output_name(encoder: Encoder | None = None) -> str:
    """Return the name of the output, which no column may have."""
    name = OUTPUT
    while encoder is not None and name in encoder.names:
        name += "_"
    return name


def trace_chain(chain: Exportable, encoder: Encoder | None = None) -> tuple[Trace, Any]:
    """Return the trace of the computation of a chain's outputs from its inputs, and the traced outputs."""
    trace = Trace(chain.dtype)
    X = Value(trace, INPUT, np.dtype(chain.dtype)) if encoder is None else onnx_encoding.encode(trace, encoder)
    own = "" if encoder is None else "network/"  # so that no name is that of a column
    parts = [_trace_member(trace, member, own + (prefix and f"{prefix}/"), X) for prefix, member in chain.members]
    trace.scope = "mean/"
    A = chain.combine(parts)
    if chain.target is not None:
        trace.scope = "target/"
        A = trace.cast(A, "float64") * chain.target.scale + chain.target.mean
    return trace, A


def _trace_member(trace: Trace, chain: Chain, prefix: str, A: Any) -> Any:
    """Trace the computation of a chain's outputs from the inputs A, before they are scaled to the units of a target.

    The names of all nodes and constants begin with `prefix`.
    """
    ops = Ops(trace, KERNELS)  # type: ignore[arg-type]
    formula_ops = Ops(FormulaTrace(trace), {})  # type: ignore[arg-type]
    if chain.standardizer is not None:
        trace.scope = f"{prefix}standardize/"
        constants = (
            trace.constant(prefix + name, x.reshape(1, -1))
            for name, x in (("input_mean", chain.standardizer.mean), ("input_scale", chain.standardizer.scale))
        )
        A = ops.standardize(trace.cast(A, "float64"), *constants)
    A = trace.cast(A, chain.dtype)
    inputs = []
    for index, (number, link) in enumerate(chain.numbered, 1):
        trace.scope = f"{prefix}layer{index}/"
        inputs.append(A)
        if isinstance(link, ShortcutLink):
            A = A + inputs[link.source]
            continue
        parameters: list[Any] = [
            trace.constant(
                f"{prefix}{key}{number}", x if key == "W" or isinstance(link, EmbeddingLink) else x.reshape(-1)
            )
            for key, x in link.parameters.items()
        ]
        if isinstance(link, EmbeddingLink):
            A.shape = (link.inputs,)
            A = _embed(trace, link, A, parameters)
            continue
        if isinstance(link, FeatureLink):
            A.shape = (link.inputs,)
            if type(link.layer) is PReLU and chain.dtype == "float32":  # ONNX Runtime 1.15 has no PRelu of doubles
                A = trace.node("PRelu", A, *parameters)
            elif isinstance(link.layer, Gate) and type(link.layer.g) is Activation:
                V, G = A[: link.outputs, :], A[link.outputs :, :]
                A = V * link.layer.g.forward(ops, G)  # as in a Dense, so that the activation may be a single node
            else:
                A = link.forward(formula_ops, A, parameters)
            continue
        W, b = parameters
        Z: Any = ops.linear(W, A, b)
        Z.shape = (len(link.W),)
        A = link.g.forward(ops if type(link.g) is Activation else formula_ops, Z)
    return A


def _embed(trace: Trace, link: EmbeddingLink, A: Any, tables: list[Any]) -> Any:
    """Return the outputs of an embedding: slices of the inputs, and the rows of the tables by Gather nodes."""
    parts = [A[columns.start : columns.stop, :] for columns in link.layer.numeric(link.inputs)]
    axis = trace.constant("features", np.array([-1]))
    for t, E in zip(link.layer, tables, strict=True):
        indices = trace.node("Squeeze", trace.cast(A[t.column : t.column + 1, :], "int64"), axis, result="int64")
        parts.append(trace.node("Gather", E, indices, axis=0, result=E.dtype.name))
    return trace.node("Concat", *parts, axis=-1)


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


def run(content: bytes, inputs: Vectors | dict[str, np.ndarray]) -> tuple[np.ndarray, str]:
    """Run an ONNX file on inputs, by name, or on those of test vectors.

    Return the outputs, and the name and version of ONNX Runtime.

    Raises
    ------
    MissingExtraError
    """
    runtime = import_optional("onnxruntime", "onnx", "running an ONNX file")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {INPUT: inputs.X} if isinstance(inputs, Vectors) else inputs)
    return outputs, f"onnxruntime {runtime.__version__}"


def _model(onnx: Any, chain: Exportable, trace: Trace, result: np.dtype[Any], encoder: Encoder | None) -> Any:
    """Return the ONNX model of a traced chain; its outputs have the dtype `result`."""
    helper = onnx.helper
    kinds = {name: helper.np_dtype_to_tensor_dtype(np.dtype(name)) for name in ("float32", "float64")}
    if encoder is None:
        inputs = [helper.make_tensor_value_info(INPUT, kinds[chain.dtype], [SAMPLES, chain.inputs])]
    else:
        text = onnx.TensorProto.STRING
        inputs = [
            helper.make_tensor_value_info(f.name, text if f.is_text else kinds["float64"], [SAMPLES, 1])
            for f in encoder.features
        ]
    used = {name for node in trace.nodes for name in node.input}
    graph = helper.make_graph(
        trace.nodes,
        "deepnotes",
        inputs,
        [helper.make_tensor_value_info(output_name(encoder), kinds[result.name], [SAMPLES, chain.outputs])],
        [
            onnx.numpy_helper.from_array(np.ascontiguousarray(x), name)
            for name, x in trace.constants.items()
            if name in used
        ],
    )
    domains = [("", OPSET)]
    if any(node.domain == onnx_encoding.DOMAIN for node in trace.nodes):
        domains.append((onnx_encoding.DOMAIN, onnx_encoding.VERSION))
    described = "X holds one sample in each row" if encoder is None else "each input is a column, of shape (m, 1)"
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(*domain) for domain in domains],
        ir_version=IR_VERSION,
        producer_name="deepnotes",
        producer_version=__version__,
        doc_string=f"{chain}; {described}",
    )
    try:
        texts = {str(key): json.dumps(value, allow_nan=False) for key, value in chain.output_metadata().items()}
        helper.set_model_props(model, texts)
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelFileError(f"metadata: wanted JSON values only ({brief(error)})") from None
    return model
