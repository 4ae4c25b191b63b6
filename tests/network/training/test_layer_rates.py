"""Rates per layer: compared with PyTorch's parameter groups, frozen to the bit, and resumed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_device import backend as cupy_backend
from literature_cases import DATA, by_name
from thread_ranks import run_ranks

import deepnotes as dn

with np.load(Path(__file__).parents[2] / "fixtures" / "rates.npz") as file:
    STORED = {name.removeprefix("layers/"): x for name, x in file.items() if name.startswith("layers/")}

BACKENDS: dict[str, Any] = {
    "eager": lambda: dn.Backend("eager", np), "numpy": lambda: "numpy", "numba": lambda: "numba", "cupy": cupy_backend,
}  # fmt: skip
PROGRAMS = {"eager": "EagerProgram", "numpy": "NumpyProgram", "numba": "NumbaProgram", "cupy": "CupyProgram"}
OPTIMIZERS = {
    "momentum": dn.SGD(0.05, momentum=0.9),
    "adam": dn.Adam(0.01, epsilon=1e-6),
    "adamw": dn.AdamW(0.01, epsilon=1e-6, weight_decay=0.3),
}
FACTORS = {1: 0, 2: 0.1, 3: 2.0}
X, Y = DATA["X"], DATA["real"]


def network(backend: Any = "numpy", dtype: str = "float64") -> dn.Network:
    layers = [dn.Dense(7, "tanh"), dn.Dropout(0), dn.Dense(6, "tanh"), dn.Dense(3)]
    net = dn.Network(layers, inputs=5, backend=backend, dtype=dtype, seed=0)
    net.parameters.update(by_name(net, DATA["start/3"]))
    return net


def settings(**changes: Any) -> dict[str, Any]:
    plain = {"optimizer": OPTIMIZERS["adamw"], "batch_size": 8, "epochs": 10, "shuffle": False}
    return plain | {"layer_rates": FACTORS} | changes


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_match_those_of_parameter_groups_of_pytorch(name: str, backend: str) -> None:
    net = network(BACKENDS[backend]())
    net.fit(X, Y, **settings(optimizer=OPTIMIZERS[name]))
    assert type(net._training[1]).__name__ == PROGRAMS[backend]  # type: ignore[index]
    for key, wanted in by_name(net, STORED[name]).items():
        found = net.backend.to_numpy(net.parameters[key])
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-10 * abs(wanted).max())


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_frozen_layer_keeps_its_bits(backend: str) -> None:
    net = network(BACKENDS[backend](), "float32")
    net.parameters["b2"] = np.array([[-0.0], [1e-40], [1.0], [-2.0], [0.0], [3.0]])
    before = net.flat()
    net.fit(X, Y, **settings(layer_rates={2: 0}, l1=0.1, l2=0.1, clip_norm=0.5))
    kept = net.flat().view(np.uint8).reshape(len(before), -1) == before.view(np.uint8).reshape(len(before), -1)
    frozen = [net.layout.entries[name] for name in ("W2", "b2")]
    for entry in net.layout.entries.values():
        assert kept[entry.start : entry.stop].all() == (entry in frozen)


def test_constraints_do_not_act_on_a_frozen_layer() -> None:
    layers = [dn.Dense(7, "tanh", constraint=dn.MaxNorm(0.1)), dn.Dense(3, constraint=dn.MaxNorm(0.1))]
    net = dn.Network(layers, inputs=5, backend="numpy", dtype="float64", seed=0)
    before = np.array(net.parameters["W1"])
    for _ in range(2):
        net.fit(X, Y, **settings(layer_rates={1: 0, 2: 0.5}, epochs=1))
        np.testing.assert_array_equal(np.asarray(net.parameters["W1"]), before)
        assert np.linalg.norm(np.asarray(net.parameters["W2"]), axis=1).max() <= 0.1 * (1 + 1e-12)
    net.fit(X, Y, **settings(layer_rates={2: 0}, epochs=1))
    assert np.linalg.norm(np.asarray(net.parameters["W1"]), axis=1).max() <= 0.1 * (1 + 1e-12)


@pytest.mark.parametrize("backend", ["eager", "numpy"])
def test_the_running_statistics_of_a_frozen_layer_are_updated(backend: str) -> None:
    layers = [dn.BatchNorm(momentum=0.2), dn.Dense(3)]
    net = dn.Network(layers, inputs=5, backend=BACKENDS[backend](), dtype="float64", seed=0)
    weights = np.array(net.parameters["W2"])
    net.fit(X, Y, **settings(layer_rates={1: 0}, batch_size=37, epochs=1))
    expected = {"gamma1": np.ones((5, 1)), "beta1": np.zeros((5, 1)), "running_mean1": 0.2 * X.mean(1, keepdims=True)}
    for name, values in expected.items():
        np.testing.assert_allclose(np.asarray(net.parameters[name]), values, rtol=1e-12)
    assert not np.allclose(np.asarray(net.parameters["W2"]), weights)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_factor_of_1_changes_nothing(backend: str) -> None:
    plain, factors = (network(BACKENDS[backend]()) for _ in range(2))
    plain.fit(X, Y, **settings(layer_rates=None))
    factors.fit(X, Y, **settings(layer_rates={2: 1.0}))
    np.testing.assert_array_equal(factors.flat(), plain.flat())


def test_the_gradient_of_a_frozen_layer_counts_for_clipping() -> None:
    net, optimizer = network(), dn.SGD(0.1)
    gradients = net.gradients(X, Y)
    norm = float(np.linalg.norm([np.linalg.norm(np.asarray(g)) for g in gradients.values()]))
    before = np.array(net.parameters["W3"])
    net.partial_fit(X, Y, optimizer=optimizer, clip_norm=norm / 2, layer_rates={1: 0, 2: 0})
    np.testing.assert_allclose(before - net.parameters["W3"], 0.05 * gradients["W3"], rtol=1e-12)


def test_partial_fit_makes_the_updates_of_fit() -> None:
    by_fit, by_batch = network(), network()
    by_fit.fit(X, Y, **settings(epochs=2))
    for _ in range(2):
        by_batch.partial_fit(X, Y, optimizer=OPTIMIZERS["adamw"], batch_size=8, layer_rates=FACTORS)
    np.testing.assert_array_equal(by_batch.flat(), by_fit.flat())


def test_a_second_fit_starts_with_the_same_factors() -> None:
    net, copy = network(), network()
    net.fit(X, Y, **settings())
    copy.set_flat(net.flat())
    for one in (net, copy):
        one.fit(X, Y, **settings())
    np.testing.assert_array_equal(net.flat(), copy.flat())


@pytest.mark.parametrize("average", [None, dn.EMA(0.9)])
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_resumed_training_has_the_same_bits(backend: str, average: Any, tmp_path: Path) -> None:
    whole, half, resumed = (network(backend) for _ in range(3))
    whole.fit(X, Y, **settings(average=average))
    half.fit(X, Y, checkpoint=tmp_path, every=1, **settings(average=average, epochs=4))
    resumed.fit(X, Y, checkpoint=tmp_path, every=1, resume=True, **settings(average=average))
    np.testing.assert_array_equal(resumed.flat(), whole.flat())
    for other in (None, {1: 0, 2: 0.1}, {1: 0, 2: 0.1, 3: 2.5}):
        with pytest.raises(dn.CheckpointError, match="optimizer was"):
            resumed.fit(X, Y, checkpoint=tmp_path, every=1, resume=True, **settings(average=average, layer_rates=other))


def test_ranks_make_the_same_updates() -> None:
    alone = network()
    alone.fit(X, Y, **settings())

    def train(ranks: Any) -> np.ndarray:
        net = network()
        net.fit(X, Y, ranks=ranks, **settings())
        return net.flat()

    one, other = run_ranks(2, train)
    np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(one, alone.flat(), rtol=1e-10)


def test_many_networks_have_their_own_factors() -> None:
    nets = [network("numba"), network("numba")]
    dn.fit_many(nets, X, Y, **settings(layer_rates=[{1: 0}, {2: 0}]))
    for net, rates in zip(nets, ({1: 0}, {2: 0}), strict=True):
        alone = network("numba")
        alone.fit(X, Y, **settings(layer_rates=rates))
        np.testing.assert_array_equal(net.flat(), alone.flat())


def test_a_user_defined_optimizer_has_its_own_initial_slots() -> None:
    class Started(dn.Optimizer):
        learning_rate = 0.1

        @property
        def slots(self) -> tuple[str, ...]:
            return ("s", "t")

        def initial_slots(self, layout: Any) -> tuple[Any, ...]:
            return 4.0, np.full(layout.size, 9.0)

        def update(self, ops: Any, theta: Any, g: Any, slots: Any, decays: Any, scalars: Any) -> Any:
            return theta - scalars["rate"] / (ops.xp.sqrt(slots[0]) + ops.xp.sqrt(slots[1])) * g, slots

    for backend in BACKENDS.values():
        net, reference = network(backend()), network(backend())
        net.fit(X, Y, **settings(optimizer=Started(), average=dn.SWA(51)))
        reference.fit(X, Y, **settings(optimizer=dn.SGD(0.02)))
        np.testing.assert_allclose(net.flat(), reference.flat(), rtol=1e-9)


@pytest.mark.parametrize("initial", [(), (1.0, 2.0), (np.nan,), (np.zeros(2),)])
def test_wrong_initial_slots_are_refused(initial: Any) -> None:
    class Wrong(dn.SGD):
        def initial_slots(self, layout: Any) -> tuple[Any, ...]:
            return initial

    with pytest.raises(dn.ArgumentError, match=r"Wrong.initial_slots: .*wanted"):
        network().fit(X, Y, **settings(optimizer=Wrong(0.1, momentum=0.9)))


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ({0: 1}, r"layer_rates: got 0, wanted the numbers of layers .*: 1 \(W1, b1\), 2 \(W2, b2\), 3 \(W3, b3\)"),
        ({4: 1}, "layer_rates: got 4, wanted the numbers of layers"),
        ({-1: 1}, "layer_rates: got -1, wanted the numbers of layers"),
        ({True: 1}, "layer_rates: got True, wanted the numbers of layers"),
        ({"W1": 0}, "layer_rates: got 'W1', wanted the numbers of layers"),
        ({1: -0.5}, r"layer_rates\[1\]=-0.5, wanted at least 0 and at most 100"),
        ({1: 101}, r"layer_rates\[1\]=101, wanted at least 0 and at most 100"),
        ({1: np.nan}, r"layer_rates\[1\]=nan"),
        ({1: None}, r"layer_rates\[1\]=None"),
        ([0, 1], r"layer_rates=\[0, 1\], wanted a mapping such as"),
        (0.5, "layer_rates=0.5, wanted a mapping such as"),
    ],
)
def test_invalid_rates_are_refused_before_training(rates: Any, message: str) -> None:
    net = network()
    before = net.flat()
    for train in (net.fit, net.partial_fit):
        with pytest.raises(dn.ArgumentError, match=message):
            train(X, Y, layer_rates=rates)
    np.testing.assert_array_equal(net.flat(), before)
