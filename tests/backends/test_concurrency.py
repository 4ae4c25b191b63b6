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
from watchdog import at_once, python, within

import deepnotes as dn

pytestmark = pytest.mark.slow

SECONDS = 30


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> dn.Backend:
    """Return a backend; the Numba backend may use two threads."""
    return dn.get_backend(request.param, **({"threads": 2} if request.param == "numba" else {}))


def wide(backend: Any, seed: int = 0, dtype: str = "float32") -> dn.Network:
    """Return a network that is large enough for two threads."""
    layers = [dn.Dense(192, "gelu"), dn.Dropout(0.2), dn.Dense(5, "softmax")]
    return dn.Network(layers, 96, backend=backend, dtype=dtype, seed=seed)


def data(samples: int = 600) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.normal(size=(96, samples)).astype(np.float32), rng.integers(0, 5, samples)


# --- threads and tasks ------------------------------------------------------------------------------------------------


def test_eight_threads_and_eight_tasks_select_backends_of_their_own() -> None:
    """A thread started by a task sees the selection of that task."""
    names = [BACKENDS[i % len(BACKENDS)] for i in range(8)]

    def select(name: str) -> set[str]:
        seen = set()
        for _ in range(200):
            with dn.use_backend(name) as chosen:
                seen |= {dn.get_backend().name, chosen.name}
        return seen | {f"after: {dn.get_backend().name}"}

    def in_thread(name: str) -> Callable[[], set[str]]:
        return lambda: select(name)

    assert at_once([in_thread(name) for name in names], SECONDS) == [{name, "after: numpy"} for name in names]

    async def task(name: str) -> set[str]:
        seen = set()
        with dn.use_backend(name):
            for _ in range(20):
                await asyncio.sleep(0)
                seen |= {dn.get_backend().name, (await asyncio.to_thread(dn.get_backend)).name}
        return seen

    async def all_tasks() -> list[set[str]]:
        return await asyncio.wait_for(asyncio.gather(*map(task, names)), SECONDS)

    assert asyncio.run(all_tasks()) == [{name} for name in names]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_eight_threads_predict_and_evaluate_with_one_network_as_one_does(backend: dn.Backend, dtype: str) -> None:
    net = wide(backend, dtype=dtype)
    X, y = data(1200)
    parts = [(X[:, i : i + size], y[i : i + size]) for i, size in enumerate((1, 1, 2, 31, 64, 200, 600, 1200))]
    wanted = [(net.predict(x).tobytes(), net.evaluate(x, y)) for x, y in parts]

    def ask(number: int) -> list[tuple[bytes, dict[str, float]]]:
        x, y = parts[number]
        return [(net.predict(x).tobytes(), net.evaluate(x, y)) for _ in range(3)]

    for found, expected in zip(at_once([partial(ask, i) for i in range(8)], SECONDS), wanted, strict=True):
        assert found == [expected] * 3


def test_networks_train_in_threads_as_they_do_one_after_the_other(backend: dn.Backend) -> None:
    X, y = data()

    def train(seed: int) -> tuple[bytes, list[float]]:
        net = wide(backend, seed)
        history = net.fit(X, y, epochs=2, batch_size=100, validation=(X, y))
        return net.flat().tobytes(), history.loss + history.val_loss

    wanted = [train(seed) for seed in range(4)]
    assert at_once([partial(train, seed) for seed in range(4)], SECONDS) == wanted


def test_a_network_is_asked_while_it_is_trained(backend: dn.Backend) -> None:
    """Predictions use intermediate parameters, and the training is not affected."""
    X, y = data()
    net, alone = wide(backend), wide(backend)
    alone.fit(X, y, epochs=4, batch_size=50)
    done = threading.Event()

    def train() -> None:
        net.fit(X, y, epochs=4, batch_size=50)
        done.set()

    def ask() -> None:
        while not done.is_set():
            A = net.predict(X[:, :40])
            np.testing.assert_allclose(A.sum(axis=0), 1, rtol=1e-5)

    at_once([train, ask, ask], SECONDS)
    assert net.flat().tobytes() == alone.flat().tobytes()


def test_a_network_that_is_being_trained_refuses_a_second_training(backend: dn.Backend) -> None:
    X, y = data()
    net, alone = wide(backend), wide(backend)
    alone.fit(X, y, epochs=3)
    inside, go_on = threading.Event(), threading.Event()

    class Waits(dn.Callback):
        def on_epoch(self, training: Any) -> None:
            if training.epoch == 1:
                inside.set()
                assert go_on.wait(SECONDS)

    def second() -> None:
        assert inside.wait(SECONDS)
        try:
            with pytest.raises(dn.BusyError, match="is being trained already, in another thread"):
                net.fit(X, y)
            with pytest.raises(dn.BusyError):
                net.partial_fit(X, y)
            copy.deepcopy(net).partial_fit(X, y)
        finally:
            go_on.set()

    at_once([lambda: net.fit(X, y, epochs=3, callbacks=[Waits()]), second], SECONDS)
    assert net.flat().tobytes() == alone.flat().tobytes()
    net.partial_fit(X, y)  # the network is not busy any more


