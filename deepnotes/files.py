"""Model files: what a network is, in a container of :mod:`deepnotes.containers`; never pickle.

The tensors are ``W1``, ``b1``, ... as the network names them, and ``input_mean`` and ``input_scale`` where inputs are
standardized. The header has architecture, dtype, seed and metadata. Names in it are looked up in fixed tables; nothing
in a file leads to an import. A checkpoint is a model file that has the training in it besides, in tensors whose names
begin with ``training.``.
"""

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes import containers
from deepnotes.activations import Activation
from deepnotes.backend import Backend
from deepnotes.containers import Container
from deepnotes.dialects import DIALECTS, speaking
from deepnotes.errors import DeepnotesError, ModelFileError
from deepnotes.initializers import LIBRARY as INITIALIZERS
from deepnotes.layers import Dense, Dropout, Layer
from deepnotes.plan import Layout
from deepnotes.preprocessing import Standardizer
from deepnotes.wording import brief

if TYPE_CHECKING:
    from deepnotes.network import Network

STANDARDIZER = ("input_mean", "input_scale")
TRAINING = "training."
"""What the names of a checkpoint's other tensors begin with."""


def save(network: "Network", path: str | PathLike[str]) -> None:
    """Write `network` to `path`, whole or not at all; see :meth:`deepnotes.Network.save`."""
    containers.write(containers.as_path(path), *content(network))


def describe(layer: Layer) -> dict[str, Any]:
    """Return what a model file says of a layer.

    Raises
    ------
    ModelFileError
        If it has parts that no file can name.
    """
    if type(layer) is Dropout:
        return {"type": "dropout", "rate": layer.rate}
    starts = (layer.initializer, layer.bias_initializer) if type(layer) is Dense else ()
    if type(layer) is Dense and isinstance(layer.g, Activation) and not any(map(callable, starts)):
        return {
            "type": "dense",
            "units": layer.units,
            "activation": layer.g.name,
            "options": dict(layer.g.options),
            "initializer": layer.initializer,
            "bias_initializer": layer.bias_initializer,
        }
    raise ModelFileError(f"{layer!r} has parts of your own, and a model file can only name the library's")


def content(
    network: "Network", describe: Callable[[Layer], dict[str, Any]] = describe
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the header and the tensors of a network.

    Raises
    ------
    ModelFileError
        If its metadata are no dict, and whatever `describe` raises.
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


def check(network: "Network", describe: Callable[[Layer], dict[str, Any]] = describe) -> None:
    """Check before a training that the network can be written after it.

    Raises
    ------
    ModelFileError
    """
    header, tensors = content(network, describe)
    containers.check_header(header, tensors)


def load(path: str | PathLike[str], backend: str | Backend | None = None) -> "Network":
    """Return the network in a model file or a checkpoint.

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
    from deepnotes.network import Network

    path = containers.as_path(path)
    with containers.opened(path) as file:
        layers, description, standardized = _architecture(path, file.header, set(file.shapes))
        layout = Layout(description["inputs"], layers)
        wanted = {*layout.entries, *(STANDARDIZER if standardized else ())}
        found = {name for name in file.shapes if "training" not in file.header or not name.startswith(TRAINING)}
        if wanted != found:
            more, less = (brief(", ".join(sorted(names))) or "nothing" for names in (found - wanted, wanted - found))
            raise ModelFileError(
                f"{path}: its tensors are not those of its architecture: {more} is unknown, {less} is missing"
            )
        dtype = np.dtype(description["dtype"])
        theta = flat(file, layout, dtype)
        shape = (description["inputs"], 1)
        numbers = [file.tensor(name, shape, np.dtype(np.float64)) for name in STANDARDIZER] if standardized else []
        metadata = file.header["metadata"]
    try:
        standardizer = Standardizer(*numbers) if numbers else None
    except DeepnotesError as error:
        raise ModelFileError(f"{path}: {error}") from None
    with speaking(description.get("dialect", "notes")):
        network = Network(
            layers,
            description["inputs"],
            backend=backend,
            dtype=dtype.name,
            seed=description["seed"],
            standardizer=standardizer,
            theta=theta,
        )
    network.metadata = metadata
    return network


def flat(file: Container, layout: Layout, dtype: np.dtype[Any]) -> np.ndarray:
    """Return the parameters in a file in the order of the buffer, shape (p,).

    Raises
    ------
    ModelFileError
        If one is missing, or has another shape or dtype.
    """
    for entry in layout.entries.values():  # before memory is taken for as much as it says
        if file.shapes.get(entry.name) != entry.parameter.shape:
            file.tensor(entry.name, entry.parameter.shape, dtype)
    theta = np.empty(layout.size, dtype)
    for entry in layout.entries.values():
        theta[entry.start : entry.stop] = file.tensor(entry.name, entry.parameter.shape, dtype).ravel()
    return theta


def _layer(path: Path, description: Any) -> Layer:
    kind = description.get("type")
    if kind == "dropout":
        return Dropout(description["rate"])
    if kind == "dense":
        starts = description["initializer"], description.get("bias_initializer")
        for start in starts:
            if start is not None and (not isinstance(start, str) or start not in INITIALIZERS):
                raise ModelFileError(f"{path}: unknown initializer {brief(repr(start))}")
        return Dense(description["units"], Activation(description["activation"], **description["options"]), *starts)
    raise ModelFileError(f"{path}: unknown type of layer {brief(repr(kind))}; it may need a newer deepnotes")


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
        dialect = description.get("dialect", "notes")
        if not isinstance(dialect, str) or dialect not in DIALECTS:
            raise ModelFileError(f"{path}: unknown defaults {brief(repr(dialect))}; they may need a newer deepnotes")
        if not good or dtype not in ("float32", "float64") or not isinstance(metadata, dict):
            raise ModelFileError(f"{path}: its architecture makes no sense")
    except ModelFileError:
        raise
    except (DeepnotesError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"{path}: its architecture makes no sense ({brief(error)})") from None
    return layers, description, set(STANDARDIZER) <= tensors
