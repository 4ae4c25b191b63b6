"""The CuPy backend with too little memory: data that stay on the host, errors, and recovery from them."""

import multiprocessing
import os
import pickle
from typing import Any

import numpy as np
import pytest
from host_device import HostDevice, backend
from plans import blobs

import deepnotes as dn
from deepnotes.utils.errors import DeviceMemoryError, ForkedProcessError
from deepnotes_cupy import backend as backend_module
from deepnotes_cupy import host_copies
from deepnotes_cupy import streaming as streaming_module
from deepnotes_cupy.streaming import HostSamples, Stage

pytestmark = pytest.mark.slow

LAYERS = [dn.Dense(8, "relu"), dn.Dropout(0.3), dn.Dense(4, "softmax")]


def streaming(stage: int = 3000, **options: Any) -> Any:
    """Return a backend that keeps all samples on the host, and streams them in buffers of `stage` bytes."""
    target = backend(**options)
    target.resident_bytes, target.stage_bytes = 0, stage
    return target


def fit(target: Any, X: np.ndarray, y: np.ndarray, **settings: Any) -> dn.Network:
    """Return a network that was trained on a backend."""
    net = dn.Network(LAYERS, 4, backend=target, seed=0)
    net.fit(X, y, **{"epochs": 3, "batch_size": 8} | settings)
    return net


@pytest.mark.thinned(4)
@pytest.mark.parametrize("stage", [1, 700, 3000, 1 << 20])
@pytest.mark.parametrize("weighted", [False, True])
def test_streamed_and_resident_data_give_the_same_bits(stage: int, weighted: bool) -> None:
    """A part holds one batch, a few batches or all; the last batch is smaller, and targets are class indices."""
    X, y = blobs(203)
    settings: dict[str, Any] = {"class_weight": "balanced"} if weighted else {}
    target = streaming(stage)
    nets = [fit(b, X, y, **settings) for b in (target, backend())]
    assert target.device.count("send") > 3
    assert np.array_equal(nets[0].flat(), nets[1].flat())
    assert nets[0].evaluate(X, y, metrics="accuracy") == nets[1].evaluate(X, y, metrics="accuracy")


def test_large_samples_stay_on_the_host_but_small_targets_do_not() -> None:
    X, y = blobs(203)
    target = streaming()
    target.resident_bytes = 8 * 203
    assert not target.is_array(target.from_samples(X))
    assert target.is_array(target.from_samples(y.reshape(1, -1)))
    nets = [fit(b, X, y, metrics="accuracy") for b in (target, backend())]
    assert np.array_equal(nets[0].flat(), nets[1].flat())
    assert nets[0].evaluate(X, y, metrics="accuracy") == nets[1].evaluate(X, y, metrics="accuracy")


