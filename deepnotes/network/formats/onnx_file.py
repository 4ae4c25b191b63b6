"""Reading of ONNX files, as far as one of the outputs needs them: nodes in order, constants, the input.

Files are not trusted: the bytes that tensors claim must exist, data in other files must be in the same folder, and the
numbers of nodes and axes, and thus time and memory, are bounded.
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
from deepnotes.utils.extras import needed
from deepnotes.utils.wording import brief, listed, reason

NODES = 10_000
"""The largest number of nodes in a file; a dense chain of a hundred layers has about a thousand."""
LIMIT = (1 << 31) - 1
"""The largest size of a file in bytes."""
FOLDING = 1 << 20, 8
"""The bytes that computations with constants may produce, and the additional bytes for each byte of the file."""
OLDEST = 7
"""The first opset that broadcasts operands as NumPy does."""
KINDS = {
    "alpha": "FLOAT", "allowzero": "INT", "approximate": "STRING", "axes": "INTS", "axis": "INT", "beta": "FLOAT",
    "classlabels_int64s": "INTS", "classlabels_ints": "INTS", "classlabels_strings": "STRINGS",
    "coefficients": "FLOATS", "end": "INT", "epsilon": "FLOAT", "gamma": "FLOAT", "intercepts": "FLOATS",
    "keepdims": "INT", "max": "FLOAT", "min": "FLOAT", "norm": "STRING", "offset": "FLOATS", "perm": "INTS",
    "post_transform": "STRING", "scale": "FLOATS", "spatial": "INT", "start": "INT", "targets": "INT", "to": "INT",
    "training_mode": "INT", "transA": "INT", "transB": "INT", "value": "TENSOR", "value_float": "FLOAT",
    "value_floats": "FLOATS", "value_int": "INT", "value_ints": "INTS",
}  # fmt: skip
"""Attributes that are read, and the type of each, which is the same in all operations that have it."""
UNBOUNDED = {"min", "max", "value_float", "value_floats"}
"""Attributes that may be infinite, which means no bound."""
DEFAULT = {"", "ai.onnx"}
ML = "ai.onnx.ml"


class Node(NamedTuple):
    """One operation of a graph."""

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
        In the order in which they run, without those that depend only on constants.
    constants : dict of str to ndarray
    input, output : str
    sizes : tuple of int or None
        The shape of the input, with 0 for unknown sizes; None if the file does not state it.
    dtype : str
        The dtype of the input.
    classes : list or None
        The names of the classes, if the file has them.
    metadata : dict of str to JSON values
    opset : int
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
    """Return the graph in a file.

    Raises
    ------
    ModelFileError
        If the file cannot be read, or is not a complete ONNX file with one input.
    """
    onnx = needed("onnx", "onnx", "reading an ONNX file")
    content = _content(path)
    try:
        model, size = onnx.ModelProto.FromString(content), len(content)
        del content
        return _Reader(onnx, model, size, path.parent).graph(output)
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from None
    except MemoryError:
        raise ModelFileError(f"{path} holds {path.stat().st_size:,} bytes: too many for the memory") from None
    except (_decode_error(), UnicodeError) as error:
        raise ModelFileError(f"{path} is truncated, altered or no ONNX file ({brief(error)})") from None


def _decode_error() -> type[Exception]:
    error: type[Exception] = needed("google.protobuf.message", "onnx", "reading an ONNX file").DecodeError
    return error


def _content(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():  # opening a pipe would wait for its writer
            raise ModelFileError(f"cannot read {path}: it is no regular file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not 0 < size <= LIMIT:
                raise ModelFileError(f"{path} holds {size:,} bytes, and an ONNX file holds 1 byte to 2 GiB")
            return file.read()
    except (OSError, ValueError) as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(f"cannot read {path}: {reason(error)}") from None


class _Reader:
    def __init__(self, onnx: Any, model: Any, size: int, folder: Path) -> None:
        self.onnx, self.model, self.raw = onnx, model, model.graph
        self.size, self.beside = size, ExternalData(folder)
        self.spent = 0
        if not self.raw.node or not self.raw.output:
            raise ModelFileError("it is no ONNX file, or one of a graph without nodes or outputs")
        if len(self.raw.node) > NODES:
            raise ModelFileError(f"it has {len(self.raw.node):,} nodes; at most {NODES:,} are read")
        if self.raw.sparse_initializer:
            raise ModelFileError("it has sparse tensors, and those of a dense chain are dense")
        self.opset = max((entry.version for entry in model.opset_import if entry.domain in DEFAULT), default=0)
        if self.opset < OLDEST:
            raise ModelFileError(f"it is of opset {self.opset}; {OLDEST} and later ones are read")
        self.tensors = {tensor.name: tensor for tensor in self.raw.initializer}
        if len(self.tensors) < len(self.raw.initializer):
            raise ModelFileError("it has two tensors of one name")
        self.constants: dict[str, np.ndarray] = {}

    def graph(self, output: str | None) -> Graph:
        made = {}
        for raw in self.raw.node:
            node = self._node(raw)
            for name in filter(None, node.outputs):
                if name in made or name in self.tensors:
                    raise ModelFileError(f"{node} gives {brief(repr(name))}, which is there already")
                made[name] = (node, raw)
        chosen = self._output(output, {name: node for name, (node, _) in made.items()})
        nodes, sources = self._needed(chosen, made)
        if len(sources) != 1:
            raise ModelFileError(
                f"its output {brief(repr(chosen))} depends on {len(sources)} inputs ({brief(listed(sources))}), "
                "and a dense chain has one"
            )
        (source,) = sources
        classes = self._classes([node for node, _ in made.values()])
        as_written = self.model.producer_name == "deepnotes"
        metadata = {
            entry.key: _value(entry.value) if as_written else entry.value for entry in self.model.metadata_props
        }
        sizes, dtype = self._input(source)
        size = self.size + self.beside.bytes
        return Graph(nodes, self.constants, source, chosen, sizes, dtype, classes, metadata, self.opset, size)

    def _node(self, raw: Any) -> Node:
        op = raw.op_type if raw.domain in DEFAULT else f"{raw.domain}.{raw.op_type}"
        if not raw.output:
            raise ModelFileError(f"its node {brief(repr(raw.name))} ({brief(op)}) has no output")
        for attribute in raw.attribute:
            kind = KINDS.get(attribute.name)
            if kind is not None and attribute.type != self.onnx.AttributeProto.AttributeType.Value(kind):
                raise ModelFileError(
                    f"its node {brief(repr(raw.name))} ({brief(op)}) has {attribute.name} of a wrong kind"
                )
            numbers = {"FLOAT": [attribute.f], "FLOATS": attribute.floats}.get(kind or "", [])
            if attribute.name not in UNBOUNDED and not all(map(math.isfinite, numbers)):
                raise ModelFileError(
                    f"its node {brief(repr(raw.name))} ({brief(op)}) has {attribute.name} that is not finite"
                )
        return Node(op, tuple(raw.input), tuple(raw.output), attributes_of(self.onnx, raw), raw.name)

    def _output(self, asked: str | None, made: dict[str, Node]) -> str:
        """Return the name of the value to compute: the requested output, or the only numeric one."""
        outputs = [value.name for value in self.raw.output]
        if asked is not None and asked not in outputs:
            raise ModelFileError(f"it has no output {brief(repr(asked))}; outputs: {brief(listed(outputs))}")
        kinds = self.onnx.TensorProto
        floats = {kinds.FLOAT, kinds.DOUBLE, kinds.FLOAT16}
        good = [
            value.name
            for value in self.raw.output
            if value.type.tensor_type.elem_type in floats or value.type.WhichOneof("value") == "sequence_type"
        ]
        if asked is None and len(good) != 1:
            raise ModelFileError(
                f"it has {len(good)} outputs of numbers, of {brief(listed(outputs))}; output=... says which one"
            )
        chosen = asked or good[0]
        node = made.get(chosen)
        if node is not None and node.op == f"{ML}.ZipMap" and node.inputs:  # the same numbers, one dict for each row
            return node.inputs[0]
        return chosen

    def _needed(self, output: str, made: dict[str, tuple[Node, Any]]) -> tuple[list[Node], list[str]]:
        """Return the non-constant nodes and the inputs that an output needs."""
        inputs = [value.name for value in self.raw.input if value.name not in self.tensors]
        wanted, stack = set[str](), [output]
        while stack:
            name = stack.pop()
            if name and name not in wanted:
                wanted.add(name)
                stack += made[name][0].inputs if name in made else ()
        nodes: list[Node] = []
        known = {name for name in inputs if name in wanted}
        sources = sorted(known)
        for name in wanted & set(self.tensors):
            self.constants[name] = self._tensor(self.tensors[name], f"tensor {brief(repr(name))}")
        seen = set()
        for node, raw in made.values():
            if id(node) in seen or not wanted & set(node.outputs):
                continue
            seen.add(id(node))
            given = [name for name in node.inputs if name]
            if missing := [name for name in given if name not in known and name not in self.constants]:
                raise ModelFileError(f"{node} needs {brief(repr(missing[0]))}, which nothing before it gives")
            if all(name in self.constants for name in given):
                self.constants[node.outputs[0]] = self._constant(node, raw)
            else:
                nodes.append(node)
                known |= set(node.outputs)
        if output in self.constants or output not in known:
            raise ModelFileError(f"its output {brief(repr(output))} does not depend on its input")
        return nodes, sources

    def _constant(self, node: Node, raw: Any) -> np.ndarray:
        """Return the result of a node on constants."""
        if node.op == "Constant":
            for attribute in raw.attribute:
                if attribute.name == "value":
                    return self._tensor(attribute.t, str(node))
                if attribute.name in {"value_float", "value_floats"}:
                    return np.asarray(node.attributes[attribute.name], np.float32)
                if attribute.name in {"value_int", "value_ints"}:
                    return np.asarray(node.attributes[attribute.name], np.int64)
        parts = [self.constants[name] for name in node.inputs if name]
        if node.op not in FOLDED or not parts:
            raise ModelFileError(f"{node} computes with constants, and only {', '.join(sorted(FOLDED))} do that here")
        try:
            if node.op in BROADCAST:  # count the size before computing the result
                shape = np.broadcast_shapes(*(part.shape for part in parts))
                self._spend(prod(shape) * parts[0].itemsize, str(node))
            with np.errstate(all="ignore"):
                result = FOLDED[node.op](parts, node.attributes)
        except (ValueError, TypeError, IndexError, KeyError, OverflowError) as error:
            raise ModelFileError(f"{node} does not fit what it is given ({brief(error)})") from None
        self._spend(result.nbytes, str(node))
        return result

    def _spend(self, size: int, what: str) -> None:
        """Count bytes that are computed or read again, and refuse a file that needs too many for its length."""
        self.spent += size
        if self.spent > FOLDING[0] + FOLDING[1] * (self.size + self.beside.bytes):
            raise ModelFileError(f"{what} and those before it compute with constants at too great a length")

    def _tensor(self, tensor: Any, what: str) -> np.ndarray:
        kinds = self.onnx.TensorProto
        names = {
            kinds.FLOAT: "float32", kinds.DOUBLE: "float64", kinds.FLOAT16: "float16", kinds.INT32: "int32",
            kinds.INT64: "int64", kinds.BOOL: "bool",
        }  # fmt: skip
        if tensor.data_type not in names:
            raise ModelFileError(f"{what} is of a type that is not read; wanted {', '.join(names.values())}")
        dtype = np.dtype(names[tensor.data_type])
        if len(tensor.dims) > RANK:
            raise ModelFileError(f"{what} has {len(tensor.dims):,} axes, and at most {RANK} are read")
        shape = tuple(tensor.dims)
        fields = {"float32": "float_data", "float64": "double_data", "int64": "int64_data"}
        if tensor.data_location == kinds.EXTERNAL or tensor.external_data:
            entries = [(entry.key, entry.value) for entry in tensor.external_data]
            raw = self.beside.read(entries, max(0, prod(shape)) * dtype.itemsize, what)
            self._spend(len(raw), what)
        else:
            raw = tensor.raw_data
        stored: Any = raw or getattr(tensor, fields.get(dtype.name, "int32_data"))
        held = len(stored) // dtype.itemsize if raw else len(stored)
        if min(shape, default=1) < 1 or prod(shape) != held or (raw and len(stored) % dtype.itemsize):
            raise ModelFileError(f"{what} claims the shape {brief(shape)} and holds {held:,} numbers")
        if raw:
            return np.frombuffer(stored, dtype.newbyteorder("<")).astype(dtype).reshape(shape)
        if dtype.name == "float16":  # its bits, in integers
            bits = np.asarray(stored, np.int32)
            return (bits & 0xFFFF).astype(np.uint16).view(dtype).reshape(shape)
        return np.asarray(stored, dtype if dtype.kind != "b" else np.int32).astype(dtype).reshape(shape)

    def _input(self, source: str) -> tuple[tuple[int, ...] | None, str]:
        """Return the shape and the dtype of the input, as far as the file states them."""
        kind = next(value.type.tensor_type for value in self.raw.input if value.name == source)
        dtype = CASTS.get(kind.elem_type, "int64")
        if not kind.HasField("shape"):
            return None, dtype
        if not 2 <= len(kind.shape.dim) <= RANK:
            shape = [max(0, dim.dim_value) for dim in kind.shape.dim[:RANK]]
            raise ModelFileError(f"its input {brief(repr(source))} has the shape {brief(shape)}, wanted (samples, ...)")
        return tuple(max(0, dim.dim_value) for dim in kind.shape.dim), dtype

    def _classes(self, nodes: list[Node]) -> list[Any] | None:
        """Return the names of the classes, from the node that turns probabilities into a class."""
        for node in nodes:
            if node.op in {f"{ML}.ZipMap", f"{ML}.LinearClassifier"}:
                kinds = "classlabels_strings", "classlabels_int64s", "classlabels_ints"
                found = next((node.attributes[kind] for kind in kinds if node.attributes.get(kind)), None)
                return [x.decode("utf-8", "replace") if isinstance(x, bytes) else x for x in found or []] or None
        for node in nodes:
            if node.op == f"{ML}.ArrayFeatureExtractor" and node.inputs and node.inputs[0] in self.tensors:
                tensor = self.tensors[node.inputs[0]]
                if tensor.string_data:
                    return [x.decode("utf-8", "replace") for x in tensor.string_data]
                return list(self._tensor(tensor, f"tensor {brief(repr(tensor.name))}").ravel().tolist())
        return None


def _value(text: str) -> Any:
    """Return the value of a metadata entry that is JSON, or else its text."""
    try:
        value = strict_json(text)
        json.dumps(value, allow_nan=False)  # 1e999 is valid JSON, but infinite
    except (ValueError, RecursionError):
        return text
    return value


def _axes(parts: list[np.ndarray], attributes: dict[str, Any]) -> tuple[int, ...]:
    axes = np.ravel(parts[1] if len(parts) > 1 else attributes["axes"])
    if len(axes) > RANK:
        raise ValueError(f"{len(axes):,} axes")
    return tuple(int(i) for i in axes)


def _cast(parts: list[np.ndarray], attributes: dict[str, Any]) -> np.ndarray:
    return parts[0].astype(CASTS[attributes["to"]])


def _floats(function: Callable[..., Any]) -> Callable[[list[np.ndarray], dict[str, Any]], np.ndarray]:
    """Return an operation on two float arrays of the same dtype; integers are refused, as they round differently."""

    def apply(parts: list[np.ndarray], attributes: dict[str, Any]) -> np.ndarray:
        first, second = parts
        if first.dtype != second.dtype or first.dtype.kind != "f":
            raise TypeError(f"dtypes {first.dtype} and {second.dtype}")
        return np.asarray(function(first, second))

    return apply


BROADCAST: dict[str, Callable[..., Any]] = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}
"""Operations on two constants, which are broadcast."""
CASTS = {1: "float32", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64"}
"""The dtypes, by ONNX's codes for them."""
FOLDED: dict[str, Callable[[list[np.ndarray], dict[str, Any]], np.ndarray]] = {
    "Identity": lambda parts, attributes: parts[0],
    "Cast": _cast,
    "Reshape": lambda parts, attributes: parts[0].reshape(_axes(parts, attributes)),
    "Transpose": lambda parts, attributes: parts[0].transpose(attributes.get("perm")),
    "Squeeze": lambda parts, attributes: np.squeeze(parts[0], _axes(parts, attributes)),
    "Unsqueeze": lambda parts, attributes: np.expand_dims(parts[0], _axes(parts, attributes)),
    "Neg": lambda parts, attributes: -parts[0],
    "Sqrt": lambda parts, attributes: np.asarray(np.sqrt(parts[0]), parts[0].dtype),
    "Reciprocal": lambda parts, attributes: np.asarray(1 / parts[0], parts[0].dtype),
    **{op: _floats(function) for op, function in BROADCAST.items()},
}
"""Operations on constants that are computed while reading."""
