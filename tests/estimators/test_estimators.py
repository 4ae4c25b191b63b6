# ruff: noqa: E402
"""The estimators within scikit-learn: its checks, searches, pipelines and clones; also pickles and data frames."""

import inspect
import pickle
import subprocess
import sys
import warnings
from collections.abc import Iterator

import numpy as np
import pytest

import deepnotes as dn

REASON = 'needs scikit-learn: pip install "deepnotes[sklearn]"'
sklearn = pytest.importorskip("sklearn", reason=REASON)

from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_iris, make_regression
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils._param_validation import InvalidParameterError
from sklearn.utils.estimator_checks import parametrize_with_checks

BACKENDS = [
    "numpy",
    pytest.param("numba", marks=pytest.mark.skipif("numba" not in dn.available_backends(), reason="needs numba")),
]
PAIRS = [(dn.DenseClassifier, MLPClassifier), (dn.DenseRegressor, MLPRegressor)]
ESTIMATORS = [dn.DenseClassifier, dn.DenseRegressor]
X, y = load_iris(return_X_y=True)

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def estimators_to_check(backend: str) -> Iterator[object]:
    """Yield estimators for scikit-learn's checks, which expect at most 100 iterations."""
    if backend in dn.available_backends():
        for estimator in ESTIMATORS:
            yield estimator(backend=backend, max_iter=100)
            yield estimator(backend=backend, solver="lbfgs", max_iter=20)
            yield estimator(
                hidden_layer_sizes=(10, 10), backend=backend, max_iter=100, normalization="layer", residual=True,
                average=dn.EMA(0.9), learning_rate="one-cycle", learning_rate_init=0.01,
            )  # fmt: skip
        yield dn.DenseRegressor(dn.QuantileLoss([0.1, 0.5]), backend=backend, max_iter=100)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the checks themselves test for the warnings that matter
@parametrize_with_checks([*estimators_to_check("numpy")])
def test_the_checks_of_scikit_learn_pass(estimator, check) -> None:
    check(estimator)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks([*estimators_to_check("numba")])
