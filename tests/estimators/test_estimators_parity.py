# ruff: noqa: E402
"""Our estimators compared with scikit-learn's: training gives the same parameters, up to rounding errors."""

from typing import Any

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.backends.eager import EagerProgram
from deepnotes.backends.program import Data, State

REASON = 'needs scikit-learn: pip install "deepnotes[sklearn]"'
sklearn = pytest.importorskip("sklearn", reason=REASON)

from sklearn.datasets import load_iris, make_multilabel_classification
from sklearn.neural_network import MLPClassifier, MLPRegressor

from deepnotes.backends.bounds import Bounds, excess

BACKENDS = [
    "numpy",
    pytest.param("numba", marks=pytest.mark.skipif("numba" not in dn.available_backends(), reason="needs numba")),
]
TOLERANCE = 1e-8
"""The tolerance: larger than rounding errors, which reach 1e-11 after a hundred epochs in float64, but smaller than the
effect of a different formula (see the last test)."""

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

IRIS = load_iris(return_X_y=True)
WEIGHTS = np.random.default_rng(0).uniform(0, 3, 150)
TASKS: dict[str, tuple[Any, Any, tuple[Any, Any], Any]] = {
    "classes": (dn.DenseClassifier, MLPClassifier, IRIS, None),
    "two classes": (dn.DenseClassifier, MLPClassifier, (IRIS[0], IRIS[1] > 1), None),
    "sample weights": (dn.DenseClassifier, MLPClassifier, IRIS, WEIGHTS),
    "multilabel": (dn.DenseClassifier, MLPClassifier, make_multilabel_classification(100, random_state=0), None),
    "one output": (dn.DenseRegressor, MLPRegressor, (IRIS[0][:, :3], IRIS[0][:, 3]), WEIGHTS),
    "two outputs": (dn.DenseRegressor, MLPRegressor, (IRIS[0][:, :2], IRIS[0][:, 2:]), None),
}
SOLVERS: dict[str, dict[str, Any]] = {
    "adam": {},
    "adam, no shuffling": {"shuffle": False, "alpha": 0.1, "batch_size": 32, "epsilon": 1e-3},
    "adam, early stopping": {"early_stopping": True, "batch_size": 16, "n_iter_no_change": 3},
    "sgd": {"solver": "sgd", "alpha": 0.1, "batch_size": 40},
    "sgd, no momentum": {"solver": "sgd", "momentum": 0, "shuffle": False, "batch_size": 7},
    "sgd, momentum 1": {"solver": "sgd", "momentum": 1.0, "nesterovs_momentum": False, "max_iter": 20},
    "invscaling": {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.1, "alpha": 1.0},
    "adaptive": {"solver": "sgd", "learning_rate": "adaptive", "learning_rate_init": 0.05, "tol": 1e-2},
    "lbfgs": {"solver": "lbfgs", "max_iter": 4},
}


def parameters(model: Any) -> np.ndarray:
    return np.concatenate([np.ravel(a) for a in model.coefs_ + model.intercepts_])


def check_equal(ours: Any, theirs: Any) -> None:
    """Check that the parameters and the attributes that describe training equal those of scikit-learn's estimator."""
    np.testing.assert_allclose(parameters(ours), parameters(theirs), rtol=0, atol=TOLERANCE)
    for name in ("n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_", "n_features_in_"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert [W.shape for W in ours.coefs_] == [W.shape for W in theirs.coefs_]
    assert [b.shape for b in ours.intercepts_] == [b.shape for b in theirs.intercepts_]
    for name in ("loss_", "loss_curve_", "validation_scores_", "best_loss_", "best_validation_score_"):
        actual, expected = (getattr(model, name, None) for model in (ours, theirs))
        assert (actual is None) == (expected is None), name
        if expected is not None:
            np.testing.assert_allclose(actual, expected, rtol=TOLERANCE, atol=TOLERANCE, err_msg=name)


LBFGS_DIFFERS = {("two outputs", "lbfgs")}
"""For several outputs, scikit-learn passes L-BFGS the mean of their losses but the gradient of their sum; we pass the
sum and its gradient."""


@pytest.mark.thinned(6)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("task", "solver"), sorted({(t, s) for t in TASKS for s in SOLVERS} - LBFGS_DIFFERS))
def test_training_matches_scikit_learn(task, solver, backend) -> None:
    ours, theirs, (X, y), weights = TASKS[task]
    options = {"hidden_layer_sizes": (8, 5), "random_state": 3, "max_iter": 60, **SOLVERS[solver]}
    actual = ours(backend=backend, **options).fit(X, y, weights)
    expected = theirs(**options).fit(X, y, weights)
    check_equal(actual, expected)
    if task in {"one output", "two outputs"}:
        np.testing.assert_allclose(actual.predict(X), expected.predict(X), rtol=0, atol=TOLERANCE)
    else:
        np.testing.assert_array_equal(actual.predict(X), expected.predict(X))
        np.testing.assert_array_equal(actual.classes_, expected.classes_)
        np.testing.assert_allclose(actual.predict_proba(X), expected.predict_proba(X), atol=TOLERANCE)
        np.testing.assert_allclose(actual.predict_log_proba(X), expected.predict_log_proba(X), atol=TOLERANCE)


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("sizes", [(), 6, (5, 4, 3)])
def test_activations_and_initial_parameters_match_scikit_learn(activation, sizes) -> None:
    X, y = IRIS
    options = {"hidden_layer_sizes": sizes, "activation": activation, "random_state": 0, "max_iter": 5}
    check_equal(dn.DenseClassifier(**options).fit(X, y), MLPClassifier(**options).fit(X, y))


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_poisson_regression_matches_scikit_learn(solver) -> None:
    rng = np.random.default_rng(0)
    X = rng.uniform(size=(100, 2))
    Y = rng.poisson(np.exp(X + np.array([1, 0])))
    for y in (Y, Y[:, 0]):
        options = {"loss": "poisson", "hidden_layer_sizes": 5, "random_state": 1, "max_iter": 30, "solver": solver}
        check_equal(dn.DenseRegressor(**options).fit(X, y), MLPRegressor(**options).fit(X, y))
    with pytest.raises(ValueError, match="needs values of at least 0"):
        dn.DenseRegressor(loss="poisson").fit(X, -Y)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", [{}, {"solver": "sgd", "learning_rate": "invscaling"}])
