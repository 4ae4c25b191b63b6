"""Compare the defaults of ``deepnotes train`` on small tables with scikit-learn's linear models and its MLP.

    python -m benchmarks.tables --backends numba --json benchmarks/results/tables.json

The tables are six of scikit-learn's and eight that are made here. For each table and seed, a quarter of the rows (of
linnerud's 20 rows, 8) is held out for the score, which is R² or the accuracy. The contenders get the same other rows:

- ``linear``: ``LinearRegression`` or ``LogisticRegression``.
- ``MLP``: ``MLPRegressor`` or ``MLPClassifier`` with their defaults.
- ``deepnotes``: ``deepnotes train`` and ``deepnotes evaluate`` on CSV files, with their defaults. ``--validation 0``,
  as the rows for the score are in a file of their own; the rows for early stopping are among those to train on.
- ``early stopping``: the same with ``--early-stopping-share 0.1``, which small tables do not have by default.

For scikit-learn's models, features are standardized and text is encoded one-hot, and the MLP's target is standardized.
A table is passed if the mean of the differences to the MLP is at least -2 of its standard errors. In the means over
all tables, a mean R² below 0 counts as 0: with so few rows, a linear model can be arbitrarily worse than no model.

The benchmark requires the extra ``sklearn`` and pandas.
"""

import contextlib
import io
import json
import os
import tempfile
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from sklearn import datasets
from sklearn.compose import TransformedTargetRegressor, make_column_selector, make_column_transformer
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from benchmarks.options import Options, parser
from benchmarks.report import mean_scores, publish
from deepnotes.cli import main as command
from deepnotes.datasets.tables import write_table

TEST, FEWEST = 0.25, 8
"""The share of the rows to score, and the smallest number of them."""
MARGIN = 0.01
"""How much the mean over all tables may be below that of the linear models."""


