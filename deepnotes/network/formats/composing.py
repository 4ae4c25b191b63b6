"""Composition of layers from matrix products, the affine functions before and after them, and activations.

Files of other formats contain single operations, but a dense layer consists of a product, a sum and an activation. So
affine functions are collected until they can be folded into a product: a function after the product scales the rows of
``W`` and changes ``b``; a function before the product scales the columns of ``W`` and changes ``b``. A function before
the first layer becomes a standardizer, and one after a normalization changes its ``gamma`` and ``beta``. Everything is
computed in double precision and rounded once. The sum of the outputs of two layers ends a residual block if the inputs
of the block are those of one of the two; the product of the outputs of two layers with the same inputs is a gate.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from deepnotes.datasets.standardizer import Standardizer
from deepnotes.network.formats.affine import IDENTITY, Affine
from deepnotes.network.formats.chain import FeatureLink, Link, ShortcutLink
from deepnotes.nn.activations import Activation, ActivationFunction
from deepnotes.nn.layers import Gate, LayerNorm, PReLU, RMSNorm
from deepnotes.utils.errors import ModelFileError
from deepnotes.utils.wording import brief

LINEAR = Activation("identity")
MAX_EXTRA_OUTPUTS = 64
"""To scale or shift the outputs, a layer is appended only if the last layer has n <= n_prev + MAX_EXTRA_OUTPUTS.

The weights of the new layer have the shape (n, n), so a small file with a large n would need much memory.
"""
BOUNDED = {"sigmoid", "tanh", "softmax"}
"""Activations with finite outputs. A product with a diagonal matrix would turn infinite outputs into NaN (0 * inf)."""


class Expression(NamedTuple):
    """An affine function of the outputs of a layer, or of the network's inputs if `layer` is None."""

    layer: "AnyLayer | None" = None
    affine: Affine = IDENTITY

    def then(self, op: str, c: Any) -> "Expression":
        """Return this function followed by an operation with a constant; see :meth:`Affine.then`."""
        layer = self.layer
        if isinstance(layer, Product | FeatureLayer) and layer.folds(op) and self.affine.is_identity:
            return Expression(replace(layer, after=layer.after.then(op, c)))
        return Expression(layer, self.affine.then(op, c))

    def times(self, W: np.ndarray) -> "Expression":
        """Return the product of the matrix `W`, shape (n, n_prev), and the value of this function."""
        return Expression(Product(self, W))

    def activate(self, g: ActivationFunction) -> "Expression":
        """Return the dense layer with the activation `g`; it must not have an activation yet."""
        assert isinstance(self.layer, Product)
        return Expression(replace(self.layer, g=g))

    def precedes(self, inputs: int) -> bool:
        """Return whether a layer with this number of inputs may follow if no function before it can be folded into it.

        A function before the first layer need not be folded if it becomes a standardizer.
        """
        affine = self.affine if self.layer is not None else self.affine.split(inputs)[1]
        return affine.is_identity

    def is_same(self, other: "Expression") -> bool:
        """Return whether both are the same function of the same layer."""
        return self.layer is other.layer and (self.affine is other.affine or self.affine.equals(other.affine))

    def is_block_of(self, source: "Expression", inputs: int) -> bool:
        """Return whether this function is a residual block of at least one layer, whose inputs are those of `source`.

        Nothing before or after the block may be left to fold: the shortcut would skip it.
        """
        if not self.affine.is_identity or not source.precedes(inputs):
            return False
        layer = self.layer
        while layer is not None:
            first = layer.A_prev
            if first.layer is source.layer:
                return source.layer is not None or first.affine is source.affine
            layer = first.layer
        return False


@dataclass(frozen=True, eq=False)
class Product:
    """A layer, ``g(after(W A_prev))``; `after` is an affine function."""

    A_prev: Expression
    W: np.ndarray
    after: Affine = IDENTITY
    g: ActivationFunction = LINEAR

    @property
    def is_affine(self) -> bool:
        """Whether the layer has no activation yet, so that it may get one."""
        return self.g == LINEAR

    def folds(self, op: str) -> bool:
        """Return whether an affine operation after the layer can be folded into it."""
        return self.is_affine

    def rows(self, start: int, stop: int) -> "Product":
        """Return the layer that computes a range of the outputs; the activation must be elementwise."""
        return replace(self, W=self.W[start:stop], after=self.after.rows(start, stop))

    @property
    def inputs(self) -> int:
        """The number of inputs."""
        return int(self.W.shape[1])

    @property
    def outputs(self) -> int:
        """The number of outputs."""
        return len(self.W)

    @property
    def name(self) -> str:
        """The name of its activation, in text."""
        return self.g.name if type(self.g) is Activation else repr(self.g)

    @property
    def may_be_scaled(self) -> bool:
        """Whether a layer may be appended that scales and shifts the outputs."""
        is_bounded = type(self.g) is Activation and self.g.name in BOUNDED
        return is_bounded and len(self.W) <= self.inputs + MAX_EXTRA_OUTPUTS

    def link(self, before: Affine, dtype: str) -> Link:
        """Return the layer with the affine functions before and after its product folded in."""
        return Link(*_fold(self, before, dtype), self.g)


