"""Training is stopped by a callback, and resumed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from checkpoint_directories import memory_folder
from checkpointed import EPOCHS, fit, network, outcome

import deepnotes as dn


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    """Yield the path of a checkpoint directory that does not exist yet."""
    with memory_folder(tmp_path) as folder:
        yield folder / "run"


class Budget(dn.Callback):
    """A callback that stops training after a number of chunks or epochs; the count restarts when training resumes."""

    def __init__(self, chunks: int | None = None, epochs: int | None = None) -> None:
        self.chunks, self.epochs = chunks, epochs

    def on_start(self, training: Any) -> None:
        self._chunks, self._epochs = 0, 0

    def on_chunk(self, training: Any) -> None:
        self._chunks += 1
        training.stop = training.stop or self._chunks == self.chunks

    def on_epoch(self, training: Any) -> None:
        self._epochs += 1
        training.stop = training.stop or self._epochs == self.epochs


@pytest.mark.parametrize("budget", [{"chunks": 5}, {"epochs": 2}])
def test_stopped_training_can_be_resumed_repeatedly(
    run: Path, monkeypatch: pytest.MonkeyPatch, budget: dict[str, int]
) -> None:
    monkeypatch.setattr("deepnotes.network.training.loop.CHUNK_SECONDS", 1e-9)
    uninterrupted = network()
    expected = outcome(uninterrupted, fit(uninterrupted, early_stopping=None))
    runs, epochs = 0, 0
    while epochs < EPOCHS:
        net = network()
        history = fit(net, run, early_stopping=None, callbacks=[Budget(**budget)], resume=True)
        assert history.epochs > epochs
        runs, epochs = runs + 1, history.epochs
    assert runs == EPOCHS // budget.get("epochs", 1)
    assert outcome(net, history) == expected


def test_a_stop_requested_within_an_epoch_is_not_saved_in_a_checkpoint(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepnotes.network.training.loop.CHUNK_SECONDS", 1e-9)
    uninterrupted, resumed = network(), network()
    expected = outcome(uninterrupted, fit(uninterrupted))

    class FailAtStep17(dn.Callback):
        def on_chunk(self, training: Any) -> None:
            if training.step == 17:
                assert training.stop
                raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        fit(network(), run, callbacks=[Budget(chunks=14), FailAtStep17()])
    assert outcome(resumed, fit(resumed, run, resume=True)) == expected


class StepRecorder(dn.Callback):
    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_chunk(self, training: Any) -> None:
        self.steps.append(training.step)


@pytest.mark.parametrize("epochs_before", [60, 5], ids=["stopped-early", "not-yet-stopped"])
def test_resuming_makes_no_updates_once_early_stopping_has_ended_training(run: Path, epochs_before: int) -> None:
    uninterrupted = network()
    settings = {"early_stopping": dn.EarlyStopping(2)}
    expected = outcome(uninterrupted, fit(uninterrupted, epochs=60, **settings))
    assert expected[-1]["best_epoch"] is not None
    assert len(expected[-1]["loss"]) < 60
    fit(network(), run, epochs=epochs_before, every=1 if epochs_before == 60 else "60s", **settings)
    for is_over in (epochs_before == 60, True):
        recorder, net = StepRecorder(), network()
        assert outcome(net, fit(net, run, epochs=60, callbacks=[recorder], resume=True, **settings)) == expected
        assert bool(recorder.steps) == (not is_over)
