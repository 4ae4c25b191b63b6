"""Trainings that are killed, interrupted or cannot write: what is on disk is whole, and resumes to the same bits."""

import errno
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpointed import BACKENDS, fit, network, outcome, train_and_tell

import deepnotes as dn
from deepnotes.network.formats import containers
from deepnotes.network.training.checkpoints import list_checkpoints
from deepnotes.utils import atomic_files

KILLS = 25
DAMAGED = int(os.environ.get("DEEPNOTES_DAMAGED_RUNS", "6"))
"""Trainings that are killed twice, each time with one of their checkpoints damaged after."""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Return a folder, in memory where there is one: a process that is killed leaves the same there, and sooner."""
    memory = Path("/dev/shm")
    if not (memory.is_dir() and os.access(memory, os.W_OK)):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as name:
        yield Path(name)


@pytest.fixture
def run(folder: Path) -> Path:
    return folder / "run"


@pytest.fixture(scope="module")
def straight() -> dict[str, list[Any]]:
    """Return, by backend, what a training that nothing stops ends with."""
    networks = {backend: network(backend) for backend in BACKENDS}
    return {backend: outcome(net, fit(net)) for backend, net in networks.items()}


def resumed(backend: str, run: Path) -> list[Any]:
    net = network(backend)
    return outcome(net, fit(net, run, resume=True))


# --- SIGKILL ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def processes() -> Any:
    """Return where processes come from: copies of a server that has imported everything, and started no thread."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["prepared", __name__])
    with pytest.MonkeyPatch.context() as patch:  # not every Python tells the server where to look for modules
        patch.setenv(
            "PYTHONPATH",
            os.pathsep.join(filter(None, [*map(str, Path(__file__).parents[:3]), os.environ.get("PYTHONPATH")])),
        )
        forkserver.ensure_running()
    return context


def in_process(processes: Any, backend: str, run: Path) -> list[Any]:
    """Resume a training in a process of its own, and return what that ended with."""
    receiver, sender = processes.Pipe(duplex=False)
    process = processes.Process(target=_outcome, args=(backend, run, sender))
    process.start()
    sender.close()
    found: list[Any] = receiver.recv()
    process.join(60)
    return found


def _outcome(backend: str, run: Path, sender: Any) -> None:
    sender.send(resumed(backend, run))
    os._exit(0)  # to take down what was imported would take longer


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_killed_at_random_moments_it_resumes_to_equal_digests(
    folder: Path, processes: Any, straight: dict[str, list[Any]], backend: str
) -> None:
    rng = np.random.default_rng(11)
    killed = 0
    for number in range(KILLS):
        run = folder / str(number)
        killed += _killed_at_random(processes, backend, run, rng)
        assert in_process(processes, backend, run) == straight[backend], f"killed the {number + 1}th time"
    assert killed >= KILLS // 2  # else this shows nothing


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_killed_and_damaged_at_random_it_resumes_to_equal_digests(
    folder: Path, processes: Any, straight: dict[str, list[Any]], backend: str
) -> None:
    rng = np.random.default_rng(12)
    killed = damaged = 0
    for number in range(DAMAGED):
        run = folder / str(number)
        for _ in range(2):  # the second time, what goes on from a damaged directory is killed, too
            killed += _killed_at_random(processes, backend, run, rng)
            damaged += _damaged_at_random(run, rng)
        assert in_process(processes, backend, run) == straight[backend], f"run {number + 1}"
    assert killed >= DAMAGED
    assert damaged >= DAMAGED


def _killed_at_random(processes: Any, backend: str, run: Path, rng: np.random.Generator) -> bool:
    """Train in a process, and kill it after some chunks; return whether it was killed before its end."""
    reader, writer = os.pipe()
    process = processes.Process(target=_with_pipe, args=(backend, run, processes.reducer.DupFd(writer)))
    process.start()
    os.close(writer)
    for _ in range(int(rng.integers(1, 60))):  # at least a chunk has been trained on
        if not os.read(reader, 1):
            break
    time.sleep(rng.uniform(0, 0.004))
    process.kill()
    process.join(30)
    os.close(reader)
    return bool(process.exitcode == -signal.SIGKILL)


