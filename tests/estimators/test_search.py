# ruff: noqa: E402
"""DenseSearchCV and cross_validate have the results of scikit-learn's own, although all folds train together."""

import pickle
import signal
import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise
from threading import Lock
from typing import Any

import numpy as np
import pandas as pd
import pytest

import deepnotes as dn

sklearn = pytest.importorskip("sklearn", reason='needs scikit-learn: pip install "deepnotes[sklearn]"')

from joblib import parallel_config
from scipy.sparse import csr_array
from scipy.stats import loguniform
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.datasets import load_iris
from sklearn.exceptions import FitFailedWarning
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.metrics import accuracy_score, make_scorer
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    ShuffleSplit,
    StratifiedKFold,
)
from sklearn.model_selection import cross_validate as sklearn_cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from deepnotes.network.fit_many import run_all
from deepnotes.nn import expressions, formulas

BACKENDS = [
    "numpy",
    pytest.param("numba", marks=pytest.mark.skipif("numba" not in dn.available_backends(), reason="needs numba")),
]
X, y = load_iris(return_X_y=True)
X = (X - X.mean(axis=0)) / X.std(axis=0)
order = np.random.default_rng(0).permutation(len(y))
X, y = X[order], y[order]
GRID: dict[str, list[Any]] = {"alpha": [1e-4, 0.1], "hidden_layer_sizes": [(4,), (6, 3)]}

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> dn.Backend:
    """Return a backend; Numba trains two networks at a time."""
    return dn.get_backend(request.param, **({"threads": 2} if request.param == "numba" else {}))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the number of estimators of each call that trains several together."""
    counts: list[int] = []

    def count(fits: list[Any], *arguments: Any) -> Any:
        counts.append(len(fits))
        return run_all(fits, *arguments)

    monkeypatch.setattr("deepnotes.estimators.together.run_all", count)
    return counts


def classifier(backend: Any = "numpy", **settings: Any) -> Any:
    return dn.DenseClassifier(
        **{"hidden_layer_sizes": 5, "max_iter": 6, "random_state": 0, "batch_size": 16, "backend": backend} | settings
    )


def parameters(estimator: Any) -> list[bytes]:
    return [part.tobytes() for part in (*estimator.coefs_, *estimator.intercepts_)]


def without_times(results: dict[str, Any]) -> dict[str, Any]:
    """Return results whose values can be compared with ``==``."""
    return {name: np.ma.asarray(value).tolist() for name, value in results.items() if not name.endswith("_time")}


def assert_equal_searches(ours: Any, theirs: Any) -> None:
    assert list(ours.cv_results_) == list(theirs.cv_results_)
    actual, expected = (str(without_times(search.cv_results_)) for search in (ours, theirs))  # nan equals nan
    assert actual == expected
    for name in ("best_index_", "best_params_", "n_splits_", "multimetric_", "n_features_in_"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.best_score_ == theirs.best_score_
    assert ours.classes_.tolist() == theirs.classes_.tolist()
    assert parameters(ours.best_estimator_) == parameters(theirs.best_estimator_)


# --- equal to training alone ------------------------------------------------------------------------------------------

CASES: dict[str, tuple[dict[str, Any], Callable[[np.ndarray, np.ndarray], tuple[Any, Any, Any]]]] = {
    "adam": ({}, lambda X, y: (X, y, None)),
    "sgd": (
        {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.1, "max_iter": 9},
        lambda X, y: (X, y, None),
    ),
    "early stopping": ({"early_stopping": True, "max_iter": 30, "n_iter_no_change": 2}, lambda X, y: (X, y, None)),
    "no shuffling, dropout": ({"shuffle": False, "dropout": 0.3}, lambda X, y: (X, y, None)),
    "a generator": ({"random_state": np.random.RandomState(3)}, lambda X, y: (X, y, None)),
    "class weights": ({"class_weight": "balanced"}, lambda X, y: (X, y, None)),
    "sample weights": ({"early_stopping": True}, lambda X, y: (X, y, np.linspace(0.5, 2, len(y)))),
    "binary": ({}, lambda X, y: (X, y == 1, None)),
    "multilabel": ({}, lambda X, y: (X, np.stack([y == 0, y > 0], axis=1).astype(int), None)),
    "strings": ({}, lambda X, y: (X, np.array(["a", "bb", "ccc"])[y], None)),
    "float32": ({}, lambda X, y: (X.astype("f4"), y, None)),
    "another dtype": ({"dtype": "float32"}, lambda X, y: (X, y, None)),
    "integers": ({}, lambda X, y: (np.rint(10 * X).astype(int), y, None)),
    "by column": ({}, lambda X, y: (np.asfortranarray(X), y, None)),
    "not contiguous": ({}, lambda X, y: (np.repeat(X, 2, axis=1)[:, ::2], y, None)),
    "one feature": ({"early_stopping": True}, lambda X, y: (X[:, 2:3], y, None)),
    "sparse": ({"early_stopping": True}, lambda X, y: (csr_array(X * (X > 0)), y, None)),
    "data frame": ({}, lambda X, y: (pd.DataFrame(X, columns=list("abcd")), pd.Series(y), None)),
    "mixed data frame": ({}, lambda X, y: (pd.DataFrame(X).astype({0: "f4", 1: int}).rename(columns=str), y, None)),
    "lists": ({}, lambda X, y: (X.tolist(), y.tolist(), None)),
    "lbfgs": ({"solver": "lbfgs"}, lambda X, y: (X, y, None)),
    "regression": ({"kind": dn.DenseRegressor}, lambda X, y: (X[:, :3], X[:, 3], None)),
    "two targets": ({"kind": dn.DenseRegressor, "early_stopping": True}, lambda X, y: (X[:, :2], X[:, 2:], None)),
}


@pytest.mark.parametrize("case", CASES)
def test_each_fold_gets_the_bits_of_fit_on_a_copy(case: str, backend: dn.Backend) -> None:
    settings, prepare = CASES[case]
    settings = {"hidden_layer_sizes": 5, "max_iter": 6, "random_state": 0, "batch_size": 16} | settings
    model = settings.pop("kind", dn.DenseClassifier)(backend=backend, **settings)
    data, targets, weights = prepare(X, y)
    given = {} if weights is None else {"params": {"sample_weight": weights}}
    result = dn.cross_validate(
        model, data, targets, return_estimator=True, return_indices=True, cv=3, error_score="raise", **given
    )
    expected = sklearn_cross_validate(
        model, data, targets, return_estimator=True, return_indices=True, cv=3, error_score="raise", **given
    )
    assert list(result) == list(expected)
    assert result["test_score"].tolist() == expected["test_score"].tolist()
    for ours, theirs in zip(result["estimator"], expected["estimator"], strict=True):
        assert parameters(ours) == parameters(theirs)
        assert vars(ours).keys() == vars(theirs).keys()
        for name in ("n_iter_", "t_", "loss_", "loss_curve_", "best_loss_", "validation_scores_", "n_features_in_"):
            assert getattr(ours, name, None) == getattr(theirs, name, None), name
        assert getattr(ours, "classes_", np.empty(0)).tolist() == getattr(theirs, "classes_", np.empty(0)).tolist()
        assert list(getattr(ours, "feature_names_in_", [])) == list(getattr(theirs, "feature_names_in_", []))


@pytest.mark.parametrize("case", [name for name in CASES if name not in {"lists", "lbfgs"}])
def test_the_folds_of_each_kind_of_data_train_together(case: str, trained: list[int]) -> None:
    settings, prepare = CASES[case]
    model = settings.get("kind", dn.DenseClassifier)(
        backend="numpy", **{"max_iter": 2, **{name: value for name, value in settings.items() if name != "kind"}}
    )
    data, targets, weights = prepare(X, y)
    dn.cross_validate(model, data, targets, cv=3, params=None if weights is None else {"sample_weight": weights})
    assert trained == [3]


def test_a_fold_without_one_of_the_classes_gets_the_bits_of_fit_on_a_copy(backend: dn.Backend) -> None:
    cv = [(np.flatnonzero(y != c), np.arange(30)) for c in range(3)] + [(np.array([0, 0, 5, 9] * 8), np.arange(30))]
    model = classifier(backend)
    results = [f(model, X, y, cv=cv, return_estimator=True) for f in (dn.cross_validate, sklearn_cross_validate)]
    for ours, theirs in zip(results[0]["estimator"], results[1]["estimator"], strict=True):
        assert parameters(ours) == parameters(theirs)
        assert ours.classes_.tolist() == theirs.classes_.tolist()


@pytest.mark.parametrize("settings", [{}, {"solver": "sgd", "learning_rate": "invscaling"}], ids=str)
def test_a_trained_fold_continues_as_if_it_had_been_trained_alone(
    settings: dict[str, Any], backend: dn.Backend
) -> None:
    model = classifier(backend, **settings)
    results = [f(model, X, y, cv=3, return_estimator=True) for f in (dn.cross_validate, sklearn_cross_validate)]
    for ours, theirs in zip(results[0]["estimator"], results[1]["estimator"], strict=True):
        for estimator in (ours, theirs):
            estimator.partial_fit(X, y).partial_fit(X, y)
        assert parameters(ours) == parameters(theirs)


def test_masks_and_negative_indices_are_accepted() -> None:
    mask = np.arange(len(y)) % 3 > 0
    cv = [(mask, ~mask), (np.arange(-100, 0), np.arange(50))]
    results = [f(classifier(), X, y, cv=cv, return_estimator=True) for f in (dn.cross_validate, sklearn_cross_validate)]
    for ours, theirs in zip(results[0]["estimator"], results[1]["estimator"], strict=True):
        assert parameters(ours) == parameters(theirs)


def test_without_a_random_state_numpys_global_generator_determines_the_results(backend: dn.Backend) -> None:
    scores = []
    for _ in range(2):
        np.random.seed(5)  # noqa: NPY002 - the generator of scikit-learn
        result = dn.cross_validate(classifier(backend, random_state=None), X, y, return_estimator=True)
        scores.append([parameters(estimator) for estimator in result["estimator"]])
    assert scores[0] == scores[1]
    assert scores[0][0] != scores[0][1]


def test_all_networks_share_the_samples_indices_and_targets() -> None:
    shared: dict[str, set[int]] = {"X": set(), "Y": set(), "indices": set()}
    trainings: list[Any] = []

    class Watch(dn.Callback):
        def on_start(self, training: Any) -> None:
            trainings.append(training)

    model = classifier(callbacks=[Watch()], early_stopping=True)
    dn.DenseSearchCV(model, {"alpha": [0, 0.1, 1, 10]}, cv=3, refit=False).fit(X, y)
    assert len(trainings) == 12
    for training in trainings:
        for data in (training.data, training.held_out):
            assert np.shares_memory(data.X.whole, trainings[0].data.X.whole)
            for name, part in (("X", data.X.whole), ("Y", data.Y.whole), ("indices", data.X.indices)):
                shared[name].add(part.ctypes.data)
    assert {name: len(addresses) for name, addresses in shared.items()} == {"X": 1, "Y": 6, "indices": 6}


# --- the interface of scikit-learn's searches -------------------------------------------------------------------------


def test_a_grid_search_equals_scikit_learns(backend: dn.Backend, trained: list[int]) -> None:
    ours = dn.DenseSearchCV(classifier(backend), GRID, return_train_score=True).fit(X, y)
    assert trained == [20]
    theirs = GridSearchCV(classifier(backend), GRID, return_train_score=True).fit(X, y)
    assert_equal_searches(ours, theirs)
    assert (ours.cv_results_["mean_fit_time"] > 0).all()
    assert ours.refit_time_ > 0
    for method in ("predict", "predict_proba", "predict_log_proba"):
        assert np.array_equal(getattr(ours, method)(X), getattr(theirs, method)(X))
    assert ours.score(X, y) == theirs.score(X, y)


def test_a_randomized_search_draws_the_candidates_of_scikit_learn() -> None:
    space = {"alpha": loguniform(1e-5, 1), "activation": ["relu", "tanh"]}
    ours = dn.DenseSearchCV(classifier(), param_distributions=space, n_iter=5, random_state=7, cv=3).fit(X, y)
    theirs = RandomizedSearchCV(classifier(), space, n_iter=5, random_state=7, cv=3).fit(X, y)
    assert_equal_searches(ours, theirs)


def test_a_list_of_grids_with_several_solvers_equals_scikit_learns(trained: list[int]) -> None:
    grid = [{"solver": ["lbfgs", "sgd"]}, {"alpha": [0.1], "activation": ["logistic"]}]
    ours = dn.DenseSearchCV(classifier(solver="lbfgs"), grid, cv=3).fit(X, y)
    assert trained == [3]
    assert_equal_searches(ours, GridSearchCV(classifier(solver="lbfgs"), grid, cv=3).fit(X, y))


@pytest.mark.parametrize(
    "settings",
    [
        {"scoring": ["accuracy", "neg_log_loss"], "refit": "neg_log_loss"},
        {"scoring": {"a": "accuracy", "b": make_scorer(accuracy_score)}, "refit": "b"},
        {"scoring": lambda estimator, X, y: {"wrong": -np.mean(estimator.predict(X) != y)}, "refit": "wrong"},
        {"scoring": lambda estimator, X, y: estimator.predict_proba(X)[:, 0].mean()},
        {"scoring": "neg_log_loss"},
        {"cv": ShuffleSplit(3, random_state=0)},
        {"cv": StratifiedKFold(3, shuffle=True, random_state=1)},
    ],
    ids=["names", "scorers", "dict of a function", "function", "name", "random splits", "shuffled folds"],
)
def test_scoring_and_splitters_are_those_of_scikit_learn(settings: dict[str, Any]) -> None:
    settings = {"cv": 3} | settings
    ours = dn.DenseSearchCV(classifier(), GRID, **settings).fit(X, y)
    theirs = GridSearchCV(classifier(), GRID, **settings).fit(X, y)
    assert_equal_searches(ours, theirs)
    assert type(ours.scorer_) is type(theirs.scorer_)


def test_a_callable_refit_selects_the_candidate() -> None:
    search = dn.DenseSearchCV(classifier(), GRID, cv=3, refit=lambda results: 2).fit(X, y)
    assert search.best_index_ == 2
    assert search.best_params_ == search.cv_results_["params"][2]
    assert not hasattr(search, "best_score_")


def test_without_refit_there_is_no_best_estimator() -> None:
    search = dn.DenseSearchCV(classifier(), GRID, cv=3, refit=False).fit(X, y)
    assert search.best_score_ == search.cv_results_["mean_test_score"].max()
    assert not hasattr(search, "best_estimator_")
    assert not hasattr(search, "predict")


def test_groups_reach_the_splitter_and_weights_the_folds(trained: list[int]) -> None:
    groups, weights = np.arange(len(y)) % 5, np.linspace(0.5, 2, len(y))
    searches = [
        kind(classifier(), GRID, cv=GroupKFold(5)).fit(X, y, groups=groups, sample_weight=weights)
        for kind in (dn.DenseSearchCV, GridSearchCV)
    ]
    assert_equal_searches(*searches)
    assert trained == [20]


def test_an_iterator_of_splits_is_used_once_for_all_candidates() -> None:
    cv = list(StratifiedKFold(4).split(X, y))
    ours = dn.DenseSearchCV(classifier(), GRID, cv=iter(cv)).fit(X, y)
    assert_equal_searches(ours, GridSearchCV(classifier(), GRID, cv=iter(cv)).fit(X, y))


def test_metadata_routing_is_left_to_scikit_learn(trained: list[int]) -> None:
    weights = np.linspace(0.5, 2, len(y))
    with sklearn.config_context(enable_metadata_routing=True):
        model = classifier().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        searches = [
            kind(model, GRID, cv=GroupKFold(5)).fit(X, y, sample_weight=weights, groups=np.arange(len(y)) % 5)
            for kind in (dn.DenseSearchCV, GridSearchCV)
        ]
    assert_equal_searches(*searches)
    assert not trained


def test_the_original_estimator_and_its_clones_are_unchanged(backend: dn.Backend) -> None:
    model = classifier(backend)
    search = dn.DenseSearchCV(model, GRID, cv=3).fit(X, y)
    assert search.estimator is model
    assert not hasattr(model, "coefs_")
    for estimator in (model, search.best_estimator_):
        assert not {"fit", "__sklearn_clone__"} & vars(estimator).keys()
    copied = pickle.loads(pickle.dumps(search))
    assert np.array_equal(copied.predict_proba(X), search.predict_proba(X))
    assert clone(search).get_params()["param_grid"] == GRID


def test_data_frames_give_the_names_of_the_features() -> None:
    frame = pd.DataFrame(X, columns=list("abcd"))
    search = dn.DenseSearchCV(classifier(), GRID, cv=3).fit(frame, y)
    assert list(search.feature_names_in_) == list("abcd")
    with pytest.raises(ValueError, match="feature names"):
        search.predict(frame[["b", "a", "c", "d"]])


def test_progress_is_shown_if_verbose(capsys: pytest.CaptureFixture[str]) -> None:
    dn.DenseSearchCV(classifier(), GRID, cv=3, verbose=1).fit(X, y)
    captured = capsys.readouterr()
    assert captured.out == "Fitting 3 folds for each of 4 candidates, totalling 12 fits\n"
    assert "networks 12/12" in captured.err


# --- failures ---------------------------------------------------------------------------------------------------------


def test_a_candidate_that_cannot_train_gets_the_error_score_of_scikit_learn(backend: dn.Backend) -> None:
    grid = {"learning_rate_init": [0.01, 1e300], "activation": ["relu", "rleu"], "solver": ["sgd"]}
    searches = []
    for kind in (dn.DenseSearchCV, GridSearchCV):
        with pytest.warns(FitFailedWarning, match="9 fits failed out of a total of 12"):
            searches.append(kind(classifier(backend), grid, cv=3, error_score=-1.0).fit(X, y))
    assert_equal_searches(*searches)


def test_an_error_is_raised_on_request() -> None:
    with pytest.raises(ValueError, match="non-finite parameter weights"):
        dn.DenseSearchCV(classifier(solver="sgd"), {"learning_rate_init": [0.1, 1e300]}, cv=3, error_score="raise").fit(
            X, y
        )


def test_an_error_in_a_callback_concerns_its_candidate_only() -> None:
    class Fail(dn.Callback):
        def on_epoch(self, training: Any) -> None:
            raise RuntimeError("no disk")

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        search = dn.DenseSearchCV(classifier(), {"callbacks": [None, [Fail()]]}, cv=3).fit(X, y)
    assert np.isnan(search.cv_results_["mean_test_score"]).tolist() == [False, True]
    assert any("RuntimeError: no disk" in str(warning.message) for warning in warned)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "wanted param_grid or param_distributions"),
        ({"param_grid": GRID, "param_distributions": GRID}, "wanted param_grid or param_distributions"),
        ({"param_grid": {"alfa": [1]}}, "Invalid parameter 'alfa'"),
        ({"param_grid": {"alpha": 1}}, "alpha"),
        ({"param_grid": GRID, "n_iter": 0}, "n_iter"),
        ({"param_grid": GRID, "halving_factor": 1}, "halving_factor"),
        ({"param_grid": {"max_iter": [1]}, "halving_factor": 2}, "max_iter, which is not searched"),
        ({"param_grid": GRID, "halving_factor": 2, "min_epochs": 7}, "min_epochs=7"),
        ({"param_grid": GRID, "halving_factor": 2, "scoring": ["accuracy"], "refit": False}, "refit=False"),
    ],
)
def test_invalid_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        dn.DenseSearchCV(classifier(), cv=3, **arguments).fit(X, y)


def test_ctrl_c_ends_the_search_and_leaves_it_unfitted(backend: dn.Backend) -> None:
    first = Lock()  # a second Ctrl-C would act at once

    class Interrupt(dn.Callback):
        def on_epoch(self, training: Any) -> None:
            if first.acquire(blocking=False):
                signal.raise_signal(signal.SIGINT)

    search = dn.DenseSearchCV(classifier(backend, callbacks=[Interrupt()], max_iter=10**6, tol=0), GRID, cv=3)
    with pytest.raises(KeyboardInterrupt, match="of 12 networks were trained to the end"):
        search.fit(X, y)
    assert not hasattr(search, "cv_results_")
    assert not {"fit", "__sklearn_clone__"} & vars(search.estimator).keys()


# --- what is left to scikit-learn -------------------------------------------------------------------------------------


class Another(ClassifierMixin, BaseEstimator):
    """An estimator that is not ours."""

    def __init__(self, guess: int = 0) -> None:
        self.guess = guess

    def fit(self, X: Any, y: Any) -> Any:
        self.classes_, self.n_features_in_ = np.unique(y), X.shape[1]
        self.coefs_ = self.intercepts_ = [self.classes_]
        return self

    def predict(self, X: Any) -> np.ndarray:
        return np.full(len(X), self.guess)


class Overridden(dn.DenseClassifier):
    """An estimator with a ``fit`` of its own."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        return super().fit(2 * X, y, sample_weight)


