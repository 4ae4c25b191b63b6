"""If a callback or schedule fails, the other callbacks are still called, and training can be resumed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_directories import memory_folder
from checkpointed import data, fit, network, outcome

import deepnotes as dn
from deepnotes.network.training.checkpoints import list_checkpoints


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    """Yield the path of a checkpoint directory that does not exist yet."""
    with memory_folder(tmp_path) as folder:
        yield folder / "run"


class Recorder(dn.Callback):
    """A callback that records the numbers of epochs and updates, and stores them in checkpoints."""

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


class FailingRecorder(Recorder):
    """A recorder that fails once in the method `method_name`, before it records or, with `record_first`, after it."""

    def __init__(
        self, name: str, method_name: str = "", record_first: bool = False, error: type[BaseException] = RuntimeError
    ) -> None:
        super().__init__(name)
        self.failing_method, self.record_first, self.error = method_name, record_first, error

    def fingerprint(self) -> str:
        return self.name

    def on_chunk(self, training: Any) -> None:
        self._call(super().on_chunk, training, self.failing_method == "on_chunk" and training.step == 34)

    def on_epoch(self, training: Any) -> None:
        self._call(super().on_epoch, training, self.failing_method == "on_epoch" and training.epoch == 4)

    def _call(self, method: Any, training: Any, fails: bool) -> None:
        if fails and not self.record_first:
            raise self.error("stopped")
        method(training)
        if fails:
            raise self.error("stopped")


class FailOnce(dn.Callback):
    """A callback without memory that fails once in the method `method_name`; `record_first` is ignored."""

    def __init__(
        self, name: str, method_name: str = "", record_first: bool = False, error: type[BaseException] = RuntimeError
    ) -> None:
        self.failing_method, self.error = method_name, error

    def on_chunk(self, training: Any) -> None:
        if self.failing_method == "on_chunk" and training.step == 34:
            raise self.error("stopped")

    def on_epoch(self, training: Any) -> None:
        if self.failing_method == "on_epoch" and training.epoch == 4:
            raise self.error("stopped")


@pytest.mark.thinned(9)
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, pytest.param(SystemExit, marks=pytest.mark.slow)])
@pytest.mark.parametrize("every", [1, "0.000000001s", pytest.param("1h", marks=pytest.mark.slow)])
@pytest.mark.parametrize("record_first", [False, True])
@pytest.mark.parametrize("method_name", ["on_chunk", "on_epoch"])
@pytest.mark.parametrize("kind", [FailingRecorder, FailOnce])
def test_the_other_callbacks_miss_no_call_when_one_fails(
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: Any,
    method_name: str,
    record_first: bool,
    every: Any,
    error: type[BaseException],
) -> None:
    monkeypatch.setattr("deepnotes.network.training.loop.CHUNK_SECONDS", 1e-9)  # one update per chunk

    def train(directory: Path | None, *failure: Any, **options: Any) -> list[Any]:
        callbacks = [Recorder("before"), kind("failing", *failure), Recorder("after")]
        net = network()
        history = fit(net, directory, 6, callbacks=callbacks, **options)
        return [outcome(net, history), *(vars(c) for c in callbacks if type(c) is not FailOnce)]

    uninterrupted = train(None)
    with pytest.raises(error, match="stopped"):
        train(run, method_name, record_first, error, every=every)
    if kind is FailOnce and error is RuntimeError:  # all callbacks with a memory have finished the chunk or epoch
        assert list_checkpoints(run)[0].name == f"step-{40 if method_name == 'on_epoch' else 34:09d}.safetensors"
    resumed = train(run, every=every, resume=True)
    assert resumed[0] == uninterrupted[0]
    for recorder, expected in zip(resumed[1:], uninterrupted[1:], strict=True):
        assert recorder["epochs"] == expected["epochs"] == [1, 2, 3, 4, 5, 6]
        assert recorder["updates"] == expected["updates"] == list(range(1, 61))


def test_the_errors_of_several_callbacks_are_all_reported() -> None:
    class FailingCallback(dn.Callback):
        def __init__(self, message: str) -> None:
            self.message = message

        def on_epoch(self, training: Any) -> None:
            raise RuntimeError(self.message)

    with pytest.raises(RuntimeError, match="first") as error:
        fit(network(), callbacks=[FailingCallback("first"), FailingCallback("second")])
    assert "second" in error.value.__notes__[0]


def test_no_update_is_lost_when_a_schedule_fails_between_epochs(run: Path) -> None:
    class FailingPlateau(dn.ReduceOnPlateau):
        epochs_before_failure = 99

        def observe(self, plateau: Any, value: float) -> Any:
            type(self).epochs_before_failure -= 1
            if type(self).epochs_before_failure == 0:
                raise RuntimeError("stopped")
            return super().observe(plateau, value)

        def fingerprint(self) -> list[Any]:
            return [self.learning_rate]

    uninterrupted, resumed = network(), network()
    expected = outcome(uninterrupted, fit(uninterrupted, optimizer=dn.Adam(FailingPlateau(0.02))))
    FailingPlateau.epochs_before_failure = 3
    with pytest.raises(RuntimeError, match="stopped"):
        fit(network(), run, optimizer=dn.Adam(FailingPlateau(0.02)))
    assert list_checkpoints(run)[0].name == "step-000000030.safetensors"
    assert outcome(resumed, fit(resumed, run, optimizer=dn.Adam(FailingPlateau(0.02)), resume=True)) == expected


class CallLog(dn.Callback):
    """A callback that appends each call of its methods to `calls`, and fails in the methods named in `failures`."""

    def __init__(self, name: str, calls: list[str], *failures: str) -> None:
        self.name, self.calls, self.failures = name, calls, failures

    def _log(self, event: str) -> None:
        self.calls.append(f"{self.name}.{event}")
        if event in self.failures:
            raise RuntimeError(f"{self.name}.{event}")

    def on_start(self, training: Any) -> None:
        self._log("start")

    def on_ready(self, training: Any) -> None:
        self._log("ready")

    def on_end(self, training: Any) -> None:
        self._log("end")


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        ("start", "a.start b.start a.end"),
        ("ready", "a.start b.start c.start c.ready b.ready c.end b.end a.end"),
        ("end", "a.start b.start c.start c.ready b.ready a.ready c.end b.end a.end"),
    ],
)
def test_started_callbacks_are_ended_after_a_failure(failure: str, expected: str) -> None:
    calls: list[str] = []
    callbacks = [CallLog("a", calls), CallLog("b", calls, failure), CallLog("c", calls)]
    with pytest.raises(RuntimeError, match=f"b.{failure}"):
        fit(network(), None, 1, callbacks=callbacks)
    assert calls == expected.split()


def test_estimators_end_callbacks_that_were_started() -> None:
    pytest.importorskip("sklearn")
    calls: list[str] = []
    X, y = data()
    for failure in ("start", "ready"):
        model = dn.DenseClassifier(max_iter=1, callbacks=[CallLog("a", calls), CallLog("b", calls, failure)])
        with pytest.raises(RuntimeError, match=f"b.{failure}"):
            model.fit(X.T, y)
    assert calls == ["a.start", "b.start", "a.end", "a.start", "b.start", "b.ready", "b.end", "a.end"]


def test_an_error_in_on_ready_leaves_the_checkpoints_unchanged(run: Path) -> None:
    fit(network(), run, 2)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(RuntimeError, match=r"a\.ready"):
        fit(network(), run, callbacks=[CallLog("a", [], "ready")], resume=True)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    net = network()
    parameters = net.flat()
    with pytest.raises(RuntimeError, match=r"a\.ready"):
        fit(net, run.with_name("new"), callbacks=[CallLog("a", [], "ready")])
    np.testing.assert_array_equal(net.flat(), parameters)
    assert not list(run.with_name("new").iterdir())


def test_a_callback_that_fails_to_restore_its_memory_leaves_the_network_unchanged(run: Path) -> None:
    class FailToRestore(dn.Callback):
        def memory(self) -> dict[str, Any]:
            return {"x": 1}

        def remember(self, memory: Any) -> None:
            raise ValueError("no")

    fit(network(), run, 3, callbacks=[FailToRestore()])
    net = network()
    before = net.flat()
    with pytest.raises(dn.ModelFileError, match="the memory of a callback is invalid"):
        fit(net, run, callbacks=[FailToRestore()], resume=True)
    np.testing.assert_array_equal(net.flat(), before)
