"""Training on several processes that exchange messages by MPI. Skipped without mpi4py and ``mpiexec``."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import deepnotes as dn
from deepnotes.network.distributed.shared_memory import SMALLEST
from deepnotes.network.formats.containers import is_intact
from deepnotes.utils.errors import MissingExtraError

WORKER = Path(__file__).with_name("mpi_worker.py")
WITHIN = 30
"""The number of seconds within which all processes end after one has failed."""


@pytest.fixture(scope="session")
def mpiexec() -> str:
    pytest.importorskip("mpi4py", reason='needs mpi4py: pip install "deepnotes[mpi]" mpich')
    path = shutil.which("mpiexec") or shutil.which("mpiexec", path=str(Path(sys.executable).parent))
    if path is None:
        pytest.skip("needs mpiexec: pip install mpich")
    check = subprocess.run([path, "-n", "1", sys.executable, "-c", "import mpi4py.MPI"], capture_output=True, text=True)
    if check.returncode:
        pytest.skip(f"mpi4py finds no MPI library: {check.stderr.splitlines()[-1:]}")
    return path


def start(mpiexec: str, size: int, **options: Any) -> "subprocess.Popen[str]":
    arguments = [f"{name}={value}" for name, value in options.items()]
    command = [mpiexec, "-n", str(size), sys.executable, str(WORKER), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(mpiexec: str, size: int, **options: Any) -> tuple[dict[int, Any], str, int]:
    """Return what each rank printed, the text on stderr, and the exit status."""
    process = start(mpiexec, size, **options)
    try:
        out, err = process.communicate(timeout=240)
    finally:
        process.kill()
    printed = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    return {one["rank"]: one for one in printed}, err, process.returncode


@pytest.fixture(scope="session")
def expected(mpiexec: str) -> int:
    """The digest of the parameters after 200 updates on one process."""
    results, err, status = run(mpiexec, 1)
    assert status == 0, err
    digest: int = results[0]["digest"]
    return digest


@pytest.mark.parametrize("size", [2, *(pytest.param(size, marks=pytest.mark.slow) for size in (4, 8))])
def test_processes_train_to_the_same_bits(mpiexec: str, expected: int, size: int) -> None:
    results, err, status = run(mpiexec, size)
    assert status == 0, err
    assert [results[rank]["digest"] for rank in range(size)] == [expected] * size


@pytest.mark.parametrize("sizes", [(1, 2), pytest.param((1, 4, 8), marks=pytest.mark.slow)])
def test_a_gradient_that_is_summed_in_shared_memory_gives_the_same_bits(mpiexec: str, sizes: tuple[int, ...]) -> None:
    units = 1200
    assert (7 + 1 + 3) * units * 4 > SMALLEST
    digests = [result["digest"] for size in sizes for result in run(mpiexec, size, units=units)[0].values()]
    assert len(digests) == sum(sizes)
    assert len(set(digests)) == 1


@pytest.mark.slow
def test_numba_trains_to_the_same_bits(mpiexec: str) -> None:
    digests = {size: run(mpiexec, size, backend="numba")[0] for size in (1, 2, 4, 8)}
    assert [len(results) for results in digests.values()] == [1, 2, 4, 8]
    assert len({one["digest"] for results in digests.values() for one in results.values()}) == 1


@pytest.mark.parametrize(
    ("size", "machines", "on_machine"),
    [(2, 1, 2), (4, 2, 2), *(pytest.param(8, machines, 8 // machines, marks=pytest.mark.slow) for machines in (1, 2))],
)
def test_a_sum_in_shared_memory_has_the_bits_of_one_by_messages(
    mpiexec: str, monkeypatch: pytest.MonkeyPatch, size: int, machines: int, on_machine: int
) -> None:
    """MPICH can pretend that processes of odd numbers are on another machine."""
    if machines == 2:
        monkeypatch.setenv("MPIR_CVAR_ODD_EVEN_CLIQUES", "1")
    results, err, status = run(mpiexec, size, sums=1)
    assert status == 0, err
    assert [results[rank]["equal"] for rank in range(size)] == [[True] * 4] * size
    if "mpich" in subprocess.run([mpiexec, "--version"], capture_output=True, text=True).stdout.lower():
        assert results[0]["on_machine"] == on_machine


def test_the_sum_of_mpi_differs_in_roundings_at_most(mpiexec: str) -> None:
    fixed, own = (run(mpiexec, 2, order=order)[0] for order in ("fixed", "engine"))
    assert own[0]["digest"] == own[1]["digest"]
    assert own[0]["sum"] == pytest.approx(fixed[0]["sum"], rel=1e-3)


@pytest.mark.parametrize(
    ("fail", "message"),
    [
        ("raise", "RankError: rank 1: OSError: unplugged"),
        ("raise before", "RankError: rank 1: OSError: no such file"),
        ("end", "RankError: rank 1: its process has ended"),
        ("settings", "batch_size is 48 on rank 0 and 32 on rank 1"),
    ],
)
def test_a_rank_that_fails_ends_the_others_with_its_message(mpiexec: str, fail: str, message: str) -> None:
    start_time = time.monotonic()
    results, _, status = run(mpiexec, 2, fail=fail, rank=1)
    assert status != 0
    assert message in results[0]["error"]
    assert time.monotonic() - start_time < WITHIN


def test_a_rank_that_hangs_is_an_error_after_the_time_limit(mpiexec: str) -> None:
    start_time = time.monotonic()
    results, _, status = run(mpiexec, 2, fail="hang", rank=1, time_limit=1)
    assert status != 0
    assert "rank 1 did not answer rank 0 for 1 s" in results[0]["error"]
    assert time.monotonic() - start_time < WITHIN


def test_a_signal_to_one_rank_ends_all_after_the_same_update_and_a_checkpoint(
    mpiexec: str, expected: int, tmp_path: Path
) -> None:
    results, err, status = run(mpiexec, 2, fail="interrupt", rank=1, checkpoint=tmp_path)
    assert status != 0
    assert [results[rank]["error"] for rank in range(2)] == ["KeyboardInterrupt: "] * 2, err
    results, err, status = run(mpiexec, 1, checkpoint=tmp_path, resume=1)
    assert results[0]["digest"] == expected, err


@pytest.mark.parametrize("moment", [pytest.param(i, marks=[pytest.mark.slow] if i else []) for i in range(10)])
def test_a_rank_killed_at_any_moment_ends_all_and_training_resumes(
    mpiexec: str, expected: int, tmp_path: Path, moment: int
) -> None:
    """It resumes on another number of ranks, from a checkpoint that is whole."""
    rng = random.Random(moment)
    before, after = rng.sample([1, 2, 4], 2) if moment else (2, 1)
    process = start(mpiexec, before, checkpoint=tmp_path, slow=1)
    while not list(tmp_path.glob("step-*")) and process.poll() is None:
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 2))
    victims = worker_processes(process.pid)
    if victims:
        with suppress(ProcessLookupError):
            os.kill(rng.choice(victims), signal.SIGKILL)
    start_time = time.monotonic()
    process.communicate(timeout=240)
    assert time.monotonic() - start_time < WITHIN
    files = list(tmp_path.glob("step-*.safetensors"))
    assert files
    assert all(map(is_intact, files))
    results, err, status = run(mpiexec, after, checkpoint=tmp_path, resume=1)
    assert status == 0, err
    assert [results[rank]["digest"] for rank in range(after)] == [expected] * after


def worker_processes(launcher: int) -> list[int]:
    """Return the processes of the ranks: those below the launcher that run the worker."""
    found, parents = [], {launcher}
    for _ in range(3):  # the launcher, its proxy, the ranks
        for path in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                command = (path / "cmdline").read_text()
            except OSError:
                continue
            pid = int(path.name)
            if parent in parents and pid not in parents:
                parents.add(pid)
                if WORKER.name in command and command.split("\0")[0] == sys.executable:
                    found.append(pid)
    return found


def test_the_command_line_writes_the_same_model_on_two_processes(mpiexec: str, tmp_path: Path) -> None:
    options = ("--ranks", "mpi", "--backend", "numpy", "--epochs", "3", "--layers", "8", "--force")
    files = [tmp_path / str(size) / "iris.safetensors" for size in (1, 2)]
    for size, path in zip((1, 2), files, strict=True):
        path.parent.mkdir()
        command = [mpiexec, "-n", str(size), sys.executable, "-m", "deepnotes", "train", "iris", *options, "-o", path]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("accuracy") == 1
        assert done.stderr.count("epoch 1/3") == 1
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_command_line_that_several_processes_cannot_run_is_refused(mpiexec: str) -> None:
    for size, options, message in (
        (2, ("--folds", "3"), "--folds cannot be combined with --ranks"),
        (3, (), "3 ranks cannot share 8 shards equally"),
        (2, ("--shards", "6"), "shards=6, wanted a power of two"),
    ):
        command = [mpiexec, "-n", str(size), sys.executable, "-m", "deepnotes", "train", "iris", "--ranks", "mpi"]
        done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=240)
        assert done.returncode != 0
        assert message in done.stderr


def test_other_objects_are_refused_as_communicators(mpiexec: str) -> None:
    code = "import deepnotes as dn; dn.distributed.mpi('world')"
    done = subprocess.run([mpiexec, "-n", "1", sys.executable, "-c", code], capture_output=True, text=True)
    assert "comm='world', wanted a communicator of mpi4py" in done.stderr


def test_without_mpi4py_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    monkeypatch.setitem(sys.modules, "mpi4py.MPI", None)
    with pytest.raises(MissingExtraError, match=r'pip install "deepnotes\[mpi\]"'):
        dn.distributed.mpi()


def test_shards_without_ranks_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    from deepnotes.cli import main

    assert main(["train", "iris", "--shards", "4"]) == 2
    assert "--shards needs --ranks" in capsys.readouterr().err
