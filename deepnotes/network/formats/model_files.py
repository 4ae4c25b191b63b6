"""Model files: networks in the format of :mod:`deepnotes.network.formats.containers`, which contains no pickles.

The tensors are the parameters ``W1``, ``b1``, ..., and also ``input_mean`` and ``input_scale`` if inputs are
standardized. The header contains the architecture, dtype, seed and metadata. Names in the header are looked up in fixed
tables, so loading a file cannot import other code. A checkpoint is a model file that also contains the state of
training, in tensors whose names begin with ``training.``.
"""

from collections.abc import Callable
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.network.formats import containers
from deepnotes.network.formats.containers import Container
from deepnotes.nn.activations import Activation
from deepnotes.nn.layers import Dense, Dropout, Layer
from deepnotes.nn.plan import Layout
from deepnotes.utils.errors import ModelFileError

if TYPE_CHECKING:
    from deepnotes.network.protocol import NetworkLike


STANDARDIZER = ("input_mean", "input_scale")
"""The names of the tensors of a standardizer."""
TRAINING = "training."
"""The prefix of the names of the tensors that hold the state of training."""


def save(network: "NetworkLike", path: str | PathLike[str]) -> None:
    """Write `network` to `path` atomically; see :meth:`deepnotes.Network.save`."""
    containers.write(containers.as_path(path), *content(network))


def describe(layer: Layer) -> dict[str, Any]:
    """Return the JSON description of a layer for a model file.

    Raises
    ------
    ModelFileError
        If the layer, its activation or an initializer is user-defined, since a file cannot describe these.
    """
    if type(layer) is Dropout:
        return {"type": "dropout", "rate": layer.rate}
    initializers = (layer.initializer, layer.bias_initializer) if type(layer) is Dense else ()
    if type(layer) is Dense and isinstance(layer.g, Activation) and not any(map(callable, initializers)):
        return {
            "type": "dense",
            "units": layer.units,
            "activation": layer.g.name,
            "options": dict(layer.g.options),
            "initializer": layer.initializer,
            "bias_initializer": layer.bias_initializer,
        }
    raise ModelFileError(
        f"{layer!r} is or has a user-defined class or function, but a model file can only contain those of the library"
    )


def content(
    network: "NetworkLike", describe: Callable[[Layer], dict[str, Any]] = describe
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the header and the tensors of a network for a file; `describe` returns the description of a layer.

    Raises
    ------
    ModelFileError
        If the metadata is not a dict, or `describe` raises ModelFileError.
    """
    tensors = {name: network.backend.to_numpy(W) for name, W in network.parameters.items()}
    if network.standardizer is not None:
        tensors |= dict(zip(STANDARDIZER, (network.standardizer.mean, network.standardizer.scale), strict=True))
    if not isinstance(network.metadata, dict):
        raise ModelFileError(f"metadata is {network.metadata!r}, wanted a dict of JSON values")
    header = {
        "network": {
            "inputs": network.inputs,
            "layers": [describe(layer) for layer in network.layers],
            "dtype": network.dtype,
            "seed": network.seed,
            "dialect": network.dialect,
        },
        "metadata": network.metadata,
    }
    return header, tensors


def check(network: "NetworkLike", describe: Callable[[Layer], dict[str, Any]] = describe) -> None:
    """Check before training that the network can be written afterwards; see :func:`content`.

    Raises
    ------
    ModelFileError
    """
    header, tensors = content(network, describe)
    containers.check_header(header, tensors)


def flat(file: Container, layout: Layout, dtype: np.dtype[Any]) -> np.ndarray:
    """Return the parameters in a file as a flat buffer with this `layout`, shape (p,).

    Raises
    ------
    ModelFileError
        If a tensor is missing, or has a different shape or dtype.
    """
    for entry in layout.entries.values():  # check all shapes before memory is allocated
        if file.shapes.get(entry.name) != entry.parameter.shape:
            file.tensor(entry.name, entry.parameter.shape, dtype)  # raises the error
    theta = np.empty(layout.size, dtype)
    for entry in layout.entries.values():
        theta[entry.start : entry.stop] = file.tensor(entry.name, entry.parameter.shape, dtype).ravel()
    return theta
