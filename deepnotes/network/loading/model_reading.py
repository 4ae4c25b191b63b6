"""Loading of networks and ensembles from model files and checkpoints."""

from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deepnotes.backends.base import Backend
from deepnotes.datasets.standardizer import Standardizer
from deepnotes.network.formats import containers
from deepnotes.network.formats.containers import Document
from deepnotes.network.formats.model_files import SIMPLE_LAYERS, STANDARDIZER, TRAINING, flat, member_prefix
from deepnotes.network.network import Network
from deepnotes.nn.activations import Activation, ActivationFunction, FormulaActivation
from deepnotes.nn.constraints import LIBRARY as CONSTRAINTS
from deepnotes.nn.constraints import Constraint
from deepnotes.nn.expressions import Expression
from deepnotes.nn.initializers import LIBRARY as INITIALIZERS
from deepnotes.nn.layers import Dense, Embedding, Gate, Layer
from deepnotes.nn.plan import Layout
from deepnotes.nn.presets import DIALECTS, in_dialect
from deepnotes.utils.errors import DeepnotesError, ModelFileError
from deepnotes.utils.wording import brief

RANGES = ("real", "positive", "unit", "simplex")
"""The ranges of outputs that an activation may have."""


def load(path: str | PathLike[str], backend: str | Backend | None = None) -> Any:
    """Return the model, the network or the ensemble in a file.

    The files of ``deepnotes train`` and ``deepnotes search`` hold a :class:`~deepnotes.Model`, which predicts classes,
    or values in the units of the target, for the rows of a table. Its attribute ``network`` is the Network or the
    Ensemble. Files that :meth:`Network.save` and :meth:`Ensemble.save` write hold a Network or an Ensemble.

    Parameters
    ----------
    path : path
        A model file or a checkpoint.
    backend : str or Backend, optional
        The backend to run on, by default the selected one. It may differ from the backend that trained the network.

    Returns
    -------
    Network, Ensemble or Model

    Raises
    ------
    ModelFileError
        If the file cannot be read, is truncated or corrupted, was written in a newer format, or is not a model file.
    UnknownNameError, BackendUnavailable
        As for :func:`deepnotes.get_backend`.
    """
    return as_model(load_network(path, backend), path)


def as_model(network: Any, path: object) -> Any:
    """Return what :func:`load` returns for a network or an ensemble that was read from `path`."""
    if "target" not in network.metadata:  # the import below takes time
        return network
    from deepnotes.network.model import INVALID, Model, is_model

    if not is_model(network):
        return network
    try:
        return Model(network)
    except ModelFileError as error:
        raise ModelFileError(str(error).replace(f"the network {INVALID}", f"{path} {INVALID}", 1)) from error


def load_network(path: str | PathLike[str], backend: str | Backend | None = None) -> Network | Any:
    """Return the network in a model file or a checkpoint, or the ensemble in a model file.

    Parameters and errors are as for :func:`load`.

    Returns
    -------
    Network or Ensemble
    """
    path = containers.as_path(path)
    with containers.open_container(path) as file:
        contents = _contents(path, file)
    return _networks(path, file, contents, backend)


def read_network(path: str, document: Document, backend: str | Backend | None = None) -> Network | Any:
    """Return the network or the ensemble in a document that is in memory; `path` names it in error messages."""
    return _networks(path, document, _contents(path, document), backend)


def _networks(
    path: Path | str, file: Document, contents: "list[_Content]", backend: str | Backend | None
) -> Network | Any:
    """Return the network with this content, or the ensemble of several, on `backend`."""
    networks = [_network(path, content, backend) for content in contents]
    if "ensemble" not in file.header:
        return networks[0]
    from deepnotes.network.ensemble import Ensemble

    try:
        ensemble = Ensemble(networks)
    except DeepnotesError as error:
        raise ModelFileError(f"{path}: {error}") from None
    ensemble.metadata = file.header["metadata"]
    return ensemble


class _Content(NamedTuple):
    """The content of a file for one network."""

    layers: list[Layer]
    description: dict[str, Any]
    metadata: dict[str, Any]
    theta: np.ndarray
    constants: list[np.ndarray]


def _contents(path: Path | str, file: Document) -> list[_Content]:
    """Return the content of a file for each of its networks, after a check that the file has exactly these tensors."""
    header, shapes = file.header, set(file.shapes)
    if "ensemble" in header:
        members = _members(path, header, len(shapes))
        prefixes = [member_prefix(i) for i in range(len(members))]
    else:
        members, prefixes = [header], [""]
    tensors = {name for name in shapes if "training" not in header or not name.startswith(TRAINING)}
    expected: set[str] = set()
    architectures = []
    for prefix, member in zip(prefixes, members, strict=True):
        names = STANDARDIZER if {prefix + name for name in STANDARDIZER} <= shapes else ()
        layers, description, layout = _architecture(path, member)
        expected |= {prefix + name for name in (*layout.entries, *names)}
        architectures.append((layers, description, layout, names))
    if tensors != expected:
        differences = tensors - expected, expected - tensors
        unknown, missing = (brief(", ".join(sorted(names))) or "nothing" for names in differences)
        raise ModelFileError(
            f"{path}: the tensors do not match the architecture: unknown: {unknown}; missing: {missing}"
        )
    contents = []
    for prefix, member, (layers, description, layout, names) in zip(prefixes, members, architectures, strict=True):
        theta = flat(file, layout, np.dtype(description["dtype"]), prefix)
        shape = (description["inputs"], 1)
        constants = [file.tensor(prefix + name, shape, np.dtype(np.float64)) for name in names]
        contents.append(_Content(layers, description, member["metadata"], theta, constants))
    return contents


