"""Output streams: if stdout cannot be written completely, the exit status says so; errors of stderr are ignored."""

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.cli import main
from deepnotes.cli.arguments import COMMANDS
from deepnotes.datasets.tables import write_table
from deepnotes.utils.streams import BestEffort, write_all

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX file descriptors")

COMMAND = [sys.executable, "-m", "deepnotes"]
TRAIN = ["train", "rows.csv", "--target", "kind", "--epochs", "2", "--layers", "4", "-o", "new.safetensors"]
NO_FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with data, a model and a Python file with the exported model."""
    folder = tmp_path_factory.mktemp("streams")
    x, y = np.random.default_rng(1).normal(size=(2, 3000))
    write_table(folder / "rows.csv", ["x", "y", "kind"], [x, y, np.where(x > 0, "up", "down")])
    model = str(folder / "model.safetensors")
    words = ["--target", "kind", "--epochs", "1", "--layers", "4", "--quiet", "--backend", "numpy", "-o", model]
    assert main(["train", str(folder / "rows.csv"), *words]) == 0
    dn.load(model).to_python(folder / "model.py")
    return folder


@pytest.fixture
def folder(shared_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in the shared folder."""
    monkeypatch.chdir(shared_folder)
    monkeypatch.setenv("DEEPNOTES_BACKEND", "numpy")
    (shared_folder / "new.safetensors").unlink(missing_ok=True)
    return shared_folder


def run(words: list[str], unbuffered: bool = False, **streams: Any) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    if unbuffered:
        environment["PYTHONUNBUFFERED"] = "1"
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    return subprocess.run(words, env=environment, text=True, check=False, timeout=120, **streams)


def closing(*descriptors: int) -> Callable[[], None]:
    """Return a function for `preexec_fn` that closes descriptors, as ``>&-`` does."""

    def close() -> None:
        for descriptor in descriptors:
            os.close(descriptor)

    return close


def limiting_file_size(size: int) -> Callable[[], None]:
    """Return a function for `preexec_fn` that limits files to a number of bytes, which acts like a full disk."""
    import resource

    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


PREDICT = ["predict", "model.safetensors", "rows.csv", "--json"]
WRITING = [["--help"], PREDICT, TRAIN]
"""Commands that write to stdout."""
WRITING_SLOW = [
    ["--version"],
    *([command, "--help"] for command in COMMANDS),
    ["backends"],
    ["backends", "--json"],
    ["predict", "model.safetensors", "rows.csv"],
    ["evaluate", "model.safetensors", "rows.csv"],
    ["evaluate", "model.safetensors", "rows.csv", "--json"],
    ["export", "model.safetensors", "--python", "again.py"],
    ["warmup", "--backend", "numpy"],
    ["conformance", "--backend", "numpy", "--check", "equations.relu", "--quick"],
]


@NO_FULL
@pytest.mark.parametrize(
    "words", [*WRITING, *(pytest.param(words, marks=pytest.mark.slow) for words in WRITING_SLOW)], ids=" ".join
)
def test_a_full_stdout_is_an_error(folder: Path, words: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = run([*COMMAND, *words], unbuffered=len(words) % 2 == 0, stdout=full)
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1] == "deepnotes: error: cannot write to stdout: No space left on device"


@pytest.mark.parametrize("words", [["--help"], ["predict", "model.safetensors", "rows.csv", "--json"]], ids=" ".join)
def test_a_closed_stdout_is_an_error(folder: Path, words: list[str]) -> None:
    done = run([*COMMAND, *words], stdout=None, preexec_fn=closing(1))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "deepnotes: error: cannot write to stdout: it is closed"


