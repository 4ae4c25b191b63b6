"""The CuPy backend's Program on a stand-in for the device: graphs and their checks, early stops, precision, options."""

import logging
import re
from typing import Any

import numpy as np
import pytest
from host_device import HostDevice, backend
from plans import OPTIMIZERS, blobs

import deepnotes as dn
from deepnotes.utils.errors import ArgumentError, NonFiniteLossError
from deepnotes_cupy import control, options
from deepnotes_cupy.backend import CupyBackend
from deepnotes_cupy.device import UNITS, Product
from deepnotes_cupy.program import CupyProgram

pytestmark = pytest.mark.slow

LAYERS = [dn.Dense(8, "relu"), dn.Dropout(0.3), dn.Dense(6, "gelu"), dn.Dense(4, "softmax")]


def train(target: Any, seed: int = 0, layers: Any = LAYERS, **settings: Any) -> dn.Network:
    """Return a network that was trained on blobs."""
    X, y = blobs()
    net = dn.Network(layers, inputs=4, backend=target, seed=seed)
    net.fit(X, y, **{"epochs": 3, "batch_size": 8} | settings)
    return net


def kinds(device: HostDevice) -> set[str]:
    """Return the kinds of calls that a device has logged."""
    return {entry[0] for entry in device.log}


def test_the_graph_of_a_step_has_the_expected_nodes() -> None:
    """Any additional launch would make a step of 784-512-512-10 with batch 128 and Adam slower."""
    target = backend()
    target.device.processors = 132
    layers = [dn.Dense(512, "relu"), dn.Dense(512, "relu"), dn.Dense(10, "softmax")]
    net = dn.Network(layers, 784, backend=target, seed=0)
    plan = net._plan(net._loss(None), "adam", 0.0, None, True)
    program = target.compile(plan)
    assert isinstance(program, CupyProgram)
    slots = np.zeros_like(net.theta), np.zeros_like(net.theta)
    state = dn.backends.program.State(net.theta, slots)
    names = program._trainers.replay(state, 128, False).step.names
    assert names == [
        "gather",
        "product", "bias_activation", "product", "bias_activation", "product", "loss",
        "activation_backward", "sum_partials", "product", "product",
        "activation_backward", "product", "product",
        "activation_backward", "product",
        "gradient_norm", "check_update", "update",
    ]  # fmt: skip
    assert len(names) <= 22


def test_a_chunk_takes_a_few_graph_launches_and_one_download() -> None:
    target = backend()
    device = target.device
    X, y = blobs(800)
    net = dn.Network(LAYERS, 4, backend=target, seed=0)
    plan = net._plan(net._loss(None), "adam", 0.0, None, True)
    program = target.compile(plan)
    data = dn.backends.program.Data(target.from_samples(X.astype("float32")), target.from_samples(y.reshape(1, -1)))
    state = dn.backends.program.State(
        net.theta, tuple(target.from_numpy(np.zeros(net.layout.size, "float32")) for _ in range(2))
    )
    order = np.arange(800)
    for _ in range(2):  # captures and checks graphs of each size
        program.train(state, dn.backends.Batches(data, order, 8, np.full(100, 1e-3)))
    device.log.clear()
    chunk = program.train(state, dn.backends.Batches(data, order, 8, np.full(100, 1e-3)))
    assert chunk.steps == 100
    assert device.count("download") == 1
    assert device.count("upload") == 3  # order, scalars, control
    assert device.count("graph") == 6 + 1  # of 16 steps, and of 4
    assert device.count("launch", "product", "copy") == 0


def test_training_by_graphs_and_step_by_step_gives_the_same_bits(caplog: pytest.LogCaptureFixture) -> None:
    by_graphs, by_steps = backend(), backend()
    by_steps.device.capture_error = "cublasGemmEx: not supported (15)"
    with caplog.at_level(logging.WARNING):
        nets = [train(target) for target in (by_graphs, by_steps)]
    assert "graph" in kinds(by_graphs.device)
    assert "graph" not in kinds(by_steps.device)
    assert np.array_equal(nets[0].flat(), nets[1].flat())
    warnings = [record.message for record in caplog.records]
    assert len(warnings) == 1
    assert "step by step, not as a CUDA graph: the steps cannot be captured (cublasGemmEx: not supported" in warnings[0]


