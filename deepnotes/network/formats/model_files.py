"""Model files: networks in the format of :mod:`deepnotes.network.formats.containers`, which contains no pickles.

The tensors are the parameters ``W1``, ``b1``, ..., and also ``input_mean`` and ``input_scale`` if inputs are
standardized. The header contains the architecture, dtype, seed and metadata. Names in the header are looked up in fixed
tables, and formulas consist of operations from a fixed table, so loading a file cannot import or run other code. A
checkpoint is a model file that also contains the state of training, in tensors whose names begin with ``training.``.

The file of an ensemble has format 2. Its header has the entry ``ensemble``, a list with the entries ``network`` and
``metadata`` of each network, and the names of the tensors of the network with the index i begin with ``networks.i.``.
"""

from collections.abc import Callable, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from deepnotes.network.formats import containers
from deepnotes.network.formats.containers import Document
from deepnotes.nn.activations import Activation, as_formula
from deepnotes.nn.constraints import LIBRARY as CONSTRAINTS
from deepnotes.nn.layers import (
    BatchNorm,
    Dense,
    Dropout,
    Embedding,
    Gate,
    Layer,
    LayerNorm,
    Noise,
    PReLU,
    RMSNorm,
    Shortcut,
)
from deepnotes.nn.plan import Layout
from deepnotes.utils.errors import ModelFileError, NotAnExpressionError

if TYPE_CHECKING:
    from deepnotes.network.protocol import NetworkLike


STANDARDIZER = ("input_mean", "input_scale")
"""The names of the tensors of a standardizer."""
TRAINING = "training."
"""The prefix of the names of the tensors that hold the state of training."""


SIMPLE_LAYERS: dict[str, type[Layer]] = {
    "dropout": Dropout,
    "noise": Noise,
    "layer_norm": LayerNorm,
    "rms_norm": RMSNorm,
    "batch_norm": BatchNorm,
    "prelu": PReLU,
    "shortcut": Shortcut,
}
"""The layers that are described by their type and their fields, which are numbers."""


def member_prefix(index: int) -> str:
    """Return the prefix of the names of the tensors of one network of an ensemble."""
    return f"networks.{index}."


Describe: TypeAlias = Callable[[Layer, str], dict[str, Any]]
"""Returns the description of a layer in a network of a dtype."""


def save(network: "NetworkLike", path: str | PathLike[str]) -> None:
    """Write `network` to `path` atomically; see :meth:`deepnotes.Network.save`."""
    containers.write(containers.as_path(path), *content(network))


def save_ensemble(networks: "Sequence[NetworkLike]", metadata: dict[str, Any], path: str | PathLike[str]) -> None:
    """Write the networks and the metadata of an ensemble; see :meth:`deepnotes.Ensemble.save`."""
    containers.write(containers.as_path(path), *ensemble_content(networks, metadata))


def describe(layer: Layer, dtype: str) -> dict[str, Any]:
    """Return the description of a layer in the model file of a network of this dtype.

    A user-defined activation is described by its formula, if that can be traced.

    Raises
    ------
    ModelFileError
        If the layer or an initializer is user-defined, or an activation whose formula cannot be traced.
    """
    for name, kind in SIMPLE_LAYERS.items():
        if type(layer) is kind:
            return {"type": name, **vars(layer)}
    if type(layer) is Gate and type(layer.g) is Activation:
        return {"type": "gate", "activation": layer.g.name, "options": dict(layer.g.options)}
    if type(layer) is Embedding and not callable(layer.initializer):
        tables = [list(table) for table in layer]
        return {"type": "embedding", "tables": tables, "initializer": layer.initializer, "unknown": layer.unknown}
    initializers = (layer.initializer, layer.bias_initializer) if type(layer) is Dense else ()
    if type(layer) is Dense and not any(map(callable, initializers)):
        return {
            "type": "dense",
            "units": layer.units,
            **_describe_activation(layer, dtype),
            "initializer": layer.initializer,
            "bias_initializer": layer.bias_initializer,
            **_describe_constraint(layer),
        }
    raise ModelFileError(
        f"{layer!r} is or has a user-defined class or function, but a model file can only contain those of the library"
    )


def _describe_constraint(layer: Dense) -> dict[str, Any]:
    """Return the description of a constraint: its name and its fields, which are numbers."""
    if layer.constraint is None:
        return {}
    for name, kind in CONSTRAINTS.items():
        if type(layer.constraint) is kind:
            return {"constraint": {"type": name, **vars(layer.constraint)}}
    raise ModelFileError(
        f"{layer!r} has a user-defined constraint, but a model file can only contain those of the library"
    )


def _describe_activation(layer: Dense, dtype: str) -> dict[str, Any]:
    g = layer.g
    if type(g) is Activation:
        return {"activation": g.name, "options": dict(g.options)}
    try:
        formula = as_formula(g, dtype, layer.units)
    except NotAnExpressionError as error:
        raise ModelFileError(
            f"{layer!r} has a user-defined activation, which a model file cannot describe, since it uses {error}"
        ) from None
    return {
        "activation": formula.name,
        "formula": formula.formula.to_data(),
        "derivative": formula.derivative.to_data(),
        "range": formula.range,
        "activation_initializer": formula.initializer,
    }


def content(network: "NetworkLike", describe: Describe = describe) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
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
            "layers": [describe(layer, network.dtype) for layer in network.layers],
            "dtype": network.dtype,
            "seed": network.seed,
            "dialect": network.dialect,
        },
        "metadata": network.metadata,
    }
    return header, tensors


def ensemble_content(
    networks: "Sequence[NetworkLike]", metadata: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the header and the tensors of an ensemble for a file; see :func:`content`."""
    if not isinstance(metadata, dict):
        raise ModelFileError(f"metadata is {metadata!r}, wanted a dict of JSON values")
    contents = [content(network) for network in networks]
    tensors = {member_prefix(i) + name: W for i, (_, own) in enumerate(contents) for name, W in own.items()}
    return {"format": 2, "ensemble": [header for header, _ in contents], "metadata": metadata}, tensors


def check(network: "NetworkLike", describe: Describe = describe) -> None:
    """Check before training that the network can be written afterwards; see :func:`content`.

    Raises
    ------
    ModelFileError
    """
    header, tensors = content(network, describe)
    containers.check_header(header, tensors)


def check_ensemble(networks: "Sequence[NetworkLike]", metadata: dict[str, Any]) -> None:
    """Check before training that an ensemble can be written afterwards; see :func:`check`."""
    containers.check_header(*ensemble_content(networks, metadata))


def flat(file: Document, layout: Layout, dtype: np.dtype[Any], prefix: str = "") -> np.ndarray:
    """Return the parameters in a file as a flat buffer with this `layout`, shape (p,).

    The names of the tensors begin with `prefix`.

    Raises
    ------
    ModelFileError
        If a tensor is missing, or has a different shape or dtype.
    """
    for entry in layout.entries.values():  # check all shapes before memory is allocated
        if file.shapes.get(prefix + entry.name) != entry.parameter.shape:
            file.tensor(prefix + entry.name, entry.parameter.shape, dtype)  # raises the error
    theta = np.empty(layout.size, dtype)
    for entry in layout.entries.values():
        theta[entry.start : entry.stop] = file.tensor(prefix + entry.name, entry.parameter.shape, dtype).ravel()
    return theta
