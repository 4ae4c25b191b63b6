# ruff: noqa: E402
"""Our estimators behave as scikit-learn's tests require its multilayer perceptrons to behave."""

import warnings
from typing import Any

import numpy as np
import pytest

import deepnotes as dn

REASON = 'needs scikit-learn: pip install "deepnotes[sklearn]"'
sklearn = pytest.importorskip("sklearn", reason=REASON)

from scipy.sparse import csr_array, csr_matrix
from sklearn.datasets import load_iris, make_multilabel_classification, make_regression
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import MinMaxScaler, StandardScaler, scale

from deepnotes.datasets import load_digits
from deepnotes.estimators.base import Samples

BACKENDS = [
    "numpy",
    pytest.param("numba", marks=pytest.mark.skipif("numba" not in dn.available_backends(), reason="needs numba")),
]
ACTIVATIONS = ["identity", "logistic", "tanh", "relu"]
ESTIMATORS = [dn.DenseClassifier, dn.DenseRegressor]

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X_iris, y_iris = load_iris(return_X_y=True)
X_reg, y_reg = make_regression(n_samples=200, n_features=10, bias=20.0, noise=100.0, random_state=7)
y_reg = scale(y_reg)


def digits(classes: int, samples: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Return the first `samples` images of digits below `classes`, with every pixel scaled to the range from 0 to 1."""
    X, y = load_digits()[:2]
    indices = np.flatnonzero(y < classes)[:samples]
    return MinMaxScaler().fit_transform(X[indices]), y[indices]


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_step_gives_parameters_computed_by_hand(backend) -> None:
    """One sample, logistic activation, learning rate 0.1, alpha 0.1."""
    model = dn.DenseClassifier(
        2, "logistic", solver="sgd", learning_rate_init=0.1, alpha=0.1, momentum=0, max_iter=1, backend=backend
    )
    model.coefs_ = [np.array([[0.1, 0.2], [0.3, 0.1], [0.5, 0.0]]), np.array([[0.1], [0.2]])]
    model.intercepts_ = [np.array([0.1, 0.1]), np.array([1.0])]
    model.n_features_in_, model.n_layers_, model.n_outputs_, model.out_activation_ = 3, 3, 1, "logistic"
    model.t_ = model.n_iter_ = 0
    model.partial_fit([[0.6, 0.8, 0.7]], [0], classes=[0, 1])

    x = np.array([0.6, 0.8, 0.7])
    h = 1 / (1 + np.exp(-np.array([0.06 + 0.24 + 0.35 + 0.1, 0.12 + 0.08 + 0.0 + 0.1])))
    d2 = 1 / (1 + np.exp(-(0.1 * h[0] + 0.2 * h[1] + 1)))  # the output minus the target, which is 0
    d1 = h * (1 - h) * d2 * [0.1, 0.2]
    np.testing.assert_allclose(h, [0.679178699, 0.574442517], rtol=1e-9)
    W1 = np.array([[0.1, 0.2], [0.3, 0.1], [0.5, 0.0]])
    np.testing.assert_allclose(model.coefs_[0], W1 - 0.1 * (np.outer(x, d1) + 0.1 * W1), rtol=1e-14)
    np.testing.assert_allclose(
        model.coefs_[0], [[0.098, 0.195756], [0.2956664, 0.096008], [0.4939998, -0.002244]], atol=1e-3
    )
    np.testing.assert_allclose(model.coefs_[1], [[0.04706], [0.154089]], atol=1e-3)
    np.testing.assert_allclose(model.intercepts_[0], [0.098333, 0.09626], atol=1e-3)
    np.testing.assert_allclose(model.intercepts_[1], [0.9235], atol=1e-3)
    assert model.predict_proba([x])[0, 1] == pytest.approx(0.739, abs=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("outputs", [1, 3])
def test_the_gradient_for_lbfgs_matches_finite_differences_of_its_loss(outputs, backend) -> None:
    rng = np.random.default_rng(42)
    X, Y = rng.uniform(size=(5, 10)), rng.uniform(size=(5, outputs)).squeeze()
    for estimator, y in ((dn.DenseClassifier, np.arange(5) % (outputs + 1)), (dn.DenseRegressor, Y)):
        model = estimator(
            hidden_layer_sizes=4,
            activation="tanh",
            solver="lbfgs",
            alpha=0.5,
            max_iter=1,
            random_state=1,
            backend=backend,
        ).fit(X, y, np.arange(1.0, 6))
        network = model._network()
        plan, program, state = network._training
        assert plan.l2 == 0.5
        rows, labels = model._validate(X, y, False, False)
        samples = Samples(rows, labels, np.arange(1.0, 6))
        data = model._data(network, plan, samples)
        theta, actual = network.flat(), np.array(program.gradients(state, data).flat)
        h = 1e-5
        expected = []
        for i in range(len(theta)):
            costs = []
            for step in (h, -h):
                network.set_flat(theta + step * (np.arange(len(theta)) == i))
                costs.append(float(program.gradients(state, data).cost))
            expected.append((costs[0] - costs[1]) / (2 * h))
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-7)  # truncation h² f''' / 6, and rounding / h


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("classes", [2, 3])
def test_lbfgs_learns_digits(classes, backend) -> None:
    X, y = digits(classes)
    for activation in ACTIVATIONS:
        model = dn.DenseClassifier(50, activation, solver="lbfgs", max_iter=150, random_state=1, backend=backend)
        model.fit(X[:150], y[:150])
        assert model.score(X[:150], y[:150]) > 0.95
        assert model.predict(X[150:]).shape == (50,)
        assert model.predict(X[150:]).dtype == y.dtype


@pytest.mark.parametrize("backend", BACKENDS)
def test_lbfgs_fits_regression_targets(backend) -> None:
    for activation in ACTIVATIONS:
        model = dn.DenseRegressor(
            hidden_layer_sizes=50, activation=activation, solver="lbfgs", max_iter=200, tol=1e-3, random_state=1,
            backend=backend,
        )  # fmt: skip
        assert model.fit(X_reg, y_reg).score(X_reg, y_reg) > (0.80 if activation == "identity" else 0.98)


def test_lbfgs_respects_max_fun() -> None:
    for estimator, X, y in ((dn.DenseClassifier, *digits(3)), (dn.DenseRegressor, X_reg, y_reg)):
        model = estimator(solver="lbfgs", hidden_layer_sizes=50, tol=0.0, max_iter=150, max_fun=10, random_state=1)
        with pytest.warns(ConvergenceWarning, match="lbfgs failed to converge"):
            model.fit(X, y)
        assert model.n_iter_ <= 10


@pytest.mark.parametrize("backend", BACKENDS)
def test_adam_learns_iris_and_all_digits(backend) -> None:
    X = StandardScaler().fit_transform(X_iris)
    model = dn.DenseClassifier(20, max_iter=300, learning_rate_init=0.01, random_state=0, backend=backend).fit(
        X, y_iris
    )
    assert model.score(X, y_iris) > 0.97
    X, y = load_digits()[:2]
    model = dn.DenseClassifier(64, max_iter=20, batch_size=64, dtype="float32", random_state=0, backend=backend)
    model.fit(X[:1400] / 16, y[:1400])
    assert model.score(X[1400:] / 16, y[1400:]) > 0.88
    assert np.diff(model.loss_curve_).max() < 0


def test_a_larger_alpha_gives_smaller_weights() -> None:
    X, y = digits(2, 100)
    small, large = (
        [abs(W).sum() for W in dn.DenseClassifier(10, alpha=alpha, random_state=1).fit(X, y).coefs_] for alpha in (0, 1)
    )
    assert all(a > b for a, b in zip(small, large, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_multilabel_targets_are_learned(backend) -> None:
    X, Y = make_multilabel_classification(n_samples=50, random_state=0, return_indicator=True)
    model = dn.DenseClassifier(
        50, "logistic", solver="lbfgs", alpha=1e-5, max_iter=150, random_state=0, backend=backend
    )
    assert model.fit(X, Y).score(X, Y) > 0.97
    probabilities = model.predict_proba(X)
    np.testing.assert_array_equal(probabilities > 0.5, Y)
    assert abs(probabilities.sum(axis=1) - 1).max() > 0.1  # the labels are independent
    model = dn.DenseClassifier(
        50, "logistic", solver="sgd", alpha=1e-5, learning_rate_init=0.2, random_state=0, backend=backend
    )
    for _ in range(100):
        model.partial_fit(X, Y, classes=[0, 1, 2, 3, 4])
    assert model.score(X, Y) > 0.9
    dn.DenseClassifier(early_stopping=True, max_iter=5, backend=backend).fit(X, Y).predict(X)
    sparse = dn.DenseClassifier(5, max_iter=5, random_state=0, backend=backend).fit(X, csr_matrix(Y))
    assert sparse.predict(X).format == "csr"
    np.testing.assert_array_equal(sparse.predict_proba(X).round(9), sparse.predict_proba(csr_array(X)).round(9))


@pytest.mark.parametrize("backend", BACKENDS)
def test_several_regression_targets_are_learned(backend) -> None:
    X, Y = make_regression(n_samples=200, n_targets=5, random_state=11)
    model = dn.DenseRegressor(
        hidden_layer_sizes=50, solver="lbfgs", max_iter=200, tol=1e-2, random_state=1, backend=backend
    ).fit(X, Y)
    assert model.score(X, Y) > 0.9
    half = 0.5 * ((model.predict(X) - Y) ** 2).mean() + 0.5 * 1e-4 / 200 * sum((W**2).sum() for W in model.coefs_)
    assert model.loss_ == pytest.approx(half, rel=1e-9)


@pytest.mark.thinned(2)
@pytest.mark.parametrize("backend", BACKENDS)
def test_partial_fit_with_all_samples_equals_one_epoch_of_fit(backend) -> None:
    for classes in (2, 3):
        X, y = digits(classes)
        options: dict[str, Any] = {
            "solver": "sgd",
            "alpha": 1e-5,
            "learning_rate_init": 0.2,
            "random_state": 1,
            "backend": backend,
        }
        fitted = dn.DenseClassifier(max_iter=100, tol=0, **options).fit(X, y)
        model = dn.DenseClassifier(**options)
        for _ in range(100):
            model.partial_fit(X, y, classes=np.unique(y))
        np.testing.assert_array_equal(model.predict(X), fitted.predict(X))
        assert model.score(X, y) > 0.95
    for momentum in (0, 0.9):
        options = {
            "solver": "sgd", "learning_rate_init": 0.01, "batch_size": 200, "momentum": momentum, "random_state": 1,
            "backend": backend, "shuffle": False,
        }  # fmt: skip
        fitted = dn.DenseRegressor(max_iter=100, **options).fit(X_reg, y_reg)
        model = dn.DenseRegressor(**options)
        for _ in range(100):
            model.partial_fit(X_reg, y_reg)
        np.testing.assert_array_equal(model.predict(X_reg), fitted.predict(X_reg))  # bit for bit
        assert model.score(X_reg, y_reg) > 0.65


def test_partial_fit_checks_the_classes() -> None:
    model = dn.DenseClassifier(random_state=0)
    model.partial_fit([[1], [2], [3]], ["a", "b", "c"], classes=["a", "b", "c", "d"])
    model.partial_fit([[4]], ["d"])
    assert model.score([[1], [2], [3], [4]], ["a", "b", "c", "d"]) > 0
    with pytest.raises(ValueError, match="not the same as on last call"):
        model.partial_fit([[1]], ["a"], classes=["a", "b"])
    with pytest.raises(ValueError, match="classes not in"):
        model.partial_fit([[1]], ["e"])
    with pytest.raises(ValueError, match="classes not in"):
        dn.DenseClassifier().partial_fit([[1], [2]], [1, 0], classes=[2])
    with pytest.raises(ValueError, match="classes must be passed"):
        dn.DenseClassifier().partial_fit([[1], [2]], [1, 0])
    for estimator in ESTIMATORS:
        assert not hasattr(estimator(solver="lbfgs"), "partial_fit")
        with pytest.raises(ValueError, match="partial_fit does not support early_stopping=True"):
            estimator(early_stopping=True).partial_fit(
                [[1], [2]], [1, 0], **({"classes": [0, 1]} if estimator is dn.DenseClassifier else {})
            )


@pytest.mark.parametrize("backend", BACKENDS)
def test_training_that_diverges_is_an_error_or_ends_early(backend) -> None:
    X = np.finfo(float).max * np.random.default_rng(0).uniform(size=(10, 2))
    with pytest.raises(ValueError, match="Solver produced non-finite"):
        dn.DenseRegressor(backend=backend).fit(X, np.arange(10.0))
    model = dn.DenseRegressor(
        activation="identity", solver="sgd", learning_rate_init=1.0, max_iter=20, early_stopping=True, random_state=0,
        backend=backend,
    )  # fmt: skip
    with pytest.warns(ConvergenceWarning, match="before it converged"):
        model.fit(X_iris, y_iris)
    assert model.validation_scores_ is not None
    assert np.isnan(model.validation_scores_[-1])
    assert len(model.validation_scores_) == len(model.loss_curve_) == model.n_iter_
    assert all(np.isfinite(W).all() for W in model.coefs_)  # the parameters with the best score


def test_probabilities_follow_the_order_of_the_classes() -> None:
    X, y = digits(2, 50)
    model = dn.DenseClassifier(5, "logistic", random_state=1).fit(X, y)
    p = model.predict_proba(X)
    assert p.shape == (50, 2)
    np.testing.assert_array_equal(model.predict_log_proba(X), np.log(p))
    np.testing.assert_array_equal(model.classes_[p.argmax(axis=1)], model.predict(X))
    assert roc_auc_score(y, p[:, 1]) == 1.0
    named_classes = dn.DenseClassifier(5, "logistic", random_state=1).fit(X, np.array(["zero", "one"])[y])
    assert named_classes.classes_.tolist() == ["one", "zero"]
    assert set(named_classes.predict(X)) <= {"one", "zero"}


def test_shuffling_changes_the_result_reproducibly() -> None:
    X, y = make_regression(n_samples=50, n_features=5, random_state=0)
    options: dict[str, Any] = {"hidden_layer_sizes": 1, "max_iter": 1, "batch_size": 1, "random_state": 0}
    a, b, c = (dn.DenseRegressor(shuffle=s, **options).fit(X, y).coefs_[0] for s in (True, True, False))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "options", [{}, {"early_stopping": True}, {"solver": "lbfgs"}, {"batch_size": 7, "shuffle": False}]
)
def test_sparse_and_dense_samples_train_to_the_same_parameters(options, backend, monkeypatch) -> None:
    from deepnotes.estimators import sparse

    monkeypatch.setattr(sparse, "BYTES", 8 * 64 * 20)  # a chunk holds a few small batches, or less than one large batch
    X, y = digits(3, 120)
    weights = np.linspace(0.5, 2, 120)
    arguments = {"hidden_layer_sizes": 15, "random_state": 1, "max_iter": 8, "backend": backend, **options}
    dense = dn.DenseClassifier(**arguments).fit(X, y, weights)
    for container in (csr_matrix, csr_array, lambda rows: csr_array(rows).tocsc()):
        model = dn.DenseClassifier(**arguments).fit(container(X), y, weights)
        for a, b in zip(model.coefs_, dense.coefs_, strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(model.predict(container(X)), dense.predict(X))
    model = dn.DenseRegressor(**arguments).fit(csr_array(X), y)
    np.testing.assert_allclose(model.predict(csr_array(X)), model.predict(X), rtol=1e-13)


def test_training_ends_when_improvements_stay_below_tol() -> None:
    X, y = [[3, 2], [1, 6]], [1, 0]
    assert dn.DenseClassifier(tol=0.5, max_iter=3000, solver="sgd").fit(X, y).n_iter_ < 3000
    model = dn.DenseClassifier(tol=0.5, max_iter=3000, solver="sgd", learning_rate="adaptive").fit(X, y)
    assert model.n_iter_ < 3000
    assert model._live_network.rate.rate < 1e-6
    X_d, y_d = digits(2, 100)
    for patience in (2, 5, 50):
        model = dn.DenseClassifier(tol=0.01, max_iter=3000, solver="sgd", n_iter_no_change=patience).fit(X_d, y_d)
        assert model._no_improvement_count == patience + 1
        assert model.n_iter_ < 3000
    model = dn.DenseClassifier(tol=1e9, max_iter=300, solver="sgd", n_iter_no_change=np.inf).fit(X_d, y_d)
    assert model.n_iter_ == 300


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_early_stopping_keeps_the_best_parameters_and_records_the_curves(estimator, backend) -> None:
    X, y = digits(2, 100)
    model = estimator(tol=0.2, max_iter=3000, solver="sgd", early_stopping=True, backend=backend).fit(X, y)
    assert model.n_iter_ < 3000
    assert model.best_loss_ is None
    assert max(model.validation_scores_) == model.best_validation_score_
    assert len(model.validation_loss_curve_) == len(model.validation_scores_) == model.n_iter_
    assert model.history_.val_loss == model.validation_loss_curve_
    model = estimator(tol=0.2, max_iter=3000, solver="sgd", backend=backend).fit(X, y)
    assert model.validation_scores_ is model.best_validation_score_ is None
    assert model.best_loss_ == min(model.loss_curve_)
    with pytest.raises(ValueError, match="to validate with, wanted at least 2"):
        dn.DenseRegressor(early_stopping=True).fit(X[:2], y[:2])
    with pytest.raises(ValueError, match="least populated class"):
        dn.DenseClassifier(early_stopping=True).fit([[1, 2], [2, 3], [3, 4], [4, 5]], [0, 0, 0, 1])


def test_a_warm_start_without_improvement_keeps_the_best_parameters() -> None:
    options: dict[str, Any] = {
        "early_stopping": True,
        "warm_start": True,
        "random_state": 0,
        "solver": "sgd",
        "max_iter": 30,
    }
    X = StandardScaler().fit_transform(X_iris)
    model = dn.DenseClassifier(5, learning_rate_init=0.1, **options).fit(X, y_iris)
    best_score, best_coefs = model.best_validation_score_, [W.copy() for W in model.coefs_]
    model.set_params(learning_rate_init=1e-9, max_iter=3).fit(X, y_iris)
    assert model.best_validation_score_ == best_score
    assert len(model.validation_scores_) > 3
    for a, b in zip(model.coefs_, best_coefs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_warm_start_needs_the_same_classes_and_layers() -> None:
    model = dn.DenseClassifier(2, solver="lbfgs", warm_start=True, random_state=42, tol=1e-2).fit(X_iris, y_iris)
    model.fit(X_iris, np.repeat([0, 1, 2], [40, 40, 70]))
    for other in (np.repeat([0, 1], 75), np.repeat([0, 1, 3], 50), np.arange(150) % 4):
        with pytest.raises(ValueError, match="warm_start can only be used where `y` has the same classes"):
            model.fit(X_iris, other)
    with pytest.raises(ValueError, match=r"sizes \[4, 2, 3\], but this fit needs \[4, 5, 3\]"):
        model.set_params(hidden_layer_sizes=5).fit(X_iris, y_iris)
    with pytest.raises(ValueError, match="features"):
        model.set_params(hidden_layer_sizes=2).fit(X_iris[:, :2], y_iris)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_every_warm_start_may_use_all_iterations(estimator, solver) -> None:
    model = estimator(solver=solver, warm_start=True, max_iter=5, n_iter_no_change=np.inf, tol=0, random_state=0)
    for iterations in (5, 8):
        with pytest.warns(ConvergenceWarning):
            model.set_params(max_iter=iterations).fit(X_iris, y_iris)
        assert model.n_iter_ == iterations
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for other in {"adam", "sgd", "lbfgs"} - {solver}:  # missing attributes of the new solver are created
            model.set_params(solver=other, early_stopping=other == "sgd").fit(X_iris, y_iris)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_dtype_argument_defaults_to_the_dtype_of_the_samples(estimator, backend) -> None:
    X64, y = digits(3)
    for X in (X64, X64.astype(np.float32)):
        for requested in (None, "float32", "float64"):
            model = estimator(max_iter=3, random_state=1, dtype=requested, backend=backend).fit(X, y)
            expected = requested or X.dtype
            assert {a.dtype for a in model.coefs_ + model.intercepts_} == {np.dtype(expected)}
            output = model.predict_proba(X) if estimator is dn.DenseClassifier else model.predict(X)
            assert output.dtype == expected
    model_32, model_64 = (
        estimator(max_iter=30, random_state=1, dtype=d, backend=backend).fit(X64, y) for d in ("float32", "float64")
    )
    np.testing.assert_allclose(model_32.coefs_[0], model_64.coefs_[0], atol=1e-3)
