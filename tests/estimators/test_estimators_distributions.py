"""DenseRegressor with losses that predict quantiles, or a mean and a standard deviation."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepnotes as dn

pytest.importorskip("sklearn", reason='needs scikit-learn: pip install "deepnotes[sklearn]"')

from sklearn.base import clone
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:.*no out-of-bag prediction"),
]

RNG = np.random.default_rng(0)
X = RNG.uniform(-1, 1, (300, 2))
NOISE = (0.1 + 0.3 * (X[:, 0] > 0)) * RNG.normal(size=300)
y = X[:, 0] ** 2 + X[:, 1] + NOISE
Y = np.column_stack([y, 3 - y])
QUANTILES = dn.QuantileLoss([0.05, 0.5, 0.95])
LOSSES = {"quantiles": QUANTILES, "no_median": dn.QuantileLoss([0.2, 0.9]), "gaussian": dn.GaussianNLL()}
BACKENDS = [
    "numpy",
    pytest.param("numba", marks=pytest.mark.skipif("numba" not in dn.available_backends(), reason="needs numba")),
]


def make(loss: Any, **options: Any) -> dn.DenseRegressor:
    settings = {"hidden_layer_sizes": (12,), "activation": "tanh", "max_iter": 5, "random_state": 0, "backend": "numpy"}
    return dn.DenseRegressor(loss, **settings | options)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("targets", [y, Y], ids=["1 target", "2 targets"])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_an_epoch_is_that_of_a_network(loss: Any, targets: np.ndarray, backend: str) -> None:
    options: Any = {"solver": "sgd", "momentum": 0, "learning_rate_init": 0.1, "alpha": 0, "shuffle": False}
    model = make(loss, batch_size=300, backend=backend, **options).partial_fit(X, targets)
    net = model.to_network()
    net.partial_fit(X.T, targets.T, loss=loss, optimizer=dn.SGD(0.1))
    model.partial_fit(X, targets)
    np.testing.assert_allclose(model.to_network().flat(), net.flat(), rtol=1e-12, atol=1e-14)
    assert model.loss_curve_[0] > model.loss_curve_[1]


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_the_intervals_cover_the_targets(solver: str) -> None:
    options: Any = {"solver": solver, "max_iter": 300, "learning_rate_init": 0.01, "tol": 0, "n_iter_no_change": 300}
    quantiles = make(QUANTILES, **options).fit(X, y).predict_quantiles(X)
    mean, std = make(dn.GaussianNLL(), **options).fit(X, y).predict(X, return_std=True)
    for lower, upper in ((quantiles[:, 0], quantiles[:, 2]), (mean - 1.645 * std, mean + 1.645 * std)):
        assert 0.84 < np.mean((lower <= y) & (y <= upper)) < 0.95
    assert std[X[:, 0] > 0.1].mean() > 2 * std[X[:, 0] < -0.1].mean()


@pytest.mark.parametrize("targets", [y, Y], ids=["1 target", "2 targets"])
def test_quantiles_are_sorted_and_their_median_is_predicted(targets: np.ndarray) -> None:
    model = make(QUANTILES).fit(X, targets)
    model.intercepts_[-1][:] = np.arange(len(model.intercepts_[-1]))[::-1]  # so that all of them cross
    A = model.to_network().predict(X.T).reshape(3, -1, 300)
    assert (A[0] > A[2]).all()
    expected = np.sort(A, axis=0).T
    found = model.predict_quantiles(X)
    assert found.shape == ((300, 3) if targets.ndim == 1 else (300, 2, 3))
    np.testing.assert_array_equal(found, expected[:, 0] if targets.ndim == 1 else expected)
    np.testing.assert_array_equal(model.predict(X), found[..., 1])
    assert model.score(X, targets) == r2_score(targets, found[..., 1])


def test_a_median_that_is_not_among_the_quantiles_is_interpolated() -> None:
    model = make(LOSSES["no_median"]).fit(X, y)
    lower, upper = model.predict_quantiles(X).T
    np.testing.assert_allclose(model.predict(X), lower + (0.5 - 0.2) / (0.9 - 0.2) * (upper - lower))


@pytest.mark.parametrize("targets", [y, Y], ids=["1 target", "2 targets"])
def test_the_mean_and_the_standard_deviation(targets: np.ndarray) -> None:
    model = make(dn.GaussianNLL(0.01)).fit(X, targets)
    mean, log_variance = model.to_network().predict(X.T).reshape(2, -1, 300)
    found, std = model.predict(X, return_std=True)
    assert found.shape == std.shape == targets.shape
    np.testing.assert_array_equal(found, mean.T.reshape(targets.shape))
    np.testing.assert_allclose(std, np.exp(log_variance / 2).T.reshape(targets.shape).clip(0.1), rtol=1e-14)
    np.testing.assert_array_equal(model.predict(X), found)
    assert model.score(X, targets) == r2_score(targets, found)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_what_scikit_learn_does_with_estimators(loss: Any, tmp_path: Path) -> None:
    model = make(loss, early_stopping=True)
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    model.fit(X, y)
    assert model.validation_scores_ is not None
    assert model.best_validation_score_ == max(model.validation_scores_)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    model.to_network().save(tmp_path / "net.safetensors")
    A = dn.load(tmp_path / "net.safetensors", "numpy").predict(X.T)
    np.testing.assert_array_equal(A, model.to_network().predict(X.T))
    np.testing.assert_allclose(dn.from_sklearn(model, backend="numpy").predict(X.T), A, rtol=1e-12)
    scores = cross_val_score(make_pipeline(StandardScaler(), copy), X, y, cv=3)
    assert np.isfinite(scores).all()
    assert model.transform(X).shape == (300, 12)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_weights_count_like_copies(loss: Any) -> None:
    weights = np.arange(300) % 3
    settings: Any = {"solver": "lbfgs", "max_iter": 20, "alpha": 0}
    weighted = make(loss, **settings).fit(X, y, weights)
    copies = make(loss, **settings).fit(np.repeat(X, weights, axis=0), np.repeat(y, weights))
    assert weighted.loss_ == pytest.approx(copies.loss_, rel=1e-2)


def test_a_search_chooses_among_losses() -> None:
    grid = {"loss": [QUANTILES, dn.GaussianNLL(), "squared_error"], "alpha": [1e-4, 1.0]}
    ours = dn.DenseSearchCV(make("squared_error"), grid, cv=2).fit(X, y)
    theirs = GridSearchCV(make("squared_error"), grid, cv=2).fit(X, y)
    np.testing.assert_array_equal(ours.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"])
    assert ours.best_params_ == theirs.best_params_


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_an_ensemble_combines_the_distributions_of_its_members(loss: Any) -> None:
    options: Any = make(loss).get_params() | {"bootstrap": True, "oob_score": True}
    del options["warm_start"]
    model = dn.DenseEnsembleRegressor(6, **options).fit(X, y)
    members = [member.predict(X) for member in model.estimators_]
    np.testing.assert_allclose(model.predict(X), np.mean(members, axis=0))
    np.testing.assert_allclose(model.disagreement(X), np.std(members, axis=0))
    assert model.score(X, y) == r2_score(y, model.predict(X))
    assert model.oob_prediction_.shape == (300,)
    std = model.predict(X, return_std=True)[1]
    if isinstance(loss, dn.GaussianNLL):
        noise = [member.predict(X, return_std=True)[1] for member in model.estimators_]
        np.testing.assert_allclose(std, np.sqrt(np.mean(np.square(noise), axis=0) + np.var(members, axis=0)))
        with pytest.raises(dn.ArgumentError, match=r"^predict_quantiles needs loss=QuantileLoss"):
            model.predict_quantiles(X)
    else:
        np.testing.assert_allclose(std, np.std(members, axis=0))
        wanted = np.mean([member.predict_quantiles(X) for member in model.estimators_], axis=0)
        np.testing.assert_array_equal(model.predict_quantiles(X), wanted)


def test_what_a_loss_does_not_predict_is_refused() -> None:
    model = make(QUANTILES).fit(X, y)
    with pytest.raises(
        dn.ArgumentError, match=r"^return_std=True needs loss=GaussianNLL\(\), but the loss is Quantile"
    ):
        model.predict(X, return_std=True)
    with pytest.raises(dn.ArgumentError, match=r"^predict_quantiles needs loss=QuantileLoss\(.*'squared_error'"):
        make("squared_error").fit(X, y).predict_quantiles(X)
    with pytest.raises(dn.ArgumentError, match=r"^loss=Gaussian.*wanted a loss with one output for each class"):
        dn.DenseClassifier(loss=dn.GaussianNLL()).fit(X, y > 0)
    warm = make(QUANTILES, warm_start=True).fit(X, y).set_params(loss=dn.GaussianNLL())
    with pytest.raises(dn.ShapeError, match=r"^coefs_\[1\] was set to an array of shape \(12, 3\), wanted \(12, 2\)"):
        warm.fit(X, y)


def test_skl2onnx_refuses_several_outputs_for_each_target() -> None:
    skl2onnx = pytest.importorskip("skl2onnx")
    dn.register_skl2onnx()
    with pytest.raises(dn.ModelFileError, match=r"use to_network\(\).to_onnx\(path\)"):
        skl2onnx.to_onnx(make(QUANTILES).fit(X, y), X[:1])
