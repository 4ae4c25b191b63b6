"""The interfaces of networks and histories that pictures need, so that those classes can draw themselves."""

from collections.abc import Mapping
from typing import Any, Protocol

from deepnotes.backends.base import Backend
from deepnotes.equations.array import Array
from deepnotes.nn.layers import Layer
from deepnotes.nn.plan import Layout


class NetworkLike(Protocol):
    """The part of a network that pictures use; see :class:`~deepnotes.Network` for each name."""

    layers: tuple[Layer, ...]
    inputs: int
    dtype: str
    metadata: dict[str, Any]
    backend: Backend
    layout: Layout

    @property
    def outputs(self) -> int: ...
    @property
    def parameters(self) -> Mapping[str, Array]: ...

    def predict(self, X: Any) -> Any: ...


class HistoryLike(Protocol):
    """The part of a training's history that pictures use; see :class:`~deepnotes.History` for each name."""

    loss: list[float]
    val_loss: list[float]
    metrics: dict[str, list[float]]
    best_epoch: int | None

    @property
    def epochs(self) -> int: ...
