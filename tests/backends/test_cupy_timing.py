"""The choice between graphs and shared memory by timing, on a stand-in for the device."""

from ast import literal_eval
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from host_device import backend
from plans import blobs

import deepnotes as dn
from deepnotes.network.training import loop
from deepnotes.utils.errors import DeviceMemoryError
from deepnotes_cupy import resident, timing, trainers
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
    """So the bits do not depend on which batch sizes the same network has trained before."""
    most_work(WORK * CLOSE)
    X, y = blobs(2 * (BATCH + 5) + BATCH)
    results = []
    for before in (False, True):
        target = backend(driver="auto")
        target.device.way = 1
        net = dn.Network(LAYERS, 4, backend=target, seed=0)
        start = net.state_dict()
        if before:
            net.fit(X, y, epochs=1, batch_size=BATCH)
            assert used(target) == "graph"
            net.load_state_dict(start)
        target.device.log.clear()
        net.fit(X, y, epochs=2, batch_size=BATCH + 5, optimizer="sgd", shuffle=False)
        assert timed(target) == ["resident graph"]
        assert ("launch", "train_resident") in target.device.log
        results.append(net.flat().tobytes())
    assert results[0] == results[1]


@pytest.mark.parametrize("batch_size", [100, 20, 15, 5])
def test_the_bits_do_not_depend_on_chunks(batch_size: int, most_work: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk may have several epochs or a part of one; the samples may be a part of the data."""
    X, y = blobs(SAMPLES)
    most_work(PARAMETERS * 20 * CLOSE)
    results = set()
    for seconds in (0.075, 1e-12, 3e-3):
        monkeypatch.setattr(loop, "CHUNK_SECONDS", seconds)
        for settings in ({}, {"metrics": "accuracy"}):
            target = backend(driver="auto")
            target.device.way = 1
            net = dn.Network(LAYERS, 4, backend=target, seed=0)
            net.fit(X, y, epochs=8, batch_size=batch_size, samples=np.arange(20), **settings)
            results.add(net.flat().tobytes())
    assert len(results) == 1


def test_a_few_batches_are_not_timed(most_work: Any) -> None:
    """As in ``partial_fit``, or with the whole data in a batch."""
    most_work(WORK * CLOSE)
    target = backend(driver="auto")
    X, y = blobs(2 * BATCH)
    net = dn.Network(LAYERS, 4, backend=target, seed=0)
    net.partial_fit(X[:, :BATCH], y[:BATCH])
    net.fit(X, y, epochs=2, batch_size=BATCH)
    assert timed(target) == []


def test_an_optimizer_that_divides_by_the_rate_trains(most_work: Any) -> None:
    most_work(WORK * CLOSE)
    target = backend(driver="auto")
    train(target, optimizer=DividesByRate())
    assert timed(target) == ["resident graph"]


@dataclass(frozen=True)
class DividesByRate(dn.Optimizer):
    """Gradient descent by the inverse of the inverse rate."""

    learning_rate: float = 0.01

    def scalars(self, step: Any, rate: Any) -> dict[str, Any]:
        return {"inverse": 1 / rate}

    def update(self, ops: Any, theta: Any, g: Any, slots: Any, decays: Any, scalars: Any) -> Any:
        return theta - g / scalars["inverse"], ()


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


@pytest.mark.parametrize("way", [0, 1])
@pytest.mark.parametrize("expected", ["graph", "resident"])
def test_whatever_memory_there_is_timing_makes_no_training_fail(expected: str, way: int, most_work: Any) -> None:
    most_work(WORK / CLOSE if expected == "graph" else WORK * CLOSE)
    needed = backend(driver="resident")
    train(needed)

    def trains(driver: str, memory: int) -> bool:
        target = backend(driver=driver, memory=memory)
        target.device.way = way
        try:
            train(target)
        except DeviceMemoryError:
            return False
        return True

    results = []
    for memory in range(needed.device.used - 2000, needed.device.used + 30_000, 1500):
        results.append(trains("auto", memory))
        assert results[-1] or not (trains("resident", memory) or trains("graph", memory)), memory
    assert {True, False} == set(results)


def test_graphs_without_memory_leave_it_to_shared_memory(most_work: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> Any:
        raise DeviceMemoryError(1, 0)

    most_work(WORK / CLOSE)
    monkeypatch.setattr(trainers, "Step", fail)
    net = train(backend(driver="auto"))
    assert net.flat().tobytes() == train(backend(driver="resident")).flat().tobytes()
    with pytest.raises(DeviceMemoryError):
        train(backend(driver="graph"))


def test_whole_graphs_are_timed_and_those_not_taken_are_released(most_work: Any) -> None:
    most_work(WORK * CLOSE)
    target = backend(driver="auto")
    counts, fastest = [], target.device.fastest

    def record(key: str, ways: Any) -> int:
        if "resident" in key:
            before = target.device.count("launch")
            for call in ways[1]:
                call()
            counts.append([entry[1] for entry in target.device.log if entry[0] == "launch"][before:].count("update"))
        return int(fastest(key, ways))

    target.device.fastest = record
    net = train(target)
    assert counts == [16]
    assert not net._training[1]._trainers._replays  # type: ignore[index, union-attr]


def test_steps_that_stop_are_not_timed(most_work: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """They do not stop the training itself, which takes the expected way."""
    most_work(WORK * CLOSE)
    original = timing.random_samples

    def not_finite(*arguments: Any) -> Any:
        source = original(*arguments)
        source.X.fill(np.nan)
        return source

    monkeypatch.setattr(timing, "random_samples", not_finite)
    target = backend(driver="auto")
    target.device.way = 1
    net = train(target)
    assert timed(target) == []
    assert net.flat().tobytes() == train(backend(driver="resident")).flat().tobytes()


def test_the_state_of_the_training_has_no_effect_on_what_is_timed(most_work: Any) -> None:
    """So a resumed training takes the same way even if the choice was not kept."""
    most_work(WORK * CLOSE)
    X, y = blobs(SAMPLES)
    timed_states = []
    for epochs in (1, 3):
        target = backend(driver="auto")
        net = dn.Network(LAYERS, 4, backend=target, seed=0)
        net.fit(X, y, epochs=epochs, batch_size=SAMPLES)
        fastest = target.device.fastest

        def record(key: str, ways: Any, net: Any = net, fastest: Any = fastest) -> int:
            if "resident" in key:
                for call in ways[0]:
                    call()
                timed_states.append(net.theta.tobytes())
            return int(fastest(key, ways))

        target.device.fastest = record
        net.fit(X, y, epochs=1, batch_size=BATCH)
    assert len(timed_states) == 2
    assert timed_states[0] == timed_states[1]


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
    for loss in ("mean_squared_error", "mean_absolute_error"):
        net = dn.Network([dn.Dense(8, "silu"), dn.Dense(4)], 4, backend=target, seed=0)
        net.fit(X, Y, epochs=1, batch_size=BATCH, loss=loss)
    assert len(timed(target)) == 18


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
    most_work(WORK * CLOSE)
    streamed = backend(driver="auto", resident_bytes=0)
    streamed.stage_bytes = 2000
    bits = train(streamed).flat().tobytes()
    assert timed(streamed) == ["resident graph"]
    assert bits == train(backend(driver="auto")).flat().tobytes()