@pytest.mark.thinned(4)
@pytest.mark.parametrize("missing", range(22))
def test_a_graph_without_one_of_its_nodes_is_never_used(missing: int, caplog: pytest.LogCaptureFixture) -> None:
    target = backend()
    target.device.replay = lambda index, call: index == missing or call()
    layers = [dn.Dense(8, "relu"), dn.Dropout(0.3), dn.Dense(4, "softmax")]
    with caplog.at_level(logging.WARNING):
        net = train(target, layers=layers, epochs=1, clip_norm=0.1)
    if missing >= len(net._training[1]._trainers._replays[8, False].step.names):  # type: ignore[index, union-attr]
        return
    assert any(
        "computed by a graph has a relative error of" in r.message or "a graph made" in r.message
        for r in caplog.records
    )
    assert np.array_equal(net.flat(), train(backend(), layers=layers, epochs=1, clip_norm=0.1).flat())


def test_a_graph_that_computes_nan_is_never_used(caplog: pytest.LogCaptureFixture) -> None:
    """The comparison must not take NaN for a number within the bound."""
    target = backend()
    net = dn.Network([dn.Dense(3, "softmax")], 4, backend=target, seed=0)

    def spoil(index: int, call: Any) -> None:
        call()
        graph = net._training[1]._trainers._replays[8, False].step.names  # type: ignore[index, union-attr]
        if index == len(graph) - 1:
            net.theta[-1] = np.nan  # type: ignore[index]

    target.device.replay = spoil
    X, y = blobs()
    with caplog.at_level(logging.WARNING):
        net.fit(X[:, :24], y[:24], epochs=1, batch_size=8)  # so few that a graph has one step
    assert "θ computed by a graph has a relative error of nan" in caplog.text
    assert np.isfinite(net.flat()).all()


def test_a_graph_is_checked_on_the_device_at_its_first_launch() -> None:
    """The results are compared with those of single steps where they are, and then the state is restored."""
    target = backend()
    net = train(target, epochs=1)
    log = target.device.log
    first = log.index(next(entry for entry in log if entry[0] == "graph"))
    copies = 1 + 1 + 2  # θ, the control block, and the slots of Adam
    restored = next(i for i in range(first, len(log)) if log[i][0] == "copy")
    assert [entry[0] for entry in log[restored:][:copies]] == ["copy"] * copies
    checks = log[first + 1 : restored]
    compared = 1 + 2 + 1  # θ, the slots and the gradient
    assert sum(entry == ("launch", "largest_difference") for entry in checks) == 2 * compared
    assert sum(entry[1] for entry in checks if entry[0] == "download") < net.flat().nbytes


