"""Several short epochs in one chunk: the results are those of one epoch after the other."""

from typing import Any

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.backends import Backend, Batches, Chunk, EagerProgram, Plan, State
from deepnotes.network.training import loop
from deepnotes.network.training.state import Training
from deepnotes.testing.training_cases import train_by_epoch


class EpochProgram(EagerProgram):
    """An eager Program that counts its calls for several epochs."""

    def train_epochs(self, state: State, batches: Batches) -> list[Chunk]:
        """Train for one epoch after the other."""
        self.backend.calls.append(len(batches.order))  # type: ignore[attr-defined]
        return train_by_epoch(self, state, batches)


class EpochBackend(Backend):
    """NumPy with Programs that train several epochs in one call."""

    on_host = True

    def __init__(self) -> None:
        super().__init__("epochs", np)
        self.calls: list[int] = []

    def compile(self, plan: Plan) -> EpochProgram:
        """Return an :class:`EpochProgram`."""
        return EpochProgram(self, plan)


class Watch(dn.Callback):
    """Needs to be called after every epoch."""

    def __init__(self) -> None:
        self.epochs: list[int] = []

    def on_epoch(self, training: Training) -> None:
        """Record the number of the epoch."""
        self.epochs.append(training.epoch)


class Glance(Watch):
    """Need not be called after every epoch."""

    every_epoch = False


class PassingBy(dn.Callback):
    """Is called after chunks only."""

    chunks = 0

    def on_chunk(self, training: Training) -> None:
        """Count the chunks."""
        self.chunks += 1


