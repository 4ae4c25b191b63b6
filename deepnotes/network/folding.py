"""Folding of batch normalizations into the dense layers before or after them, for predictions.

In a prediction, a BatchNorm computes ``s A_prev + t`` with fixed numbers for each feature. A Dense layer without
activation before it absorbs them by ``W ← s W`` and ``b ← s b + t``, one after it by ``W ← W sᵀ`` and ``b ← b + W t``.
All is computed in double precision and rounded once.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from deepnotes.equations.array import Array, Namespace
from deepnotes.nn.activations import Activation
from deepnotes.nn.layers import BatchNorm, Dense, Dropout, Layer, Noise, Shortcut
from deepnotes.nn.plan import Layout
from deepnotes.utils.errors import ArgumentError

if TYPE_CHECKING:
    from deepnotes.network.protocol import NetworkLike


@dataclass(eq=False)
class Node:
    """A layer and its parameters, which folding changes.

    Attributes
    ----------
    layer : Layer
    index : int
        The index of the layer in the network before folding.
    parameters : dict of str to ndarray of float64
    source : Node or None
        For a shortcut, the first node of its block.
    """

    layer: Layer
    index: int
    parameters: dict[str, np.ndarray]
    source: "Node | None" = None


def fold(network: "NetworkLike") -> tuple[list[Layer], np.ndarray]:
    """Return the layers and the flat parameters of a network without BatchNorm; see :meth:`Network.folded`.

    Raises
    ------
    ArgumentError
        If a BatchNorm cannot be folded, or if the result is not finite.
    """
    nodes = _nodes(network)
    while normalizations := [node for node in nodes if type(node.layer) is BatchNorm]:
        if not any(_fold_before(nodes, node) or _fold_after(nodes, node) for node in normalizations):
            index, layer = normalizations[0].index, normalizations[0].layer
            raise ArgumentError(
                f"layers[{index}]: {layer!r} cannot be folded: wanted a Dense without activation before it, or a Dense "
                "after it, and no residual block that begins or ends in between"
            )
    layers = [_layer(nodes, node) for node in nodes]
    parameters = [cast(dict[str, Array], node.parameters) for node in nodes]
    with np.errstate(all="ignore"):
        theta: Any = Layout(network.inputs, layers).join(cast(Namespace, np), parameters).astype(network.dtype)  # type: ignore[attr-defined]
    if not np.isfinite(theta).all() and np.isfinite(network.flat()).all():
        raise ArgumentError(f"folding the statistics into weights gives numbers that are not finite in {network.dtype}")
    return layers, theta


def _nodes(network: "NetworkLike") -> list[Node]:
    all_parameters: Any = network.layout.split(cast(Namespace, np), cast(Array, network.flat()))
    nodes: list[Node] = []
    for index, (layer, parameters) in enumerate(zip(network.layers, all_parameters, strict=True)):
        node = Node(layer, index, {key: x.astype(np.float64) for key, x in parameters.items()})
        if type(layer) is Shortcut:
            node.source = nodes[index - layer.layers]
        nodes.append(node)
    return nodes


def _layer(nodes: list[Node], node: Node) -> Layer:
    """Return the layer of a node; a shortcut counts the layers of its block that are left."""
    if node.source is None:
        return node.layer
    return Shortcut(nodes.index(node) - nodes.index(node.source))


def _scale_and_shift(node: Node) -> tuple[np.ndarray, np.ndarray]:
    """Return s and t, shape (n, 1), of ``s A_prev + t``, which a BatchNorm computes in a prediction."""
    gamma, beta, mean, variance = (node.parameters[key] for key in ("gamma", "beta", "running_mean", "running_var"))
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(variance + cast(BatchNorm, node.layer).epsilon)
        return scale, beta - scale * mean


def _fold_before(nodes: list[Node], node: Node) -> bool:
    """Fold a BatchNorm into the Dense before it; return whether that was possible."""
    at = nodes.index(node)
    before = at - 1
    while before >= 0 and type(nodes[before].layer) in (Dropout, Noise):
        before -= 1
    layer = nodes[before].layer if before >= 0 else None
    if type(layer) is not Dense or layer.g != Activation("identity") or _begins(nodes, before + 1, at):
        return False
    parameters, (scale, shift) = nodes[before].parameters, _scale_and_shift(node)
    parameters["W"] = scale * parameters["W"]
    parameters["b"] = scale * parameters["b"] + shift
    del nodes[at]
    return True


def _fold_after(nodes: list[Node], node: Node) -> bool:
    """Fold a BatchNorm into the Dense after it; return whether that was possible."""
    at = nodes.index(node)
    after = at + 1
    while after < len(nodes) and type(nodes[after].layer) in (Dropout, Noise):
        after += 1
    if after == len(nodes) or type(nodes[after].layer) is not Dense or _begins(nodes, at + 1, after):
        return False
    parameters, (scale, shift) = nodes[after].parameters, _scale_and_shift(node)
    parameters["b"] = parameters["b"] + parameters["W"] @ shift
    parameters["W"] = parameters["W"] * scale.T
    for other in nodes:
        if other.source is node:  # a block that begins with the BatchNorm begins with the layer after it
            other.source = nodes[at + 1]
    del nodes[at]
    return True


def _begins(nodes: list[Node], first: int, last: int) -> bool:
    """Return whether a residual block, whose input must not change, begins at one of these indices."""
    return any(node.source is nodes[i] for node in nodes for i in range(first, last + 1))
