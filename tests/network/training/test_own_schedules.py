"""A schedule of somebody else's that goes by the figures of the epochs, as ReduceOnPlateau does."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from checkpointed import BACKENDS, fit, network, outcome

import deepnotes as dn
from deepnotes.network.training import loop


class BoldDriver(dn.Schedule):
    """A rate that grows a little while the figure falls, and halves when it rises."""

    def __call__(self, step: int) -> float:
        return 0.01

    def observe(self, memory: Mapping[str, float], value: float) -> Mapping[str, float]:
        scale, last = memory.get("scale", 1.0), memory.get("last", float("inf"))
        return {"scale": scale * (1.1 if value < last else 0.5), "last": value}

    def adjust(self, rates: Sequence[float], memory: Mapping[str, float]) -> Sequence[float]:
        return [rate * memory.get("scale", 1.0) for rate in rates]


class Stop(dn.Callback):
    """Fails in an epoch, after some chunks of it."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_chunk(self, training: Any) -> None:
        if training.epoch == self.epoch and training.position.done > 50:
            raise InterruptedError("stopped")


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_is_shown_the_validation_loss_of_every_epoch(backend: str) -> None:
    history = fit(network(backend), optimizer=dn.Adam(BoldDriver()), early_stopping=None)
    expected = [0.01]
    for last, value in zip([float("inf"), *history.val_loss], history.val_loss, strict=False):
        expected.append(expected[-1] * (1.1 if value < last else 0.5))
    assert len(set(expected)) > 3
    assert history.learning_rate == pytest.approx(expected[:-1])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rate", [BoldDriver(), dn.ReduceOnPlateau(0.02, patience=0, factor=0.5)], ids=["own", "ours"])
def test_a_resumed_training_has_its_memory(
    backend: str, rate: dn.Schedule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 1e-9)
    straight, resumed = network(backend), network(backend)
    settings: dict[str, Any] = {"optimizer": dn.Adam(rate), "early_stopping": None}
    wanted = outcome(straight, fit(straight, **settings))
    assert len(set(wanted[-1]["learning_rate"])) > 1
    for epoch in (4, 7):  # within an epoch, and once more after it was resumed
        with pytest.raises(InterruptedError):
            fit(network(backend), tmp_path, every="0.000000001s", callbacks=[Stop(epoch)], resume=True, **settings)
    assert outcome(resumed, fit(resumed, tmp_path, resume=True, **settings)) == wanted


@pytest.mark.parametrize("memory", [None, 3, {"scale": "a"}, {1: 1.0}, {"scale": None}])
def test_a_memory_that_no_checkpoint_could_keep_is_refused(memory: Any) -> None:
    class Wrong(BoldDriver):
        def observe(self, memory_before: Any, value: float) -> Any:
            return memory

    net = network()
    with pytest.raises(dn.ArgumentError, match=r"the schedule remembers .*, wanted a mapping"):
        fit(net, optimizer=dn.Adam(Wrong()))
