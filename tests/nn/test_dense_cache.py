"""The cache of a Dense layer has named fields, and is read only by name."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.nn.layers import Context, Dense

RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 5))


def test_the_cache_has_the_arrays_of_the_forward_pass() -> None:
    ops: Any = dn.get_backend("numpy").ops
    parameters: Any = {"W": RNG.normal(size=(2, 3)), "b": np.ones((2, 1))}
    A, cache = Dense(2, "tanh").forward(ops, parameters, X, Context(1, 0, None))
    assert cache.A_prev is X
    np.testing.assert_array_equal(cache.Z, parameters["W"] @ X + parameters["b"])
    assert cache.A is A


@pytest.mark.parametrize("loss", ["categorical_cross_entropy", "mean_squared_error"])
def test_no_code_reads_the_cache_by_position(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def train() -> np.ndarray:
        net = dn.Network([dn.Dense(4, "relu"), dn.Dense(2, "softmax")], inputs=3, seed=0)
        history = net.fit(X, np.eye(2)[:, [0, 1, 1, 0, 1]], loss=loss, epochs=1, batch_size=5)
        return np.append(net.flat(), history.loss)

    expected, forward = train(), Dense.forward

    def forward_with_namespace(*arguments: Any) -> Any:
        A, cache = forward(*arguments)
        return A, SimpleNamespace(**cache._asdict())  # cannot be unpacked or indexed

    monkeypatch.setattr(Dense, "forward", forward_with_namespace)
    np.testing.assert_array_equal(train(), expected)