def test_other_estimators_are_searched_by_scikit_learn(trained: list[int]) -> None:
    for model, grid in [(Another(), {"guess": [0, 1]}), (Overridden(max_iter=2, random_state=0), {"alpha": [1, 2]})]:
        ours, theirs = (kind(model, grid, cv=3).fit(X, y) for kind in (dn.DenseSearchCV, GridSearchCV))
        assert_equal_searches(ours, theirs)
    pipeline = make_pipeline(StandardScaler(), classifier())
    ours, theirs = (
        kind(pipeline, {"denseclassifier__alpha": [0.1, 1]}, cv=3).fit(X, y)
        for kind in (dn.DenseSearchCV, GridSearchCV)
    )
    assert without_times(ours.cv_results_) == without_times(theirs.cv_results_)
    assert not trained


def test_a_parallel_backend_of_joblib_trains_the_folds_on_its_own(trained: list[int]) -> None:
    with parallel_config(backend="threading", n_jobs=2):
        ours = dn.DenseSearchCV(classifier(), GRID, cv=3).fit(X, y)
    assert not trained
    assert_equal_searches(ours, GridSearchCV(classifier(), GRID, cv=3).fit(X, y))


def test_all_samples_must_be_valid_only_as_far_as_a_fold_uses_them() -> None:
    bad = X.copy()
    bad[0, 0] = np.nan
    cv = [(np.arange(1, 90), np.arange(90, 150)), (np.arange(90), np.arange(90, 150))]
    with pytest.warns(FitFailedWarning, match="1 fits failed out of a total of 2"):
        result = dn.cross_validate(classifier(), bad, y, cv=cv)
    assert np.isnan(result["test_score"]).tolist() == [False, True]


