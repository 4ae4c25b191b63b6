"""Time the start of Python up to a trained tiny network for each backend, and the imports alone.

    python -m benchmarks.cold_start --backends numpy,numba --json benchmarks/results/cold-start.json

Each run is a new process. In each round, each contender has its own cache directory, which is empty in the first run
and filled in the following, warm runs.
"""

import os
import subprocess
import sys
import time
from tempfile import TemporaryDirectory

from benchmarks.options import Options, parser
from benchmarks.report import ROOT, publish
from deepnotes.testing.bench.timing import spread

TRAIN = """
import numpy as np
import deepnotes as dn

rng = np.random.default_rng(0)
X, y = rng.normal(size=(4, 320)), rng.integers(0, 2, 320)
layers = [dn.Dense(16, "relu"), dn.Dense(16, "relu"), dn.Dense(1, "sigmoid")]
dn.Network(layers, inputs=4, backend="{backend}", seed=0).fit(X, y, epochs=2)
"""
IMPORTS = {"import deepnotes alone": "import deepnotes", "import numpy alone": "import numpy"}
END = "\nimport time\nprint(time.perf_counter())"


def start_to_end(code: str, cache: str) -> float:
    """Return the seconds from the start of the interpreter until it has run some code."""
    environment = os.environ | {"DEEPNOTES_CACHE_DIR": cache}
    began = time.perf_counter()  # a clock that all processes share
    done = subprocess.run(
        [sys.executable, "-c", code + END], env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    return float(done.stdout.split()[-1]) - began


def measure(codes: dict[str, str], rounds: int, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Return minimum, median and maximum seconds of the first run and of the warm ones, by contender."""
    times: dict[str, dict[str, list[float]]] = {who: {"first": [], "warm": []} for who in codes}
    for code in codes.values():
        with TemporaryDirectory() as cache:
            start_to_end(code, cache)  # fills the file system's cache, and writes the .pyc files
    for _ in range(rounds):
        for who, code in codes.items():
            with TemporaryDirectory() as cache:
                times[who]["first"].append(start_to_end(code, cache))
                times[who]["warm"] += [start_to_end(code, cache) for _ in range(repeats)]
    return {who: {kind: spread(values) for kind, values in kinds.items()} for who, kinds in times.items()}


def main() -> None:
    """Measure, print a table, and write the results if requested."""
    line = parser(__doc__, rounds=3)
    line.add_argument("--repeats", type=int, default=5, help="warm runs per round; default: 5")
    options = Options(line)
    if options.given.repeats < 1:
        line.error(f"--repeats {options.given.repeats}: wanted at least 1")
    codes = {backend: TRAIN.format(backend=backend) for backend in options.backends} | IMPORTS
    results = measure(codes, options.rounds, options.given.repeats)
    publish("cold-start", "from the start of Python to a trained 4-16-16-1, seconds", results, options.json)


if __name__ == "__main__":
    main()
