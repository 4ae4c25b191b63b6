"""Checkpoints: resumed training gives the same bits; checkpoints of other training runs are refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import array_api_strict
import hostile
import numpy as np
import pytest
from checkpoint_directories import memory_folder
from checkpointed import BATCH, EPOCHS, SAMPLES, data, fit, network, outcome

import deepnotes as dn
from deepnotes.network.training.checkpoints import list_checkpoints


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    """Yield the path of a checkpoint directory that does not exist yet."""
    with memory_folder(tmp_path) as folder:
        yield folder / "run"


STRICT = dn.Backend("strict", array_api_strict)


class FailAfter(dn.Callback):
    """A callback that raises an error after a number of chunks or epochs."""

    def __init__(self, chunks: int | None = None, epochs: int | None = None) -> None:
        self.chunks, self.epochs = chunks, epochs

    def on_chunk(self, training: Any) -> None:
        if self.chunks is not None:
            self.chunks -= 1
            if self.chunks < 0:
                raise RuntimeError("stopped")

    def on_epoch(self, training: Any) -> None:
        if training.epoch == self.epochs:
            raise RuntimeError("stopped")


@pytest.fixture
def saved_run(run: Path) -> Path:
    """Return a directory with the checkpoints of 4 epochs of training."""
    fit(network(), run, epochs=4, every=1)
    return run


def rewrite(path: Path, change: Any) -> None:
    """Apply `change` to the training state in a checkpoint, and write the checkpoint with correct digests."""
    content = path.read_bytes()
    tensors = hostile.tensors(content)
    entries = json.loads(tensors["training.json"].tobytes())
    change(entries)
    tensors["training.json"] = np.frombuffer(json.dumps(entries).encode(), np.uint8)
    path.write_bytes(hostile.sealed(hostile.header_of(content), tensors))


STOPS = {"1 chunk": {"chunks": 0}, "5 chunks": {"chunks": 4}, "1 epoch": {"epochs": 1}, "5 epochs": {"epochs": 5}}
CASES = [
    pytest.param(backend, dtype, stop, marks=[pytest.mark.slow] if dtype == "float64" and backend != "numpy" else [])
    for backend in ("numpy", "numba", STRICT)
    for dtype in ("float32", "float64")
    for stop in STOPS
    if backend is not STRICT or (dtype, stop) in {("float32", "5 chunks"), ("float64", "1 epoch")}  # STRICT is slow
]


@pytest.mark.parametrize(("backend", "dtype", "stop"), CASES, ids=lambda value: getattr(value, "name", value))
def test_interrupted_training_resumes_to_the_same_bits(
    run: Path, monkeypatch: pytest.MonkeyPatch, backend: Any, dtype: str, stop: str
) -> None:
    if backend == "numba":
        pytest.importorskip("numba")
    uninterrupted = network(backend, dtype)
    expected = outcome(uninterrupted, fit(uninterrupted))
    if "chunks" in STOPS[stop]:  # so that a chunk, and with it the training run, ends within an epoch
        monkeypatch.setattr("deepnotes.network.training.loop.CHUNK_SECONDS", 1e-9)
    with pytest.raises(RuntimeError, match="stopped"):
        fit(network(backend, dtype), run, callbacks=[FailAfter(**STOPS[stop])])
    resumed = network(backend, dtype)
    assert outcome(resumed, fit(resumed, run, resume=True)) == expected


def test_finished_training_can_be_resumed_with_more_epochs(run: Path) -> None:
    uninterrupted, first, second = network(), network(), network()
    expected = outcome(uninterrupted, fit(uninterrupted, early_stopping=None))
    fit(first, run, epochs=5, early_stopping=None)
    history = fit(second, run, early_stopping=None, resume=True)
    assert outcome(second, history) == expected
    assert history.epochs == EPOCHS


def test_resuming_with_fewer_epochs_than_were_trained_warns(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    fit(network(), run, epochs=5, early_stopping=None)
    history = fit(network(), run, epochs=3, early_stopping=None, resume=True)
    assert history.epochs == 5
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"{run}: its latest checkpoint is of epoch 5; with epochs=3, nothing is trained"
    ]


def test_resuming_finished_training_restores_its_outcome(run: Path) -> None:
    first, second = network(), network()
    expected = outcome(first, fit(first, run))
    before = sorted(path.name for path in run.iterdir())
    assert outcome(second, fit(second, run, resume=True)) == expected
    assert sorted(path.name for path in run.iterdir()) == before


def test_resuming_without_a_checkpoint_starts_at_the_first_epoch(run: Path) -> None:
    uninterrupted, resumed = network(), network()
    assert outcome(resumed, fit(resumed, run, resume=True)) == outcome(uninterrupted, fit(uninterrupted))


@pytest.mark.parametrize(("before", "after"), [("numpy", "numba"), ("numba", "numpy")])
def test_training_resumed_on_another_backend_stays_within_the_bounds(run: Path, before: str, after: str) -> None:
    pytest.importorskip("numba")
    X, y = data()
    settings = {"optimizer": "sgd", "batch_size": BATCH, "shuffle": False}
    net = network(before, "float64")
    net.fit(X, y, epochs=2, checkpoint=run, **settings)
    resumed, uninterrupted = network(after, "float64"), network("numpy", "float64")
    resumed.fit(X, y, epochs=4, checkpoint=run, resume=True, **settings)
    uninterrupted.fit(X, y, epochs=4, **settings)

    from deepnotes.backends.bounds import Bounds
    from deepnotes.backends.eager import EagerProgram
    from deepnotes.backends.program import Data, State

    bounds = Bounds("float64")
    assert uninterrupted._training is not None
    plan = uninterrupted._training[0]
    state: Any = State(bounds.from_numpy(network("numpy", "float64").flat()))
    program = EagerProgram(bounds, plan)
    samples = Data(bounds.from_numpy(X), bounds.from_numpy(y[None]))
    for _ in range(4):
        for start in range(0, SAMPLES, BATCH):
            batch = program.batch(samples, np.arange(SAMPLES)[start : start + BATCH])
            program.update(state, program.gradients(state, batch).flat, 0.01)
    assert (abs(resumed.flat() - uninterrupted.flat()) <= 2 * bounds.rules.slack * state.theta.error).all()
    assert (state.theta.error < 1e-9).all()  # with a wide bound, the comparison would always succeed


def test_checkpoints_are_written_every_few_epochs_and_the_latest_are_kept(run: Path) -> None:
    net = network()
    fit(net, None, epochs=10, early_stopping=None, callbacks=[dn.Checkpoints(run, every=2, keep=4)])
    per_epoch = -(-SAMPLES // BATCH)
    assert [path.name for path in list_checkpoints(run)] == [
        f"step-{epoch * per_epoch:09d}.safetensors" for epoch in (10, 8, 6, 4)
    ]


def test_a_checkpoint_is_a_model_file(run: Path) -> None:
    net = network()
    net.metadata = {"classes": ["a", "b", "c"]}
    fit(net, run, early_stopping=None)
    loaded = dn.load(list_checkpoints(run)[0], backend="numpy")
    np.testing.assert_array_equal(loaded.flat(), net.flat())
    assert loaded.metadata == net.metadata


def test_incomplete_files_are_deleted(run: Path) -> None:
    run.mkdir()
    stale, other = run / ".step-000000007.safetensors.0123456789ab.tmp", run / "notes.txt"
    for path in (stale, other):
        path.write_text("x")
    fit(network(), run, epochs=1)
    assert not stale.exists()
    assert other.exists()


def test_the_memory_of_a_user_defined_callback_is_restored(run: Path) -> None:
    class ParameterSum(dn.Callback):
        def on_start(self, training: Any) -> None:
            self.sum, self.epochs = np.zeros(training.plan.layout.size), 0

        def on_epoch(self, training: Any) -> None:
            self.sum, self.epochs = self.sum + training.network.flat(), self.epochs + 1

        def memory(self) -> dict[str, Any]:
            return {"sum": self.sum, "epochs": self.epochs}

        def remember(self, memory: Any) -> None:
            self.sum, self.epochs = memory["sum"], memory["epochs"]

    uninterrupted, first, second = ParameterSum(), ParameterSum(), ParameterSum()
    fit(network(), callbacks=[uninterrupted], early_stopping=None)
    fit(network(), run, epochs=4, callbacks=[first], early_stopping=None)
    fit(network(), run, callbacks=[second], early_stopping=None, resume=True)
    assert second.epochs == uninterrupted.epochs == EPOCHS
    np.testing.assert_array_equal(second.sum, uninterrupted.sum)


def test_no_update_is_lost_when_a_metric_fails(run: Path) -> None:
    def failing_metric(calls_before_failure: float) -> Any:
        remaining = calls_before_failure

        def half(A: Any, Y: Any) -> float:
            nonlocal remaining
            remaining -= 1
            if remaining < 0:
                raise RuntimeError("failed")
            return 0.5

        return half

    never = float("inf")
    uninterrupted, resumed = network(), network()
    expected = outcome(uninterrupted, fit(uninterrupted, metrics=failing_metric(never)))
    with pytest.raises(RuntimeError, match="failed"):
        fit(network(), run, metrics=failing_metric(2))
    assert [path.name for path in run.iterdir()] == ["step-000000030.safetensors"]
    assert outcome(resumed, fit(resumed, run, metrics=failing_metric(never), resume=True)) == expected


def test_a_checkpoint_of_another_numpy_version_causes_a_warning(
    saved_run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = list_checkpoints(saved_run)[0]
    rewrite(path, lambda entries: entries["versions"].update(numpy="1.0"))
    fit(network(), saved_run, resume=True)
    assert f"numpy was 1.0 and is {np.__version__}" in caplog.text


def test_early_stopping_refuses_an_invalid_memory(saved_run: Path) -> None:
    net = network()
    before = net.flat()
    for path in list_checkpoints(saved_run):
        rewrite(path, lambda entries: entries["memories"][0].update(best="low"))
    with pytest.raises(dn.ModelFileError, match=r"the memory of a callback is invalid .*best='low'"):
        fit(net, saved_run, resume=True)
    np.testing.assert_array_equal(net.flat(), before)


def test_a_network_with_a_user_defined_layer_can_be_resumed_but_not_loaded(run: Path) -> None:
    class DoubleOutputs(dn.Layer):
        def forward(self, ops: Any, parameters: Any, A_prev: Any, context: Any) -> Any:
            return 2.0 * A_prev, None

        def backward(self, ops: Any, parameters: Any, cache: Any, dA: Any) -> Any:
            return 2.0 * dA, {}

    def create_network() -> dn.Network:
        return dn.Network([dn.Dense(4, "tanh"), DoubleOutputs(), dn.Dense(3, "softmax")], 4, seed=0)

    uninterrupted, resumed = create_network(), create_network()
    expected = outcome(uninterrupted, fit(uninterrupted))
    fit(create_network(), run, epochs=2)
    assert outcome(resumed, fit(resumed, run, resume=True)) == expected
    with pytest.raises(dn.ModelFileError, match="unknown layer type"):
        dn.load(list_checkpoints(run)[0])


# --- errors -----------------------------------------------------------------------------------------------------------


def test_existing_checkpoints_are_not_overwritten(run: Path) -> None:
    fit(network(), run, epochs=2)
    net = network()
    before = net.flat()
    with pytest.raises(
        dn.CheckpointError, match=r"has step-000000020.safetensors of an earlier training run; to continue it"
    ):
        fit(net, run)
    np.testing.assert_array_equal(net.flat(), before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 8}, "batch_size was 16 and is 8"),
        ({"optimizer": dn.SGD(0.1)}, r"optimizer was Adam\(.*\) and is SGD\("),
        ({"l1": 0.5}, "l1 was 0.0 and is 0.5"),
        ({"l2": 0.5}, "l2 was 0.0 and is 0.5"),
        ({"shuffle": False}, "shuffle was True and is False"),
        ({"early_stopping": 4}, r"callbacks was .*patience=3.* and is .*patience=4"),
        ({"metrics": ()}, "watched was .*val_accuracy.* and is"),
        ({"sample_weight": None}, "data differs"),
        ({"validation": (data()[0][:, :41], data()[1][:41])}, "validation differs"),
    ],
    ids=str,
)
def test_training_with_other_settings_or_data_is_not_resumed(run: Path, changes: dict[str, Any], message: str) -> None:
    fit(network(), run, epochs=1)
    net = network()
    before = net.flat()
    with pytest.raises(dn.CheckpointError, match=f"belongs to another training run: .*{message}"):
        fit(net, run, resume=True, **changes)
    np.testing.assert_array_equal(net.flat(), before)


def test_a_network_with_another_seed_or_architecture_is_not_resumed(run: Path) -> None:
    fit(network(), run, epochs=1)
    X, y = data()
    for layers, seed, message in [
        (network().layers, 4, "seed was 3 and is 4"),
        ([dn.Dense(8), dn.Dense(3, "softmax")], 3, "layers was"),
    ]:
        with pytest.raises(dn.CheckpointError, match=message):
            dn.Network(layers, 4, seed=seed).fit(X, y, checkpoint=run, resume=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": "60"}, "every='60', wanted a number of epochs, or a time such as '30s'"),
        ({"every": 0}, "every=0, wanted a whole number of at least 1"),
        ({"every": "0s"}, "every='0s'"),
        ({"every": 1.5}, "every=1.5"),
        ({"keep": 0}, "keep=0"),
    ],
)
def test_invalid_arguments_are_refused(run: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(dn.ArgumentError, match=message):
        dn.Checkpoints(run, **arguments)
    assert not run.exists()


def test_resuming_and_an_interval_require_a_directory() -> None:
    with pytest.raises(dn.ArgumentError, match="resume=True needs the directory"):
        fit(network(), None, resume=True)
    for every in ("60s", 5, "soon"):
        with pytest.raises(dn.ArgumentError, match=f"every={every!r} needs the directory"):
            network().fit(*data(), every=every)


def test_a_file_in_place_of_the_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(dn.CheckpointError, match="file cannot be used"):
        fit(network(), tmp_path / "file")


# --- damaged files ----------------------------------------------------------------------------------------------------


def test_training_resumes_from_the_latest_intact_checkpoint(saved_run: Path, caplog: pytest.LogCaptureFixture) -> None:
    uninterrupted, resumed = network(), network()
    expected = outcome(uninterrupted, fit(uninterrupted))
    latest, second, _ = list_checkpoints(saved_run)
    latest.write_bytes(latest.read_bytes()[:-100])
    content = bytearray(second.read_bytes())
    content[-50] ^= 1
    second.write_bytes(content)
    assert outcome(resumed, fit(resumed, saved_run, resume=True)) == expected
    assert "skipped" in caplog.text
    assert "truncated" in caplog.text
    assert "was altered after it was written: the digest of" in caplog.text


def test_the_error_gives_the_reasons_if_no_checkpoint_is_intact(saved_run: Path) -> None:
    for path in list_checkpoints(saved_run):
        path.write_bytes(path.read_bytes()[:1000])
    net = network()
    before = net.flat()
    with pytest.raises(dn.CheckpointError, match=r"no file is intact: .*step-000000040.*step-000000020"):
        fit(net, saved_run, resume=True)
    np.testing.assert_array_equal(net.flat(), before)


@pytest.mark.slow
def test_a_flipped_bit_or_a_truncation_anywhere_is_detected(saved_run: Path) -> None:
    latest, *others = list_checkpoints(saved_run)
    for path in others:
        path.unlink()
    content = latest.read_bytes()
    rng = np.random.default_rng(0)
    for offset in rng.choice(len(content), 150, replace=False):
        damaged = bytearray(content)
        damaged[offset] ^= 1 << rng.integers(8)
        latest.write_bytes(damaged)
        with pytest.raises(dn.CheckpointError):
            fit(network(), saved_run, resume=True)
    for length in rng.choice(len(content), 50, replace=False):
        latest.write_bytes(content[:length])
        with pytest.raises(dn.CheckpointError):
            fit(network(), saved_run, resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("step"), "is invalid"),
        (lambda t: t.update(step=-1), "is invalid .*step=-1"),
        (lambda t: t.update(epoch="2"), "is invalid .*epoch='2'"),
        (lambda t: t.update(epoch=9), "is invalid .*step=40 does not match epoch=9"),
        (lambda t: t.update(epoch=9, step=90), r"training.history.loss has shape \(4,\), wanted \(9,\)"),
        (lambda t: t.update(step=2**63 - 2), "is invalid .*step=9223372036854775806"),
        (lambda t: t.update(generator={"bit_generator": "os.system"}), "is invalid"),
        (lambda t: t.update(best_epoch=-1), "is invalid .*best_epoch=-1"),
        (lambda t: t.update(done=10**9), "is invalid .*done=1000000000"),
        (lambda t: t.update(rate=[1]), "is invalid .*rate="),
        (lambda t: t["schedule"].update(waited="a"), "is invalid .*waited"),
        (lambda t: t["schedule"].update(best=None), "is invalid .*best"),
        (lambda t: t["schedule"].update(unknown=1), "is invalid .*unknown"),
        (lambda t: t.update(schedule=[]), "is invalid"),
        (lambda t: t.update(sums=[1]), "is invalid"),
        (lambda t: t.update(memories=7), "is invalid"),
        (lambda t: t.update(settings=[]), "is invalid"),
        (lambda t: t.update(versions=7), "is invalid"),
        (lambda t: t.update(versions={"numpy": [7]}), "is invalid .*versions"),
    ],
)
def test_a_checkpoint_with_an_invalid_training_state_is_refused(saved_run: Path, change: Any, message: str) -> None:
    latest, *others = list_checkpoints(saved_run)
    for path in others:
        path.unlink()
    rewrite(latest, change)
    with pytest.raises(dn.CheckpointError, match=f"no file is intact: .*{message}"):
        fit(network(), saved_run, resume=True)
