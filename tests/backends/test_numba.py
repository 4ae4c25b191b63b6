"""The Numba backend's cache, memory use, threads and forks; test_programs.py checks its results."""

import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import tracemalloc
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import deepnotes as dn

pytest.importorskip("numba")
from numba.core.dispatcher import Dispatcher

import deepnotes_numba
from deepnotes_numba import batches, cache

FOLDER = Path(deepnotes_numba.__file__).parent
TRAIN = """
import numpy as np, deepnotes as dn
net = dn.Network([dn.Dense(3, "relu"), dn.Dense(1)], inputs=2, backend="numba", seed=0)
print(net.fit(np.ones((2, 8)), np.ones((1, 8)), epochs=3).loss[-1])
"""


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, timeout=600
    )


NARROW_REGISTERS = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma,+bmi,+bmi2,+sse4.2,+f16c"}
"""Environment variables that make Numba compile for narrower registers, and hence with smaller tiles, on AVX-512."""
TRAIN_ALL = """
import json, sys
sys.path.insert(0, {tests!r})
from test_numba import train_all
print(json.dumps(train_all({predict_first})))
"""


def train_all(predict_first: bool) -> list[list[str]]:
    """Train networks with various losses and activations; return their losses, θ and predictions in hexadecimal."""
    rng = np.random.default_rng(0)
    X, w, results = rng.normal(size=(19, 100)), np.linspace(0.5, 2, 100), []
    for hidden, last, loss, optimizer in [
        ("tanh", dn.Dense(5, "softmax"), None, "adam"),
        ("gelu", dn.Dense(5, "softmax"), "mean_absolute_error", "rmsprop"),
        ("sigmoid", dn.Dense(1, "sigmoid"), None, dn.SGD(0.1, 0.9)),
        ("silu", dn.Dense(2, "sigmoid"), "mean_squared_error", "adamw"),
        ("elu", dn.Dense(1, "softplus"), "poisson", dn.SGD(0.1, 0.9, nesterov=True)),
        ("gelu_tanh", dn.Dense(2), "huber", "adam"),
    ]:
        net = dn.Network([dn.Dense(33, hidden), dn.Dropout(0.1), last], 19, backend="numba", dtype="float64", seed=0)
        Y = rng.integers(0, 5, 100) if net.outputs == 5 and loss is None else rng.random((net.outputs, 100)).round()
        if predict_first:
            net.predict(X)
        history = net.fit(
            X, Y, loss=loss, optimizer=optimizer, epochs=3, validation=(X, Y), clip_norm=1.0, sample_weight=w
        )
        values = [*history.loss, *history.val_loss, *net.flat(), *net.predict(X).ravel()]
        results.append([float(value).hex() for value in values])
    return results


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> list[subprocess.CompletedProcess[str]]:
    """Train in three new processes: the first compiles, the others load, and the last predicts before it trains.

    On x86, all of them use narrow registers.
    """
    environment = NARROW_REGISTERS if platform.machine() in {"x86_64", "AMD64"} else {}
    environment = environment | {"DEEPNOTES_CACHE_DIR": str(tmp_path_factory.mktemp("cache"))}
    codes = [
        TRAIN_ALL.format(tests=str(Path(__file__).parent), predict_first=predict_first)
        for predict_first in (False, False, True)
    ]
    return [run(code, **environment) for code in codes]


@pytest.mark.slow
def test_only_the_first_process_compiles(
    processes: list[subprocess.CompletedProcess[str]],
) -> None:
    """The first process logs that it compiles; the later ones load its code and log nothing."""
    first, *others = processes
    assert first.returncode == 0, first.stderr
    assert "numba: compiling training for float64" in first.stderr
    assert "numba-" in first.stderr
    assert [(process.returncode, process.stderr) for process in others] == [(0, "")] * 2


@pytest.mark.slow
def test_results_do_not_depend_on_loading_or_on_the_order_of_calls(
    processes: list[subprocess.CompletedProcess[str]],
) -> None:
    """A function is compiled on its own and into each of its callers; the order of calls decides which copy runs."""
    first, *others = processes
    assert len(json.loads(first.stdout)) == 6
    assert [process.stdout for process in others] == [first.stdout] * 2


@pytest.mark.slow
def test_narrower_registers_change_results_by_rounding_only(
    processes: list[subprocess.CompletedProcess[str]],
) -> None:
    """The difference is at most 1e-12 of the largest number."""
    for pair in zip(json.loads(processes[0].stdout), train_all(False), strict=True):
        narrow, wide = (np.array([float.fromhex(value) for value in values]) for values in pair)
        assert abs(narrow - wide).max() <= 1e-12 * abs(wide).max()


