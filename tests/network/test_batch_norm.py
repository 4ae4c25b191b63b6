"""Batch normalization: training against PyTorch's, the running statistics, small batches, files, averages, ranks."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_device import backend as cupy_backend
from literature_cases import DATA
from printed_formulas import evaluate
from thread_ranks import run_ranks

import deepnotes as dn
from deepnotes.backends.bounds import excess
from deepnotes.network.formats import c_writing, onnx_writing, python_writing
from deepnotes.network.formats.chain import Chain
from deepnotes.network.formats.check_vectors import expected, vectors_from, vectors_of, worst

with np.load(Path(__file__).parents[1] / "fixtures" / "batch_norm.npz") as file:
    STORED = dict(file)

BACKENDS: dict[str, Any] = {"numpy": lambda: "numpy", "numba": lambda: "numba", "cupy": cupy_backend}
PROGRAMS = {"numpy": "NumpyProgram", "numba": "NumbaProgram", "cupy": "CupyProgram"}
NETWORKS: dict[str, list[dn.Layer]] = {
    "before": [dn.BatchNorm(), dn.Dense(7, "tanh"), dn.BatchNorm(0.01, momentum=0.3), dn.Dense(3)],
    "after": [dn.Dense(7), dn.BatchNorm(), dn.PReLU(), dn.Dense(3), dn.BatchNorm()],
}
X, Y = DATA["X"], DATA["real"]


def network(name: str = "before", backend: Any = "numpy", dtype: str = "float64") -> dn.Network:
    return dn.Network(NETWORKS[name], inputs=5, backend=backend, dtype=dtype, seed=0)


def named(net: dn.Network, flat: np.ndarray, trained: bool) -> dict[str, np.ndarray]:
    """Return the trained parameters, or the statistics, by name, of a vector of them in the order of the layers."""
    entries = [net.layout.entries[name] for name in net.layout.in_order]
    entries = [entry for entry in entries if entry.parameter.trained == trained]
    parts = np.split(flat, np.cumsum([entry.stop - entry.start for entry in entries])[:-1])
    return {entry.name: part.reshape(entry.parameter.shape) for entry, part in zip(entries, parts, strict=True)}


def statistics(net: dn.Network) -> np.ndarray:
    return net.flat()[net.layout.trained :]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_training_matches_that_of_pytorch(name: str, backend: str) -> None:
    net = network(name, BACKENDS[backend]())
    net.parameters.update(named(net, STORED[f"{name}/start"], trained=True))
    losses = []
    for step in range(50):
        batch = slice(step * 8 % 40, step * 8 % 40 + 8)
        losses.append(net.partial_fit(X[:, batch], Y[:, batch], optimizer=dn.SGD(0.1, momentum=0.9)))
    assert type(net._training[1]).__name__ == PROGRAMS[backend]  # type: ignore[index]
    np.testing.assert_allclose(losses, STORED[f"{name}/losses"], rtol=1e-10)
    wanted = named(net, STORED[f"{name}/parameters"], True) | named(net, STORED[f"{name}/statistics"], False)
    assert set(wanted) == set(net.parameters)
    for key, value in wanted.items():
        found = net.backend.to_numpy(net.parameters[key])
        np.testing.assert_allclose(found, value, rtol=0, atol=1e-10 * abs(value).max(), err_msg=key)
    np.testing.assert_allclose(net.predict(X), STORED[f"{name}/predictions"], rtol=0, atol=1e-10)


AROUND: list[dn.Layer] = [
    dn.Dense(33, "tanh"),
    dn.BatchNorm(momentum=0.4),
    dn.Dropout(0.2),
    dn.Residual([dn.BatchNorm(0.1), dn.Dense(40, "relu"), dn.LayerNorm(), dn.Dense(33), dn.BatchNorm(0.1)]),
    dn.Residual([dn.Dense(33, "softmax")]),
    dn.BatchNorm(0.1),
    dn.Dense(3),
]
"""A network with batch normalization before, after and inside of other layers."""
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"optimizer": dn.SGD(0.05)},
    "penalties": {"optimizer": dn.SGD(0.05, momentum=0.9), "l1": 1e-3, "l2": 0.1, "clip_norm": 0.05},
    "average": {
        "optimizer": dn.AdamW(0.01, epsilon=1e-3, weight_decay=0.1),
        "average": dn.EMA(0.9),
        "layer_rates": {4: 0},
    },
    "weights": {"optimizer": dn.RMSProp(0.001, epsilon=1e-3), "sample_weight": np.arange(1251) % 7.0},
    "accumulate": {"optimizer": dn.Adam(0.01, epsilon=1e-3), "accumulate": 3, "l2": 0.1},
}
"""The epsilons are large, since the gradient of a bias before a batch normalization is 0 but for rounding."""


@pytest.mark.thinned(3)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("batch_size", [25, 50, 700])
def test_numba_trains_as_the_equations_do(
    batch_size: int, settings: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches end within a block of samples, the last has one sample, or they are larger than the usual workspace."""
    program = pytest.importorskip("deepnotes_numba.program")
    monkeypatch.setattr(program, "ELEMENTS", 1 << 15)
    rng = np.random.default_rng(5)
    inputs, targets = rng.normal(2, 3, size=(5, 1251)), rng.normal(size=(3, 1251))
    flats, predictions, losses = [], [], []
    for backend in ("numba", "numpy"):
        net = dn.Network(AROUND, inputs=5, backend=backend, dtype=dtype, seed=0)
        options = {"shuffle": False, "batch_size": batch_size, **SETTINGS[settings]}
        history = net.fit(inputs, targets, epochs=2, **options)
        losses.append(history.loss)
        flats.append(net.flat())
        predictions.append(np.hstack([net.predict(inputs), net.predict(inputs[:, :1])]))
        if backend == "numba":
            assert isinstance(net.backend.compile(net._training[1].plan), program.NumbaProgram)  # type: ignore[index, union-attr]
            assert type(net.inference).__name__ == "NumbaInference"
    tolerance = 2e-3 if dtype == "float32" else 1e-10
    np.testing.assert_allclose(*losses, rtol=tolerance)
    np.testing.assert_allclose(*flats, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(*predictions, rtol=0, atol=10 * tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_cupy_trains_as_the_equations_do(settings: str, dtype: str) -> None:
    """The last batch has one sample."""
    rng = np.random.default_rng(5)
    inputs, targets = rng.normal(2, 3, size=(5, 101)), rng.normal(size=(3, 101))
    options = {"shuffle": False, "batch_size": 20, **SETTINGS[settings]}
    if "sample_weight" in options:
        options["sample_weight"] = options["sample_weight"][:101]
    flats, predictions, losses = [], [], []
    for backend in (cupy_backend(), "numpy"):
        net = dn.Network(AROUND, inputs=5, backend=backend, dtype=dtype, seed=0)
        losses.append(net.fit(inputs, targets, epochs=2, **options).loss)
        flats.append(net.flat())
        predictions.append(np.hstack([net.predict(inputs), net.predict(inputs[:, :1])]))
        if backend != "numpy":
            assert type(net.backend.compile(net._training[1].plan)).__name__ == "CupyProgram"  # type: ignore[index, union-attr]
            assert type(net.inference).__name__ == "CupyInference"
    tolerance = 2e-3 if dtype == "float32" else 1e-10
    np.testing.assert_allclose(*losses, rtol=tolerance)
    np.testing.assert_allclose(*flats, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(*predictions, rtol=0, atol=10 * tolerance)


@pytest.mark.parametrize("backend", ["numba", "cupy"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_moments_of_a_large_batch_are_accurate(dtype: str, backend: str) -> None:
    """The mean is far from 0, compared to the variance, and the batch has many runs of samples."""
    rng = np.random.default_rng(6)
    inputs = rng.normal(30, 1, size=(5, 30_001)).astype(dtype)
    net = dn.Network([dn.BatchNorm(momentum=1.0), dn.Dense(3)], 5, backend=BACKENDS[backend](), dtype=dtype, seed=0)
    net.fit(inputs, np.ones((3, 30_001)), epochs=1, batch_size=30_001, optimizer=dn.SGD(0.01))
    exact = inputs.astype(np.float64)
    unit = float(np.finfo(dtype).eps)
    host = net.backend.to_numpy
    np.testing.assert_allclose(host(net.parameters["running_mean1"])[:, 0], exact.mean(axis=1), rtol=8 * unit)
    np.testing.assert_allclose(host(net.parameters["running_var1"])[:, 0], exact.var(axis=1, ddof=1), rtol=32 * unit)


def test_an_optimizer_whose_update_of_statistics_has_no_formula_is_not_compiled() -> None:
    class Halting(dn.SGD):
        def update_statistics(self, ops: Any, theta: Any, changes: Any, slots: Any, scalars: Any) -> Any:
            return (theta if float(ops.xp.max(theta)) > 0 else theta - changes), slots

    nets = [dn.Network(layers, 5, backend="numba", seed=0) for layers in (NETWORKS["before"], [dn.Dense(3)])]
    for net in nets:
        net.fit(X, Y, epochs=1, optimizer=Halting(0.1))
    assert [type(net._training[1]).__name__ for net in nets] == ["EagerProgram", "NumbaProgram"]  # type: ignore[index]
    np.testing.assert_array_equal(statistics(nets[0])[:5], np.zeros(5))


def test_statistics_are_named_as_parameters_and_come_last_in_the_buffer() -> None:
    net = network()
    assert list(net.parameters) == [
        "gamma1", "beta1", "running_mean1", "running_var1", "W2", "b2", "gamma3", "beta3", "running_mean3",
        "running_var3", "W4", "b4",
    ]  # fmt: skip
    assert list(net.layout.entries)[-4:] == ["running_mean1", "running_var1", "running_mean3", "running_var3"]
    assert net.layout.size - net.layout.trained == 24
    assert "114 parameters, 24 of them running statistics, float64" in net.summary()


@pytest.mark.parametrize("backend", BACKENDS)
def test_running_statistics_are_moving_averages_of_those_of_the_batches(backend: str) -> None:
    net = dn.Network(
        [dn.BatchNorm(momentum=0.2), dn.Dense(3)], inputs=5, backend=BACKENDS[backend](), dtype="float64", seed=0
    )
    weight = np.arange(1.0, 38)  # sample weights do not count
    options: dict[str, Any] = {"l2": 0.5, "clip_norm": 1e-3, "optimizer": dn.AdamW(0.1, weight_decay=0.5)}
    net.fit(X, Y, epochs=2, batch_size=16, shuffle=False, sample_weight=weight, **options)
    mean, variance = np.zeros((5, 1)), np.ones((5, 1))
    for start in (0, 16, 32, 0, 16, 32):
        batch = X[:, start : start + 16]
        mean = 0.8 * mean + 0.2 * batch.mean(axis=1, keepdims=True)
        variance = 0.8 * variance + 0.2 * batch.var(axis=1, ddof=1, keepdims=True)
    to_numpy = net.backend.to_numpy
    np.testing.assert_allclose(to_numpy(net.parameters["running_mean1"]), mean, atol=1e-13)
    np.testing.assert_allclose(to_numpy(net.parameters["running_var1"]), variance, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_statistics_have_no_effect_on_clipping(backend: str) -> None:
    """The gradient is clipped by the norm of the gradients alone, however large the changes of the statistics are."""
    changes = []
    for mean in (0.0, 1e6):
        net = network(backend=BACKENDS[backend]())
        net.parameters["running_mean1"] = np.full((5, 1), mean)
        before = net.flat()
        net.fit(X, Y, epochs=1, batch_size=37, shuffle=False, optimizer=dn.SGD(1.0), clip_norm=0.01)
        changes.append((net.flat() - before)[: net.layout.trained])
    np.testing.assert_array_equal(*changes)
    assert np.linalg.norm(changes[0]) == pytest.approx(0.01)


def test_the_norm_of_a_gradient_is_without_the_statistics() -> None:
    from deepnotes.backends.eager import EagerProgram
    from deepnotes.backends.program import State

    net = network()
    data, plan = net.prepare_step(X, Y, None)
    gradient = EagerProgram(net.backend, plan).gradients(State(net.theta), data)
    flat: Any = gradient.flat
    assert float(gradient.square) == pytest.approx(float((flat[: net.layout.trained] ** 2).sum()))
    assert flat[net.layout.trained :].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_batch_of_one_sample_uses_the_running_statistics(backend: str) -> None:
    full, ragged = (network("after", BACKENDS[backend]()) for _ in range(2))
    full.fit(X[:, :36], Y[:, :36], epochs=1, batch_size=12, shuffle=False, optimizer=dn.SGD(0.1))
    expected = full.evaluate(X[:, 36:], Y[:, 36:])["loss"]
    history = ragged.fit(X, Y, epochs=1, batch_size=12, shuffle=False, optimizer=dn.SGD(0.1))
    np.testing.assert_array_equal(statistics(ragged), statistics(full))
    assert (ragged.flat() != full.flat())[: full.layout.trained].any()
    before = full.evaluate(X[:, :36], Y[:, :36])["loss"]
    assert np.isfinite([history.loss[-1], expected, before]).all()
    np.testing.assert_allclose(full.trace(X[:, 36:], Y[:, 36:])["cost"], expected, rtol=1e-12)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_batches_of_one_sample_are_refused_before_training(backend: str) -> None:
    net = network(backend=backend)
    before = net.flat()
    calls: list[Any] = [
        lambda: net.fit(X, Y, batch_size=1),
        lambda: net.fit(X[:, :1], Y[:, :1]),
        lambda: net.fit(X, Y, samples=[3]),
        lambda: net.partial_fit(X[:, :1], Y[:, :1]),
        lambda: net.partial_fit(X, Y, batch_size=1),
        lambda: dn.fit_many([net], X, Y, batch_size=1),
    ]
    for call in calls:
        with pytest.raises(dn.ArgumentError, match=r"batches of 1 sample: BatchNorm\(.*\) needs .* wanted at least 2"):
            call()
    shards = dn.distributed.single().shards
    with pytest.raises(dn.ArgumentError, match=f"batches of 8 samples, divided into {shards} shards: .*{2 * shards}"):
        net.fit(X, Y, batch_size=8, ranks=dn.distributed.single())
    np.testing.assert_array_equal(net.flat(), before)


def test_wrong_arguments_are_refused() -> None:
    for settings in ({"epsilon": 0}, {"momentum": 1.5}, {"momentum": -0.1}, {"momentum": None}):
        with pytest.raises(dn.ArgumentError, match=next(iter(settings))):
            dn.BatchNorm(**settings)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_gradients_agree_with_central_differences(backend: str) -> None:
    for name in NETWORKS:
        net = network(name, backend)
        net.set_flat(net.flat() + np.random.default_rng(1).uniform(0, 0.2, net.layout.size))
        for samples in (37, 1):  # with one sample, by the running statistics
            report = dn.check_gradients(net, X[:, :samples], Y[:, :samples], l2=0.1)
            assert report.passed, report
            assert [check.name for check in report.parameters] == list(net.gradients(X, Y))
            assert not any("running" in check.name for check in report.parameters)


def test_the_jacobian_is_that_of_predictions() -> None:
    net = network()
    net.fit(X, Y, epochs=3)
    J, h = net.jacobian(X), 1e-6
    for i in range(5):
        shift = h * (np.arange(5) == i)[:, None]
        np.testing.assert_allclose(J[:, i], (net.predict(X + shift) - net.predict(X - shift)) / (2 * h), atol=1e-7)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("samples", [37, 1])
def test_the_formulas_of_a_trace_give_its_arrays(samples: int, backend: str) -> None:
    net = network("before", backend)
    net.set_flat(net.flat() + np.random.default_rng(1).uniform(0, 0.2, net.layout.size))
    trace = net.trace(X[:, :samples], Y[:, :samples])
    arrays = {name: trace[name] for name in trace.names}
    checked = [event for event in trace if event.name in ("mean3", "var3", "r3", "A3", "dA2", "dgamma3", "dbeta3")]
    assert [event.name for event in checked] == [
        *(["mean3", "var3"] if samples > 1 else []), "r3", "A3", "dgamma3", "dbeta3", "dA2",
    ]  # fmt: skip
    for event in checked:
        formula = event.formula.replace("(1/m) Σ_samples", "mean_samples")
        found = evaluate(formula, arrays)
        np.testing.assert_allclose(found, event.value, rtol=1e-9, atol=1e-13, err_msg=event.formula)
    assert not any("running" in event.name for event in trace)
    assert "running_mean3" in trace.given
    assert str(trace).startswith("One training step of a 5-7-3 network")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_file_contains_the_statistics(dtype: str, tmp_path: Path) -> None:
    net = network("after", dtype=dtype)
    net.fit(X, Y, epochs=2)
    net.save(tmp_path / "net.dn")
    loaded = dn.load(tmp_path / "net.dn", backend="numpy")
    assert loaded.layers == net.layers
    np.testing.assert_array_equal(loaded.flat(), net.flat())
    np.testing.assert_array_equal(loaded.predict(X), net.predict(X))
    np.testing.assert_array_equal(copy.deepcopy(net).predict(X), net.predict(X))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [*NETWORKS, "residual"])
def test_exports_compute_the_same_outputs(name: str, dtype: str) -> None:
    layers = NETWORKS.get(name, [dn.Residual([dn.BatchNorm(), dn.Dense(5, "relu")]), dn.Dense(3)])
    net = dn.Network(layers, inputs=5, backend="numpy", dtype=dtype, seed=0)
    far = X + np.array([[0.0], [100.0], [-1000.0], [0.0], [0.0]])  # a mean far from 0, compared to the variance
    net.fit(far, Y, epochs=30, batch_size=12)
    chain = Chain.of(net)
    samples = far.astype(dtype)
    reference = expected(chain, samples)
    outputs, _ = onnx_writing.run(onnx_writing.to_onnx(chain), vectors_from(chain, samples))
    assert excess(outputs.T, reference).max() <= 1
    assert excess(net.predict(samples), reference).max() <= 1
    vectors = vectors_of(chain)
    outputs, _ = onnx_writing.run(onnx_writing.to_onnx(chain), vectors)
    assert worst(outputs, vectors) <= 1
    python_writing.check(python_writing.to_python(chain))
    for weights in ("exact", "int8"):
        c_writing.check(c_writing.to_c(chain, "model", weights))


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("average", [None, dn.EMA(0.9), dn.SWA(12, every=5)])
def test_resumed_training_is_the_same(average: Any, backend: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"optimizer": dn.Adam(0.01), "batch_size": 8, "average": average}
    whole, half, resumed = (network(backend=backend) for _ in range(3))
    whole.fit(X, Y, epochs=6, **settings)
    half.fit(X, Y, epochs=3, checkpoint=tmp_path, every=1, **settings)
    resumed.fit(X, Y, epochs=6, checkpoint=tmp_path, every=1, resume=True, **settings)
    np.testing.assert_array_equal(resumed.flat(), whole.flat())
    assert not np.array_equal(half.flat(), whole.flat())


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_averages_are_averages_of_the_statistics_too(backend: str) -> None:
    class Keep(dn.Callback):
        """Keeps the parameters after each update: an epoch has one."""

        def __init__(self) -> None:
            self.flats: list[np.ndarray] = []

        def on_epoch(self, training: Any) -> None:
            self.flats.append(np.array(training.network.backend.to_numpy(training.state.theta)))

    plain, averaged, keep = network(backend=backend), network(backend=backend), Keep()
    settings: dict[str, Any] = {"optimizer": dn.Adam(0.01), "batch_size": 37, "epochs": 5}
    plain.fit(X, Y, callbacks=[keep], **settings)
    averaged.fit(X, Y, average=dn.EMA(0.8), **settings)
    expected = keep.flats[0]
    for flat in keep.flats[1:]:
        expected = expected + 0.2 * (flat - expected)
    assert len(keep.flats) == 5
    np.testing.assert_allclose(averaged.flat(), expected, atol=1e-13)


def test_fit_many_gives_the_bits_of_fit() -> None:
    many = [network(name, "numba") for name in NETWORKS]
    dn.fit_many(many, X, Y, epochs=3, batch_size=12)
    for name, net in zip(NETWORKS, many, strict=True):
        alone = network(name, dn.get_backend("numba", threads=1))
        alone.fit(X, Y, epochs=3, batch_size=12)
        np.testing.assert_array_equal(net.flat(), alone.flat())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_training_has_the_same_bits_on_any_number_of_ranks(backend: str, dtype: str) -> None:
    """Each shard is normalized by its own statistics; the shards of the last batch have two samples or one."""
    rng = np.random.default_rng(2)
    inputs, targets = rng.normal(size=(5, 75)), rng.normal(size=(3, 75))

    def train(ranks: Any) -> bytes:
        net = network("before", backend, dtype)
        net.fit(inputs, targets, epochs=3, batch_size=64, clip_norm=0.1, ranks=ranks)
        return net.flat().tobytes()

    expected = train(dn.distributed.single())
    assert run_ranks(2, train) == [expected] * 2


def test_the_statistics_of_ranks_are_the_means_of_those_of_the_shards() -> None:
    shards = dn.distributed.single().shards
    inputs, targets = (np.random.default_rng(seed).normal(size=(n, 4 * shards)) for seed, n in ((2, 5), (3, 3)))
    net = network()
    net.fit(inputs, targets, epochs=1, batch_size=4 * shards, shuffle=False, ranks=dn.distributed.single())
    parts = inputs.reshape(5, shards, 4)
    mean, variance = parts.mean(axis=(1, 2)), parts.var(axis=2, ddof=1).mean(axis=1)
    np.testing.assert_allclose(net.parameters["running_mean1"][:, 0], 0.1 * mean, atol=1e-14)
    np.testing.assert_allclose(net.parameters["running_var1"][:, 0], 0.9 + 0.1 * variance, atol=1e-14)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_statistic_that_overflows_ends_training_before_the_update(backend: str) -> None:
    net = dn.Network([dn.BatchNorm(), dn.Dense(1)], inputs=2, backend=backend, dtype="float32", seed=0)
    before, huge = net.flat(), np.array([[1.0, 2.0, 3.0, 4.0], [0.0, 3e19, 0.0, -3e19]], np.float32)
    with pytest.raises(
        dn.NonFiniteLossError, match=r"the first non-finite update is that of running_var1 in BatchNorm"
    ):
        net.fit(huge, np.ones((1, 4)), batch_size=4)
    np.testing.assert_array_equal(net.flat(), before)


@dataclass(frozen=True)
class Counter(dn.Layer):
    """A user-defined layer with a statistic: the number of samples it was trained on."""

    trained: bool = False

    def parameters(self, inputs: int) -> dict[str, dn.Parameter]:
        return {
            "count": dn.Parameter((inputs, 1), lambda rng, shape: np.zeros(shape), decays=False, trained=self.trained)
        }

    def forward(self, ops: Any, parameters: Mapping[str, Any], A_prev: Any, context: dn.Context) -> tuple[Any, Any]:
        return A_prev + 0 * parameters["count"], A_prev.shape[1]

    def backward(self, ops: Any, parameters: Mapping[str, Any], cache: Any, dA: Any) -> tuple[Any, dict[str, Any]]:
        return dA, {"count": ops.bias_gradient(0 * dA - float(cache))}


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_user_defined_layers_may_have_statistics(backend: str) -> None:
    net = dn.Network([Counter(), dn.Dense(3)], inputs=5, backend=backend, seed=0)
    net.fit(X, Y, epochs=2, batch_size=8, optimizer="adam", l2=0.1, clip_norm=0.1, average=dn.SWA(10))
    np.testing.assert_array_equal(net.parameters["count1"], np.full((5, 1), 74))
    with pytest.raises(dn.ArgumentError, match="only statistics"):
        dn.Network([Counter()], inputs=5, backend=backend)
