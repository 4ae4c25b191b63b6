"""The time of one Adam step: deepnotes' backends beside other libraries and the products alone.

    python -m benchmarks.steps --backends numpy,numba --json benchmarks/results/steps.json

The rivals take turns in one process: same network, start, data, dtype and hyperparameters, each drawing a new order of
the samples every epoch. Their losses in a given order are compared before anything is timed. The products are NumPy's,
in place, with the BLAS on one thread or on all cores, whichever is faster.
Needs the extra ``peers`` (``pip install "deepnotes[peers]"``).
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import deepnotes as dn
from benchmarks.machine import cores
from benchmarks.networks import NETWORKS, Case
from benchmarks.peers import LEARNING_RATE, PEERS, Train, installed
from benchmarks.report import publish
from benchmarks.timing import compared, fastest, on_blas_threads, seconds, turns

ROUND_SECONDS = 0.4


def products(case: Case) -> Callable[[], None]:
    """Return a function that does the matrix products of one step and nothing else, in place."""
    rng = np.random.default_rng(0)
    m = case.batch

    def new(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    triples = []
    for first, (n_prev, n) in enumerate(zip(case.sizes, case.sizes[1:], strict=False)):
        W, A_prev, dZ = new(n, n_prev), new(n_prev, m), new(n, m)
        triples += [(W, A_prev, new(n, m)), (dZ, A_prev.T, new(n, n_prev))]
        triples += [(W.T, dZ, new(n_prev, m))] if first else []

    def run() -> None:
        for a, b, out in triples:
            np.matmul(a, b, out=out)

    return run


def ours(backend: str, case: Case, X: np.ndarray, y: np.ndarray, start: dn.Network) -> Train:
    """Return the training of a backend, as :mod:`benchmarks.peers` has those of other libraries."""
    net = dn.Network(case.layers, case.sizes[0], backend=backend, theta=start.flat(), seed=0)
    optimizer = dn.Adam(LEARNING_RATE)

    def train(epochs: int, shuffle: bool) -> list[float]:
        net.set_flat(start.flat())
        return net.fit(X.T, y, optimizer=optimizer, epochs=epochs, batch_size=case.batch, shuffle=shuffle).loss

    return train


def rivals(case: Case, backends: list[str], peers: list[str], X: np.ndarray, y: np.ndarray) -> dict[str, Train]:
    """Return the trainings by name, after a look at whether their losses are the same."""
    start = dn.Network(case.layers, case.sizes[0], backend="numpy", seed=0)
    found = {backend: ours(backend, case, X, y, start) for backend in backends}
    found |= {peer: PEERS[peer](case, X, y, start) for peer in peers}
    losses = {who: train(2, False) for who, train in found.items()}
    wanted = losses[backends[0]]
    for who, values in losses.items():
        np.testing.assert_allclose(values, wanted, rtol=1e-3, err_msg=f"{who} trains otherwise than {backends[0]}")
    return found


def measure(name: str, backends: list[str], peers: list[str], rounds: int) -> dict[str, Any]:
    """Return the median times in microseconds, and the ratios as least, median and greatest, of one network."""
    case = NETWORKS[name]
    alone = products(case)
    per_step = min(seconds(alone, 3) for _ in range(5))
    batches = int(min(200, max(4, ROUND_SECONDS / 4 / per_step)))
    epochs = max(1, round(ROUND_SECONDS / (2 * per_step * batches)))
    steps = epochs * batches
    trainings = rivals(case, backends, peers, *case.data(batches * case.batch))
    chosen = {who: train.keywords for who, train in trainings.items() if isinstance(train, partial)}

    def timed(train: Train) -> Callable[[], float]:
        return lambda: seconds(partial(train, epochs, True)) / steps

    in_turn = {who: timed(train) for who, train in trainings.items()}
    calls = max(3, steps // 4)
    threads = fastest([1, cores()], lambda threads: on_blas_threads(threads, alone, calls))
    in_turn["products"] = lambda: on_blas_threads(threads, alone, calls)
    return {
        "network": "-".join(map(str, case.sizes)),
        "batch": case.batch,
        "steps": steps,
        **compared(turns(in_turn, rounds), backends),
        "chosen": chosen | {"products": {"threads": threads}},
    }


def main() -> None:
    """Measure, print a table, and write the results where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backends", default="numpy")
    parser.add_argument(
        "--peers", default=",".join(installed()), help=f"of {', '.join(PEERS)}; default: those installed"
    )
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    networks, backends = options.networks.split(","), options.backends.split(",")
    peers = [peer for peer in options.peers.split(",") if peer]
    if options.rounds < 1 or not set(networks) <= set(NETWORKS) or not set(peers) <= set(PEERS):
        parser.error(
            f"wanted --rounds of at least 1, --networks among {', '.join(NETWORKS)}, --peers among {', '.join(PEERS)}"
        )
    results = {name: measure(name, backends, peers, options.rounds) for name in networks}
    publish("steps", "one Adam step, float32", results, options.json)


if __name__ == "__main__":
    main()
