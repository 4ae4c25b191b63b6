"""Estimators and streaming depend on the capabilities of a backend, not on its class."""

from typing import Any

import numpy as np
import pytest

import deepnotes as dn
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


class Left(np.ndarray):
    """Targets that a backend has left on the host."""


class Leaving(dn.Backend):
    """A backend that leaves samples on the host and implements ``take_samples``."""

    def from_samples(self, x: np.ndarray) -> Any:
        return x.view(Left)

    def take_samples(self, x: Any, order: np.ndarray) -> Any:
        assert isinstance(x, Left)
        self.taken = getattr(self, "taken", 0) + len(order)
        return self.from_numpy(x.view(np.ndarray)[:, order])


def test_samples_that_a_backend_left_are_taken_by_that_backend() -> None:
    backend = Leaving("leaving", np)
    nets = [dn.Network([dn.Dense(3, "tanh"), dn.Dense(1)], inputs=9, backend=b, seed=0) for b in (backend, "numpy")]
    losses = [net.fit(OnDisk(X), y[None], epochs=2, batch_size=16).loss for net in nets]
    assert backend.taken == 2 * len(y)
    np.testing.assert_allclose(*losses, rtol=1e-12)
