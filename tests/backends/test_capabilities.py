"""Estimators and streaming depend on the capabilities of a backend, not on its class."""

from typing import Any

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.backends import Indices, Samples
from deepnotes.datasets.on_disk import OnDisk

RNG = np.random.default_rng(0)
X, y = RNG.normal(size=(120, 9)), RNG.normal(size=120)


class Counting(dn.Backend):
    """A third-party backend on NumPy that records the number of samples in each array."""

    def __init__(self) -> None:
        super().__init__("counting", np)
        self.samples: list[int] = []

    def from_numpy(self, x: np.ndarray, dtype: Any = None) -> Any:
        if x.ndim == 2 and x.shape[0] == X.shape[1]:
            self.samples.append(x.shape[1])
        return super().from_numpy(x, dtype)


class CountingOnHost(Counting):
    on_host = True


@pytest.mark.parametrize(("kind", "most"), [(Counting, 120), (CountingOnHost, 10)])
def test_a_backend_on_the_host_takes_sparse_samples_a_few_at_a_time(
    kind: type[Counting], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn")
    from scipy.sparse import csr_array

    from deepnotes.estimators import sparse

    monkeypatch.setattr(sparse, "BYTES", 10 * X.shape[1] * 8)
    options: dict[str, Any] = {"hidden_layer_sizes": 4, "max_iter": 2, "batch_size": 5, "random_state": 0}
    backend = kind()
    model = dn.DenseRegressor(backend=backend, **options)
    with pytest.warns(match="max_iter=2"):
        model.fit(csr_array(X), y)
    assert max(backend.samples) == most
    with pytest.warns(match="max_iter=2"):
        dense = dn.DenseRegressor(backend="numpy", **options).fit(X, y)
    np.testing.assert_allclose(model.coefs_[0], dense.coefs_[0], rtol=1e-12)


class Leaving(dn.Backend):
    """A backend that leaves targets on the host, where its Programs cannot read them."""

    def from_samples(self, x: np.ndarray) -> Any:
        return Left(self, x)


class Left(Samples):
    """Targets that stay in a NumPy array, and that count how many of them were taken."""

    taken = 0

    def __init__(self, backend: dn.Backend, array: np.ndarray) -> None:
        super().__init__(backend, array.shape, 50)
        self.array = array

    def read(self, indices: Indices) -> np.ndarray:
        return self.array[:, indices]

    def take(self, indices: Indices) -> Any:
        Left.taken += self.array[:, indices].shape[1]
        return super().take(indices)


@pytest.mark.parametrize("samples", [OnDisk(X), X.T], ids=["on disk", "in memory"])
def test_samples_that_a_backend_leaves_on_the_host_are_taken_when_needed(
    samples: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Left, "taken", 0)
    trained = []
    for backend in (Leaving("leaving", np), "numpy"):
        net = dn.Network([dn.Dense(3, "tanh"), dn.Dense(1)], 9, dtype="float64", backend=backend, seed=0)
        history = net.fit(samples, y[None], epochs=2, batch_size=16)
        loss = net.evaluate(samples, y[None], metrics="r2", sample_weight=np.arange(120.0))
        trained.append([*history.loss, *loss.values(), *net.predict(samples)[0]])
    arrays = 1 if isinstance(samples, OnDisk) else 2
    assert Left.taken >= 2 * len(y) * arrays
    np.testing.assert_allclose(*trained, rtol=1e-12)
