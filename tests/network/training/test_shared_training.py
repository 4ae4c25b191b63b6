"""Training that several ranks share: the same bits on any number of them, also after it is resumed on another number.

The ranks are threads. tests/network/distributed/test_mpi.py trains with processes.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from thread_ranks import ThreadRanks, run_ranks

import deepnotes as dn
from deepnotes.network.streaming import DiskSamples
from deepnotes.utils.errors import ArgumentError, CheckpointError, NonFiniteLossError, RankError, UnknownNameError

RNG = np.random.default_rng(20)
X = RNG.normal(size=(7, 203)).astype(np.float32)
Y = (X[0] > 0).astype(int) + (X[1] > 0)
W = RNG.uniform(0.5, 2.0, 203)
TRAIN, TEST = np.arange(160), np.arange(160, 203)
OPTIONS: dict[str, Any] = {
    "epochs": 6,
    "batch_size": 48,  # the last batch of an epoch has 16 samples
    "sample_weight": W[TRAIN],
    "class_weight": {0: 2.0},
    "validation": (X[:, TEST], Y[TEST]),
    "metrics": ["accuracy"],
    "l2": 1e-3,
}
OTHER_OPTIONS: dict[str, dict[str, Any]] = {
    "averages and clipping": {"average": dn.EMA(0.9), "clip_norm": 0.1},
    "a schedule with a memory": {"optimizer": dn.Adam(dn.ReduceOnPlateau(0.05, patience=0)), "epochs": 12},
    "early stopping": {"early_stopping": 1, "epochs": 40, "optimizer": dn.Adam(0.05)},
    "batches with fewer samples than shards": {"batch_size": 5},
    "one batch, without shuffling": {"batch_size": 160, "shuffle": False, "optimizer": dn.SGD(0.1, momentum=0.9)},
}
Train = Callable[[Any], tuple[bytes, dict[str, Any]]]


def network(backend: Any = "numpy", dtype: str = "float32", units: int = 10, **options: Any) -> dn.Network:
    layers = [dn.Dense(units, "relu"), dn.Dropout(0.3), dn.Dense(3, "softmax")]
    return dn.Network(layers, **({"inputs": 7, "seed": 3, "backend": backend, "dtype": dtype} | options))


def trained(ranks: Any, net: dn.Network | None = None, **options: Any) -> tuple[bytes, dict[str, Any]]:
    """Return the bits of the parameters after training, and the history without its times."""
    net = network() if net is None else net
    history = net.fit(X[:, TRAIN], Y[TRAIN], ranks=ranks, **(OPTIONS | options))
    return net.flat().tobytes(), {name: value for name, value in vars(history).items() if name != "seconds"}


def assert_same_bits(train: Train, sizes: tuple[int, ...] = (2, 4, 8)) -> None:
    expected = train(dn.distributed.single())
    for size in sizes:
        assert run_ranks(size, train) == [expected] * size, f"on {size} ranks"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_training_has_the_same_bits_on_any_number_of_ranks(backend: str, dtype: str) -> None:
    """200 updates with dropout, sample and class weights, and a ragged last batch."""
    assert_same_bits(lambda ranks: trained(ranks, network(backend, dtype), epochs=50))


@pytest.mark.parametrize("options", OTHER_OPTIONS.values(), ids=OTHER_OPTIONS)
def test_options_of_fit_act_as_on_one_rank(options: dict[str, Any]) -> None:
    assert_same_bits(lambda ranks: trained(ranks, **options), (2, 4))


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_shards_change_no_more_than_roundings(backend: str) -> None:
    """So the gradients, the dropout masks, the weights and the order of the samples are those of the whole batch."""
    nets = [network(backend, "float64") for _ in range(2)]
    histories = [trained(ranks, net)[1] for ranks, net in zip([None, dn.distributed.single()], nets, strict=True)]
    np.testing.assert_allclose(nets[0].flat(), nets[1].flat(), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(histories[0]["loss"], histories[1]["loss"], rtol=1e-10)
    np.testing.assert_allclose(histories[0]["val_loss"], histories[1]["val_loss"], rtol=1e-8)


def test_a_user_defined_layer_is_trained_equation_by_equation() -> None:
    class Scaled(dn.Dense):
        def linear(self, ops: Any, parameters: Any, A_prev: Any) -> Any:
            return 2.0 * ops.linear(parameters["W"], A_prev, parameters["b"])

        def backward_linear(self, ops: Any, parameters: Any, A_prev: Any, dZ: Any) -> Any:
            return super().backward_linear(ops, parameters, A_prev, 2.0 * dZ)

    def train(ranks: Any) -> Any:
        layers = [Scaled(6, "tanh"), dn.Dropout(0.2), dn.Dense(3, "softmax")]
        return trained(ranks, dn.Network(layers, inputs=7, seed=1, backend="numpy"))

    assert_same_bits(train, (2,))


def test_a_subset_of_the_samples_is_shared() -> None:
    def train(ranks: Any) -> bytes:
        net = network()
        net.fit(X, Y, samples=TRAIN[::2], validation=TEST, epochs=3, batch_size=16, ranks=ranks)
        return net.flat().tobytes()

    assert_same_bits(train, (2, 4))


def test_a_rank_reads_only_its_own_samples_from_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "X.npy"
    np.save(path, X[:, TRAIN].T.astype(np.float64))
    read: list[int] = []
    original = DiskSamples.read

    def counting(self: DiskSamples, indices: Any) -> np.ndarray:
        result = original(self, indices)
        if not isinstance(indices, slice):  # the check of all samples, and their digest, read slices
            read.append(result.shape[1])
        return result

    monkeypatch.setattr(DiskSamples, "read", counting)

    def train(ranks: Any) -> bytes:
        net = network()
        net.fit(dn.OnDisk(np.load(path, mmap_mode="r")), Y[TRAIN], epochs=2, batch_size=48, ranks=ranks)
        return net.flat().tobytes()

    expected = train(dn.distributed.single())
    assert sum(read) == 2 * 160
    read.clear()
    assert run_ranks(4, train) == [expected] * 4
    assert sum(read) == 2 * 160
    assert max(read) <= 48 / 8


@pytest.mark.parametrize(("written_on", "resumed_on"), [(4, 2), (1, 8), (2, 1)])
def test_a_checkpoint_is_resumed_on_another_number_of_ranks(tmp_path: Path, written_on: int, resumed_on: int) -> None:
    options = {"early_stopping": 100, "optimizer": dn.Adam(dn.ReduceOnPlateau(0.01, patience=1))}

    class Break(dn.Callback):
        def on_epoch(self, training: Any) -> None:
            if training.epoch == 4 and training.ranks.rank == training.ranks.size - 1:
                raise OSError("unplugged")

    def begin(ranks: Any) -> None:
        trained(ranks, checkpoint=tmp_path, every=1, callbacks=[Break()], **options)

    def resume(ranks: Any) -> Any:
        return trained(ranks, checkpoint=tmp_path, every=1, resume=True, **options)

    expected = trained(dn.distributed.single(), **options)
    assert isinstance(run_ranks(written_on, begin)[-1], OSError)
    assert [path.name for path in sorted(tmp_path.glob("*.safetensors"))][-1] in {
        "step-000000012.safetensors",
        "step-000000016.safetensors",
    }
    assert run_ranks(resumed_on, resume) == [expected] * resumed_on


def test_a_checkpoint_is_not_resumed_with_another_number_of_shards(tmp_path: Path) -> None:
    trained(dn.distributed.single(), checkpoint=tmp_path)
    with pytest.raises(CheckpointError, match="shards was 8 and is none"):
        trained(None, checkpoint=tmp_path, resume=True)
    with pytest.raises(CheckpointError, match="shards was 8 and is 4"):
        trained(dn.distributed.single(shards=4), checkpoint=tmp_path, resume=True)


def test_rank_0_alone_shows_progress_and_writes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    seen: list[tuple[int, list[str]]] = []

    class Look(dn.Callback):
        def on_ready(self, training: Any) -> None:
            seen.append((training.ranks.rank, [type(callback).__name__ for callback in training.callbacks]))

    def train(ranks: Any) -> None:
        trained(ranks, progress=True, checkpoint=tmp_path, callbacks=[Look()])

    assert run_ranks(4, train) == [None] * 4
    assert dict(seen) == {
        rank: ["Look", "SharedStart", *(["Checkpoints", "Progress"] if rank == 0 else [])] for rank in range(4)
    }
    assert capfd.readouterr().err.count("epoch 1/6") == 1


DIFFERENT: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "batch size": ({}, {"batch_size": 32}, "batch_size is 48 on rank 0 and 32 on rank 2"),
    "epochs": ({}, {"epochs": 7}, "epochs is 6 on rank 0 and 7 on rank 2"),
    "optimizer": ({}, {"optimizer": "sgd"}, "optimizer is Adam"),
    "early stopping": ({}, {"early_stopping": 3}, "callbacks is "),
    "validation": ({}, {"validation": (X[:, :40], Y[:40])}, "validation differs between rank 0 and rank 2"),
    "weights": ({}, {"class_weight": {0: 3.0}}, "data differs between rank 0 and rank 2"),
    "seed": ({"seed": 4}, {}, "seed is 3 on rank 0 and 4 on rank 2, so create the network with the same seed=NUMBER"),
    "layers": ({"units": 11}, {}, "layers is "),
}


@pytest.mark.parametrize(("net", "options", "message"), DIFFERENT.values(), ids=DIFFERENT)
def test_ranks_that_are_not_started_alike_are_refused_by_name(net: Any, options: Any, message: str) -> None:
    def train(ranks: ThreadRanks) -> str:
        own = network(**(net if ranks.rank == 2 else {}))
        before = own.flat()
        with pytest.raises(RankError) as caught:
            trained(ranks, own, **(options if ranks.rank == 2 else {}))
        assert (own.flat() == before).all()
        return str(caught.value)

    for text in run_ranks(4, train):
        assert "the ranks were not started alike, so nothing was trained" in text
        assert message in text


def test_ranks_that_would_sum_in_different_ways_are_refused() -> None:
    def train(ranks: Any) -> str:
        ranks.fixed_order = ranks.rank == 0
        with pytest.raises(RankError) as caught:
            trained(ranks)
        return str(caught.value)

    assert all("fixed_order is True on rank 0 and False on rank 1" in text for text in run_ranks(2, train))


def test_other_parameters_at_the_start_are_refused() -> None:
    def train(ranks: ThreadRanks) -> str:
        net = network()
        net.set_flat(net.flat() + ranks.rank)
        with pytest.raises(RankError) as caught:
            trained(ranks, net)
        return str(caught.value)

    assert all("the initial parameters differs between rank 0 and rank 1" in text for text in run_ranks(2, train))


@pytest.mark.parametrize("failing", [0, 3])
@pytest.mark.parametrize("method", ["on_start", "on_ready", "on_chunk", "on_epoch", "on_end"])
def test_an_error_on_one_rank_ends_all_with_its_name(method: str, failing: int) -> None:
    class Fail(dn.Callback):
        pass

    def fail(self: Any, training: Any) -> None:
        if training.ranks.rank == failing:
            raise LookupError("no such thing")

    setattr(Fail, method, fail)
    results = run_ranks(4, lambda ranks: trained(ranks, callbacks=[Fail()]))
    assert isinstance(results[failing], LookupError)
    for rank in {0, 1, 2, 3} - {failing}:
        assert isinstance(results[rank], RankError)
        assert str(results[rank]) == f"rank {failing}: LookupError: no such thing"


def test_a_wrong_argument_on_one_rank_ends_all() -> None:
    results = run_ranks(2, lambda ranks: trained(ranks, batch_size=48 if ranks.rank else 0))
    assert isinstance(results[0], ArgumentError)
    assert str(results[1]).startswith("rank 0: ArgumentError: batch_size=0")


def test_a_loss_that_is_not_finite_is_the_same_error_on_all_ranks() -> None:
    def train(ranks: Any) -> tuple[int, bytes]:
        net = network()
        with pytest.raises(NonFiniteLossError) as caught:
            trained(ranks, net, optimizer=dn.SGD(1e30), epochs=50, class_weight=None)
        return caught.value.step, net.flat().tobytes()

    results = run_ranks(4, train)
    assert results == [train(dn.distributed.single())] * 4


def test_a_callback_that_stops_training_on_one_rank_stops_it_on_all() -> None:
    class Stop(dn.Callback):
        def on_epoch(self, training: Any) -> None:
            training.stop = training.epoch == 2 and training.ranks.rank == 1

    results = run_ranks(2, lambda ranks: trained(ranks, callbacks=[Stop()]))
    assert results[0] == results[1]
    assert len(results[0][1]["loss"]) == 2


def test_parameters_that_a_callback_changes_on_one_rank_are_an_error() -> None:
    class Change(dn.Callback):
        def on_epoch(self, training: Any) -> None:
            if training.ranks.rank == 1:
                training.network.set_flat(training.network.flat() * 2)

    results = run_ranks(2, lambda ranks: trained(ranks, callbacks=[Change()]))
    assert all("rank 1 has other parameters than rank 0 after update 4" in str(error) for error in results)


def test_other_objects_are_refused_as_ranks() -> None:
    with pytest.raises(ArgumentError, match=r"ranks='mpi', wanted the result of deepnotes.distributed.mpi"):
        trained("mpi")
    with pytest.raises(UnknownNameError, match="ranks"):
        dn.fit_many([network()], X, Y, ranks=dn.distributed.single())


def on_devices(size: int, has_nccl: bool = True, bus: str = "", **options: Any) -> list[Any]:
    """Return the results of training on the stand-ins for GPUs, a rank on each."""
    host_device = pytest.importorskip("host_device", reason="the stand-in compiles the CUDA kernels with g++")
    backends = [host_device.backend() for _ in range(size)]
    for backend in backends:
        backend.device.has_nccl, backend.device.bus = has_nccl, bus

    def train(ranks: Any) -> Any:
        ranks.fixed_order = options.get("fixed_order", True)
        return trained(ranks, network(backends[ranks.rank]), epochs=2)

    return run_ranks(size, train) if size > 1 else [train(dn.distributed.single())]


def test_the_cupy_backend_sums_gradients_by_nccl_on_its_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was not run on several GPUs."""
    fake_nccl = pytest.importorskip("fake_nccl")
    monkeypatch.setattr(fake_nccl, "log", [])
    (expected,) = on_devices(1)
    assert fake_nccl.log == []
    on_numpy = np.frombuffer(trained(dn.distributed.single(), epochs=2)[0], np.float32)
    np.testing.assert_allclose(np.frombuffer(expected[0], np.float32), on_numpy, rtol=1e-3, atol=1e-5)
    for size in (2, 4):
        fake_nccl.log.clear()
        assert on_devices(size) == [expected] * size
        parameters = len(on_numpy) + 1  # and the cost
        assert fake_nccl.log.count(("send", 0, parameters)) == 8 * {2: 1, 4: 2}[size]


