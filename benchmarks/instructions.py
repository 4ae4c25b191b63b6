"""Count the instructions of a training step of the tiny network; the count varies far less than the time of a step.

    python -m benchmarks.instructions --backends numpy,numba --json benchmarks/results/instructions.json

Valgrind counts the instructions of two training runs that differ only in the number of steps. The result is the
difference of the two counts, in which imports and compilation cancel. Both runs use one thread, and one chunk per
epoch, however long the epoch takes. Valgrind does not support AVX-512, so the code is compiled for an AVX2 processor
before anything is counted. The count is not a measure of time: some instructions take longer than others, and the count
does not show the effect of caches.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.networks import NETWORKS
from benchmarks.options import Options, parser
from benchmarks.report import ROOT, publish

CASE = NETWORKS["tiny"]
BATCHES = 1000
EPOCHS = (1, 3)
TRAIN = """
import deepnotes as dn
import deepnotes.network.training.loop
from benchmarks.instructions import BATCHES, CASE

deepnotes.network.training.loop.CHUNK_SECONDS = 1e9  # one chunk per epoch, independent of the clock
X, y = CASE.data(BATCHES * CASE.batch)
net = dn.Network(CASE.layers, CASE.sizes[0], backend="{backend}", seed=0)
net.fit(X.T, y, epochs={epochs}, batch_size=CASE.batch)
"""
FEATURES = "+avx,+avx2,+fma,+bmi,+bmi2,+lzcnt,+movbe,+f16c,+popcnt,+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+cx16,+aes"
"""The processor features that Numba compiles for. They are fixed, so Numba's cache is also valid under valgrind."""
SETTINGS = {
    "OPENBLAS_CORETYPE": "Haswell",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": FEATURES,
    "PYTHONHASHSEED": "0",
}


def count_instructions(code: str) -> int:
    """Run Python code under valgrind, and return the number of instructions that the process executed.

    Raises
    ------
    RuntimeError
        If valgrind fails.
    """
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable, "-c", code]
    process = subprocess.run(command, cwd=ROOT, env=os.environ | SETTINGS, capture_output=True, text=True, check=False)
    match = re.search(r"Collected : (\d+)", process.stderr)
    if process.returncode or not match:
        raise RuntimeError(f"valgrind: {' '.join(process.stderr.split())[-300:]}")
    return int(match[1])


def per_step(backend: str, count: Callable[[str], int] = count_instructions) -> dict[str, Any]:
    """Return the number of instructions per step, and the number for each of the two training runs.

    Parameters
    ----------
    backend : str
    count : callable
        Returns the number of instructions of some Python code.
    """
    codes = [TRAIN.format(backend=backend, epochs=epochs) for epochs in EPOCHS]
    few, many = map(count, codes)
    return {"per_step": round((many - few) / (EPOCHS[1] - EPOCHS[0]) / BATCHES, 1), "few": few, "many": many}


def main() -> None:
    """Count the instructions on each backend, print a table, and write the results if requested."""
    options = Options(parser(__doc__, rounds=1))
    if shutil.which("valgrind") is None:
        options.command_line.error("valgrind is not installed")
    results = {}
    for backend in options.with_progress(options.backends):
        code = TRAIN.format(backend=backend, epochs=1)
        # Without valgrind, to fill the cache with code compiled for the processor that valgrind simulates.
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ | SETTINGS, check=True)
        try:
            results[backend] = per_step(backend)
        except RuntimeError as error:
            options.leave_out(backend, str(error))
    if not results:
        raise SystemExit("nothing could be counted")
    what = f"instructions of one Adam step of {CASE.network}, batch {CASE.batch}, float32, one thread, AVX2"
    publish("instructions", what, results, options.json, settings=SETTINGS)


if __name__ == "__main__":
    main()
