"""Compare embeddings of categorical columns with one-hot columns: held-out scores, and times of a training step.

    python -m benchmarks.embeddings --backends numpy,numba --json benchmarks/results/embeddings.json

The scores are those of ``deepnotes train`` with its defaults, ``--embed-above 0`` or ``none``, and with or without
``--norm layer``. A table of its own is drawn for each seed; its last 2,000 rows are held out. Since no data set of the
package has columns of categories, all tables are made: three columns of numbers and two of categories, and a target
that is

- ``sum``: a linear function of the numbers, plus the effect of each category, plus the product of these effects,
- ``skewed``: the same, but a few categories are frequent, and most are rare,
- ``network``: the output of a small random network, in which each category is a random vector of three numbers,
- ``classes``: the third in which that output is.

The times are those of a step of the same networks, on one thread; the contenders take turns.
"""

import os
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import deepnotes as dn
from benchmarks.options import Options, parser
from benchmarks.report import publish
from benchmarks.tables import run
from deepnotes.datasets.tables import write_table
from deepnotes.nn.hidden_layers import hidden_layers
from deepnotes.testing.bench.runs import training_timer
from deepnotes.testing.bench.timing import summarize_ratios, turns

HELD_OUT, BATCH, BATCHES, ROUND_SECONDS = 2_000, 32, 64, 0.2
CONTENDERS = {
    f"{encoding}{', LayerNorm' * (norm is not None)}": (encoding == "embedding", norm)
    for norm in (None, "layer")
    for encoding in ("one-hot", "embedding")
}
"""For each contender, whether it embeds the columns, and the option --norm."""


class Case(NamedTuple):
    """The kind of the target, the number of rows to train on, and the numbers of categories of the two columns."""

    kind: str
    rows: int
    categories: tuple[int, int]

    @property
    def name(self) -> str:
        """The name of the table."""
        return f"{self.kind}, {self.categories[0]} and {self.categories[1]}"

    @property
    def task(self) -> str:
        """The task of ``deepnotes train``."""
        return "classification" if self.kind == "classes" else "regression"

    def columns(self, seed: int) -> dict[str, np.ndarray]:
        """Return a table: numbers, categories as text, and the target in the column ``y``."""
        rng, m = np.random.default_rng([seed, *self.categories]), self.rows + HELD_OUT
        numbers = rng.normal(size=(3, m))
        if self.kind == "skewed":
            indices = [np.minimum(rng.pareto(1.2, m) * k / 10, k - 1).astype(int) for k in self.categories]
        else:
            indices = [rng.integers(0, k, m) for k in self.categories]
        if self.kind in ("sum", "skewed"):
            a, b = (rng.normal(size=k)[column] for k, column in zip(self.categories, indices, strict=True))
            y = rng.normal(size=3) @ numbers / 2 + a + b + a * b + 0.5 * rng.normal(size=m)
        else:
            vectors = [rng.normal(size=(3, k))[:, column] for k, column in zip(self.categories, indices, strict=True)]
            y = rng.normal(size=12) @ np.tanh(rng.normal(size=(12, 9)) @ np.vstack([numbers, *vectors]) / 2)
            y += 0.25 * y.std() * rng.normal(size=m)
        if self.task == "classification":
            y = np.array(["low", "medium", "high"])[np.digitize(y, np.quantile(y, [1 / 3, 2 / 3]))]
        texts = [np.array([f"c{i}" for i in column]) for column in indices]
        return {f"x{i}": x for i, x in enumerate((*numbers, *texts))} | {"y": y}


CASES = [
    Case("sum", 1_000, (5, 8)),
    Case("network", 1_000, (12, 20)),
    Case("sum", 5_000, (20, 50)),
    Case("network", 5_000, (20, 50)),
    Case("classes", 5_000, (100, 200)),
    Case("sum", 10_000, (200, 500)),
    Case("network", 10_000, (200, 500)),
    Case("skewed", 10_000, (200, 500)),
]