def test_the_checks_of_scikit_learn_pass_on_numba(estimator, check) -> None:
    check(estimator)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_all_parameters_of_scikit_learn_exist_with_the_same_defaults(ours, theirs) -> None:
    expected, actual = (inspect.signature(f).parameters for f in (theirs, ours))
    assert {name: p.default for name, p in expected.items()}.items() <= {
        n: p.default for n, p in actual.items()
    }.items()
    by_position = [name for name, p in expected.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert [name for name, p in actual.items() if p.kind is p.POSITIONAL_OR_KEYWORD] == by_position


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
@pytest.mark.parametrize(
    "invalid",
    [
        {"hidden_layer_sizes": -1}, {"hidden_layer_sizes": (3, 0)}, {"activation": "rleu"}, {"solver": "adamw"},
        {"alpha": -1}, {"batch_size": 0}, {"learning_rate": "cosines"}, {"learning_rate_init": 0}, {"power_t": -0.1},
        {"max_iter": 0}, {"max_iter": 1.5}, {"shuffle": "yes"}, {"random_state": "a"}, {"tol": -1},
        {"warm_start": None}, {"momentum": 1.1}, {"nesterovs_momentum": 2}, {"early_stopping": "no"},
        {"validation_fraction": 1.0}, {"beta_1": 1.0}, {"beta_2": -0.1}, {"epsilon": 0.0}, {"n_iter_no_change": 0},
        {"n_iter_no_change": np.nan}, {"max_fun": 0}, {"verbose": -1},
    ],
    ids=lambda invalid: ", ".join(f"{k}={v}" for k, v in invalid.items()),
)  # fmt: skip
def test_values_that_scikit_learn_refuses_raise_the_same_class_of_error(ours, theirs, invalid) -> None:
    with pytest.raises(Exception) as expected:  # noqa: PT011
        theirs(**invalid).fit(X, y)
    with pytest.raises(expected.type if expected.type is InvalidParameterError else ValueError) as actual:
        ours(**invalid).fit(X, y)
    (name,) = invalid
    assert name in str(actual.value)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(
    ("invalid", "message"),
    [
        ({"backend": "nupmy"}, "did you mean 'numpy'"),
        ({"dtype": "float16"}, "'dtype' parameter"),
        ({"l1_ratio": 1.5}, "'l1_ratio' parameter"),
        ({"l1_ratio": 0.5, "solver": "lbfgs"}, "l1_ratio=0.5: solver='lbfgs' needs a cost without kinks, wanted 0"),
        ({"dropout": 1.0}, "'dropout' parameter"),
        ({"dropout": [1.0]}, r"dropout\[0\]=1.0, wanted at least 0 and less than 1"),
        ({"dropout": [0.1, 0.2]}, "has 2 rates, wanted 1: one per hidden layer"),
        ({"activation": ["relu", "tanh"]}, "has 2 activations, wanted 1: one per hidden layer"),
        ({"activation": ["rleu"]}, "did you mean 'relu'"),
        ({"loss": "log_los"}, "'loss' parameter"),
        ({"normalization": "batch"}, "'normalization' parameter"),
        ({"residual": "yes"}, "'residual' parameter"),
        ({"average": 0.9}, "'average' parameter"),
        ({"learning_rate": "one_cycle"}, "'learning_rate' parameter"),
        ({"learning_rate": 0.1}, "'learning_rate' parameter"),
        ({"callbacks": [1]}, r"callbacks\[0\]=1"),
        ({"callbacks": dn.EarlyStopping()}, "'callbacks' parameter"),
        ({"loss": "categorical_cross_entropy"}, "needs outputs in the range 'simplex'"),
    ],
)
def test_invalid_values_of_additional_parameters_are_refused(estimator, invalid, message) -> None:
    target = y > 0 if estimator is dn.DenseClassifier else y.astype(float)
    model = estimator(**invalid)
    with pytest.raises(ValueError, match=message):
        model.fit(X, target)
    assert not hasattr(model, "coefs_")


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_data_that_scikit_learn_refuses_is_refused(estimator) -> None:
    model = estimator(max_iter=2, random_state=0)
    with pytest.raises(NotFittedError):
        model.predict(X)
    model.fit(X, y)
    for invalid in (X[:, :3], X[0], [["a"] * 4], np.full((2, 4), np.nan)):
        with pytest.raises(ValueError):  # noqa: PT011
            model.predict(invalid)
    for weights in (np.zeros(len(y)), np.full(len(y), 1e40), -np.ones(len(y)), np.ones(3), ["a"] * len(y)):
        with pytest.raises(ValueError):  # noqa: PT011
            estimator().fit(X, y, sample_weight=weights)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        estimator().fit(X, y[1:])
    if estimator is dn.DenseClassifier:
        with pytest.raises(ValueError, match="Unknown label type"):
            estimator().fit(X, y + 0.5)
        with pytest.raises(ValueError, match="multioutput targets are unsupported"):
            estimator().fit(X, np.c_[y, y])


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_grid_search_over_a_pipeline_works_in_two_processes(estimator, backend) -> None:
    model = estimator(backend=backend, max_iter=40, learning_rate_init=0.05, random_state=0)
    pipeline = make_pipeline(StandardScaler(), model)
    name = estimator.__name__.lower()
    search = GridSearchCV(
        pipeline, {f"{name}__hidden_layer_sizes": [(4,), (8,)], f"{name}__alpha": [0.01]}, cv=2, n_jobs=2
    )
    order = np.random.default_rng(0).permutation(len(y))
    search.fit(X[order], y[order])
    assert search.best_score_ > 0.8
    assert search.predict(X).shape == y.shape


def test_cross_validation_and_transformed_targets_work() -> None:
    assert cross_val_score(dn.DenseClassifier(solver="lbfgs", random_state=0), X, y, cv=3).mean() > 0.9
    X_r, y_r = make_regression(60, 3, random_state=0)
    model = TransformedTargetRegressor(dn.DenseRegressor(solver="lbfgs", random_state=0), transformer=StandardScaler())
    assert model.fit(X_r, y_r).score(X_r, y_r) > 0.99


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("method", ["pickle", "joblib", "deepcopy", "memory-mapped"])
def test_copies_make_the_same_predictions_and_continue_training_identically(
    estimator, backend, method, tmp_path
) -> None:
    import copy

    import joblib

    model = estimator(backend=backend, solver="sgd", learning_rate="adaptive", max_iter=5, random_state=0).fit(X, y)
    if method == "pickle":
        other = pickle.loads(pickle.dumps(model))
    elif method == "deepcopy":
        other = copy.deepcopy(model)
    else:
        joblib.dump(model, tmp_path / "model")
        other = joblib.load(tmp_path / "model", mmap_mode="r" if method == "memory-mapped" else None)
    np.testing.assert_array_equal(other.predict(X), model.predict(X))
    for current in (model, other):
        current._random_state, current.random_state = None, 1
        current.partial_fit(X, y)
    for a, b in zip(model.coefs_ + model.intercepts_, other.coefs_ + other.intercepts_, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_pickle_contains_each_parameter_once() -> None:
    model = dn.DenseClassifier(200, max_iter=1, backend="numpy", random_state=0).fit(X, y)
    parameters = sum(a.nbytes for a in model.coefs_ + model.intercepts_)
    moments = 2 * parameters
    assert len(pickle.dumps(model)) < 1.2 * (parameters + moments)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_clone_copies_constructor_arguments_but_not_training_results(estimator) -> None:
    stopping = dn.EarlyStopping(3)
    activations = ["tanh", dn.Activation("elu", alpha=0.5)]
    model = estimator(hidden_layer_sizes=(5, 4), activation=activations, backend="numpy", callbacks=[stopping])
    other = clone(model.fit(X, y))
    assert not hasattr(other, "coefs_")
    assert other.get_params()["activation"] == model.activation
    assert type(other.callbacks[0]) is dn.EarlyStopping
    assert other.callbacks[0] is not stopping


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_data_frame_columns_become_feature_names_and_are_checked(estimator, library, early_stopping) -> None:
    frames = pytest.importorskip(library, reason=f"needs {library}")
    names = ["a", "b", "c", "d"]
    frame = frames.DataFrame({name: X[:, i] for i, name in enumerate(names)})
    target = frames.Series(name="target", **{"data" if library == "pandas" else "values": y})
    model = estimator(max_iter=20, random_state=0, early_stopping=early_stopping)
    model.fit(frame, target)
    assert model.feature_names_in_.tolist() == names
    np.testing.assert_array_equal(model.predict(frame), model.predict(frame[names]))
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[names[::-1]])
    with pytest.warns(UserWarning, match="feature names"):
        model.predict(X)
    plain = estimator(max_iter=20, random_state=0, early_stopping=early_stopping).fit(X, y)
    np.testing.assert_array_equal(model.coefs_[0], plain.coefs_[0])


def test_the_output_of_a_pipeline_can_be_a_data_frame() -> None:
    pytest.importorskip("pandas", reason="needs pandas")
    pipeline = make_pipeline(StandardScaler(), dn.DenseClassifier(max_iter=5, random_state=0))
    pipeline.set_output(transform="pandas").fit(X, y)
    assert pipeline[-1].feature_names_in_.tolist() == ["x0", "x1", "x2", "x3"]


def test_the_error_without_scikit_learn_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "import deepnotes as dn\n"
        "try:\n    from deepnotes import DenseClassifier\n"
        "except dn.MissingExtraError as error:\n    print(error, isinstance(error, ImportError))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 'pip install "deepnotes[sklearn]"' in output
    assert output.strip().endswith("True")


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_warnings_are_given_only_for_problems(estimator) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimator(max_iter=500, tol=0.1, random_state=0).fit(X, y).predict(X)
    with pytest.warns(ConvergenceWarning, match="did not converge within max_iter=2 epochs"):
        estimator(max_iter=2).fit(X, y)
    with pytest.warns(UserWarning, match="batch_size"):
        estimator(max_iter=2, batch_size=1000).fit(X, y)
