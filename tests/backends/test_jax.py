"""The backend on JAX that CONTRIBUTING.md prints, as printed: it compiles its steps, and passes conformance."""

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.backends import JitProgram
from deepnotes.backends.eager import EagerProgram
from deepnotes.testing import run

pytest.importorskip("jax", reason="needs JAX")

PAGE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def backend() -> dn.Backend:
    """Return the printed backend."""
    block = re.search(r"```python\n(# jax_backend\.py\n.*?)```", PAGE, flags=re.DOTALL)
    assert block is not None
    assert len(block[1].splitlines()) <= 30
    module = ModuleType("jax_backend")
    exec(compile(block[1], "jax_backend.py", "exec"), vars(module))
    created: dn.Backend = module.create()
    return created


def train(backend: Any, loss: str | None = None) -> tuple[dn.Network, list[float]]:
    """Train a network with every kind of part that a step can have."""
    X = np.random.default_rng(0).normal(size=(4, 50))
    y = np.arange(50) % 3
    layers = [dn.Dense(8, "tanh"), dn.Dropout(0.3), dn.Dense(3, "softmax")]
    net = dn.Network(layers, inputs=4, seed=2**63 + 1, backend=backend)
    history = net.fit(X, y, optimizer=dn.AdamW(0.01), epochs=4, batch_size=16, l2=1e-3, clip_norm=1.0)
    return net, history.loss


def test_steps_are_compiled_and_agree_with_numpy(backend: dn.Backend) -> None:
    net, losses = train(backend)
    assert type(net._training[1]) is JitProgram  # type: ignore[index]
    assert losses == pytest.approx(train("numpy")[1], rel=1e-4)


def test_a_layer_that_may_branch_on_values_runs_eagerly(backend: dn.Backend) -> None:
    class Double(dn.Layer):
        def forward(self, ops: Any, parameters: Any, A_prev: Any, context: Any) -> Any:
            return (2 * A_prev if float(ops.xp.sum(A_prev)) else A_prev), None

        def backward(self, ops: Any, parameters: Any, cache: Any, dA: Any) -> Any:
            return 2 * dA, {}

        def output_size(self, inputs: int) -> int:
            return inputs

    net = dn.Network([Double(), dn.Dense(1)], inputs=2, backend=backend, seed=0)
    net.fit(np.ones((2, 8)), np.ones((1, 8)), epochs=1)
    assert type(net._training[1]) is EagerProgram  # type: ignore[index]


def test_float64_is_refused_where_jax_has_none(backend: dn.Backend) -> None:
    if "float64" in backend.dtypes:
        pytest.skip("JAX_ENABLE_X64 is set")
    with pytest.raises(dn.ArgumentError, match="backend 'jax' has no float64, wanted float32"):
        dn.Network([dn.Dense(1)], inputs=2, dtype="float64", backend=backend)


@pytest.mark.slow
def test_the_backend_passes_conformance(backend: dn.Backend) -> None:
    report = run(backend, quick=True)
    assert {result.check: result.message for result in report.results if result.verdict == "failed"} == {}
    assert report.environment["backend"].startswith("jax: jax ")