def test_partial_fit_matches_scikit_learn(backend, options) -> None:
    X, y = IRIS
    classes = np.unique(y)
    ours, theirs = (
        dn.DenseClassifier(5, backend=backend, random_state=0, **options),
        MLPClassifier(5, random_state=0, **options),
    )
    for start in range(0, 150, 30):
        for model in (ours, theirs):
            model.partial_fit(X[start : start + 30], y[start : start + 30], classes=classes)
        check_equal(ours, theirs)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"solver": "sgd", "learning_rate": "adaptive", "tol": 0.1},
        {"solver": "sgd", "learning_rate": "invscaling"},
    ],
)
def test_warm_starts_match_scikit_learn(options) -> None:
    X, y = IRIS
    arguments = {"hidden_layer_sizes": 5, "warm_start": True, "max_iter": 7, "random_state": 0, **options}
    ours, theirs = dn.DenseClassifier(**arguments), MLPClassifier(**arguments)
    for _ in range(3):
        ours.fit(X, y)
        theirs.fit(X, y)
        check_equal(ours, theirs)


def test_verbose_output_matches_scikit_learn(capsys) -> None:
    X, y = IRIS
    outputs = []
    for estimator in (dn.DenseClassifier, MLPClassifier):
        for options in ({"tol": 0.1}, {"early_stopping": True}, {"solver": "sgd", "learning_rate": "adaptive"}):
            estimator(3, max_iter=40, verbose=True, random_state=0, n_iter_no_change=2, **options).fit(X, y)
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    assert "Setting learning rate to" in outputs[0]
    dn.DenseClassifier(3, max_iter=3, verbose=True, random_state=0, solver="lbfgs").fit(X, y)
    assert capsys.readouterr().out.count("loss = ") == 3


class Recorder(dn.Callback):
    """Records the training run and its initial parameters."""

    def on_start(self, training: Any) -> None:
        self.training, self.theta = training, training.network.flat()


@pytest.mark.parametrize("options", [
    {"alpha": 0.3, "batch_size": 40},
    {"solver": "sgd", "alpha": 0.3, "batch_size": 40},
    {"solver": "sgd", "alpha": 0.3, "batch_size": 150, "momentum": 0, "learning_rate": "invscaling"},
], ids=["adam", "sgd", "invscaling"])  # fmt: skip
def test_ours_and_scikit_learns_parameters_are_within_the_error_bounds_of_the_equations(options) -> None:
    """Each differs from a computation in higher precision by at most the rounding error bound of float64.

    The test therefore needs no other tolerance.
    """
    X, y = IRIS
    recorder = Recorder()
    common = {"hidden_layer_sizes": (6, 4), "activation": "tanh", "max_iter": 3, "shuffle": False, "random_state": 0}
    ours = dn.DenseClassifier(callbacks=[recorder], **common, **options).fit(X, y)
    theirs = MLPClassifier(**common, **options).fit(X, y)
    t = recorder.training
    bounds = Bounds("float64")
    eager = EagerProgram(bounds, t.plan)
    zeros = np.zeros(t.plan.layout.size)
    state = State(bounds.from_numpy(recorder.theta), tuple(bounds.from_numpy(zeros) for _ in t.plan.optimizer.slots))
    data = Data(*(None if a is None else bounds.from_numpy(a) for a in t.data))
    rate, is_invscaling = 0.001, options.get("learning_rate") == "invscaling"
    for epoch in range(3):
        for start in range(0, 150, t.batch_size):
            batch = eager.batch(data, np.arange(start, min(150, start + t.batch_size)))
            eager.update(state, eager.gradients(state, batch).flat, rate)
        rate = 0.001 / (150 * (epoch + 1) + 1) ** 0.5 if is_invscaling else rate
    for model in (ours, theirs):
        flat = np.concatenate([*(W.T.ravel() for W in model.coefs_), *model.intercepts_])
        assert excess(flat, state.theta).max() <= 1


@pytest.mark.parametrize("change", [{"epsilon": 2e-8}, {"alpha": 1.1e-4}, {"beta_2": 0.9991}, {"batch_size": 149}])
def test_a_slightly_different_hyperparameter_exceeds_the_tolerance(change) -> None:
    X, y = IRIS
    options = {"hidden_layer_sizes": (8, 5), "random_state": 3, "max_iter": 60}
    a, b = (MLPClassifier(**arguments).fit(X, y) for arguments in (options, options | change))
    assert abs(parameters(a) - parameters(b)).max() > 3 * TOLERANCE
