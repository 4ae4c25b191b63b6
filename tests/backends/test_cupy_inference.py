"""Predictions and evaluations of the CuPy backend on the stand-in for a GPU, tests/host_device.py."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import literature
import numpy as np
import pytest
from cuda_shim import ORDERS
from host_device import backend, host

import deepnotes as dn
from deepnotes.nn.losses import Loss
from deepnotes_cupy import inference as inference_module
from deepnotes_cupy.sources import program
from deepnotes_cupy.streaming import HostSamples

SMALL = [dn.Dense(20, "tanh"), dn.Dense(12, "elu"), dn.Dense(3, "softmax")]
"""Layers that fit into shared memory."""
LARGE = [dn.Dense(400, "relu"), dn.Dense(300, "gelu"), dn.Dense(3, "softmax")]
PATHS = {"small": (SMALL, 60), "few": (LARGE, 3), "products": (LARGE, 60)}
"""For each way to compute predictions, a network and a number of samples."""


def network(layers: Any, target: Any = None, dtype: str = "float32", inputs: int = 9) -> Any:
    return dn.Network(layers, inputs, backend=target or backend(), seed=0, dtype=dtype)


def samples(net: Any, m: int, seed: int = 0) -> Any:
    """Return samples in an array of the network's device, one after the other in memory."""
    X = np.random.default_rng(seed).normal(size=(m, net.inputs)).astype(net.dtype).T
    return net.backend.from_numpy(X)


def launches(net: Any) -> list[str]:
    return [entry[1] for entry in net.backend.device.log if entry[0] in ("launch", "product")]