def test_a_second_fit_on_other_arrays_captures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs contain no addresses of data, of orders or of batch sizes, so they outlive the data."""
    target, other = backend(), backend()
    X, y = blobs()
    nets = [dn.Network(LAYERS, 4, backend=b, seed=0) for b in (target, other)]
    for net in nets:
        net.fit(X, y, epochs=20, batch_size=8)
    other.device.capture_error = "no graphs"
    monkeypatch.setattr(target.device, "capture", None)  # a call would be an error
    target.device.log.clear()
    nets[0].fit(-X, y, epochs=4, batch_size=8)
    nets[1].fit(-X, y, epochs=4, batch_size=8)
    assert np.array_equal(nets[0].flat(), nets[1].flat())
    chunks = sum(entry == ("upload", control.SIZE) for entry in target.device.log)
    assert target.device.count("upload") <= 3 * chunks + 3  # scalars, control and order; X, y and their addresses


def test_a_program_reads_samples_stored_by_sample_where_they_are() -> None:
    target = backend()
    X, y = blobs(64)
    net = dn.Network([dn.Dense(3, "softmax")], 4, backend=target, seed=0)
    program = target.compile(net._plan(net._loss(None), "sgd", 0.0, None, True))
    samples = np.asfortranarray(X, "float32")
    data = dn.backends.Data(samples, y.reshape(1, -1))
    program.train(dn.backends.State(net.theta), dn.backends.Batches(data, np.arange(64), 8, np.full(8, 0.1)))
    assert np.shares_memory(program._source_cache[2].X, samples)


def test_data_changed_in_place_between_chunks_are_read_again() -> None:
    results = []
    for use_copies in (False, True):
        target = backend()
        net = dn.Network([dn.Dense(3, "softmax")], 4, backend=target, seed=0)
        X, y = blobs(64)
        program = target.compile(net._plan(net._loss(None), "sgd", 0.0, None, True))
        samples, labels = (
            X.astype("float32"),
            y.reshape(1, -1).copy(),
        )  # in C order, so the Program copies the array to order it by sample
        state = dn.backends.program.State(net.theta)
        for _ in range(2):
            data = dn.backends.program.Data(
                samples.copy() if use_copies else samples, labels.copy() if use_copies else labels
            )
            program.train(state, dn.backends.Batches(data, np.arange(64), 8, np.full(8, 0.1)))
            samples += 1
            labels[:] = 2 - labels
        results.append(net.flat())
    assert np.array_equal(*results)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_training_agrees_with_numpy(optimizer: dn.Optimizer) -> None:
    """The fit uses many options at once; conformance checks each step against its error bound."""
    settings = {"optimizer": optimizer, "l2": 0.01, "clip_norm": 0.5, "class_weight": "balanced", "batch_size": 32}
    ours, theirs = (train(target, **settings).flat() for target in (backend(), "numpy"))
    assert abs(ours - theirs).max() <= 1e-4 * abs(theirs).max()


def test_schedules_early_stopping_and_partial_fit_agree_with_numpy() -> None:
    X, y = blobs()
    results = []
    for target in (backend(), "numpy"):
        net = dn.Network(LAYERS, 4, backend=target, seed=0)
        history = net.fit(
            X, y, optimizer=dn.Adam(dn.CosineDecay(1e-2, 200, warmup=20)), epochs=30, batch_size=16,
            validation=(X[:, :50], y[:50]), metrics="accuracy", early_stopping=2,
        )  # fmt: skip
        losses = [net.partial_fit(X[:, i : i + 40], y[i : i + 40], batch_size=16) for i in range(0, 200, 40)]
        results.append((history.val_loss[0], history.loss[-1], *losses))
    assert np.allclose(results[0], results[1], rtol=1e-4)


def test_a_resumed_training_gives_the_same_bits_as_an_uninterrupted_one(tmp_path: Any) -> None:
    X, y = blobs()
    uninterrupted = dn.Network(LAYERS, 4, backend=backend(), seed=0)
    uninterrupted.fit(X, y, epochs=6, batch_size=8)
    net = dn.Network(LAYERS, 4, backend=backend(), seed=0)
    net.fit(X, y, epochs=3, batch_size=8, checkpoint=tmp_path / "run", every=1)
    net = dn.Network(LAYERS, 4, backend=backend(), seed=0)
    net.fit(X, y, epochs=6, batch_size=8, checkpoint=tmp_path / "run", every=1, resume=True)
    assert np.array_equal(net.flat(), uninterrupted.flat())


def test_a_saved_network_loads_on_another_backend(tmp_path: Any) -> None:
    net = train(backend())
    net.save(tmp_path / "net.safetensors")
    X, _ = blobs()
    on_numpy = dn.load(tmp_path / "net.safetensors", backend="numpy")
    assert np.array_equal(on_numpy.flat(), net.flat())
    assert abs(on_numpy.predict(X) - net.predict(X)).max() < 1e-6


@pytest.mark.parametrize("precision", ["highest", "float16"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_kernel_accesses_memory_outside_its_arrays(dtype: str, precision: str) -> None:
    """The shim checks every access during training, evaluation and the computation of gradients, with odd sizes."""
    target = backend(precision)
    target.device.checked = True
    X, y = blobs(23)
    layers = [dn.Dropout(0.2), dn.Dense(7, "tanh"), dn.Dropout(0.5), dn.Dense(5, "elu"), dn.Dense(3, "softmax")]
    for optimizer in ("adamw", "rmsprop"):
        net = dn.Network(layers, 4, backend=target, dtype=dtype, seed=0)
        net.fit(X, y, optimizer=optimizer, epochs=1, batch_size=5, l2=0.1, clip_norm=0.1, class_weight="balanced")
        net.evaluate(X, y)
        net.gradients(X, y)
    net = dn.Network([dn.Dense(3, "softplus"), dn.Dense(1, "sigmoid")], 4, backend=target, dtype=dtype, seed=0)
    net.fit(X, y > 0, optimizer=dn.SGD(0.1, 0.9), epochs=1, batch_size=8)
    net.fit(X, y > 0, loss="mean_squared_error", optimizer="sgd", epochs=1, batch_size=8)
    assert {entry[1] for entry in target.device.log if entry[0] == "launch"} >= {"loss", "dropout", "check_update"}


# --- training that stops --------------------------------------------------------------------------------------------


def test_divergence_names_the_update_and_keeps_the_last_finite_state() -> None:
    """The update and the parameters agree with the NumPy backend."""
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(4, 64)), rng.normal(size=(1, 64))
    steps, parameters = [], []
    for target in (backend(), "numpy"):
        net = dn.Network([dn.Dense(5, "relu"), dn.Dense(1)], 4, backend=target, seed=0)
        with pytest.raises(NonFiniteLossError, match=r"training stopped before update \d+") as caught:
            net.fit(X, Y, optimizer=dn.SGD(1e4), epochs=50, batch_size=8)
        steps.append(caught.value.step)
        parameters.append(net.flat())
        assert np.isfinite(net.flat()).all()
    assert steps[0] == steps[1]
    assert abs(parameters[0] - parameters[1]).max() <= 1e-5 * abs(parameters[1]).max()


def test_an_update_that_may_overflow_is_computed_by_the_host_or_refused() -> None:
    X, Y = np.full((1, 8), 1.0), np.full((1, 8), 0.0)
    for rate, succeeds in ((1e37, True), (1e38, False)):
        results = []
        for target in (backend(), "numpy"):
            net = dn.Network([dn.Dense(1)], 1, backend=target, seed=0)
            net.parameters["W1"] = np.full((1, 1), 2.0)
            try:
                net.fit(X, Y, optimizer=dn.SGD(rate), epochs=1, batch_size=8)
                results.append((True, net.flat()))
            except NonFiniteLossError:
                results.append((False, net.flat()))
        assert results[0][0] == results[1][0] == succeeds
        assert np.array_equal(results[0][1], results[1][1])


def test_sums_continue_after_an_update_that_the_host_computes() -> None:
    """The host computes updates in the middle of a chunk, and graphs continue with the next ones."""
    X, y = blobs()
    rates = np.full(25, 0.01)
    rates[[3, 4, 20]] = 1e35  # times a gradient of 0, since the weights of these samples are 0
    chunks = []
    for target in (backend(), dn.get_backend("numpy")):
        net = dn.Network([dn.Dense(3, "softmax")], 4, backend=target, seed=0)
        program = target.compile(net._plan(net._loss(None), "sgd", 0.0, None, True))
        assert program is not None
        w = np.ones((1, 200), "float32")
        w[:, 24:40] = w[:, 160:168] = 0
        data = dn.backends.program.Data(X.astype("float32"), y.reshape(1, -1), w)
        state = dn.backends.program.State(net.theta)
        chunks.append(
            (program.train(state, dn.backends.Batches(data, np.arange(200), 8, rates)), net.flat(), state.step)
        )
    (ours, theta, step), (theirs, expected, _) = chunks
    assert (ours.steps, step) == (theirs.steps, 25)
    assert np.allclose(ours[:2], theirs[:2], rtol=1e-5)
    assert np.allclose(theta, expected, rtol=1e-4, atol=1e-6)


def test_indices_outside_the_data_are_refused_before_any_launch() -> None:
    target = backend()
    net = dn.Network([dn.Dense(1)], 2, backend=target, seed=0)
    program = target.compile(net._plan(net._loss(None), "sgd", 0.0, None, False))
    data = dn.backends.program.Data(np.ones((2, 4), "float32"), np.ones((1, 4), "float32"))
    for wrong in (-1, 4):
        with pytest.raises(IndexError, match=r"0 \.\. 3"):
            program.train(
                dn.backends.program.State(net.theta),
                dn.backends.Batches(data, np.array([0, wrong]), 2, np.array([0.1])),
            )


# --- precision --------------------------------------------------------------------------------------------------------


@pytest.mark.thinned(3)
@pytest.mark.parametrize("precision", ["high", "bfloat16", "float16"])
def test_every_product_has_the_chosen_precision(precision: str) -> None:
    target = backend(precision)
    net = train(target)
    net.predict(blobs()[0])
    net.gradients(*blobs())
    factors = {"high": "tf32"}.get(precision, precision)
    assert {entry[1] for entry in target.device.log if entry[0] == "product"} == {factors}
    highest = train(backend()).flat()
    error = abs(net.flat() - highest).max() / abs(highest).max()
    assert UNITS["float32"] * 8 < error < 20 * UNITS[factors]  # type: ignore[index]  # factors are rounded, and to no fewer bits than declared


@pytest.mark.parametrize("precision", ["highest", "bfloat16"])
def test_samples_of_factors_of_16_bits_begin_at_multiples_of_16_bytes(precision: str) -> None:
    target = backend(precision)
    products, multiplier = list[Product](), target.device.multiplier

    def record(product: Product, tuned: bool = False) -> Any:
        products.append(product)
        return multiplier(product, tuned)

    target.device.multiplier = record
    layers = [dn.Dense(5, "tanh"), dn.LayerNorm(), dn.Dense(9, "softmax"), dn.Dense(4, "softmax")]
    train(target, layers=layers).predict(blobs()[0])
    sizes = {4, 5, 9}
    distances = sizes if precision == "highest" else {8, 16}
    by_sample = {product.layouts[1][2] for product in products}
    assert by_sample == distances
    assert {product.layouts[0][2] for product in products} == sizes | distances  # those of W have no gaps


def test_conformance_uses_the_same_unit_roundoffs() -> None:
    from deepnotes.backends.bounds import UNIT

    assert UNITS == UNIT


def test_a_loss_scale_keeps_derivatives_that_would_underflow_in_float16() -> None:
    """Derivatives of 1e-8 are below half of float16's smallest number."""
    X, Y = np.random.default_rng(0).normal(size=(5, 4, 64))[0], np.full((1, 64), 9.0)
    for scale, moves in ((None, False), (2.0**20, True), ("dynamic", True)):
        net = dn.Network([dn.Dense(5, "tanh"), dn.Dense(1)], 4, backend=backend("float16", loss_scale=scale), seed=0)
        before = net.flat()
        net.fit(X, Y, loss=dn.Loss("huber", delta=1e-8), optimizer=dn.SGD(1e5), epochs=1, batch_size=32)
        assert (abs(net.flat() - before)[: net.layout.decaying].min() > 0) == moves


