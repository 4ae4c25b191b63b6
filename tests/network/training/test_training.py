"""The fit loop: callbacks, early stopping, numbers that are not finite, schedules and interruption."""

import _thread
import math
import signal
import threading
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.network.training import loop
from deepnotes.network.training.state import Training

X = np.random.default_rng(0).normal(size=(3, 40))
Y = np.sin(X[:1]) + 0.1 * X[1:2]
BACKENDS = [
    "numpy",
    pytest.param(dn.Backend("eager", np), id="eager"),
    pytest.param("numba", marks=pytest.mark.skipif(not find_spec("numba"), reason="numba is not installed")),
]


def network(backend: Any = "numpy", **settings: Any) -> dn.Network:
    return dn.Network([dn.Dense(8, "tanh"), dn.Dense(1)], inputs=3, backend=backend, **{"seed": 0} | settings)


class Recorder(dn.Callback):
    """A callback that records its calls, and the parameters after each epoch."""

    def __init__(self) -> None:
        self.epochs: list[int] = []
        self.chunks = self.ends = 0
        self.thetas: list[np.ndarray] = []

    def on_chunk(self, training: Training) -> None:
        self.chunks += 1

    def on_epoch(self, training: Training) -> None:
        self.epochs.append(training.epoch)
        self.thetas.append(training.network.flat())

    def on_end(self, training: Training) -> None:
        self.ends += 1


def test_callbacks_are_called_after_chunks_and_epochs_and_at_the_end() -> None:
    recorder = Recorder()
    network().fit(X, Y, epochs=4, batch_size=8, callbacks=[recorder])
    assert recorder.epochs == [1, 2, 3, 4]
    assert recorder.chunks >= 4
    assert recorder.ends == 1


def test_a_callback_can_stop_training() -> None:
    class Stop(dn.Callback):
        def on_epoch(self, training: Training) -> None:
            training.stop = training.epoch == 2

    assert network().fit(X, Y, epochs=9, callbacks=[Stop()]).epochs == 2


def test_early_stopping_restores_the_best_parameters() -> None:
    recorder, net = Recorder(), network()
    rng = np.random.default_rng(1)
    validation = (rng.normal(size=(3, 20)), rng.normal(size=(1, 20)))  # noise, so that the validation loss soon rises
    history = net.fit(
        X,
        Y,
        optimizer=dn.Adam(0.05),
        epochs=200,
        batch_size=8,
        validation=validation,
        early_stopping=5,
        callbacks=[recorder],
    )
    best = int(np.argmin(history.val_loss))
    assert history.epochs == best + 1 + 6  # the sixth epoch without improvement ends training
    assert history.best_epoch == best + 1
    np.testing.assert_array_equal(net.flat(), recorder.thetas[best])
    assert net.evaluate(*validation)["loss"] == history.val_loss[best]


