"""Checkpoints where things go wrong: damaged files, directories that vanish, a second process, callbacks that fail."""

import json
import logging
import os
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import pytest
from checkpointed import BATCH, EPOCHS, SAMPLES, data, fit, network, outcome
from watchdog import at_once, python

import deepnotes as dn
from deepnotes.network.formats import containers, model_files
from deepnotes.network.training import checkpoints
from deepnotes.network.training.checkpoints import latest_first
from deepnotes.network.training.locks import HeldError, Lock
from deepnotes.utils.atomic_files import replacing

PER_EPOCH = -(-SAMPLES // BATCH)
WITHOUT = {"early_stopping": None, "metrics": ()}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    """Return a directory that is not there yet, in memory where that can be: a disk is slow to flush."""
    memory = Path("/dev/shm")
    parent = memory if memory.is_dir() and os.access(memory, os.W_OK) else tmp_path
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        yield Path(folder) / "run"


def epochs_in(run: Path) -> list[int]:
    """Return the epochs after which the files in a directory were written, latest first."""
    return [int(path.stem[5:]) // PER_EPOCH for path in latest_first(run)]


def turn_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-60] ^= 4
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def replace_by_a_model(path: Path) -> None:
    network().save(path)


def rename_an_older_one(path: Path) -> None:
    path.write_bytes(latest_first(path.parent)[-1].read_bytes())


class AtEpoch(dn.Callback):
    """Does something after one epoch."""

    def __init__(self, epoch: int, action: Callable[[], object]) -> None:
        self.epoch, self.action = epoch, action

    def on_epoch(self, training: Any) -> None:
        if training.epoch == self.epoch:
            self.action()


def fails() -> None:
    raise RuntimeError("stopped")


# --- which files are kept ---------------------------------------------------------------------------------------------


@pytest.mark.thinned(3)
@pytest.mark.parametrize("damage", [turn_a_bit, cut, empty, replace_by_a_model, rename_an_older_one])
def test_damaged_files_do_not_count_among_those_kept(run: Path, damage: Callable[[Path], None]) -> None:
    straight, resumed = network(), network()
    wanted = outcome(straight, fit(straight, early_stopping=None))
    fit(network(), None, 8, early_stopping=None, callbacks=[dn.Checkpoints(run, 2, keep=4)])
    assert epochs_in(run) == [8, 6, 4, 2]
    for path in latest_first(run)[:3]:
        damage(path)
    with pytest.raises(RuntimeError, match="stopped"):
        fit(network(), run, every=1, early_stopping=None, resume=True, callbacks=[AtEpoch(3, fails)])
    assert epochs_in(run) == [8, 6, 4, 3, 2]  # what was resumed from, and what was just written
    with pytest.raises(RuntimeError, match="stopped"):
        fit(network(), run, every=3, early_stopping=None, resume=True, callbacks=[AtEpoch(4, fails)])
    assert epochs_in(run) == [8, 6, 4, 3, 2]
    assert outcome(resumed, fit(resumed, run, every=1, early_stopping=None, resume=True)) == wanted
    assert epochs_in(run) == [12, 11, 10]


@pytest.mark.parametrize("keep", [2, 3])
def test_files_damaged_during_a_training_do_not_count(run: Path, keep: int) -> None:
    """The good one is older than all the damaged ones, and stays."""

    class Damages(dn.Callback):
        saves = True  # so that it is called after what writes

        def on_epoch(self, training: Any) -> None:
            if training.epoch > 1:
                turn_a_bit(latest_first(run)[0])

    straight, resumed = network(), network()
    fit(network(), None, 6, **WITHOUT, callbacks=[dn.Checkpoints(run, 1, keep=keep), Damages()])
    assert 1 in epochs_in(run)
    history = fit(resumed, run, **WITHOUT, resume=True)
    assert outcome(resumed, history) == outcome(straight, fit(straight, **WITHOUT))


def test_each_file_is_read_back_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not touched since is not read again at each write, unless it was read too soon to tell."""
    reads: list[str] = []
    read = checkpoints._read

    def counted(path: Path, *arguments: Any) -> Any:
        reads.append(path.name)
        return read(path, *arguments)

    monkeypatch.setattr(checkpoints, "_read", counted)
    monkeypatch.setattr(checkpoints, "SOON", -1)  # files age at once
    fit(network(), run, 10, every=1, **WITHOUT)
    assert len(reads) == len(set(reads))
    assert len(reads) > 5


def test_an_error_names_the_latest_whole_file(run: Path) -> None:
    fit(network(), run, 3, every=1, **WITHOUT)
    cut(latest_first(run)[0])
    with pytest.raises(dn.CheckpointError, match=r"has step-000000020\.safetensors of an earlier training"):
        fit(network(), run, **WITHOUT)
    with pytest.raises(dn.CheckpointError, match=r"cannot write .*; the latest checkpoint is .*step-000000020"):
        fit(
            network(), run, every=1, **WITHOUT, resume=True,
            callbacks=[AtEpoch(3, lambda: (run / "step-000000030.safetensors").unlink()),
                       AtEpoch(3, lambda: (run / "step-000000030.safetensors").mkdir())],
        )  # fmt: skip


def test_without_a_whole_file_resume_is_not_recommended(run: Path) -> None:
    fit(network(), run, 1, **WITHOUT)
    cut(latest_first(run)[0])
    with pytest.raises(dn.CheckpointError, match=r"has step-000000010\.safetensors, which is damaged,.*another dir"):
        fit(network(), run, **WITHOUT)


def test_an_old_file_that_cannot_be_deleted_does_not_stop_a_training(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    unlink = Path.unlink

    def refused(path: Path, missing_ok: bool = False) -> None:
        if path.name.startswith("step-"):
            raise PermissionError(1, "Operation not permitted", str(path))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refused)
    history = fit(network(), run, 5, every=1, **WITHOUT)
    assert history.epochs == 5
    assert "cannot delete the old checkpoint" in caplog.text


# --- what grows -------------------------------------------------------------------------------------------------------


def test_the_header_does_not_grow_with_the_training(tmp_path: Path) -> None:
    class Remembers(dn.Callback):
        seen: list[float]

        def on_start(self, training: Any) -> None:
            self.seen = []

        def on_epoch(self, training: Any) -> None:
            self.seen.append(training.loss)

        def memory(self) -> dict[str, Any]:
            return {"seen": self.seen}

        def remember(self, memory: Any) -> None:
            self.seen = list(memory["seen"])

    X, y = data()
    lengths = []
    for epochs in (10, 3000):
        net, callback = dn.Network([dn.Dense(3, "softmax")], 4, seed=0, backend="numpy"), Remembers()
        settings: dict[str, Any] = {"batch_size": 99, "metrics": "accuracy", "callbacks": [callback]}
        run = tmp_path / str(epochs)
        history = net.fit(X[:, :9], y[:9], epochs=epochs, checkpoint=run, **settings)
        path = latest_first(run)[0]
        lengths.append(len(json.dumps(hostile.header_of(path.read_bytes()))))
        again = net.fit(X[:, :9], y[:9], epochs=epochs, checkpoint=run, resume=True, **settings)
        assert again == history
        assert callback.seen == history.loss
    assert lengths[0] == lengths[1]


def test_a_header_that_is_too_long_is_refused_before_training(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "HEADER_LIMIT", containers.RESERVE + 18_000)
    net = network()
    fit(net, run / "short", 1)
    net.metadata = {"features": [f'feature "{i}"' for i in range(900)]}
    before = net.flat()
    with pytest.raises(dn.CheckpointError, match=r"no file of this training could be written: .*wanted at most 9,000"):
        fit(net, run / "long", 1)
    np.testing.assert_array_equal(net.flat(), before)
    assert not list((run / "long").iterdir())


def test_the_command_line_checks_the_header_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from deepnotes.cli import main

    monkeypatch.setattr(containers, "HEADER_LIMIT", containers.RESERVE + 3000)
    monkeypatch.setattr(dn.Network, "fit", lambda *_, **__: pytest.fail("it was trained"))
    path = tmp_path / "wide.csv"
    rows = np.random.default_rng(0).normal(size=(20, 400))
    path.write_text(
        "".join(
            [",".join([*(f"column{i}" for i in range(400)), "y"]), "\n"]
            + [",".join([*map(str, row), str(i % 2)]) + "\n" for i, row in enumerate(rows)]
        )
    )
    assert main(["train", str(path), "--target", "y", "-o", str(tmp_path / "m.safetensors")]) == 1
    assert "names of features and classes" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", 'qu"ote\\', "ünï", "\n", "😀"])
def test_what_passes_the_check_can_be_written_and_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Of names near the limit, those that are too long are refused, and all others come back."""
    monkeypatch.setattr(containers, "HEADER_LIMIT", containers.RESERVE + 30_000)
    net = dn.Network([dn.Dense(1)], 1, seed=0, backend="numpy")
    path = tmp_path / "m.safetensors"
    outcomes = []
    for count in range(1, 200_000 // len(json.dumps(json.dumps(name))), 97):
        net.metadata = {"features": [name] * count}
        try:
            model_files.check(net)
            outcomes.append("passed")
        except dn.ModelFileError:
            outcomes.append("too long to be checked")
        try:
            net.save(path)
        except dn.ModelFileError:
            assert outcomes[-1] != "passed"
            outcomes[-1] = "too long"
        else:
            assert dn.load(path, backend="numpy").metadata == net.metadata
    assert set(outcomes) == {"passed", "too long to be checked", "too long"}


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "uint16", "int32", "uint64", "float16", ">f8", ">i4"])
def test_arrays_that_callbacks_remember_come_back(run: Path, dtype: str) -> None:
    class Remembers(dn.Callback):
        def __init__(self) -> None:
            self.scalar, self.turned = np.array(3).astype(dtype), np.arange(6).reshape(2, 3).T.astype(dtype)
            self.number = np.float32(0.5)

        def memory(self) -> dict[str, Any]:
            return {"scalar": self.scalar, "turned": self.turned, "number": self.number, "odd\nname": self.scalar}

        def remember(self, memory: Any) -> None:
            self.found = memory

    fit(network(), run, 1, callbacks=[Remembers()])
    resumed = Remembers()
    fit(network(), run, 2, callbacks=[resumed], resume=True)
    for name in ("scalar", "turned", "odd\nname"):
        wanted = resumed.memory()[name]
        assert resumed.found[name].shape == wanted.shape
        assert resumed.found[name].dtype == wanted.dtype.newbyteorder("=")
        np.testing.assert_array_equal(resumed.found[name], wanted)
    assert resumed.found["number"] == 0.5


