"""Chain and ChainMean: a network or an ensemble in the form that other file formats can represent."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from deepnotes.datasets.encoding import Encoder
from deepnotes.datasets.standardizer import Standardizer
from deepnotes.equations.array import Array
from deepnotes.equations.ops import Ops
from deepnotes.network.evaluation import mean_output
from deepnotes.nn.activations import Activation, ActivationFunction, FormulaActivation, as_formula
from deepnotes.nn.layers import Context, Dense, Dropout
from deepnotes.utils.errors import ModelFileError, NotAnExpressionError
from deepnotes.utils.wording import brief

if TYPE_CHECKING:
    from deepnotes.network.protocol import NetworkLike


class Link(NamedTuple):
    """One dense layer: ``A = g(W A_prev + b)``, with W of shape (n, n_prev) and b of shape (n, 1)."""

    W: np.ndarray
    b: np.ndarray
    g: ActivationFunction

    @property
    def layer(self) -> Dense:
        """The layer without its parameters."""
        return Dense(len(self.W), self.g)

    @property
    def name(self) -> str:
        """The name of the activation, in text."""
        return str(getattr(self.g, "name", type(self.g).__name__))

    def has(self, name: str) -> bool:
        """Return whether the activation is the library's one of this name; another class may have the same name."""
        return type(self.g) is Activation and self.g.name == name


class Target(NamedTuple):
    """The mean and scale of a standardized target: ``output * scale + mean`` is in the original units of the target."""

    mean: float
    scale: float


class Described:
    """The description of the inputs and outputs that a chain and a mean of chains have in common."""

    target: Target | None
    metadata: dict[str, Any]

    @property
    def encoder(self) -> Encoder | None:
        """The encoder that converts the columns of a table to inputs; None if the columns are the inputs."""
        try:
            encoder = Encoder.from_metadata(self.metadata["columns"])
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
            return None
        return encoder if encoder.inputs == self.metadata.get("features") and not encoder.is_plain else None

    def output_metadata(self) -> dict[str, Any]:
        """Return the metadata for outputs in the target's original units."""
        if self.target is None:
            return self.metadata
        return self.metadata | {key: value for key, value in NO_TARGET.items() if key in self.metadata}


@dataclass(frozen=True, eq=False)
class Chain(Described):
    """Dense layers, with the preprocessing of their inputs and the scaling of their outputs.

    Parameters
    ----------
    links : sequence of Link
    dtype : {"float32", "float64"}
        The dtype of the parameters and of the computation.
    standardizer : Standardizer, optional
        Applied to the inputs before the first layer.
    target : Target, optional
    metadata : dict
        JSON values by name: ``features``, ``classes``, ``target`` and others, and ``columns`` if features are encoded.
    """

    links: Sequence[Link]
    dtype: str
    standardizer: Standardizer | None = None
    target: Target | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> int:
        """``n[0]``, the number of features."""
        return int(self.links[0].W.shape[1])

    @property
    def outputs(self) -> int:
        """``n[L]``, the number of outputs."""
        return len(self.links[-1].W)

    @property
    def members(self) -> "list[tuple[str, Chain]]":
        """The chain itself, with an empty prefix for names; see :attr:`ChainMean.members`."""
        return [("", self)]

    @staticmethod
    def combine(outputs: Sequence[Any]) -> Any:
        """Return the outputs of the only member."""
        return outputs[0]

    @classmethod
    def of(cls, network: "NetworkLike", target: Target | None = None) -> "Chain":
        """Return the chain for a network; dropout is omitted, since it does not affect predictions.

        Raises
        ------
        ModelFileError
            If the network has a user-defined layer, an activation whose formula cannot be traced, or preprocessing that
            other formats cannot represent.
        """
        preprocessing = network.standardizer
        if preprocessing is not None and type(preprocessing) is not Standardizer:
            raise ModelFileError(
                f"the inputs are preprocessed by {brief(repr(preprocessing))}, but files of other formats can "
                "only contain a Standardizer; Network.save stores its mean and scale"
            )
        if not isinstance(network.metadata, dict):
            raise ModelFileError(f"metadata is {brief(repr(network.metadata))}, wanted a dict of JSON values")
        host = {name: np.array(network.backend.to_numpy(W)) for name, W in network.parameters.items()}
        links: list[Link] = []
        for number, layer in enumerate(network.layers, 1):
            if type(layer) is Dropout:
                continue
            if type(layer) is not Dense:
                raise ModelFileError(
                    f"layer {number} is the user-defined layer {brief(repr(layer))}, but files of other formats can "
                    "only contain Dense and Dropout"
                )
            g = _exported(layer, number, network.dtype)
            links.append(Link(host[f"W{len(links) + 1}"], host[f"b{len(links) + 1}"], g))
        return cls(tuple(links), network.dtype, preprocessing, target, network.metadata)

    def with_folded_target(self) -> "Chain":
        """Return a chain that computes the same outputs, with the target's scale and mean folded into the last layer.

        Raises
        ------
        ModelFileError
            If the last layer is not linear.
        """
        if self.target is None:
            return self
        *before, (W, b, g) = self.links
        if not self.links[-1].has("identity"):
            raise ModelFileError(
                f"the outputs of {self.links[-1].name} are scaled by {self.target.scale:g}, which cannot be "
                "folded into a layer"
            )
        last = Link(*scale_layer(W, b, np.float64(self.target.scale), np.float64(self.target.mean), self.dtype), g)
        return replace(self, links=(*before, last), target=None, metadata=self.output_metadata())

    def forward(self, ops: Ops, A: Array, parameter: Any) -> Array:
        """Return ``A[L]``, shape (n[L], m), for preprocessed inputs, on any namespace.

        Parameters
        ----------
        ops : Ops
        A : Array, shape (n[0], m)
        parameter : callable
            Called with the name of a parameter, such as ``W1``, and its host array; returns an array of the namespace.
        """
        for number, link in enumerate(self.links, 1):
            parameters = {"W": parameter(f"W{number}", link.W), "b": parameter(f"b{number}", link.b)}
            A, _ = link.layer.forward(ops, parameters, A, Context(number, 0, None))
        return A

    def preprocess(self, X: np.ndarray) -> np.ndarray:
        """Return the inputs X, shape (n[0], m), after standardization, in the dtype of the chain."""
        with np.errstate(all="ignore"):
            X = X.astype(np.float64) if self.standardizer is None else self.standardizer(X.astype(np.float64))
            return X.astype(self.dtype)

    def __str__(self) -> str:
        layers = ", ".join(f"{len(link.W)} {link.name}" for link in self.links)
        return f"{self.inputs} features, dense {layers}"


