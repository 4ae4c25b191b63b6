"""Time training steps of the Numba backend with one thread and with one per core, for several shapes and batches.

    python -m benchmarks.threads --json benchmarks/results/threads.json

The rule by which ``deepnotes_numba.thread_count`` chooses a number of threads is based on this measurement. Here, the
rule and its trials are switched off, so that even the smallest step uses all threads. The table shows how many
multiplications a step must have for a second thread to make it faster. If a step has fewer blocks of samples than
threads, the threads divide the rows of the weights among them instead of the samples.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import deepnotes as dn
from benchmarks.options import Options, parser
from benchmarks.report import publish
from deepnotes.testing.bench.cases import Case
from deepnotes.testing.bench.machine import cores
from deepnotes.testing.bench.timing import seconds, spread, turns

SIZES = [(16, 32, 4), (30, 64, 32, 1), (64, 128, 64, 10), (256, 256, 256, 10), (784, 512, 512, 10)]
BATCHES = [1, 32, 64, 128, 512]
ROUND_MULTIPLICATIONS = 1e9


def training(case: Case, batches: int, threads: int) -> Callable[[], object]:
    """Return a function that trains on the Numba backend for one epoch.

    Parameters
    ----------
    case : Case
    batches : int
        The number of batches in the epoch.
    threads : int
    """
    X, y = case.data(batches * case.batch)
    backend = dn.get_backend("numba", threads=threads)
    net = dn.Network(case.layers, case.sizes[0], backend=backend, seed=0)
    return partial(net.fit, X.T, y, optimizer=dn.Adam(1e-5), batch_size=case.batch, epochs=1, shuffle=False)


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """Measure a case; return its multiplications per step, its microseconds by number of threads, and the ratio.

    The ratio is the time with one thread per core divided by the time with one thread.
    """
    multiplications = 3 * sum(a * b for a, b in zip(case.sizes, case.sizes[1:], strict=False)) * case.batch
    batches = int(max(4, min(400, ROUND_MULTIPLICATIONS / multiplications)))
    functions = {threads: training(case, batches, threads) for threads in (1, cores())}
    for train in functions.values():
        train()
    times = turns({threads: partial(seconds, train, 2) for threads, train in functions.items()}, rounds)
    ratios = [many / one for one, many in zip(times[1], times[cores()], strict=True)]
    return {
        "batch": case.batch,
        "multiplications": multiplications,
        "microseconds": {str(n): round(spread(t)[1] * 1e6 / batches, 2) for n, t in times.items()},
        "ratio": spread(ratios),
    }


def main() -> None:
    """Measure all cases, print a table, and write the results if requested."""
    from deepnotes_numba import thread_count

    options = Options(parser(__doc__))
    if "numba" not in options.backends:
        options.command_line.error("--backends: this benchmark measures only numba, but numba is not among these")
    thread_count.WORK_PER_THREAD = thread_count.WORK_PER_START = 1
    thread_count.candidates = lambda maximum: [maximum]
    cases = [Case(sizes, batch) for sizes in SIZES for batch in BATCHES]
    results = {f"{case.network}, {case.batch}": measure(case, options.rounds) for case in cases}
    publish("threads", "one Adam step, float32, numba", results, options.json)


if __name__ == "__main__":
    main()