@pytest.mark.parametrize("path", PATHS)
def test_a_second_prediction_of_the_same_size_only_launches(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layers, m = PATHS[path]
    net = network(layers)
    X = samples(net, m)
    net.inference.predict(net.theta, X)
    device, allocated = net.backend.device, []
    allocate = device.empty

    def empty(size: int, dtype: str) -> Any:
        allocated.append((size, dtype))
        return allocate(size, dtype)

    monkeypatch.setattr(device, "empty", empty)
    device.log.clear()
    net.inference.predict(net.theta, X)
    assert allocated == [(3 * m, "float32")]  # the outputs
    assert device.count("launch", "product") == len(device.log)  # nothing is copied
    expected = {
        "small": ["predict_resident"],
        "few": ["dense_few"] * 3 + ["row_activation"],
        "products": ["float32", "bias_activation", "float32", "bias_activation", "float32", "row_activation"],
    }
    assert launches(net) == expected[path]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("path", PATHS)
def test_outputs_and_losses_agree_with_numpy_in_both_memory_layouts(path: str, dtype: str) -> None:
    layers, m = PATHS[path]
    net, reference = network(layers, dtype=dtype), network(layers, "numpy", "float64")
    net.backend.device.checked = True
    X, labels = samples(net, m), np.arange(m).reshape(1, -1) % 3
    expected = reference.predict(X)
    bound = 2e-6 if dtype == "float32" else 1e-14
    targets = np.eye(3)[labels[0]].T
    for x in (X, np.ascontiguousarray(X)):
        np.testing.assert_allclose(net.inference.predict(net.theta, x), expected, rtol=0, atol=bound)
        for loss in (Loss("categorical_cross_entropy"), Loss("mean_squared_error")):
            for y in (labels, targets.astype(dtype)):
                A, L = net.inference.losses(net.theta, x, y, loss)
                expected_L = reference.inference.losses(reference.theta, X.astype("float64"), targets, loss)[1]
                np.testing.assert_allclose(A, expected, rtol=0, atol=bound)
                np.testing.assert_allclose(L, expected_L, rtol=10 * bound, atol=10 * bound)


@pytest.mark.parametrize("path", PATHS)
def test_no_prediction_depends_on_the_order_of_threads_and_blocks(path: str) -> None:
    layers, m = PATHS[path]
    net = network(layers)
    results = []
    for order in ORDERS:
        kernels = host(program(), "float32", False, False)
        kernels.order = order
        try:
            results.append(net.inference.predict(net.theta, samples(net, m)))
        finally:
            kernels.order = ORDERS[0]
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_predictions_of_many_samples_are_computed_in_parts_of_about_the_same_size() -> None:
    net = network(LARGE)
    X = samples(net, 1000)
    whole = net.inference.predict(net.theta, X)
    net.inference._part_size = 300
    net.backend.device.log.clear()
    np.testing.assert_allclose(net.inference.predict(net.theta, X), whole, atol=1e-6)
    widths = [entry[3] for entry in net.backend.device.log if entry[0] == "product"]
    assert widths == [250] * 3 * 4


def test_what_a_layer_writes_for_a_part_has_a_limited_size(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(LARGE)
    for most, expected in ((50 << 20, 32_736), (3 << 20, 1920), (1 << 10, inference_module.MIN_PART)):
        monkeypatch.setattr(inference_module, "PART_BYTES", most)
        size = inference_module.part_size(net.backend.device, net.layout, "float32")
        assert size == expected
        assert size * 400 * 4 <= max(most, 1024 * 400 * 4)


def test_parameters_changed_by_training_are_used_by_the_next_prediction() -> None:
    for layers, m in PATHS.values():
        net = network(layers)
        X = samples(net, m)
        before = net.inference.predict(net.theta, X)
        net.fit(X, np.arange(m) % 3, epochs=1, batch_size=3)
        reference = dn.Network(layers, 9, backend="numpy", dtype="float64", theta=net.flat().astype("float64"))
        after = net.inference.predict(net.theta, X)
        assert not np.array_equal(before, after)
        np.testing.assert_allclose(after, reference.predict(X), rtol=0, atol=3e-6)


def test_the_memory_of_predictions_is_limited_and_released_when_training_needs_it() -> None:
    net = network(LARGE)
    device = net.backend.device
    for m in range(5, 25):
        net.inference.predict(net.theta, samples(net, m))
    assert len(net.inference._prepared) == inference_module.MAX_PREPARED
    most = inference_module.MAX_PREPARED * 24 * 2 * 400 * 4
    assert sum(b.nbytes for p in net.inference._prepared.values() for b in p.tape.buffers) <= most
    device.memory = device.used + 1000
    device.empty(500, "float32")
    assert not net.inference._prepared


def test_samples_are_not_kept_alive_by_a_prediction() -> None:
    for layers, m in PATHS.values():
        net = network(layers)
        net.inference.predict(net.theta, samples(net, m))
        slots = [slot for prepared in net.inference._prepared.values() for slot in prepared.slots]
        assert slots
        assert all(slot.array is None for slot in slots)


def test_threads_predict_with_one_network_at_the_same_time() -> None:
    for layers, _ in PATHS.values():
        net = network(layers)
        inputs = [samples(net, m, seed=m) for m in range(1, 9)]
        expected = [network(layers).inference.predict(net.theta, x) for x in inputs]
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(net.inference.predict, [net.theta] * 32, inputs * 4))
        for number, result in enumerate(results):
            assert np.array_equal(result, expected[number % 8])


def test_a_network_with_rounded_products_does_not_use_the_kernels_that_round_nothing() -> None:
    net = network(SMALL, backend("bfloat16"))
    net.inference.predict(net.theta, samples(net, 2))
    assert set(launches(net)) == {"round16", "activation_backward", "bfloat16", "bias_activation", "row_activation"}


def test_a_network_that_does_not_fit_into_shared_memory_is_computed_layer_by_layer() -> None:
    target = backend()
    small = network(SMALL, target)
    x = samples(small, 60)
    expected = small.inference.predict(small.theta, x)
    target.device.shared_bytes = 8 << 10
    net = network(SMALL, target)
    target.device.log.clear()
    np.testing.assert_allclose(net.inference.predict(net.theta, x), expected, atol=1e-6)
    assert "predict_resident" not in launches(net)


def test_an_evaluation_downloads_only_sums() -> None:
    target = backend()
    net = network(SMALL, target)
    X, y = samples(net, 2000), np.arange(2000) % 3
    w = np.random.default_rng(1).random(2000)
    for weights in (None, w):
        _, L = net.inference.losses(net.theta, X, y.reshape(1, -1), Loss("categorical_cross_entropy"))
        target.device.log.clear()
        value = net.evaluate(X, y, sample_weight=weights)["loss"]
        assert value == pytest.approx(np.average(L[0].astype(float), weights=weights), rel=1e-7)
        assert min(entry[1] for entry in target.device.log if entry[0] == "download") <= 16 * 24
        assert ("download", L.nbytes) not in target.device.log


def test_streamed_and_resident_evaluations_give_the_same_bits() -> None:
    X, y, w = np.random.default_rng(0).normal(size=(9, 500)), np.arange(500) % 3, np.random.default_rng(1).random(500)
    losses = []
    for resident in (None, 0):
        net = network(SMALL, backend(resident_bytes=resident))
        assert isinstance(net.backend.from_samples(X), HostSamples) == (resident == 0)
        losses.append(net.evaluate(X, y, sample_weight=w)["loss"])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("count", [8, 23, 24, 25])
def test_numpy_arrays_are_sent_and_received_in_parts_while_the_device_computes(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = network(SMALL)
    X = np.random.default_rng(0).normal(size=(9, count)).astype("float32")
    expected = net.predict(X)
    monkeypatch.setattr(inference_module, "HOST_PART_BYTES", 8 * 9 * 4)
    device = net.backend.device
    events: list[str] = []
    for name in ("send", "receive", "await_event", "synchronize"):
        monkeypatch.setattr(device, name, _recording(getattr(device, name), name, events))
    device.log.clear()
    A = net.predict(X)
    assert type(A) is np.ndarray
    assert np.array_equal(A, expected)
    parts = -(-count // 8)
    if parts == 1:
        assert events == []
        return
    assert launches(net) == ["predict_resident"] * parts
    first = ["send", "await_event", "receive"]
    second = [*first, "synchronize"]  # for the outputs of the part before
    others = ["synchronize", "send", "await_event", "await_event", "receive", "synchronize"]
    assert events == [*first, *second, *others * (parts - 2), "synchronize"]
    assert not device.count("upload")
    sizes = [min(8, count - 8 * part) for part in range(parts)]
    assert [entry[1] for entry in device.log if entry[0] == "receive"] == [size * 3 * 4 for size in sizes]


def _recording(method: Any, name: str, events: list[str]) -> Any:
    def call(*arguments: Any) -> Any:
        events.append(name)
        return method(*arguments)

    return call


def test_parts_of_numpy_arrays_are_smaller_if_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference_module, "HOST_PART_BYTES", 1 << 14)
    net = network(SMALL)
    X = np.random.default_rng(0).normal(size=(9, 2000)).astype("float32")
    expected = net.predict(X)
    net.backend.device.memory = net.backend.device.used + 20_000
    net.backend.device.log.clear()
    assert np.array_equal(net.predict(X), expected)
    assert net.backend.device.count("send") > 5


def test_a_small_network_with_a_user_defined_activation_of_rows_is_predicted_in_one_launch() -> None:
    layers = [dn.Dense(20, literature.LogSoftmax()), dn.Dense(3, literature.LogSoftmax())]
    net, reference = network(layers), network(layers, "numpy", "float64")
    X = samples(net, 70)
    np.testing.assert_allclose(net.inference.predict(net.theta, X), reference.predict(X), atol=1e-5)
    assert launches(net) == ["predict_resident"]
