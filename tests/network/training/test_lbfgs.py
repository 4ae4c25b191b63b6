"""L-BFGS: compared with PyTorch and with known minima, on every backend, resumed, accumulated and shared."""

import copy
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_device import backend as cupy_backend
from literature_cases import DATA, by_name
from test_regularized_training import BACKENDS
from thread_ranks import run_ranks

import deepnotes as dn
from deepnotes.backends.full_batch import FullBatchProgram
from deepnotes.datasets.on_disk import OnDisk

with np.load(Path(__file__).parents[2] / "fixtures" / "lbfgs.npz") as file:
    STORED = dict(file)

X, Y = DATA["X"], DATA["real"]
CASES: dict[str, dict[str, Any]] = {
    "regression": {},
    "classes": {"targets": "labels"},
    "short_history": {"optimizer": dn.LBFGS(history_size=2)},
    "l2": {"l2": 0.01},
    "small_steps": {"optimizer": dn.LBFGS(0.01)},
    "large_steps": {"optimizer": dn.LBFGS(30)},
    "weights": {"sample_weight": DATA["weight"]},
}
PROGRAMS = {"numpy": "NumpyProgram", "eager": "EagerProgram", "numba": "NumbaProgram", "cupy": "CupyProgram"}


def network(backend: Any = "numpy", dtype: str = "float64", output: str = "identity") -> dn.Network:
    layers = [dn.Dense(7, "tanh"), dn.Dense(6, "tanh"), dn.Dense(3, output)]
    net = dn.Network(layers, 5, backend=backend, dtype=dtype, seed=0)
    net.parameters.update(by_name(net, DATA["start/3"]))
    return net


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Count the evaluations of the cost and its gradient; yield a list with their number."""
    calls, gradients = [0], FullBatchProgram.gradients

    def count(*arguments: Any) -> Any:
        calls[0] += 1
        return gradients(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(FullBatchProgram, "gradients", count)
        yield calls


class Evaluations(dn.Callback):
    """Records the number of evaluations after each epoch."""

    def __init__(self, calls: list[int]) -> None:
        self.calls, self.totals = calls, list[int]()

    def on_epoch(self, training: Any) -> None:
        self.totals.append(self.calls[0])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_losses_evaluations_and_parameters_are_those_of_pytorch(
    name: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"optimizer": "lbfgs"} | CASES[name]
    targets = options.pop("targets", "real")
    net = network(BACKENDS[backend](), output="softmax" if targets == "labels" else "identity")
    losses, evaluations = STORED[f"{name}/losses"], STORED[f"{name}/evaluations"]
    with counted(monkeypatch) as calls:
        recorded = Evaluations(calls)
        history = net.fit(X, DATA[targets], epochs=len(losses), callbacks=[recorded], **options)
    np.testing.assert_allclose(history.loss, losses, rtol=1e-10, atol=0)
    # PyTorch evaluates again where the last line search has ended.
    np.testing.assert_array_equal(recorded.totals, evaluations - np.arange(len(losses)))
    for key, expected in by_name(net, STORED[f"{name}/parameters"]).items():
        result = net.backend.to_numpy(net.parameters[key])
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-10 * abs(expected).max())
    program = net._training[1]  # type: ignore[index]
    assert isinstance(program, FullBatchProgram)
    assert type(program._gradients).__name__ == PROGRAMS[backend]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_linear_network_reaches_the_least_squares_solution_and_stays_there(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = dn.Network([dn.Dense(3)], 5, dtype=dtype, seed=0)
    with counted(monkeypatch) as calls:
        recorded = Evaluations(calls)
        history = net.fit(X, Y, optimizer=dn.LBFGS(), epochs=60, callbacks=[recorded])
    solution = np.linalg.lstsq(np.vstack([X, np.ones(37)]).T, Y.T, rcond=None)[0]
    tolerance = 1e-7 if dtype == "float64" else 1e-4  # the cost has rounding errors, too
    found = np.hstack([np.asarray(net.parameters[name]) for name in ("W1", "b1")])
    np.testing.assert_allclose(found, solution.T, atol=tolerance)
    assert history.loss[-1] == min(history.loss)
    if dtype == "float64":
        assert recorded.totals[-1] == recorded.totals[-30]  # the gradient is below the tolerance


def test_the_loss_is_as_low_as_that_of_scipy() -> None:
    minimize = pytest.importorskip("scipy.optimize").minimize
    net = network()

    def cost(theta: np.ndarray) -> tuple[float, np.ndarray]:
        net.set_flat(theta)
        return net.evaluate(X, Y)["loss"], np.concatenate([g.ravel() for g in ordered(net.gradients(X, Y))])

    def ordered(gradients: dict[str, Any]) -> list[Any]:
        return [gradients[name] for name in net.layout.entries]

    start = net.flat()
    scipy = minimize(cost, start, method="L-BFGS-B", jac=True, options={"maxiter": 300, "maxcor": 10})
    net.set_flat(start)
    net.fit(X, Y, optimizer=dn.LBFGS(), epochs=300)
    assert net.evaluate(X, Y)["loss"] < 1.1 * scipy.fun


def test_the_loss_never_rises_in_float32_and_with_kinks() -> None:
    layers = [dn.Dense(20, "relu"), dn.Dense(10, "relu"), dn.Dense(3)]
    net = dn.Network(layers, 5, dtype="float32", seed=1)
    history = net.fit(X, Y, optimizer=dn.LBFGS(), epochs=300)
    assert np.diff(history.loss).max() <= 1e-6
    assert history.loss[-1] < 0.05 * history.loss[0]


def all_options(**changes: Any) -> dict[str, Any]:
    plain = {"optimizer": dn.LBFGS(dn.CosineDecay(1.0, steps=20, warmup=3), 3), "l2": 0.01, "metrics": "r2"}
    return plain | {"sample_weight": DATA["weight"], "validation": (X[:, :9], Y[:, :9])} | changes


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_training_is_resumed_with_the_same_bits(backend: str, tmp_path: Path) -> None:
    whole, resumed = network(backend), network(backend)
    history = whole.fit(X, Y, epochs=12, **all_options())
    network(backend).fit(X, Y, epochs=5, checkpoint=tmp_path, every=1, **all_options())
    again = resumed.fit(X, Y, epochs=12, checkpoint=tmp_path, every=1, resume=True, **all_options())
    np.testing.assert_array_equal(resumed.flat(), whole.flat())
    assert (again.loss, again.val_loss, again.metrics) == (history.loss, history.val_loss, history.metrics)


def test_training_is_resumed_after_ctrl_c_with_the_same_bits(tmp_path: Path) -> None:
    class Interrupt(dn.Callback):
        def on_epoch(self, training: Any) -> None:
            if training.epoch == 4:
                signal.raise_signal(signal.SIGINT)

    whole, resumed = network(), network()
    whole.fit(X, Y, epochs=9, **all_options())
    with pytest.raises(KeyboardInterrupt):
        network().fit(X, Y, epochs=9, callbacks=[Interrupt()], checkpoint=tmp_path, **all_options())
    resumed.fit(X, Y, epochs=9, checkpoint=tmp_path, resume=True, **all_options())
    np.testing.assert_array_equal(resumed.flat(), whole.flat())


def test_shuffling_and_an_earlier_training_run_change_no_bits() -> None:
    first, second = network(), network()
    first.fit(X, Y, epochs=8, **all_options())
    second.fit(X, 2 * Y, epochs=8, **all_options())
    second.set_flat(network().flat())
    second.fit(X, Y, epochs=8, shuffle=False, **all_options())
    np.testing.assert_array_equal(first.flat(), second.flat())


def test_a_callback_may_change_parameters() -> None:
    """The gradient that is remembered belongs to other parameters, so it is not used."""

    class Perturb(dn.Callback):
        def on_epoch(self, training: Any) -> None:
            training.network.parameters["b1"] = np.full((7, 1), 0.5)

    history = network().fit(X, Y, optimizer="lbfgs", epochs=3, callbacks=[Perturb()])
    by_hand = network()
    by_hand.fit(X, Y, optimizer="lbfgs", epochs=1)
    by_hand.parameters["b1"] = np.full((7, 1), 0.5)
    assert history.loss[1] == pytest.approx(by_hand.evaluate(X, Y)["loss"], rel=1e-12)


def test_early_stopping_restores_the_best_parameters() -> None:
    history = network().fit(X, Y, optimizer="lbfgs", epochs=500, validation=(X[:, :9], Y[:, :9] + 1), early_stopping=5)
    assert history.epochs < 500
    assert history.best_epoch is not None


@pytest.mark.parametrize("backend", BACKENDS)
def test_accumulated_batches_make_the_same_steps(backend: str) -> None:
    whole, parts = network(BACKENDS[backend]()), network(BACKENDS[backend]())
    whole.fit(X, Y, epochs=12, **all_options())
    parts.fit(X, Y, epochs=12, batch_size=8, accumulate=5, **all_options())
    np.testing.assert_allclose(*(net.backend.to_numpy(net.theta) for net in (parts, whole)), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_any_number_of_ranks_gives_the_same_bits(backend: str) -> None:
    def train(ranks: Any) -> bytes:
        net = network(backend)
        net.fit(X, Y, epochs=6, ranks=ranks, batch_size=20, accumulate=2, **all_options())
        return net.flat().tobytes()

    results = [*run_ranks(1, train), *run_ranks(2, train)]
    assert len(results) == 3
    assert len(set(results)) == 1
    alone = network(backend)
    alone.fit(X, Y, epochs=6, **all_options())
    np.testing.assert_allclose(np.frombuffer(results[0]), alone.flat(), rtol=1e-9, atol=1e-11)


def test_subsets_and_samples_on_disk_give_the_bits_of_a_copy(tmp_path: Path) -> None:
    chosen, nets = np.r_[3:30, 3], [network() for _ in range(3)]
    nets[0].fit(X[:, chosen], Y[:, chosen], epochs=6, optimizer="lbfgs")
    nets[1].fit(X, Y, samples=chosen, epochs=6, optimizer="lbfgs")
    np.testing.assert_array_equal(nets[1].flat(), nets[0].flat())
    np.save(tmp_path / "rows.npy", np.ascontiguousarray(X.T))
    on_disk = OnDisk(np.load(tmp_path / "rows.npy", mmap_mode="r"))
    nets[2].fit(on_disk, Y, epochs=6, optimizer="lbfgs", batch_size=10, accumulate=4)
    in_memory = network()
    in_memory.fit(X, Y, epochs=6, optimizer="lbfgs")
    np.testing.assert_allclose(nets[2].flat(), in_memory.flat(), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_many_networks_get_the_bits_of_training_alone(backend: str) -> None:
    nets, alone = [network(backend) for _ in range(3)], [network(backend) for _ in range(3)]
    optimizers = [dn.LBFGS(0.1), "lbfgs", "adam"]
    dn.fit_many(nets, X, Y, optimizer=optimizers, epochs=5)
    for net, other, optimizer in zip(nets, alone, optimizers, strict=True):
        other.fit(X, Y, optimizer=optimizer, epochs=5)
        np.testing.assert_array_equal(net.flat(), other.flat())


@pytest.mark.parametrize("backend", BACKENDS)
def test_statistics_of_batch_norm_are_updated_once_for_each_step(backend: str) -> None:
    layers = [dn.Dense(8), dn.BatchNorm(), dn.Dense(3)]
    net = dn.Network(layers, 5, backend=BACKENDS[backend](), dtype="float64", seed=0)
    net.fit(X, Y, optimizer="lbfgs", epochs=1)
    to_numpy = net.backend.to_numpy
    W, b = (to_numpy(net.parameters[name]) for name in ("W1", "b1"))
    mean = (W @ X + b).mean(axis=1, keepdims=True)
    running = to_numpy(net.parameters["running_mean2"])
    np.testing.assert_allclose(running, 0.1 * mean, atol=1e-12)
    before = net.evaluate(X, Y)["loss"]
    net.fit(X, Y, optimizer="lbfgs", epochs=40)
    assert net.evaluate(X, Y)["loss"] < before


def test_a_copy_has_the_state_of_the_optimizer() -> None:
    net = network()
    net.fit(X, Y, epochs=4, optimizer="lbfgs")
    other = copy.deepcopy(net)
    assert other._training is not None
    assert net._training is not None
    for mine, theirs in zip(net._training[2].slots, other._training[2].slots, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_cost_that_is_not_finite_stops_training_or_shortens_the_step() -> None:
    layers = [dn.Dense(4, "exp"), dn.Dense(1)]
    net = dn.Network(layers, 5, dtype="float32", seed=0)
    before = net.flat()
    with pytest.raises(dn.NonFiniteLossError, match="before update 1"):
        net.fit(1e4 * abs(X), Y[:1], optimizer="lbfgs")
    np.testing.assert_array_equal(net.flat(), before)
    net.fit(X, Y[:1], optimizer=dn.LBFGS(1e6), epochs=30)  # the first step of a search goes beyond all finite costs
    assert np.isfinite(net.flat()).all()
    assert net.evaluate(X, Y[:1])["loss"] < 2


REFUSED: dict[str, tuple[list[dn.Layer], dict[str, Any]]] = {
    r"batch_size=8: LBFGS makes each update from all 37 samples, wanted batch_size=None": ([], {"batch_size": 8}),
    r"batch_size=8: .* as many samples together": ([], {"batch_size": 8, "accumulate": 4}),
    r"clip_norm=1.0: LBFGS cannot use it": ([], {"clip_norm": 1.0}),
    r"l1=0.1: LBFGS cannot use it": ([], {"l1": 0.1}),
    r"layer_rates=\{1: 0\}: LBFGS cannot use it": ([], {"layer_rates": {1: 0}}),
    r"average=EMA\(.*\): LBFGS cannot use it": ([], {"average": dn.EMA(0.9)}),
    r"layers\[0\], Dropout\(rate=0.5\), draws other random numbers": ([dn.Dropout(0.5)], {}),
    r"LBFGS does not keep constraints, but W1 has NonNegative\(\)": ([dn.Dense(4, constraint=dn.NonNegative())], {}),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_it_cannot_do_is_refused_before_anything_changes(message: str) -> None:
    layers, options = REFUSED[message]
    net = dn.Network([*layers, dn.Dense(3)], 5, seed=0)
    before = net.flat()
    with pytest.raises(dn.ArgumentError, match=message):
        net.fit(X, Y, optimizer="lbfgs", **options)
    np.testing.assert_array_equal(net.flat(), before)


def test_it_is_refused_where_only_some_samples_are_seen() -> None:
    with pytest.raises(dn.ArgumentError, match=r"optimizer=LBFGS.*partial_fit has only some"):
        network().partial_fit(X, Y, optimizer=dn.LBFGS())
    with pytest.raises(dn.ArgumentError, match=r"optimizer=LBFGS.*wanted one that makes updates from batches"):
        dn.learning_rate_test(network(), X, Y, optimizer="lbfgs")
    x = np.zeros(3)
    with pytest.raises(dn.ArgumentError, match="LBFGS cannot update from one gradient"):
        dn.LBFGS().update(dn.get_backend("numpy").ops, x, x, (), x, {})


def test_invalid_options_are_refused() -> None:
    for options in ({"history_size": 0}, {"c1": 0}, {"c2": 1}, {"c1": 0.9, "c2": 0.5}, {"max_evaluations": 0}):
        with pytest.raises(dn.ArgumentError, match=next(iter(options))):
            dn.LBFGS(**options)
    with pytest.raises(dn.ArgumentError, match="tolerance"):
        dn.LBFGS(tolerance=-1)


def test_batches_of_the_other_optimizers_have_32_samples() -> None:
    first, second = network(), network()
    first.fit(X, Y, epochs=2)
    second.fit(X, Y, epochs=2, batch_size=32)
    np.testing.assert_array_equal(first.flat(), second.flat())


def test_embeddings_are_trained() -> None:
    codes = np.arange(37) % 4
    net = dn.Network([dn.Embedding({0: (4, 2)}), dn.Dense(1)], 2, seed=0)
    history = net.fit(np.vstack([codes, X[0]]), (codes == 2) + X[0], optimizer="lbfgs", epochs=30)
    assert history.loss[-1] < 1e-4


def test_a_gpu_keeps_its_arrays_on_the_device() -> None:
    net = network(cupy_backend(), dtype="float32")
    net.fit(X, Y, optimizer="lbfgs", epochs=3)
    assert all(net.backend.is_array(slot) for slot in net._training[2].slots)  # type: ignore[index]
