# ruff: noqa: E402
"""Normalization, shortcuts, averages of the weights and schedules by update in the estimators."""

import pickle
from typing import Any

import numpy as np
import pytest

import deepnotes as dn

REASON = 'needs scikit-learn: pip install "deepnotes[sklearn]"'
sklearn = pytest.importorskip("sklearn", reason=REASON)

from scipy.sparse import csr_array
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from deepnotes.nn.layers import Shortcut

X, y = load_iris(return_X_y=True)
X = StandardScaler().fit_transform(X)
BACKENDS = [
    "numpy",
    pytest.param("numba", marks=pytest.mark.skipif("numba" not in dn.available_backends(), reason="needs numba")),
]
ESTIMATORS = [dn.DenseClassifier, dn.DenseRegressor]
EPOCHS, BATCH = 4, 30
STEPS = EPOCHS * 5
PLATEAU = dn.ReduceOnPlateau(0.01, factor=0.5, patience=0, min_delta=0.5)
ALL = {
    "normalization": "layer", "residual": True, "average": dn.EMA(0.9), "learning_rate": "one-cycle", "dropout": 0.1,
}  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def make(estimator: Any = dn.DenseClassifier, **options: Any) -> Any:
    defaults = {"hidden_layer_sizes": (6, 6, 4), "max_iter": EPOCHS, "batch_size": BATCH, "random_state": 0}
    return estimator(**{**defaults, "learning_rate_init": 0.01, "backend": "numpy", **options})


def flat(model: Any) -> np.ndarray:
    return model.to_network().flat()


def test_the_layers_are_those_of_a_residual_network_for_tables() -> None:
    model = make(activation=["relu", "tanh", "relu"], dropout=[0.0, 0.1, 0.2], normalization="layer", residual=True)
    dense, block = [dn.Dense(6, "relu")], [dn.LayerNorm(), dn.Dense(6, "tanh"), dn.Dropout(0.1), Shortcut(3)]
    narrow = [dn.LayerNorm(), dn.Dense(4, "relu"), dn.Dropout(0.2), dn.LayerNorm()]
    assert model.fit(X, y).to_network().layers == (*dense, *block, *narrow, dn.Dense(3, "softmax"))
    model = make(normalization="rms").fit(X, y)
    assert [type(layer).__name__ for layer in model.to_network().layers] == ["Dense", "RMSNorm"] * 3 + ["Dense"]
    model = make(residual=True).fit(X, y)
    assert [type(layer).__name__ for layer in model.to_network().layers] == ["Dense"] * 2 + ["Shortcut"] + ["Dense"] * 2
    assert make(hidden_layer_sizes=(), normalization="layer", residual=True).fit(X, y).to_network().layers == (
        dn.Dense(3, "softmax"),
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("options", "rate"),
    [
        ({}, 0.01),
        ({"normalization": "layer"}, 0.01),
        ({"normalization": "rms", "residual": True}, 0.01),
        ({"residual": True, "solver": "sgd", "average": dn.EMA(0.8)}, 0.01),
        ({"average": dn.SWA(11, every=5)}, 0.01),
        ({"average": dn.SWA(STEPS + 1)}, 0.01),
        ({"learning_rate": "one-cycle"}, dn.OneCycle(0.01, STEPS)),
        ({"learning_rate": "one-cycle", "solver": "sgd"}, dn.OneCycle(0.01, STEPS)),
        ({"learning_rate": "cosine", "normalization": "layer"}, dn.CosineDecay(0.01, STEPS, warmup=1)),
        ({"learning_rate": "cyclic", "solver": "sgd", "momentum": 0.0}, dn.Cyclic(0.01, 0.0025, up=3)),
        ({"learning_rate": PLATEAU, "average": dn.EMA(0.5)}, PLATEAU),
        ({"learning_rate": dn.StepDecay(0.02, every=7), "solver": "sgd"}, dn.StepDecay(0.02, every=7)),
    ],
    ids=str,
)
def test_training_has_the_bits_of_a_network_with_these_layers_and_this_schedule(options, rate, backend) -> None:
    model = make(**options, alpha=0.0, shuffle=False, backend=backend).fit(X, y)
    start = make(**options, alpha=0.0, shuffle=False, backend=backend)
    start.classes_, start._multilabel, start.n_features_in_, start.n_outputs_ = np.unique(y), False, 4, 3
    start._random_state = np.random.RandomState(0)
    start._initialize([4, 6, 6, 4, 3], np.dtype(np.float64))
    net = start.to_network()
    optimizer: dn.nn.Optimizer
    if options.get("solver") == "sgd":
        momentum = options.get("momentum", 0.9)
        in_velocity = isinstance(rate, dn.nn.Schedule)  # otherwise the rate is constant, and the velocity as by default
        optimizer = dn.SGD(rate, momentum, nesterov=momentum > 0, rate_in_velocity=in_velocity)
    else:
        optimizer = dn.Adam(rate, epsilon_hat=True)
    history = net.fit(
        X.T, y, optimizer=optimizer, epochs=EPOCHS, batch_size=BATCH, shuffle=False, average=options.get("average")
    )
    np.testing.assert_array_equal(flat(model), net.flat())
    assert model.history_.learning_rate == history.learning_rate
    assert model.loss_curve_ == history.loss


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("l1_ratio", [0.0, 0.3, 1.0])
def test_the_penalty_is_that_of_an_elastic_net(l1_ratio, backend) -> None:
    m, alpha = len(X), 3.0
    options = {"solver": "sgd", "momentum": 0.0, "shuffle": False, "batch_size": m, "backend": backend, "max_iter": 6}
    start = make(**options, alpha=0.0, learning_rate_init=1e-300).fit(X, y)
    model = make(**options, alpha=alpha, l1_ratio=l1_ratio).fit(X, y)
    net = start.to_network()
    history = net.fit(
        X.T, y, optimizer=dn.SGD(0.01), epochs=6, batch_size=m, shuffle=False, l1=alpha * l1_ratio / m,
        l2=alpha * (1 - l1_ratio) / m,
    )  # fmt: skip
    np.testing.assert_allclose(flat(model), net.flat(), rtol=1e-9, atol=1e-12)
    W = np.concatenate([coef.ravel() for coef in start.coefs_])
    penalty = alpha * (l1_ratio * abs(W).sum() + (1 - l1_ratio) / 2 * (W @ W)) / m
    assert model.loss_curve_[0] == pytest.approx(history.loss[0] + penalty)


