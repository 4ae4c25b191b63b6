"""Time training steps on the ranks of MPI, and their sums in the fixed order against ``MPI_Iallreduce``.

    mpiexec -n 2 python -m benchmarks.ranks

The network is deep-mnist, 784-512-512-10, on the Numba backend with one thread a rank; start it with 1, 2, 4 and 8
ranks to compare. Rank 0 prints two Markdown tables. The numbers are medians of rounds in which the variants take turns.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np

import deepnotes as dn
from deepnotes.network.distributed import MPIRanks, mpi

SIZES = [1 << 10, 1 << 14, 1 << 18, 669_706, 1 << 22]
BATCHES = [512, 2048]
ROUNDS = 9


def median_times(variants: dict[str, Callable[[], object]], ranks: MPIRanks) -> dict[str, float]:
    """Return the median duration of each function in seconds; all ranks start together."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for round_number in range(ROUNDS + 1):
        for name, function in variants.items():
            ranks.barrier()
            start = time.perf_counter()
            function()
            if round_number:  # the first warms up
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def time_sums(fixed: MPIRanks, engine: MPIRanks) -> list[str]:
    """Return the lines of a table with the duration of sums of some sizes."""
    lines = ["| float32 numbers | fixed order µs | MPI_Iallreduce µs |", "|--:|--:|--:|"]
    for size in SIZES:
        x = np.ones(size, np.float32)
        times = median_times({"fixed": lambda x=x: fixed.sum(x), "engine": lambda x=x: engine.sum(x)}, fixed)  # type: ignore[misc]
        lines.append(f"| {size:,} | {times['fixed'] * 1e6:,.0f} | {times['engine'] * 1e6:,.0f} |")
    return lines


def time_steps(fixed: MPIRanks, engine: MPIRanks) -> list[str]:
    """Return the lines of a table with the duration of a training step."""
    lines = ["| batch | fixed order ms | MPI_Iallreduce ms |", "|--:|--:|--:|"]
    rng = np.random.default_rng(0)
    X, y = rng.random((784, 4096), np.float32), rng.integers(0, 10, 4096)
    for batch in BATCHES:
        nets = {
            name: dn.Network(
                [dn.Dense(512, "relu"), dn.Dense(512, "relu"), dn.Dense(10, "softmax")],
                inputs=784,
                backend=dn.get_backend("numba", threads=1),
                seed=0,
            )
            for name in ("fixed", "engine")
        }

        def train(name: str, ranks: MPIRanks, batch: int = batch, nets: dict[str, dn.Network] = nets) -> float:
            history = nets[name].fit(X, y, optimizer=dn.Adam(1e-5), batch_size=batch, epochs=1, ranks=ranks)
            return history.seconds[0]

        seconds: dict[str, list[float]] = {"fixed": [], "engine": []}
        for round_number in range(ROUNDS + 1):
            for name, ranks in (("fixed", fixed), ("engine", engine)):
                duration = train(name, ranks)
                if round_number:
                    seconds[name].append(duration * batch / 4096)
        ms = {name: statistics.median(values) * 1e3 for name, values in seconds.items()}
        lines.append(f"| {batch:,} | {ms['fixed']:.2f} | {ms['engine']:.2f} |")
    return lines


def main() -> None:
    """Measure, and print the tables on rank 0."""
    fixed, engine = mpi(), mpi(fixed_order=False)
    with fixed.guard(), engine.guard():
        sums = time_sums(fixed, engine) if fixed.size > 1 else []
    steps = time_steps(fixed, engine)
    if fixed.rank == 0:
        print(f"{fixed.size} ranks\n", *sums, "", *steps, sep="\n")  # noqa: T201


if __name__ == "__main__":
    main()
