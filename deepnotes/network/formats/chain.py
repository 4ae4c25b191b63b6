"""Chain and ChainMean: a network or an ensemble in the form that other file formats can represent."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

import numpy as np

from deepnotes.datasets.encoding import Encoder
from deepnotes.datasets.standardizer import Standardizer
from deepnotes.equations.array import Array, Namespace
from deepnotes.equations.ops import Ops
from deepnotes.network.evaluation import mean_output
from deepnotes.nn import formulas
from deepnotes.nn.activations import Activation, ActivationFunction, FormulaActivation, as_formula
from deepnotes.nn.expressions import Expression, trace
from deepnotes.nn.layers import FEATURE_LAYERS, BatchNorm, Context, Dense, Dropout, Embedding, Layer, Noise, Shortcut
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
    def inputs(self) -> int:
        """The number of inputs."""
        return int(self.W.shape[1])

    @property
    def outputs(self) -> int:
        """The number of outputs."""
        return len(self.W)

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """The parameters by their names in the layer."""
        return {"W": self.W, "b": self.b}

    @property
    def description(self) -> str:
        """The layer, in text."""
        return f"{len(self.W)} {self.name}"

    def forward(self, ops: Ops, A: Array, parameters: Sequence[Array]) -> Array:
        """Return the outputs for inputs A, shape (n_prev, m), and `parameters` on the namespace of `ops`."""
        A, _ = self.layer.forward(ops, dict(zip(self.parameters, parameters, strict=True)), A, Context(1, 0, None))
        return A

    @property
    def name(self) -> str:
        """The name of the activation, in text."""
        return str(getattr(self.g, "name", type(self.g).__name__))

    def has(self, name: str) -> bool:
        """Return whether the activation is the library's one of this name; another class may have the same name."""
        return type(self.g) is Activation and self.g.name == name


class FeatureLink(NamedTuple):
    """One layer by feature, such as LayerNorm, whose formula is known; see :func:`deepnotes.nn.formulas.layer`.

    Attributes
    ----------
    layer : Layer
        The layer without its parameters.
    formula : Expression
        ``A``, for arguments A_prev and the parameters.
    parameters : dict of str to ndarray
        The parameters, each of shape (n, 1), by their names in the layer.
    inputs, outputs : int
        The numbers of inputs and outputs; there may be twice as many inputs.
    """

    layer: Layer
    formula: Expression
    parameters: dict[str, np.ndarray]
    inputs: int
    outputs: int

    @classmethod
    def of(cls, layer: Layer, dtype: str, parameters: dict[str, np.ndarray], inputs: int) -> "FeatureLink":
        """Return the link for one of the library's layers by feature.

        Raises
        ------
        NotAnExpressionError
            If the layer is a gate with a user-defined activation that has no formula.
        """
        return cls(layer, formulas.layer(layer, dtype, inputs), parameters, inputs, layer.output_size(inputs))

    @property
    def name(self) -> str:
        """The name of its class."""
        return type(self.layer).__name__

    @property
    def description(self) -> str:
        """The layer, in text."""
        return self.name

    def has(self, name: str) -> bool:
        """Return whether the last operation is the library's activation of this name; it never is."""
        return False

    def forward(self, ops: Ops, A: Array, parameters: Sequence[Array]) -> Array:
        """Return the outputs for inputs A, shape (n, m), and `parameters` on the namespace of `ops`."""
        arrays = (A,) if self.inputs == self.outputs else (A[: self.outputs, :], A[self.outputs :, :])
        (A,) = self.formula(ops.xp, *arrays, *parameters)
        return A


class EmbeddingLink(NamedTuple):
    """The embedding of categorical columns, the first link.

    Attributes
    ----------
    layer : Embedding
    parameters : dict of str to ndarray
        The tables, each of shape (categories, size), by their names in the layer.
    inputs : int
        The number of inputs.
    """

    layer: Embedding
    parameters: dict[str, np.ndarray]
    inputs: int

    @property
    def outputs(self) -> int:
        """The number of outputs."""
        return self.layer.output_size(self.inputs)

    @property
    def name(self) -> str:
        """The name of its class."""
        return "Embedding"

    @property
    def description(self) -> str:
        """The layer, in text."""
        columns = self.layer.columns
        return f"embedding of column{'s' * (len(columns) > 1)} {', '.join(map(str, columns))}"

    def has(self, name: str) -> bool:
        """Return whether the last operation is the library's activation of this name; it never is."""
        return False

    def forward(self, ops: Ops, A: Array, parameters: Sequence[Array]) -> Array:
        """Return the outputs for inputs A, shape (n, m), and `parameters` on the namespace of `ops`."""
        A, _ = self.layer.forward(ops, dict(zip(self.parameters, parameters, strict=True)), A, Context(1, 0, None))
        return A


class ShortcutLink(NamedTuple):
    """The sum of the outputs of the link before and the inputs of an earlier one.

    Attributes
    ----------
    source : int
        The index of the earlier link, from 0.
    size : int
        The number of inputs and outputs.
    """

    source: int
    size: int

    @property
    def inputs(self) -> int:
        """The number of inputs."""
        return self.size

    @property
    def outputs(self) -> int:
        """The number of outputs."""
        return self.size

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """No parameters."""
        return {}

    @property
    def name(self) -> str:
        """The name of its class."""
        return "Shortcut"

    @property
    def description(self) -> str:
        """The layer, in text."""
        return self.name

    def has(self, name: str) -> bool:
        """Return whether the last operation is the library's activation of this name; it never is."""
        return False


