"""A training run with checkpoints that tests stop and resume."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import deepnotes as dn
from deepnotes.network.training import loop as training

SAMPLES, BATCH, EPOCHS = 150, 16, 12
BACKENDS = ["numpy", *(["numba"] if find_spec("numba") else [])]


def data() -> tuple[np.ndarray, np.ndarray]:
    """Return X, shape (4, 150), and class indices, shape (150,)."""
    rng = np.random.default_rng(5)
    y = rng.integers(0, 3, SAMPLES)
    return rng.normal(size=(4, SAMPLES)) + np.eye(4)[:, y], y


def network(backend: Any = "numpy", dtype: str = "float32") -> dn.Network:
    """Return an untrained network."""
    layers = [dn.Dense(9, "tanh"), dn.Dropout(0.2), dn.Dense(3, "softmax")]
    return dn.Network(layers, 4, backend=backend, dtype=dtype, seed=3)


def fit(net: dn.Network, directory: Path | None = None, epochs: int = EPOCHS, **changes: Any) -> dn.History:
    """Train on `data()`; the default options have state that a checkpoint must contain, and `changes` override them."""
    X, y = data()
    settings: dict[str, Any] = {
        "optimizer": dn.Adam(dn.ReduceOnPlateau(0.02, patience=0, factor=0.5)),
        "batch_size": BATCH,
        "validation": (X[:, :40], y[:40]),
        "metrics": "accuracy",
        "early_stopping": dn.EarlyStopping(3),
        "sample_weight": np.linspace(0.5, 2, SAMPLES),
    }
    return net.fit(X, y, epochs=epochs, checkpoint=directory, **settings | changes)


def outcome(net: dn.Network, history: dn.History) -> list[Any]:
    """Return all results that resumed training must reproduce bit for bit."""
    metrics = history.as_dict() | {"best_epoch": history.best_epoch}
    del metrics["seconds"]
    assert net._training is not None
    _, _, state = net._training
    slots = [net.backend.to_numpy(slot).tobytes() for slot in state.slots]
    return [net.flat().tobytes(), slots, state.step, net._rng.bit_generator.state, metrics]


class WriteBytes(dn.Callback):
    """Writes a byte to a pipe after each chunk of updates."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def on_chunk(self, training: Any) -> None:
        os.write(self.pipe, b".")


def train_and_tell(backend: str, directory: Path, pipe: int) -> None:
    """Train with a checkpoint after every update, resuming if possible, and write a byte to the pipe per update."""
    training.CHUNK_SECONDS = 1e-9  # type: ignore[attr-defined]
    fit(network(backend), directory, every="0.000000001s", callbacks=[WriteBytes(pipe)], resume=True)
