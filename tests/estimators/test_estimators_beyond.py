# ruff: noqa: E402
"""Features that scikit-learn's estimators lack: backends, an activation per layer, dropout, losses, callbacks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.equations.array import Array
from deepnotes.equations.ops import Ops

REASON = 'needs scikit-learn: pip install "deepnotes[sklearn]"'
sklearn = pytest.importorskip("sklearn", reason=REASON)

from scipy.sparse import csr_array
from sklearn.datasets import load_iris
from sklearn.preprocessing import StandardScaler

from deepnotes.network.training.orders import WORTH_A_THREAD
from deepnotes.nn.activations import LIBRARY as ACTIVATIONS
from deepnotes.nn.losses import LIBRARY as LOSSES

X, y = load_iris(return_X_y=True)
X = StandardScaler().fit_transform(X)
BACKENDS = [
    "numpy",
    pytest.param("numba", marks=pytest.mark.skipif("numba" not in dn.available_backends(), reason="needs numba")),
]
SAME_AS_LOG_LOSS = {"categorical_cross_entropy", "kl_divergence"}
"""The losses with the gradient of log_loss for one-hot targets."""
ESTIMATORS = [dn.DenseClassifier, dn.DenseRegressor]

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def make(estimator: Any, **options: Any) -> Any:
    return estimator(**{"hidden_layer_sizes": (7, 5), "max_iter": 4, "random_state": 0, **options})


def test_the_backend_argument_defaults_to_the_selected_backend() -> None:
    assert make(dn.DenseClassifier, backend="numpy").fit(X, y)._network().backend.name == "numpy"
    custom = dn.Backend("custom", np)
    assert make(dn.DenseClassifier, backend=custom).fit(X, y)._network().backend is custom
    with dn.use_backend("numpy") as backend:
        assert make(dn.DenseClassifier).fit(X, y)._network().backend is backend


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_backend_that_is_only_a_namespace_trains_to_the_same_parameters(estimator) -> None:
    strict = pytest.importorskip("array_api_strict", reason="needs array-api-strict")
    weights = np.linspace(0.1, 1, len(y))
    for options in (
        {},
        {"early_stopping": True},
        {"solver": "lbfgs"},
        {"solver": "sgd", "learning_rate": "invscaling"},
    ):
        model = make(estimator, backend=dn.Backend("strict", strict), alpha=0.1, **options)
        expected = make(estimator, backend="numpy", alpha=0.1, **options).fit(X, y, weights)
        for samples in (X, csr_array(X)):
            model.fit(samples, y, weights)
            for a, b in zip(model.coefs_ + model.intercepts_, expected.coefs_ + expected.intercepts_, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
            np.testing.assert_array_equal(model.predict(samples).round(6), expected.predict(samples).round(6))
    with pytest.raises(ValueError, match="read-only"):
        model.coefs_[0][0, 0] = 1


def test_many_samples_train_on_a_backend_whose_arrays_are_not_on_the_host() -> None:
    strict = pytest.importorskip("array_api_strict", reason="needs array-api-strict")
    samples = np.random.default_rng(0).normal(size=(WORTH_A_THREAD, 3))
    targets = samples[:, 0] > 0
    model, expected = (
        dn.DenseClassifier(4, backend=backend, max_iter=3, random_state=0).fit(samples, targets)
        for backend in (dn.Backend("strict", strict), "numpy")
    )
    for a, b in zip(model.coefs_, expected.coefs_, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_predictions_use_parameters_that_a_user_has_changed(backend) -> None:
    model = make(dn.DenseRegressor, backend=backend).fit(X, y)
    model.coefs_[-1][...] = 0
    model.intercepts_[-1][...] = 3
    np.testing.assert_array_equal(model.predict(X), 3.0)
    model.intercepts_[-1] = np.array([4.0])
    np.testing.assert_array_equal(model.predict(X), 4.0)
    model.coefs_ = [np.zeros_like(W) for W in model.coefs_]
    model.intercepts_ = [np.full_like(b, 5) for b in model.intercepts_]
    np.testing.assert_array_equal(model.predict(X), 5.0)
    model.partial_fit(X, y)
    assert 4.9 < model.predict(X).min() < model.predict(X).max() < 5  # training continues from these parameters


@pytest.mark.parametrize("backend", BACKENDS)
def test_to_network_returns_an_independent_network(backend, tmp_path) -> None:
    frames = pytest.importorskip("pandas", reason="needs pandas")
    frame = frames.DataFrame(X, columns=list("abcd"))
    model = make(dn.DenseClassifier, dropout=0.3, backend=backend).fit(frame, np.array(["x", "y", "z"])[y])
    network = model.to_network()
    np.testing.assert_array_equal(network.predict(X.T).T, model.predict_proba(frame))
    assert network.metadata == {"features": list("abcd"), "classes": list("xyz")}
    network.save(tmp_path / "model.safetensors")
    loaded = dn.load(tmp_path / "model.safetensors", backend=backend)
    np.testing.assert_array_equal(loaded.predict(X.T), network.predict(X.T))
    network.fit(X.T, y, epochs=1)
    assert not np.array_equal(network.parameters["W1"], model.coefs_[0].T)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", sorted(set(ACTIVATIONS)))
def test_every_activation_of_deepnotes_trains(name, backend) -> None:
    actual = make(dn.DenseClassifier, activation=name, backend=backend).fit(X, y)
    layers = actual._network().layers
    assert [layer.g for layer in layers] == [dn.Activation(name)] * 2 + [dn.Activation("softmax")]
    assert actual.loss_curve_[-1] < actual.loss_curve_[0]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_each_layer_can_have_its_own_activation(estimator) -> None:
    activations = ["logistic", dn.Activation("leaky_relu", slope=0.1)]
    model = make(estimator, activation=activations).fit(X, y)
    assert [layer.g.name for layer in model._network().layers][:2] == ["sigmoid", "leaky_relu"]
    same = make(estimator, activation=["relu", "relu"]).fit(X, y)
    np.testing.assert_array_equal(same.coefs_[0], make(estimator, activation="relu").fit(X, y).coefs_[0])


class Softsign(dn.ActivationFunction):
    """The softsign ``z / (1 + |z|)``, written as a user would write it."""

    def forward(self, ops: Ops, Z: Array) -> Array:
        return Z / (1 + abs(Z))

    def backward(self, ops: Ops, dA: Array, Z: Array, A: Array) -> Array:
        return dA / ((1 + abs(Z)) * (1 + abs(Z)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_user_defined_activation_trains(backend) -> None:
    model = make(dn.DenseClassifier, activation=Softsign(), solver="lbfgs", max_iter=60, backend=backend)
    assert model.fit(X, y).score(X, y) > 0.95


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_acts_in_training_but_not_in_predictions(estimator, backend) -> None:
    model, plain = (make(estimator, dropout=d, backend=backend, max_iter=20).fit(X, y) for d in ([0.5, 0.0], 0.0))
    repeated = make(estimator, dropout=[0.5, 0.0], backend=backend, max_iter=20).fit(X, y)
    other = make(estimator, dropout=[0.5, 0.0], backend=backend, max_iter=20, random_state=1).fit(X, y)
    assert sum(isinstance(layer, dn.Dropout) for layer in model._network().layers) == 1
    np.testing.assert_array_equal(model.coefs_[0], repeated.coefs_[0])
    assert model._network().seed != other._network().seed
    assert model.loss_ != plain.loss_
    np.testing.assert_array_equal(model.predict(X), model.predict(X))


def test_class_weights_multiply_sample_weights() -> None:
    subset = np.r_[0:50, 50:55, 100:150]
    options = {"solver": "lbfgs", "max_iter": 15}
    by_class = make(dn.DenseClassifier, class_weight={0: 1.0, 1: 10.0, 2: 1.0}, **options).fit(X[subset], y[subset])
    weights = np.where(y[subset] == 1, 10.0, 1.0)
    by_sample = make(dn.DenseClassifier, **options).fit(X[subset], y[subset], weights)
    np.testing.assert_array_equal(by_class.coefs_[0], by_sample.coefs_[0])
    combined = make(dn.DenseClassifier, class_weight={1: 5.0}, **options).fit(
        X[subset], y[subset], np.where(y[subset] == 1, 2.0, 1.0)
    )
    np.testing.assert_array_equal(combined.coefs_[0], by_sample.coefs_[0])
    balanced = make(dn.DenseClassifier, class_weight="balanced", **options).fit(X[subset], y[subset])
    counts = np.bincount(y[subset])[y[subset]]
    expected = make(dn.DenseClassifier, **options).fit(X[subset], y[subset], len(subset) / (3 * counts))
    np.testing.assert_allclose(balanced.coefs_[0], expected.coefs_[0])
    model = make(dn.DenseClassifier, class_weight={"b": 2.0, "c": 3.0}, batch_size=50)
    plain = make(dn.DenseClassifier, batch_size=50)
    class_names = np.array(["a", "b", "c"])[y]
    for start, weight in ((0, 1.0), (50, 2.0), (100, 3.0)):  # each call has samples of one class only
        part = slice(start, start + 50)
        model.partial_fit(X[part], class_names[part], classes=["a", "b", "c"])
        plain.partial_fit(X[part], class_names[part], np.full(50, weight), classes=["a", "b", "c"])
    np.testing.assert_array_equal(model.coefs_[0], plain.coefs_[0])
    X_labels, labels = X[:, :2], X[:, 2:] > 0
    by_label = make(dn.DenseClassifier, class_weight=[{0: 1.0, 1: 3.0}, {0: 1.0, 1: 1.0}]).fit(X_labels, labels)
    expected = make(dn.DenseClassifier).fit(X_labels, labels, np.where(labels[:, 0], 3.0, 1.0))
    np.testing.assert_array_equal(by_label.coefs_[0], expected.coefs_[0])
    with pytest.raises(ValueError, match="but none for the classes"):
        make(dn.DenseClassifier, class_weight={0: 1.0, 7: 2.0}).fit(X, y)
    with pytest.raises(ValueError, match="class_weight='balanced' needs all samples"):
        make(dn.DenseClassifier, class_weight="balanced").partial_fit(X, y, classes=[0, 1, 2])


class Cubed(dn.LossFunction):
    """The mean of ``|a - y|³``, written as a user would write it."""

    name = "cubed"

    def __repr__(self) -> str:
        return "Cubed()"

    def value(self, ops: Ops, A: Array, Y: Array) -> Array:
        return ops.xp.sum(abs(A - Y) * (A - Y) * (A - Y), axis=0, keepdims=True) / A.shape[0]

    def derivative(self, ops: Ops, A: Array, Y: Array) -> Array:
        return 3 * abs(A - Y) * (A - Y) / A.shape[0]


@pytest.mark.thinned(3)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("loss", [*LOSSES, dn.Loss("huber", delta=0.3), Cubed()], ids=str)
def test_every_loss_of_deepnotes_and_a_user_defined_loss_train(loss, solver, backend) -> None:
    name = loss if isinstance(loss, str) else loss.name
    if name in {"binary_cross_entropy", "categorical_cross_entropy", "focal", "kl_divergence", "hinge"}:
        model = make(dn.DenseClassifier, loss=loss, solver=solver, alpha=0.0, backend=backend).fit(X, y)
        assert model.out_activation_ == "softmax"
    else:
        model = make(dn.DenseRegressor, loss=loss, solver=solver, alpha=0.0, backend=backend).fit(X, y)
        assert model.out_activation_ == ("exp" if "poisson" in name else "identity")
        if name != "poisson" and solver == "lbfgs":
            network = model._network()
            assert model.loss_ == pytest.approx(network.evaluate(X.T, y, loss=loss)["loss"], rel=1e-12)
    other = make(type(model), solver=solver, alpha=0.0, backend=backend).fit(X, y)
    assert not np.array_equal(model.coefs_[0], other.coefs_[0]) or name in SAME_AS_LOG_LOSS


class StopAfterThree(dn.Callback):
    """Records the loss of each epoch, and ends training after the third."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_epoch(self, training: Any) -> None:
        self.losses.append(training.loss)
        training.stop = training.epoch == 3


