"""Measure training steps, predictions, saving and loading for every network, and steps for many widths and batches."""

from pathlib import Path
from typing import Any

import pytest

import deepnotes as dn
from benchmarks.networks import NETWORKS
from deepnotes.backends.base import Backend
from deepnotes.testing.bench.cases import Case
from deepnotes.testing.bench.contenders import network
from deepnotes.testing.bench.limits import prediction_work, step_work
from deepnotes.testing.bench.sweep import BATCHES, MAX_STEP_SECONDS, WIDTHS

STEPS = 4
DTYPES = ["float32", "float64"]


def time_steps(time_calls: Any, backend: Backend, case: Case) -> None:
    """Time an epoch of `STEPS` steps."""
    X, y = case.data(STEPS * case.batch)
    net, optimizer = network(backend, case), case.plan.optimizer

    def train() -> None:
        net.fit(X.T, y, optimizer=optimizer, epochs=1, batch_size=case.batch, shuffle=False)

    time_calls(train, backend, step_work(case.plan, case.batch), case.dtype, units=STEPS)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NETWORKS)
def test_adam_steps(time_calls: Any, backend: Backend, name: str, dtype: str) -> None:
    time_steps(time_calls, backend, NETWORKS[name]._replace(dtype=dtype))


@pytest.mark.parametrize("samples", [1, 1000])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NETWORKS)
def test_predict(time_calls: Any, backend: Backend, name: str, dtype: str, samples: int) -> None:
    case = NETWORKS[name]._replace(dtype=dtype, batch=samples)
    X, _ = case.data(samples)
    net = network(backend, case)
    time_calls(lambda: net.predict(X.T), backend, prediction_work(case.plan, samples), dtype)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("width", WIDTHS)
def test_sweep(time_calls: Any, limits: Any, backend: Backend, width: int, batch: int, request: Any) -> None:
    case = Case((width,) * 3, batch)
    too_large = case.too_large(STEPS * batch)
    if too_large:
        pytest.skip(too_large)
    time_limit = min(MAX_STEP_SECONDS, request.config.getoption("--largest-seconds") / STEPS)
    lower_bound = limits(backend).seconds(step_work(case.plan, batch), case.dtype)
    if lower_bound > time_limit:
        pytest.skip(f"one step takes {lower_bound:.2g} s or more, but the limit is {time_limit:g} s")
    time_steps(time_calls, backend, case)


@pytest.mark.parametrize("name", NETWORKS)
def test_save(time_calls: Any, backend: Backend, name: str, tmp_path: Path) -> None:
    net = network(backend, NETWORKS[name])
    time_calls(lambda: net.save(tmp_path / "net.safetensors"), backend, None, "float32")


@pytest.mark.parametrize("name", NETWORKS)
def test_load(time_calls: Any, backend: Backend, name: str, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    network(backend, NETWORKS[name]).save(path)
    time_calls(lambda: dn.load(path, backend=backend), backend, None, "float32")
