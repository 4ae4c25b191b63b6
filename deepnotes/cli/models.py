"""A trained network together with what its inputs and outputs mean."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import deepnotes
from deepnotes.backend import Backend
from deepnotes.cli.output import counted, finite
from deepnotes.cli.tasks import Task, as_metadata, from_metadata
from deepnotes.errors import ModelFileError
from deepnotes.network import Network
from deepnotes.tables import Table


@dataclass(frozen=True)
class Model:
    """What a model file of the command line holds.

    Parameters
    ----------
    network : Network
    features : list of str
        The columns that are its inputs, in order.
    target : str
        The column that it predicts.
    task : Task
    """

    network: Network
    features: list[str]
    target: str
    task: Task

    def save(self, path: Path, **more: Any) -> None:
        """Write the model file, with `more` in the metadata."""
        self.label(**more)
        self.network.save(path)

    def label(self, **more: Any) -> None:
        """Put what inputs and outputs mean into the network's metadata, and `more`."""
        named = {"features": self.features, "target": self.target}
        self.network.metadata = named | as_metadata(self.task) | finite(more)

    @classmethod
    def load(cls, path: str, backend: Backend) -> "Model":
        """Return what is in a model file, to run on `backend`.

        Raises
        ------
        ModelFileError
            If it cannot be read, or does not say what the inputs and outputs mean.
        """
        network = deepnotes.load(path, backend)
        try:
            features, target = network.metadata["features"], network.metadata["target"]
            if len(features) != network.inputs or not all(isinstance(name, str) for name in (*features, target)):
                raise ValueError(f"features {features!r} and target {target!r}")
            return cls(network, features, target, from_metadata(network.metadata, network.outputs))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ModelFileError(
                f"{path} does not say what its inputs and outputs mean ({type(error).__name__}: {error}); "
                "use a model that 'deepnotes train' wrote"
            ) from error

    def inputs(self, table: Table) -> np.ndarray:
        """Return X, shape (n, m): the columns of `table` that are features, whatever else it has.

        Raises
        ------
        TableError
            If one is missing, with its name, or is text.
        """
        return table.features(names=self.features)[0].T

    def facts(self, path: str) -> list[tuple[str, str]]:
        """Return what the model in the file `path` is, in words."""
        network = self.network
        features = counted(len(self.features), "feature")
        return [
            ("model", f"{path}: {features}, backend {network.backend.name}, {network.dtype}"),
            ("target", f"{self.target!r}: {self.task}"),
        ]