@pytest.mark.thinned(6)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("schedule", ["constant", "one-cycle", PLATEAU], ids=str)
@pytest.mark.parametrize("average", [None, dn.EMA(0.9), dn.SWA(6)], ids=str)
def test_calls_of_partial_fit_give_the_bits_of_one_fit(estimator, backend, solver, schedule, average) -> None:
    options = ALL | {"average": average, "learning_rate": schedule, "solver": solver, "shuffle": False}
    model = make(estimator, **options, backend=backend).fit(X, y)
    other = make(estimator, **options, backend=backend)
    arguments = {"classes": np.unique(y)} if estimator is dn.DenseClassifier else {}
    for _ in range(EPOCHS):
        other.partial_fit(X, y, **arguments)
        other.predict(X)
        assert other.coefs_[0] is other._parameters()["W"][0]
        other = pickle.loads(pickle.dumps(other))
    np.testing.assert_array_equal(flat(other), flat(model))


def test_partial_fit_continues_from_averages_that_a_user_has_changed() -> None:
    options = {"average": dn.EMA(0.9), "shuffle": False, "solver": "sgd", "momentum": 0.0}
    model = make(**options).partial_fit(X, y, classes=np.unique(y))
    model.coefs_[0][:] = 0.0
    started: list[np.ndarray] = []

    class Record(dn.Callback):
        def on_ready(self, training: Any) -> None:
            started.append(training.network.flat())

    changed = flat(model)
    model.set_params(callbacks=[Record()]).partial_fit(X, y)
    np.testing.assert_array_equal(started[0], changed)
    unchanged = flat(model)
    model.partial_fit(X, y)
    assert not np.array_equal(started[1], unchanged)  # but the parameters themselves


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("average", [dn.EMA(0.8), dn.SWA(7)], ids=str)
def test_early_stopping_scores_and_keeps_the_averages(average, backend) -> None:
    seen: list[np.ndarray] = []

    class Record(dn.Callback):
        def on_epoch(self, training: Any) -> None:
            seen.append(training.flat())

    model = make(
        average=average, early_stopping=True, max_iter=12, backend=backend, callbacks=[Record()], n_iter_no_change=3
    ).fit(X, y)
    best = int(np.argmax(model.validation_scores_))
    np.testing.assert_array_equal(flat(model), seen[best])
    alone = make(early_stopping=True, max_iter=12, backend=backend, n_iter_no_change=3).fit(X, y)
    assert model.loss_curve_[0] == alone.loss_curve_[0]
    assert model.validation_loss_curve_ != alone.validation_loss_curve_


