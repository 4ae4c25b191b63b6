"""The time of a whole ``fit``: ``DenseClassifier`` beside scikit-learn's ``MLPClassifier``.

    python -m benchmarks.estimators --backends numba,numpy --json benchmarks/results/estimators.json

Both take the same hyperparameters, ``random_state``, data and dtype, so both begin with the same parameters and see the
samples in the same order, and have all epochs to make. Their losses after each epoch and their accuracies on samples
that were not trained on are compared before anything is timed; then they take turns in one process. What is timed is
all that a user waits for: checks of the arguments and of the data, and the training.
Needs the extra ``sklearn``.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

import deepnotes as dn
from benchmarks.options import Options, parser
from benchmarks.report import publish
from deepnotes.datasets import load_digits
from deepnotes.testing.bench.timing import seconds, summarize_ratios, turns

Samples = tuple[np.ndarray, np.ndarray]
THEIRS = "scikit-learn"


@dataclass(frozen=True)
class Case:
    """A fit: hidden layers, batch size and epochs, and the samples to train on and to score."""

    hidden: tuple[int, ...]
    batch: int
    epochs: int
    data: Callable[[], tuple[Samples, Samples]]


def generated(features: int, classes: int, samples: int, held_out: int) -> tuple[Samples, Samples]:
    """Return clusters of samples, one or more for each class, that a small network separates."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(2 * classes, features))
    of = rng.integers(0, 2 * classes, samples + held_out)
    X = (centers[of] + rng.normal(scale=0.5, size=(samples + held_out, features))).astype(np.float32)
    y = of % classes
    return (X[:samples], y[:samples]), (X[samples:], y[samples:])


def digits() -> tuple[Samples, Samples]:
    """Return the digits; the last ones come from other writers."""
    X, y = load_digits()[:2]
    X = (X / 16).astype(np.float32)
    return (X[:1500], y[:1500]), (X[1500:], y[1500:])


CASES = {
    "tiny": Case((16, 16), 16, 200, partial(generated, 4, 2, 500, 500)),
    "tiny-32": Case((16, 16), 32, 200, partial(generated, 4, 2, 500, 500)),
    "tiny-one-batch": Case((16, 16), 150, 200, partial(generated, 4, 2, 150, 500)),
    "digits": Case((128, 64), 64, 30, digits),
    "deep-mnist": Case((512, 512), 128, 5, partial(generated, 784, 10, 5000, 1000)),
}
"""The networks of :mod:`benchmarks.steps`; ``tiny`` in the batch sizes that change most of what a fit takes."""


def estimators(case: Case, backends: list[str]) -> dict[str, Any]:
    """Return new estimators by name, with the same hyperparameters."""
    options: dict[str, Any] = {
        "hidden_layer_sizes": case.hidden,
        "batch_size": case.batch,
        "max_iter": case.epochs,
        "n_iter_no_change": case.epochs,
        "random_state": 0,
    }
    ours = {backend: dn.DenseClassifier(backend=backend, **options) for backend in backends}
    return ours | {THEIRS: MLPClassifier(**options)}


def same(fitted: dict[str, Any], held_out: Samples) -> dict[str, float]:
    """Return the accuracies by name, after checking that all losses and accuracies agree."""
    X, y = held_out
    theirs, accuracies = fitted[THEIRS], {}
    for who, model in fitted.items():
        np.testing.assert_allclose(
            model.loss_curve_,
            theirs.loss_curve_,
            rtol=1e-2,
            atol=1e-3,
            err_msg=f"{who} trains differently from {THEIRS}",
        )
        accuracies[who] = float(model.score(X, y))
        if abs(accuracies[who] - theirs.score(X, y)) > 0.02:
            raise AssertionError(f"{who} has the accuracy {accuracies[who]}, {THEIRS} {theirs.score(X, y)}")
    return accuracies


def measure(name: str, backends: list[str], rounds: int) -> dict[str, Any]:
    """Return the median times of a fit in microseconds, and minimum, median and maximum of the ratios, of one case."""
    case = CASES[name]
    (X, y), held_out = case.data()
    rivals = estimators(case, backends)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # all have to run all epochs
        accuracies = same({who: model.fit(X, y) for who, model in rivals.items()}, held_out)
        times = turns({who: partial(seconds, partial(model.fit, X, y)) for who, model in rivals.items()}, rounds)
    units = [X.shape[1], *case.hidden, rivals[THEIRS].n_outputs_]
    result = summarize_ratios(times, [THEIRS])
    return {
        "network": "-".join(map(str, units)),
        "samples": len(y),
        "batch": case.batch,
        "epochs": case.epochs,
        "accuracy": {who: round(accuracy, 4) for who, accuracy in accuracies.items()},
        **result,
    }


def main() -> None:
    """Measure, print a table, and write the results if requested."""
    line = parser(__doc__)
    line.add_argument("--cases", default=",".join(CASES), help="with commas between; default: all")
    options = Options(line)
    results = {name: measure(name, options.backends, options.rounds) for name in options.known("--cases", CASES)}
    publish("estimators", "a whole fit, float32; how many times as long scikit-learn takes", results, options.json)


if __name__ == "__main__":
    main()
