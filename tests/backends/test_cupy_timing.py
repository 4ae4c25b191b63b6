"""The choice between graphs and shared memory by timing, on a stand-in for the device."""

from ast import literal_eval
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from host_device import backend
from plans import blobs

import deepnotes as dn
from deepnotes.utils.errors import DeviceMemoryError
from deepnotes_cupy import resident, trainers
from deepnotes_cupy.resident import BLOCKS, MARGIN

LAYERS = [dn.Dense(8, "relu"), dn.Dropout(0.3), dn.Dense(4, "softmax")]
PARAMETERS, BATCH, SAMPLES = 4 * 8 + 8 + 8 * 4 + 4, 10, 60
WORK = PARAMETERS * BATCH
"""The multiply-adds of a forward pass."""
CLOSE, FAR = 1.5, 1.5 * MARGIN
"""Factors within and beyond which both ways are timed."""


@pytest.fixture
def most_work(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that sets the work up to which shared memory is expected to be faster."""
    return lambda work: monkeypatch.setattr(resident, "MOST_WORK", {1: work, BLOCKS: work})


def train(target: Any, epochs: int = 2, **settings: Any) -> dn.Network:
    X, y = blobs(SAMPLES)
    net = dn.Network(LAYERS, 4, backend=target, seed=0)
    net.fit(X, y, epochs=epochs, **{"batch_size": BATCH} | settings)
    return net


def timed(target: Any) -> list[str]:
    """Return the names of the ways that were timed, the expected one first, for each time."""
    keys = [literal_eval(entry[1]) for entry in target.device.log if entry[0] == "fastest"]
    return [" ".join(key[:2]) for key in keys if key[0] in ("graph", "resident")]


def used(target: Any) -> str:
    """Return how a backend has trained whole batches."""
    by_graphs = {entry[0] for entry in target.device.log} & {"graph"}
    return "graph" if by_graphs else "resident"


@pytest.mark.parametrize("way", [0, 1])
@pytest.mark.parametrize("expected", ["graph", "resident"])
def test_the_faster_way_is_taken_and_has_its_bits(expected: str, way: int, most_work: Any) -> None:
    most_work(WORK / CLOSE if expected == "graph" else WORK * CLOSE)
    target = backend(driver="auto")
    target.device.way = way
    net = train(target)
    ways = ["graph", "resident"] if expected == "graph" else ["resident", "graph"]
    assert timed(target) == [" ".join(ways)]
    assert used(target) == ways[way]
    forced = backend(driver=ways[way])
    forced.device.way = way
    assert net.flat().tobytes() == train(forced).flat().tobytes()


def test_a_choice_is_made_once_for_each_shape(most_work: Any) -> None:
    most_work(WORK * CLOSE)
    target = backend(driver="auto")
    net = train(target)
    X, y = blobs(SAMPLES)
    net.fit(X, y, epochs=1, batch_size=BATCH)
    train(target)
    assert timed(target) == ["resident graph"]
    train(target, batch_size=BATCH + 2)
    assert timed(target) == ["resident graph"] * 2


@pytest.mark.parametrize(
    ("factor", "options"),
    [(FAR, {}), (1 / FAR, {}), (CLOSE, {"driver": "graph"}), (CLOSE, {"driver": "resident"}),
     (CLOSE, {"precision": "bfloat16"})],
)  # fmt: skip
def test_nothing_is_timed_if_the_choice_is_clear(factor: float, options: dict[str, Any], most_work: Any) -> None:
    most_work(WORK * factor)
    target = backend(**{"driver": "auto"} | options)
    train(target)
    assert timed(target) == []


def test_a_last_batch_is_not_timed_and_takes_the_expected_way(most_work: Any) -> None:
    """So the bits do not depend on which batch sizes were timed before."""
    most_work(WORK * CLOSE)
    results = []
    for before in (False, True):
        target = backend(driver="auto")
        target.device.way = 1
        if before:
            train(target)
        target.device.log.clear()
        X, y = blobs(2 * BATCH + 5)
        net = dn.Network(LAYERS, 4, backend=target, seed=0)
        net.fit(X, y, epochs=2, batch_size=BATCH + 5)
        assert timed(target) == ["resident graph"]
        assert ("launch", "train_resident") in target.device.log
        results.append(net.flat().tobytes())
    assert results[0] == results[1]


def test_a_choice_outlives_its_batch_size(most_work: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    most_work(WORK * CLOSE)
    monkeypatch.setattr(trainers, "MAX_RESIDENTS", 1)
    target = backend(driver="auto")
    target.device.way = 1
    net = train(target)
    assert timed(target) == ["resident graph"]
    X, y = blobs(SAMPLES)
    for batch_size, samples in ((BATCH + 2, SAMPLES), (BATCH, SAMPLES), (BATCH, SAMPLES - 3)):
        target.device.log.clear()
        net.fit(X[:, :samples], y[:samples], epochs=1, batch_size=batch_size)
        assert used(target) == "graph"
    assert timed(target) == []


def test_whatever_memory_there_is_timing_makes_no_training_fail(most_work: Any) -> None:
    most_work(WORK * CLOSE)
    needed = backend(driver="resident")
    train(needed)
    used_bytes, failures = needed.device.used, []
    for extra in range(0, 40_000, 1000):
        target = backend(driver="auto", memory=used_bytes + 12_000 + extra)
        try:
            train(target)
        except DeviceMemoryError:
            failures.append(extra)
    assert failures == list(range(0, 1000 * len(failures), 1000)), "with more memory, training fails again"
    assert len(failures) < 30


@dataclass(frozen=True)
class RootMeanSquare(dn.LossFunction):
    """A loss whose derivative is not finite where the error is 0."""

    def value(self, ops: Any, A: Any, Y: Any) -> Any:
        xp = ops.xp
        return xp.sqrt(xp.sum((A - Y) * (A - Y), axis=0, keepdims=True))


def test_steps_that_stop_are_not_timed(most_work: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    most_work(WORK * CLOSE)
    X, y = blobs(SAMPLES)

    def fit() -> Any:
        target = backend(driver="auto")
        net = dn.Network([dn.Dense(8, "relu"), dn.Dropout(0.3), dn.Dense(4)], 4, backend=target, seed=0)
        net.fit(X, np.eye(4)[y].T + 2, epochs=1, batch_size=BATCH, loss=RootMeanSquare())
        return target

    assert timed(fit()) == ["resident graph"]
    original = trainers.Trainers._random_samples

    def zeros(self: Any, m: int, weighted: bool) -> Any:
        source = original(self, m, weighted)
        source.X.fill(0)
        source.Y.fill(0)
        return source

    monkeypatch.setattr(trainers.Trainers, "_random_samples", zeros)
    assert timed(fit()) == []


def test_other_plans_of_the_same_sizes_are_timed_as_well(most_work: Any) -> None:
    most_work(WORK * CLOSE)
    target = backend(driver="auto")
    X, y = blobs(SAMPLES)
    Y = np.eye(4)[y].T
    hidden = [dn.Dense(8, "silu"), dn.Dense(8, "tanh")], [dn.Dense(8, "tanh"), dn.Dense(8, "silu")]
    settings: list[dict[str, Any]] = [{}, {"clip_norm": 1.0}, {"l2": 0.1}, {"sample_weight": np.arange(1, 1 + SAMPLES)}]
    for layers in hidden:
        for targets in (y, Y):
            for setting in settings:
                net = dn.Network([*layers, dn.Dense(4, "softmax")], 4, backend=target, seed=0)
                net.fit(X, targets, epochs=1, batch_size=BATCH, **setting)
    assert len(timed(target)) == 16


def test_without_memory_for_graphs_shared_memory_is_used(most_work: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> Any:
        raise DeviceMemoryError(1, 0)

    most_work(WORK * CLOSE)
    monkeypatch.setattr(trainers, "Step", fail)
    target = backend(driver="auto")
    net = train(target)
    assert timed(target) == []
    assert net.flat().tobytes() == train(backend(driver="resident")).flat().tobytes()


def test_streamed_samples_give_the_bits_of_resident_ones(most_work: Any) -> None:
    """The parts of a streamed chunk are timed on the samples that have been sent."""
    most_work(WORK * CLOSE)
    streamed = backend(driver="auto", resident_bytes=0)
    streamed.stage_bytes = 2000
    bits = train(streamed).flat().tobytes()
    assert timed(streamed) == ["resident graph"]
    assert bits == train(backend(driver="auto")).flat().tobytes()
