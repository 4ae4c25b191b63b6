"""Training on several ranks in unusual cases: new layers, shards without samples or weights, faults of rank 0."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_shared_training import TEST, TRAIN, X, Y, assert_same_bits, network, trained
from thread_ranks import run_ranks

import deepnotes as dn
from deepnotes.utils.errors import CheckpointError, RankError

LAYERS: dict[str, Any] = {
    "layer norm": lambda: [dn.Dense(8, "relu"), dn.LayerNorm(), dn.Dense(3, "softmax")],
    "residual": lambda: [
        dn.Dense(8, "relu"), dn.Residual([dn.Dense(8, "tanh"), dn.Dropout(0.2)]), dn.Dense(3, "softmax"),
    ],
    "noise": lambda: [dn.Noise(0.3), dn.Dense(8, "relu"), dn.Noise(0.1), dn.Dense(3, "softmax")],
    "all": lambda: [
        dn.Noise(0.1), dn.Dense(8, "relu"), dn.Residual([dn.LayerNorm(), dn.Dense(8, "relu"), dn.Dropout(0.2)]),
        dn.Dense(3, "softmax"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
def test_other_layers_have_the_same_bits_on_any_number_of_ranks(layers: Any, backend: str) -> None:
    def train(ranks: Any) -> Any:
        return trained(ranks, dn.Network(layers(), inputs=7, seed=3, backend=backend), epochs=3)

    assert_same_bits(train)
    without = dn.Network(layers(), inputs=7, seed=3, backend=backend, dtype="float64")
    shared = dn.Network(layers(), inputs=7, seed=3, backend=backend, dtype="float64")
    trained(None, without, epochs=3)
    trained(dn.distributed.single(), shared, epochs=3)
    np.testing.assert_allclose(without.flat(), shared.flat(), rtol=1e-7, atol=1e-9)


CASES: dict[str, dict[str, Any]] = {
    "weights that are zero in a shard": {"sample_weight": np.r_[np.zeros(40), np.ones(120)], "shuffle": False},
    "fewer samples than shards": {"batch_size": 3},
    "one sample in a batch": {"batch_size": 1, "epochs": 1},
    "a last batch of one sample": {"batch_size": 53},
    "a class without weight": {"class_weight": {0: 0.0}},
    "metrics of all samples": {"metrics": ["balanced_accuracy"]},
    "metrics on the training data": {"validation": None, "metrics": ["accuracy"]},
    "early stopping on a metric": {"early_stopping": lambda: dn.EarlyStopping(1, monitor="val_accuracy"), "epochs": 20},
    "a schedule with a memory, and averages": {
        "optimizer": dn.AdamW(dn.ReduceOnPlateau(0.05, patience=0)), "average": dn.SWA(1), "epochs": 8,
    },
}  # fmt: skip


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_unusual_batches_and_options_act_as_on_one_rank(options: dict[str, Any], backend: str) -> None:
    def train(ranks: Any) -> Any:
        own = {name: value() if callable(value) else value for name, value in options.items()}  # not shared by threads
        return trained(ranks, network(backend), **own)

    assert_same_bits(train, (2, 8))


def test_a_disk_that_is_full_on_rank_0_ends_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(dn.distributed.single(), checkpoint=tmp_path, every=1, epochs=2)
    before = sorted(tmp_path.iterdir())

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    results = run_ranks(4, lambda ranks: trained(ranks, checkpoint=tmp_path, every=1, resume=True))
    assert isinstance(results[0], CheckpointError), results
    assert "No space left" in str(results[0])
    for result in results[1:]:
        assert isinstance(result, RankError)
        assert "rank 0: " in str(result)
        assert "No space left" in str(result)
    monkeypatch.undo()
    assert sorted(tmp_path.iterdir()) == before
    expected = trained(dn.distributed.single())
    assert run_ranks(2, lambda ranks: trained(ranks, checkpoint=tmp_path, every=1, resume=True)) == [expected] * 2


def test_a_rank_with_other_or_no_data_is_refused() -> None:
    def train(ranks: Any) -> str:
        samples = TRAIN[: 160 - 80 * ranks.rank]
        with pytest.raises(RankError) as caught:
            dn.Network([dn.Dense(3, "softmax")], inputs=7, seed=1).fit(X[:, samples], Y[samples], ranks=ranks)
        return str(caught.value)

    assert all("differ" in text for text in run_ranks(2, train))
    results = run_ranks(2, lambda ranks: trained(ranks, samples=TEST[:0] if ranks.rank else None, sample_weight=None))
    assert all(isinstance(result, dn.DeepnotesError) for result in results)
    assert any(isinstance(result, RankError) for result in results)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_memory_mapped_samples_are_read_by_the_rank_that_needs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: Any
) -> None:
    """An array of the network's dtype is used as it is; another one is converted batch by batch if it is large."""
    from deepnotes.network import streaming

    monkeypatch.setattr(streaming, "MAX_CONVERTED_AT_ONCE", 100)
    path = tmp_path / "X.npy"
    np.save(path, X[:, TRAIN].T.astype(dtype))
    read: list[tuple[int, int]] = []
    original = streaming.DiskSamples.read

    def counting(self: Any, indices: Any) -> np.ndarray:
        result = original(self, indices)
        if not isinstance(indices, slice):
            read.append((id(self), result.shape[1]))
        return result

    monkeypatch.setattr(streaming.DiskSamples, "read", counting)

    def train(ranks: Any) -> tuple[bytes, bool]:
        net = dn.Network([dn.Dense(6, "relu"), dn.Dense(3, "softmax")], inputs=7, seed=3, backend="numpy")
        mapped, held = np.load(path, mmap_mode="r"), []

        class Look(dn.Callback):
            def on_ready(self, training: Any) -> None:
                held.append(isinstance(training.data.X, np.ndarray) and np.shares_memory(training.data.X, mapped))

        net.fit(mapped.T, Y[TRAIN], epochs=2, batch_size=48, ranks=ranks, callbacks=[Look()])
        return net.flat().tobytes(), held[0]

    expected = train(dn.distributed.single())
    assert expected[1] == (dtype is np.float32)
    read.clear()
    assert run_ranks(4, train) == [expected] * 4
    if dtype is np.float64:
        by_rank = [sum(n for owner, n in read if owner == rank) for rank in {owner for owner, _ in read}]
        assert sum(by_rank) == 2 * 160
        assert len(by_rank) == 4
        assert max(by_rank) <= 2 * 160 / 4 + 8


def test_a_backend_with_only_a_namespace_trains_on_ranks() -> None:
    strict = pytest.importorskip("array_api_strict")

    def train(ranks: Any) -> Any:
        return trained(ranks, network(dn.Backend("strict", strict)), epochs=2)

    assert_same_bits(train, (2, 8))
    on_numpy = np.frombuffer(trained(dn.distributed.single(), epochs=2)[0], np.float32)
    on_strict = np.frombuffer(train(dn.distributed.single())[0], np.float32)
    np.testing.assert_allclose(on_strict, on_numpy, rtol=1e-3, atol=1e-5)
