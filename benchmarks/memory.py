"""Measure the memory that an epoch of training takes for several layouts of the samples, and compare it with a limit.

    python -m benchmarks.memory --backends numpy,numba --json benchmarks/results/memory.json

Each number is the growth of the peak resident size during ``fit``, measured in a new process. The process first trains
on a small part of the same array, so that imports and compiled code do not count. The measurement requires Linux, whose
kernel records the peak and can reset it. The limit is the size of the parameters, the gradient and the optimizer's
slots, once per thread, plus 64 MB.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import deepnotes as dn
from benchmarks.networks import NETWORKS
from benchmarks.options import Options, parser
from benchmarks.report import ROOT, publish
from deepnotes.testing.bench.machine import cores

CASE = NETWORKS["mnist"]
SAMPLES = 60_000
MB = 1e6


def read_only(path: str) -> np.ndarray:
    """Return the samples in a file as a read-only array."""
    rows: np.ndarray = np.load(path)
    rows.flags.writeable = False
    return rows.T


LAYOUTS: dict[str, Callable[[str], np.ndarray]] = {
    "by row": lambda path: np.load(path).T,
    "by feature": lambda path: np.ascontiguousarray(np.load(path).T),
    "memory-mapped": lambda path: np.load(path, mmap_mode="r").T,
    "read-only": read_only,
}
"""Functions that take the path of a file with an array of shape (m, n[0]) and return X, shape (n[0], m)."""


def growth(backend: str, layout: str, path: str, samples: int = SAMPLES) -> int:
    """Return the growth in bytes of the peak resident size while a network trains for one epoch in this process.

    Parameters
    ----------
    backend : str
    layout : str
        A key of ``LAYOUTS``.
    path : str
        A file with an array of shape (m, n[0]).
    samples : int
        The number of samples to train on.
    """
    X = LAYOUTS[layout](path)[:, :samples]
    y = np.random.default_rng(0).integers(0, CASE.sizes[-1], (X.shape[1],))

    def train(X: np.ndarray, y: np.ndarray) -> None:
        net = dn.Network(CASE.layers, CASE.sizes[0], backend=backend, seed=0)
        net.fit(X, y, epochs=1, batch_size=CASE.batch)

    train(X[:, : 2 * CASE.batch], y[: 2 * CASE.batch])
    X.max()  # makes all pages of a mapped file resident, so that only new memory raises the peak
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # sets the peak to the current size
    before = _peak()
    train(X, y)
    return _peak() - before


def _peak() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


GROWTH = "from benchmarks.memory import growth; print(growth({backend!r}, {layout!r}, {path!r}))"
"""The code to run in a new process for one backend and layout."""


def allowed() -> float:
    """Return the limit of the growth in MB: the size of parameters, gradient and slots, once per thread, plus 64 MB."""
    net = dn.Network(CASE.layers, CASE.sizes[0], backend="numpy", seed=0)
    return net.layout.size * 4 * (2 + len(dn.Adam().slots)) * cores() / MB + 64


def measure(backends: list[str]) -> dict[str, Any]:
    """Return the growth for each backend and layout, the limit, and the size of the samples, in MB."""
    results = {}
    with TemporaryDirectory() as folder:
        path = str(Path(folder) / "rows.npy")
        rows, _ = CASE.data(SAMPLES)
        np.save(path, rows)
        for backend in backends:
            codes = {layout: GROWTH.format(backend=backend, layout=layout, path=path) for layout in LAYOUTS}
            growths = {layout: round(run_and_parse(code) / MB, 1) for layout, code in codes.items()}
            results[backend] = {
                "growth": growths,
                "allowed": round(allowed(), 1),
                "samples": round(rows.nbytes / MB, 1),
            }
    return results


def run_and_parse(code: str) -> float:
    """Run Python code in a new process, and return the number that it prints last."""
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return float(process.stdout.split()[-1])


def main() -> None:
    """Measure the growth on each backend, print a table, and write the results if requested."""
    options = Options(parser(__doc__, rounds=1))
    results = measure(options.backends)
    network = "-".join(map(str, CASE.sizes))
    what = f"growth of the peak resident size while {network} is trained on {SAMPLES} samples, float32, MB"
    publish("memory", what, results, options.json)


if __name__ == "__main__":
    main()
