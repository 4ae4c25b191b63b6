"""How much more memory an epoch of training takes, however the samples are given, beside what it is allowed.

    python -m benchmarks.memory --backends numpy,numba --json benchmarks/results/memory.json

Each number is the growth of the peak resident size during ``fit`` in a new process, after a training on a small part of
the same array, so that neither imports nor compiled code count. Linux only: the kernel keeps the peak, and resets it
when asked. What is allowed is parameters, gradient and the optimizer's slots for each thread, and 64 MB.
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
    """Return the samples of a file as an array that cannot be written to."""
    rows: np.ndarray = np.load(path)
    rows.flags.writeable = False
    return rows.T


FORMS: dict[str, Callable[[str], np.ndarray]] = {
    "by row": lambda path: np.load(path).T,
    "by feature": lambda path: np.ascontiguousarray(np.load(path).T),
    "memory-mapped": lambda path: np.load(path, mmap_mode="r").T,
    "read-only": read_only,
}
"""Functions that make X, shape (n[0], m), from a file of rows."""


def growth(backend: str, form: str, path: str, samples: int = SAMPLES) -> int:
    """Return the growth in bytes of the peak resident size while a network trains for one epoch in this process.

    Parameters
    ----------
    backend : str
    form : str
        A key of ``FORMS``.
    path : str
        A file with an array of shape (m, n[0]).
    samples : int
        The number of samples to train on.
    """
    X = FORMS[form](path)[:, :samples]
    y = np.random.default_rng(0).integers(0, CASE.sizes[-1], (X.shape[1],))

    def train(X: np.ndarray, y: np.ndarray) -> None:
        net = dn.Network(CASE.layers, CASE.sizes[0], backend=backend, seed=0)
        net.fit(X, y, epochs=1, batch_size=CASE.batch)

    train(X[:, : 2 * CASE.batch], y[: 2 * CASE.batch])
    X.max()  # the pages of a mapped file, now all resident, can make the peak no higher: only new memory can
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is now the current size
    before = _peak()
    train(X, y)
    return _peak() - before


def _peak() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


GROWTH = "from benchmarks.memory import growth; print(growth({backend!r}, {form!r}, {path!r}))"
"""The code that a new process runs."""


def allowed() -> float:
    """Return the MB by which the peak may grow: parameters, gradient and slots for each thread, and 64 MB."""
    net = dn.Network(CASE.layers, CASE.sizes[0], backend="numpy", seed=0)
    return net.layout.size * 4 * (2 + len(dn.Adam().slots)) * cores() / MB + 64


def measure(backends: list[str]) -> dict[str, Any]:
    """Return the growth in MB for each backend and form, the allowance, and the size of the samples."""
    results = {}
    with TemporaryDirectory() as folder:
        path = str(Path(folder) / "rows.npy")
        rows, _ = CASE.data(SAMPLES)
        np.save(path, rows)
        for backend in backends:
            codes = {form: GROWTH.format(backend=backend, form=form, path=path) for form in FORMS}
            grown = {form: round(said_by(code) / MB, 1) for form, code in codes.items()}
            results[backend] = {"growth": grown, "allowed": round(allowed(), 1), "samples": round(rows.nbytes / MB, 1)}
    return results


def said_by(code: str) -> float:
    """Run some code in a new process and return the number that it prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    """Measure, print a table, and write the results if requested."""
    options = Options(parser(__doc__, rounds=1))
    results = measure(options.backends)
    what = f"growth of the peak while {'-'.join(map(str, CASE.sizes))} is trained on {SAMPLES} samples, float32, MB"
    publish("memory", what, results, options.json)


if __name__ == "__main__":
    main()
