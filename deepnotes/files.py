"""Model files: safetensors for the numbers, a JSON header for the rest, a digest over both; never pickle.

The tensors are ``W1``, ``b1``, ... as the network names them, and ``input_mean`` and ``input_scale`` where inputs are
standardized. The header's entry ``deepnotes`` is JSON: format, architecture, dtype, seed, metadata, digest. Names in
it are looked up in fixed tables; nothing in a file leads to an import, and no size in it is believed before the file
proves to hold that much.
"""

import json
import os
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.activations import Activation
from deepnotes.atomic import replacing
from deepnotes.backend import Backend
from deepnotes.errors import ArgumentError, DeepnotesError, ModelFileError
from deepnotes.initializers import LIBRARY as INITIALIZERS
from deepnotes.layers import Dense, Dropout, Layer
from deepnotes.plan import Layout
from deepnotes.preprocessing import Standardizer
from deepnotes.wording import reason

if TYPE_CHECKING:
    from deepnotes.network import Network

FORMAT = 1
HEADER_LIMIT = 16 << 20
"""Bytes of header that are read at most: more than a hundred thousand feature names."""

STANDARDIZER = ("input_mean", "input_scale")


def save(network: "Network", path: str | PathLike[str]) -> None:
    """Write `network` to `path`, whole or not at all; see :meth:`deepnotes.Network.save`."""
    from safetensors.numpy import save as to_bytes

    tensors = {name: np.ascontiguousarray(network.backend.to_numpy(W)) for name, W in network.parameters.items()}
    if network.standardizer is not None:
        tensors |= dict(zip(STANDARDIZER, (network.standardizer.mean, network.standardizer.scale), strict=True))
    if not isinstance(network.metadata, dict):
        raise ModelFileError(f"metadata is {network.metadata!r}, wanted a dict of JSON values")
    header: dict[str, Any] = {
        "format": FORMAT,
        "network": {
            "inputs": network.inputs,
            "layers": [_describe(layer) for layer in network.layers],
            "dtype": network.dtype,
            "seed": network.seed,
        },
        "metadata": network.metadata,
    }
    try:
        header = json.loads(json.dumps(header, allow_nan=False))  # as it will be read: keys are strings, tuples lists
        header["digest"] = _digest(header, tensors)
        text = json.dumps(header)
    except (TypeError, ValueError) as error:
        raise ModelFileError(f"metadata: wanted JSON values only ({error})") from None
    if len(text) > HEADER_LIMIT // 2:  # quotes and backslashes are escaped once more in the file
        raise ModelFileError(f"metadata: {len(text):,} characters of JSON, wanted at most {HEADER_LIMIT // 2:,}")
    path = _path(path)
    try:
        with replacing(path) as file:
            file.write(to_bytes(tensors, metadata={"deepnotes": text}))
    except (OSError, ValueError) as error:  # a NUL in the path is a ValueError
        raise ModelFileError(f"cannot write {path}: {reason(error)}") from None


def load(path: str | PathLike[str], backend: str | Backend | None = None) -> "Network":
    """Return the network in a model file.

    Parameters
    ----------
    path : path
    backend : str or Backend, optional
        What it shall run on, whatever it was trained on; by default the selected one.

    Raises
    ------
    ModelFileError
        If the file cannot be read, is truncated or altered, is of a newer format, or is no model file.
    UnknownNameError, BackendUnavailable
        As :func:`deepnotes.get_backend`.
    """
    from safetensors import SafetensorError, safe_open

    path = _path(path)
    _check_header_length(path)
    try:
        with safe_open(path, framework="numpy") as file:
            header = _header(path, (file.metadata() or {}).get("deepnotes"))
            layers, description, standardized = _architecture(path, header, set(file.keys()))
            layout = Layout(description["inputs"], layers)
            shapes = {e.name: e.parameter.shape for e in layout.entries.values()}
            shapes |= dict.fromkeys(STANDARDIZER, (description["inputs"], 1)) if standardized else {}
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            if shapes != found:
                raise ModelFileError(f"{path}: its tensors {found} are not those of its architecture, {shapes}")
            tensors = {name: file.get_tensor(name) for name in shapes}
    except SafetensorError as error:
        raise ModelFileError(f"{path} is truncated, altered or no model file ({error})") from None
    except OSError as error:
        raise ModelFileError(f"cannot read {path}: {reason(error)}") from None
    if header.get("digest") != _digest(header, tensors):
        raise ModelFileError(f"{path} was altered after it was written: its digest does not match")
    return _network(path, layers, layout, description, header, tensors, backend)


def _path(path: str | PathLike[str]) -> Path:
    try:
        return Path(path)
    except TypeError:
        raise ArgumentError(f"path={path!r}, wanted the path of a file") from None


