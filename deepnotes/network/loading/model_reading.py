"""Loading of networks from model files and checkpoints."""

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from deepnotes.backends.base import Backend
from deepnotes.datasets.standardizer import Standardizer
from deepnotes.network.formats import containers
from deepnotes.network.formats.model_files import STANDARDIZER, TRAINING, flat
from deepnotes.network.network import Network
from deepnotes.nn.activations import Activation
from deepnotes.nn.initializers import LIBRARY as INITIALIZERS
from deepnotes.nn.layers import Dense, Dropout, Layer
from deepnotes.nn.plan import Layout
from deepnotes.nn.presets import DIALECTS, in_dialect
from deepnotes.utils.errors import DeepnotesError, ModelFileError
from deepnotes.utils.wording import brief


def load(path: str | PathLike[str], backend: str | Backend | None = None) -> "Network":
    """Return the network in a model file or a checkpoint.

    Parameters
    ----------
    path : path
    backend : str or Backend, optional
        The backend to run on, which may differ from the one it was trained on; by default the selected one.

    Raises
    ------
    ModelFileError
        If the file cannot be read, is truncated or altered, has a newer format, or is not a model file.
    UnknownNameError, BackendUnavailable
        As for :func:`deepnotes.get_backend`.
    """
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
    with in_dialect(description.get("dialect", "notes")):
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