@pytest.mark.parametrize("layout", ["C", "F"])
def test_the_host_copies_only_a_part_at_a_time(layout: Any, tmp_path: Any) -> None:
    """The network has several outputs, and the samples are in a memory-mapped file."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 4)).astype("float32")
    np.save(tmp_path / "x.npy", np.asarray(rows, order=layout))
    X = np.load(tmp_path / "x.npy", mmap_mode="r").T
    Y = rng.normal(size=(2, 300))
    target = streaming()
    results = []
    for b in (target, backend()):
        net = dn.Network([dn.Dense(5, "tanh"), dn.Dense(2)], 4, backend=b, seed=0)
        history = net.fit(X, Y, epochs=2, batch_size=16, validation=(X[:, :20], Y[:, :20]), metrics="r2")
        results.append((net.flat(), history.val_loss, net.predict(X)))
    for actual, expected in zip(*results, strict=True):
        assert np.array_equal(actual, expected)
    largest = max(entry[1] for entry in target.device.log if entry[0] in ("send", "upload"))
    assert largest < rows.nbytes / 2 + 4 * 300 * 8


def test_a_part_is_sent_while_training_on_the_previous_part() -> None:
    """Two buffers alternate; a part is sent after the work on the last part that used the same buffer."""
    target = streaming(1)
    events: list[str] = []
    device = target.device
    methods = {name: getattr(HostDevice, name) for name in ("send", "record_event", "await_event", "synchronize")}
    for name, method in methods.items():

        def log(*arguments: Any, name: str = name, method: Any = method) -> Any:
            events.append(name)
            return method(device, *arguments)

        setattr(device, name, log)
    stage = Stage(device, (4, 1, 0), "float32", 8, 1)
    arrays = [np.zeros((n, 40), "float32") for n in (4, 1)]
    for number in range(4):
        stage.send(number, arrays, np.arange(8))
        stage.release(number)
    assert events == [
        "record_event",
        *["send", "await_event", "record_event"] * 2,
        *["synchronize", "send", "await_event", "record_event"] * 2,
    ]


@pytest.mark.parametrize("size", [9, 10, 11, 40, 45])
def test_a_large_array_is_sent_in_parts(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming_module, "LARGE", 40)
    monkeypatch.setattr(streaming_module, "UPLOAD_BYTES", 20)
    target = backend()
    x = np.random.default_rng(0).normal(size=(size, 1)).astype("float32")
    np.testing.assert_array_equal(target.to_numpy(target.from_numpy(x)), x)
    assert target.device.count("send") == (-(-size // 5) if size > 10 else 0)
    assert target.device.count("upload") == (size <= 10)


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("samples", [0, 1, 2, 7, 50])
def test_threads_copy_all_samples(threads: int, samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_copies, "_threads", lambda: threads)
    monkeypatch.setattr(host_copies, "PART_BYTES", 8)
    rng = np.random.default_rng(0)
    indices = rng.integers(0, 30, samples)
    for X in (rng.normal(size=(30, 3)).T, rng.normal(size=(3, 30)), rng.integers(0, 9, (3, 30))):
        out = np.full((samples, 3), np.nan)
        host_copies.gather_rows(X, indices, out)
        np.testing.assert_array_equal(out, X.T[indices])
        out[...] = np.nan
        host_copies.copy_rows(X.T[indices], out)
        np.testing.assert_array_equal(out, X.T[indices])


def test_an_error_in_a_thread_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_copies, "_threads", lambda: 4)

    def copy(start: int, stop: int) -> None:
        if start:
            raise MemoryError(start)

    with pytest.raises(MemoryError):
        host_copies.copy_in_parts(copy, 100, 1 << 30)


def test_streamed_samples_are_evaluated_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    target = streaming()
    X, y = blobs(500)
    net = fit(target, X, y, epochs=1)
    monkeypatch.setattr(streaming_module, "PREDICTION_BYTES", 100 * 16)
    target.device.log.clear()
    streamed = net.evaluate(X, y)["loss"]
    assert max(entry[1] for entry in target.device.log if entry[0] == "upload") == 100 * 16
    target.resident_bytes = 1 << 30
    assert net.evaluate(X, y)["loss"] == pytest.approx(streamed, rel=1e-6)


def test_a_custom_layer_trains_on_streamed_data() -> None:
    class Doubled(dn.Layer):
        def forward(self, ops: Any, parameters: Any, A_prev: Any, context: Any) -> Any:
            assert type(A_prev) is np.ndarray  # an array of the device, not HostSamples
            return 2 * A_prev, None

        def backward(self, ops: Any, parameters: Any, cache: Any, dA: Any) -> Any:
            return 2 * dA, {}

    X, y = blobs(60)
    nets = []
    for target in (streaming(), backend()):
        net = dn.Network([Doubled(), *LAYERS], 4, backend=target, seed=0)
        net.fit(X, y, epochs=2, batch_size=8, metrics="accuracy")
        nets.append((net.flat(), net.predict(X), net.evaluate(X, y)["loss"], net.gradients(X, y)["W1"]))
    for actual, expected in zip(*nets, strict=True):
        assert np.array_equal(actual, expected)


def test_a_batch_size_larger_than_the_data_takes_no_more_memory() -> None:
    X, y = blobs(30)
    for target in (streaming(), backend()):
        fit(target, X, y, batch_size=10**9)
        assert target.device.used < 1_000_000


def test_a_loss_that_is_not_finite_is_reported_for_streamed_data() -> None:
    X, Y = np.ones((1, 16)), np.full((1, 16), 3e30)
    net = dn.Network([dn.Dense(1)], 1, backend=streaming(), seed=0)
    with pytest.raises(dn.NonFiniteLossError, match="before update 1"):
        net.fit(X, Y, batch_size=8)


def test_small_samples_are_on_the_device_and_large_ones_on_the_host() -> None:
    target = backend(memory=1 << 28)
    small = target.from_samples(np.zeros((4, 100), "float32"))
    large = target.from_samples(np.zeros((4, 10_000_000), "float32"))
    assert target.is_array(small)
    assert not target.is_array(large)
    assert isinstance(large, HostSamples)


def test_data_of_an_earlier_fit_are_released_when_memory_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The results do not change."""
    monkeypatch.setattr(backend_module, "SMALL", 1000)
    X, y = blobs(400)
    target, other = backend(), backend()
    nets = [dn.Network(LAYERS, 4, backend=b, seed=0) for b in (target, other)]
    nets[0].fit(X, y, epochs=2, batch_size=8)
    before = target.device.used
    target.from_samples(np.zeros((1, 251), "float32"))
    assert before - target.device.used >= X.size * 4
    nets[0].fit(X, y, epochs=2, batch_size=8)
    assert target.device.used <= before + 4 * 251
    for _ in range(2):
        nets[1].fit(X, y, epochs=2, batch_size=8)
    assert np.array_equal(nets[0].flat(), nets[1].flat())