def test_a_callback_cannot_train_the_network_that_it_watches(backend: dn.Backend) -> None:
    X, y = data(50)
    net = wide(backend)

    class Trains(dn.Callback):
        def on_epoch(self, training: Any) -> None:
            training.network.partial_fit(X, y)

    with pytest.raises(dn.BusyError, match="by the training whose callback this is"):
        net.fit(X, y, callbacks=[Trains()])
    net.fit(X, y, epochs=1)


# --- processes --------------------------------------------------------------------------------------------------------

FORK = """
import os, threading
from test_concurrency import data, wide
import deepnotes as dn

X, y = data()
net = wide({backend!r})
net.fit(X, y, epochs=1, batch_size=100)
predicted = net.predict(X)

other, begun = wide({backend!r}, seed=7), threading.Event()
class Tells(dn.Callback):
    def on_chunk(self, training):
        begun.set()
if {training}:
    endless = dict(epochs=10**6, callbacks=[Tells()])
    threading.Thread(target=other.fit, args=(X, y), kwargs=endless, daemon=True).start()
    begun.wait()

child = os.fork()
assert net.predict(X).tobytes() == predicted.tobytes()
loss = net.fit(X, y, epochs=2, batch_size=100).loss
fresh = wide({backend!r}, seed=5)
told = repr((loss, fresh.fit(X, y, epochs=1, batch_size=100).loss, net.predict(X[:, :1]).tolist()))
os.write(1, told.encode() + b"\\n")
try:
    other.fit(X, y, epochs=1)
except dn.BusyError:
    os.write(1, b"refused\\n")
if child:
    assert os.waitpid(child, 0)[1] == 0
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("name", BACKENDS)
def test_a_fork_after_a_training_predicts_and_trains_as_its_parent_does(name: str) -> None:
    wide(name).fit(*data(), epochs=1)  # compiles before the time limit starts
    told = python(FORK.format(backend=name, training=False), SECONDS).splitlines()
    assert len(told) == 2
    assert told[0] == told[1]


@pytest.mark.skipif("numba" not in BACKENDS or not hasattr(os, "fork"), reason="wanted a fork, and the extra numba")
def test_a_fork_amid_a_training_of_another_thread_is_right_too() -> None:
    """The network that was being trained at that moment is refused, in parent and child; a BLAS may hang instead."""
    wide("numba").fit(*data(), epochs=1)
    told = python(FORK.format(backend="numba", training=True), SECONDS).splitlines()
    assert sorted(told)[2:] == ["refused", "refused"]
    assert len(set(told)) == 2


POOL = """
import multiprocessing
from test_concurrency import data, wide

def task(seed):
    X, y = data()
    net = wide({backend!r}, seed)
    loss = net.fit(X, y, epochs=1, batch_size=100).loss
    return loss, trained.predict(X).tobytes(), net.predict(X).tobytes()

X, y = data()
trained = wide({backend!r})
trained.fit(X, y, epochs=1, batch_size=100)
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(task, range(4)) == list(map(task, range(4)))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("name", BACKENDS)
def test_a_pool_of_forks_trains_as_one_process_does(name: str) -> None:
    wide(name).fit(*data(), epochs=1)
    python(POOL.format(backend=name), SECONDS)


def scored(net: dn.Network, rate: float) -> tuple[list[float], bytes]:
    """Train a copy of a network and score it, as a worker of a grid search does."""
    X, y = data()
    net = copy.deepcopy(net)
    history = net.fit(X[:, :400], y[:400], optimizer=dn.Adam(rate), epochs=1, batch_size=100)
    return history.loss, net.predict(X[:, 400:]).tobytes()


@pytest.mark.parametrize("workers", ["loky", "threading"])
def test_workers_of_joblib_train_as_one_process_does(workers: str) -> None:
    """GridSearchCV of scikit-learn uses these workers."""
    joblib = pytest.importorskip("joblib", reason="joblib comes with the extra sklearn")
    threadpoolctl = pytest.importorskip("threadpoolctl")
    tasks = [(wide(name), rate) for name in BACKENDS for rate in (0.01, 0.001)]
    for net, _ in tasks:
        net.fit(*data(50), epochs=1)
    wanted = [scored(*task) for task in tasks]
    # Processes of loky divide the cores among them, and NumPy gives the same bits for the same number of threads.
    blas = [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
    threads = {"inner_max_num_threads": max(blas, default=1)} if workers == "loky" else {}
    with joblib.parallel_config(backend=workers, n_jobs=2, **threads):
        work = joblib.Parallel(timeout=2 * SECONDS)
        found = within(2 * SECONDS, lambda: work(joblib.delayed(scored)(*task) for task in tasks))
    assert found == wanted