class Table(NamedTuple):
    """The columns of a table, the last of which is the target, and the task."""

    columns: dict[str, np.ndarray]
    task: str

    @property
    def y(self) -> np.ndarray:
        """The target column."""
        return self.columns["target"]

    def rows(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return some rows of all columns."""
        return {name: column[rows] for name, column in self.columns.items()}


def numeric(X: np.ndarray, y: np.ndarray, task: str) -> Table:
    """Return a table of the samples X, shape (m, n)."""
    return Table({f"x{i}": column for i, column in enumerate(X.round(4).T)} | {"target": y}, task)


def bundled(name: str, task: str, target: int | None = None) -> Table:
    """Return a table of scikit-learn; `target` is the index of the target if there are several."""
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    return numeric(X, y if target is None else y[:, target], task)


def noisy_line(rng: np.random.Generator) -> Table:
    """Return a linear function of 8 features, with as much noise as signal."""
    X = rng.normal(size=(300, 8))
    signal = X @ rng.normal(size=8)
    return numeric(X, (signal + signal.std() * rng.normal(size=300)).round(3), "regression")


def wide_line(rng: np.random.Generator) -> Table:
    """Return a linear function of 4 of 60 features, in 80 rows."""
    X = rng.normal(size=(80, 60))
    return numeric(X, (X[:, :4] @ [2, -1.5, 1, 1] + 0.5 * rng.normal(size=80)).round(3), "regression")


def curve(rng: np.random.Generator) -> Table:
    """Return Friedman's function of 5 of 10 features: an interaction, a parabola and a line."""
    X, y = datasets.make_friedman1(800, 10, noise=1.0, random_state=int(rng.integers(2**31)))
    return numeric(X, y.round(3), "regression")


def flats(rng: np.random.Generator) -> Table:
    """Return rents by area, rooms, year, and two columns of text."""
    m = 400
    zone = rng.choice(["centre", "east", "north", "south", "west"], m, p=[0.1, 0.2, 0.3, 0.25, 0.15])
    state = rng.choice(["good", "new", "old"], m)
    area = rng.normal(80, 25, m).clip(20)
    rooms, year = (area / 25 + rng.normal(0, 0.7, m)).round().clip(1), rng.integers(1900, 2020, m).astype(float)
    rate = np.array([4.8, 2.1, 3.0, 2.4, 3.3])[np.unique(zone, return_inverse=True)[1]]
    bonus = np.array([0, 40, -30])[np.unique(state, return_inverse=True)[1]]
    rent = rate * area + bonus + 8 * rooms + 40 * rng.normal(size=m)
    columns = {"zone": zone, "state": state, "area": area.round(1), "rooms": rooms, "year": year}
    return Table(columns | {"target": rent.round(1)}, "regression")


def noisy_classes(rng: np.random.Generator) -> Table:
    """Return two classes on both sides of a plane, with 15% of the labels wrong."""
    X = rng.normal(size=(300, 10))
    signal = X @ rng.normal(size=10)
    return numeric(X, np.where(rng.random(300) < 0.15, signal < 0, signal > 0).astype(int), "classification")


def wide_classes(rng: np.random.Generator) -> Table:
    """Return three clusters that differ in 10 of 100 features, in 120 rows."""
    y, centers = rng.permutation(np.arange(120) % 3), np.zeros((3, 100))
    centers[:, :10] = rng.normal(size=(3, 10))
    return numeric(centers[y] + rng.normal(size=(120, 100)), y, "classification")


def rings(rng: np.random.Generator) -> Table:
    """Return three classes, by the distance from the origin in 2 of 4 features."""
    X = rng.normal(size=(600, 4))
    distance = (X[:, :2] ** 2).sum(axis=1) + 0.3 * rng.normal(size=600)
    return numeric(X, np.digitize(distance, [0.8, 2.2]), "classification")


def rare(rng: np.random.Generator) -> Table:
    """Return two classes, one of them with 6% of the rows."""
    X = rng.normal(size=(1200, 8))
    signal = X @ [1.2, 1, -0.8, 0, 0, 0, 0, 0] + 0.7 * X[:, 3] * X[:, 4] + 0.7 * rng.logistic(size=1200)
    return numeric(X, (signal > np.quantile(signal, 0.94)).astype(int), "classification")


MADE: tuple[Callable[[np.random.Generator], Table], ...] = (
    noisy_line, wide_line, curve, flats, noisy_classes, wide_classes, rings, rare,
)  # fmt: skip


def tables() -> dict[str, Table]:
    """Return all tables by name."""
    known = {
        "diabetes": bundled("diabetes", "regression"),
        "linnerud, waist": bundled("linnerud", "regression", target=1),
        "iris": bundled("iris", "classification"),
        "wine": bundled("wine", "classification"),
        "breast cancer": bundled("breast_cancer", "classification"),
        "digits": bundled("digits", "classification"),
    }
    return known | {
        make.__name__.replace("_", " "): make(np.random.default_rng([i, 21])) for i, make in enumerate(MADE)
    }


def split(table: Table, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to train on, and the rows to score."""
    m = len(table.y)
    strata = table.y if table.task == "classification" else None
    train, test = train_test_split(
        np.arange(m), test_size=max(round(TEST * m), FEWEST), random_state=seed, stratify=strata
    )
    return train, test


def by_sklearn(table: Table, train: np.ndarray, test: np.ndarray, seed: int) -> dict[str, float]:
    """Return the scores of scikit-learn's models."""
    import pandas as pd

    frame = pd.DataFrame(table.columns).drop(columns="target")
    features = make_column_transformer(
        (StandardScaler(), make_column_selector(dtype_include=np.number)),
        (OneHotEncoder(handle_unknown="ignore"), make_column_selector(dtype_exclude=np.number)),
    )
    if table.task == "classification":
        models = {"linear": LogisticRegression(max_iter=1000), "MLP": MLPClassifier(random_state=seed)}
    else:
        mlp = TransformedTargetRegressor(MLPRegressor(random_state=seed), transformer=StandardScaler())
        models = {"linear": LinearRegression(), "MLP": mlp}
    scores = {}
    for name, model in models.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted = make_pipeline(features, model).fit(frame.iloc[train], table.y[train])
        scores[name] = float(fitted.score(frame.iloc[test], table.y[test]))
    return scores


def by_command(table: Table, train: np.ndarray, test: np.ndarray, backend: str, *options: str) -> float:
    """Return the score of a model of ``deepnotes train``."""
    with tempfile.TemporaryDirectory() as folder:
        files = [os.path.join(folder, name) for name in ("train.csv", "test.csv", "model.safetensors")]
        for path, rows in zip(files, (train, test), strict=False):
            write_table(path, list(table.columns), list(table.rows(rows).values()))
        same = ["--backend", backend, "--threads", "1"] if backend == "numba" else ["--backend", backend]
        chosen = ["--target", "target", "--task", table.task, "--validation", "0", "--quiet", "-o", files[2]]
        run(["train", files[0], *chosen, *same, *options])
        result = run(["evaluate", files[2], files[1], "--unknown", "zeros", "--json", *same])
    return float(result["metrics"]["accuracy" if table.task == "classification" else "r2"])


def run(arguments: list[str]) -> Any:
    """Run a command of deepnotes, and return its JSON object, if it writes one."""
    out = io.StringIO()
    errors = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        status = command(arguments)
    if status:
        raise RuntimeError(f"deepnotes {' '.join(arguments)}: {errors.getvalue()}")
    return json.loads(out.getvalue()) if out.getvalue() else None


def measure(table: Table, backend: str, seeds: int) -> dict[str, Any]:
    """Return the scores of all contenders, their means, and the difference of deepnotes to the MLP."""
    scores: dict[str, list[float]] = {}
    for seed in range(seeds):
        train, test = split(table, seed)
        own = ["--seed", str(seed)]
        measured = by_sklearn(table, train, test, seed) | {
            "deepnotes": by_command(table, train, test, backend, *own),
            "early stopping": by_command(table, train, test, backend, *own, "--early-stopping-share", "0.1"),
        }
        for name, score in measured.items():
            scores.setdefault(name, []).append(score)
    difference = np.array(scores["deepnotes"]) - scores["MLP"]
    error = float(difference.std(ddof=1) / np.sqrt(seeds)) if seeds > 1 else 0.0
    return {
        "task": table.task,
        "rows": len(table.y),
        "features": len(table.columns) - 1,
        "scores": scores,
        "mean": {name: float(np.mean(values)) for name, values in scores.items()},
        "difference to MLP": float(difference.mean()),
        "standard error": error,
        "passed": bool(difference.mean() >= -2 * error),
    }


def main() -> None:
    """Measure all tables, print the results, and write them if requested; exit with status 1 if a floor is missed."""
    options = Options(parser(__doc__, rounds=8))
    backend, known = options.backends[0], tables()
    results = {name: measure(known[name], backend, options.rounds) for name in options.with_progress(known)}
    means = mean_scores(results)
    what = f"held-out scores of {options.rounds} splits, {backend}"
    publish("tables", what, results, options.json, overall=means, backend=backend)
    missed = [name for name, r in results.items() if not r["passed"]]
    if means["deepnotes"] < means["linear"] - MARGIN:
        missed.append(f"the mean over all tables, {means['deepnotes']:.3f} against {means['linear']:.3f}")
    options.say(f"missed: {'; '.join(missed)}" if missed else "all floors are reached")
    raise SystemExit(bool(missed))


if __name__ == "__main__":
    main()