def test_a_dynamic_scale_shrinks_until_the_gradient_is_finite_and_grows_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from deepnotes_cupy import scaling

    monkeypatch.setattr(scaling, "GROW_AFTER", 10)
    target = backend("float16", loss_scale="dynamic")
    X, Y = np.random.default_rng(0).normal(size=(4, 64)), np.full((1, 64), 3000.0)
    net = dn.Network([dn.Dense(5, "tanh"), dn.Dense(1)], 4, backend=target, seed=0)
    net.fit(X, Y, optimizer=dn.SGD(1e-5), epochs=1, batch_size=32)  # dZ of 6000 times 2^15 is beyond float16
    scale = net._training[1]._scale  # type: ignore[index, union-attr]
    assert np.isfinite(net.flat()).all()
    assert scale.value < 16
    low = scale.value
    net.fit(X, net.predict(X), optimizer=dn.SGD(1e-5), epochs=12, batch_size=32)
    assert net._training[1]._scale.value >= 4 * low  # type: ignore[index, union-attr]


def test_with_a_fixed_scale_a_gradient_that_is_not_finite_ends_the_training() -> None:
    net = dn.Network([dn.Dense(1)], 4, backend=backend("float16", loss_scale=2.0**24), seed=0)
    with pytest.raises(NonFiniteLossError):
        net.fit(np.ones((4, 8)), np.full((1, 8), 9.0), optimizer="sgd", epochs=1)


