"""The contents of checkpoints: the size of the header, the memory of callbacks, older formats."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import pytest
from checkpoint_directories import SIMPLE, memory_folder
from checkpointed import data, fit, network

import deepnotes as dn
from deepnotes.network.formats import containers, model_files
from deepnotes.network.training.checkpoints import list_checkpoints


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    """Yield the path of a checkpoint directory that does not exist yet."""
    with memory_folder(tmp_path) as folder:
        yield folder / "run"


def test_the_header_does_not_grow_with_the_number_of_epochs(tmp_path: Path) -> None:
    class LossRecorder(dn.Callback):
        losses: list[float]

        def on_start(self, training: Any) -> None:
            self.losses = []

        def on_epoch(self, training: Any) -> None:
            self.losses.append(training.loss)

        def memory(self) -> dict[str, Any]:
            return {"losses": self.losses}

        def remember(self, memory: Any) -> None:
            self.losses = list(memory["losses"])

    X, y = data()
    lengths = []
    for epochs in (10, 3000):
        net, callback = dn.Network([dn.Dense(3, "softmax")], 4, seed=0, backend="numpy"), LossRecorder()
        settings: dict[str, Any] = {"batch_size": 99, "metrics": "accuracy", "callbacks": [callback]}
        run = tmp_path / str(epochs)
        history = net.fit(X[:, :9], y[:9], epochs=epochs, checkpoint=run, **settings)
        path = list_checkpoints(run)[0]
        lengths.append(len(json.dumps(hostile.header_of(path.read_bytes()))))
        resumed = net.fit(X[:, :9], y[:9], epochs=epochs, checkpoint=run, resume=True, **settings)
        assert resumed == history
        assert callback.losses == history.loss
    assert lengths[0] == lengths[1]


def test_a_header_that_is_too_long_is_refused_before_training(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "HEADER_LIMIT", containers.RESERVE + 18_000)
    net = network()
    fit(net, run / "short", 1)
    net.metadata = {"features": [f'feature "{i}"' for i in range(900)]}
    before = net.flat()
    with pytest.raises(dn.CheckpointError, match=r"this training run cannot be saved: .*wanted at most 9,000"):
        fit(net, run / "long", 1)
    np.testing.assert_array_equal(net.flat(), before)
    assert not list((run / "long").iterdir())


def test_the_command_line_checks_the_header_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from deepnotes.cli import main

    monkeypatch.setattr(containers, "HEADER_LIMIT", containers.RESERVE + 3000)
    monkeypatch.setattr(dn.Network, "fit", lambda *_, **__: pytest.fail("the network was trained"))
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
def test_a_header_that_passes_the_check_can_be_written_and_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The check before training may refuse a header that would barely fit, but never accepts one that is too long."""
    monkeypatch.setattr(containers, "HEADER_LIMIT", containers.RESERVE + 30_000)
    net = dn.Network([dn.Dense(1)], 1, seed=0, backend="numpy")
    path = tmp_path / "m.safetensors"
    results = []
    for count in range(1, 200_000 // len(json.dumps(json.dumps(name))), 97):
        net.metadata = {"features": [name] * count}
        try:
            model_files.check(net)
            results.append("accepted")
        except dn.ModelFileError:
            results.append("refused, but fits")
        try:
            net.save(path)
        except dn.ModelFileError:
            assert results[-1] != "accepted"
            results[-1] = "too long"
        else:
            assert dn.load(path, backend="numpy").metadata == net.metadata
    assert set(results) == {"accepted", "refused, but fits", "too long"}


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "uint16", "int32", "uint64", "float16", ">f8", ">i4"])
def test_arrays_in_the_memory_of_a_callback_are_restored(run: Path, dtype: str) -> None:
    class ArrayMemory(dn.Callback):
        def __init__(self) -> None:
            self.scalar, self.transposed = np.array(3).astype(dtype), np.arange(6).reshape(2, 3).T.astype(dtype)
            self.number = np.float32(0.5)

        def memory(self) -> dict[str, Any]:
            return {
                "scalar": self.scalar,
                "transposed": self.transposed,
                "number": self.number,
                "odd\nname": self.scalar,
            }

        def remember(self, memory: Any) -> None:
            self.restored = memory

    fit(network(), run, 1, callbacks=[ArrayMemory()])
    resumed = ArrayMemory()
    fit(network(), run, 2, callbacks=[resumed], resume=True)
    for name in ("scalar", "transposed", "odd\nname"):
        expected = resumed.memory()[name]
        assert resumed.restored[name].shape == expected.shape
        assert resumed.restored[name].dtype == expected.dtype.newbyteorder("=")
        np.testing.assert_array_equal(resumed.restored[name], expected)
    assert resumed.restored["number"] == 0.5


@pytest.mark.parametrize("value", [{1, 2}, object(), np.array([object()]), np.array(["a"]), 1j, [np.zeros(2)]])
def test_a_memory_that_cannot_be_saved_is_refused(run: Path, value: Any) -> None:
    class InvalidMemory(dn.Callback):
        def memory(self) -> dict[str, Any]:
            return {"content": value}

    net = network()
    with pytest.raises(
        dn.CheckpointError, match=r"InvalidMemory.memory\(\) has .* as 'content', wanted .*after update 10"
    ):
        fit(net, run, every=1, callbacks=[InvalidMemory()])


def test_a_checkpoint_in_an_older_format_is_refused(run: Path) -> None:
    fit(network(), run, 1)
    path = list_checkpoints(run)[0]
    content = path.read_bytes()
    path.write_bytes(hostile.sealed(hostile.header_of(content) | {"training": "{}"}, hostile.tensors(content)))
    with pytest.raises(dn.CheckpointError, match="another version of deepnotes and cannot be resumed"):
        fit(network(), run, resume=True)
    assert dn.load(path, backend="numpy").inputs == 4


def test_the_error_names_a_callback_whose_memory_is_none(run: Path) -> None:
    class ReturnsNone(dn.Callback):
        def memory(self) -> Any:
            return None

    with pytest.raises(dn.CheckpointError, match=r"ReturnsNone.memory\(\) returned None, wanted a dict"):
        fit(network(), callbacks=[dn.Checkpoints(run, every=1), ReturnsNone()], **SIMPLE)