# --- successive halving -----------------------------------------------------------------------------------------------

WIDE: dict[str, list[Any]] = {"learning_rate_init": [1e-4, 1e-3, 0.01, 0.1], "alpha": [1e-4, 1.0]}


@pytest.mark.parametrize("factor", [2, 3])
def test_successive_halving_equals_scikit_learns(factor: int, trained: list[int]) -> None:
    model = classifier(max_iter=12)
    ours = dn.DenseSearchCV(model, WIDE, halving_factor=factor, cv=3).fit(X, y)
    theirs = HalvingGridSearchCV(
        model, WIDE, factor=factor, resource="max_iter", max_resources=12, cv=3, return_train_score=False
    ).fit(X, y)
    assert_equal_searches(ours, theirs)
    assert (ours.n_candidates_, ours.n_resources_) == (theirs.n_candidates_, theirs.n_resources_)
    assert trained == [3 * count for count in ours.n_candidates_]


def test_halving_keeps_the_best_and_trains_them_longer() -> None:
    search = dn.DenseSearchCV(classifier(max_iter=16), WIDE, halving_factor=2, min_epochs=2, cv=3).fit(X, y)
    assert search.n_candidates_ == [8, 4, 2, 1]
    assert search.n_resources_ == [2, 4, 8, 16]
    results = search.cv_results_
    scores: list[dict[str, float]] = [{}, {}, {}, {}]
    for parameters, i, score in zip(results["params"], results["iter"], results["mean_test_score"], strict=True):
        assert parameters.pop("max_iter") == search.n_resources_[i]
        scores[i][str(parameters)] = score
    for now, later in pairwise(scores):
        dropped = now.keys() - later.keys()
        assert min(now[name] for name in later) >= max(now[name] for name in dropped)
    assert search.best_estimator_.n_iter_ == 16


