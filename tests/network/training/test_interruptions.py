"""Training that is killed, interrupted or cannot write leaves intact checkpoints, and resumes to the same bits."""

import errno
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_directories import memory_folder
from checkpointed import BACKENDS, fit, network, outcome, train_and_tell

import deepnotes as dn
from deepnotes.network.formats import containers
from deepnotes.network.training.checkpoints import list_checkpoints
from deepnotes.utils import atomic_files

KILLS = 25
"""The number of training runs that are killed, for each backend."""
DAMAGED_RUNS = int(os.environ.get("DEEPNOTES_DAMAGED_RUNS", "6"))
"""The number of training runs that are killed twice; each time, one checkpoint is damaged afterwards."""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Yield a directory in memory, where a killed process leaves the same files as on a disk."""
    with memory_folder(tmp_path) as path:
        yield path


@pytest.fixture
def run(folder: Path) -> Path:
    """Return the path of a checkpoint directory that does not exist yet."""
    return folder / "run"


@pytest.fixture(scope="module")
def uninterrupted() -> dict[str, list[Any]]:
    """Return the outcome of uninterrupted training for each backend."""
    networks = {backend: network(backend) for backend in BACKENDS}
    return {backend: outcome(net, fit(net)) for backend, net in networks.items()}


def resume(backend: str, run: Path) -> list[Any]:
    """Resume training from the directory `run`, and return its outcome."""
    net = network(backend)
    return outcome(net, fit(net, run, resume=True))


# --- SIGKILL ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def processes() -> Any:
    """Return a multiprocessing context whose processes are forks of a server that has imported all modules."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["prepared", __name__])
    with pytest.MonkeyPatch.context() as patch:  # not every version of Python passes sys.path to the server
        patch.setenv(
            "PYTHONPATH",
            os.pathsep.join(filter(None, [*map(str, Path(__file__).parents[:3]), os.environ.get("PYTHONPATH")])),
        )
        forkserver.ensure_running()
    return context


def resume_in_process(processes: Any, backend: str, run: Path) -> list[Any]:
    """Resume training in a new process, and return its outcome."""
    receiver, sender = processes.Pipe(duplex=False)
    process = processes.Process(target=_resume_and_send, args=(backend, run, sender))
    process.start()
    sender.close()
    result: list[Any] = receiver.recv()
    process.join(60)
    return result


def _resume_and_send(backend: str, run: Path, sender: Any) -> None:
    sender.send(resume(backend, run))
    os._exit(0)  # skips the slow cleanup of the imported modules


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_training_killed_at_random_moments_resumes_to_the_same_bits(
    folder: Path, processes: Any, uninterrupted: dict[str, list[Any]], backend: str
) -> None:
    rng = np.random.default_rng(11)
    killed = 0
    for number in range(KILLS):
        run = folder / str(number)
        killed += _train_and_kill(processes, backend, run, rng)
        assert resume_in_process(processes, backend, run) == uninterrupted[backend], f"kill number {number + 1}"
    assert killed >= KILLS // 2  # the other processes ended before they could be killed


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_training_with_damaged_checkpoints_resumes_to_the_same_bits(
    folder: Path, processes: Any, uninterrupted: dict[str, list[Any]], backend: str
) -> None:
    rng = np.random.default_rng(12)
    killed = damaged = 0
    for number in range(DAMAGED_RUNS):
        run = folder / str(number)
        for _ in range(2):  # the second process resumes from the damaged directory, and is killed as well
            killed += _train_and_kill(processes, backend, run, rng)
            damaged += _damage_at_random(run, rng)
        assert resume_in_process(processes, backend, run) == uninterrupted[backend], f"run {number + 1}"
    assert killed >= DAMAGED_RUNS
    assert damaged >= DAMAGED_RUNS


def _train_and_kill(processes: Any, backend: str, run: Path, rng: np.random.Generator) -> bool:
    """Train in a process and kill it after a random number of chunks; return whether it was still running."""
    reader, writer = os.pipe()
    process = processes.Process(target=_train_with_pipe, args=(backend, run, processes.reducer.DupFd(writer)))
    process.start()
    os.close(writer)
    for _ in range(int(rng.integers(1, 60))):  # the process writes a byte after each chunk
        if not os.read(reader, 1):
            break
    time.sleep(rng.uniform(0, 0.004))
    process.kill()
    process.join(30)
    os.close(reader)
    return bool(process.exitcode == -signal.SIGKILL)


