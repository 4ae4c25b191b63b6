"""Reading of ONNX files: the nodes and constants from which one output is computed.

Files are not trusted. The data of a tensor must have the size that its shape requires, and external data must be in the
same directory. To limit time and memory, the numbers of nodes and axes are limited.
"""

import json
import math
import os
import stat
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deepnotes.network.formats.containers import strict_json
from deepnotes.network.formats.external_data import ExternalData
from deepnotes.network.formats.normal_forms import attributes_of
from deepnotes.network.formats.onnx_shapes import RANK
from deepnotes.utils.errors import ModelFileError
from deepnotes.utils.extras import import_optional
from deepnotes.utils.wording import brief, join_names, reason

MAX_NODES = 10_000
"""The largest number of nodes in a file; a hundred dense layers have about a thousand."""
MAX_BYTES = (1 << 31) - 1
"""The largest size of a file in bytes."""
FOLDING = 1 << 20, 8
"""Computations with constants may produce at most this number of bytes plus this multiple of the size of the file."""
MIN_OPSET = 7
"""The first opset in which operands are broadcast as in NumPy."""
ATTRIBUTE_TYPES = {
    "alpha": "FLOAT", "allowzero": "INT", "approximate": "STRING", "axes": "INTS", "axis": "INT", "beta": "FLOAT",
    "classlabels_int64s": "INTS", "classlabels_ints": "INTS", "classlabels_strings": "STRINGS",
    "coefficients": "FLOATS", "end": "INT", "ends": "INTS", "epsilon": "FLOAT", "gamma": "FLOAT",
    "intercepts": "FLOATS", "keepdims": "INT", "max": "FLOAT", "min": "FLOAT", "norm": "STRING", "num_outputs": "INT",
    "offset": "FLOATS", "perm": "INTS", "post_transform": "STRING", "scale": "FLOATS", "shape": "INTS",
    "spatial": "INT", "split": "INTS", "start": "INT", "starts": "INTS", "targets": "INT", "to": "INT",
    "training_mode": "INT", "transA": "INT", "transB": "INT", "value": "TENSOR", "value_float": "FLOAT",
    "value_floats": "FLOATS", "value_int": "INT", "value_ints": "INTS",
}  # fmt: skip
"""The types of the attributes that are read, by name; an attribute has the same type in all operations."""
UNBOUNDED = {"min", "max", "value_float", "value_floats"}
"""Attributes that may be infinite; an infinite `min` or `max` has no effect."""
DEFAULT = {"", "ai.onnx"}
"""The names of the default domain of operations."""
ML = "ai.onnx.ml"
"""The domain of machine learning operations, such as LinearClassifier."""