def score(case: Case, seed: int, backend: str) -> dict[str, float]:
    """Return the score of each contender on the held-out rows: R², or the accuracy."""
    columns, scores = case.columns(seed), {}
    one_thread = ["--backend", backend, *["--threads", "1"] * (backend == "numba")]
    with tempfile.TemporaryDirectory() as folder:
        train, test, model = (os.path.join(folder, name) for name in ("train.csv", "test.csv", "model.safetensors"))
        for path, rows in ((train, slice(None, case.rows)), (test, slice(case.rows, None))):
            write_table(path, list(columns), [column[rows] for column in columns.values()])
        options = ["--target", "y", "--task", case.task, "--categorical", "x3,x4", "--validation", "0", "--quiet"]
        for name, (embedded, norm) in CONTENDERS.items():
            own = ["--embed-above", "0" if embedded else "none", *([] if norm is None else ["--norm", norm])]
            run(["train", train, *options, *own, *one_thread, "--seed", str(seed), "--force", "-o", model])
            result = run(["evaluate", model, test, "--unknown", "zeros", "--json", *one_thread])
            scores[name] = float(result["metrics"]["accuracy" if case.task == "classification" else "r2"])
    return scores


def training(case: Case, contender: str, backend: dn.Backend) -> Callable[[int, bool], Any]:
    """Return a function that trains the network of a contender for some epochs."""
    embedded, norm = CONTENDERS[contender]
    columns = case.columns(0)
    y = np.unique(columns.pop("y"), return_inverse=True)[1] if case.task == "classification" else columns.pop("y")
    encoder = dn.Encoder.fit(columns, categorical=["x3", "x4"], embed_above=0 if embedded else None)
    X = np.asfortranarray(encoder(columns)[:, : BATCHES * BATCH], np.float32)
    sizes = (256, 128) if case.rows >= 10_000 else (128, 64)
    layers: list[dn.Layer] = [dn.Embedding(encoder.tables, unknown=True)] if embedded else []
    layers += hidden_layers(sizes, ["relu"] * 2, [0.1] * 2, norm)
    layers.append(dn.Dense(3, "softmax") if case.task == "classification" else dn.Dense(1))
    net = dn.Network(layers, len(X), backend=backend, seed=0)

    def train(epochs: int, shuffle: bool) -> Any:
        return net.fit(X, y[: X.shape[1]], batch_size=BATCH, epochs=epochs, shuffle=shuffle, l2=1e-3)

    return train


def measure_steps(case: Case, backend: dn.Backend, rounds: int) -> dict[str, Any]:
    """Return the times of a step of all contenders, and the ratios of embedding to one-hot."""
    trainings = {name: training(case, name, backend) for name in CONTENDERS}
    times = turns({name: training_timer(train, BATCHES, ROUND_SECONDS) for name, train in trainings.items()}, rounds)
    measured: dict[str, Any] = summarize_ratios(times, [name for name in CONTENDERS if name.startswith("embedding")])
    pairs = [(f"embedding{end}", f"one-hot{end}") for end in ("", ", LayerNorm")]
    return measured | {"ratios": {f"{a} to {b}": measured["ratios"][f"{a} to {b}"] for a, b in pairs}}


def measure(case: Case, backends: list[str], rounds: int) -> dict[str, Any]:
    """Return the scores, with one seed for each round, and the times on each backend."""
    scores = [score(case, seed, backends[-1]) for seed in range(rounds)]
    steps = {}
    for backend in backends:
        one_thread = dn.get_backend(backend, **({"threads": 1} if backend == "numba" else {}))
        steps[backend] = measure_steps(case, one_thread, rounds)
    return {
        "rows": case.rows,
        "score": "accuracy" if case.task == "classification" else "R²",
        "scores": {name: [scored[name] for scored in scores] for name in CONTENDERS},
        "steps": steps,
    }


def main() -> None:
    """Measure all tables, print the results, and write them if requested."""
    options = Options(parser(__doc__, rounds=5))
    named = {case.name: case for case in CASES}
    results = {name: measure(named[name], options.backends, options.rounds) for name in options.with_progress(named)}
    what = f"held-out scores of {options.rounds} seeds, mean ± standard deviation, {options.backends[-1]}"
    publish("embeddings", what, results, options.json)
    publish("embeddings-steps", f"a training step, batch {BATCH}, float32", results, None)


if __name__ == "__main__":
    main()
