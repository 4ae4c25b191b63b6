"""The event files written by the TensorBoard callback."""

import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepnotes as dn

REASON = "reading event files needs deepnotes[tensorboard]"
RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 60))
Y = (X[0] > 0).astype(np.int64)


def network() -> dn.Network:
    return dn.Network([dn.Dense(5, "tanh"), dn.Dense(2, "softmax")], inputs=4, seed=0)


def events(directory: Path) -> Iterator[Any]:
    """Yield the events in the files of a directory, sorted by file name, as TensorBoard reads them.

    A file is a sequence of records: a length (8 bytes), its checksum (4 bytes), an event, and its checksum (4 bytes).
    """
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2", reason=REASON)
    for path in sorted(directory.iterdir()):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            yield event_pb2.Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]


def scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the scalars in a directory: for each tag, a list of (step, value) pairs."""
    by_tag: dict[str, list[tuple[int, float]]] = {}
    for event in events(directory):
        for value in event.summary.value:
            if not value.HasField("histo"):
                by_tag.setdefault(value.tag, []).append((event.step, value.simple_value))
    return by_tag


def histograms(directory: Path) -> dict[str, list[tuple[int, Any]]]:
    """Return the histograms in a directory: for each tag, a list of (step, histogram) pairs."""
    by_tag: dict[str, list[tuple[int, Any]]] = {}
    for event in events(directory):
        for value in event.summary.value:
            if value.HasField("histo"):
                by_tag.setdefault(value.tag, []).append((event.step, value.histo))
    return by_tag


def with_epochs(values: list[float]) -> list[tuple[int, float]]:
    """Return (epoch, value) pairs, with values rounded to float32 as in event files."""
    return [(epoch, float(np.float32(value))) for epoch, value in enumerate(values, start=1)]


@pytest.fixture(autouse=True)
def _require_writer() -> None:
    pytest.importorskip("tensorboardX", reason="writing for TensorBoard needs deepnotes[tensorboard]")


def test_all_values_of_a_history_are_written(tmp_path: Path) -> None:
    board = dn.TensorBoard(tmp_path / "new" / "run")
    rate = dn.StepDecay(0.1, every=4)
    history = network().fit(
        X, Y, optimizer=dn.SGD(rate), epochs=5, validation=(X, Y), metrics=["accuracy"], callbacks=[board]
    )
    training, validation = (scalars(tmp_path / "new" / "run" / name) for name in ("training", "validation"))
    assert training == {
        "loss": with_epochs(history.loss),
        "learning_rate": with_epochs(history.learning_rate),
        "seconds": with_epochs(history.seconds),
    }
    accuracy = with_epochs(history.metrics["val_accuracy"])
    assert validation == {"loss": with_epochs(history.val_loss), "accuracy": accuracy}
    assert len(set(history.learning_rate)) > 1
    assert not histograms(tmp_path / "new" / "run" / "training")


def test_without_validation_data_the_metrics_are_written_under_training(tmp_path: Path) -> None:
    history = network().fit(X, Y, epochs=2, metrics=["accuracy"], callbacks=[dn.TensorBoard(str(tmp_path))])
    assert scalars(tmp_path / "training")["accuracy"] == with_epochs(history.metrics["accuracy"])
    assert not (tmp_path / "validation").exists()


def test_histograms_show_the_parameters_after_an_epoch(tmp_path: Path) -> None:
    net, parameters = network(), {}

    class ParameterRecorder(dn.Callback):
        def on_epoch(self, training: Any) -> None:
            parameters[training.epoch] = {name: np.array(value) for name, value in net.parameters.items()}

    net.fit(X, Y, epochs=5, callbacks=[dn.TensorBoard(tmp_path, histograms=2), ParameterRecorder()])
    by_name = histograms(tmp_path / "training")
    assert by_name.keys() == {"W1", "b1", "W2", "b2"}
    for name, by_epoch in by_name.items():
        assert [epoch for epoch, _ in by_epoch] == [2, 4]
        for epoch, histogram in by_epoch:
            values = parameters[epoch][name].astype(np.float64)
            assert histogram.num == sum(histogram.bucket) == values.size
            assert (histogram.min, histogram.max) == (values.min(), values.max())
            assert histogram.sum == pytest.approx(values.sum(), rel=1e-12)


def test_parameters_that_are_all_equal_have_a_histogram(tmp_path: Path) -> None:
    net = dn.Network([dn.Dense(2, "softmax", "zeros")], inputs=4, seed=0)
    net.fit(np.zeros((4, 4)), [0, 1, 0, 1], epochs=1, batch_size=4, callbacks=[dn.TensorBoard(tmp_path, histograms=1)])
    ((step, histogram),) = histograms(tmp_path / "training")["W1"]
    assert (step, histogram.num, histogram.min, histogram.max) == (1, 8, 0, 0)


def test_resumed_training_continues_the_curves(tmp_path: Path) -> None:
    settings = {"checkpoint": tmp_path / "run", "every": 2, "shuffle": False}
    network().fit(X, Y, epochs=4, callbacks=[dn.TensorBoard(tmp_path / "board")], **settings)
    net = dn.load(next((tmp_path / "run").glob("*.safetensors")))
    history = net.fit(X, Y, epochs=6, resume=True, callbacks=[dn.TensorBoard(tmp_path / "board")], **settings)
    assert scalars(tmp_path / "board" / "training")["loss"] == with_epochs(history.loss)
    starts = [event.step for event in events(tmp_path / "board" / "training") if event.HasField("session_log")]
    assert starts == [1, 5]  # from these epochs on, TensorBoard discards events written before


def test_one_callback_can_be_used_for_several_training_runs(tmp_path: Path) -> None:
    board = dn.TensorBoard(tmp_path)
    for _ in range(2):
        network().fit(X, Y, epochs=2, callbacks=[board])
    assert [step for step, _ in scalars(tmp_path / "training")["loss"]] == [1, 2, 1, 2]


def test_interrupted_training_leaves_complete_files(tmp_path: Path) -> None:
    class Stop(dn.Callback):
        def on_epoch(self, training: Any) -> None:
            if training.epoch == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        network().fit(X, Y, epochs=5, callbacks=[dn.TensorBoard(tmp_path), Stop()])
    assert [step for step, _ in scalars(tmp_path / "training")["loss"]] == [1, 2, 3]


@pytest.mark.skipif(sys.platform == "win32", reason="uses the POSIX limit of file sizes")
def test_a_full_disk_ends_the_curves_but_not_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        history = network().fit(X, Y, epochs=50, callbacks=[dn.TensorBoard(tmp_path)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(history.loss) == 50
    (message,) = [
        record.getMessage() for record in caplog.records if "TensorBoard" in record.name or "cannot" in record.msg
    ]
    assert message == f"cannot write to {tmp_path}: File too large; training continues without TensorBoard"


def test_tensorboard_reads_the_files(tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="TensorBoard itself is not installed"
    )
    history = network().fit(X, Y, epochs=3, callbacks=[dn.TensorBoard(tmp_path, histograms=1)])
    run = event_accumulator.EventAccumulator(str(tmp_path / "training"), size_guidance={"histograms": 0})
    run.Reload()
    assert [(event.step, event.value) for event in run.Scalars("loss")] == with_epochs(history.loss)
    assert len(run.Histograms("W1")) == 3


@pytest.mark.parametrize(
    ("value", "message"), [(-1, "histograms=-1, wanted a whole"), (1.5, "histograms=1.5"), (True, "True")]
)
def test_invalid_arguments_are_refused(value: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(dn.ArgumentError, match=message):
        dn.TensorBoard(tmp_path, histograms=value)
    with pytest.raises(dn.ArgumentError, match="path=3, wanted a path"):
        dn.TensorBoard(3)


def test_a_directory_that_cannot_be_created_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    net = network()
    before = net.flat()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(dn.DeepnotesError, match=r"cannot write to .*file"):
            net.fit(X, Y, callbacks=[dn.TensorBoard(path)])
    assert np.array_equal(net.flat(), before)


def test_without_tensorboardx_the_error_shows_the_install_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(dn.MissingExtraError, match=r'pip install "deepnotes\[tensorboard\]"'):
        network().fit(X, Y, callbacks=[dn.TensorBoard(tmp_path)])