@dataclass(frozen=True, eq=False)
class FeatureLayer:
    """A PReLU or a normalization, ``after(layer(A_prev))``; `after` is an affine function.

    It is the identity after a PReLU, and a multiplication after an RMSNorm. The parameters have the shape (n, 1) and
    are in double precision. ``A_prev.precedes(n)`` must be true.
    """

    A_prev: Expression
    layer: PReLU | LayerNorm | RMSNorm
    parameters: dict[str, np.ndarray]
    after: Affine = IDENTITY

    def folds(self, op: str) -> bool:
        """Return whether an affine operation after the layer can be folded into it."""
        return isinstance(self.layer, LayerNorm) or (isinstance(self.layer, RMSNorm) and op in {"Mul", "Div"})

    @property
    def inputs(self) -> int:
        """The number of inputs."""
        return len(next(iter(self.parameters.values())))

    @property
    def outputs(self) -> int:
        """The number of outputs."""
        return self.inputs

    @property
    def name(self) -> str:
        """The name of its class."""
        return type(self.layer).__name__

    def link(self, before: Affine, dtype: str) -> FeatureLink:
        """Return the layer with the affine function after it folded in; there is none `before` it."""
        assert before.is_identity
        parameters = dict(self.parameters)
        with np.errstate(all="ignore"):
            if "gamma" in parameters:
                parameters["gamma"] = parameters["gamma"] * self.after.factor
            if "beta" in parameters:
                parameters["beta"] = self.after(parameters["beta"])
            parameters = {name: x.astype(dtype) for name, x in parameters.items()}
        _check_finite(*parameters.values())
        return FeatureLink.of(self.layer, dtype, parameters, self.inputs)


@dataclass(frozen=True, eq=False)
class Gated:
    """The product of the outputs of two layers with the same inputs; the first has no activation.

    It becomes a gate, after one layer with the outputs of both.
    """

    first: Product
    second: Product
    name = "Gate"

    @cached_property
    def A_prev(self) -> Expression:
        """The outputs of both layers, before the activation of the second."""
        first, second = self.first, self.second
        after = first.after.above(second.after, first.outputs, second.outputs)
        return Expression(Product(first.A_prev, np.vstack([first.W, second.W]), after))

    @property
    def inputs(self) -> int:
        """The number of inputs."""
        return 2 * self.outputs

    @property
    def outputs(self) -> int:
        """The number of outputs."""
        return self.first.outputs

    def link(self, before: Affine, dtype: str) -> FeatureLink:
        """Return the gate; nothing is `before` it."""
        assert before.is_identity
        return FeatureLink.of(Gate(self.second.g), dtype, {}, self.inputs)


@dataclass(frozen=True, eq=False)
class Sum:
    """The end of a residual block: the outputs of the block `A_prev`, plus its inputs.

    Attributes
    ----------
    source : Product, FeatureLayer, Gated, Sum or None
        The layer before the block.
    inputs : int
    """

    A_prev: Expression
    source: "AnyLayer | None"
    inputs: int
    name = "Shortcut"

    @property
    def outputs(self) -> int:
        """The number of outputs."""
        return self.inputs


AnyLayer: TypeAlias = Product | FeatureLayer | Gated | Sum


def compose(outputs: Expression, dtype: str) -> tuple[Standardizer | None, list[Link | FeatureLink | ShortcutLink]]:
    """Return the standardizer and the layers that compute `outputs`.

    Raises
    ------
    ModelFileError
        If there is no layer, if the affine function after the last layer cannot be folded into a layer, or if a weight
        becomes infinite.
    """
    if outputs.layer is None:
        raise ModelFileError("it has no dense layer")
    if not outputs.affine.is_identity:
        last = outputs.layer
        if not isinstance(last, Product) or not last.may_be_scaled:
            raise ModelFileError(
                f"the outputs of {brief(last.name)} are scaled or shifted, and this cannot be folded into a layer"
            )
        outputs = outputs.times(np.eye(len(last.W), dtype=dtype))
    layers: list[AnyLayer] = []
    expression = outputs
    while (layer := expression.layer) is not None:
        layers.append(layer)
        expression = layer.A_prev
    layers.reverse()
    standardizer, before = expression.affine.split(layers[0].inputs)
    next_of: dict[AnyLayer | None, int] = {None: 0}  # for each layer, the index of the next one
    links: list[Link | FeatureLink | ShortcutLink] = []
    for layer in layers:
        if isinstance(layer, Sum):
            links.append(ShortcutLink(next_of[layer.source], layer.inputs))
        else:
            links.append(layer.link(layer.A_prev.affine if links else before, dtype))
        next_of[layer] = len(links)
    return standardizer, links


def _fold(layer: Product, before: Affine, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Return W and b of a layer, after folding in the affine functions before and after its product."""
    W, after = layer.W, layer.after
    b = np.zeros((len(W), 1))
    with np.errstate(all="ignore"):
        if (before.shift != 0).any():
            b = W.astype(np.float64) @ np.broadcast_to(before.shift, (W.shape[1], 1))
        if (before.factor != 1).any():
            W = W.astype(np.float64) * before.factor.T
        if (after.factor != 1).any():
            W = W.astype(np.float64) * after.factor
        W, b = np.ascontiguousarray(W, dtype), after(b).astype(dtype)
    _check_finite(W, b)
    return W, b


def _check_finite(*parameters: np.ndarray) -> None:
    if not all(np.isfinite(x).all() for x in parameters):
        raise ModelFileError("folding its constants into weights gives numbers that are not finite")