@pytest.mark.parametrize("value", [{1, 2}, object(), np.array([object()]), np.array(["a"]), 1j, [np.zeros(2)]])
def test_what_no_file_can_hold_is_refused_by_name(run: Path, value: Any) -> None:
    class Remembers(dn.Callback):
        def memory(self) -> dict[str, Any]:
            return {"thing": value}

    net = network()
    with pytest.raises(dn.CheckpointError, match=r"Remembers.memory\(\) has .* as 'thing', wanted .*after update 10"):
        fit(net, run, every=1, callbacks=[Remembers()])


def test_a_checkpoint_of_the_first_format_says_so(run: Path) -> None:
    fit(network(), run, 1)
    path = latest_first(run)[0]
    content = path.read_bytes()
    path.write_bytes(hostile.sealed(hostile.header_of(content) | {"training": "{}"}, hostile.tensors(content)))
    with pytest.raises(dn.CheckpointError, match="another version of deepnotes and cannot be resumed"):
        fit(network(), run, resume=True)
    assert dn.load(path, backend="numpy").inputs == 4


# --- callbacks that fail ----------------------------------------------------------------------------------------------


class Follows(dn.Callback):
    """Remembers each epoch and each update that it has seen, and may fail once, before or after it remembers."""

    def __init__(self, name: str) -> None:
        self.name = name

    def on_start(self, training: Any) -> None:
        self.epochs: list[int] = []
        self.updates: list[int] = []

    def on_chunk(self, training: Any) -> None:
        self.updates.append(training.step)

    def on_epoch(self, training: Any) -> None:
        self.epochs.append(training.epoch)

    def memory(self) -> dict[str, Any]:
        return {"epochs": list(self.epochs), "updates": np.array(self.updates)}

    def remember(self, memory: Any) -> None:
        self.epochs, self.updates = list(memory["epochs"]), memory["updates"].tolist()


