"""Backends, data, networks, optimizers and Programs shared by several tests."""

from typing import Any

import array_api_strict
import numpy as np

import deepnotes as dn
from deepnotes.backends.eager import EagerProgram
from deepnotes.backends.program import Program, State

STRICT = dn.Backend("strict", array_api_strict)
BACKENDS = ["numpy", STRICT, dn.Backend("eager", np)]


def blobs(m: int = 200, k: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return well-separated classes: X of shape (4, m) and labels of shape (m,)."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, k, m)
    return 4 * np.eye(4)[:, y] + rng.normal(size=(4, m)), y


NETWORKS = {
    "categorical": ([dn.Dense(8, "relu"), dn.Dropout(0.3), dn.Dense(6, "gelu"), dn.Dense(4, "softmax")], None),
    "binary": ([dn.Dense(8, "elu"), dn.Dense(1, "sigmoid")], None),
    "regression": ([dn.Dense(8, "leaky_relu"), dn.Dense(2)], "huber"),
    "unfused": ([dn.Dense(8, "silu"), dn.Dense(4, "softmax")], "mean_squared_error"),
}
OPTIMIZERS = [dn.SGD(0.1), dn.SGD(0.1, 0.9), dn.SGD(0.1, 0.9, nesterov=True), dn.RMSProp(), dn.Adam(), dn.AdamW()]


def programs(
    backend: str, layers: list[dn.Layer], dtype: str = "float64", **settings: Any
) -> tuple[list[Program], list[State], dn.Network]:
    """Return the eager Program and the backend's own Program for one plan, a State for each, and the network."""
    net = dn.Network(layers, inputs=5, backend=backend, seed=0, dtype=dtype)
    plan = net._plan(
        net._loss(settings.pop("loss", None)), **{"l2": 0.01, "clip_norm": 1.0, "class_indices": False} | settings
    )
    compiled = net.backend.compile(plan)
    assert compiled is not None
    slots = [[np.zeros_like(net.flat()) for _ in plan.optimizer.slots] for _ in range(2)]
    states = [State(net.flat(), tuple(zeros)) for zeros in slots]
    return [EagerProgram(net.backend, plan), compiled], states, net
