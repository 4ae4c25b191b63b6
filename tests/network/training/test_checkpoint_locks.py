"""The lock of a checkpoint directory excludes other processes and threads, and is not inherited by forks."""

import errno
import logging
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_directories import epochs_in, memory_folder
from checkpointed import fit, network
from watchdog import call_concurrently, run_python

import deepnotes as dn
from deepnotes.network.training.locks import HeldError, Lock


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    """Yield the path of a checkpoint directory that does not exist yet."""
    with memory_folder(tmp_path) as folder:
        yield folder / "run"


HOLD_LOCK = """
import sys, time
from pathlib import Path
from deepnotes.network.training.locks import Lock
lock = Lock(Path({run!r}))
{extra_code}
sys.stdout.write("ready" + chr(10))  # one call for the whole line, since a fork writes to the same pipe
sys.stdout.flush()
time.sleep(60)
"""
FORK = "import os\nif os.fork() == 0:\n    sys.stdout.write(f'{os.getpid()}\\n'); sys.stdout.flush(); time.sleep(60)"


def start_process_with_lock(run: Path, extra_code: str = "") -> subprocess.Popen[str]:
    """Start a process that locks a directory, runs `extra_code`, prints ``ready`` and waits."""
    run.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCK.format(run=str(run), extra_code=extra_code)], stdout=subprocess.PIPE, text=True
    )


def test_the_error_for_a_directory_in_use_names_the_process(run: Path) -> None:
    with start_process_with_lock(run) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            net = network()
            before = net.flat()
            with pytest.raises(
                dn.CheckpointError,
                match=rf"run is in use by another training run, .*: process {process.pid} on .*, since \d{{4}}-\d\d",
            ):
                fit(net, run)
            np.testing.assert_array_equal(net.flat(), before)
        finally:
            process.kill()
        process.wait(30)
    assert (run / ".lock").exists()  # the process was killed and could not remove the file, but the lock is released
    (run / ".lock").write_text(f"process {os.getpid()} on here, since then\n")  # as if the process id had been reused
    fit(network(), run, 1)
    assert not (run / ".lock").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_lock_is_not_inherited_by_a_forked_process(run: Path) -> None:
    child = None
    with start_process_with_lock(run, FORK) as process:
        try:
            assert process.stdout is not None
            lines = {process.stdout.readline() for _ in range(2)}
            (child,) = (int(line) for line in lines if line != "ready\n")
            with pytest.raises(HeldError, match=f"process {process.pid} "):
                Lock(run)
            process.kill()
            process.wait(30)
            os.kill(child, 0)  # the child is still alive
            Lock(run).release()
        finally:
            process.kill()
            if child is not None:
                os.kill(child, 9)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_process_forked_during_training_writes_nothing(tmp_path: Path) -> None:
    script = """
    import os, sys
    from pathlib import Path
    from checkpointed import fit, network
    import deepnotes as dn
    run = Path(sys.argv[1])
    class ForkInEpoch3(dn.Callback):
        def on_epoch(self, training):
            if training.epoch == 3 and os.fork() == 0:
                self.child = True
                raise SystemExit(7)
            if training.epoch == 3:
                assert os.waitstatus_to_exitcode(os.wait()[1]) == 7
                assert sorted(p.name for p in run.iterdir()) == [".lock", "step-000000020.safetensors"]
    fit(network(), run, 4, every=2, early_stopping=None, callbacks=[ForkInEpoch3()])
    """
    code = f"import sys\nsys.argv[1:] = [{str(tmp_path / 'run')!r}]\n" + textwrap.dedent(script)
    run_python(code, seconds=60)
    assert epochs_in(tmp_path / "run") == [4, 2]


def test_threads_of_one_process_exclude_each_other(run: Path) -> None:
    started, finished = threading.Event(), threading.Event()

    class WaitForOther(dn.Callback):
        def on_epoch(self, training: Any) -> None:
            started.set()
            assert finished.wait(30)

    def train_meanwhile() -> None:
        assert started.wait(30)
        try:
            with pytest.raises(dn.CheckpointError, match=f"in use by another training run, .*: process {os.getpid()} "):
                fit(network(), run, 1)
        finally:
            finished.set()

    call_concurrently([lambda: fit(network(), run, 1, callbacks=[WaitForOther()]), train_meanwhile])
    fit(network(), run, 2, resume=True)


@pytest.mark.parametrize("method", ["on_start", "on_ready", "on_epoch", "on_end"])
def test_the_lock_is_released_whichever_method_fails(run: Path, method: str) -> None:
    def fail(self: Any, training: Any) -> None:
        raise RuntimeError("stopped")

    callback = type("FailingCallback", (dn.Callback,), {method: fail})()
    with pytest.raises(RuntimeError, match="stopped"):
        fit(network(), run, 1, callbacks=[callback])
    assert not (run / ".lock").exists()
    fit(network(), run, 2, resume=True)


def test_a_lock_file_that_is_a_directory_or_a_link_is_an_error(run: Path, tmp_path: Path) -> None:
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


def test_a_file_system_without_locks_causes_a_warning(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("deepnotes.network.training.locks._try_to_lock", fail)
    with caplog.at_level(logging.WARNING):
        fit(network(), run, 1)
    assert "cannot be locked (No locks available)" in caplog.text
    assert not (run / ".lock").exists()


def test_threads_that_lock_in_turn_never_overlap(run: Path) -> None:
    """Releasing a lock removes its file, so one thread could lock the removed file while another locks a new one."""
    run.mkdir()
    holders: list[int] = []

    def lock_and_release_50_times() -> None:
        count = 0
        while count < 50:
            try:
                lock = Lock(run)
            except HeldError:
                continue
            holders.append(1)
            assert len(holders) == 1
            holders.pop()
            lock.release()
            count += 1

    call_concurrently([lock_and_release_50_times] * 4)