class Fails(Follows):
    """Fails once: in this moment, before or after it has remembered it."""

    def __init__(self, name: str, moment: str = "", last: bool = False, error: type[BaseException] = RuntimeError):
        super().__init__(name)
        self.failing, self.last, self.error = moment, last, error

    def fingerprint(self) -> str:
        return self.name

    def on_chunk(self, training: Any) -> None:
        self._call(super().on_chunk, training, self.failing == "on_chunk" and training.step == 34)

    def on_epoch(self, training: Any) -> None:
        self._call(super().on_epoch, training, self.failing == "on_epoch" and training.epoch == 4)

    def _call(self, method: Any, training: Any, fails: bool) -> None:
        if fails and not self.last:
            raise self.error("stopped")
        method(training)
        if fails:
            raise self.error("stopped")


class OnlyFails(dn.Callback):
    """Fails once, and remembers nothing."""

    def __init__(self, name: str, moment: str = "", last: bool = False, error: type[BaseException] = RuntimeError):
        self.failing, self.error = moment, error

    def on_chunk(self, training: Any) -> None:
        if self.failing == "on_chunk" and training.step == 34:
            raise self.error("stopped")

    def on_epoch(self, training: Any) -> None:
        if self.failing == "on_epoch" and training.epoch == 4:
            raise self.error("stopped")