def test_a_warm_start_continues_from_the_averages() -> None:
    model = make(**ALL, warm_start=True).fit(X, y)
    first = flat(model)
    started: list[np.ndarray] = []

    class Record(dn.Callback):
        def on_ready(self, training: Any) -> None:
            started.append(training.network.flat())

    model.set_params(callbacks=[Record()]).fit(X, y)
    np.testing.assert_array_equal(started[0], first)
    assert not np.array_equal(flat(model), first)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_search_trains_all_candidates_together_with_the_results_of_scikit_learn(backend) -> None:
    grid = {
        "normalization": [None, "layer"], "average": [None, dn.EMA(0.9)],
        "learning_rate": ["one-cycle", dn.Cyclic(0.02, 0.005, up=4)],
    }  # fmt: skip
    model = make(max_iter=2, residual=True, backend=backend)
    ours = dn.DenseSearchCV(model, grid, cv=2).fit(X, y)
    theirs = GridSearchCV(model, grid, cv=2).fit(X, y)
    assert ours.best_params_ == theirs.best_params_
    np.testing.assert_array_equal(ours.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"])
    assert len(set(ours.cv_results_["mean_test_score"])) > 3
    np.testing.assert_array_equal(flat(ours.best_estimator_), flat(theirs.best_estimator_))


@pytest.mark.parametrize("estimator", [dn.DenseEnsembleClassifier, dn.DenseEnsembleRegressor])
def test_an_ensemble_passes_the_options_to_its_members(estimator) -> None:
    model = estimator(2, hidden_layer_sizes=(6, 6), max_iter=2, random_state=0, backend="numpy", **ALL).fit(X, y)
    for member in model.estimators_:
        assert {name: getattr(member, name) for name in ALL} == ALL
        assert [len(gamma) for gamma in member.gammas_] == [6, 6]
    assert model.to_ensemble().predict(X.T).shape[1] == 150


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("normalization", ["layer", "rms"])
def test_lbfgs_trains_normalized_layers(normalization, backend) -> None:
    options = {"solver": "lbfgs", "activation": "tanh", "normalization": normalization, "residual": True}
    model = make(**options, max_iter=200, backend=backend).fit(X, y)
    assert model.score(X, y) > 0.98
    assert all((gamma != 1).any() for gamma in model.gammas_)


@pytest.mark.parametrize("backend", BACKENDS)
def test_scales_and_shifts_can_be_changed_and_assigned_to(backend) -> None:
    model = make(**ALL, backend=backend).fit(X, y)
    assert [x.shape for x in model.gammas_] == [x.shape for x in model.betas_] == [(6,), (6,), (4,)]
    before = model.predict_proba(X)
    model.gammas_[2][:] = 0.0
    model.betas_ = [*model.betas_[:2], np.zeros(4)]
    b = model.intercepts_[-1]
    expected = np.exp(b) / np.exp(b).sum()  # the last layer has the inputs 0
    np.testing.assert_allclose(model.predict_proba(X), np.tile(expected, (150, 1)), rtol=1e-12)
    assert not np.allclose(before, model.predict_proba(X))


def test_scales_and_shifts_of_other_shapes_are_refused() -> None:
    model = make(normalization="layer").fit(X, y)
    gammas = model.gammas_
    for wrong in ([], gammas[:2], [*gammas[:2], np.ones(5)]):
        model.gammas_ = wrong
        with pytest.raises(dn.ShapeError, match=r"gammas_ has arrays of the shapes .* for normalization='layer'"):
            model.predict(X)
    model.gammas_ = [*gammas[:2], np.array(["a"] * 4)]
    with pytest.raises(dn.DTypeError, match=r"gammas_\[2\] was set to an array of"):
        model.predict(X)
    model = make(warm_start=True).fit(X, y)
    with pytest.raises(dn.ShapeError, match=r"wanted \[\(6,\), \(6,\), \(4,\)\] for normalization='rms'"):
        model.set_params(normalization="rms").fit(X, y)
    with pytest.raises(dn.ShapeError, match=r"gammas_ has arrays .* wanted \[\] for normalization=None"):
        make(warm_start=True, normalization="rms").fit(X, y).set_params(normalization=None).fit(X, y)


@pytest.mark.parametrize("options", [{"normalization": "rms"}, {"residual": True}], ids=str)
def test_from_sklearn_refuses_layers_that_scikit_learn_does_not_have(options) -> None:
    with pytest.raises(dn.ArgumentError, match="wanted Dense layers only; its method to_network"):
        dn.from_sklearn(make(**options).fit(X, y))


def test_a_network_with_all_options_can_be_saved_and_exported(tmp_path) -> None:
    model = make(**ALL).fit(X, y)
    net = model.to_network()
    net.save(tmp_path / "model.safetensors")
    loaded = dn.load(tmp_path / "model.safetensors", backend="numpy")
    np.testing.assert_array_equal(loaded.predict(X.T).T, model.predict_proba(X))


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", [{}, {"normalization": "layer", "residual": True, "dropout": 0.2}], ids=str)
def test_transform_gives_what_the_last_layer_reads(estimator, backend, options) -> None:
    model = make(estimator, **options, hidden_layer_sizes=(6, 6), backend=backend).fit(X, y)
    features = model.transform(X)
    assert features.shape == (150, 6)
    Z = features @ model.coefs_[-1] + model.intercepts_[-1]
    if estimator is dn.DenseRegressor:
        np.testing.assert_allclose(Z[:, 0], model.predict(X), rtol=1e-12)
    else:
        np.testing.assert_allclose(np.exp(Z) / np.exp(Z).sum(axis=1, keepdims=True), model.predict_proba(X), rtol=1e-12)
    np.testing.assert_allclose(model.transform(csr_array(X)), features, rtol=1e-12, atol=1e-15)
    if not options:
        hidden = X
        for W, b in zip(model.coefs_[:2], model.intercepts_[:2], strict=True):
            hidden = np.maximum(hidden @ W + b, 0)
        np.testing.assert_allclose(features, hidden, rtol=1e-12, atol=1e-15)


def test_a_pipeline_uses_the_hidden_layer_as_features_with_names() -> None:
    pipeline = make_pipeline(StandardScaler(), make(hidden_layer_sizes=8, max_iter=50), LogisticRegression())
    assert pipeline.fit(X, y).score(X, y) > 0.9
    model = make().set_output(transform="pandas").fit(X, y)
    frame = model.transform(X)
    names = [f"denseclassifier{i}" for i in range(4)]
    assert list(frame.columns) == list(model.get_feature_names_out()) == names
    assert frame.to_numpy().dtype == np.float64
    assert make(dtype="float32").fit(X, y).transform(X).dtype == np.float32
    np.testing.assert_array_equal(make().fit_transform(X, y), frame.to_numpy())


def test_transform_needs_a_fit_and_a_hidden_layer() -> None:
    with pytest.raises(NotFittedError):
        make().transform(X)
    with pytest.raises(dn.ArgumentError, match=r"hidden_layer_sizes=\(\), wanted a hidden layer"):
        make(hidden_layer_sizes=()).fit(X, y).transform(X)
