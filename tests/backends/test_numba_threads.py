"""The Numba backend's threads: results do not depend on their number, and all threads end before a call returns."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.backends.program import Batches, Data, State
from deepnotes.nn.losses import Loss

pytest.importorskip("numba")
from test_numba_team import _no_second_thread, call_within  # noqa: F401

from deepnotes_numba import inference, program, thread_count
from deepnotes_numba.lowering import block_of

pytestmark = pytest.mark.slow

DTYPES = ["float32", "float64"]
COUNTS = [1, 2, 3, 5]
LAYERS = [dn.Dense(41, "tanh"), dn.Dropout(0.3), dn.Dense(70, "gelu"), dn.Dropout(0.1), dn.Dense(5, "softmax")]


@pytest.fixture
def choices(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """Use all threads for any amount of work; return a list of the choices: (threads, whether rows are split)."""
    monkeypatch.setattr(thread_count, "WORK_PER_THREAD", 1)
    monkeypatch.setattr(thread_count, "WORK_PER_START", 1)
    recorded: list[tuple[int, bool]] = []
    choose = thread_count.choose

    def spy(*arguments: Any) -> tuple[int, bool]:
        recorded.append(choose(*arguments))
        return recorded[-1]

    monkeypatch.setattr(thread_count, "choose", spy)
    return recorded


@pytest.fixture
def started_threads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which the name of each new thread is added."""
    names: list[str] = []
    start = threading.Thread.start

    def spy(thread: threading.Thread) -> None:
        names.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", spy)
    return names


def running_threads() -> list[str]:
    """Return the names of the threads of deepnotes, without those that copy to a GPU, which stay once started."""
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("deepnotes-") and not name.startswith("deepnotes-copy")]


@pytest.fixture(autouse=True)
def _check_that_all_threads_ended() -> Iterator[None]:
    yield
    assert not running_threads()


def network(count: int, dtype: str, layers: list[dn.Layer] = LAYERS) -> dn.Network:
    return dn.Network(layers, inputs=37, backend=dn.get_backend("numba", threads=count), dtype=dtype, seed=3)