@pytest.mark.parametrize(
    ("invalid", "message"),
    [
        ({"matmul_precision": "fast"}, "matmul_precision='fast', wanted one of highest, high, bfloat16, float16"),
        ({"loss_scale": 8.0}, "loss scaling is for 'float16'"),
        ({"matmul_precision": "float16", "loss_scale": -1}, "wanted 'dynamic' or a number above 0"),
        ({"matmul_precision": "float16", "loss_scale": True}, "wanted 'dynamic' or a number above 0"),
        ({"device": -1}, "device"),
        ({"device": "cuda:0"}, "device"),
        ({"resident_bytes": 0.5}, "resident_bytes"),
    ],
)
def test_options_are_checked_before_anything_is_loaded(invalid: dict[str, Any], message: str) -> None:
    arguments = {"device": 0, "matmul_precision": "highest", "loss_scale": None, "resident_bytes": None} | invalid
    with pytest.raises(ArgumentError, match=re.escape(message)):
        options.check_options(**arguments)


# --- user-defined parts, warmup, several backends -------------------------------------------------------------


class Doubled(dn.Layer):
    """A user-defined layer, for which there is no kernel."""

    def forward(self, ops: Any, parameters: Any, A_prev: Any, context: Any) -> Any:
        return 2 * A_prev, None

    def backward(self, ops: Any, parameters: Any, cache: Any, dA: Any) -> Any:
        return 2 * dA, {}


