"""The time of one Adam step: deepnotes' backends beside scikit-learn's MLPClassifier and the products alone.

    python -m benchmarks.steps --backends numpy,numba --json benchmarks/results/steps.json

The rivals take turns in one process: same network, start, data, dtype and hyperparameters, each drawing a new order of
the samples every epoch, as both do by default. Their losses in a given order are compared before anything is timed.
Medians over the rounds; the ratio is taken round by round.
Needs scikit-learn (``pip install "deepnotes[sklearn]"``).
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import deepnotes as dn
from benchmarks.machine import machine
from benchmarks.networks import NETWORKS, Case

ROUND_SECONDS = 0.4
LEARNING_RATE = 1e-5
"""Small, so that no network saturates: scikit-learn bounds the logarithm in its loss, deepnotes needs no bound."""


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


def rival(case: Case, X: np.ndarray, y: np.ndarray, start: dn.Network) -> Callable[[int, bool], list[float]]:
    """Return a function that trains scikit-learn's classifier for some epochs from `start` and gives its losses."""
    from sklearn.neural_network import MLPClassifier

    model = MLPClassifier(
        case.sizes[1:-1], alpha=0.0, batch_size=case.batch, max_iter=1, shuffle=False, tol=0.0, warm_start=True,
        n_iter_no_change=10**9, learning_rate_init=LEARNING_RATE,
    )  # fmt: skip

    def train(epochs: int, shuffle: bool) -> list[float]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns that it has not converged
            if not hasattr(model, "coefs_"):
                model.fit(X[: case.batch * 2], np.arange(case.batch * 2) % max(2, case.sizes[-1]))
            layers = range(1, len(case.sizes))
            model.coefs_ = [np.array(start.parameters[f"W{i}"]).T.copy() for i in layers]
            model.intercepts_ = [np.array(start.parameters[f"b{i}"]).ravel().copy() for i in layers]
            model.loss_curve_, model.t_, model.n_iter_ = [], 0, 0
            model.max_iter, model.shuffle = epochs, shuffle
            model.fit(X, y)
        return list(model.loss_curve_)

    return train


def measure(name: str, backends: list[str], rounds: int) -> dict[str, Any]:
    """Return the median times in microseconds, and the ratios as least, median and greatest, of one network."""
    case = NETWORKS[name]
    alone = products(case)
    per_step = _time(alone, 3)
    batches = int(min(200, max(4, ROUND_SECONDS / 4 / per_step)))
    X, y = case.data(batches * case.batch)
    start = dn.Network(case.layers, case.sizes[0], backend="numpy", seed=0)
    epochs = max(1, round(ROUND_SECONDS / (2 * per_step * batches)))
    steps = epochs * batches

    def ours(backend: str) -> Callable[[int, bool], list[float]]:
        net = dn.Network(case.layers, case.sizes[0], backend=backend, theta=start.flat(), seed=0)
        optimizer = dn.Adam(LEARNING_RATE)

        def train(epochs: int, shuffle: bool) -> list[float]:
            net.set_flat(start.flat())
            return net.fit(X.T, y, optimizer=optimizer, epochs=epochs, batch_size=case.batch, shuffle=shuffle).loss

        return train

    rivals = {backend: ours(backend) for backend in backends} | {"scikit-learn": rival(case, X, y, start)}
    wanted = rivals["scikit-learn"](2, False)
    for backend in backends:
        np.testing.assert_allclose(rivals[backend](2, False), wanted, rtol=1e-3)
    times: dict[str, list[float]] = {who: [] for who in (*rivals, "products")}
    for _ in range(rounds):
        for who, train in rivals.items():
            times[who].append(_time(partial(train, epochs, True), 1) / steps)
        times["products"].append(_time(alone, max(3, steps // 4)))
    ratios = {}
    for backend in backends:
        for other in ("scikit-learn", "products"):
            pairs = [a / b for a, b in zip(times[backend], times[other], strict=True)]
            ratios[f"{backend} to {other}"] = [round(f(pairs), 4) for f in (min, statistics.median, max)]
    return {
        "network": "-".join(map(str, case.sizes)),
        "batch": case.batch,
        "steps": steps,
        "microseconds": {who: round(statistics.median(values) * 1e6, 2) for who, values in times.items()},
        "ratios": ratios,
    }


def _time(function: Callable[[], object], times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        function()
    return (time.perf_counter() - began) / times


def main() -> None:
    """Measure, print a table, and write the results where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backends", default="numpy")
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    networks, backends = options.networks.split(","), options.backends.split(",")
    if options.rounds < 1 or not set(networks) <= set(NETWORKS):
        parser.error(f"--rounds must be at least 1, and --networks among {', '.join(NETWORKS)}")
    results = {name: measure(name, backends, options.rounds) for name in networks}
    whos, pairs = (list(next(iter(results.values()))[key]) for key in ("microseconds", "ratios"))
    table = Table("network", "batch", *(f"{who} µs" for who in whos), *pairs, box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, r in results.items():
        times = [f"{us:,.0f}" if us >= 20 else f"{us:.1f}" for us in r["microseconds"].values()]
        ratios = [f"{median:.2f} ({least:.2f}-{most:.2f})" for least, median, most in r["ratios"].values()]
        table.add_row(name, str(r["batch"]), *times, *ratios)
    Console(width=140).print(table)
    if options.json:
        content = {
            "what": "one Adam step, float32",
            "machine": machine(),
            "results": results,
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
