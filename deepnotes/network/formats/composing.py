"""Composition of dense layers from products with weights, affine functions between them, and activations.

Files of other formats hold single operations; a layer here has one product, one sum and one activation. So affine
functions are kept until they can be folded into a product: those after it go into the rows of ``W`` and into ``b``,
those before it into the columns of ``W`` and into ``b``, and those before the first layer become a standardizer. All of
this is computed in double precision and rounded once.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import numpy as np

from deepnotes.datasets.standardizer import Standardizer
from deepnotes.network.formats.affine import IDENTITY, Affine
from deepnotes.network.formats.chain import Link
from deepnotes.nn.activations import Activation, ActivationFunction
from deepnotes.utils.errors import ModelFileError
from deepnotes.utils.wording import brief

LINEAR = Activation("identity")
BOUNDED = {"sigmoid", "tanh", "softmax"}
"""Activations whose outputs are always finite, so that a product with a diagonal matrix does not make them NaN."""


class Known(NamedTuple):
    """An affine function of the outputs of a layer, or of the inputs if there is no layer yet."""

    layer: "Product | None" = None
    affine: Affine = IDENTITY

    def then(self, op: str, c: Any) -> "Known":
        """Return this function followed by an operation with a constant, see :meth:`Affine.then`."""
        if self.layer is not None and self.layer.is_linear:
            return Known(replace(self.layer, after=self.layer.after.then(op, c)))
        return Known(self.layer, self.affine.then(op, c))

    def times(self, W: np.ndarray) -> "Known":
        """Return the product ``W A`` of a matrix, shape (n, n_prev), with this function."""
        return Known(Product(self, W))

    def activated(self, g: ActivationFunction) -> "Known":
        """Return the outputs of its layer, which must be linear, after an activation."""
        assert self.layer is not None
        return Known(replace(self.layer, g=g))


@dataclass(frozen=True, eq=False)
class Product:
    """A layer: ``g(after(W given))``."""

    given: Known
    W: np.ndarray
    after: Affine = IDENTITY
    g: ActivationFunction = LINEAR

    @property
    def is_linear(self) -> bool:
        """Whether the layer has no activation yet."""
        return self.g == LINEAR


def composed(known: Known, dtype: str) -> tuple[Standardizer | None, list[Link]]:
    """Return the standardizer and the layers that compute `known`.

    Raises
    ------
    ModelFileError
        If there is no layer, if no layer can take the last affine function, or if a weight becomes infinite.
    """
    if known.layer is None:
        raise ModelFileError("it has no dense layer")
    if not known.affine.is_identity:
        last = known.layer
        if not _is_bounded(last.g) or len(last.W) > last.W.shape[1] + 64:
            raise ModelFileError(
                f"the outputs of {brief(_name(last.g))} are scaled or shifted, and no layer follows that could do it"
            )
        known = known.times(np.eye(len(last.W), dtype=dtype))
    links: list[Link] = []
    while (layer := known.layer) is not None:
        known = layer.given
        standardizer, before = None, known.affine
        if known.layer is None:
            standardizer, before = before.split(layer.W.shape[1])
        g = cast(Activation, layer.g)  # it may be user-defined if one of our estimators is converted to a network
        links.append(Link(*_folded(layer, before, dtype), g))
    return standardizer, links[::-1]


def _name(g: ActivationFunction) -> str:
    return g.name if isinstance(g, Activation) else repr(g)


def _is_bounded(g: ActivationFunction) -> bool:
    return isinstance(g, Activation) and g.name in BOUNDED


def _folded(layer: Product, before: Affine, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Return W and b of a layer with the affine functions before and after its product folded in."""
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
        raise ModelFileError("it has weights that, put together, are not finite")
    return W, b
