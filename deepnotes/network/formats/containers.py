"""The container format of model files and checkpoints: safetensors files with a JSON header and SHA-256 digests.

The header is the entry ``deepnotes`` of the file's metadata. Its entries ``digests`` (one for each
tensor) and ``digest`` (for the rest of the header) reveal changes to the file. A size in a file is trusted only after a
check that the file is at least that long. Only the requested tensors are read.
"""

import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from deepnotes.utils.atomic_files import replacing
from deepnotes.utils.errors import ArgumentError, ModelFileError
from deepnotes.utils.wording import brief, reason

FORMAT = 2
"""The newest format that is read. Files of one network have format 1, and files of an ensemble have format 2."""
HEADER_LIMIT = 16 << 20
"""The largest header that is read, in bytes: enough for the names of more than 100,000 features."""

RESERVE = 64 << 10
"""The bytes that :func:`check_header` reserves for parts of the header that are known only when the file is written."""

DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32",
    "U64": "uint64", "I64": "int64", "F16": "float16", "F32": "float32", "F64": "float64",
}  # fmt: skip
"""The dtypes in NumPy's notation, by their names in safetensors files."""


class Document(Protocol):
    """What networks are read from: a header and named tensors, see :class:`Container`."""

    header: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]

    def tensor(
        self, name: str, shape: tuple[int, ...] | None = None, dtype: np.dtype[Any] | None = None
    ) -> np.ndarray: ...


class Container:
    """An open file: its header, and its tensors, which are read on request.

    Attributes
    ----------
    path : Path
    header : dict
    shapes : dict of str to tuple of int
        The shapes of the tensors, by name.
    dtypes : dict of str to str
        The dtypes of the tensors, by name.
    """

    def __init__(self, path: Path, file: Any) -> None:
        self.path, self._file = path, file
        self.header = _decode_header(path, (file.metadata() or {}).get("deepnotes"))
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        self.shapes = {name: tuple(x.get_shape()) for name, x in slices.items()}
        self.dtypes = {name: DTYPES.get(x.get_dtype(), x.get_dtype()) for name, x in slices.items()}

    def tensor(self, name: str, shape: tuple[int, ...] | None = None, dtype: np.dtype[Any] | None = None) -> np.ndarray:
        """Return the tensor `name`, after a check of its shape and dtype, if given, and of its digest.

        Raises
        ------
        ModelFileError
            If the tensor is missing, has a different shape or dtype, or was altered.
        """
        if name not in self.shapes:
            raise ModelFileError(f"{self.path}: tensor {brief(name)} is missing")
        actual, expected = self.dtypes[name], list(DTYPES.values()) if dtype is None else [dtype.name]
        if actual not in expected:
            wanted = expected[0] if len(expected) == 1 else f"one of {', '.join(expected)}"
            raise ModelFileError(f"{self.path}: tensor {brief(name)} has the dtype {actual}, wanted {wanted}")
        if shape is not None and self.shapes[name] != shape:
            raise ModelFileError(
                f"{self.path}: tensor {brief(name)} has shape {brief(self.shapes[name])}, wanted {brief(shape)}"
            )
        tensor: np.ndarray = self._file.get_tensor(name)
        if self.header["digests"].get(name) != digest(tensor):
            raise ModelFileError(f"{self.path} was altered after it was written: the digest of {name} does not match")
        return tensor


