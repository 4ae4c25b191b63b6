"""Time training steps with normalization, trained slopes, gates and residual connections, compared with plain networks.

    python -m benchmarks.layers --backends numpy,numba --json benchmarks/results/layers.json

All contenders train the same dense network, with a layer added after each hidden layer; ``residual`` puts each hidden
layer but the first into a residual block instead. They take turns, on one thread.
"""

from collections.abc import Callable
from typing import Any

import deepnotes as dn
from benchmarks.options import Options, parser
from benchmarks.report import publish
from deepnotes.testing.bench.cases import Case
from deepnotes.testing.bench.runs import training_timer
from deepnotes.testing.bench.timing import summarize_ratios, turns

CASES = [
    Case((20, 32, 32, 10), 32),
    Case((64, 64, 64, 10), 32),
    Case((64, 128, 128, 10), 64),
    Case((784, 128, 128, 10), 128),
    Case((30, 256, 256, 10), 128),
]
VARIANTS: dict[str, Callable[[dn.Layer], list[dn.Layer]]] = {
    "plain": lambda hidden: [hidden],
    "LayerNorm": lambda hidden: [hidden, dn.LayerNorm()],
    "RMSNorm": lambda hidden: [hidden, dn.RMSNorm()],
    "BatchNorm": lambda hidden: [hidden, dn.BatchNorm()],
    "PReLU": lambda hidden: [hidden, dn.PReLU()],
    "residual": lambda hidden: [dn.Residual([hidden])],
}
"""For each contender, what it has instead of a hidden layer."""
ROUND_SECONDS = 0.3
BATCHES = 64


def training(backend: dn.Backend, case: Case, variant: str) -> Any:
    """Return a function that trains a network for some epochs."""
    first, *hidden, last = case.layers
    start = [first] if variant == "residual" else VARIANTS[variant](first)
    layers = [*start, *(layer for one in hidden for layer in VARIANTS[variant](one)), last]
    net = dn.Network(layers, case.sizes[0], backend=backend, dtype=case.dtype, seed=0)
    X, y = case.data(BATCHES * case.batch)

    def train(epochs: int, shuffle: bool) -> Any:
        return net.fit(X.T, y, batch_size=case.batch, epochs=epochs, shuffle=shuffle)

    return train


def measure(backend: dn.Backend, case: Case, rounds: int) -> dict[str, Any]:
    """Measure a step of all contenders."""
    trainings = {variant: training(backend, case, variant) for variant in VARIANTS}
    for train in trainings.values():
        train(1, True)  # compiles, or records
    times = turns({name: training_timer(train, BATCHES, ROUND_SECONDS) for name, train in trainings.items()}, rounds)
    return {"network": case.network, "batch": case.batch} | summarize_ratios(times, list(VARIANTS)[1:])


def main() -> None:
    """Measure all networks on all backends, print a table, and write the results if requested."""
    options = Options(parser(__doc__))
    cases = {f"{backend}, {case.network}": (backend, case) for backend in options.backends for case in CASES}
    results = {}
    for name in options.with_progress(list(cases)):
        backend, case = cases[name]
        one_thread = dn.get_backend(backend, **({"threads": 1} if backend == "numba" else {}))
        results[name] = measure(one_thread, case, options.rounds)
    publish("layers", "a training step with other layers, float32", results, options.json)


if __name__ == "__main__":
    main()
