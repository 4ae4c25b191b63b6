"""Time training steps on the ranks of MPI beside a prediction from their parts, and sums in the fixed order.

    mpiexec -n 2 python -m benchmarks.ranks --json benchmarks/results/ranks.json

The network is deep-mnist, 784-512-512-10, on the Numba backend with one thread a rank. It takes about two minutes. One
process, with and without shards, takes turns with the ranks: the other ranks wait meanwhile. The parts of a step are
measured on all ranks at the same time. From them, a step on any number of ranks is predicted; it is measured on the
number that was started. The sums are those of the fixed tree and of ``MPI_Iallreduce``. Rank 0 prints the tables.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import deepnotes as dn
from benchmarks.report import publish
from deepnotes.backends import Data, EagerProgram, Shard, State
from deepnotes.network.distributed import MPIRanks, mpi, single
from deepnotes.nn.plan import Plan

SIZES = [1 << 10, 1 << 14, 1 << 18, 669_706, 1 << 22]
PARAMETERS = 669_706
BATCHES = [512, 2048]
SAMPLES = 4096
SHARDS = 8
PREDICTED = [1, 2, 4, 8]
Times = dict[str, list[float]]


def turns(variants: dict[str, Callable[[], float]], ranks: MPIRanks, rounds: int) -> Times:
    """Return the durations that each function returns, in rounds in which they take turns; all ranks start together."""
    times: Times = {name: [] for name in variants}
    for round_number in range(rounds + 1):
        for name, function in variants.items():
            ranks.barrier()
            duration = function()
            if round_number:  # the first warms up
                times[name].append(duration)
    return times


def clocked(function: Callable[[], object], repeats: int = 1) -> Callable[[], float]:
    """Return a function that returns the duration of another one in seconds."""

    def run() -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            function()
        return (time.perf_counter() - start) / repeats

    return run


def microseconds(times: Times) -> dict[str, float]:
    """Return medians in microseconds."""
    return {name: round(statistics.median(values) * 1e6, 1) for name, values in times.items()}


def network() -> dn.Network:
    """Return the network of the case deep-mnist."""
    layers = [dn.Dense(512, "relu"), dn.Dense(512, "relu"), dn.Dense(10, "softmax")]
    return dn.Network(layers, inputs=784, backend=dn.get_backend("numba", threads=1), seed=0)


def time_sums(fixed: MPIRanks, engine: MPIRanks, rounds: int) -> dict[str, dict[str, float]]:
    """Return the microseconds of sums of some numbers in float32."""
    results = {}
    for size in SIZES:
        x = np.zeros(size, np.float32)
        repeats = max(1, min(100, PARAMETERS // size))
        variants = {
            "fixed": clocked(lambda x=x: fixed.sum(x), repeats),  # type: ignore[misc]
            "engine": clocked(lambda x=x: engine.sum(x), repeats),  # type: ignore[misc]
        }
        results[str(size)] = microseconds(turns(variants, fixed, rounds))
    return results


def time_parts(ranks: MPIRanks, X: np.ndarray, y: np.ndarray, batch: int, rounds: int) -> dict[str, float]:
    """Return the microseconds of the parts of a step, measured on all ranks at the same time."""
    kept: list[tuple[Plan, EagerProgram, State, Data]] = []

    class Keep(dn.Callback):
        def on_ready(self, training: Any) -> None:
            program = training.network.backend.compile(training.plan)
            kept.append((training.plan, program, training.state, training.data))

    network().fit(X, y, optimizer=dn.Adam(1e-5), batch_size=batch, epochs=1, callbacks=[Keep()])
    ((plan, program, state, data),) = kept
    shard = Shard(np.random.default_rng(0).permutation(SAMPLES)[: batch // SHARDS], 0, batch)
    data, size = program.converted(data), plan.layout.size + 1
    a, b = np.zeros(size, np.float32), np.zeros(size, np.float32)
    own: Any = np.array(program.shard_gradient(state, data, shard))[:-1]
    variants = {
        "gradient of a shard": clocked(lambda: program.shard_gradient(state, data, shard)),
        "copy": clocked(lambda: np.copyto(a, b)),
        "addition": clocked(lambda: np.add(a, b, out=a)),
        "squares": clocked(lambda: own @ own),
        "update": clocked(lambda: program.update(state, own, 1e-9)),
    }
    return microseconds(turns(variants, ranks, rounds))


def predict(parts: dict[str, float], sum_of_ranks: float, ranks: int) -> float:
    """Return the predicted microseconds of a step, given those of its parts and of a sum over the ranks.

    In shared memory, a sum takes about as long for any number of ranks.

    Examples
    --------
    >>> parts = {"gradient of a shard": 100.0, "copy": 2.0, "addition": 3.0, "squares": 1.0, "update": 5.0}
    >>> predict(parts, 10.0, 1), predict(parts, 10.0, 8)
    (837.0, 120.0)
    """
    shards = SHARDS // ranks
    own = shards * parts["gradient of a shard"] + (max(1, shards // 2) + 1) * parts["copy"]
    own += (shards - 1) * parts["addition"] + (sum_of_ranks if ranks > 1 else 0.0)
    return own + parts["squares"] + parts["update"]


def time_steps(fixed: MPIRanks, engine: MPIRanks, X: np.ndarray, y: np.ndarray, batch: int, rounds: int) -> Times:
    """Return the durations of a training step: on one process without and with shards, and on all ranks."""

    def stepping(ranks: Any, alone: bool) -> Callable[[], float]:
        if alone and fixed.rank:
            return lambda: 0.0
        net = network()

        def run() -> float:
            history = net.fit(X, y, optimizer=dn.Adam(1e-5), batch_size=batch, epochs=1, ranks=ranks)
            return history.seconds[0] * batch / SAMPLES

        return run

    variants = {"one process": stepping(None, True), "one process, shards": stepping(single(), True)}
    if fixed.size > 1:
        variants |= {"fixed": stepping(fixed, False), "engine": stepping(engine, False)}
        variants["each alone"] = stepping(single(), False)  # all ranks at once without sums: what the cores can do
    return turns(variants, fixed, rounds)


def fastest_quarter(durations: list[float]) -> float:
    """Return the lower quartile: on a busy machine, the slower durations say more about the machine."""
    return float(np.quantile(durations, 0.25))


def ratios(times: Times, summary: Callable[[list[float]], float]) -> dict[str, float]:
    """Return how many times as fast as one process with shards each variant is."""
    return {name: round(summary(times["one process, shards"]) / summary(times[name]), 3) for name in times}


def main() -> None:
    """Measure, and print the tables and write the results on rank 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="measurements of each variant; default: 9")
    parser.add_argument("--json", type=Path, help="file for the results")
    given = parser.parse_args()
    fixed, engine = mpi(), mpi(fixed_order=False)
    rng = np.random.default_rng(0)
    X, y = rng.random((784, SAMPLES), np.float32), rng.integers(0, 10, SAMPLES)
    with fixed.guard(), engine.guard():
        sums = time_sums(fixed, engine, given.rounds) if fixed.size > 1 else {}
        sum_of_ranks = sums[str(PARAMETERS)]["fixed"] if sums else 0.0
        steps, predicted = {}, PREDICTED if sums else [1]
        for batch in BATCHES:
            parts = time_parts(fixed, X, y, batch, given.rounds)
            times = time_steps(fixed, engine, X, y, batch, given.rounds)
            steps[f"batch {batch}"] = {
                "ranks": fixed.size,
                "parts": parts,
                "microseconds": microseconds(times),
                "predicted": {str(n): round(predict(parts, sum_of_ranks, n), 1) for n in predicted},
                "predicted_without_sums": {str(n): round(predict(parts, 0.0, n), 1) for n in predicted},
                "ratios": ratios(times, statistics.median) if fixed.rank == 0 else {},
                "ratios of the fastest quarters": ratios(times, fastest_quarter) if fixed.rank == 0 else {},
            }
    if fixed.rank == 0:
        results = {**steps, "sums": sums}
        publish("ranks", "one Adam step of 784-512-512-10, float32, numba, one thread a rank", results, given.json)
        if sums:
            publish("ranks-sums", "sums over the ranks", results, None)


if __name__ == "__main__":
    main()