def _members(path: Path | str, header: dict[str, Any], tensors: int) -> list[dict[str, Any]]:
    """Return the headers of the networks of an ensemble, in a file with this number of tensors."""
    members = header["ensemble"]
    valid = isinstance(members, list) and members and all(isinstance(member, dict) for member in members)
    if not valid or "network" in header or not isinstance(header.get("metadata"), dict):
        raise ModelFileError(f"{path}: its header is invalid")
    if len(members) > tensors:  # each network has at least one
        raise ModelFileError(f"{path}: its header has {len(members):,} networks, but the file has {tensors:,} tensors")
    return members  # type: ignore[no-any-return]


def _network(path: Path | str, content: _Content, backend: str | Backend | None) -> Network:
    """Return a network with the content of a file."""
    description = content.description
    try:
        standardizer = Standardizer(*content.constants) if content.constants else None
    except DeepnotesError as error:
        raise ModelFileError(f"{path}: {error}") from None
    with in_dialect(description.get("dialect", "notes")):
        network = Network(
            content.layers,
            description["inputs"],
            backend=backend,
            dtype=description["dtype"],
            seed=description["seed"],
            standardizer=standardizer,
            theta=content.theta,
        )
    network.metadata = content.metadata
    return network


def _layer(path: Path | str, description: Any, dtype: str) -> Layer:
    """Return the layer that the header of a model file describes."""
    kind = description.get("type")
    if isinstance(kind, str) and kind in SIMPLE_LAYERS:
        return SIMPLE_LAYERS[kind](**{key: value for key, value in description.items() if key != "type"})
    if kind == "gate":
        return Gate(Activation(description["activation"], **description["options"]))
    if kind == "embedding":
        _check_initializer(path, description["initializer"])
        return Embedding(description["tables"], description["initializer"], description["unknown"])
    if kind == "dense":
        initializers = description["initializer"], description.get("bias_initializer")
        for name in initializers:
            if name is not None:
                _check_initializer(path, name)
        constraint = _constraint(path, description.get("constraint"))
        return Dense(description["units"], _activation(path, description, dtype), *initializers, constraint)
    raise ModelFileError(f"{path}: unknown layer type {brief(repr(kind))}; the file may need a newer deepnotes")


def _check_initializer(path: Path | str, name: Any) -> None:
    if not isinstance(name, str) or name not in INITIALIZERS:
        raise ModelFileError(f"{path}: unknown initializer {brief(repr(name))}")


def _constraint(path: Path | str, description: Any) -> Constraint | None:
    """Return the constraint in the description of a layer."""
    if description is None:
        return None
    kind = description["type"]
    if not isinstance(kind, str) or kind not in CONSTRAINTS:
        raise ModelFileError(f"{path}: unknown constraint {brief(repr(kind))}; the file may need a newer deepnotes")
    return CONSTRAINTS[kind](**{key: value for key, value in description.items() if key != "type"})


def _activation(path: Path | str, description: Any, dtype: str) -> ActivationFunction:
    """Return the activation in the description of a layer: one of the library's, or a formula."""
    name = description["activation"]
    if "formula" not in description:
        return Activation(name, **description["options"])
    formula, derivative = (Expression.from_data(description[key]) for key in ("formula", "derivative"))
    outputs, initializer = description["range"], description["activation_initializer"]
    valid = isinstance(name, str) and outputs in RANGES and isinstance(initializer, str) and initializer in INITIALIZERS
    if not valid or {formula.dtype, derivative.dtype} != {dtype}:
        raise ModelFileError(f"{path}: the activation {brief(repr(name))} is invalid")
    return FormulaActivation(name, formula, derivative, outputs, initializer)


def _architecture(path: Path | str, header: dict[str, Any]) -> tuple[list[Layer], dict[str, Any], Layout]:
    """Return layers, description and layout of a network; `header` is that of the file, or of one network in it."""
    try:
        description = header["network"]
        layers = [_layer(path, layer, description["dtype"]) for layer in description["layers"]]
        inputs, dtype, seed, metadata = (*(description[key] for key in ("inputs", "dtype", "seed")), header["metadata"])
        valid = (
            any(layer.parameters(1) for layer in layers)
            and type(inputs) is int
            and inputs > 0
            and type(seed) is int
            and 0 <= seed < 1 << 64
        )
        dialect = description.get("dialect", "notes")
        if not isinstance(dialect, str) or dialect not in DIALECTS:
            raise ModelFileError(f"{path}: unknown dialect {brief(repr(dialect))}; the file may need a newer deepnotes")
        if not valid or dtype not in ("float32", "float64") or not isinstance(metadata, dict):
            raise ModelFileError(f"{path}: its header is invalid")
        layout = Layout(inputs, layers)
    except ModelFileError:
        raise
    except (DeepnotesError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"{path}: its header is invalid ({brief(error)})") from None
    return layers, description, layout