def test_halving_of_drawn_candidates_compares_by_the_metric_of_refit() -> None:
    search = dn.DenseSearchCV(
        classifier(max_iter=8), param_distributions={"alpha": loguniform(1e-4, 1)}, n_iter=4, random_state=0,
        halving_factor=2, cv=3, scoring=["accuracy", "neg_log_loss"], refit="neg_log_loss",
    ).fit(X, y)  # fmt: skip
    assert search.n_candidates_ == [4, 2, 1]
    last = search.cv_results_["iter"] == 2
    assert search.best_score_ == search.cv_results_["mean_test_neg_log_loss"][last].max()


def test_halving_uses_the_same_random_splits_in_all_iterations() -> None:
    class Count(ShuffleSplit):
        draws = 0

        def split(self, *arguments: Any, **settings: Any) -> Any:
            Count.draws += 1
            return super().split(*arguments, **settings)

    search = dn.DenseSearchCV(classifier(max_iter=4), GRID, halving_factor=2, cv=Count(2)).fit(X, y)
    assert len(search.n_candidates_) == 3
    assert Count.draws == 1


def test_halving_needs_an_estimator_that_counts_epochs() -> None:
    pipeline = make_pipeline(StandardScaler(), classifier())
    with pytest.raises(dn.ArgumentError, match="needs an estimator with the parameter max_iter"):
        dn.DenseSearchCV(pipeline, {}, halving_factor=2).fit(X, y)