@pytest.mark.slow
@pytest.mark.parametrize("unbuffered", [False, True])
@pytest.mark.parametrize(
    "words", [["train", "--help"], PREDICT[:-1], PREDICT, ["evaluate", *PREDICT[1:-1]]], ids=" ".join
)
def test_a_pipe_without_a_reader_ends_a_command_silently(folder: Path, words: list[str], unbuffered: bool) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = run([*COMMAND, *words], unbuffered, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.slow
@pytest.mark.parametrize("unbuffered", [False, True])
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_reader_that_stops_early_ends_a_command_silently(folder: Path, options: list[str], unbuffered: bool) -> None:
    """The reader stops as ``head -c 20`` does; the buffer of the pipe is smaller than the rest of the output."""
    reader, writer = os.pipe()
    words = [*COMMAND, "predict", "model.safetensors", "rows.csv", *options]
    environment = os.environ | ({"PYTHONUNBUFFERED": "1"} if unbuffered else {})
    with subprocess.Popen(words, stdout=writer, stderr=subprocess.PIPE, env=environment, text=True) as process:
        os.close(writer)
        os.read(reader, 20)
        os.close(reader)
        _, message = process.communicate(timeout=120)
    assert (process.returncode, message) == (141, "")


@pytest.mark.slow
@pytest.mark.parametrize("unbuffered", [False, True])
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_disk_that_fills_up_during_a_write_is_an_error(folder: Path, options: list[str], unbuffered: bool) -> None:
    words = [*COMMAND, "predict", "model.safetensors", "rows.csv", *options]
    with open("output", "w") as file:
        done = run(words, unbuffered, stdout=file, preexec_fn=limiting_file_size(20_000))
    assert (done.returncode, done.stderr) == (1, "deepnotes: error: cannot write to stdout: File too large\n")
    with open("output", "w") as file:
        assert run(words, unbuffered, stdout=file).returncode == 0
    text = Path("output").read_text()
    rows = json.loads(text)["predictions"]["prediction"] if options else text.splitlines()[1:]
    assert len(rows) == 3000


@pytest.mark.slow
def test_a_training_with_a_closed_stdout_writes_the_model_and_then_fails(folder: Path) -> None:
    for stream in ({"stdout": None, "preexec_fn": closing(1)}, {"stdout": None, "preexec_fn": closing(0, 1, 2)}):
        assert run([*COMMAND, *TRAIN], **stream).returncode == 1
        dn.load("new.safetensors")  # a valid file: it did not get the descriptor of stdout
        os.unlink("new.safetensors")


@pytest.mark.slow
@NO_FULL
def test_a_full_or_closed_stderr_changes_nothing(folder: Path) -> None:
    normal = run([*COMMAND, *TRAIN, "--json"])
    with open("/dev/full", "w") as full:
        for stream in ({"stderr": full}, {"stderr": None, "preexec_fn": closing(2)}):
            os.unlink("new.safetensors")
            done = run([*COMMAND, *TRAIN, "--json"], **stream)
            assert done.returncode == 0
            actual, expected = json.loads(done.stdout), json.loads(normal.stdout)
            assert actual["history"]["val_loss"] == expected["history"]["val_loss"]
            dn.load("new.safetensors")
        for words, status in ((["train"], 2), (["evaluate", "nowhere", "rows.csv"], 1)):
            assert run([*COMMAND, *words], stderr=full).returncode == status


@NO_FULL
def test_network_fit_with_progress_does_not_need_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    X = np.random.default_rng(0).normal(size=(3, 20))
    before, full = sys.stderr, open("/dev/full", "w", buffering=1)  # noqa: SIM115  # closing it raises an error, too
    try:
        for stream in (None, full):
            sys.stderr = stream
            net = dn.Network([dn.Dense(2, "softmax")], inputs=3, seed=0)
            assert len(net.fit(X, np.arange(20) % 2, epochs=3, progress=True).loss) == 3
    finally:
        sys.stderr = before
        with contextlib.suppress(OSError):
            full.close()
    assert capsys.readouterr().out == ""  # without stderr, rich would write to stdout


# --- exported Python files --------------------------------------------------------------------------------------------


@pytest.mark.slow
@NO_FULL
@pytest.mark.parametrize("unbuffered", [False, True])
@pytest.mark.parametrize("argument", ["--check", "rows.csv"])
def test_an_exported_file_writes_everything_or_fails(folder: Path, argument: str, unbuffered: bool) -> None:
    words = [sys.executable, "model.py", argument]
    with open("/dev/full", "w") as full:
        done = run(words, unbuffered, stdout=full)
        assert (done.returncode, done.stderr) == (1, "error: cannot write to stdout: No space left on device\n")
        assert run([*words[:2], "nowhere.csv"], unbuffered, stderr=full).returncode == 1
    done = run(words, unbuffered, stdout=None, preexec_fn=closing(1))
    assert (done.returncode, done.stderr) == (1, "error: cannot write to stdout: it is closed\n")
    assert run([*words[:2], "nowhere.csv"], unbuffered, stderr=None, preexec_fn=closing(2)).returncode == 1
    reader, writer = os.pipe()
    os.close(reader)
    done = run(words, unbuffered, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


# --- streams ----------------------------------------------------------------------------------------------------------


class PartialWriter(io.RawIOBase):
    """A file that writes at most 7 bytes at a time."""

    def __init__(self) -> None:
        self.content = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.content += bytes(data[:7])
        return min(7, len(data))


def test_partial_writes_are_continued() -> None:
    raw = PartialWriter()
    write_all(io.TextIOWrapper(raw, "utf-8", write_through=True), "ÿ and more than seven bytes")
    assert raw.content.decode() == "ÿ and more than seven bytes"
    raw = PartialWriter()
    kinds = ["a-rose-is-a-rose", "ÿ"]
    write_table(io.TextIOWrapper(raw, "utf-8", write_through=True), ["kind"], [kinds])  # type: ignore[type-var]
    assert raw.content.decode().splitlines() == ["kind", *kinds]


def test_a_full_nonblocking_stream_is_an_error() -> None:
    class Full(PartialWriter):
        def write(self, data: Any) -> None:  # type: ignore[override]
            return None

    with pytest.raises(BlockingIOError):
        write_all(io.TextIOWrapper(Full(), "utf-8", write_through=True), "words")


def test_best_effort_ignores_missing_and_closed_streams() -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (None, closed):
        best_effort = BestEffort(stream)
        assert best_effort.write("words") == 5
        best_effort.flush()
        assert not best_effort.isatty()