def _damage_at_random(run: Path, rng: np.random.Generator) -> bool:
    """Flip a bit of a checkpoint or truncate it, unless it is the only intact one; return whether it was damaged."""
    intact = [path for path in list_checkpoints(run) if containers.is_intact(path)]
    if len(intact) < 2:
        return False
    path = intact[rng.integers(len(intact))]
    content = bytearray(path.read_bytes())
    offset = rng.integers(len(content))
    content[offset] ^= 1 << rng.integers(8)
    path.write_bytes(content if rng.integers(2) else content[:offset])
    return True


def _train_with_pipe(backend: str, run: Path, pipe: Any) -> None:
    train_and_tell(backend, run, pipe.detach())


# --- a fault in each system call of a write ---------------------------------------------------------------------------

CALLS = ["open", "write", "flush", "fsync", "replace", "open directory", "fsync directory"]
"""The calls that write a checkpoint, in order."""


class Fault:
    """A fault in a system call: `function` is called at each call named `call`, except at the first `after` of them.

    Parameters
    ----------
    call : str
        One of CALLS.
    function : callable
        A function that raises an error or kills the process.
    after : int
        The number of files that are written without a fault.
    """

    def __init__(self, call: str, function: Callable[[], None], after: int) -> None:
        self.call, self.function, self.after = call, function, after
        self.count = 0

    def count_call(self, call: str) -> None:
        """Count a call, and call the function if the fault is due."""
        if call == self.call:
            self.count += 1
            if self.count > self.after:
                self.function()


class FaultyFile:
    """A file that reports its calls to a fault; a fault in ``write`` occurs when half of the content is written."""

    def __init__(self, file: Any, fault: Fault) -> None:
        self.file, self.fault = file, fault

    def write(self, content: bytes) -> None:
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        self.fault.count_call("write")
        self.file.write(content[len(content) // 2 :])

    def flush(self) -> None:
        self.fault.count_call("flush")
        self.file.flush()

    def fileno(self) -> int:
        return int(self.file.fileno())

    def __enter__(self) -> "FaultyFile":
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()


class FaultySystem:
    """The module ``os``, in which some functions report their calls to a fault."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def fsync(self, descriptor: int) -> None:
        self.fault.count_call("fsync directory" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "fsync")
        os.fsync(descriptor)

    def replace(self, source: Any, target: Any) -> None:
        self.fault.count_call("replace")
        os.replace(source, target)

    def open(self, *arguments: Any) -> int:
        self.fault.count_call("open directory")
        return os.open(*arguments)


@contextmanager
def inject(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Inject a fault into the files written within the block, and check that the fault occurred."""
    path_open = Path.open

    def open_path(path: Path, mode: str = "r", **options: Any) -> Any:
        if mode != "xb":
            return path_open(path, mode, **options)
        fault.count_call("open")
        return FaultyFile(path_open(path, mode, **options), fault)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_path)
        patch.setattr(atomic_files, "os", FaultySystem(fault))
        yield
    assert fault.count > fault.after, "the fault never occurred"


def make_os_error_raiser(number: int) -> Callable[[], None]:
    """Return a function that raises OSError with this error number."""

    def raise_error() -> None:
        raise OSError(number, os.strerror(number))

    return raise_error


@pytest.mark.thinned(2)
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT], ids=errno.errorcode.get)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_training_that_cannot_write_a_checkpoint_resumes_from_the_latest(
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    uninterrupted: dict[str, list[Any]],
    backend: str,
    call: str,
    error: int,
) -> None:
    net = network(backend)
    with (
        inject(Fault(call, make_os_error_raiser(error), after=2), monkeypatch),
        pytest.raises(
            dn.CheckpointError, match=f"cannot write .*{os.strerror(error)}; training stopped, and"
        ) as caught,
    ):
        fit(net, run, every=1)
    latest = list_checkpoints(run)[0]
    assert str(caught.value).endswith(f"the latest checkpoint is {latest}")
    assert not list(run.glob(".*.tmp"))
    assert int(latest.stem[5:]) in {20, 30}  # the previous checkpoint or, if the fault comes late, the new one
    np.testing.assert_array_equal(dn.load(latest, backend=backend).layout.size, net.layout.size)
    assert resume(backend, run) == uninterrupted[backend]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_training_killed_while_writing_a_checkpoint_resumes_to_the_same_bits(
    run: Path, processes: Any, uninterrupted: dict[str, list[Any]], backend: str, call: str
) -> None:
    process = processes.Process(target=_train_and_die_at, args=(backend, run, call))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert resume(backend, run) == uninterrupted[backend]
    assert not list(run.glob(".*.tmp"))


def _train_and_die_at(backend: str, run: Path, call: str) -> None:
    fault = Fault(call, lambda: os.kill(os.getpid(), signal.SIGKILL), after=2)
    with pytest.MonkeyPatch.context() as patch, inject(fault, patch):
        fit(network(backend), run, every=1)


