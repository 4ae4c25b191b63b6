"""Malicious model files with correct digests, as an attacker who knows the format could write them."""

import json
import struct
from typing import Any

import numpy as np

import deepnotes as dn
from deepnotes.network.formats import containers


def network(**settings: Any) -> dn.Network:
    """Return a small network with metadata."""
    layers = [
        dn.Dense(5, dn.Activation("leaky_relu", slope=0.2), "he_uniform"),
        dn.Dropout(0.25),
        dn.Dense(2, "softmax"),
    ]
    standardizer = dn.Standardizer.fit(np.arange(12.0).reshape(3, 4))
    net = dn.Network(layers, inputs=3, **{"seed": 7, "backend": "numpy", "standardizer": standardizer} | settings)
    net.metadata = {
        "features": ["a", "b", "ç"], "target": "kind", "task": "classification", "classes": ["no", "yes"],
        "loss": "categorical_cross_entropy",
    }  # fmt: skip
    return net


def parts(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the JSON header of a safetensors file and the data after it."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def build(header: dict[str, Any] | str, data: bytes) -> bytes:
    """Return a safetensors file with this header (JSON text or a dictionary) and data."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(text)) + text + data


def header_of(content: bytes) -> dict[str, Any]:
    """Return the deepnotes header of a model file without its digests."""
    header: dict[str, Any] = json.loads(parts(content)[0]["__metadata__"]["deepnotes"])
    return {key: value for key, value in header.items() if key not in {"digest", "digests"}}


def tensors(content: bytes) -> dict[str, np.ndarray]:
    """Return the tensors of a valid model file."""
    from safetensors.numpy import load

    return load(content)


def sealed(header: Any, arrays: dict[str, np.ndarray]) -> bytes:
    """Return a model file with this header, these tensors, and correct digests of both."""
    from safetensors.numpy import save

    if isinstance(header, dict):
        header = header | {"digests": {name: containers.digest(array) for name, array in arrays.items()}}
        header["digest"] = containers.digest_of_header(header)
    return save(arrays, metadata={"deepnotes": header if isinstance(header, str) else json.dumps(header)})