def test_no_two_compiled_functions_have_the_same_name() -> None:
    """Cached code refers to functions by name, so a process that loads two of the same name would confuse them."""
    names: dict[tuple[str, str], set[int]] = {}
    for path in FOLDER.glob("*.py"):
        module = import_module(f"deepnotes_numba.{path.stem}" if path.stem != "__init__" else "deepnotes_numba")
        for function in vars(module).values():
            if isinstance(function, Dispatcher):
                python = function.py_func
                names.setdefault((python.__module__, python.__qualname__), set()).add(id(python))
    assert len(names) > 60
    assert [name for name, functions in names.items() if len(functions) > 1] == []


def test_changing_any_source_file_changes_the_cache_folder(tmp_path: Path) -> None:
    copy = tmp_path / "deepnotes_numba"
    shutil.copytree(FOLDER, copy)
    names = {cache.folder_name(copy)}
    for path in sorted(copy.glob("*.py")):
        path.write_text(path.read_text() + "\n")
        assert cache.folder_name(copy) not in names, path.name
        names.add(cache.folder_name(copy))


def test_without_a_writable_cache_folder_every_process_compiles() -> None:
    code = (
        "from deepnotes_numba.compiled_equations import dropout_mask; print(dropout_mask((2, 2), 0.0, 1, 2, 3).sum())"
    )
    process = run(code, DEEPNOTES_CACHE_DIR="/dev/null/nowhere")
    assert (process.returncode, process.stdout) == (0, "4\n"), process.stderr
    assert "compiling dropout masks takes a few seconds, in every process" in process.stderr


def test_numbas_own_cache_setting_is_unchanged() -> None:
    code = "import numba, deepnotes_numba.training; print(repr(numba.config.CACHE_DIR))"
    assert run(code, NUMBA_CACHE_DIR="").stdout == "''\n"


def test_without_numba_the_error_gives_the_install_command() -> None:
    code = "import sys; sys.modules['numba'] = None; import deepnotes as dn; dn.get_backend('numba')"
    process = run(code)
    assert "BackendUnavailable" in process.stderr
    assert 'to fix it: pip install "deepnotes[numba]"' in process.stderr


@pytest.mark.parametrize("layout", ["transposed", "row-major", "read-only", "memory-mapped"])
def test_training_does_not_copy_the_data(layout: str, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(50_000, 40)).astype(np.float32)
    X = rows.T
    if layout == "row-major":
        X = np.ascontiguousarray(X)
    elif layout == "read-only":
        X.flags.writeable = False
    elif layout == "memory-mapped":
        np.save(tmp_path / "x.npy", rows)
        X = np.load(tmp_path / "x.npy", mmap_mode="r").T
    net = dn.Network([dn.Dense(4, "tanh"), dn.Dense(1)], inputs=40, backend="numba", seed=0)
    target = np.zeros((1, 50_000), dtype=np.float32)
    net.partial_fit(X[:, :10], target[:, :10])
    tracemalloc.start()
    try:
        net.fit(X, target, epochs=1, batch_size=500)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < rows.nbytes / 2


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_prefetching_rows_does_not_change_the_result(dtype: str) -> None:
    rows = np.random.default_rng(0).normal(size=(9001, 37)).astype(dtype)  # the last batch has one sample
    assert rows.nbytes > batches.CACHE_BYTES
    nets = [dn.Network([dn.Dense(3)], inputs=37, backend="numba", dtype=dtype, seed=0) for _ in range(2)]
    for net, X in zip(nets, (rows.T, np.ascontiguousarray(rows.T)), strict=True):  # prefetches only rows.T
        net.fit(X, X[:3], epochs=2, batch_size=90)
    np.testing.assert_array_equal(nets[0].flat(), nets[1].flat())


def test_several_threads_can_train_and_predict_at_once() -> None:
    X, Y = np.random.default_rng(0).normal(size=(5, 300)), np.ones((1, 300))
    shared = dn.Network([dn.Dense(20, "tanh"), dn.Dense(1)], inputs=5, backend="numba", seed=0)
    expected = shared.predict(X)
    nets = [dn.Network(shared.layers, inputs=5, backend="numba", seed=1) for _ in range(8)]
    same = []

    def work(net: dn.Network) -> None:
        net.fit(X, Y, epochs=3)
        same.append(all(np.array_equal(shared.predict(X), expected) for _ in range(20)))

    threads = [threading.Thread(target=work, args=(net,)) for net in nets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert same == [True] * 8
    for net in nets[1:]:
        np.testing.assert_array_equal(net.flat(), nets[0].flat())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_continues_to_train() -> None:
    code = f"""
{TRAIN}
import os, sys
sys.stdout.flush()
child = os.fork()
loss = net.fit(np.ones((2, 8)), np.ones((1, 8)), epochs=3).loss[-1]
if child:
    assert os.waitpid(child, 0)[1] == 0
print(loss)
"""
    process = run(code)
    assert process.returncode == 0, process.stderr
    first, *after_fork = process.stdout.split()[-3:]
    assert after_fork[0] == after_fork[1] != first
