"""Time a training step with parts of the library, and with parts of your own that have the same formulas.

    python -m benchmarks.own_parts --backends numpy,numba --json benchmarks/results/own-parts.json

The two take turns, with the same network, initial parameters and data. The formulas are SiLU, whose derivative is
derived from it, the Huber loss, and Adam.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

import deepnotes as dn
from benchmarks.networks import NETWORKS
from benchmarks.options import Options, parser
from benchmarks.report import publish
from deepnotes.testing.bench.cases import Case
from deepnotes.testing.bench.runs import training_timer
from deepnotes.testing.bench.timing import summarize_ratios, turns

ROUND_SECONDS = 0.3
BATCHES = 64


@dataclass(frozen=True)
class OwnSiLU(dn.ActivationFunction):
    """The formula of ``"silu"``."""

    def forward(self, ops: Any, Z: Any) -> Any:
        """Return ``z σ(z)``."""
        return Z / (1 + ops.xp.exp(-Z))


@dataclass(frozen=True)
class OwnHuber(dn.LossFunction):
    """The formula of ``"huber"``."""

    width: float = 1.0

    def value(self, ops: Any, A: Any, Y: Any) -> Any:
        """Return the mean over the outputs of each sample."""
        E = abs(A - Y)
        C = ops.xp.minimum(E, ops.xp.asarray(self.width, dtype=E.dtype))
        return ops.xp.sum(C * (E - 0.5 * C), axis=0, keepdims=True) / A.shape[0]

    def derivative(self, ops: Any, A: Any, Y: Any) -> Any:
        """Return the clipped error, divided by the number of outputs."""
        width = ops.xp.asarray(self.width, dtype=A.dtype)
        return ops.xp.maximum(ops.xp.minimum(A - Y, width), -width) / A.shape[0]


@dataclass(frozen=True)
class OwnAdam(dn.Optimizer):
    """The formula of :class:`deepnotes.Adam`."""

    learning_rate: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    @property
    def slots(self) -> tuple[str, ...]:
        """The discounted sums of g and g²."""
        return "m", "v"

    def scalars(self, step: Any, rate: Any) -> dict[str, Any]:
        """Return the rate and epsilon, which include the corrections of the bias."""
        root = ((1 - self.beta2**step) / (1 - self.beta2)) ** 0.5
        return {"rate": rate * root * (1 - self.beta1) / (1 - self.beta1**step), "epsilon": self.epsilon * root}

    def update(
        self, ops: Any, theta: Any, g: Any, slots: tuple[Any, ...], decays: Any, scalars: Mapping[str, Any]
    ) -> tuple[Any, tuple[Any, ...]]:
        """Return the next θ and slots."""
        m = self.beta1 * slots[0] + g
        v = self.beta2 * slots[1] + g * g
        return theta - scalars["rate"] * (m / (ops.xp.sqrt(v) + scalars["epsilon"])), (m, v)


PARTS: dict[str, dict[str, Any]] = {
    "activation": {"g": OwnSiLU()},
    "loss": {"loss": OwnHuber()},
    "optimizer": {"optimizer": OwnAdam()},
}
LIBRARY: dict[str, Any] = {"g": "silu", "loss": "huber", "optimizer": dn.Adam(1e-4)}


def training(backend: str, case: Case, g: Any, loss: Any, optimizer: Any) -> Any:
    """Return a function that trains a network with these parts for some epochs."""
    layers = [*(dn.Dense(units, g) for units in case.sizes[1:-1]), dn.Dense(case.sizes[-1])]
    net = dn.Network(layers, case.sizes[0], backend=backend, dtype=case.dtype, seed=0)
    X, _ = case.data(BATCHES * case.batch)
    Y = np.random.default_rng(1).normal(size=(case.sizes[-1], len(X))).astype(case.dtype)

    def train(epochs: int, shuffle: bool) -> Any:
        return net.fit(X.T, Y, loss=loss, optimizer=optimizer, batch_size=case.batch, epochs=epochs, shuffle=shuffle)

    return train


def measure(backend: str, case: Case, own: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Measure a step with the library's parts and with `own` instead of some of them."""
    trainings = {
        name: training(backend, case, **parts) for name, parts in {"library": LIBRARY, "own": LIBRARY | own}.items()
    }
    for train in trainings.values():
        train(1, True)  # compiles, or records
    times = turns({name: training_timer(train, BATCHES, ROUND_SECONDS) for name, train in trainings.items()}, rounds)
    return {"network": case.network, "batch": case.batch} | summarize_ratios(times, ["own"])


def main() -> None:
    """Measure all parts on all backends, print a table, and write the results if requested."""
    command_line = parser(__doc__)
    command_line.add_argument("--networks", default="small,digits", help=f"from {', '.join(NETWORKS)}")
    command_line.add_argument("--dtype", default="float32", choices=["float32", "float64"], help="default: float32")
    options = Options(command_line)
    names = [
        f"{backend}, {network}, {part}"
        for backend in options.backends
        for network in options.known("--networks", NETWORKS)
        for part in PARTS
    ]
    results = {}
    for name in options.with_progress(names):
        backend, network, part = name.split(", ")
        case = NETWORKS[network]._replace(dtype=options.given.dtype)
        results[name] = measure(backend, case, PARTS[part], options.rounds)
    what = f"a step with a part of your own, compared with the library's, {options.given.dtype}"
    publish("own-parts", what, results, options.json)


if __name__ == "__main__":
    main()
