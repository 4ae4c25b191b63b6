"""The command line in a minimal container: read-only file systems, an unknown user, no home directory, a small TMPDIR.

The container is a mount namespace in which the file systems of the machine are read-only. To create it, the tests must
run as root; otherwise, they are skipped.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.datasets.tables import read_table, write_table

pytestmark = pytest.mark.slow

USER = "12345"
SCRIPT = """
set -e
work=$1 small=$2 size=$3; shift 3
mount -t tmpfs -o size=$size,mode=1777 none "$small"
mount --bind "$work" "$work"
for directory in $(awk '{print $2}' /proc/mounts); do
    case $directory in "$work"|"$small"|/proc|/proc/*|/sys|/sys/*|/dev|/dev/*) continue;; esac
    mount -o remount,ro,bind "$directory"
done
cd "$work"
exec setpriv --reuid USER --regid USER --clear-groups --inh-caps=+dac_read_search --ambient-caps=+dac_read_search "$@"
""".replace("USER", USER)
"""Run a command in the container; the command may read all files, since Python itself may be in a home directory."""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def reason_to_skip() -> str | None:
    """Return the reason why this machine cannot create the container, or None if it can."""
    if not sys.platform.startswith("linux"):
        return "needs Linux, for mount namespaces"
    if os.geteuid() != 0:
        return "needs root, to mount a read-only root"
    if missing := [name for name in ("unshare", "setpriv", "mount", "awk") if shutil.which(name) is None]:
        return f"needs {missing[0]}"
    trial = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, text=True)
    return f"needs permission to mount: {trial.stderr.strip()}" if trial.returncode else None


@pytest.fixture(scope="module")
def work() -> Iterator[Path]:
    """Return a directory with data; apart from TMPDIR, the unknown user may write only there."""
    if reason := reason_to_skip():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="deepnotes-work-") as name:
        os.chmod(name, 0o777)
        x, y = np.random.default_rng(1).normal(size=(2, 400))
        write_table(Path(name, "rows.csv"), ["x", "y", "kind"], [x, y, np.where(x > 0, "up", "down")])
        yield Path(name)


@pytest.fixture
def run(work: Path) -> Iterator[Run]:
    """Return a function that runs Python in a container."""
    with tempfile.TemporaryDirectory(prefix="deepnotes-small-") as small:

        def call(*arguments: str, size: str = "1m", **variables: str) -> "subprocess.CompletedProcess[str]":
            environment = {"PATH": "/usr/bin:/bin", "TMPDIR": small, **variables}
            command = ["unshare", "-m", "sh", "-c", SCRIPT, "sh", str(work), small, size, sys.executable, *arguments]
            return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=580)

        yield call


def deepnotes(run: Run, *arguments: str, **options: str) -> str:
    """Run ``python -m deepnotes`` in the container, check that it succeeds, and return its stdout."""
    process = run("-m", "deepnotes", *arguments, **options)
    assert process.returncode == 0, process.stderr
    assert "Traceback" not in process.stderr
    return process.stdout


TRAIN = ["train", "rows.csv", "--target", "kind", "--epochs", "2", "--layers", "4"]


def test_the_container_is_read_only_and_has_no_home_directory(run: Run, work: Path) -> None:
    program = (
        "import os, pathlib\n"
        "assert os.getuid() == 12345 and 'HOME' not in os.environ\n"
        "def fails(path):\n"
        "    try: open(path, 'w')\n"
        "    except OSError: return True\n"
        f"assert fails('/new') and fails('/tmp/new') and fails({str(Path(dn.__file__).with_name('new'))!r})\n"
        "try: pathlib.Path.home()\n"
        "except RuntimeError: pass\n"
        "else: raise AssertionError\n"
        "open('new', 'w').close(); os.unlink('new')\n"
    )
    process = run("-c", program)
    assert process.returncode == 0, process.stderr


@pytest.mark.thinned(2)
@pytest.mark.parametrize("home", [None, "/nonexistent"])
def test_numpy_trains_predicts_evaluates_and_exports(home: str | None, run: Run, work: Path) -> None:
    options = {} if home is None else {"HOME": home}
    arguments = [*TRAIN, "--backend", "numpy", "-o", "model.safetensors", "--checkpoint", f"run{home is None}"]
    deepnotes(run, *arguments, **options)
    deepnotes(run, "predict", "model.safetensors", "rows.csv", "-o", "out.csv", "--backend", "numpy", **options)
    assert read_table(work / "out.csv").n_rows == 400
    if home is None:
        return
    out = deepnotes(run, "evaluate", "model.safetensors", "rows.csv", "--backend", "numpy", "--json", **options)
    assert 0 < json.loads(out)["metrics"]["accuracy"] <= 1
    pytest.importorskip("onnx", reason="needs deepnotes[onnx]")
    deepnotes(run, "export", "model.safetensors", "--python", "model.py", "--onnx", "model.onnx", **options)
    assert run("model.py", "--check", **options).stdout.startswith("passed: ")


@pytest.mark.slow
def test_numba_trains_with_a_warning_that_it_cannot_cache(run: Run) -> None:
    pytest.importorskip("numba", reason="needs deepnotes[numba]")
    process = run("-m", "deepnotes", *TRAIN, "--backend", "numba", "-o", "numba.safetensors")
    assert process.returncode == 0, process.stderr
    assert "Traceback" not in process.stderr
    assert "in every process" in process.stderr
    deepnotes(run, "predict", "numba.safetensors", "rows.csv", "--backend", "numpy")


def test_a_plot_needs_a_cache_directory_for_matplotlib(run: Run, work: Path) -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="needs deepnotes[plot]")
    arguments = [*TRAIN, "--backend", "numpy", "-o", "plotted.safetensors", "--plot", "curves.svg"]
    old = matplotlib.__version_info__ < (3, 11)  # such versions need HOME to be set, even to a missing directory
    deepnotes(run, *arguments, **({"HOME": "/nonexistent"} if old else {}))  # its cache is in TMPDIR
    assert (work / "curves.svg").read_text().startswith("<?xml")
    if old:
        process = run("-m", "deepnotes", *arguments)
        assert (process.returncode, process.stderr.splitlines()[-1].partition(": ")[2]) == (
            1,
            "a plot needs matplotlib, which finds no directory for its cache: Could not determine home directory; set "
            "MPLCONFIGDIR to a writable directory",
        )
    os.chmod(work, 0o755)  # otherwise, Python would put temporary files into the working directory
    try:
        process = run("-m", "deepnotes", *arguments, TMPDIR="/nonexistent")
    finally:
        os.chmod(work, 0o777)
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1].endswith("; set MPLCONFIGDIR to a writable directory")


def test_a_tmpdir_too_small_for_samples_on_disk_is_reported(run: Run, work: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="needs deepnotes[data]")
    pytest.importorskip("pyarrow.parquet")
    x, y = np.random.default_rng(1).normal(size=(2, 40_000))
    pa.parquet.write_table(pa.table({"x": x, "y": y, "kind": (x > 0).astype(int)}), work / "rows.parquet")
    arguments = ["train", "rows.parquet", "--target", "kind", "--epochs", "1", "--layers", "4", "--from-disk"]
    arguments += ["--backend", "numpy", "-o", "disk.safetensors"]
    process = run("-m", "deepnotes", *arguments, size="64k")
    assert process.returncode == 1
    (message,) = process.stderr.splitlines()
    assert "No space left on device" in message
    assert "TMPDIR" in message
    deepnotes(run, *arguments, size="4m")


def test_outputs_on_a_read_only_file_system_are_refused(run: Run) -> None:
    for arguments in (
        [*TRAIN, "-o", "/new.safetensors"],
        [*TRAIN, "--checkpoint", "/run", "-o", "m.safetensors"],
        ["export", "model.safetensors", "--python", "/model.py"],
    ):
        process = run("-m", "deepnotes", *arguments)
        assert process.returncode == 1
        assert "Read-only file system" in process.stderr.splitlines()[-1]
        assert "Traceback" not in process.stderr
