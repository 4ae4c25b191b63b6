"""Accumulated gradients: compared with PyTorch's recipe and with large batches, resumed, shared and read from disk."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_device import backend as cupy_backend
from literature_cases import DATA, by_name
from thread_ranks import run_ranks

import deepnotes as dn
from deepnotes.backends.eager import EagerProgram
from deepnotes.network import streaming
from deepnotes.network.training.training_fingerprint import differences

with np.load(Path(__file__).parents[2] / "fixtures" / "rates.npz") as file:
    STORED = {name.removeprefix("accumulated/"): x for name, x in file.items() if name.startswith("accumulated/")}

BACKENDS: dict[str, Any] = {
    "eager": lambda: dn.Backend("eager", np), "numpy": lambda: "numpy", "numba": lambda: "numba", "cupy": cupy_backend,
}  # fmt: skip
OPTIMIZERS = {
    "momentum": dn.SGD(0.05, momentum=0.9),
    "adam": dn.Adam(0.01, epsilon=1e-6),
    "adamw": dn.AdamW(0.01, epsilon=1e-6, weight_decay=0.3),
}
X, Y = DATA["X"], DATA["real"]  # 37 samples: with batches of 8, an update has 24 samples, and the next one 13


def network(backend: Any = "numpy", *hidden: dn.Layer) -> dn.Network:
    layers = [dn.Dense(7, "tanh"), *hidden, dn.Dense(6, "tanh"), dn.Dense(3)]
    net = dn.Network(layers, inputs=5, backend=backend, dtype="float64", seed=0)
    net.parameters.update(by_name(net, DATA["start/3"]))
    return net


def settings(**changes: Any) -> dict[str, Any]:
    plain = {"optimizer": OPTIMIZERS["adam"], "batch_size": 8, "accumulate": 3, "epochs": 10, "shuffle": False}
    return plain | changes


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_match_those_of_pytorch(name: str, backend: str) -> None:
    net = network(BACKENDS[backend]())
    net.fit(X, Y, **settings(optimizer=OPTIMIZERS[name]))
    for key, wanted in by_name(net, STORED[name]).items():
        found = net.backend.to_numpy(net.parameters[key])
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-10 * abs(wanted).max())


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_update_is_that_of_one_large_batch(backend: str) -> None:
    """The masks of dropout and noise, the weights, L2, clipping, averages and the schedule are the same."""
    chosen, hidden = BACKENDS[backend](), (dn.Dropout(0.3), dn.Noise(0.1))
    optimizer = dn.Adam(dn.CosineDecay(0.03, steps=20, warmup=7), epsilon=1e-6)
    options = settings(
        optimizer=optimizer, shuffle=True, sample_weight=DATA["weight"], l2=0.05, clip_norm=0.3, average=dn.EMA(0.8)
    )
    by_parts, whole = network(chosen, *hidden), network(chosen, *hidden)
    history = by_parts.fit(X, Y, validation=(X, Y), **options)
    expected = whole.fit(X, Y, validation=(X, Y), **options | {"batch_size": 24, "accumulate": 1})
    np.testing.assert_allclose(by_parts.flat(), whole.flat(), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(history.loss, expected.loss, rtol=1e-11)
    np.testing.assert_allclose(history.val_loss, expected.val_loss, rtol=1e-11)
    assert history.learning_rate == expected.learning_rate
    assert by_parts._training[2].step == 20  # type: ignore[index]


@pytest.mark.parametrize("backend", ["eager", "numpy"])
def test_each_batch_is_normalized_by_its_own_statistics(backend: str) -> None:
    layers = [dn.BatchNorm(momentum=0.2), dn.Dense(3)]
    net = dn.Network(layers, inputs=5, backend=BACKENDS[backend](), dtype="float64", seed=0)
    start, shares = {name: np.array(x) for name, x in net.parameters.items()}, (24 / 37, 13 / 37)
    batches = [(X[:, :24], Y[:, :24]), (X[:, 24:], Y[:, 24:])]
    gradients = [net.gradients(*batch) for batch in batches]
    net.fit(X, Y, **settings(optimizer=dn.SGD(0.1), batch_size=24, accumulate=2, epochs=1))
    for name in gradients[0]:
        g = sum(share * np.asarray(gradient[name]) for share, gradient in zip(shares, gradients, strict=True))
        np.testing.assert_allclose(np.asarray(net.parameters[name]), start[name] - 0.1 * g, rtol=1e-10, atol=1e-14)
    mean = np.asarray(net.parameters["running_mean1"])
    np.testing.assert_allclose(mean, 0.2 * X.mean(axis=1, keepdims=True), rtol=1e-12)
    with pytest.raises(dn.ArgumentError, match="batches of 1 sample"):
        net.fit(X, Y, **settings(batch_size=1, accumulate=8))


def test_one_batch_at_a_time_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, compute = [], EagerProgram.shard_gradient

    def shard_gradient(self: Any, state: Any, data: Any, shard: Any) -> Any:
        sizes.append(len(shard.indices))
        return compute(self, state, data, shard)

    monkeypatch.setattr(EagerProgram, "shard_gradient", shard_gradient)
    network(BACKENDS["eager"]()).fit(X, Y, **settings(epochs=1))
    assert sizes == [8, 8, 8, 8, 5]


def test_more_batches_than_an_epoch_has_make_one_update() -> None:
    net, whole = network(), network()
    net.fit(X, Y, **settings(accumulate=10**20))
    whole.fit(X, Y, **settings(accumulate=1, batch_size=37))
    np.testing.assert_allclose(net.flat(), whole.flat(), rtol=1e-10)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_resumed_training_has_the_same_bits(backend: str, tmp_path: Path) -> None:
    whole, half, resumed = (network(backend, dn.Dropout(0.3)) for _ in range(3))
    options: dict[str, Any] = settings(shuffle=True)
    whole.fit(X, Y, **options)
    half.fit(X, Y, checkpoint=tmp_path, every=1, **options | {"epochs": 4})
    resumed.fit(X, Y, checkpoint=tmp_path, every=1, resume=True, **options)
    np.testing.assert_array_equal(resumed.flat(), whole.flat())
    with pytest.raises(dn.CheckpointError, match="batch_size was 8 and is 24; accumulate was 3 and is 1"):
        resumed.fit(X, Y, checkpoint=tmp_path, resume=True, **options | {"batch_size": 24, "accumulate": 1})


def test_training_that_was_interrupted_between_two_updates_is_resumed(tmp_path: Path) -> None:
    class Interrupting(dn.Callback):
        def on_chunk(self, training: Any) -> None:
            training.per_chunk = 1
            if training.step == 3:  # of 5 in the first epoch
                signal.raise_signal(signal.SIGINT)

    whole, half, resumed = network(), network(), network()
    options: dict[str, Any] = settings(batch_size=4, accumulate=2, shuffle=True)
    whole.fit(X, Y, **options)
    with pytest.raises(KeyboardInterrupt):
        half.fit(X, Y, checkpoint=tmp_path, every=1, callbacks=[Interrupting()], **options)
    assert [path.stem for path in tmp_path.glob("*.safetensors")] == ["step-000000003"]
    resumed.fit(X, Y, checkpoint=tmp_path, every=1, resume=True, **options)
    np.testing.assert_array_equal(resumed.flat(), whole.flat())


def test_checkpoints_from_before_this_option_can_be_resumed() -> None:
    assert differences({}, {"accumulate": "1", "shards": "none"}) == ""
    assert differences({}, {"accumulate": "2"}) == "accumulate was 1 and is 2"


@pytest.mark.parametrize("accumulate", [2, 30])
def test_ranks_have_the_same_bits(accumulate: int) -> None:
    """With 30 batches of one sample, the shards of an update have more samples than a batch."""

    def train(ranks: Any) -> np.ndarray:
        net = network("numpy", dn.Dropout(0.3))
        net.fit(X, Y, ranks=ranks, **settings(batch_size=1, accumulate=accumulate, epochs=3))
        return net.flat()

    (alone,), (first, second) = run_ranks(1, train), run_ranks(2, train)
    np.testing.assert_array_equal(first, alone)
    np.testing.assert_array_equal(second, alone)
    whole = network("numpy", dn.Dropout(0.3))
    whole.fit(X, Y, **settings(batch_size=accumulate, accumulate=1, epochs=3))
    np.testing.assert_allclose(alone, whole.flat(), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("backend", BACKENDS)
def test_samples_are_read_from_disk_batch_by_batch(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "MAX_CONVERTED_AT_ONCE", 0)
    np.save(tmp_path / "rows.npy", X.T.astype(np.float32))
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r").T
    chosen = BACKENDS[backend]()
    sizes, read_samples = [], streaming.DiskSamples.read

    def read(self: Any, indices: Any) -> np.ndarray:
        if not isinstance(indices, slice):  # of which the check and the evaluation of all samples consist
            sizes.append(len(indices))
        return read_samples(self, indices)

    monkeypatch.setattr(streaming.DiskSamples, "read", read)
    from_disk, from_memory = network(chosen), network(chosen)
    from_disk.fit(mapped, Y, **settings(epochs=1, shuffle=True))
    assert sizes == [8, 8, 8, 8, 5]
    from_memory.fit(X.astype(np.float32), Y, **settings(epochs=1, shuffle=True))
    np.testing.assert_array_equal(from_disk.flat(), from_memory.flat())


def test_many_networks_accumulate() -> None:
    nets, alone = [network("numba"), network("numba")], network("numba")
    dn.fit_many(nets, X, Y, **settings(accumulate=[3, 1]))
    alone.fit(X, Y, **settings())
    np.testing.assert_array_equal(nets[0].flat(), alone.flat())


def test_a_loss_that_is_not_finite_ends_training_before_the_update() -> None:
    net, first, far = network(), network(), Y.copy()
    far[:, 30] = 1e200
    with pytest.raises(dn.NonFiniteLossError, match="before update 2"):
        net.fit(X, far, **settings())
    first.fit(X[:, :24], Y[:, :24], **settings(epochs=1))
    np.testing.assert_array_equal(net.flat(), first.flat())


@pytest.mark.parametrize("accumulate", [0, -1, 2.0, True, None, "2"])
def test_invalid_numbers_are_refused(accumulate: Any) -> None:
    with pytest.raises(dn.ArgumentError, match=r"accumulate=.*, wanted a whole number of at least 1"):
        network().fit(X, Y, **settings(accumulate=accumulate))
