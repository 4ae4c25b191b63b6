"""Compare the time of a whole ``fit`` of ``DenseClassifier`` with that of scikit-learn's ``MLPClassifier``.

    python -m benchmarks.estimators --backends numba,numpy --json benchmarks/results/estimators.json

Both estimators have the same hyperparameters, ``random_state``, data and dtype. So they start from the same parameters,
see the samples in the same order, and run all epochs. The losses of each epoch and the accuracies on held-out samples
are compared before anything is timed. Then the estimators take turns in one process. The time includes all checks of
arguments and data.

The benchmark requires the extra ``sklearn``.
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
SKLEARN = "scikit-learn"


@dataclass(frozen=True)
class Case:
    """The options of a fit, and a function that returns the samples for training and for scoring."""

    hidden: tuple[int, ...]
    batch: int
    epochs: int
    data: Callable[[], tuple[Samples, Samples]]


def generate_samples(features: int, classes: int, samples: int, held_out: int) -> tuple[Samples, Samples]:
    """Return training and held-out samples from two clusters per class, which a small network can separate."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(2 * classes, features))
    cluster = rng.integers(0, 2 * classes, samples + held_out)
    X = (centers[cluster] + rng.normal(scale=0.5, size=(samples + held_out, features))).astype(np.float32)
    y = cluster % classes
    return (X[:samples], y[:samples]), (X[samples:], y[samples:])


def load_digit_samples() -> tuple[Samples, Samples]:
    """Return the digits for training, and held-out digits by other writers."""
    X, y = load_digits()[:2]
    X = (X / 16).astype(np.float32)
    return (X[:1500], y[:1500]), (X[1500:], y[1500:])


CASES = {
    "tiny": Case((16, 16), 16, 200, partial(generate_samples, 4, 2, 500, 500)),
    "tiny-32": Case((16, 16), 32, 200, partial(generate_samples, 4, 2, 500, 500)),
    "tiny-one-batch": Case((16, 16), 150, 200, partial(generate_samples, 4, 2, 150, 500)),
    "digits": Case((128, 64), 64, 30, load_digit_samples),
    "deep-mnist": Case((512, 512), 128, 5, partial(generate_samples, 784, 10, 5000, 1000)),
}
"""Networks of :mod:`benchmarks.steps`; ``tiny`` has several batch sizes, since the size affects its time most."""


def make_estimators(case: Case, backends: list[str]) -> dict[str, Any]:
    """Return new estimators with the same hyperparameters: one for each backend, and scikit-learn's."""
    options: dict[str, Any] = {
        "hidden_layer_sizes": case.hidden,
        "batch_size": case.batch,
        "max_iter": case.epochs,
        "n_iter_no_change": case.epochs,
        "random_state": 0,
    }
    ours = {backend: dn.DenseClassifier(backend=backend, **options) for backend in backends}
    return ours | {SKLEARN: MLPClassifier(**options)}


def check_agreement(fitted: dict[str, Any], held_out: Samples) -> dict[str, float]:
    """Check that all losses and accuracies agree; return the accuracy of each estimator."""
    X, y = held_out
    reference, accuracies = fitted[SKLEARN], {}
    for name, model in fitted.items():
        np.testing.assert_allclose(
            model.loss_curve_,
            reference.loss_curve_,
            rtol=1e-2,
            atol=1e-3,
            err_msg=f"{name} trains differently from {SKLEARN}",
        )
        accuracies[name] = float(model.score(X, y))
        if abs(accuracies[name] - reference.score(X, y)) > 0.02:
            raise AssertionError(f"{name} has an accuracy of {accuracies[name]}, {SKLEARN} of {reference.score(X, y)}")
    return accuracies


def measure(name: str, backends: list[str], rounds: int) -> dict[str, Any]:
    """Return the median time of each estimator's fit, in microseconds, and the ratios to scikit-learn's time."""
    case = CASES[name]
    (X, y), held_out = case.data()
    contenders = make_estimators(case, backends)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # no fit is meant to converge
        accuracies = check_agreement({name: model.fit(X, y) for name, model in contenders.items()}, held_out)
        times = turns({name: partial(seconds, partial(model.fit, X, y)) for name, model in contenders.items()}, rounds)
    units = [X.shape[1], *case.hidden, contenders[SKLEARN].n_outputs_]
    result = summarize_ratios(times, [SKLEARN])
    return {
        "network": "-".join(map(str, units)),
        "samples": len(y),
        "batch": case.batch,
        "epochs": case.epochs,
        "accuracy": {name: round(accuracy, 4) for name, accuracy in accuracies.items()},
        **result,
    }


def main() -> None:
    """Measure, print a table, and write the results if requested."""
    argument_parser = parser(__doc__)
    argument_parser.add_argument("--cases", default=",".join(CASES), help="separated by commas; default: all")
    options = Options(argument_parser)
    results = {name: measure(name, options.backends, options.rounds) for name in options.known("--cases", CASES)}
    publish("estimators", "a whole fit in float32, and scikit-learn's time divided by it", results, options.json)


if __name__ == "__main__":
    main()
