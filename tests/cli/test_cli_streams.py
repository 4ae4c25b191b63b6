"""Output streams: a command fails if it cannot write all of its stdout, and ignores errors on stderr."""

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

DEEPNOTES = [sys.executable, "-m", "deepnotes"]
TRAIN = ["train", "rows.csv", "--target", "kind", "--epochs", "2", "--layers", "4", "-o", "new.safetensors"]
NEEDS_DEV_FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with data, a model, and a Python file to which the model was exported."""
    folder = tmp_path_factory.mktemp("streams")
    for seed, name in enumerate(("train.csv", "rows.csv")):
        x, y = np.random.default_rng(seed).normal(size=(2, 3000))
        write_table(folder / name, ["x", "y", "kind"], [x, y, np.where(x > 0, "up", "down")])
    model = str(folder / "model.safetensors")
    options = ["--target", "kind", "--epochs", "1", "--layers", "4", "--quiet", "--backend", "numpy", "-o", model]
    assert main(["train", str(folder / "train.csv"), *options]) == 0
    dn.load(model).network.to_python(folder / "model.py")
    return folder


@pytest.fixture
def folder(shared_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in the shared folder."""
    monkeypatch.chdir(shared_folder)
    monkeypatch.setenv("DEEPNOTES_BACKEND", "numpy")
    (shared_folder / "new.safetensors").unlink(missing_ok=True)
    return shared_folder


def run(command: list[str], unbuffered: bool = False, **streams: Any) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    if unbuffered:
        environment["PYTHONUNBUFFERED"] = "1"
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    return subprocess.run(command, env=environment, text=True, check=False, timeout=120, **streams)


def close_descriptors(*descriptors: int) -> Callable[[], None]:
    """Return a function for `preexec_fn` that closes descriptors, as ``>&-`` does in a shell."""

    def close() -> None:
        for descriptor in descriptors:
            os.close(descriptor)

    return close


def limit_file_size(size: int) -> Callable[[], None]:
    """Return a function for `preexec_fn` that limits the size of files in bytes, with the effect of a full disk."""
    import resource

    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


PREDICT = ["predict", "model.safetensors", "rows.csv", "--json"]
QUICK_COMMANDS = [["--help"], PREDICT, TRAIN]
"""Commands that write to stdout; those of OTHER_COMMANDS are tested only with the slow tests."""
OTHER_COMMANDS = [
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


@NEEDS_DEV_FULL
@pytest.mark.parametrize(
    "command",
    [*QUICK_COMMANDS, *(pytest.param(command, marks=pytest.mark.slow) for command in OTHER_COMMANDS)],
    ids=" ".join,
)
def test_a_command_fails_if_stdout_is_full(folder: Path, command: list[str]) -> None:
    with open("/dev/full", "w") as full:
        process = run([*DEEPNOTES, *command], unbuffered=len(command) % 2 == 0, stdout=full)
    assert process.returncode == 1, process.stderr
    assert process.stderr.splitlines()[-1] == "deepnotes: error: cannot write to stdout: No space left on device"


@pytest.mark.parametrize("command", [["--help"], ["predict", "model.safetensors", "rows.csv", "--json"]], ids=" ".join)
def test_a_command_fails_if_stdout_is_closed(folder: Path, command: list[str]) -> None:
    process = run([*DEEPNOTES, *command], stdout=None, preexec_fn=close_descriptors(1))
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1] == "deepnotes: error: cannot write to stdout: it is closed"


@pytest.mark.slow
@pytest.mark.parametrize("unbuffered", [False, True])
@pytest.mark.parametrize(
    "command", [["train", "--help"], PREDICT[:-1], PREDICT, ["evaluate", *PREDICT[1:-1]]], ids=" ".join
)
def test_a_closed_pipe_ends_a_command_silently(folder: Path, command: list[str], unbuffered: bool) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = run([*DEEPNOTES, *command], unbuffered, stdout=writer)
    os.close(writer)
    assert (process.returncode, process.stderr) == (141, "")