class Interrupt(dn.Callback):
    """Acts like Ctrl-C in the second epoch."""

    def on_epoch(self, training: Any) -> None:
        if training.epoch == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_callbacks_are_called_after_each_epoch_and_can_end_training(estimator, backend, tmp_path) -> None:
    stopping = StopAfterThree()
    model = make(estimator, callbacks=[stopping], max_iter=50, backend=backend).fit(X, y)
    assert model.n_iter_ == 3
    assert stopping.losses == model.loss_curve_ == model.history_.loss
    model = make(estimator, callbacks=[dn.EarlyStopping(2, min_delta=1e3)], max_iter=50, backend=backend).fit(X, y)
    assert model.n_iter_ == 4
    with pytest.warns(UserWarning, match="training was interrupted"):
        model = make(estimator, callbacks=[Interrupt()], max_iter=50, backend=backend).fit(X, y)
    assert model.n_iter_ == 2
    assert np.isfinite(model.predict(X)).all()
    with pytest.raises(ValueError, match="cannot be resumed from checkpoints"):
        make(estimator, callbacks=[dn.Checkpoints(tmp_path / "run")]).fit(X, y)
    assert not (tmp_path / "run").exists()


def test_the_history_records_the_loss_score_and_learning_rate_of_each_epoch() -> None:
    model = make(
        dn.DenseRegressor,
        early_stopping=True,
        solver="sgd",
        learning_rate="invscaling",
        learning_rate_init=0.1,
        max_iter=6,
    ).fit(X, y)
    history = model.history_
    assert history.loss == model.loss_curve_
    assert history.metrics["val_score"] == model.validation_scores_
    assert history.learning_rate == pytest.approx([0.1, *(0.1 / (135 * k + 1) ** 0.5 for k in range(1, 6))])
    assert model._live_network.rate.rate == 0.1 / (135 * 6 + 1) ** 0.5


def test_the_benchmark_checks_that_results_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    from benchmarks import estimators, report
    from deepnotes.testing.bench import timing

    monkeypatch.setattr(timing, "PAUSE_SECONDS", 0)
    case = estimators.Case((3,), 16, 2, lambda: estimators.generate_samples(4, 3, 40, 20))
    monkeypatch.setitem(estimators.CASES, "small", case)
    result = estimators.measure("small", ["numpy"], rounds=2)
    assert result["network"] == "4-3-3"
    lowest, median, highest = result["ratios"]["scikit-learn to numpy"]
    assert 0 < lowest <= median <= highest
    head, row = report.estimators_rows({"small": result}, True)
    assert len(head) == len(row)
    (X_small, y_small), held_out = case.data()
    fitted = {name: model.fit(X_small, y_small) for name, model in estimators.make_estimators(case, ["numpy"]).items()}
    assert set(estimators.check_agreement(fitted, held_out)) == {"numpy", "scikit-learn"}
    fitted["numpy"].loss_curve_[0] += 0.1
    with pytest.raises(AssertionError, match="numpy trains differently from scikit-learn"):
        estimators.check_agreement(fitted, held_out)