AnyLink: TypeAlias = Link | FeatureLink | EmbeddingLink | ShortcutLink


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
    """Layers, with the preprocessing of their inputs and the scaling of their outputs.

    Parameters
    ----------
    links : sequence of Link, FeatureLink, EmbeddingLink and ShortcutLink
    dtype : {"float32", "float64"}
        The dtype of the parameters and of the computation.
    standardizer : Standardizer, optional
        Applied to the inputs before the first layer.
    target : Target, optional
    metadata : dict
        JSON values by name: ``features``, ``classes``, ``target`` and others, and ``columns`` if features are encoded.
    """

    links: Sequence[AnyLink]
    dtype: str
    standardizer: Standardizer | None = None
    target: Target | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> int:
        """``n[0]``, the number of features."""
        return self.links[0].inputs

    @property
    def outputs(self) -> int:
        """``n[L]``, the number of outputs."""
        return self.links[-1].outputs

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
        """Return the chain for a network; dropout and noise are omitted, since they do not affect predictions.

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
        links: list[AnyLink] = []
        before = [0]  # for each layer, the number of links before it
        all_parameters: Any = network.layout.split(cast(Namespace, np), cast(Array, network.flat()))
        for index, (layer, parameters) in enumerate(zip(network.layers, all_parameters, strict=True)):
            size = network.layout.sizes[index]
            if type(layer) is Dense:
                links.append(Link(parameters["W"], parameters["b"], _exported(layer, index + 1, network.dtype)))
            elif type(layer) is Shortcut:
                links.append(ShortcutLink(before[index - layer.layers], size))
            elif type(layer) in FEATURE_LAYERS:
                links.append(_feature_link(layer, index, network, parameters))
            elif type(layer) is BatchNorm:
                links.append(_batch_norm_link(layer, size, network.dtype, parameters))
            elif type(layer) is Embedding:
                links.append(EmbeddingLink(layer, parameters, size))
            elif type(layer) not in (Dropout, Noise):
                raise ModelFileError(
                    f"layer {index + 1} is the user-defined layer {brief(repr(layer))}, but files of other formats can "
                    "only contain layers of the library"
                )
            before.append(len(links))
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
        *before, link = self.links
        if not isinstance(link, Link) or not link.has("identity"):
            raise ModelFileError(
                f"the outputs of {link.name} are scaled by {self.target.scale:g}, which cannot be folded into a layer"
            )
        W, b, g = link
        last = Link(*scale_layer(W, b, np.float64(self.target.scale), np.float64(self.target.mean), self.dtype), g)
        return replace(self, links=(*before, last), target=None, metadata=self.output_metadata())

    @property
    def numbered(self) -> list[tuple[int, AnyLink]]:
        """The links, each with the number in the names of its parameters, as in the network: 2 for ``W2``."""
        numbers = accumulate(bool(link.parameters) for link in self.links)
        return list(zip(map(int, numbers), self.links, strict=True))

    def forward(self, ops: Ops, A: Array, parameter: Any, dense: Any = None) -> Array:
        """Return ``A[L]``, shape (n[L], m), for preprocessed inputs, on any namespace.

        Parameters
        ----------
        ops : Ops
        A : Array, shape (n[0], m)
        parameter : callable
            Called with the name of a parameter, such as ``W1``, and its host array; returns an array of the namespace.
        dense : callable, optional
            Called with a Link and its inputs instead of computing its outputs.
        """
        inputs = []
        for number, link in self.numbered:
            inputs.append(A)
            if isinstance(link, ShortcutLink):
                A = A + inputs[link.source]
            elif dense is not None and isinstance(link, Link):
                A = dense(link, A)
            else:
                A = link.forward(ops, A, [parameter(f"{key}{number}", x) for key, x in link.parameters.items()])
        return A

    def preprocess(self, X: np.ndarray) -> np.ndarray:
        """Return the inputs X, shape (n[0], m), after standardization, in the dtype of the chain."""
        with np.errstate(all="ignore"):
            X = X.astype(np.float64) if self.standardizer is None else self.standardizer(X.astype(np.float64))
            return X.astype(self.dtype)

    def __str__(self) -> str:
        parts: list[str] = []
        for before, link in zip([None, *self.links], self.links, strict=False):
            is_dense = isinstance(link, Link)
            parts.append(f"{'dense ' * (is_dense and not isinstance(before, Link))}{link.description}")
        return f"{self.inputs} features, {', '.join(parts)}"


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


def _feature_link(layer: Layer, index: int, network: "NetworkLike", parameters: dict[str, np.ndarray]) -> FeatureLink:
    """Return the link for one of the library's layers by feature, at an index of the network's layers."""
    try:
        return FeatureLink.of(layer, network.dtype, parameters, network.layout.sizes[index])
    except NotAnExpressionError as error:  # of a gate with a user-defined activation
        raise ModelFileError(
            f"layer {index + 1} is {brief(repr(layer))}, which cannot be exported, since it uses {brief(error)}"
        ) from None


def _batch_norm_link(layer: BatchNorm, size: int, dtype: str, parameters: dict[str, np.ndarray]) -> FeatureLink:
    """Return the link for a BatchNorm in predictions, ``factor (A_prev - running_mean) + beta``.

    The mean is subtracted first, because where it is large, ``factor A_prev`` and its multiple would cancel.
    """
    formula = trace(_scaled, ["A_prev", "running_mean", "factor", "beta"], dtype, size)
    gamma, variance = (parameters[key].astype(np.float64) for key in ("gamma", "running_var"))
    with np.errstate(all="ignore"):
        factor = (gamma / np.sqrt(variance + layer.epsilon)).astype(dtype)
    values = {"running_mean": parameters["running_mean"], "factor": factor, "beta": parameters["beta"]}
    return FeatureLink(layer, formula, values, size, size)


def _scaled(xp: Any, A_prev: Any, mean: Any, factor: Any, beta: Any) -> Any:
    return factor * (A_prev - mean) + beta


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
