"""Compare the time of an Adam step on deepnotes' backends and in other libraries with that of its products alone.

    python -m benchmarks.steps --backends numpy,numba --json benchmarks/results/steps.json

The contenders take turns in one process, with the same network, initial parameters, data, dtype and hyperparameters,
and with shuffling. Their losses without shuffling are compared before anything is timed. NumPy computes the matrix
products, in place, with BLAS on one thread or on all cores, whichever is faster. The results also state the shortest
time that the machine's performance limits allow. A backend or peer that is not available or fails is reported and left
out. The benchmark requires the extra ``peers`` (``pip install "deepnotes[peers]"``).
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

import deepnotes as dn
from benchmarks.networks import NETWORKS
from benchmarks.options import Options, parser
from benchmarks.peers import PEERS, absent, installed
from benchmarks.report import publish
from deepnotes.testing.bench.cases import Case
from deepnotes.testing.bench.contenders import Contender, Train, check_agreement, training
from deepnotes.testing.bench.limits import PerformanceLimits, step_work
from deepnotes.testing.bench.machine import cores
from deepnotes.testing.bench.runs import batches_for, describe_result, least_seconds, training_timer
from deepnotes.testing.bench.timing import fastest, on_blas_threads, seconds, summarize_ratios, turns

ROUND_SECONDS = 0.3


def products(case: Case) -> Callable[[], None]:
    """Return a function that computes only the matrix products of a step, in place."""
    rng = np.random.default_rng(0)
    m = case.batch

    def new(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(case.dtype)

    triples = []
    for first, (n_prev, n) in enumerate(zip(case.sizes, case.sizes[1:], strict=False)):
        W, A_prev, dZ = new(n, n_prev), new(n_prev, m), new(n, m)
        triples += [(W, A_prev, new(n, m)), (dZ, A_prev.T, new(n, n_prev))]
        triples += [(W.T, dZ, new(n_prev, m))] if first else []

    def run() -> None:
        for a, b, out in triples:
            np.matmul(a, b, out=out)

    return run


def set_up_contenders(
    case: Case, backends: list[str], peers: list[str], X: np.ndarray, y: np.ndarray
) -> tuple[dict[str, Train], dict[str, str]]:
    """Set up training with each backend and peer.

    Returns
    -------
    trainers : dict of str to callable
        The functions that train a network, by the name of the backend or peer.
    failed : dict of str to str
        For each peer that is left out, the reason: an error, or different losses.

    Raises
    ------
    DeepnotesError
        If the losses of the backends themselves differ.
    """
    start = dn.Network(case.layers, case.sizes[0], backend="numpy", dtype=case.dtype, seed=0)
    trainers: dict[str, Train] = {backend: training(backend, case, X, y, start.flat()) for backend in backends}
    check_agreement(trainers)
    first = backends[0]
    failed = {}
    for peer in peers:
        try:
            train = PEERS[peer](case, X, y, start)
            check_agreement({first: trainers[first], peer: train})
            trainers[peer] = train
        except Exception as error:  # a third-party library may raise any error
            failed[peer] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return trainers, failed


def measure(
    case: Case, backends: list[str], peers: list[str], rounds: int, limits: Mapping[str, PerformanceLimits]
) -> dict[str, Any]:
    """Measure the steps of a case; return the median times in microseconds and the spread of the ratios."""
    run_products = products(case)
    per_step = min(seconds(run_products, 3) for _ in range(5))
    batches = batches_for(case, max(least_seconds(case, limits), per_step / 16), ROUND_SECONDS)
    trainers, failed = set_up_contenders(case, backends, peers, *case.data(batches * case.batch))
    chosen = {name: train.keywords for name, train in trainers.items() if isinstance(train, partial)}
    timers = {name: training_timer(train, batches, ROUND_SECONDS) for name, train in trainers.items()}
    calls = max(3, round(ROUND_SECONDS / per_step / 2))
    threads = fastest([1, cores()], lambda threads: on_blas_threads(threads, run_products, calls))
    timers["products"] = lambda: on_blas_threads(threads, run_products, calls)
    times = turns(timers, rounds)
    all_contenders = [Contender(name, dn.get_backend(name if name in backends else "numpy")) for name in times]
    work = step_work(case.plan, case.batch)
    return describe_result(case, summarize_ratios(times, backends), all_contenders, limits, work, 0) | {
        "chosen": chosen | {"products": {"threads": threads}},
        "failed": failed,
    }


def main() -> None:
    """Measure all networks, print a table, and write the results if requested."""
    command_line = parser(__doc__)
    command_line.add_argument(
        "--peers", help=f"from {', '.join(PEERS)}; default: the installed ones, or none for float64"
    )
    command_line.add_argument(
        "--networks", default=",".join(NETWORKS), help=f"from {', '.join(NETWORKS)}; default: all"
    )
    command_line.add_argument("--dtype", default="float32", choices=["float32", "float64"], help="default: float32")
    options = Options(command_line)
    dtype = options.given.dtype
    if options.given.peers is None:
        options.given.peers = ",".join(installed() if dtype == "float32" else [])
    networks = options.known("--networks", NETWORKS)
    peers = [peer for peer in options.known("--peers", PEERS) if not options.leave_out(peer, absent(peer))]
    if peers and dtype != "float32":
        command_line.error("--peers: the peers support float32 only")
    results = {}
    for name in options.with_progress(networks):
        case = NETWORKS[name]._replace(dtype=dtype)
        try:
            results[name] = measure(case, options.backends, peers, options.rounds, options.limits)
        except (dn.DeepnotesError, MemoryError) as error:
            options.leave_out(name, f"{type(error).__name__}: {error}")
            continue
        for peer, why in results[name]["failed"].items():
            options.leave_out(f"{peer} on {name}", why)
    if not results:
        raise SystemExit("nothing could be measured")
    publish("steps", f"one Adam step, {dtype}", results, options.json, ceilings=options.ceilings)


if __name__ == "__main__":
    main()