def test_early_stopping_monitors_the_given_metric() -> None:
    net = network()
    stopper = dn.EarlyStopping(patience=0, monitor="r2", restore_best=False)
    history = net.fit(X, Y, optimizer=dn.Adam(0.05), epochs=50, metrics="r2", early_stopping=stopper)
    falls = [b <= a for a, b in zip(history.metrics["r2"], history.metrics["r2"][1:], strict=False)]
    assert history.epochs == 50 or (falls[-1] and not any(falls[:-1]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_non_finite_loss_stops_the_training_before_the_update(backend: Any) -> None:
    """At this rate the first update is finite, but the loss before the second update is not."""
    net, recorder = network(backend), Recorder()
    reference = network(backend)
    reference.fit(X[:, :8], Y[:, :8], optimizer=dn.SGD(1e25), epochs=1, batch_size=8, shuffle=False)
    with pytest.raises(dn.NonFiniteLossError, match=r"before update 2 \(epoch 1\): the loss is (inf|nan)") as caught:
        net.fit(X, Y, optimizer=dn.SGD(1e25), epochs=3, batch_size=8, shuffle=False, callbacks=[recorder])
    assert caught.value.step == 2
    assert np.isfinite(net.flat()).all()
    np.testing.assert_array_equal(net.flat(), reference.flat())
    assert recorder.ends == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_non_finite_gradient_stops_the_training_before_the_update(backend: Any) -> None:
    """The loss is finite in float32, but the derivative with respect to W1 (1e20 times 1e20) is not."""
    layers = [dn.Dense(1), dn.Dense(1)]
    net = dn.Network(layers, inputs=1, backend=backend, theta=np.array([1e-20, 1e20, 0.0, 0.0]))
    before = net.flat()
    with pytest.raises(dn.NonFiniteLossError, match=r"before update 1 .*the gradient, the updated parameters"):
        net.fit(np.array([[1e20]]), np.array([[0.0]]), loss="mean_absolute_error", optimizer="sgd")
    np.testing.assert_array_equal(net.flat(), before)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "optimizer", [dn.SGD(1e300), dn.SGD(1e39, momentum=0.9), dn.Adam(1e39), dn.RMSProp(1e300)], ids=repr
)
def test_an_update_that_would_overflow_is_not_made(backend: Any, optimizer: dn.Optimizer) -> None:
    """Loss and gradient are finite, but the updated parameters would not be. This is the only update of the run."""
    net = network(backend)
    before = net.flat()
    with pytest.raises(dn.NonFiniteLossError, match="before update 1") as caught:
        net.fit(X, Y, optimizer=optimizer, epochs=1, batch_size=40)
    assert caught.value.step == 1
    np.testing.assert_array_equal(net.flat(), before)
    assert net._training is not None
    assert not any(np.any(slot) for slot in net._training[2].slots)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_large_finite_update_is_made(backend: Any) -> None:
    """The check for overflow must neither change nor refuse an update with a rate of 1e36."""
    net = network(backend, dtype="float32")
    g = {name: np.array(value, dtype=np.float64) for name, value in net.gradients(X, Y).items()}
    net.fit(X, Y, optimizer=dn.SGD(1e36), epochs=1, batch_size=40, shuffle=False)
    for name, value in g.items():
        np.testing.assert_allclose(net.parameters[name], -1e36 * value, rtol=1e-4)  # float32 sums of 40 terms


def test_a_gradient_whose_square_overflows_is_used() -> None:
    """1e25 is finite in float32, but its square is not."""
    net = dn.Network([dn.Dense(1)], inputs=1, backend="numpy", seed=0, theta=np.array([0.0, 0.0]))
    net.fit(np.array([[1e25]]), np.array([[1.0]]), loss="mean_absolute_error", optimizer=dn.SGD(1e-25), epochs=1)
    np.testing.assert_allclose(net.parameters["W1"], [[1.0]], rtol=1e-6)


def test_early_stopping_does_not_restore_parameters_of_an_earlier_run() -> None:
    stopper, first = dn.EarlyStopping(1), network()
    first.fit(X, Y, epochs=2, early_stopping=stopper)
    second = dn.Network([dn.Dense(1)], inputs=3, seed=1)
    before = second.flat()
    with pytest.raises(dn.NonFiniteLossError):
        second.fit(X * 1e30, Y, early_stopping=stopper, batch_size=40)
    np.testing.assert_array_equal(second.flat(), before)


def test_a_second_fit_resets_the_optimizer() -> None:
    once, twice = network(), network()
    twice.fit(X, Y, epochs=2, shuffle=False)
    once.set_flat(twice.flat())
    for net in (once, twice):
        net.fit(X, Y, epochs=1, shuffle=False)
    np.testing.assert_array_equal(once.flat(), twice.flat())


def test_the_length_of_chunks_does_not_change_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for seconds in (0.0, 1e-4, 10.0):
        monkeypatch.setattr(loop, "CHUNK_SECONDS", seconds)
        net = network()
        history = net.fit(X, Y, epochs=3, batch_size=7)
        results.append((net.flat(), history.loss))
    for flat, losses in results[1:]:
        np.testing.assert_array_equal(flat, results[0][0])
        np.testing.assert_allclose(losses, results[0][1], rtol=1e-15)


def test_the_loss_of_an_epoch_is_the_mean_over_its_samples() -> None:
    """The last batch is smaller and counts less."""
    net, reference = network(dtype="float64"), network(dtype="float64")
    loss = net.fit(X, Y, epochs=1, batch_size=16, shuffle=False).loss[0]
    batches = [(reference.partial_fit(X[:, i : i + 16], Y[:, i : i + 16]), min(16, 40 - i)) for i in range(0, 40, 16)]
    np.testing.assert_allclose(loss, sum(value * m for value, m in batches) / 40, rtol=1e-14)


def test_the_learning_rate_follows_the_schedule_update_by_update() -> None:
    steps: list[int] = []

    class StepRecorder(dn.Schedule):
        def __call__(self, step: int) -> float:
            steps.append(step)
            return 0.1 / (step + 1)

    history = network().fit(X, Y, optimizer=dn.SGD(StepRecorder()), epochs=2, batch_size=16)
    assert steps == [0, 1, 2, 3, 4, 5]
    np.testing.assert_allclose(history.learning_rate, [0.1 / 3, 0.1 / 6])


def test_the_learning_rate_falls_on_a_plateau() -> None:
    schedule = dn.ReduceOnPlateau(1e-9, factor=0.5, patience=1, min_rate=2e-10)
    history = network().fit(X, Y, optimizer=dn.SGD(schedule), epochs=8)
    assert history.learning_rate == [1e-9, 1e-9, 1e-9, 5e-10, 5e-10, 2.5e-10, 2.5e-10, 2e-10]


def test_a_history_converts_to_columns() -> None:
    history = network().fit(X, Y, epochs=2, validation=(X, Y), metrics=["r2"])
    columns = history.as_dict()
    assert list(columns) == ["epoch", "loss", "val_loss", "val_r2", "learning_rate", "seconds"]
    assert columns["epoch"] == [1, 2]
    assert all(len(values) == 2 for values in columns.values())
    assert all(math.isfinite(s) and s > 0 for s in columns["seconds"])
    columns["loss"].clear()
    assert history.epochs == 2


def test_a_history_converts_to_a_data_frame() -> None:
    pandas = pytest.importorskip("pandas")

    def seconds(A: np.ndarray, Y: np.ndarray) -> float:
        return 1.0

    history = network().fit(X, Y, epochs=3, metrics=["r2", seconds])
    frame = pandas.DataFrame(history.as_dict())
    assert list(frame) == ["epoch", "loss", "r2", "metric_seconds", "learning_rate", "seconds"]
    assert frame.loss.tolist() == history.loss
    assert (frame.metric_seconds == 1).all()
    assert pandas.DataFrame(dn.History().as_dict()).empty


def test_ctrl_c_ends_training_after_a_complete_update() -> None:
    net = network()

    class Interrupt(dn.Callback):
        def on_chunk(self, training: Training) -> None:
            if training.step >= 3:
                _thread.interrupt_main()

    with pytest.raises(KeyboardInterrupt):
        net.fit(X, Y, epochs=10**9, batch_size=8, shuffle=False, callbacks=[Interrupt()])
    _, _, state = net._training  # type: ignore[misc]
    reference = network()
    for step in range(state.step):
        i = step % 5 * 8
        reference.partial_fit(X[:, i : i + 8], Y[:, i : i + 8])
    np.testing.assert_array_equal(net.flat(), reference.flat())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_training_works_in_any_thread() -> None:
    nets = [network() for _ in range(4)]
    threads = [threading.Thread(target=lambda net=net: net.fit(X, Y, epochs=3)) for net in nets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for net in nets[1:]:
        np.testing.assert_array_equal(net.flat(), nets[0].flat())


def test_progress_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    network().fit(X, Y, epochs=20, validation=(X, Y), progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[0].startswith("epoch 1/20  loss ")
    assert lines[-1].startswith("epoch 20/20  loss ")
    assert "val_loss" in lines[-1]
    assert len(lines) == 11


def test_the_length_of_chunks_is_remembered_for_batches_of_the_same_size_only() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(4, 3000)), rng.integers(0, 2, 3000)
    net = dn.Network([dn.Dense(2, "softmax")], 4, backend="numpy", seed=0)
    net.fit(X[:, :8], y[:8], epochs=100, batch_size=1000)
    net.fit(X, y, epochs=1, batch_size=1000)
    assert set(net._per_chunk) == {8, 1000}
    assert net._per_chunk[8] > 3
    assert net._per_chunk[1000] <= loop.GROWTH**2  # two chunks, and at first 1 update