@pytest.mark.parametrize("options", [{"has_nccl": False}, {"bus": "0000:01:00.0"}])
def test_without_nccl_or_on_one_gpu_the_bits_are_the_same(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake_nccl = pytest.importorskip("fake_nccl")
    monkeypatch.setattr(fake_nccl, "log", [])
    caplog.set_level("DEBUG", "deepnotes")
    assert on_devices(2, **options) == on_devices(1) * 2
    assert fake_nccl.log == []
    assert "the ranks sum gradients on the host" in caplog.text


def test_the_order_of_nccl_changes_no_more_than_roundings(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nccl = pytest.importorskip("fake_nccl")
    monkeypatch.setattr(fake_nccl, "log", [])
    fixed, own = on_devices(4), on_devices(4, fixed_order=False)
    assert own == own[:1] * 4
    assert {name for name, *_ in fake_nccl.log} == {"send", "allReduce"}
    first, second = (np.frombuffer(result[0][0], np.float32) for result in (fixed, own))
    np.testing.assert_allclose(first, second, rtol=1e-3, atol=1e-5)


def test_a_rank_that_fails_on_a_gpu_ends_the_others() -> None:
    host_device = pytest.importorskip("host_device", reason="the stand-in compiles the CUDA kernels with g++")
    backends = [host_device.backend() for _ in range(2)]

    class Fail(dn.Callback):
        def on_chunk(self, training: Any) -> None:
            if training.ranks.rank == 1 and training.step >= 4:
                raise OSError("unplugged")

    results = run_ranks(2, lambda ranks: trained(ranks, network(backends[ranks.rank]), callbacks=[Fail()]))
    assert str(results[0]) == "rank 1: OSError: unplugged"


def test_a_sum_of_nccl_that_does_not_end_is_an_error_after_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    host_device = pytest.importorskip("host_device", reason="the stand-in compiles the CUDA kernels with g++")
    import fake_nccl

    backends = [host_device.backend() for _ in range(2)]
    monkeypatch.setattr(host_device.HostDevice, "has_occurred", lambda self, event: False)
    monkeypatch.setattr(fake_nccl, "communicators", [])
    results = run_ranks(2, lambda ranks: trained(ranks, network(backends[ranks.rank])), time_limit=1)
    assert any("a sum of NCCL took longer than 1 s" in str(result) for result in results)
    assert all(isinstance(result, RankError) for result in results)
    assert [communicator.aborted for communicator in fake_nccl.communicators] == [True, True]