@pytest.mark.thinned(9)
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, pytest.param(SystemExit, marks=pytest.mark.slow)])
@pytest.mark.parametrize("every", [1, "0.000000001s", pytest.param("1h", marks=pytest.mark.slow)])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("moment", ["on_chunk", "on_epoch"])
@pytest.mark.parametrize("kind", [Fails, OnlyFails])
def test_callbacks_around_one_that_fails_miss_nothing(
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: Any,
    moment: str,
    last: bool,
    every: Any,
    error: type[BaseException],
) -> None:
    monkeypatch.setattr("deepnotes.network.training.loop.CHUNK_SECONDS", 1e-9)  # one update a chunk

    def train(directory: Path | None, *failing: Any, **more: Any) -> list[Any]:
        callbacks = [Follows("before"), kind("failing", *failing), Follows("behind")]
        net = network()
        history = fit(net, directory, 6, callbacks=callbacks, **more)
        return [outcome(net, history), *(vars(c) for c in callbacks if type(c) is not OnlyFails)]

    straight = train(None)
    with pytest.raises(error, match="stopped"):
        train(run, moment, last, error, every=every)
    if kind is OnlyFails and error is RuntimeError:  # nothing was lost
        assert latest_first(run)[0].name == f"step-{40 if moment == 'on_epoch' else 34:09d}.safetensors"
    resumed = train(run, every=every, resume=True)
    assert resumed[0] == straight[0]
    for found, wanted in zip(resumed[1:], straight[1:], strict=True):
        assert found["epochs"] == wanted["epochs"] == [1, 2, 3, 4, 5, 6]
        assert found["updates"] == wanted["updates"] == list(range(1, 61))


def test_the_errors_of_several_callbacks_are_all_reported() -> None:
    class Breaks(dn.Callback):
        def __init__(self, words: str) -> None:
            self.words = words

        def on_epoch(self, training: Any) -> None:
            raise RuntimeError(self.words)

    with pytest.raises(RuntimeError, match="first") as told:
        fit(network(), callbacks=[Breaks("first"), Breaks("second")])
    assert "second" in told.value.__notes__[0]


def test_a_schedule_that_fails_between_epochs_loses_nothing(run: Path) -> None:
    class Plateau(dn.ReduceOnPlateau):
        left = 99

        def observe(self, plateau: Any, value: float) -> Any:
            type(self).left -= 1
            if type(self).left == 0:
                raise RuntimeError("stopped")
            return super().observe(plateau, value)

        def fingerprint(self) -> list[Any]:
            return [self.learning_rate]

    straight, resumed = network(), network()
    wanted = outcome(straight, fit(straight, optimizer=dn.Adam(Plateau(0.02))))
    Plateau.left = 3
    with pytest.raises(RuntimeError, match="stopped"):
        fit(network(), run, optimizer=dn.Adam(Plateau(0.02)))
    assert latest_first(run)[0].name == "step-000000030.safetensors"
    assert outcome(resumed, fit(resumed, run, optimizer=dn.Adam(Plateau(0.02)), resume=True)) == wanted


class Notes(dn.Callback):
    """Writes down what is called, and fails at some of it."""

    def __init__(self, name: str, seen: list[str], *fails: str) -> None:
        self.name, self.seen, self.fails = name, seen, fails

    def _note(self, moment: str) -> None:
        self.seen.append(f"{self.name}.{moment}")
        if moment in self.fails:
            raise RuntimeError(f"{self.name}.{moment}")

    def on_start(self, training: Any) -> None:
        self._note("start")

    def on_ready(self, training: Any) -> None:
        self._note("ready")

    def on_end(self, training: Any) -> None:
        self._note("end")