@dataclass(frozen=True, eq=False)
class ChainMean(Described):
    """The mean of the outputs of several chains, which have the same inputs, outputs and dtype.

    Parameters
    ----------
    chains : sequence of Chain
        Their metadata and targets are ignored.
    target : Target, optional
    metadata : dict
        As for :class:`Chain`.
    """

    chains: Sequence[Chain]
    target: Target | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, networks: "Sequence[NetworkLike]", metadata: dict[str, Any], target: Target | None = None
    ) -> "ChainMean":
        """Return the mean of the chains of some networks.

        Raises
        ------
        ModelFileError
            As for :meth:`Chain.of`.
        """
        if not isinstance(metadata, dict):
            raise ModelFileError(f"metadata is {brief(repr(metadata))}, wanted a dict of JSON values")
        return cls(tuple(map(Chain.of, networks)), target, metadata)

    @property
    def members(self) -> list[tuple[str, Chain]]:
        """The chains, each with a prefix for the names of what belongs to it."""
        return [(f"network{i}", chain) for i, chain in enumerate(self.chains)]

    @staticmethod
    def combine(outputs: Sequence[Any]) -> Any:
        """Return the mean of the outputs of the members, in any namespace."""
        return mean_output(outputs)

    @property
    def dtype(self) -> str:
        """The dtype of the parameters and of the computation."""
        return self.chains[0].dtype

    @property
    def inputs(self) -> int:
        """``n[0]``, the number of features."""
        return self.chains[0].inputs

    @property
    def outputs(self) -> int:
        """``n[L]``, the number of outputs."""
        return self.chains[0].outputs

    def __str__(self) -> str:
        kinds = list(dict.fromkeys(map(str, self.chains)))
        count = f"{len(self.chains)} network{'s' * (len(self.chains) > 1)}"
        return f"the mean of {count}: {kinds[0]}{' and others' if len(kinds) > 1 else ''}"


Exportable: TypeAlias = Chain | ChainMean


def _exported(layer: Dense, number: int, dtype: str) -> Activation | FormulaActivation:
    """Return the activation of a layer, or its formula if it is user-defined."""
    if type(layer.g) is Activation:
        return layer.g
    try:
        return as_formula(layer.g, dtype, layer.units)
    except NotAnExpressionError as error:
        raise ModelFileError(
            f"layer {number} has the user-defined activation {brief(repr(layer.g))}, which cannot be exported, since "
            f"it uses {brief(error)}"
        ) from None


NO_TARGET = {"target_mean": 0.0, "target_scale": 1.0}
"""The metadata that the command line stores if outputs are already in the original units of the target."""


def scale_layer(W: np.ndarray, b: np.ndarray, factor: Any, summand: Any, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Return W and b such that the layer computes ``factor Z + summand`` instead of ``Z``.

    `factor` and `summand` are numbers, or arrays of shape (n, 1).
    """
    with np.errstate(all="ignore"):
        new_W = W if np.all(factor == 1) else (factor * W.astype(np.float64)).astype(dtype)
        return new_W, (factor * b.astype(np.float64) + summand).astype(dtype)