def _damaged_at_random(run: Path, rng: np.random.Generator) -> bool:
    """Turn a bit of a checkpoint, or cut it, if there is another whole one; return whether there was."""
    whole = [path for path in list_checkpoints(run) if containers.is_whole(path)]
    if len(whole) < 2:
        return False
    path = whole[rng.integers(len(whole))]
    content = bytearray(path.read_bytes())
    place = rng.integers(len(content))
    content[place] ^= 1 << rng.integers(8)
    path.write_bytes(content if rng.integers(2) else content[:place])
    return True


def _with_pipe(backend: str, run: Path, pipe: Any) -> None:
    train_and_tell(backend, run, pipe.detach())


# --- each call of a write in turn -------------------------------------------------------------------------------------

CALLS = ["open", "write", "flush", "fsync", "replace", "open directory", "fsync directory"]
"""What happens while a checkpoint is written, in order."""


@contextmanager
def failing(call: str, fault: Callable[[], None], monkeypatch: pytest.MonkeyPatch, after: int) -> Iterator[None]:
    """Have `fault` happen at a call while a file is written, for the file after the first few."""
    seen = dict.fromkeys(CALLS, 0)

    def happens(name: str) -> None:
        seen[name] += 1
        if name == call and seen[name] > after:
            fault()

    class File:
        def __init__(self, file: Any) -> None:
            self.file = file

        def write(self, content: bytes) -> None:
            self.file.write(content[: len(content) // 2])
            self.file.flush()
            happens("write")
            self.file.write(content[len(content) // 2 :])

        def flush(self) -> None:
            happens("flush")
            self.file.flush()

        def fileno(self) -> int:
            return int(self.file.fileno())

        def __enter__(self) -> "File":
            return self

        def __exit__(self, *error: object) -> None:
            self.file.close()

    path_open = Path.open

    def opened(path: Path, mode: str = "r", **options: Any) -> Any:
        if mode != "xb":
            return path_open(path, mode, **options)
        happens("open")
        return File(path_open(path, mode, **options))

    class System:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def fsync(self, descriptor: int) -> None:
            happens("fsync directory" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "fsync")
            os.fsync(descriptor)

        def replace(self, source: Any, target: Any) -> None:
            happens("replace")
            os.replace(source, target)

        def open(self, *arguments: Any) -> int:
            happens("open directory")
            return os.open(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", opened)
        patch.setattr(atomic_files, "os", System())
        yield
    assert seen[call] > after, "the fault never happened"


def _error(number: int) -> Callable[[], None]:
    def fault() -> None:
        raise OSError(number, os.strerror(number))

    return fault


@pytest.mark.thinned(2)
@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT], ids=errno.errorcode.get)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_call_that_fails(
    run: Path, monkeypatch: pytest.MonkeyPatch, straight: dict[str, list[Any]], backend: str, call: str, fault: int
) -> None:
    net = network(backend)
    with (
        failing(call, _error(fault), monkeypatch, after=2),
        pytest.raises(
            dn.CheckpointError, match=f"cannot write .*{os.strerror(fault)}; the training stopped after"
        ) as told,
    ):
        fit(net, run, every=1)
    latest = list_checkpoints(run)[0]
    assert str(told.value).endswith(f"the latest checkpoint is {latest}")
    assert not list(run.glob(".*.tmp"))
    assert int(latest.stem[5:]) in {20, 30}  # the old one or the new one
    np.testing.assert_array_equal(dn.load(latest, backend=backend).layout.size, net.layout.size)
    assert resumed(backend, run) == straight[backend]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_killed_at_a_call(run: Path, processes: Any, straight: dict[str, list[Any]], backend: str, call: str) -> None:
    process = processes.Process(target=_killed_at, args=(backend, run, call))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert resumed(backend, run) == straight[backend]
    assert not list(run.glob(".*.tmp"))


def _killed_at(backend: str, run: Path, call: str) -> None:
    with pytest.MonkeyPatch.context() as patch, failing(call, lambda: os.kill(os.getpid(), signal.SIGKILL), patch, 2):
        fit(network(backend), run, every=1)


def test_a_disk_that_is_full_in_the_middle_of_a_file(run: Path, straight: dict[str, list[Any]]) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    usual = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that the write fails, as on a full disk
    fit(network(), run, epochs=2)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
        with pytest.raises(dn.CheckpointError, match=r"cannot write .*File too large; .* latest checkpoint is .*0020"):
            fit(network(), run, resume=True, every=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, usual)
    assert [path.name for path in run.iterdir()] == ["step-000000020.safetensors"]
    assert resumed("numpy", run) == straight["numpy"]


def test_nothing_could_be_written_at_all(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = network()
    with (
        failing("write", _error(errno.ENOSPC), monkeypatch, after=0),
        pytest.raises(
            dn.CheckpointError, match=r"No space left on device; .* after update 10, .* there is no checkpoint"
        ),
    ):
        fit(net, run, every=1)
    assert np.isfinite(net.flat()).all()


# --- signals ----------------------------------------------------------------------------------------------------------

ENDLESS = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the tests were started by
sys.path[:0] = {path!r}
from pathlib import Path
from checkpointed import fit, network
print("ready", flush=True)
fit(network({backend!r}), Path({run!r}), epochs=10**7, early_stopping=None, every="0.2s")
"""


@pytest.mark.thinned(4)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_signal_ends_a_training_after_a_checkpoint(run: Path, backend: str, number: int, code: int) -> None:
    run.mkdir()
    script = ENDLESS.format(path=[*map(str, Path(__file__).parents[:3])], backend=backend, run=str(run))
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            while not list_checkpoints(run):
                time.sleep(0.01)
            process.send_signal(number)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == code, err
    latest = list_checkpoints(run)[0]
    net = network(backend)
    history = fit(net, run, epochs=10**7, early_stopping=None, resume=True, callbacks=[_StopsAtOnce()])
    assert history.epochs >= int(latest.stem[5:]) // 10


class _StopsAtOnce(dn.Callback):
    def on_chunk(self, training: Any) -> None:
        training.stop = True


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_signal_acts_at_once_during_the_evaluation_after_an_epoch(
    run: Path, backend: str, number: int, error: type[BaseException]
) -> None:
    """Nothing is lost: the updates are in a checkpoint, and the evaluation is made again."""
    steps: list[str] = []

    def half(A: Any, Y: Any) -> float:
        steps.append("begun")
        if len(steps) == 5:
            signal.raise_signal(number)
        steps.append("ended")
        return 0.5

    with pytest.raises(error):
        fit(network(backend), run, metrics=half)
    assert steps == ["begun", "ended"] * 2 + ["begun"]
    again, straight = network(backend), network(backend)
    found = outcome(again, fit(again, run, metrics=half, resume=True))
    assert found == outcome(straight, fit(straight, metrics=half))


def test_without_checkpoints_sigterm_is_left_alone() -> None:
    seen = []

    class Looks(dn.Callback):
        def on_chunk(self, training: Any) -> None:
            seen.append(signal.getsignal(signal.SIGTERM))

    fit(network(), epochs=1, callbacks=[Looks()])
    assert set(seen) == {signal.SIG_DFL}


def test_handlers_are_put_back(run: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    fit(network(), run, epochs=1)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


# --- numbers that are not finite --------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_last_good_state_is_kept_and_the_first_layer_named(run: Path, backend: str) -> None:
    X, y = np.ones((4, 32), np.float32), np.ones((1, 32), np.float32)
    net = dn.Network([dn.Dense(4, "relu"), dn.Dense(4, "relu"), dn.Dense(1)], 4, backend=backend, seed=0)
    with pytest.raises(dn.NonFiniteLossError, match=r"before update \d+ .*the (outputs?|gradient) of") as told:
        net.fit(X, y, optimizer=dn.SGD(1e12), epochs=50, checkpoint=run)
    assert told.value.step > 1
    latest = list_checkpoints(run)[0]
    assert int(latest.stem[5:]) == told.value.step - 1
    np.testing.assert_array_equal(dn.load(latest, backend=backend).flat(), net.flat())
    assert np.isfinite(net.flat()).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_which_layer_went_first(backend: str) -> None:
    X, y = np.ones((4, 32), np.float32), np.ones((1, 32), np.float32)
    net = dn.Network([dn.Dense(4), dn.Dropout(0.0), dn.Dense(4), dn.Dense(1)], 4, backend=backend, seed=0)
    net.parameters["W2"] = np.full((4, 4), 3e38, np.float32)
    with pytest.raises(dn.NonFiniteLossError, match=r"the output of layer 3, Dense\(units=4") as told:
        net.fit(X, y, epochs=1)
    assert told.value.layer == 3
    assert told.value.step == 1
