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
        self.sample_counts: list[int] = []

    def from_numpy(self, x: np.ndarray, dtype: Any = None) -> Any:
        if x.ndim == 2 and x.shape[0] == X.shape[1]:
            self.sample_counts.append(x.shape[1])
        return super().from_numpy(x, dtype)


class CountingOnHost(Counting):
    """The same backend, which declares that its arrays are in host memory."""

    on_host = True


@pytest.mark.parametrize(("backend_class", "largest"), [(Counting, 120), (CountingOnHost, 10)])
def test_only_a_backend_on_the_host_gets_sparse_samples_in_chunks(
    backend_class: type[Counting], largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn")
    from scipy.sparse import csr_array

    from deepnotes.estimators import sparse

    monkeypatch.setattr(sparse, "BYTES", 10 * X.shape[1] * 8)
    options: dict[str, Any] = {"hidden_layer_sizes": 4, "max_iter": 2, "batch_size": 5, "random_state": 0}
    backend = backend_class()
    model = dn.DenseRegressor(backend=backend, **options)
    with pytest.warns(match="max_iter=2"):
        model.fit(csr_array(X), y)
    assert max(backend.sample_counts) == largest
    with pytest.warns(match="max_iter=2"):
        dense = dn.DenseRegressor(backend="numpy", **options).fit(X, y)
    np.testing.assert_allclose(model.coefs_[0], dense.coefs_[0], rtol=1e-12)


class HostSamplesBackend(dn.Backend):
    """A backend that leaves samples and targets on the host, where its Programs cannot read them."""

    def from_samples(self, x: np.ndarray) -> Any:
        return CountedSamples(self, x)


class CountedSamples(Samples):
    """Samples that stay in a NumPy array; the class counts how many were taken."""

    taken = 0

    def __init__(self, backend: dn.Backend, array: np.ndarray) -> None:
        super().__init__(backend, array.shape, 50)
        self.array = array

    def read(self, indices: Indices) -> np.ndarray:
        return self.array[:, indices]

    def take(self, indices: Indices) -> Any:
        CountedSamples.taken += self.array[:, indices].shape[1]
        return super().take(indices)


@pytest.mark.parametrize("samples", [OnDisk(X), X.T], ids=["on disk", "in memory"])
def test_samples_that_a_backend_leaves_on_the_host_are_read_when_needed(
    samples: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CountedSamples, "taken", 0)
    results = []
    for backend in (HostSamplesBackend("leaving", np), "numpy"):
        net = dn.Network([dn.Dense(3, "tanh"), dn.Dense(1)], 9, dtype="float64", backend=backend, seed=0)
        history = net.fit(samples, y[None], epochs=2, batch_size=16)
        metrics = net.evaluate(samples, y[None], metrics="r2", sample_weight=np.arange(120.0))
        results.append([*history.loss, *metrics.values(), *net.predict(samples)[0]])
    counted_arrays = 1 if isinstance(samples, OnDisk) else 2  # on disk, only the targets are CountedSamples
    assert CountedSamples.taken >= 2 * len(y) * counted_arrays
    np.testing.assert_allclose(*results, rtol=1e-12)