@pytest.mark.slow
@pytest.mark.parametrize("unbuffered", [False, True])
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_reader_that_stops_early_ends_a_command_silently(folder: Path, options: list[str], unbuffered: bool) -> None:
    """The reader stops early, as ``head -c 20`` does; the rest of the output does not fit into the pipe's buffer."""
    reader, writer = os.pipe()
    command = [*DEEPNOTES, "predict", "model.safetensors", "rows.csv", *options]
    environment = os.environ | ({"PYTHONUNBUFFERED": "1"} if unbuffered else {})
    with subprocess.Popen(command, stdout=writer, stderr=subprocess.PIPE, env=environment, text=True) as process:
        os.close(writer)
        os.read(reader, 20)
        os.close(reader)
        _, message = process.communicate(timeout=120)
    assert (process.returncode, message) == (141, "")


@pytest.mark.slow
@pytest.mark.parametrize("unbuffered", [False, True])
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_command_fails_if_the_disk_fills_up_during_a_write(
    folder: Path, options: list[str], unbuffered: bool
) -> None:
    command = [*DEEPNOTES, "predict", "model.safetensors", "rows.csv", *options]
    with open("output", "w") as file:
        process = run(command, unbuffered, stdout=file, preexec_fn=limit_file_size(20_000))
    assert (process.returncode, process.stderr) == (1, "deepnotes: error: cannot write to stdout: File too large\n")
    with open("output", "w") as file:
        assert run(command, unbuffered, stdout=file).returncode == 0
    text = Path("output").read_text()
    rows = json.loads(text)["predictions"]["prediction"] if options else text.splitlines()[1:]
    assert len(rows) == 3000


@pytest.mark.slow
def test_train_with_a_closed_stdout_writes_the_model_and_then_fails(folder: Path) -> None:
    for stream in (
        {"stdout": None, "preexec_fn": close_descriptors(1)},
        {"stdout": None, "preexec_fn": close_descriptors(0, 1, 2)},
    ):
        assert run([*DEEPNOTES, *TRAIN], **stream).returncode == 1
        dn.load("new.safetensors")  # the file is valid: the output did not go to it through a reused descriptor
        os.unlink("new.safetensors")


@pytest.mark.slow
@NEEDS_DEV_FULL
def test_a_full_or_closed_stderr_does_not_change_results(folder: Path) -> None:
    normal = run([*DEEPNOTES, *TRAIN, "--json"])
    with open("/dev/full", "w") as full:
        for stream in ({"stderr": full}, {"stderr": None, "preexec_fn": close_descriptors(2)}):
            os.unlink("new.safetensors")
            process = run([*DEEPNOTES, *TRAIN, "--json"], **stream)
            assert process.returncode == 0
            actual, expected = json.loads(process.stdout), json.loads(normal.stdout)
            assert actual["history"]["val_loss"] == expected["history"]["val_loss"]
            dn.load("new.safetensors")
        for command, status in ((["train"], 2), (["evaluate", "nowhere", "rows.csv"], 1)):
            assert run([*DEEPNOTES, *command], stderr=full).returncode == status


@NEEDS_DEV_FULL
def test_fit_with_progress_works_without_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    X = np.random.default_rng(0).normal(size=(3, 20))
    before, full = sys.stderr, open("/dev/full", "w", buffering=1)  # noqa: SIM115  # closing it raises an error
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
@NEEDS_DEV_FULL
@pytest.mark.parametrize("unbuffered", [False, True])
@pytest.mark.parametrize("argument", ["--check", "rows.csv"])
def test_an_exported_file_writes_all_output_or_fails(folder: Path, argument: str, unbuffered: bool) -> None:
    command = [sys.executable, "model.py", argument]
    with open("/dev/full", "w") as full:
        process = run(command, unbuffered, stdout=full)
        assert (process.returncode, process.stderr) == (1, "error: cannot write to stdout: No space left on device\n")
        assert run([*command[:2], "nowhere.csv"], unbuffered, stderr=full).returncode == 1
    process = run(command, unbuffered, stdout=None, preexec_fn=close_descriptors(1))
    assert (process.returncode, process.stderr) == (1, "error: cannot write to stdout: it is closed\n")
    assert run([*command[:2], "nowhere.csv"], unbuffered, stderr=None, preexec_fn=close_descriptors(2)).returncode == 1
    reader, writer = os.pipe()
    os.close(reader)
    process = run(command, unbuffered, stdout=writer)
    os.close(writer)
    assert (process.returncode, process.stderr) == (141, "")


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


def test_writing_to_a_full_nonblocking_stream_raises_an_error() -> None:
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
