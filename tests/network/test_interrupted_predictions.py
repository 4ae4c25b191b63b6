"""Predictions and evaluations of many samples stop soon after Ctrl-C, and use a bounded amount of memory."""

import os
import signal
import subprocess
import sys
import time
import tracemalloc
from typing import Any

import numpy as np
import pytest

import deepnotes as dn

pytestmark = pytest.mark.slow

BACKENDS = [name for name in ("numpy", "numba") if name in dn.available_backends()]
LONG_CALL = """
import signal, sys, time
import numpy as np, deepnotes as dn
signal.signal(signal.SIGINT, signal.default_int_handler)
net = dn.Network([dn.Dense(1024, "relu"), dn.Dense(1024, "relu"), dn.Dense(1)], inputs=1, backend={backend!r}, seed=0)
few, X = np.ones((1, 3), np.float32), np.ones((1, 1_500_000), np.float32)
theta, before = net.flat(), net.predict(few)
net.evaluate(few, few)
print("starting", flush=True)
try:
    {call}
except KeyboardInterrupt:
    print("interrupted", flush=True)
assert np.array_equal(net.flat(), theta) and np.array_equal(net.predict(few), before)
print("unchanged")
"""
"""A program with a call that takes half a minute on two cores."""


@pytest.mark.thinned(3)
@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("call", ["net.predict(X)", "net.evaluate(X, X)"])
def test_an_interrupt_ends_a_long_prediction_soon(backend: str, call: str) -> None:
    command = [sys.executable, "-c", LONG_CALL.format(backend=backend, call=call)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while process.stdout.readline() != "starting\n":
            assert process.poll() is None
        time.sleep(1.0)
        start = time.perf_counter()
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        assert time.perf_counter() - start < 5  # on an idle machine, 0.2 s
        assert process.stdout.read() == "unchanged\n"  # communicate() would skip output that is already buffered


@pytest.mark.parametrize("backend", BACKENDS)
def test_predictions_do_not_store_the_hidden_outputs_of_all_samples(backend: str) -> None:
    net = dn.Network([dn.Dense(256, "tanh"), dn.Dense(256, "tanh"), dn.Dense(1)], 2, backend=backend, seed=0)
    peaks = []
    for samples in (2, 50_000, 150_000):
        X = np.ones((2, samples), np.float32)
        tracemalloc.start()
        try:
            net.predict(X)
            net.evaluate(X, X[:1])
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[2] - peaks[1] < 100_000 * 256 * 4 / 8


@pytest.mark.skipif("numba" not in BACKENDS, reason="Numba is not available")
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("units", [300, 7])
def test_predictions_in_chunks_have_the_same_bits(
    threads: int, dtype: Any, units: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deepnotes_numba import inference, thread_count
    from deepnotes_numba.thread_team import run

    monkeypatch.setattr(thread_count, "WORK_PER_START", 1000)
    monkeypatch.setattr(thread_count, "WORK_PER_THREAD", 1000)
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(5, 6001)).astype(dtype), rng.integers(0, 3, 6001)
    results = []
    for work, seconds in ((1 << 40, 1.0), (1, 0.0), (1, 1.0)):
        monkeypatch.setattr(inference, "FIRST_CHUNK_WORK", work)
        monkeypatch.setattr(inference, "CHUNK_SECONDS", seconds)
        calls: list[Any] = []
        monkeypatch.setattr(inference, "run", lambda *args, calls=calls: calls.append(args) or run(*args))
        net = dn.Network(
            [dn.Dense(units, "gelu"), dn.Dense(3, "softmax")], 5, dtype=dtype, seed=0,
            backend=dn.get_backend("numba", threads=threads),
        )  # fmt: skip
        outputs, metrics = net.predict(X), net.evaluate(X, y, metrics=["accuracy"])
        results.append((outputs.tobytes(), metrics, len(calls)))
    assert results[0][:2] == results[1][:2] == results[2][:2]
    assert results[0][2] == 2
    if units == 300:  # with 7 units, all samples fit into one workspace
        assert results[1][2] > results[2][2] > 2
