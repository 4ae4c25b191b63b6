"""Composition of dense layers from matrix products, the affine functions before and after them, and activations.

Files of other formats contain single operations, but a dense layer consists of a product, a sum and an activation. So
affine functions are collected until they can be folded into a product: a function after the product scales the rows of
``W`` and changes ``b``; a function before the product scales the columns of ``W`` and changes ``b``. A function before
the first layer becomes a standardizer. Everything is computed in double precision and rounded once.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from deepnotes.datasets.standardizer import Standardizer
from deepnotes.network.formats.affine import IDENTITY, Affine
from deepnotes.network.formats.chain import Link
from deepnotes.nn.activations import Activation, ActivationFunction
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

    layer: "Product | None" = None
    affine: Affine = IDENTITY

    def then(self, op: str, c: Any) -> "Expression":
        """Return this function followed by an operation with a constant; see :meth:`Affine.then`."""
        if self.layer is not None and self.layer.is_linear:
            return Expression(replace(self.layer, after=self.layer.after.then(op, c)))
        return Expression(self.layer, self.affine.then(op, c))

    def times(self, W: np.ndarray) -> "Expression":
        """Return the product of the matrix `W`, shape (n, n_prev), and the value of this function."""
        return Expression(Product(self, W))

    def activate(self, g: ActivationFunction) -> "Expression":
        """Return the layer with the activation `g`; it must not have an activation yet."""
        assert self.layer is not None
        return Expression(replace(self.layer, g=g))


@dataclass(frozen=True, eq=False)
class Product:
    """A layer, ``g(after(W A_prev))``; `after` is an affine function."""

    A_prev: Expression
    W: np.ndarray
    after: Affine = IDENTITY
    g: ActivationFunction = LINEAR

    @property
    def is_linear(self) -> bool:
        """Whether the layer has no activation yet."""
        return self.g == LINEAR


def compose(outputs: Expression, dtype: str) -> tuple[Standardizer | None, list[Link]]:
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
        if not _is_bounded(last.g) or len(last.W) > last.W.shape[1] + MAX_EXTRA_OUTPUTS:
            raise ModelFileError(
                f"the outputs of {brief(_name(last.g))} are scaled or shifted, and this cannot be folded into a layer"
            )
        outputs = outputs.times(np.eye(len(last.W), dtype=dtype))
    links: list[Link] = []
    expression = outputs
    while (layer := expression.layer) is not None:
        expression = layer.A_prev
        standardizer, before = None, expression.affine
        if expression.layer is None:
            standardizer, before = before.split(layer.W.shape[1])
        links.append(Link(*_fold(layer, before, dtype), layer.g))
    return standardizer, links[::-1]


def _name(g: ActivationFunction) -> str:
    return g.name if type(g) is Activation else repr(g)


def _is_bounded(g: ActivationFunction) -> bool:
    return type(g) is Activation and g.name in BOUNDED


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
    if not (np.isfinite(W).all() and np.isfinite(b).all()):
        raise ModelFileError("folding its constants into weights gives numbers that are not finite")
    return W, b