class Node(NamedTuple):
    """One operation in a graph."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    name: str

    def __str__(self) -> str:
        return f"node {brief(repr(self.name or self.outputs[0]))} ({brief(self.op)})"


class Graph(NamedTuple):
    """The part of a graph from which one output is computed.

    Attributes
    ----------
    nodes : list of Node
        The nodes, in the order in which they run, without those that depend only on constants.
    constants : dict of str to ndarray
        The tensors in the file and the results of nodes that depend only on constants, by name.
    input, output : str
        The names of the input and the output.
    sizes : tuple of int or None
        The shape of the input, with 0 for unknown sizes; None if the file does not specify it.
    dtype : str
        The dtype of the input.
    classes : list or None
        The names of the classes, if the file has them.
    metadata : dict of str to JSON values
    opset : int
        The version of the operations.
    bytes : int
        The total size of the file and of the data files that were read.
    """

    nodes: list[Node]
    constants: dict[str, np.ndarray]
    input: str
    output: str
    sizes: tuple[int, ...] | None
    dtype: str
    classes: list[Any] | None
    metadata: dict[str, Any]
    opset: int
    bytes: int


def read(path: Path, output: str | None = None) -> Graph:
    """Return the graph for one output of a file; `output` is its name, required if there are several numeric outputs.

    Raises
    ------
    ModelFileError
        If the file cannot be read, or is not a complete ONNX file with one input.
    """
    onnx = import_optional("onnx", "onnx", "reading an ONNX file")
    content = _read_bytes(path)
    try:
        model, size = onnx.ModelProto.FromString(content), len(content)
        del content
        return _Reader(onnx, model, size, path.parent).graph(output)
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from None
    except MemoryError:
        raise ModelFileError(f"{path} has {path.stat().st_size:,} bytes, which do not fit into memory") from None
    except (_decode_error(), UnicodeError) as error:
        raise ModelFileError(f"{path} is truncated, corrupted or not an ONNX file ({brief(error)})") from None


def _decode_error() -> type[Exception]:
    """Return the class of the errors that Protocol Buffers raise for invalid files."""
    error: type[Exception] = import_optional("google.protobuf.message", "onnx", "reading an ONNX file").DecodeError
    return error


def _read_bytes(path: Path) -> bytes:
    """Return the content of a file; raise ModelFileError unless it is readable, regular, and of a valid size."""
    try:
        if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():  # opening a pipe would wait for its writer
            raise ModelFileError(f"cannot read {path}: it is not a regular file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not 0 < size <= MAX_BYTES:
                raise ModelFileError(f"{path} has {size:,} bytes, wanted an ONNX file of at most 2 GiB")
            return file.read()
    except (OSError, ValueError) as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(f"cannot read {path}: {reason(error)}") from None


class _Reader:
    """Reads one model, whose file has `size` bytes and is in the directory `folder`."""

    def __init__(self, onnx: Any, model: Any, size: int, folder: Path) -> None:
        self.onnx, self.model, self.raw = onnx, model, model.graph
        self.size, self.external = size, ExternalData(folder)
        self.computed_bytes = 0  # see FOLDING
        if not self.raw.node or not self.raw.output:
            raise ModelFileError("it is not an ONNX file, or its graph has no nodes or outputs")
        if len(self.raw.node) > MAX_NODES:
            raise ModelFileError(f"it has {len(self.raw.node):,} nodes, wanted at most {MAX_NODES:,}")
        if self.raw.sparse_initializer:
            raise ModelFileError("it has sparse tensors, wanted dense tensors")
        self.opset = max((entry.version for entry in model.opset_import if entry.domain in DEFAULT), default=0)
        if self.opset < MIN_OPSET:
            raise ModelFileError(f"it has opset {self.opset}, wanted at least {MIN_OPSET}")
        self.tensors = {tensor.name: tensor for tensor in self.raw.initializer}
        if len(self.tensors) < len(self.raw.initializer):
            raise ModelFileError("it has two tensors with the same name")
        self.constants: dict[str, np.ndarray] = {}

    def graph(self, output: str | None) -> Graph:
        """Return the graph for one output."""
        producers = {}
        for raw in self.raw.node:
            node = self._node(raw)
            for name in filter(None, node.outputs):
                if name in producers or name in self.tensors:
                    raise ModelFileError(
                        f"{node} has the output {brief(repr(name))}, but an earlier node or tensor has the same name"
                    )
                producers[name] = (node, raw)
        output = self._output(output, {name: node for name, (node, _) in producers.items()})
        nodes, inputs = self._dependencies(output, producers)
        if len(inputs) != 1:
            raise ModelFileError(
                f"its output {brief(repr(output))} depends on {len(inputs)} inputs ({brief(join_names(inputs))}), "
                "but a chain of layers has one input"
            )
        classes = self._classes([node for node, _ in producers.values()])
        is_ours = self.model.producer_name == "deepnotes"
        metadata = {entry.key: _value(entry.value) if is_ours else entry.value for entry in self.model.metadata_props}
        sizes, dtype = self._input(inputs[0])
        size = self.size + self.external.bytes
        return Graph(nodes, self.constants, inputs[0], output, sizes, dtype, classes, metadata, self.opset, size)

    def _node(self, raw: Any) -> Node:
        """Return a node after checking the types and values of its attributes."""
        op = raw.op_type if raw.domain in DEFAULT else f"{raw.domain}.{raw.op_type}"
        if not raw.output:
            raise ModelFileError(f"its node {brief(repr(raw.name))} ({brief(op)}) has no output")
        for attribute in raw.attribute:
            kind = ATTRIBUTE_TYPES.get(attribute.name)
            if kind is not None and attribute.type != self.onnx.AttributeProto.AttributeType.Value(kind):
                raise ModelFileError(
                    f"its node {brief(repr(raw.name))} ({brief(op)}) has {attribute.name} with a wrong type, "
                    f"wanted {kind}"
                )
            numbers = {"FLOAT": [attribute.f], "FLOATS": attribute.floats}.get(kind or "", [])
            if attribute.name not in UNBOUNDED and not all(map(math.isfinite, numbers)):
                raise ModelFileError(
                    f"its node {brief(repr(raw.name))} ({brief(op)}) has {attribute.name} that is not finite"
                )
        return Node(op, tuple(raw.input), tuple(raw.output), attributes_of(self.onnx, raw), raw.name)

    def _output(self, requested: str | None, producers: dict[str, Node]) -> str:
        """Return the name of the value to compute: the requested output, or the only numeric output."""
        outputs = [value.name for value in self.raw.output]
        if requested is not None and requested not in outputs:
            raise ModelFileError(f"it has no output {brief(repr(requested))}; outputs: {brief(join_names(outputs))}")
        kinds = self.onnx.TensorProto
        floats = {kinds.FLOAT, kinds.DOUBLE, kinds.FLOAT16}
        numeric = [
            value.name
            for value in self.raw.output
            if value.type.tensor_type.elem_type in floats or value.type.WhichOneof("value") == "sequence_type"
        ]
        if requested is None and len(numeric) != 1:
            raise ModelFileError(
                f"it has {len(numeric)} numeric outputs among {brief(join_names(outputs))}; choose one with output=..."
            )
        output = requested or numeric[0]
        node = producers.get(output)
        if node is not None and node.op == f"{ML}.ZipMap" and node.inputs:  # ZipMap makes dicts of rows
            return node.inputs[0]
        return output

    def _dependencies(self, output: str, producers: dict[str, tuple[Node, Any]]) -> tuple[list[Node], list[str]]:
        """Return the non-constant nodes and the inputs on which an output depends, and compute the constants."""
        required, stack = set[str](), [output]
        while stack:
            name = stack.pop()
            if name and name not in required:
                required.add(name)
                stack += producers[name][0].inputs if name in producers else ()
        nodes: list[Node] = []
        inputs = sorted({v.name for v in self.raw.input if v.name not in self.tensors and v.name in required})
        available = set(inputs)
        for name in required & set(self.tensors):
            self.constants[name] = self._tensor(self.tensors[name], f"tensor {brief(repr(name))}")
        seen = set()
        for node, raw in producers.values():
            if id(node) in seen or not required & set(node.outputs):
                continue
            seen.add(id(node))
            operands = [name for name in node.inputs if name]
            if missing := [name for name in operands if name not in available and name not in self.constants]:
                raise ModelFileError(f"{node} needs {brief(repr(missing[0]))}, which no earlier node computes")
            if all(name in self.constants for name in operands):
                self.constants[node.outputs[0]] = self._constant(node, raw)
            else:
                nodes.append(node)
                available |= set(node.outputs)
        if output in self.constants or output not in available:
            raise ModelFileError(f"its output {brief(repr(output))} does not depend on its input")
        return nodes, inputs

    def _constant(self, node: Node, raw: Any) -> np.ndarray:
        """Return the result of a node whose operands are constants."""
        if node.op == "Constant":
            for attribute in raw.attribute:
                if attribute.name == "value":
                    return self._tensor(attribute.t, str(node))
                if attribute.name in {"value_float", "value_floats"}:
                    return np.asarray(node.attributes[attribute.name], np.float32)
                if attribute.name in {"value_int", "value_ints"}:
                    return np.asarray(node.attributes[attribute.name], np.int64)
        operands = [self.constants[name] for name in node.inputs if name]
        if node.op not in FOLDED or not operands:
            raise ModelFileError(f"{node} computes with constants, but only {', '.join(sorted(FOLDED))} may do that")
        try:
            if node.op in BROADCAST:  # check the size before computing the result
                shape = np.broadcast_shapes(*(operand.shape for operand in operands))
                self._spend(prod(shape) * operands[0].itemsize, str(node))
            with np.errstate(all="ignore"):
                result = FOLDED[node.op](operands, node.attributes)
        except (ValueError, TypeError, IndexError, KeyError, OverflowError) as error:
            raise ModelFileError(f"{node} has operands or attributes that do not fit ({brief(error)})") from None
        self._spend(result.nbytes, str(node))
        return result

    def _spend(self, size: int, owner: str) -> None:
        """Count `size` bytes that are computed or read; refuse the file if the total is too large for its size."""
        self.computed_bytes += size
        if self.computed_bytes > FOLDING[0] + FOLDING[1] * (self.size + self.external.bytes):
            raise ModelFileError(f"{owner} and the nodes before it compute too many constants for the file's size")

    def _tensor(self, tensor: Any, owner: str) -> np.ndarray:
        """Return the array of a tensor; `owner` names it in error messages."""
        kinds = self.onnx.TensorProto
        names = {
            kinds.FLOAT: "float32", kinds.DOUBLE: "float64", kinds.FLOAT16: "float16", kinds.INT32: "int32",
            kinds.INT64: "int64", kinds.BOOL: "bool",
        }  # fmt: skip
        if tensor.data_type not in names:
            raise ModelFileError(f"{owner} has an unsupported type, wanted {', '.join(names.values())}")
        dtype = np.dtype(names[tensor.data_type])
        if len(tensor.dims) > RANK:
            raise ModelFileError(f"{owner} has {len(tensor.dims):,} axes, wanted at most {RANK}")
        shape = tuple(tensor.dims)
        fields = {"float32": "float_data", "float64": "double_data", "int64": "int64_data"}
        if tensor.data_location == kinds.EXTERNAL or tensor.external_data:
            entries = [(entry.key, entry.value) for entry in tensor.external_data]
            raw = self.external.read(entries, max(0, prod(shape)) * dtype.itemsize, owner)
            self._spend(len(raw), owner)
        else:
            raw = tensor.raw_data
        stored: Any = raw or getattr(tensor, fields.get(dtype.name, "int32_data"))
        count = len(stored) // dtype.itemsize if raw else len(stored)
        if min(shape, default=1) < 1 or prod(shape) != count or (raw and len(stored) % dtype.itemsize):
            raise ModelFileError(f"{owner} has the shape {brief(shape)}, but {count:,} numbers")
        if raw:
            return np.frombuffer(stored, dtype.newbyteorder("<")).astype(dtype).reshape(shape)
        if dtype.name == "float16":  # each number is stored as the low 16 bits of an integer
            bits = np.asarray(stored, np.int32)
            return (bits & 0xFFFF).astype(np.uint16).view(dtype).reshape(shape)
        return np.asarray(stored, dtype if dtype.kind != "b" else np.int32).astype(dtype).reshape(shape)

    def _input(self, name: str) -> tuple[tuple[int, ...] | None, str]:
        """Return the shape of an input, or None if the file does not specify it, and the dtype of the input."""
        kind = next(value.type.tensor_type for value in self.raw.input if value.name == name)
        dtype = CASTS.get(kind.elem_type, "int64")
        if not kind.HasField("shape"):
            return None, dtype
        if not 2 <= len(kind.shape.dim) <= RANK:
            shape = [max(0, dim.dim_value) for dim in kind.shape.dim[:RANK]]
            raise ModelFileError(f"its input {brief(repr(name))} has the shape {brief(shape)}, wanted (samples, ...)")
        return tuple(max(0, dim.dim_value) for dim in kind.shape.dim), dtype

    def _classes(self, nodes: list[Node]) -> list[Any] | None:
        """Return the names of the classes, or None; they are stored in the node that maps probabilities to a class."""
        for node in nodes:
            if node.op in {f"{ML}.ZipMap", f"{ML}.LinearClassifier"}:
                kinds = "classlabels_strings", "classlabels_int64s", "classlabels_ints"
                labels = next((node.attributes[kind] for kind in kinds if node.attributes.get(kind)), None)
                return [x.decode("utf-8", "replace") if isinstance(x, bytes) else x for x in labels or []] or None
        for node in nodes:
            if node.op == f"{ML}.ArrayFeatureExtractor" and node.inputs and node.inputs[0] in self.tensors:
                tensor = self.tensors[node.inputs[0]]
                if tensor.string_data:
                    return [x.decode("utf-8", "replace") for x in tensor.string_data]
                return list(self._tensor(tensor, f"tensor {brief(repr(tensor.name))}").ravel().tolist())
        return None


def _value(text: str) -> Any:
    """Return the value of a metadata entry if it is JSON, else its text."""
    try:
        value = strict_json(text)
        json.dumps(value, allow_nan=False)  # refuses 1e999, which is valid JSON, but infinite
    except (ValueError, RecursionError):
        return text
    return value


def _integers(operands: list[np.ndarray], attributes: dict[str, Any]) -> tuple[int, ...]:
    """Return axes or a shape, from the second operand or, in older files, the attribute ``axes``."""
    values = np.ravel(operands[1] if len(operands) > 1 else attributes["axes"])
    if len(values) > RANK:
        raise ValueError(f"{len(values):,} axes")
    return tuple(int(i) for i in values)


def _cast(operands: list[np.ndarray], attributes: dict[str, Any]) -> np.ndarray:
    return operands[0].astype(CASTS[attributes["to"]])


def _on_floats(function: Callable[..., Any]) -> Callable[[list[np.ndarray], dict[str, Any]], np.ndarray]:
    """Return an operation on two float arrays of the same dtype; it refuses integers, whose quotients are truncated."""

    def apply(operands: list[np.ndarray], attributes: dict[str, Any]) -> np.ndarray:
        first, second = operands
        if first.dtype != second.dtype or first.dtype.kind != "f":
            raise TypeError(f"dtypes {first.dtype} and {second.dtype}")
        return np.asarray(function(first, second))

    return apply


BROADCAST: dict[str, Callable[..., Any]] = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}
"""Operations on two constants that are broadcast against each other."""
CASTS = {1: "float32", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64"}
"""The dtypes in NumPy's notation, by ONNX's codes."""
FOLDED: dict[str, Callable[[list[np.ndarray], dict[str, Any]], np.ndarray]] = {
    "Identity": lambda operands, attributes: operands[0],
    "Cast": _cast,
    "Reshape": lambda operands, attributes: operands[0].reshape(_integers(operands, attributes)),
    "Transpose": lambda operands, attributes: operands[0].transpose(attributes.get("perm")),
    "Squeeze": lambda operands, attributes: np.squeeze(operands[0], _integers(operands, attributes)),
    "Unsqueeze": lambda operands, attributes: np.expand_dims(operands[0], _integers(operands, attributes)),
    "Neg": lambda operands, attributes: -operands[0],
    "Sqrt": lambda operands, attributes: np.asarray(np.sqrt(operands[0]), operands[0].dtype),
    "Reciprocal": lambda operands, attributes: np.asarray(1 / operands[0], operands[0].dtype),
    **{op: _on_floats(function) for op, function in BROADCAST.items()},
}
"""Operations that are computed when a file is read, if all operands are constants."""