def write(path: Path, header: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    """Write a file atomically.

    Parameters
    ----------
    path : Path
    header : mapping
        The header, which must consist of JSON values. The entry ``format`` is by default 1.
    tensors : mapping of str to ndarray

    Raises
    ------
    ModelFileError
        If the header contains other values or is too long, or the file cannot be written.
    """
    from safetensors.numpy import save as to_bytes

    tensors = {name: _as_stored(tensor) for name, tensor in tensors.items()}
    text = _encode_header(header, {name: digest(tensor) for name, tensor in tensors.items()}, HEADER_LIMIT)
    try:
        with replacing(path) as file:
            file.write(to_bytes(tensors, metadata={"deepnotes": text}))
    except (OSError, ValueError) as error:  # a NUL in the path raises ValueError
        raise ModelFileError(f"cannot write {path}: {reason(error)}") from None


def check_header(header: Mapping[str, Any], names: Iterable[str]) -> None:
    """Check that a file with this header and with tensors of these names can be written later.

    Raises
    ------
    ModelFileError
        If the header contains values that are not JSON, or is too long.
    """
    _encode_header(header, dict.fromkeys(names, "0" * 64), HEADER_LIMIT - RESERVE)


def is_intact(path: Path) -> bool:
    """Return whether a file can be read and all its digests match."""
    try:
        with open_container(path) as file:
            for name in file.shapes:
                file.tensor(name)
    except ModelFileError:
        return False
    return True


def _as_stored(tensor: np.ndarray) -> np.ndarray:
    """Return a tensor in C order and native byte order, which is how it will be read from a file."""
    return np.asarray(tensor, dtype=tensor.dtype.newbyteorder("="), order="C")


def _encode_header(header: Mapping[str, Any], digests: Mapping[str, str], limit: int) -> str:
    """Return a header as JSON, after a check that the JSON and safetensors' own entries fit into `limit` bytes."""
    try:
        content = {"format": 1, **header, "digests": digests}
        content = json.loads(json.dumps(content, allow_nan=False))  # as read later: keys are strings, tuples are lists
        text = json.dumps(content | {"digest": digest_of_header(content)})
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelFileError(f"metadata: wanted only JSON values ({error})") from None
    entries = sum(len(json.dumps(name)) + 200 for name in digests)  # safetensors' own entry for each tensor
    length = max(len(text), (len(json.dumps(text)) + entries) // 2)  # quotes are escaped a second time in the file
    if length > limit // 2:
        lengths = {key: len(json.dumps(value)) for key, value in content.items()}
        largest = sorted((key for key in lengths if lengths[key] > 1000), key=lambda key: -lengths[key])
        details = ", ".join(f"{key} {lengths[key]:,}" for key in largest)
        raise ModelFileError(
            f"layers, tensors and metadata (names of features and classes) make a header of {length:,} characters, "
            f"wanted at most {limit // 2:,}; the longest entries: {details}"
        )
    return text


@contextmanager
def open_container(path: Path) -> Iterator[Container]:
    """Open a file for reading; use in a ``with`` statement.

    Raises
    ------
    ModelFileError
        If the file cannot be read, is truncated or altered, has a newer format, or was not written by deepnotes. Read
        errors in the block are raised as ModelFileError, too.
    """
    from safetensors import SafetensorError, safe_open

    _check_header_length(path)
    try:
        with safe_open(path, framework="numpy") as file:
            yield Container(path, file)
    except SafetensorError as error:
        raise ModelFileError(f"{path} is truncated, corrupted or not a model file ({brief(error)})") from None
    except OSError as error:
        raise ModelFileError(f"cannot read {path}: {reason(error)}") from None
    except MemoryError:
        raise ModelFileError(f"{path} has {os.path.getsize(path):,} bytes, which do not fit into memory") from None


def as_path(path: str | PathLike[str]) -> Path:
    """Return `path` as a Path.

    Raises
    ------
    ArgumentError
        If `path` is not a str or os.PathLike.
    """
    try:
        return Path(path)
    except TypeError:
        raise ArgumentError.of("path", path, "a path, as a string or os.PathLike") from None


def _check_header_length(path: Path) -> None:
    """Raise ModelFileError if `path` is not a regular file, or its header is longer than the file or the limit."""
    try:
        if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():  # opening a pipe would wait for its writer
            raise ModelFileError(f"cannot read {path}: it is not a regular file")
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            size = os.fstat(file.fileno()).st_size
    except ModelFileError:
        raise
    except (OSError, ValueError) as error:
        raise ModelFileError(f"cannot read {path}: {reason(error)}") from None
    if size < 8 or length > size - 8:
        hint = "; from_onnx reads ONNX files" if path.suffix.lower() == ".onnx" else ""
        raise ModelFileError(f"{path} is truncated or not a model file: {size:,} bytes{hint}")
    if length > HEADER_LIMIT:
        raise ModelFileError(f"{path}: its header has {length:,} bytes, wanted at most {HEADER_LIMIT:,}")


def _decode_header(path: Path, text: str | None) -> dict[str, Any]:
    """Return the header of a file, after a check of its format and digest."""
    if text is None:
        raise ModelFileError(f"{path} is a safetensors file, but not a model file written by deepnotes")
    try:
        header = strict_json(text)
        version = header["format"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ModelFileError(f"{path}: its header is damaged") from None
    check_format(path, version)
    if header.get("digest") != digest_of_header(header) or not isinstance(header.get("digests"), dict):
        raise ModelFileError(f"{path} was altered after it was written: the digest of its header does not match")
    return header  # type: ignore[no-any-return]


def check_format(source: Path | str, version: Any) -> None:
    """Raise ModelFileError unless `version`, the entry ``format`` of a header, is a format that is read."""
    if type(version) is not int or version < 1:
        raise ModelFileError(f"{source}: unknown format {brief(repr(version))}, wanted a number from 1 to {FORMAT}")
    if version > FORMAT:
        raise ModelFileError(
            f"{source} has format {brief(version)}, but this version of deepnotes reads formats up to {FORMAT}; "
            "pip install --upgrade deepnotes"
        )


def strict_json(text: str) -> Any:
    """Return the value of a JSON document, but refuse NaN, infinities, and objects with duplicate keys.

    Raises
    ------
    ValueError
        If the string is not valid JSON, or contains anything that is refused.
    RecursionError
        If the nesting is too deep.
    """

    def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):  # some JSON parsers use the first value, others the last
            raise ValueError("a key occurs twice")
        return value

    def refuse_constant(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, object_pairs_hook=without_duplicates, parse_constant=refuse_constant)


def digest_of_header(header: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a header, excluding its entry ``digest``."""
    import hashlib

    rest = {key: value for key, value in header.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def digest(tensor: np.ndarray) -> str:
    """Return the SHA-256 of a tensor's dtype, shape and elements."""
    import hashlib

    hash = hashlib.sha256(f"{tensor.dtype.str} {tensor.shape};".encode())
    hash.update(np.ascontiguousarray(tensor).data)
    return hash.hexdigest()