def test_a_disk_that_fills_up_within_a_file_leaves_the_previous_checkpoint(
    run: Path, uninterrupted: dict[str, list[Any]]
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that the write fails, as on a full disk
    fit(network(), run, epochs=2)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
        with pytest.raises(dn.CheckpointError, match=r"cannot write .*File too large; .* latest checkpoint is .*0020"):
            fit(network(), run, resume=True, every=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in run.iterdir()] == ["step-000000020.safetensors"]
    assert resume("numpy", run) == uninterrupted["numpy"]


def test_the_error_states_that_there_is_no_checkpoint(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = network()
    with (
        inject(Fault("write", make_os_error_raiser(errno.ENOSPC), after=0), monkeypatch),
        pytest.raises(dn.CheckpointError, match=r"No space left on device; .* after update 10; there is no checkpoint"),
    ):
        fit(net, run, every=1)
    assert np.isfinite(net.flat()).all()


# --- signals ----------------------------------------------------------------------------------------------------------

ENDLESS = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background process inherits an ignored SIGINT
sys.path[:0] = {path!r}
from pathlib import Path
from checkpointed import fit, network
print("ready", flush=True)
fit(network({backend!r}), Path({run!r}), epochs=10**7, early_stopping=None, every="0.2s")
"""


@pytest.mark.thinned(4)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_signal_ends_training_after_a_checkpoint(run: Path, backend: str, number: int, code: int) -> None:
    run.mkdir()
    script = ENDLESS.format(path=[*map(str, Path(__file__).parents[:3])], backend=backend, run=str(run))
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout is not None
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
    history = fit(net, run, epochs=10**7, early_stopping=None, resume=True, callbacks=[_StopImmediately()])
    assert history.epochs >= int(latest.stem[5:]) // 10


class _StopImmediately(dn.Callback):
    def on_chunk(self, training: Any) -> None:
        training.stop = True


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_signal_acts_immediately_during_the_evaluation_after_an_epoch(
    run: Path, backend: str, number: int, error: type[BaseException]
) -> None:
    """The updates of the epoch are in a checkpoint; resuming repeats the evaluation."""
    events: list[str] = []

    def half(A: Any, Y: Any) -> float:
        events.append("start")
        if len(events) == 5:
            signal.raise_signal(number)
        events.append("end")
        return 0.5

    with pytest.raises(error):
        fit(network(backend), run, metrics=half)
    assert events == ["start", "end"] * 2 + ["start"]
    resumed, uninterrupted = network(backend), network(backend)
    result = outcome(resumed, fit(resumed, run, metrics=half, resume=True))
    assert result == outcome(uninterrupted, fit(uninterrupted, metrics=half))


def test_without_checkpoints_the_handler_of_sigterm_is_unchanged() -> None:
    handlers = []

    class HandlerRecorder(dn.Callback):
        def on_chunk(self, training: Any) -> None:
            handlers.append(signal.getsignal(signal.SIGTERM))

    fit(network(), epochs=1, callbacks=[HandlerRecorder()])
    assert set(handlers) == {signal.SIG_DFL}


def test_signal_handlers_are_restored(run: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    fit(network(), run, epochs=1)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


# --- numbers that are not finite --------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_non_finite_loss_leaves_a_checkpoint_of_the_last_finite_state(run: Path, backend: str) -> None:
    X, y = np.ones((4, 32), np.float32), np.ones((1, 32), np.float32)
    net = dn.Network([dn.Dense(4, "relu"), dn.Dense(4, "relu"), dn.Dense(1)], 4, backend=backend, seed=0)
    with pytest.raises(dn.NonFiniteLossError, match=r"before update \d+ .*the (outputs?|gradient) of") as error:
        net.fit(X, y, optimizer=dn.SGD(1e12), epochs=50, checkpoint=run)
    assert error.value.step > 1
    latest = list_checkpoints(run)[0]
    assert int(latest.stem[5:]) == error.value.step - 1
    np.testing.assert_array_equal(dn.load(latest, backend=backend).flat(), net.flat())
    assert np.isfinite(net.flat()).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_first_layer_with_a_non_finite_output_is_named(backend: str) -> None:
    X, y = np.ones((4, 32), np.float32), np.ones((1, 32), np.float32)
    net = dn.Network([dn.Dense(4), dn.Dropout(0.0), dn.Dense(4), dn.Dense(1)], 4, backend=backend, seed=0)
    net.parameters["W2"] = np.full((4, 4), 3e38, np.float32)
    with pytest.raises(
        dn.NonFiniteLossError, match=r"the first non-finite output is that of layer 3, Dense\(4\)"
    ) as error:
        net.fit(X, y, epochs=1)
    assert error.value.layer == 3
    assert error.value.step == 1
