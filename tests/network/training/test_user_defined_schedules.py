"""User-defined schedules that depend on the loss after each epoch, as ReduceOnPlateau does."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from checkpointed import BACKENDS, fit, network, outcome

import deepnotes as dn
from deepnotes.network.training import loop


class BoldDriver(dn.Schedule):
    """A schedule whose rate grows by a tenth while the loss falls, and is halved when the loss rises."""

    def __call__(self, step: int) -> float:
        return 0.01

    def observe(self, memory: Mapping[str, float], value: float) -> Mapping[str, float]:
        scale, last = memory.get("scale", 1.0), memory.get("last", float("inf"))
        return {"scale": scale * (1.1 if value < last else 0.5), "last": value}

    def adjust(self, rates: Sequence[float], memory: Mapping[str, float]) -> Sequence[float]:
        return [rate * memory.get("scale", 1.0) for rate in rates]


class FailWithinEpoch(dn.Callback):
    """A callback that fails within an epoch, after some of its chunks."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_chunk(self, training: Any) -> None:
        if training.epoch == self.epoch and training.position.done > 50:
            raise InterruptedError("stopped")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_schedule_observes_the_validation_loss_of_every_epoch(backend: str) -> None:
    history = fit(network(backend), optimizer=dn.Adam(BoldDriver()), early_stopping=None)
    expected = [0.01]
    for last, value in zip([float("inf"), *history.val_loss], history.val_loss, strict=False):
        expected.append(expected[-1] * (1.1 if value < last else 0.5))
    assert len(set(expected)) > 3
    assert history.learning_rate == pytest.approx(expected[:-1])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "rate", [BoldDriver(), dn.ReduceOnPlateau(0.02, patience=0, factor=0.5)], ids=["user-defined", "ReduceOnPlateau"]
)
def test_resuming_restores_the_memory_of_the_schedule(
    backend: str, rate: dn.Schedule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 1e-9)
    uninterrupted, resumed = network(backend), network(backend)
    settings: dict[str, Any] = {"optimizer": dn.Adam(rate), "early_stopping": None}
    expected = outcome(uninterrupted, fit(uninterrupted, **settings))
    assert len(set(expected[-1]["learning_rate"])) > 1
    for epoch in (4, 7):  # the second run resumes the first one, and fails again
        failure = {"callbacks": [FailWithinEpoch(epoch)], "every": "0.000000001s"}
        with pytest.raises(InterruptedError):
            fit(network(backend), tmp_path, resume=True, **settings, **failure)
    assert outcome(resumed, fit(resumed, tmp_path, resume=True, **settings)) == expected


@pytest.mark.parametrize("memory", [None, 3, {"scale": "a"}, {1: 1.0}, {"scale": None}])
def test_a_memory_that_cannot_be_saved_in_a_checkpoint_is_refused(memory: Any) -> None:
    class InvalidMemory(BoldDriver):
        def observe(self, previous: Any, value: float) -> Any:
            return memory

    net = network()
    with pytest.raises(dn.ArgumentError, match=r"memory is .*, wanted a mapping"):
        fit(net, optimizer=dn.Adam(InvalidMemory()))
