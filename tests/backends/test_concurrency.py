"""Threads, async tasks, forks and worker processes give correct results or a Python error, and never hang."""

import asyncio
import copy
import os
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from checkpointed import BACKENDS
from watchdog import call_concurrently, call_within, run_python

import deepnotes as dn

pytestmark = pytest.mark.slow

SECONDS = 30


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> dn.Backend:
    """Return a backend; the Numba backend may use two threads."""
    return dn.get_backend(request.param, **({"threads": 2} if request.param == "numba" else {}))


def wide_network(backend: Any, seed: int = 0, dtype: str = "float32") -> dn.Network:
    """Return a network that is large enough for two threads."""
    layers = [dn.Dense(192, "gelu"), dn.Dropout(0.2), dn.Dense(5, "softmax")]
    return dn.Network(layers, 96, backend=backend, dtype=dtype, seed=seed)


def data(samples: int = 600) -> tuple[np.ndarray, np.ndarray]:
    """Return X, shape (96, samples), and class indices."""
    rng = np.random.default_rng(1)
    return rng.normal(size=(96, samples)).astype(np.float32), rng.integers(0, 5, samples)


# --- threads and tasks ------------------------------------------------------------------------------------------------


def test_eight_threads_and_eight_tasks_each_select_a_backend() -> None:
    """A thread that a task starts uses the backend that the task selected."""
    names = [BACKENDS[i % len(BACKENDS)] for i in range(8)]

    def select(name: str) -> set[str]:
        selected = set()
        for _ in range(200):
            with dn.use_backend(name) as chosen:
                selected |= {dn.get_backend().name, chosen.name}
        return selected | {f"after: {dn.get_backend().name}"}

    def in_thread(name: str) -> Callable[[], set[str]]:
        return lambda: select(name)

    assert call_concurrently([in_thread(name) for name in names], SECONDS) == [{name, "after: numpy"} for name in names]

    async def task(name: str) -> set[str]:
        selected = set()
        with dn.use_backend(name):
            for _ in range(20):
                await asyncio.sleep(0)
                selected |= {dn.get_backend().name, (await asyncio.to_thread(dn.get_backend)).name}
        return selected

    async def all_tasks() -> list[set[str]]:
        return await asyncio.wait_for(asyncio.gather(*map(task, names)), SECONDS)

    assert asyncio.run(all_tasks()) == [{name} for name in names]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_eight_threads_that_share_a_network_get_the_results_of_one_thread(backend: dn.Backend, dtype: str) -> None:
    net = wide_network(backend, dtype=dtype)
    X, y = data(1200)
    parts = [(X[:, i : i + size], y[i : i + size]) for i, size in enumerate((1, 1, 2, 31, 64, 200, 600, 1200))]
    expected = [(net.predict(x).tobytes(), net.evaluate(x, y)) for x, y in parts]

    def predict(number: int) -> list[tuple[bytes, dict[str, float]]]:
        x, y = parts[number]
        return [(net.predict(x).tobytes(), net.evaluate(x, y)) for _ in range(3)]

    results = call_concurrently([partial(predict, i) for i in range(8)], SECONDS)
    assert results == [[outputs] * 3 for outputs in expected]


def test_training_networks_in_parallel_threads_gives_the_same_bits_as_in_sequence(backend: dn.Backend) -> None:
    X, y = data()

    def train(seed: int) -> tuple[bytes, list[float]]:
        net = wide_network(backend, seed)
        history = net.fit(X, y, epochs=2, batch_size=100, validation=(X, y))
        return net.flat().tobytes(), history.loss + history.val_loss

    expected = [train(seed) for seed in range(4)]
    assert call_concurrently([partial(train, seed) for seed in range(4)], SECONDS) == expected


def test_a_network_predicts_while_it_is_trained(backend: dn.Backend) -> None:
    """Predictions use the current parameters, and training gives the same bits as without predictions."""
    X, y = data()
    net, undisturbed = wide_network(backend), wide_network(backend)
    undisturbed.fit(X, y, epochs=4, batch_size=50)
    done = threading.Event()

    def train() -> None:
        net.fit(X, y, epochs=4, batch_size=50)
        done.set()

    def predict() -> None:
        while not done.is_set():
            A = net.predict(X[:, :40])
            np.testing.assert_allclose(A.sum(axis=0), 1, rtol=1e-5)

    call_concurrently([train, predict, predict], SECONDS)
    assert net.flat().tobytes() == undisturbed.flat().tobytes()


def test_a_network_that_is_being_trained_refuses_a_second_training(backend: dn.Backend) -> None:
    X, y = data()
    net, undisturbed = wide_network(backend), wide_network(backend)
    undisturbed.fit(X, y, epochs=3)
    paused, resume = threading.Event(), threading.Event()

    class PauseTraining(dn.Callback):
        def on_epoch(self, training: Any) -> None:
            if training.epoch == 1:
                paused.set()
                assert resume.wait(SECONDS)

    def train_again() -> None:
        assert paused.wait(SECONDS)
        try:
            with pytest.raises(dn.BusyError, match="already being trained, in another thread"):
                net.fit(X, y)
            with pytest.raises(dn.BusyError):
                net.partial_fit(X, y)
            copy.deepcopy(net).partial_fit(X, y)
        finally:
            resume.set()

    call_concurrently([lambda: net.fit(X, y, epochs=3, callbacks=[PauseTraining()]), train_again], SECONDS)
    assert net.flat().tobytes() == undisturbed.flat().tobytes()
    net.partial_fit(X, y)  # the network is not busy any more


