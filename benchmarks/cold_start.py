"""Measure the time from the start of Python until each backend has trained a tiny network, and that of imports alone.

    python -m benchmarks.cold_start --backends numpy,numba --json benchmarks/results/cold-start.json

Each run is a new process. In each round, each contender gets a new cache directory. The directory is empty in the first
run of the round; the other runs, which find compiled code in it, are called warm.
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
    """Return the seconds from the start of the interpreter until it has run `code`."""
    environment = os.environ | {"DEEPNOTES_CACHE_DIR": cache}
    start = time.perf_counter()  # a clock that all processes share
    process = subprocess.run(
        [sys.executable, "-c", code + END], env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    return float(process.stdout.split()[-1]) - start


def measure(codes: dict[str, str], rounds: int, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Return minimum, median and maximum seconds of the first run and of the warm runs, for each contender."""
    times: dict[str, dict[str, list[float]]] = {contender: {"first": [], "warm": []} for contender in codes}
    for code in codes.values():
        with TemporaryDirectory() as cache:
            start_to_end(code, cache)  # fills the file system's cache, and writes the .pyc files
    for _ in range(rounds):
        for contender, code in codes.items():
            with TemporaryDirectory() as cache:
                times[contender]["first"].append(start_to_end(code, cache))
                times[contender]["warm"] += [start_to_end(code, cache) for _ in range(repeats)]
    return {contender: {kind: spread(values) for kind, values in kinds.items()} for contender, kinds in times.items()}


def main() -> None:
    """Measure, print a table, and write the results if requested."""
    argument_parser = parser(__doc__, rounds=3)
    argument_parser.add_argument("--repeats", type=int, default=5, help="warm runs per round; default: 5")
    options = Options(argument_parser)
    if options.given.repeats < 1:
        argument_parser.error(f"--repeats {options.given.repeats}: wanted at least 1")
    codes = {backend: TRAIN.format(backend=backend) for backend in options.backends} | IMPORTS
    results = measure(codes, options.rounds, options.given.repeats)
    publish(
        "cold-start", "seconds from the start of Python until a 4-16-16-1 network is trained", results, options.json
    )


if __name__ == "__main__":
    main()