def test_a_network_with_a_custom_layer_runs_eagerly_on_the_device() -> None:
    target = backend()
    layers = [dn.Dense(4, "tanh"), Doubled(), dn.Dense(4, "softmax")]
    ours, theirs = (train(b, layers=layers) for b in (target, "numpy"))
    assert ("launch", "bias_activation") in target.device.log
    assert abs(ours.flat() - theirs.flat()).max() < 1e-4
    X, y = blobs()
    assert abs(ours.predict(X) - theirs.predict(X)).max() < 1e-4
    assert ours.evaluate(X, y)["loss"] == pytest.approx(theirs.evaluate(X, y)["loss"], rel=1e-4)


def test_warmup_reports_each_item() -> None:
    items = list(backend().warmup(["float32"]))
    assert items[0].endswith("kernels, float32")
    assert items[1:] == ["training, float32", "prediction, float32"]


def test_two_backends_do_not_share_a_device() -> None:
    nets = [train(target, seed=3) for target in (backend(), backend())]
    assert isinstance(nets[0].backend, CupyBackend)
    assert np.array_equal(nets[0].flat(), nets[1].flat())


def test_data_that_stay_on_the_host_are_read_again_by_each_fit() -> None:
    results = []
    for use_copies in (False, True):
        target = backend(resident_bytes=0)
        net = dn.Network([dn.Dense(3, "softmax")], 4, backend=target, seed=0)
        X, y = blobs(64)
        program = target.compile(net._plan(net._loss(None), "sgd", 0.0, None, True))
        state, samples = dn.backends.State(net.theta), X.astype("float32")
        for _ in range(2):
            given = samples.copy() if use_copies else samples
            data = dn.backends.Data(given, target.from_samples(y.reshape(1, -1)))
            program.train(state, dn.backends.Batches(data, np.arange(64), 8, np.full(8, 0.1)))
            samples += 1
        results.append(net.flat())
    assert np.array_equal(*results)


def test_training_in_shared_memory_keeps_only_the_data_of_the_last_call() -> None:
    target = backend(driver="auto")
    net = dn.Network([dn.Dense(2, "relu"), dn.Dense(1)], 100, backend=target, seed=0)
    used = []
    for number in range(24):
        X = np.asfortranarray(np.random.default_rng(number).normal(size=(100, 512 + number)), "float32")
        net.partial_fit(X, X[:1], batch_size=64)
        used.append(target.device.used)
    assert used[-1] < used[2] + 2 * X.nbytes
