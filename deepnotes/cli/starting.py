"""``deepnotes train --from MODEL``: start training from the weights of a model."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from deepnotes.backends.base import Backend
from deepnotes.cli import data
from deepnotes.cli.models import Model
from deepnotes.cli.output import format_count
from deepnotes.cli.training_data import TrainingData
from deepnotes.datasets.tables import Table
from deepnotes.network.ensemble import Ensemble
from deepnotes.network.network import Network
from deepnotes.nn.hidden_layers import NORMALIZATIONS
from deepnotes.nn.layers import Dense, Dropout, Shortcut
from deepnotes.utils.errors import ArgumentError, TableError


@dataclass(frozen=True)
class Start:
    """A model whose weights training starts from.

    Parameters
    ----------
    path : str
    model : Model
    """

    path: str
    model: Model

    @classmethod
    def load(cls, args: argparse.Namespace, backend: Backend) -> "Start":
        """Load the model that --from names.

        Raises
        ------
        ModelFileError
            If it is not a model file.
        ArgumentError
            If an option contradicts the model.
        """
        start = cls(args.start, Model.load(args.start, backend))
        model, members = start.model, len(start.networks)
        sizes = tuple(layer.units for layer in start.networks[0].layers[:-1] if isinstance(layer, Dense))
        target = ",".join(data.names_of(model.target))
        start._require("--target", args.target, target)
        start._require("--loss", args.loss, model.task.loss)
        start._require("--task", None if args.task == "auto" else args.task, model.task.kind)
        if args.quantiles is not None:
            given, held = (",".join(map(str, q)) for q in (args.quantiles, getattr(model.task, "quantiles", ())))
            start._require("--quantiles", given, held)
        if args.layers is not None and tuple(args.layers) != sizes:
            start._refuse("--layers", ",".join(map(str, args.layers)), ",".join(map(str, sizes)) or "none")
        if args.members is None and members > 1:
            raise ArgumentError(f"--from {args.start}: it has {members} networks; use --members {members}")
        if members != (args.members or 1):
            start._refuse("--members", args.members, members)
        for option in ("dropout", "norm", "residual"):
            if getattr(args, option) not in (None, False):
                raise ArgumentError(f"--{option} cannot be combined with --from, which has the layers of the model")
        if args.embed_above is not None:
            raise ArgumentError("--embed-above cannot be combined with --from, which has the encoding of the model")
        if args.folds:
            raise ArgumentError("--folds cannot be combined with --from: the model has seen the rows of the folds")
        return start

    @property
    def networks(self) -> tuple[Network, ...]:
        """The network of the model, or the networks of its ensemble."""
        network = self.model.network
        return network.networks if isinstance(network, Ensemble) else (network,)

    def options(self, args: argparse.Namespace) -> argparse.Namespace:
        """Return the options of ``train``, with those of the model where none was given."""
        encoder, model = self.model.encoder, self.model
        numeric = [name for name in encoder.numeric if name not in model.dates]
        imputed = any(feature.fill is not None for feature in encoder.features)
        hidden = self.networks[0].layers[:-1]
        dense = [layer for layer in hidden if isinstance(layer, Dense)]
        rates = [layer.rate for layer in hidden if isinstance(layer, Dropout)]
        activation = getattr(dense[0].g, "name", "") if dense else args.activation
        norms = [name for name, norm in NORMALIZATIONS.items() if norm in map(type, hidden)]
        layers: dict[str, Any] = {
            "layers": tuple(layer.units for layer in dense),
            "dropout": rates[0] if rates else 0.0,
            "activation": activation,
            "norm": norms[0] if norms else None,
            "residual": Shortcut in map(type, hidden),
            "dtype": model.network.dtype,
        }
        given = {name: value for name, value in model.format.items() if getattr(args, name) is None}
        return argparse.Namespace(
            **vars(args)
            | {
                "target": ",".join(data.names_of(model.target)),
                "task": model.task.kind,
                "categorical": encoder.text,
                "numeric": numeric,
            }
            | {"dates": list(model.dates), "impute": args.impute or ["mean"] * imputed}
            | layers
            | given
        )

    def applied_to(self, source: TrainingData) -> TrainingData:
        """Return the data with the columns and the encoding of the model.

        Raises
        ------
        TableError
            If a column is missing, or has a category that the model does not know.
        """
        encoder = self.model.encoder
        if isinstance(source.table, Table):
            source.table.require(encoder.names)
            for name, count in encoder.count_unknown(source.table).items():
                rows = format_count(count, "row")
                raise TableError(
                    f"{source.table.source}: column {name!r} has {rows} with a category that {self.path} does not know"
                )
        return replace(source, names=encoder.names, fixed_encoder=encoder)

    def set_weights(self, networks: Sequence[Network]) -> None:
        """Give networks with the same layers the weights and the standardization of the model.

        Raises
        ------
        ArgumentError
            If the layers differ.
        """
        for network, start in zip(networks, self.networks, strict=True):
            if network.layers != start.layers or network.inputs != start.inputs:
                raise ArgumentError(
                    f"--from {self.path}: its layers are {list(start.layers)}, but 'deepnotes train' makes "
                    f"{list(network.layers)}; use Network.fit"
                )
            network.standardizer = start.standardizer
            network.set_flat(start.flat())

    def _require(self, option: str, given: object, held: object) -> None:
        if given is not None and given != held:
            self._refuse(option, given, held)

    def _refuse(self, option: str, given: object, held: object) -> None:
        raise ArgumentError(f"{option} {given}: --from {self.path} has {held}, and training starts from its weights")