def test_a_callback_cannot_train_the_network_that_it_watches(backend: dn.Backend) -> None:
    X, y = data(50)
    net = wide_network(backend)

    class TrainAgain(dn.Callback):
        def on_epoch(self, training: Any) -> None:
            training.network.partial_fit(X, y)

    with pytest.raises(dn.BusyError, match="by the call of fit that called this callback"):
        net.fit(X, y, callbacks=[TrainAgain()])
    net.fit(X, y, epochs=1)


# --- processes --------------------------------------------------------------------------------------------------------

FORK = """
import os, threading
from test_concurrency import data, wide_network
import deepnotes as dn

X, y = data()
net = wide_network({backend!r})
net.fit(X, y, epochs=1, batch_size=100)
predicted = net.predict(X)

other, started = wide_network({backend!r}, seed=7), threading.Event()
class SignalStart(dn.Callback):
    def on_chunk(self, training):
        started.set()
if {training}:
    endless = dict(epochs=10**6, callbacks=[SignalStart()])
    threading.Thread(target=other.fit, args=(X, y), kwargs=endless, daemon=True).start()
    started.wait()

child = os.fork()
assert net.predict(X).tobytes() == predicted.tobytes()
loss = net.fit(X, y, epochs=2, batch_size=100).loss
fresh = wide_network({backend!r}, seed=5)
results = repr((loss, fresh.fit(X, y, epochs=1, batch_size=100).loss, net.predict(X[:, :1]).tolist()))
os.write(1, results.encode() + b"\\n")
try:
    other.fit(X, y, epochs=1)
except dn.BusyError:
    os.write(1, b"refused\\n")
if child:
    assert os.waitpid(child, 0)[1] == 0
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("name", BACKENDS)
def test_a_process_forked_after_training_computes_the_same_bits_as_its_parent(name: str) -> None:
    wide_network(name).fit(*data(), epochs=1)  # compiles before the time limit starts
    lines = run_python(FORK.format(backend=name, training=False), SECONDS).splitlines()
    assert len(lines) == 2
    assert lines[0] == lines[1]


@pytest.mark.skipif("numba" not in BACKENDS or not hasattr(os, "fork"), reason="needs fork and the extra numba")
def test_a_process_forked_while_another_thread_trains_computes_the_same_bits() -> None:
    """Both processes refuse to train the network that was being trained. (NumPy's BLAS may hang after such a fork.)"""
    wide_network("numba").fit(*data(), epochs=1)
    lines = run_python(FORK.format(backend="numba", training=True), SECONDS).splitlines()
    assert sorted(lines)[2:] == ["refused", "refused"]
    assert len(set(lines)) == 2


POOL = """
import multiprocessing
from test_concurrency import data, wide_network

def task(seed):
    X, y = data()
    net = wide_network({backend!r}, seed)
    loss = net.fit(X, y, epochs=1, batch_size=100).loss
    return loss, trained.predict(X).tobytes(), net.predict(X).tobytes()

X, y = data()
trained = wide_network({backend!r})
trained.fit(X, y, epochs=1, batch_size=100)
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(task, range(4)) == list(map(task, range(4)))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("name", BACKENDS)
def test_a_pool_of_forked_processes_computes_the_same_bits_as_one_process(name: str) -> None:
    wide_network(name).fit(*data(), epochs=1)
    run_python(POOL.format(backend=name), SECONDS)


def train_and_score(net: dn.Network, rate: float) -> tuple[list[float], bytes]:
    """Train a copy of a network and predict held-out samples, as a worker of a grid search does."""
    X, y = data()
    net = copy.deepcopy(net)
    history = net.fit(X[:, :400], y[:400], optimizer=dn.Adam(rate), epochs=1, batch_size=100)
    return history.loss, net.predict(X[:, 400:]).tobytes()


@pytest.mark.parametrize("workers", ["loky", "threading"])
def test_joblib_workers_compute_the_same_bits_as_one_process(workers: str) -> None:
    """GridSearchCV of scikit-learn uses these workers."""
    joblib = pytest.importorskip("joblib", reason="needs joblib, which the extra sklearn installs")
    threadpoolctl = pytest.importorskip("threadpoolctl")
    tasks = [(wide_network(name), rate) for name in BACKENDS for rate in (0.01, 0.001)]
    for net, _ in tasks:
        net.fit(*data(50), epochs=1)
    expected = [train_and_score(*task) for task in tasks]
    # loky divides the threads among its processes, but NumPy gives the same bits only with the same number of threads.
    blas = [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
    threads = {"inner_max_num_threads": max(blas, default=1)} if workers == "loky" else {}
    with joblib.parallel_config(backend=workers, n_jobs=2, **threads):
        work = joblib.Parallel(timeout=2 * SECONDS)
        results = call_within(2 * SECONDS, lambda: work(joblib.delayed(train_and_score)(*task) for task in tasks))
    assert results == expected