@pytest.mark.parametrize(
    ("fails", "seen"),
    [
        ("start", "a.start b.start a.end"),
        ("ready", "a.start b.start c.start c.ready b.ready c.end b.end a.end"),
        ("end", "a.start b.start c.start c.ready b.ready a.ready c.end b.end a.end"),
    ],
)
def test_callbacks_that_were_started_are_ended(fails: str, seen: str) -> None:
    found: list[str] = []
    with pytest.raises(RuntimeError, match=f"b.{fails}"):
        fit(network(), None, 1, callbacks=[Notes("a", found), Notes("b", found, fails), Notes("c", found)])
    assert found == seen.split()


def test_estimators_end_callbacks_that_were_started() -> None:
    pytest.importorskip("sklearn")
    found: list[str] = []
    X, y = data()
    for fails in ("start", "ready"):
        model = dn.DenseClassifier(max_iter=1, callbacks=[Notes("a", found), Notes("b", found, fails)])
        with pytest.raises(RuntimeError, match=f"b.{fails}"):
            model.fit(X.T, y)
    assert found == ["a.start", "b.start", "a.end", "a.start", "b.start", "b.ready", "b.end", "a.end"]


def test_an_error_of_on_ready_leaves_the_checkpoints_as_they_were(run: Path) -> None:
    fit(network(), run, 2)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    net = network()
    start = net.flat()
    with pytest.raises(RuntimeError, match=r"a\.ready"):
        fit(net, run, callbacks=[Notes("a", [], "ready")], resume=True)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    fresh = network()
    with pytest.raises(RuntimeError, match=r"a\.ready"):
        fit(fresh, run.with_name("new"), callbacks=[Notes("a", [], "ready")])
    np.testing.assert_array_equal(fresh.flat(), start)
    assert not list(run.with_name("new").iterdir())


def test_a_callback_that_cannot_remember_leaves_the_network_alone(run: Path) -> None:
    class Remembers(dn.Callback):
        def memory(self) -> dict[str, Any]:
            return {"x": 1}

        def remember(self, memory: Any) -> None:
            raise ValueError("no")

    fit(network(), run, 3, callbacks=[Remembers()])
    net = network()
    before = net.flat()
    with pytest.raises(dn.ModelFileError, match="makes no sense"):
        fit(net, run, callbacks=[Remembers()], resume=True)
    np.testing.assert_array_equal(net.flat(), before)


# --- an end that was asked for ----------------------------------------------------------------------------------------


class Budget(dn.Callback):
    """Stops a run after some chunks or epochs of it."""

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
def test_a_run_that_was_stopped_is_resumed_again_and_again(
    run: Path, monkeypatch: pytest.MonkeyPatch, budget: dict[str, int]
) -> None:
    monkeypatch.setattr("deepnotes.network.training.loop.CHUNK_SECONDS", 1e-9)
    straight = network()
    wanted = outcome(straight, fit(straight, early_stopping=None))
    runs, epochs = 0, 0
    while epochs < EPOCHS:
        net = network()
        history = fit(net, run, early_stopping=None, callbacks=[Budget(**budget)], resume=True)
        assert history.epochs > epochs
        runs, epochs = runs + 1, history.epochs
    assert runs == EPOCHS // budget.get("epochs", 1)
    assert outcome(net, history) == wanted


