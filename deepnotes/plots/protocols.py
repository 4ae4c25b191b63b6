"""The interfaces of networks and histories that plots use, so that this package need not import those classes."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from deepnotes.backends.base import Backend
from deepnotes.datasets.standardizer import Standardizer
from deepnotes.equations.array import Array
from deepnotes.nn.layers import Layer
from deepnotes.nn.plan import Layout


class NetworkLike(Protocol):
    """The attributes of a network that plots use; see :class:`~deepnotes.Network` for their descriptions."""

    layers: tuple[Layer, ...]
    inputs: int
    dtype: str
    metadata: dict[str, Any]
    backend: Backend
    layout: Layout
    standardizer: Standardizer | None

    @property
    def outputs(self) -> int: ...
    @property
    def parameters(self) -> Mapping[str, Array]: ...

    def predict(self, X: Any) -> Any: ...
    def input_gradient(self, X: Any, Y: Any) -> Any: ...
    def jacobian(self, X: Any) -> Any: ...


class HistoryLike(Protocol):
    """The attributes of a history that plots use; see :class:`~deepnotes.History` for their descriptions."""

    loss: list[float]
    val_loss: list[float]
    metrics: dict[str, list[float]]
    best_epoch: int | None

    @property
    def epochs(self) -> int: ...


class RateTestLike(Protocol):
    """The attributes of a learning-rate range test that plots use; see :func:`~deepnotes.learning_rate_test`."""

    @property
    def learning_rates(self) -> np.ndarray: ...
    @property
    def losses(self) -> np.ndarray: ...
    @property
    def smoothed(self) -> np.ndarray: ...
    @property
    def suggestion(self) -> float | None: ...
