"""A trained network, together with a description of its inputs and outputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import deepnotes
from deepnotes.backends.base import Backend
from deepnotes.cli import data, reading_options
from deepnotes.cli.output import format_count, replace_nonfinite
from deepnotes.cli.tasks import Classification, Task, as_metadata, from_metadata
from deepnotes.datasets.disk_tables import DiskTable
from deepnotes.datasets.encoding import Encoder
from deepnotes.datasets.on_disk import OnDisk
from deepnotes.datasets.reading import Format, Request
from deepnotes.datasets.tables import Table
from deepnotes.network.ensemble import Ensemble
from deepnotes.network.formats import model_files
from deepnotes.network.model import INVALID, request_of
from deepnotes.network.network import Network
from deepnotes.utils.errors import ArgumentError, ModelFileError
from deepnotes.utils.wording import join_names


@dataclass(frozen=True)
class Model:
    """The content of a model file that ``deepnotes train`` wrote.

    Parameters
    ----------
    network : Network or Ensemble
    features : list of str
        The names of the network's inputs, in order: columns, or ``COLUMN=CATEGORY``.
    target : str or list of str
        The column that the network predicts, or several.
    task : Task
    encoder : Encoder, optional
        Encodes the columns of a table as inputs; by default, each feature is the column of that name.
    dates : sequence of str
        The columns that are read as dates.
    format : mapping
        Those options for reading the training data that differ from their defaults; see
        :mod:`deepnotes.cli.reading_options`.
    """

    network: Network | Ensemble
    features: list[str]
    target: data.Target
    task: Task
    encoder: Encoder = field(default=None)  # type: ignore[assignment]  # set in __post_init__
    dates: Sequence[str] = ()
    format: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.encoder is None:
            object.__setattr__(self, "encoder", data.plain_encoder(self.features))

    def save(self, path: Path, **more: Any) -> None:
        """Write the model file, with `more` as additional metadata."""
        self.set_metadata(**more)
        for member in self.network if isinstance(self.network, Ensemble) else ():
            member.metadata = {}  # the file has the metadata once
        self.network.save(path)

    def set_metadata(self, **more: Any) -> None:
        """Store the description of the inputs and outputs, and `more`, as the metadata of the network or ensemble.

        The members of an ensemble get the same metadata, so that their checkpoints contain it.
        """
        names = {"features": self.features, "target": self.target}
        columns = {} if self.encoder.is_plain else {"columns": self.encoder.as_metadata()}
        dates = {"dates": list(self.dates)} if self.dates else {}
        reading = {"format": dict(self.format)} if self.format else {}
        metadata = names | columns | dates | reading | as_metadata(self.task) | replace_nonfinite(more)
        self.network.metadata = metadata
        for member in self.network if isinstance(self.network, Ensemble) else ():
            member.metadata = metadata

    def check(self) -> None:
        """Check before training that the model file can be written afterwards.

        Raises
        ------
        ModelFileError
        """
        if isinstance(self.network, Ensemble):
            model_files.check_ensemble(self.network.networks, self.network.metadata)
        else:
            model_files.check(self.network)

    @classmethod
    def load(cls, path: str, backend: Backend) -> "Model":
        """Load a model file, to run on `backend`.

        Raises
        ------
        ModelFileError
            If the file cannot be read, or its metadata does not describe the inputs and outputs.
        """
        model = deepnotes.load(path, backend)
        if not isinstance(model, deepnotes.Model):
            raise ModelFileError(f"{path} {INVALID}; use a model that 'deepnotes train' wrote")
        try:
            task = from_metadata(model.metadata, model.network.outputs)
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ModelFileError(
                f"{path} {INVALID} ({type(error).__name__}: {error}); use a model that 'deepnotes train' wrote"
            ) from error
        reading = reading_options.as_metadata(model.format)
        return cls(model.network, model.encoder.inputs, model.target, task, model.encoder, model.dates, reading)

    def request(
        self, target: data.Target | None = None, file_format: Format | None = None, drop_missing: bool = False
    ) -> Request:
        """Return the request for the columns that the model needs.

        Parameters
        ----------
        target : str or list of str, optional
            Target columns to read in addition to the features.
        file_format : Format, optional
            By default, the format of the training data.
        drop_missing : bool
            Whether to leave out the rows whose target is missing.
        """
        targets = [] if target is None else data.names_of(target)
        file_format = Format(**self.format) if file_format is None else file_format
        as_text = isinstance(self.task, Classification)
        return request_of(self.encoder, self.dates, file_format, targets, as_text=as_text, drop_missing=drop_missing)

    def requested_target(self, requested: str | None) -> data.Target:
        """Return the target columns with the true values: those that the option --target names, or those of the model.

        Raises
        ------
        ArgumentError
            If the option does not name as many columns as the model predicts.
        """
        if requested is None or isinstance(self.target, str):
            return requested or self.target
        names = [name.strip() for name in requested.split(",")]
        if len(names) != len(self.target):
            raise ArgumentError(
                f"--target {requested}: wanted {len(self.target)} columns, for {join_names(self.target)}"
            )
        return names

    def inputs(self, table: Table | DiskTable, unknown: str = "error") -> np.ndarray | OnDisk:
        """Return X, shape (n, m), from the feature columns of `table`; other columns are ignored.

        Raises
        ------
        TableError
            If a feature column is missing, has the wrong type (text or numbers), or has an unknown category.
        """
        return data.samples(table, self.encoder, unknown)

    def facts(self, path: str) -> list[tuple[str, str]]:
        """Describe the model for :meth:`Output.facts`; `path` is the file that it was loaded from."""
        network = self.network
        features = format_count(len(self.features), "feature")
        kind = f"{format_count(len(network), 'network')}, " if isinstance(network, Ensemble) else ""
        return [
            ("model", f"{path}: {kind}{features}, backend {network.backend.name}, {network.dtype}"),
            ("target", f"{self.target!r}: {self.task}"),
        ]
