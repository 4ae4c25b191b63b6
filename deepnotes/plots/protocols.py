"""What pictures ask of a network and of a history, so that those can draw themselves."""

from collections.abc import Mapping
from typing import Any, Protocol

from deepnotes.backends.base import Backend
from deepnotes.equations.array import Array
from deepnotes.nn.layers import Layer
from deepnotes.nn.plan import Layout


class NetworkLike(Protocol):
    """A network, as far as it is drawn; see :class:`~deepnotes.Network` for each name."""

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
    """The figures of a training, as far as they are drawn; see :class:`~deepnotes.History` for each name."""

    loss: list[float]
    val_loss: list[float]
    metrics: dict[str, list[float]]
    best_epoch: int | None

    @property
    def epochs(self) -> int: ...