def _describe(layer: Layer) -> dict[str, Any]:
    if type(layer) is Dropout:
        return {"type": "dropout", "rate": layer.rate}
    if type(layer) is Dense and isinstance(layer.g, Activation) and not callable(layer.initializer):
        return {
            "type": "dense",
            "units": layer.units,
            "activation": layer.g.name,
            "options": dict(layer.g.options),
            "initializer": layer.initializer,
        }
    raise ModelFileError(f"{layer!r} has parts of your own, and a model file can only name the library's")


def _layer(path: Path, description: Any) -> Layer:
    kind = description.get("type")
    if kind == "dropout":
        return Dropout(description["rate"])
    if kind == "dense":
        start = description["initializer"]
        if start is not None and (not isinstance(start, str) or start not in INITIALIZERS):
            raise ModelFileError(f"{path}: unknown initializer {start!r}")
        return Dense(description["units"], Activation(description["activation"], **description["options"]), start)
    raise ModelFileError(f"{path}: unknown type of layer {kind!r}; it may need a newer deepnotes")


def _check_header_length(path: Path) -> None:
    """Raise ModelFileError for a header that is longer than the file or than any model's."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            size = os.fstat(file.fileno()).st_size
    except (OSError, ValueError) as error:
        raise ModelFileError(f"cannot read {path}: {reason(error)}") from None
    if size < 8 or length > size - 8:
        raise ModelFileError(f"{path} is truncated or no model file: {size:,} bytes")
    if length > HEADER_LIMIT:
        raise ModelFileError(f"{path}: its header claims {length:,} bytes; a model's has at most {HEADER_LIMIT:,}")


def _header(path: Path, text: str | None) -> dict[str, Any]:
    if text is None:
        raise ModelFileError(f"{path} is a safetensors file, but not one of deepnotes")
    try:
        header = json.loads(text)
        version = header["format"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ModelFileError(f"{path}: its header is damaged") from None
    if not isinstance(version, int) or version < 1:
        raise ModelFileError(f"{path}: format {version!r} is none of deepnotes'")
    if version > FORMAT:
        raise ModelFileError(
            f"{path} has format {version}, and this deepnotes reads up to {FORMAT}; pip install --upgrade deepnotes"
        )
    return header  # type: ignore[no-any-return]


def _architecture(path: Path, header: dict[str, Any], tensors: set[str]) -> tuple[list[Layer], dict[str, Any], bool]:
    try:
        description = header["network"]
        layers = [_layer(path, layer) for layer in description["layers"]]
        inputs, dtype, seed, metadata = (*(description[key] for key in ("inputs", "dtype", "seed")), header["metadata"])
        good = (
            any(layer.parameters(1) for layer in layers)
            and type(inputs) is int
            and inputs > 0
            and type(seed) is int
            and 0 <= seed < 1 << 64
        )
        if not good or dtype not in ("float32", "float64") or not isinstance(metadata, dict):
            raise ModelFileError(f"{path}: its architecture makes no sense")
    except ModelFileError:
        raise
    except (DeepnotesError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelFileError(f"{path}: its architecture makes no sense ({error})") from None
    return layers, description, set(STANDARDIZER) <= tensors


def _network(
    path: Path,
    layers: list[Layer],
    layout: Layout,
    description: dict[str, Any],
    header: dict[str, Any],
    tensors: dict[str, np.ndarray],
    backend: str | Backend | None,
) -> "Network":
    from deepnotes.network import Network

    dtype = np.dtype(description["dtype"])
    wrong = [n for n, t in tensors.items() if t.dtype != (np.float64 if n in STANDARDIZER else dtype)]
    if wrong:
        raise ModelFileError(f"{path}: tensor {wrong[0]} is of {tensors[wrong[0]].dtype}, wanted {dtype}")
    theta = np.empty(layout.size, dtype)
    for entry in layout.entries.values():
        theta[entry.start : entry.stop] = tensors[entry.name].ravel()
    standardizer = None
    if STANDARDIZER[0] in tensors:
        try:
            standardizer = Standardizer(*(tensors[name] for name in STANDARDIZER))
        except DeepnotesError as error:
            raise ModelFileError(f"{path}: {error}") from None
    network = Network(
        layers,
        description["inputs"],
        backend=backend,
        dtype=dtype.name,
        seed=description["seed"],
        standardizer=standardizer,
        theta=theta,
    )
    network.metadata = header["metadata"]
    return network


def _digest(header: dict[str, Any], tensors: dict[str, np.ndarray]) -> str:
    """Return the SHA-256 of the header, but for the digest itself, and of every tensor."""
    import hashlib

    rest = {key: value for key, value in header.items() if key != "digest"}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = np.ascontiguousarray(tensors[name])
        digest.update(f"{name} {tensor.dtype.str} {tensor.shape};".encode())
        digest.update(tensor.data)
    return digest.hexdigest()
