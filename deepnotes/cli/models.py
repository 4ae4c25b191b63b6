"""A trained network together with the meaning of its inputs and outputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import deepnotes
from deepnotes.backends.base import Backend
from deepnotes.cli import data, reading_options
from deepnotes.cli.output import counted, finite
from deepnotes.cli.tasks import Classification, Task, as_metadata, from_metadata
from deepnotes.datasets.disk_tables import DiskTable
from deepnotes.datasets.encoding import Encoder
from deepnotes.datasets.on_disk import OnDisk
from deepnotes.datasets.readings import Format, Request
from deepnotes.datasets.tables import Table
from deepnotes.network.network import Network
from deepnotes.utils.errors import ModelFileError


@dataclass(frozen=True)
class Model:
    """The content of a model file of the command line.

    Parameters
    ----------
    network : Network
    features : list of str
        The names of its inputs, in order: columns, or ``COLUMN=CATEGORY``.
    target : str
        The column that it predicts.
    task : Task
    encoder : Encoder, optional
        Encodes the columns of a table as inputs; by default each feature is a column.
    dates : sequence of str
        The columns that are read as dates.
    format : mapping
        The reading options that were given for the training data: see :mod:`deepnotes.cli.reading_options`.
    """

    network: Network
    features: list[str]
    target: str
    task: Task
    encoder: Encoder = field(default=None)  # type: ignore[assignment]  # filled in below
    dates: Sequence[str] = ()
    format: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.encoder is None:
            object.__setattr__(self, "encoder", data.plain(self.features))

    def save(self, path: Path, **more: Any) -> None:
        """Write the model file, with `more` in the metadata."""
        self.label(**more)
        self.network.save(path)

    def label(self, **more: Any) -> None:
        """Put the meaning of inputs and outputs, and `more`, into the network's metadata."""
        named = {"features": self.features, "target": self.target}
        columns = {} if self.encoder.is_plain else {"columns": self.encoder.as_metadata()}
        dates = {"dates": list(self.dates)} if self.dates else {}
        written = {"format": dict(self.format)} if self.format else {}
        self.network.metadata = named | columns | dates | written | as_metadata(self.task) | finite(more)

    @classmethod
    def load(cls, path: str, backend: Backend) -> "Model":
        """Load a model file, to run on `backend`.

        Raises
        ------
        ModelFileError
            If it cannot be read, or does not give the meaning of inputs and outputs.
        """
        network = deepnotes.load(path, backend)
        try:
            features, target = network.metadata["features"], network.metadata["target"]
            if len(features) != network.inputs or not all(isinstance(name, str) for name in (*features, target)):
                raise ValueError(f"features {features!r} and target {target!r}")
            columns = network.metadata.get("columns", [{"name": name} for name in features])
            encoder = Encoder.from_metadata(columns)
            if encoder.inputs != features or len(set(encoder.names)) < len(encoder.names):
                raise ValueError(f"columns that make the features {encoder.inputs!r} of {features!r}")
            dates = network.metadata.get("dates", [])
            if not isinstance(dates, list) or not set(dates) <= {*encoder.numeric, target}:
                raise ValueError(f"dates {dates!r}")
            written = reading_options.from_metadata(network.metadata.get("format", {}))
            task = from_metadata(network.metadata, network.outputs)
            return cls(network, features, target, task, encoder, dates, written)
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ModelFileError(
                f"{path} does not say what its inputs and outputs mean ({type(error).__name__}: {error}); "
                "use a model that 'deepnotes train' wrote"
            ) from error

    def read(
        self,
        source: str,
        from_disk: bool = False,
        target: str | None = None,
        form: Format | None = None,
        drop_missing: bool = False,
    ) -> Table | DiskTable:
        """Read the table that `source` names: the feature columns, and the target if it is given.

        Raises
        ------
        UnknownNameError, TableError
            If one is missing, with its name.
        """
        asked = [] if target is None else [target]
        classes = isinstance(self.task, Classification)
        dates = [name for name in self.dates if name in self.encoder.names or name in asked]
        numeric = [name for name in [*self.encoder.numeric, *([] if classes else asked)] if name not in self.dates]
        request = Request(
            columns=[*self.encoder.names, *asked],
            text=[*self.encoder.text, *(asked if classes else [])],
            numeric=numeric,
            dates=dates,
            drop_missing=asked if drop_missing else [],
            format=Format(**self.format) if form is None else form,
        )
        return data.read_from_disk(source, request) if from_disk else data.read(source, request)

    def inputs(self, table: Table | DiskTable, unknown: str = "error") -> np.ndarray | OnDisk:
        """Return X, shape (n, m), from the feature columns of `table`; others are ignored.

        Raises
        ------
        TableError
            If one is missing, with its name, or of another kind, or has a category that is unknown.
        """
        return data.samples(table, self.encoder, unknown)

    def facts(self, path: str) -> list[tuple[str, str]]:
        """Describe the model in the file `path`."""
        network = self.network
        features = counted(len(self.features), "feature")
        return [
            ("model", f"{path}: {features}, backend {network.backend.name}, {network.dtype}"),
            ("target", f"{self.target!r}: {self.task}"),
        ]
