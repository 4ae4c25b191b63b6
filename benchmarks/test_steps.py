"""pytest-benchmark: a chunk of Adam steps, and a prediction, of every network; ``pytest benchmarks/``."""

from typing import Any

import pytest

import deepnotes as dn
from benchmarks.networks import NETWORKS

STEPS = 4


@pytest.mark.parametrize("name", NETWORKS)
def test_adam_steps(benchmark: Any, name: str) -> None:
    case = NETWORKS[name]
    X, y = case.data(STEPS * case.batch)
    net = dn.Network(case.layers, case.sizes[0], seed=0)
    benchmark.extra_info["steps"] = STEPS
    benchmark(net.fit, X.T, y, epochs=1, batch_size=case.batch)


@pytest.mark.parametrize("name", NETWORKS)
def test_predict(benchmark: Any, name: str) -> None:
    case = NETWORKS[name]
    X, _ = case.data(case.batch)
    net = dn.Network(case.layers, case.sizes[0], seed=0)
    benchmark(net.predict, X.T)