def test_a_stop_that_was_asked_for_amid_an_epoch_ends_only_the_run_that_was_killed(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepnotes.network.training.loop.CHUNK_SECONDS", 1e-9)
    straight, resumed = network(), network()
    wanted = outcome(straight, fit(straight))

    class Interrupts(dn.Callback):
        def on_chunk(self, training: Any) -> None:
            if training.step == 17:
                assert training.stop
                raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        fit(network(), run, callbacks=[Budget(chunks=14), Interrupts()])
    assert outcome(resumed, fit(resumed, run, resume=True)) == wanted


@pytest.mark.parametrize("end", [None, 5])
def test_early_stopping_ends_a_resumed_training_at_once(run: Path, end: int | None) -> None:
    straight = network()
    early = {"early_stopping": dn.EarlyStopping(2)}
    wanted = outcome(straight, fit(straight, epochs=60, **early))
    assert wanted[-1]["best_epoch"] is not None
    assert len(wanted[-1]["loss"]) < 60
    if end is None:
        fit(network(), run, epochs=60, every=1, **early)
    else:
        fit(network(), run, epochs=end, **early)
    for _ in range(2):
        trained: list[int] = []

        class Sees(dn.Callback):
            def on_chunk(self, training: Any) -> None:
                trained.append(training.step)  # noqa: B023

        net = network()
        assert outcome(net, fit(net, run, epochs=60, callbacks=[Sees()], resume=True, **early)) == wanted
        assert bool(trained) == (end is not None)
        end = None


# --- directories that are not what they were --------------------------------------------------------------------------


def removed(run: Path) -> None:
    for path in run.iterdir():
        path.unlink()
    run.rmdir()


def moved(run: Path) -> None:
    run.rename(run.with_name("moved"))


def a_file(run: Path) -> None:
    moved(run)
    run.write_text("x")


def a_new_directory(run: Path) -> None:
    moved(run)
    run.mkdir()


def a_link_to_another(run: Path) -> None:
    moved(run)
    run.with_name("other").mkdir()
    run.symlink_to(run.with_name("other"))


def a_link_to_nothing(run: Path) -> None:
    moved(run)
    run.symlink_to(run.with_name("nowhere"))


@pytest.mark.parametrize("change", [removed, moved, a_file, a_new_directory, a_link_to_another, a_link_to_nothing])
def test_a_directory_that_is_removed_or_replaced(run: Path, change: Callable[[Path], None]) -> None:
    net = network()
    with pytest.raises(dn.CheckpointError, match=r"run cannot be written to: .*removed or replaced .* after update 30"):
        fit(net, run, every=1, **WITHOUT, callbacks=[AtEpoch(3, lambda: change(run))])
    assert np.isfinite(net.flat()).all()
    other = run.with_name("other")
    assert not other.exists() or not list(other.iterdir())


def test_a_directory_that_is_moved_behind_a_link_is_written_to(run: Path) -> None:
    def move() -> None:
        moved(run)
        run.symlink_to(run.with_name("moved"))

    fit(network(), run, 5, every=1, **WITHOUT, callbacks=[AtEpoch(3, move)])
    assert epochs_in(run) == [5, 4, 3]


@pytest.mark.parametrize("resume", [False, True])
def test_directories_named_as_files_are(run: Path, resume: bool) -> None:
    fit(network(), run, 2, every=1, **WITHOUT) if resume else run.mkdir()
    (run / ".step-000000007.safetensors.0123456789ab.tmp").mkdir()
    (run / "step-9223372036854775806.safetensors").mkdir()
    (run / "step-000000015.safetensors").mkdir()
    (run / ".step-dangling.tmp").symlink_to("nowhere")
    fit(network(), run, 6, every=1, **WITHOUT, resume=resume)
    assert epochs_in(run) == [6, 5, 4]
    assert not (run / ".step-dangling.tmp").is_symlink()


def test_a_file_of_step_2_to_the_63(run: Path) -> None:
    fit(network(), run, 2, every=1, **WITHOUT)
    huge = run / f"step-{2**63 - 2}.safetensors"
    huge.write_bytes(latest_first(run)[0].read_bytes())
    straight, resumed = network(), network()
    history = fit(resumed, run, every=1, **WITHOUT, resume=True)
    assert outcome(resumed, history) == outcome(straight, fit(straight, **WITHOUT))
    assert [path.name for path in latest_first(run)] == [
        huge.name, *(f"step-{epoch * PER_EPOCH:09d}.safetensors" for epoch in (12, 11, 10)),
    ]  # fmt: skip


AS_NOBODY = """
import os
from pathlib import Path
from checkpointed import fit, network
import deepnotes as dn
run = Path({run!r})
fit(network(), run.with_name("first"), 4, every=1)  # so that all is imported
if os.getuid() == 0:
    os.setgid(65534), os.setuid(65534)
class Closes(dn.Callback):
    def on_epoch(self, training):
        if training.epoch == {epoch}:
            run.chmod(0o555)
{before}
try:
    fit(network(), run, 4, every=1, early_stopping=None, callbacks=[Closes()])
except dn.CheckpointError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="modes of POSIX")
@pytest.mark.parametrize(
    ("epoch", "before", "told"),
    [
        (3, "", "cannot write"),
        (9, "run.chmod(0o555)", ".lock cannot be used: Permission denied"),
        (9, "run.chmod(0o000)", "cannot be used: Permission denied"),
    ],
)
def test_permissions_that_change(tmp_path: Path, epoch: int, before: str, told: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        run = Path(folder) / "run"
        run.mkdir()
        if os.getuid() == 0:
            os.chown(run, 65534, 65534)
        printed = python(AS_NOBODY.format(run=str(run), epoch=epoch, before=before), seconds=60)
        run.chmod(0o777)
    assert told in printed
    assert ("the latest checkpoint is" in printed) == (epoch == 3)


# --- one training to a directory --------------------------------------------------------------------------------------

HOLDS = """
import sys, time
from pathlib import Path
from deepnotes.network.training.locks import Lock
lock = Lock(Path({run!r}))
{more}
sys.stdout.write("ready" + chr(10))  # at once, since a fork writes there as well
sys.stdout.flush()
time.sleep(60)
"""
FORKS = "import os\nif os.fork() == 0:\n    sys.stdout.write(f'{os.getpid()}\\n'); sys.stdout.flush(); time.sleep(60)"


def holder(run: Path, more: str = "") -> subprocess.Popen[str]:
    run.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", HOLDS.format(run=str(run), more=more)], stdout=subprocess.PIPE, text=True
    )


def test_a_directory_in_use_is_refused_with_its_owner(run: Path) -> None:
    with holder(run) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            net = network()
            before = net.flat()
            with pytest.raises(
                dn.CheckpointError,
                match=rf"run is in use by another training, .*: process {process.pid} on .*, since \d{{4}}-\d\d-\d\d",
            ):
                fit(net, run)
            np.testing.assert_array_equal(net.flat(), before)
        finally:
            process.kill()
        process.wait(30)
    assert (run / ".lock").exists()  # it was killed, and the file says so; but nobody holds it
    (run / ".lock").write_text(f"process {os.getpid()} on here, since then\n")  # a pid that is used again
    fit(network(), run, 1)
    assert not (run / ".lock").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_fork_neither_holds_nor_keeps_a_lock(run: Path) -> None:
    child = None
    with holder(run, FORKS) as process:
        try:
            assert process.stdout is not None
            lines = {process.stdout.readline() for _ in range(2)}
            (child,) = (int(line) for line in lines if line != "ready\n")
            with pytest.raises(HeldError, match=f"process {process.pid} "):
                Lock(run)
            process.kill()
            process.wait(30)
            os.kill(child, 0)  # it lives
            Lock(run).release()
        finally:
            process.kill()
            if child is not None:
                os.kill(child, 9)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_fork_of_a_training_writes_nothing(tmp_path: Path) -> None:
    script = """
    import os, sys
    from pathlib import Path
    from checkpointed import fit, network
    import deepnotes as dn
    run = Path(sys.argv[1])
    class Forks(dn.Callback):
        def on_epoch(self, training):
            if training.epoch == 3 and os.fork() == 0:
                self.child = True
                raise SystemExit(7)
            if training.epoch == 3:
                assert os.waitstatus_to_exitcode(os.wait()[1]) == 7
                assert sorted(p.name for p in run.iterdir()) == [".lock", "step-000000020.safetensors"]
    fit(network(), run, 4, every=2, early_stopping=None, callbacks=[Forks()])
    """
    import textwrap

    code = f"import sys\nsys.argv[1:] = [{str(tmp_path / 'run')!r}]\n" + textwrap.dedent(script)
    python(code, seconds=60)
    assert epochs_in(tmp_path / "run") == [4, 2]


def test_threads_of_one_process_are_kept_apart(run: Path) -> None:
    started, done = threading.Event(), threading.Event()

    class Waits(dn.Callback):
        def on_epoch(self, training: Any) -> None:
            started.set()
            assert done.wait(30)

    def second() -> None:
        assert started.wait(30)
        try:
            with pytest.raises(dn.CheckpointError, match=f"in use by another training, .*: process {os.getpid()} "):
                fit(network(), run, 1)
        finally:
            done.set()

    at_once([lambda: fit(network(), run, 1, callbacks=[Waits()]), second])
    fit(network(), run, 2, resume=True)


@pytest.mark.parametrize("moment", ["on_start", "on_ready", "on_epoch", "on_end"])
def test_the_lock_is_dropped_whatever_fails(run: Path, moment: str) -> None:
    def fail(self: Any, training: Any) -> None:
        raise RuntimeError("stopped")

    callback = type("Breaks", (dn.Callback,), {moment: fail})()
    with pytest.raises(RuntimeError, match="stopped"):
        fit(network(), run, 1, callbacks=[callback])
    assert not (run / ".lock").exists()
    fit(network(), run, 2, resume=True)


def test_a_lock_that_is_a_directory_or_link(run: Path, tmp_path: Path) -> None:
    run.mkdir()
    (run / ".lock").mkdir()
    with pytest.raises(dn.CheckpointError, match=r"\.lock cannot be used: Is a directory"):
        fit(network(), run)
    (run / ".lock").rmdir()
    (tmp_path / "precious").write_text("precious")
    (run / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(dn.CheckpointError, match=r"\.lock cannot be used"):
        fit(network(), run)
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_file_system_without_locks_is_a_warning(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import errno

    def cannot(descriptor: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("deepnotes.network.training.locks._try_to_lock", cannot)
    with caplog.at_level(logging.WARNING):
        fit(network(), run, 1)
    assert "cannot be locked (No locks available)" in caplog.text
    assert not (run / ".lock").exists()


def test_many_that_lock_in_turn_never_overlap(run: Path) -> None:
    """The file is removed at each release: nobody may hold one that is gone while another holds its successor."""
    run.mkdir()
    inside: list[int] = []

    def work() -> None:
        taken = 0
        while taken < 50:
            try:
                lock = Lock(run)
            except HeldError:
                continue
            inside.append(1)
            assert len(inside) == 1
            inside.pop()
            lock.release()
            taken += 1

    at_once([work] * 4)


# --- modes of files ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="modes of POSIX")
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o444, 0o755])
def test_a_file_that_is_replaced_keeps_its_mode_and_owner(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "model.safetensors"
    network().save(path)
    path.chmod(mode)
    if os.getuid() == 0:
        os.chown(path, 65534, 12345)
    before = path.stat()
    during: list[int] = []
    with replacing(path) as file:
        during += [stat.S_IMODE(p.stat().st_mode) for p in tmp_path.glob("*.tmp")]
        during += [stat.S_IMODE(p.stat().st_mode) for p in tmp_path.glob(".*.tmp")]
        file.write(b"new")
    after = path.stat()
    assert path.read_bytes() == b"new"
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert set(during) == {mode}  # what is secret is so from the start


@pytest.mark.skipif(sys.platform == "win32", reason="modes of POSIX")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_mode_of_the_umask(run: Path, umask: int) -> None:
    usual = os.umask(umask)
    try:
        fit(network(), run, 1)
        network().save(run / "model.safetensors")
    finally:
        os.umask(usual)
    for path in run.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


@pytest.mark.skipif(sys.platform == "win32", reason="modes of POSIX")
def test_an_owner_that_cannot_be_kept_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o4750)
    monkeypatch.setattr("deepnotes.utils.atomic_files.os.chown", refused)
    with replacing(path) as file:
        file.write(b"new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o750


# --- what callbacks do to it ------------------------------------------------------------------------------------------


class Wanders(dn.Callback):
    """Changes the working directory in the second epoch."""

    def __init__(self, to: Path) -> None:
        self.to = to

    def on_epoch(self, training: Any) -> None:
        if training.epoch == 2:
            os.chdir(self.to)


def test_a_directory_is_where_it_was_when_the_training_began(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent)
    fit(network(), callbacks=[dn.Checkpoints("run", every=1), Wanders(tmp_path)], **WITHOUT)
    assert epochs_in(run)[0] == EPOCHS
    assert not list(tmp_path.glob("**/step-*"))


class Forgetful(dn.Callback):
    """Remembers nothing, in a wrong way."""

    def memory(self) -> Any:
        return None


def test_a_memory_that_is_none_names_the_callback(run: Path) -> None:
    with pytest.raises(dn.CheckpointError, match=r"Forgetful.memory\(\) returned None, wanted a dict"):
        fit(network(), callbacks=[dn.Checkpoints(run, every=1), Forgetful()], **WITHOUT)


def test_a_link_to_another_checkpoint_is_replaced_and_not_written_through(run: Path) -> None:
    fit(network(), epochs=2, callbacks=[dn.Checkpoints(run, every=1, keep=9)], **WITHOUT)
    newest = latest_first(run)[0]
    before = newest.read_bytes()
    link = newest.with_name(f"step-{3 * PER_EPOCH:09d}.safetensors")
    link.symlink_to(newest.name)
    fit(network(), epochs=3, callbacks=[dn.Checkpoints(run, every=1, keep=9, resume=True)], **WITHOUT)
    assert newest.read_bytes() == before
    assert not link.is_symlink()


def test_a_metric_that_is_no_number_is_named() -> None:
    def huge(A: Any, Y: Any) -> Any:
        return 10**400

    with pytest.raises(dn.ArgumentError, match="metrics: huge returned 1000"):
        network().evaluate(*data(), metrics=[huge])
