"""The attributes of :class:`~deepnotes.Network` that are used by the modules it imports (training, files, checks)."""

from collections.abc import MutableMapping
from typing import Any, Protocol

import numpy as np

from deepnotes.backends.base import Backend
from deepnotes.backends.inference import Inference
from deepnotes.datasets.standardizer import Standardizer
from deepnotes.equations.array import Array
from deepnotes.nn.layers import Layer
from deepnotes.nn.plan import Layout


class NetworkLike(Protocol):
    """The interface of a network; see :class:`~deepnotes.Network` for the descriptions."""

    layers: tuple[Layer, ...]
    inputs: int
    dtype: str
    host_dtype: np.dtype[Any]
    seed: int
    standardizer: Standardizer | None
    dialect: str
    metadata: dict[str, Any]
    backend: Backend
    layout: Layout
    theta: Array

    @property
    def outputs(self) -> int: ...
    @property
    def parameters(self) -> MutableMapping[str, Array]: ...
    @property
    def inference(self) -> Inference: ...

    def flat(self) -> np.ndarray: ...
    def set_flat(self, theta: np.ndarray) -> None: ...
    def from_host(self, x: np.ndarray, /) -> Array: ...
    def predict(self, X: Any) -> Any: ...
