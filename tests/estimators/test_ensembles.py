# ruff: noqa: E402
"""Ensembles of estimators: members train together, their mean is predicted, and their disagreement is known."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import deepnotes as dn

sklearn = pytest.importorskip("sklearn", reason='needs scikit-learn: pip install "deepnotes[sklearn]"')

from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.metrics import log_loss, r2_score
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from deepnotes.network.fit_many import run_all

BACKENDS = [
    "numpy",
    pytest.param("numba", marks=pytest.mark.skipif("numba" not in dn.available_backends(), reason="needs numba")),
]
KINDS = [
    pytest.param(dn.DenseEnsembleClassifier, dn.DenseClassifier, id="classifier"),
    pytest.param(dn.DenseEnsembleRegressor, dn.DenseRegressor, id="regressor"),
]
X, y = load_iris(return_X_y=True)
X = (X - X.mean(axis=0)) / X.std(axis=0)

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def small(kind: Any, n_members: int = 3, **settings: Any) -> Any:
    """Return an ensemble that trains quickly."""
    return kind(
        n_members,
        **{"hidden_layer_sizes": 5, "max_iter": 8, "batch_size": 16, "random_state": 0, "backend": "numpy"} | settings,
    )


def parameters(member: Any) -> list[bytes]:
    return [part.tobytes() for part in (*member.coefs_, *member.intercepts_)]


# --- members ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("settings", [{}, {"bootstrap": True}, {"bootstrap": True, "early_stopping": True}], ids=str)
@pytest.mark.parametrize(("kind", "single"), KINDS)
def test_each_member_gets_the_bits_of_an_estimator_alone(
    kind: Any, single: Any, settings: dict[str, Any], backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []

    def count(fits: list[Any], *arguments: Any) -> Any:
        counts.append(len(fits))
        return run_all(fits, *arguments)

    monkeypatch.setattr("deepnotes.estimators.together.run_all", count)
    weights = np.linspace(0.5, 2, len(y))
    ensemble = small(kind, backend=backend, **settings).fit(X, y, weights)
    assert counts == [3]
    own = {"n_members", "bootstrap", "oob_score"}
    for member, indices in zip(ensemble.estimators_, ensemble.estimators_samples_, strict=True):
        shared = {name: value for name, value in ensemble.get_params().items() if name not in own}
        alone = single(**shared | {"random_state": member.random_state})
        alone.fit(X[indices], y[indices], weights[indices])
        assert parameters(member) == parameters(alone)
        assert member.n_iter_ == alone.n_iter_ <= ensemble.n_iter_
    assert len({tuple(parameters(member)) for member in ensemble.estimators_}) == 3


@pytest.mark.parametrize(("kind", "single"), KINDS)
def test_the_parameters_are_those_of_the_members(kind: Any, single: Any) -> None:
    expected = single().get_params().keys() - {"warm_start"} | {"n_members", "bootstrap", "oob_score"}
    assert kind().get_params().keys() == expected
    for name, value in single().get_params().items():
        assert name == "warm_start" or kind().get_params()[name] == value


@pytest.mark.parametrize(("kind", "single"), KINDS)
def test_a_random_state_gives_the_same_ensemble_again(kind: Any, single: Any) -> None:
    first, second, other = (small(kind, bootstrap=True, random_state=seed).fit(X, y).predict(X) for seed in (1, 1, 2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other) or kind is dn.DenseEnsembleClassifier


def test_bootstrap_samples_are_drawn_with_replacement_and_differ() -> None:
    drawn = small(dn.DenseEnsembleClassifier, bootstrap=True, max_iter=1).fit(X, y).estimators_samples_
    for indices in drawn:
        assert len(indices) == len(y)
        assert 0.5 < len(np.unique(indices)) / len(y) < 0.75  # 1 - 1/e = 0.63
    assert not np.array_equal(drawn[0], drawn[1])


def test_lbfgs_and_sparse_samples_are_supported() -> None:
    for settings in ({"solver": "lbfgs"}, {}):
        for samples in (X, csr_array(X)):
            ensemble = small(dn.DenseEnsembleClassifier, bootstrap=True, **settings).fit(samples, y)
            assert ensemble.predict_proba(samples).shape == (150, 3)
    dense, sparse = (small(dn.DenseEnsembleClassifier).fit(s, y).predict_proba(s) for s in (X, csr_array(X)))
    np.testing.assert_allclose(dense, sparse, rtol=1e-12)


def test_a_member_whose_sample_lacks_a_class_predicts_all_classes() -> None:
    labels = np.zeros(40, int)
    labels[:2], labels[20] = 1, 2
    ensemble = small(dn.DenseEnsembleClassifier, 8, bootstrap=True).fit(X[:40], labels)
    lacking = [len(np.unique(labels[indices])) < 3 for indices in ensemble.estimators_samples_]
    assert any(lacking)
    for member in ensemble.estimators_:
        assert member.classes_.tolist() == [0, 1, 2]
    assert ensemble.predict_proba(X).shape == (150, 3)
    assert ensemble.to_ensemble().outputs == 3


def test_callbacks_are_copied_for_each_member() -> None:
    class Watch(dn.Callback):
        def __init__(self) -> None:
            self.epochs = 0

        def on_epoch(self, training: Any) -> None:
            self.epochs += 1

    watch = Watch()
    ensemble = small(dn.DenseEnsembleClassifier, callbacks=[watch]).fit(X, y)
    assert watch.epochs == 0
    assert [member.callbacks[0].epochs for member in ensemble.estimators_] == [8, 8, 8]


# --- predictions ------------------------------------------------------------------------------------------------------


def test_the_mean_of_the_probabilities_is_predicted() -> None:
    ensemble = small(dn.DenseEnsembleClassifier).fit(X, np.array(["a", "bb", "c"])[y])
    mean = np.mean([member.predict_proba(X) for member in ensemble.estimators_], axis=0)
    assert np.array_equal(ensemble.predict_proba(X), mean)
    assert np.array_equal(ensemble.predict_log_proba(X), np.log(mean))
    assert np.array_equal(ensemble.predict(X), np.array(["a", "bb", "c"])[mean.argmax(axis=1)])


def test_a_binary_ensemble_predicts_two_probabilities() -> None:
    ensemble = small(dn.DenseEnsembleClassifier).fit(X, y == 1)
    P = ensemble.predict_proba(X)
    np.testing.assert_allclose(P.sum(axis=1), 1, rtol=1e-12)
    assert ensemble.predict(X).dtype == bool


@pytest.mark.parametrize("sparse", [False, True])
def test_several_labels_are_predicted(sparse: bool) -> None:
    labels = np.stack([y == 0, y > 0], axis=1).astype(int)
    ensemble = small(dn.DenseEnsembleClassifier, bootstrap=True, oob_score=True, n_members=20)
    ensemble.fit(X, csr_array(labels) if sparse else labels)
    predicted = ensemble.predict(X)
    predicted = predicted.toarray() if sparse else predicted
    assert np.array_equal(predicted, ensemble.predict_proba(X) > 0.5)
    assert ensemble.disagreement(X).shape == (150,)
    assert ensemble.oob_decision_function_.shape == (150, 2)


@pytest.mark.parametrize("targets", [y.astype(float), X[:, 2:]], ids=["one", "two"])
def test_a_regressor_returns_the_mean_and_the_standard_deviation(targets: np.ndarray) -> None:
    ensemble = small(dn.DenseEnsembleRegressor).fit(X[:, :2], targets)
    members = [member.predict(X[:, :2]) for member in ensemble.estimators_]
    mean, std = ensemble.predict(X[:, :2], return_std=True)
    assert mean.shape == std.shape == targets.shape
    assert np.array_equal(mean, np.mean(members, axis=0))
    assert np.array_equal(std, np.std(members, axis=0))
    assert np.array_equal(ensemble.predict(X[:, :2]), mean)
    assert np.array_equal(ensemble.disagreement(X[:, :2]), std)


def test_the_disagreement_of_a_classifier_is_a_mutual_information() -> None:
    ensemble = small(dn.DenseEnsembleClassifier).fit(X, y)
    P = np.array([member.predict_proba(X) for member in ensemble.estimators_])
    mean = P.mean(axis=0)
    divergence = (P * np.log(P / mean)).sum(axis=2).mean(axis=0)  # the mean divergence of the members from the mean
    np.testing.assert_allclose(ensemble.disagreement(X), divergence, rtol=0, atol=1e-12)
    assert (small(dn.DenseEnsembleClassifier, 1).fit(X, y).disagreement(X) == 0).all()


def test_members_disagree_more_far_from_the_samples() -> None:
    settings = {"hidden_layer_sizes": 16, "max_iter": 100, "n_members": 5}
    regressor = small(dn.DenseEnsembleRegressor, **settings).fit(X[:, :1], X[:, 1])
    assert regressor.disagreement(np.array([[9.0]]))[0] > 3 * regressor.disagreement(X[:, :1]).mean()


@pytest.mark.parametrize("load", [load_digits, load_breast_cancer], ids=["digits", "breast cancer"])
def test_an_ensemble_of_8_beats_its_members(load: Any) -> None:
    samples, labels = load(return_X_y=True)
    samples = StandardScaler().fit_transform(samples)
    gains = []
    for seed in range(5):
        train, test, y_train, y_test = train_test_split(
            samples, labels, test_size=0.5, random_state=seed, stratify=labels
        )
        ensemble = dn.DenseEnsembleClassifier(
            8, hidden_layer_sizes=8, max_iter=30, learning_rate_init=0.03, batch_size=32, random_state=seed,
        ).fit(train, y_train)  # fmt: skip
        members = ensemble.estimators_
        accuracy = np.mean([member.score(test, y_test) for member in members])
        loss = np.mean([log_loss(y_test, member.predict_proba(test)) for member in members])
        gains.append([ensemble.score(test, y_test) - accuracy, loss - log_loss(y_test, ensemble.predict_proba(test))])
    assert (np.mean(gains, axis=0) > 0).all()
    assert np.min(gains, axis=0)[1] > 0  # by Jensen's inequality


# --- out-of-bag samples -----------------------------------------------------------------------------------------------


def test_out_of_bag_probabilities_are_those_of_members_that_have_not_seen_the_sample() -> None:
    ensemble = small(dn.DenseEnsembleClassifier, 20, bootstrap=True, oob_score=True, max_iter=30).fit(X, y)
    for i in (0, 70, 149):
        unseen = [
            member.predict_proba(X[[i]])[0]
            for member, indices in zip(ensemble.estimators_, ensemble.estimators_samples_, strict=True)
            if i not in indices
        ]
        np.testing.assert_allclose(ensemble.oob_decision_function_[i], np.mean(unseen, axis=0), rtol=1e-12)
    assert ensemble.oob_score_ == np.mean(ensemble.oob_decision_function_.argmax(axis=1) == y)


def test_out_of_bag_predictions_of_a_regressor_are_scored() -> None:
    ensemble = small(dn.DenseEnsembleRegressor, 20, bootstrap=True, oob_score=True, max_iter=30).fit(X[:, :3], X[:, 3])
    assert ensemble.oob_prediction_.shape == (150,)
    assert ensemble.oob_score_ == r2_score(X[:, 3], ensemble.oob_prediction_)
    own = small(dn.DenseEnsembleRegressor, 20, bootstrap=True, oob_score=lambda y, p: np.abs(y - p).max(), max_iter=30)
    own.fit(X[:, :3], X[:, 3])
    assert own.oob_score_ == np.abs(X[:, 3] - own.oob_prediction_).max()


@pytest.mark.parametrize(("kind", "single"), KINDS)
def test_a_fit_without_oob_score_removes_that_of_an_earlier_fit(kind: Any, single: Any) -> None:
    model = small(kind, 20, bootstrap=True, oob_score=True).fit(X, y)
    assert sum(name.startswith("oob_") and name.endswith("_") for name in vars(model)) == 2
    model.set_params(oob_score=False).fit(X, y)
    assert not any(name.startswith("oob_") and name.endswith("_") for name in vars(model))


def test_samples_that_all_members_have_seen_are_reported() -> None:
    with pytest.warns(UserWarning, match="of 150 samples have no out-of-bag prediction") as warned:
        ensemble = small(dn.DenseEnsembleClassifier, 2, bootstrap=True, oob_score=True).fit(X, y)
    assert warned[-1].filename == __file__
    missing = np.isnan(ensemble.oob_decision_function_).all(axis=1)
    seen = [np.isin(np.arange(150), indices) for indices in ensemble.estimators_samples_]
    assert np.array_equal(missing, seen[0] & seen[1])
    assert 0 < ensemble.oob_score_ <= 1


# --- the interface of scikit-learn ------------------------------------------------------------------------------------


def test_a_saved_ensemble_predicts_the_same(tmp_path: Path) -> None:
    frame = pd.DataFrame(X, columns=list("abcd"))
    ensemble = small(dn.DenseEnsembleClassifier).fit(frame, np.array(["a", "bb", "c"])[y])
    ensemble.to_ensemble().save(tmp_path / "model.safetensors")
    loaded = dn.load(tmp_path / "model.safetensors", backend="numpy")
    np.testing.assert_allclose(loaded.predict(X.T).T, ensemble.predict_proba(frame), rtol=1e-12)
    assert loaded.metadata == {"features": ["a", "b", "c", "d"], "classes": ["a", "bb", "c"]}


@pytest.mark.parametrize(("kind", "single"), KINDS)
def test_pickles_clones_and_searches_work(kind: Any, single: Any) -> None:
    ensemble = small(kind).fit(X, y)
    assert np.array_equal(pickle.loads(pickle.dumps(ensemble)).predict(X), ensemble.predict(X))
    assert np.array_equal(clone(ensemble).fit(X, y).predict(X), ensemble.predict(X))
    for search in (GridSearchCV, dn.DenseSearchCV):
        pipeline = make_pipeline(StandardScaler(), small(kind))
        fitted = search(pipeline, {f"{kind.__name__.lower()}__n_members": [1, 2]}, cv=2).fit(X, y)
        assert fitted.predict(X).shape == (150,)


@pytest.mark.parametrize(("kind", "single"), KINDS)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_members": 0}, "n_members"),
        ({"n_members": True}, "n_members"),
        ({"random_state": True}, "random_state"),
        ({"oob_score": True}, "oob_score=True needs bootstrap=True"),
        ({"bootstrap": 2}, "bootstrap"),
        ({"alpha": -1}, "alpha"),
        ({"hidden_layer_sizes": (3, 0)}, "hidden_layer_sizes must be > 0"),
        ({"solver": "sgd", "learning_rate_init": 1e300}, "non-finite"),
    ],
)
def test_invalid_arguments_are_refused(kind: Any, single: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(kind).set_params(**settings).fit(X, y)


def ensembles_to_check() -> Iterator[Any]:
    for kind in (dn.DenseEnsembleClassifier, dn.DenseEnsembleRegressor):
        yield kind(3, backend="numpy", max_iter=100)
        yield kind(3, backend="numpy", solver="lbfgs", max_iter=20)
        yield kind(12, backend="numpy", max_iter=100, bootstrap=True)


def fail_with_bootstrap(ensemble: Any) -> dict[str, str]:
    """Return the checks that fail with ``bootstrap``, as for scikit-learn's forests, and the reason."""
    reason = "a bootstrap sample of repeated samples is another than that of weighted samples"
    names = [f"check_sample_weight_equivalence_on_{kind}_data" for kind in ("dense", "sparse")]
    return dict.fromkeys(names, reason) if ensemble.bootstrap else {}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the checks themselves test for the warnings that matter
@parametrize_with_checks([*ensembles_to_check()], expected_failed_checks=fail_with_bootstrap)
def test_the_checks_of_scikit_learn_pass(estimator: Any, check: Any) -> None:
    check(estimator)
