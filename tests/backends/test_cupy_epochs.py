"""The CuPy backend's training of several epochs in one chunk, on a stand-in for the device."""

from typing import Any

import numpy as np
import pytest
from host_device import backend
from plans import blobs

import deepnotes as dn
from deepnotes.backends import Batches, Chunk, Data, State
from deepnotes.network.training import loop
from deepnotes.testing.training_cases import train_by_epoch
from deepnotes_cupy import program as cupy_program
from deepnotes_cupy.program import CupyProgram

pytestmark = pytest.mark.slow

LAYERS = [dn.Dense(8, "relu"), dn.Dropout(0.3), dn.Dense(4, "softmax")]
DRIVERS = ["graph", "resident"]
EPOCHS, SAMPLES, BATCH = 6, 203, 16
UPDATES = -(-SAMPLES // BATCH)


def prepare(target: Any, samples: int = SAMPLES) -> tuple[CupyProgram, State, Batches]:
    """Return a Program, its initial state, and batches of several epochs, the last of each a small one."""
    X, y = blobs(samples)
    net = dn.Network(LAYERS, 4, backend=target, seed=0)
    program = target.compile(net._plan(net._loss(None), "adam", 0.0, None, True))
    data = Data(target.from_samples(X.astype("float32")), target.from_samples(y.reshape(1, -1)))
    slots = tuple(target.from_numpy(np.zeros(net.layout.size, "float32")) for _ in range(2))
    rng = np.random.default_rng(0)
    order = np.stack([rng.permutation(samples) for _ in range(EPOCHS)])
    return program, State(net.theta, slots), Batches(data, order, BATCH, np.full((EPOCHS, UPDATES), 1e-3))


def assert_same(target: Any, batches_of: Any = lambda batches: batches) -> list[Chunk]:
    """Check that the results are those of one call for each epoch, and return them."""
    results = []
    with np.errstate(all="ignore"):
        for train in (CupyProgram.train_epochs, train_by_epoch):
            program, state, batches = prepare(target)
            chunks = train(program, state, batches_of(batches))
            results.append((chunks, state.step, np.array(state.theta).tobytes()))
    assert repr(results[0][0]) == repr(results[1][0])
    assert results[0][1:] == results[1][1:]
    return results[0][0]


@pytest.mark.parametrize("driver", DRIVERS)
def test_several_epochs_take_one_wait_for_the_device(driver: str) -> None:
    target = backend(driver=driver)
    program, state, batches = prepare(target)
    program.train_epochs(state, batches)  # captures and checks graphs
    target.device.log.clear()
    chunks = program.train_epochs(state, batches)
    assert [chunk.steps for chunk in chunks] == [UPDATES] * EPOCHS
    assert target.device.count("download") == 2  # the control structure, and the sums of the epochs
    assert target.device.count("upload") == 3  # order, scalars, control
    assert target.device.count("capture") == 0
    per_epoch = 3 if driver == "resident" else 1  # two sizes of batches, and the end of the epoch
    assert target.device.count("launch") == per_epoch * EPOCHS


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("limit", [4, 2, 1])
def test_epochs_that_do_not_fit_into_a_chunk_take_several(
    driver: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cupy_program, "EPOCHS", limit)
    assert len(assert_same(backend(driver=driver))) == EPOCHS
    monkeypatch.setattr(cupy_program, "EPOCHS", 99)
    monkeypatch.setattr(cupy_program, "MAX_INDICES", limit * UPDATES * BATCH)
    assert len(assert_same(backend(driver=driver))) == EPOCHS


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("update", [0, 7, UPDATES - 1])
@pytest.mark.parametrize("rate", [1e34, 1e38], ids=["large", "too large"])
def test_an_update_that_may_overflow_is_made_or_reported_by_the_eager_program(
    driver: str, update: int, rate: float
) -> None:
    def with_spike(batches: Batches) -> Batches:
        rates = batches.rates.copy()
        rates[2, update] = rate
        return batches._replace(rates=rates)

    chunks = assert_same(backend(driver=driver), with_spike)
    assert 3 <= len(chunks) <= EPOCHS
    assert [chunk.steps for chunk in chunks[:2]] == [UPDATES] * 2


@pytest.mark.parametrize("driver", DRIVERS)
def test_an_index_out_of_range_is_refused_before_anything_changes(driver: str) -> None:
    program, state, batches = prepare(backend(driver=driver))
    before = np.array(state.theta)
    for wrong in (-1, SAMPLES):
        batches.order[3, 5] = wrong
        with pytest.raises(IndexError):
            program.train_epochs(state, batches)
    assert np.array_equal(state.theta, before)


@pytest.mark.parametrize("driver", DRIVERS)
def test_fit_passes_short_epochs_together(driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 1e9)

    class Watch(dn.Callback):
        def on_epoch(self, training: Any) -> None:
            pass

    X, y = blobs()
    results = []
    for callbacks in ([], [Watch()]):
        target = backend(driver=driver)
        net = dn.Network(LAYERS, 4, backend=target, seed=0)
        net.fit(X, y, epochs=40, batch_size=8)
        target.device.log.clear()
        history = net.fit(X, y, epochs=40, batch_size=8, callbacks=callbacks)
        results.append((net.flat().tobytes(), history.loss, target.device.count("download")))
    assert results[0][:2] == results[1][:2]
    assert results[0][2] * 5 < results[1][2]


def test_samples_on_the_host_train_epoch_by_epoch() -> None:
    X, y = blobs()
    results = []
    for resident_bytes in (None, 10):
        net = dn.Network(LAYERS, 4, backend=backend(resident_bytes=resident_bytes), seed=0)
        net.fit(X, y, epochs=12, batch_size=8)
        results.append(net.flat().tobytes())
    assert results[0] == results[1]