@pytest.fixture(autouse=True)
def long_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let chunks grow to any length, however slow the machine is."""
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 1e9)


X = np.random.default_rng(0).normal(size=(4, 50))
Y = X[:1] * X[1:2]


def train(backend: Any, epochs: int = 30, batch_size: int = 20, **settings: Any) -> tuple[dn.Network, Any, dn.History]:
    """Train a small network; return it, the state of its generator, and the history without durations."""
    layers = [dn.Dense(6, "tanh"), dn.Dropout(0.2), dn.Dense(1)]
    network = dn.Network(layers, 4, dtype="float64", backend=backend, seed=3)
    history = network.fit(X, Y, epochs=epochs, batch_size=batch_size, **settings)
    assert len(history.seconds) == epochs
    return network, network._rng.bit_generator.state, history


def assert_same(one: tuple[dn.Network, Any, dn.History], other: tuple[dn.Network, Any, dn.History]) -> None:
    """Check that parameters, generator and history are the same."""
    assert np.array_equal(one[0].flat(), other[0].flat())
    assert one[1] == other[1]
    assert one[2].loss == other[2].loss
    assert one[2].learning_rate == other[2].learning_rate


@pytest.mark.parametrize("backend", ["epochs", "numba"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"batch_size": 50},
        {"batch_size": 1000},
        {"shuffle": False},
        {"samples": np.arange(3, 45)},
        {"sample_weight": np.arange(50), "l2": 0.1, "clip_norm": 0.5},
        {"optimizer": dn.Adam(dn.CosineDecay(0.01, 90, warmup=10))},
    ],
    ids=["", "one batch", "large batch", "in order", "subset", "weights", "schedule"],
)
def test_the_results_are_those_of_one_epoch_after_the_other(backend: str, settings: dict[str, Any]) -> None:
    if backend == "numba":
        pytest.importorskip("numba")
    one = train(EpochBackend() if backend == "epochs" else backend, **settings)
    assert_same(one, train(EpochBackend() if backend == "epochs" else backend, callbacks=[Watch()], **settings))


def test_chunks_grow_over_the_ends_of_epochs() -> None:
    backend = EpochBackend()
    train(backend)
    assert backend.calls[0] > 1
    assert sum(backend.calls) >= 27
    assert len(backend.calls) < 4


@pytest.mark.parametrize(
    "settings",
    [
        {"callbacks": [Watch()]},
        {"metrics": "r2"},
        {"validation": (X, Y)},
        {"early_stopping": 100},
        {"optimizer": dn.Adam(dn.ReduceOnPlateau(0.01))},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_what_watches_epochs_gets_each_of_them(settings: dict[str, Any]) -> None:
    backend = EpochBackend()
    train(backend, **settings)
    assert backend.calls == []


def test_checkpoints_by_epochs_are_written_after_each_and_those_by_time_are_not(tmp_path: Any) -> None:
    backend = EpochBackend()
    train(backend, checkpoint=tmp_path / "epochs", every=4)
    assert backend.calls == []
    train(backend, checkpoint=tmp_path / "time", every="1h")
    assert backend.calls


def test_callbacks_that_need_not_see_every_epoch_see_the_last_of_each_chunk() -> None:
    backend, glance, passing = EpochBackend(), Glance(), PassingBy()
    one = train(backend, callbacks=[glance, passing])
    assert backend.calls
    assert glance.epochs[-1] == 30
    assert glance.epochs == sorted(set(glance.epochs))
    assert len(glance.epochs) < 10
    assert passing.chunks >= len(glance.epochs)
    assert_same(one, train(EpochBackend(), callbacks=[Watch()]))


def test_a_callback_says_when_it_has_to_see_an_epoch_next() -> None:
    class Fifth(Watch):
        def next_epoch(self, training: Training) -> float:
            return 5 - training.epoch % 5

    backend, fifth = EpochBackend(), Fifth()
    one = train(backend, callbacks=[fifth, Glance()])
    assert set(range(5, 31, 5)) <= set(fifth.epochs)
    assert max(backend.calls) == 5
    assert_same(one, train(EpochBackend(), callbacks=[Watch()]))


def test_progress_shows_about_ten_lines(capsys: pytest.CaptureFixture[str]) -> None:
    backend = EpochBackend()
    train(backend, epochs=200, progress=True)
    assert backend.calls
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("epoch 1/200")
    assert lines[-1].startswith("epoch 200/200")
    assert len(lines) <= 12


class Spike(dn.Schedule):
    """A rate that becomes so large that the loss overflows."""

    def __call__(self, step: int) -> float:
        """Return the rate of an update."""
        return 1e200 if step == 48 else 1e-3


@pytest.mark.parametrize("backend", ["epochs", "numba"])
def test_a_loss_that_is_not_finite_stops_in_the_middle_of_a_chunk(backend: str) -> None:
    if backend == "numba":
        pytest.importorskip("numba")
    results = []
    for callbacks in ([], [Watch()]):
        layers = [dn.Dense(6, "tanh"), dn.Dense(1)]
        on = EpochBackend() if backend == "epochs" else backend
        network = dn.Network(layers, 4, dtype="float64", backend=on, seed=3)
        with pytest.raises(dn.NonFiniteLossError) as caught:
            network.fit(X, Y, epochs=30, batch_size=20, optimizer=dn.SGD(Spike()), callbacks=callbacks)
        history: Any = caught.value.history
        results.append(
            (str(caught.value), caught.value.step, history.loss, network.flat().tolist(), network._rng.random())
        )
    assert results[0] == results[1]
    assert results[0][1] == 50  # the second of an epoch


def test_training_that_stopped_in_the_middle_of_a_chunk_resumes_there(tmp_path: Any) -> None:
    def fit(directory: str, **settings: Any) -> tuple[list[float], str]:
        network = dn.Network([dn.Dense(6, "tanh"), dn.Dense(1)], 4, dtype="float64", backend=EpochBackend(), seed=3)
        with pytest.raises(dn.NonFiniteLossError) as caught:
            network.fit(
                X, Y, epochs=30, batch_size=20, optimizer=dn.SGD(Spike()), checkpoint=tmp_path / directory,
                every="1h", **settings,
            )  # fmt: skip
        return network.flat().tolist(), str(caught.value)

    together, alone = fit("together"), fit("alone", callbacks=[Watch()])
    assert together == alone
    assert fit("together", resume=True) == together
    (path,) = (tmp_path / "together").glob("step-*")
    assert "49" in path.name  # 16 epochs of 3 updates, and one of the next


def test_more_epochs_resume_with_the_same_bits(tmp_path: Any) -> None:
    checkpoint = {"checkpoint": tmp_path, "every": "1h"}
    backend = EpochBackend()
    train(backend, epochs=13, **checkpoint)
    assert backend.calls
    assert_same(train(EpochBackend(), resume=True, **checkpoint), train(EpochBackend(), callbacks=[Watch()]))


class Failing(dn.Schedule):
    """A rate that becomes NaN."""

    def __call__(self, step: int) -> float:
        """Return the rate of an update."""
        return float("nan") if step >= 40 else 0.01


def test_a_schedule_that_fails_leaves_the_updates_before_its_chunk() -> None:
    for callbacks in ([], [Watch()]):
        network = dn.Network([dn.Dense(1)], 4, dtype="float64", backend=EpochBackend(), seed=3)
        with pytest.raises(dn.ArgumentError, match="learning_rate"):
            network.fit(X, Y, epochs=30, batch_size=20, optimizer=dn.SGD(Failing()), callbacks=callbacks)
        updates = network._training[2].step  # type: ignore[index]
        assert 0 < updates < 40
        assert updates % 3 == 0
        expected = dn.Network([dn.Dense(1)], 4, dtype="float64", backend=EpochBackend(), seed=3)
        expected.fit(X, Y, epochs=updates // 3, batch_size=20, optimizer=dn.SGD(0.01))
        assert np.array_equal(network.flat(), expected.flat())
        assert network._rng.bit_generator.state == expected._rng.bit_generator.state