def data(m: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(m)
    return rng.normal(size=(37, m)).astype(dtype), rng.integers(0, 5, m)


def train(
    count: int, dtype: str, m: int, batch_size: int, layers: list[dn.Layer] = LAYERS, **settings: Any
) -> list[Any]:
    """Train for two epochs of m samples; return the parameters, the optimizer's slots, and the fields of the Chunk."""
    net, (X, y) = network(count, dtype, layers), data(m, dtype)
    w = np.random.default_rng(1).uniform(size=(1, m)).astype(dtype) if settings.pop("weighted", False) else None
    loss = Loss("categorical_cross_entropy")
    plan = net._plan(loss, **({"l2": 0.0, "clip_norm": None, "class_indices": True} | settings))
    program = net.backend.compile(plan)
    assert program is not None
    slots = [np.zeros_like(net.flat()) for _ in plan.optimizer.slots]
    state = State(net.flat(), tuple(slots))
    order = np.concatenate([np.random.default_rng(2).permutation(m) for _ in range(2)])
    rates = np.full(-(-2 * m // batch_size), 0.01)
    chunk = program.train(state, Batches(Data(X, y[None], w), order, batch_size, rates))
    assert chunk.steps == len(rates)
    return [state.theta, *state.slots, *chunk]


def assert_same_bits(results: list[list[Any]]) -> None:
    for result in results[1:]:
        for array, expected in zip(result, results[0], strict=True):
            np.testing.assert_array_equal(array, expected)


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"optimizer": dn.SGD(0.1)},
    "l2 and clipping": {"optimizer": dn.SGD(0.1, 0.9, nesterov=True), "l2": 0.1, "clip_norm": 0.01},
    "weights": {"optimizer": dn.RMSProp(), "weighted": True},
    "decay": {"optimizer": dn.AdamW()},
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "batch_size"), [(7, 1), (50, 20), (430, 70), (430, 200), (430, 1000)])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_training_gives_the_same_bits_for_any_number_of_threads(
    settings: dict[str, Any], m: int, batch_size: int, dtype: str, choices: list[tuple[int, bool]]
) -> None:
    """The cases cover fewer and more blocks per batch than threads, partial blocks, and smaller last batches."""
    assert_same_bits([train(count, dtype, m, batch_size, **settings) for count in COUNTS])
    blocks = -(-min(batch_size, 2 * m) // block_of(np.dtype(dtype)))
    rows = batch_size < 50
    assert set(choices) == {(count, count > 1 and (rows or count > blocks)) for count in COUNTS}


NORMALIZED = [
    dn.BatchNorm(), dn.Dense(41, "tanh"), dn.Residual([dn.BatchNorm(), dn.Dropout(0.3), dn.Dense(41)]), dn.BatchNorm(),
    dn.Dense(5, "softmax"),
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "batch_size"), [(50, 20), (430, 200), (1300, 1300)])
def test_batch_normalization_gives_the_same_bits_for_any_number_of_threads(
    m: int, batch_size: int, dtype: str, choices: list[tuple[int, bool]]
) -> None:
    """Threads share the rows of each array, since a feature is normalized over all samples of a batch."""
    settings: dict[str, Any] = {"optimizer": dn.Adam(), "l2": 0.1, "clip_norm": 0.1, "weighted": True}
    assert_same_bits([train(count, dtype, m, batch_size, NORMALIZED, **settings) for count in COUNTS])
    assert set(choices) == {(count, count > 1) for count in COUNTS}
    X, _ = data(m, dtype)
    assert_same_bits([[network(count, dtype, NORMALIZED).predict(X)] for count in COUNTS])


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_training_gives_the_same_bits_whether_rows_or_samples_are_split(
    rows: bool, dtype: str, choices: list[tuple[int, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread_count, "rows_move_less_data", lambda *_: rows)
    results = [train(count, dtype, 430, 200, optimizer=dn.Adam(), l2=0.1, weighted=True) for count in (1, 2, 3)]
    assert_same_bits(results)
    assert choices == [(1, False), (2, rows), (3, rows)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("elements", [1, 1 << 18])
def test_batches_larger_than_the_workspace_give_the_same_bits_for_any_number_of_threads(
    elements: int, dtype: str, choices: list[tuple[int, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "ELEMENTS", elements)
    assert_same_bits([train(count, dtype, 430, 430, optimizer=dn.Adam(), l2=0.1, clip_norm=0.1) for count in COUNTS])
    assert {size for size, _ in choices} == set(COUNTS)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch_size", [20, 200])
def test_training_stops_at_the_same_update_for_any_number_of_threads(
    batch_size: int, dtype: str, choices: list[tuple[int, bool]]
) -> None:
    """The learning rate is far too large: the last finite parameters are kept, and the message names the update."""
    results = []
    X, _ = data(430, dtype)
    for count in COUNTS:
        net = network(count, dtype, [dn.Dense(20, "relu"), dn.Dense(9, "relu"), dn.Dense(1)])
        with pytest.raises(dn.NonFiniteLossError) as caught:
            net.fit(X, X[:1], optimizer=dn.SGD(1e3), batch_size=batch_size, epochs=50)
        assert np.isfinite(net.flat()).all()
        results.append([net.flat(), str(caught.value)])
    assert_same_bits(results)
    assert {size for size, _ in choices} == set(COUNTS)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m", [20, 430, 3000])
@pytest.mark.parametrize("elements", [1, 1 << 17])
def test_predictions_and_metrics_have_the_same_bits_for_any_number_of_threads(
    elements: int, m: int, dtype: str, choices: list[tuple[int, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "ELEMENTS", elements)
    monkeypatch.setattr(inference, "MIN_BLOCKS", 1)
    X, Y = data(m, dtype)
    results = []
    for count in COUNTS:
        net = network(count, dtype)
        metrics = net.evaluate(X, Y, metrics=["accuracy"])
        results.append([net.predict(X), np.array([*metrics.values()])])
    assert_same_bits(results)
    blocks = -(-m // block_of(np.dtype(dtype)))
    assert set(choices) == {(count, count > blocks) for count in COUNTS}


def test_every_call_starts_its_own_threads_and_ends_them(
    choices: list[tuple[int, bool]], started_threads: list[str]
) -> None:
    net = network(3, "float32")
    X, Y = data(200, "float32")
    for call in (lambda: net.partial_fit(X, Y), lambda: net.predict(X), lambda: net.evaluate(X, Y)):
        started_threads.clear()
        call()
        assert started_threads == ["deepnotes-1", "deepnotes-2"]
        assert not running_threads()


@pytest.mark.parametrize("count", [0, -1, "2", 1.5, True])
def test_an_invalid_number_of_threads_is_refused(count: Any) -> None:
    with pytest.raises(dn.ArgumentError, match="threads"):
        dn.get_backend("numba", threads=count)


# --- limits -----------------------------------------------------------------------------------------------------------

needs_two_threads = pytest.mark.skipif(thread_count.limit(None) < 2, reason="this machine grants only one thread")
LIMIT = """
from deepnotes_numba import thread_count
print(thread_count.limit(None))
thread_count._controller = lambda: None
print(thread_count.limit(None))
"""


def run(code: str, **environment: str) -> list[str]:
    process = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, timeout=120
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.split()


@needs_two_threads
@pytest.mark.parametrize("variable", ["NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"])
def test_environment_variables_limit_the_threads(variable: str) -> None:
    """With threadpoolctl, NumPy's BLAS is asked for its limit; without it, the variables themselves are read."""
    if variable != "NUMBA_NUM_THREADS" and "openblas" not in str(np.show_config("dicts")["Build Dependencies"]):
        pytest.skip("this NumPy's BLAS may use other variables")
    assert run(LIMIT, **{variable: "1"}) == ["1", "1"]


@needs_two_threads
def test_threadpoolctl_limits_the_threads_unless_a_number_is_given() -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")
    before = thread_count.limit(None)
    with threadpoolctl.threadpool_limits(1):
        assert thread_count.limit(None) == 1
        assert thread_count.limit(2) == 2
    assert thread_count.limit(None) == before


@needs_two_threads
def test_the_cpu_affinity_of_the_process_limits_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    assert thread_count.limit(None) == 1


def test_training_does_not_change_the_threads_of_other_libraries(choices: list[tuple[int, bool]]) -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")
    controller = threadpoolctl.ThreadpoolController()
    before = controller.info()
    network(2, "float32").fit(*data(200, "float32"), epochs=1, batch_size=200)
    assert choices[0] == (2, False)
    assert controller.info() == before


def test_the_number_of_threads_grows_with_the_work_up_to_the_limit() -> None:
    for steps in (1, 100, 10**9):
        sizes = [thread_count.choose(4, 2, 10**digits, steps)[0] for digits in range(15)]
        assert sizes == sorted(sizes)
        assert (sizes[0], sizes[-1]) == (1, 4)
    assert thread_count.choose(4, 4, 10**14) == (4, False)
    assert thread_count.choose(4, 3, 10**14) == (4, True)
    assert thread_count.choose(4, 9, 10**14, prefer_rows=True) == (4, True)


def test_training_continues_with_the_fastest_number_of_threads(choices: list[tuple[int, bool]]) -> None:
    pace = thread_count.Pace()

    def train(work: int, seconds: dict[int, float]) -> tuple[list[int], dict[int, int]]:
        order, work_done = [], dict.fromkeys(seconds, 0)
        while sum(work_done.values()) < work:
            size, split, steps = pace.choose(5, 2, 10**6, 10**6, False)
            assert split == (size > 2)
            pace.record(size, steps * 10**6, steps * seconds[size])
            order.append(size)
            work_done[size] += steps * 10**6
        return order, work_done

    order, work_done = train(10**12, {5: 3.0, 2: 1.0, 1: 2.0})
    assert order[:5] == [5, 2, 1, 2, 5]
    assert work_done[2] > 0.9 * 10**12
    order, work_done = train(10**12, {5: 0.5, 2: 1.0, 1: 2.0})  # now more threads are faster
    assert work_done[5] > 0.8 * 10**12
    assert set(order) == {5, 2, 1}
    assert pace.choose(5, 2, 10**9, 100, False) == (5, True, 100)  # so much work that all threads are worthwhile
    assert pace.choose(1, 2, 10**6, 100, True) == (1, False, 100)


def test_the_times_of_short_calls_are_added_up() -> None:
    """No single epoch is long enough for a trial, and yet the fastest number of threads is found."""
    pace, calls = thread_count.Pace(), {2: 0, 1: 0}
    for call in range(3000):
        size, _, steps = pace.choose(2, 9, 2 * 10**6, 24, False)
        assert steps == 24
        pace.record(size, steps * 2 * 10**6, steps * {2: 3.0, 1: 2.0}[size])
        calls[size] += 1
        if call == 7:
            assert calls == {2: 4, 1: 4}  # the trial of 2 threads, then that of 1; four calls are enough for each
    assert 0 < calls[2] < 0.1 * calls[1]


# --- concurrent calls, and threads that cannot be started -------------------------------------------------------------


@pytest.mark.usefixtures("_no_second_thread")
@pytest.mark.parametrize("m", [7, 200])
def test_training_that_cannot_start_its_threads_changes_no_parameters(m: int, choices: list[tuple[int, bool]]) -> None:
    net = network(3, "float32")
    X, Y = data(m, "float32")
    before = net.flat()
    for call in (net.partial_fit, net.evaluate):
        with pytest.raises(RuntimeError, match="can't start"):
            call_within(60, call, X, Y)
        assert choices.pop() == (3, m == 7)
    np.testing.assert_array_equal(net.flat(), before)


@pytest.mark.parametrize("m", [1, 7, 200])
def test_concurrent_predictions_of_one_network_may_each_use_two_threads(
    m: int, choices: list[tuple[int, bool]]
) -> None:
    net = network(2, "float32")
    X, _ = data(m, "float32")
    expected = net.predict(X)
    same: list[bool] = []

    def work() -> None:
        same.append(all(np.array_equal(net.predict(X), expected) for _ in range(20)))

    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    assert same == [True] * 8
    assert set(choices) == ({(2, m == 7)} if m > 1 else set())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_process_forked_after_training_can_train_and_predict_with_threads() -> None:
    code = """
import os
import numpy as np
import deepnotes as dn
from deepnotes_numba import thread_count
thread_count.WORK_PER_THREAD = thread_count.WORK_PER_START = 1
choices = []
choose = thread_count.choose
thread_count.choose = lambda *a: choices.append(choose(*a)) or choices[-1]
X = np.random.default_rng(0).normal(size=(9, 300))
net = dn.Network([dn.Dense(20, "tanh"), dn.Dense(1)], inputs=9, backend=dn.get_backend("numba", threads=2), seed=0)
net.fit(X, X[:1], epochs=2, batch_size=150)
child = os.fork()
loss = net.fit(X, X[:1], epochs=2, batch_size=150).loss[-1]
total = net.predict(X).sum()
if child:
    assert os.waitpid(child, 0)[1] == 0
assert set(choices) == {(2, False)}
print(loss, total, flush=True)
"""
    child, parent = np.reshape(run(code), (2, 2)).tolist()
    assert child == parent