# --- out of memory ---------------------------------------------------------------------------------------------------


def test_the_error_for_a_batch_that_is_too_large_suggests_a_size_that_fits() -> None:
    target = backend(memory=600_000)
    X, Y = np.random.default_rng(0).normal(size=(4, 800)), np.ones((1, 800))
    net = dn.Network([dn.Dense(40, "tanh"), dn.Dense(40, "relu"), dn.Dense(1)], 4, backend=target, seed=0)
    before = net.flat()
    with pytest.raises(DeviceMemoryError, match=r"batch_size=\d+ would fit") as caught:
        net.fit(X, Y, epochs=1, batch_size=800)
    assert isinstance(caught.value, MemoryError)
    assert caught.value.requested > 0
    assert 0 < caught.value.free < 600_000
    assert np.array_equal(net.flat(), before)
    fits = caught.value.batch_size
    assert fits is not None
    assert 16 <= fits < 800
    net.fit(X, Y, epochs=2, batch_size=fits)  # the error is still referenced, but keeps no memory
    assert not np.array_equal(net.flat(), before)


@pytest.mark.thinned(2)
@pytest.mark.parametrize("precision", ["highest", "bfloat16"])
@pytest.mark.parametrize("memory", [500_000, 1_000_000])
def test_the_suggested_batch_size_fits(memory: int, precision: str) -> None:
    target = backend(precision, memory=memory)
    target.resident_bytes, target.stage_bytes = 0, 1
    X, y = blobs(1500)
    net = dn.Network([dn.Dense(100, "tanh"), dn.Dropout(0.5), dn.Dense(4, "softmax")], 4, backend=target, seed=0)
    with pytest.raises(DeviceMemoryError) as caught:
        net.fit(X, y, epochs=1, batch_size=1500)
    assert caught.value.batch_size is not None
    net.fit(X, y, epochs=1, batch_size=caught.value.batch_size)


def test_a_network_that_is_too_large_is_a_device_memory_error() -> None:
    with pytest.raises(DeviceMemoryError, match="were requested on the device, but 1,000 are free"):
        dn.Network([dn.Dense(1000)], 1000, backend=backend(memory=1000), seed=0)


def test_predictions_use_fewer_samples_at_a_time_if_memory_is_short() -> None:
    target = backend(memory=600_000)
    X = np.random.default_rng(0).normal(size=(4, 600))
    layers = [dn.Dense(200, "tanh"), dn.Dense(1)]
    net = dn.Network(layers, 4, backend=target, seed=0)
    assert np.array_equal(net.predict(X), dn.Network(layers, 4, backend=backend(), seed=0).predict(X))


def test_the_error_can_be_pickled() -> None:
    error = DeviceMemoryError(9, 3, "batch_size=1 would fit", 1)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.requested, again.free, again.batch_size) == (str(error), 9, 3, 1)


# --- other processes --------------------------------------------------------------------------------------------------


def predict_in_child(net: dn.Network, answers: Any) -> None:
    try:
        net.predict(np.zeros((4, 2)))
        answers.put("no error")
    except ForkedProcessError as error:
        answers.put(str(error))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_error_in_a_forked_process_advises_spawn() -> None:
    net = dn.Network(LAYERS, 4, backend=backend(), seed=0)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=predict_in_child, args=(net, answers))
    child.start()
    answer = answers.get(timeout=60)
    child.join()
    assert "spawn" in answer