# --- scikit-learn's checks --------------------------------------------------------------------------------------------


def searches_to_check() -> Iterator[Any]:
    for model in (dn.DenseClassifier, dn.DenseRegressor):
        estimator = model(backend="numpy", max_iter=100, random_state=0)
        grid = {"alpha": [1e-4, 1e-2]}
        yield dn.DenseSearchCV(estimator, grid, cv=2, error_score="raise")
        yield dn.DenseSearchCV(estimator, param_distributions=grid, n_iter=2, cv=2, error_score="raise", random_state=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the checks themselves test for the warnings that matter
@parametrize_with_checks([*searches_to_check()])
def test_the_checks_of_scikit_learn_pass(estimator: Any, check: Any) -> None:
    check(estimator)


def test_estimators_that_differ_in_their_rate_trace_one_update(monkeypatch):
    """Tracing an optimizer takes longer than a short training run."""
    traced = []
    trace = expressions.trace

    def counting(function, *args, **kwargs):
        traced.append(function.__name__)
        return trace(function, *args, **kwargs)

    formulas.update.cache_clear()  # type: ignore[attr-defined]
    monkeypatch.setattr(formulas, "trace", counting)
    X, y = load_iris(return_X_y=True)
    for rate in (0.001, 0.003, 0.01):
        dn.DenseClassifier(4, learning_rate_init=rate, max_iter=1, tol=0, backend="numba").fit(X, y)
    assert 0 < traced.count("step") <= 2  # one for each dtype that is asked for
