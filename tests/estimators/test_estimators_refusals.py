"""Invalid arguments of the estimators are refused; class and sample weights."""

import warnings
from typing import Any

import numpy as np
import pytest

import deepnotes as dn

pytest.importorskip("sklearn")

rng = np.random.default_rng(0)
X = rng.normal(size=(60, 4))
y = (X[:, 0] + 0.5 * rng.normal(size=60) > 0.4).astype(int)
LABELS = np.column_stack([y, X[:, 1] > 1])


def make(**options: Any) -> dn.DenseClassifier:
    return dn.DenseClassifier(**{"hidden_layer_sizes": 5, "max_iter": 3, "random_state": 0} | options)


@pytest.fixture(autouse=True)
def _silent() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("targets", [y, np.where(X[:, 1] > 1, 2, y), LABELS], ids=["binary", "multiclass", "labels"])
def test_balanced_class_weights_count_weighted_samples(targets: np.ndarray) -> None:
    """A sample with the integer weight w counts as w copies of it."""
    w = rng.integers(0, 4, 60)
    for options in (
        {"hidden_layer_sizes": (), "alpha": 0.1, "max_iter": 1000, "tol": 1e-10},  # convex: one minimum
        {"hidden_layer_sizes": (5,), "max_iter": 1},
    ):
        model = make(class_weight="balanced", solver="lbfgs", **options)
        weighted = model.fit(X, targets, w).predict_proba(X)
        repeated = model.fit(np.repeat(X, w, axis=0), np.repeat(targets, w, axis=0)).predict_proba(X)
        np.testing.assert_allclose(weighted, repeated, rtol=0, atol=1e-6 if model.max_iter > 1 else 1e-12)


def test_balanced_class_weights_match_scikit_learn() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    w = rng.uniform(0, 3, 60)
    weights = compute_class_weight("balanced", classes=np.array([0, 1]), y=y, sample_weight=w)
    balanced, by_hand = (
        make(class_weight="balanced").fit(X, y, w),
        make(class_weight=dict(enumerate(weights))).fit(X, y, w),
    )
    np.testing.assert_allclose(balanced.coefs_[0], by_hand.coefs_[0], rtol=1e-12)


@pytest.mark.parametrize(
    ("class_weight", "targets", "message"),
    [
        ({1: 1.0, 2: 10.0}, y, r"class_weight has weights for unknown classes 2, but none for the classes 0"),
        ({"yes": 2.0}, y, "class_weight has weights for unknown classes 'yes'"),
        ({0: np.nan, 1: 1.0}, y, r"class_weight\[0\]=nan, wanted a finite number"),
        ({0: -1.0, 1: 1.0}, y, r"class_weight\[0\]=-1.0, wanted a finite number of at least 0"),
        ({0: True, 1: 1.0}, y, r"class_weight\[0\]=True"),
        ({0: 0.0, 1: 0.0}, y, "class_weight times sample_weight: the largest weight is 0.0"),
        ([{0: 1.0, 1: 1.0}], y, "class_weight is a list, but y is not multilabel"),
        ([{0: 1.0, 1: 1.0}], LABELS, "class_weight is a list of 1, wanted 'balanced' or a list of 2 dicts"),
        ({0: 1.0, 1: 1.0}, LABELS, "class_weight is a dict, wanted 'balanced' or a list of 2 dicts"),
        ([{0: 1.0, 2: 1.0}, "balanced"], LABELS, r"class_weight\[0\] has weights for unknown classes 2"),
    ],
    ids=str,
)
def test_invalid_class_weights_are_refused(class_weight: Any, targets: np.ndarray, message: str) -> None:
    model = make(class_weight=class_weight)
    with pytest.raises(dn.ArgumentError if "times" not in message else dn.DataError, match=message):
        model.fit(X, targets)
    assert not hasattr(model, "coefs_")


class ArrayLike:
    """An object that NumPy can convert to an array, but whose ``__array_function__`` supports no function."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.array(self.values, dtype)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        raise TypeError(f"{function.__name__} is not supported")

    def __len__(self) -> int:
        return len(self.values)


@pytest.mark.parametrize("class_weight", ["balanced", {0: 1.0, 1: 3.0}], ids=str)
def test_class_weights_accept_array_likes_without_numpy_functions(class_weight: Any) -> None:
    actual = make(class_weight=class_weight).fit(X, ArrayLike(y))
    np.testing.assert_array_equal(actual.coefs_[0], make(class_weight=class_weight).fit(X, y).coefs_[0])


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_sample_weights_that_are_all_0_in_one_part_of_the_split_are_refused(solver: str) -> None:
    from sklearn.model_selection import train_test_split

    train, held_out = train_test_split(np.arange(60), random_state=_generator_of_the_split(), test_size=0.1, stratify=y)
    for part, message in ((held_out, "held out for early stopping"), (train, "to train on")):
        w = np.ones(60)
        w[part] = 0
        model = make(early_stopping=True, solver=solver)
        with pytest.raises(dn.DataError, match=f"all {len(part)} samples {message} have the weight 0"):
            model.fit(X, y, w)
        assert not hasattr(model, "history_")


def _generator_of_the_split() -> np.random.RandomState:
    """Return the random generator that splits the samples: the initial parameters have already been drawn from it."""
    from deepnotes.estimators.architecture import initial_parameters

    state = np.random.RandomState(0)
    initial_parameters([4, 5, 1], "relu", state, np.dtype(np.float64))
    return state


@pytest.mark.parametrize(
    "sizes",
    [(10.5,), 10.5, 10.0, (10.0,), [True], True, ("10",), np.array([3.0, 4.0]), np.float64(5), [[3], [4]]],
    ids=str,
)
def test_sizes_of_hidden_layers_must_be_integers(sizes: Any) -> None:
    with pytest.raises(ValueError, match="hidden_layer_sizes"):
        make(hidden_layer_sizes=sizes).fit(X, y)
    assert make(hidden_layer_sizes=np.array([3, 4], np.int8)).fit(X, y).coefs_[1].shape == (3, 4)


@pytest.mark.parametrize(
    "name", ["max_iter", "batch_size", "n_iter_no_change", "max_fun", "random_state", "alpha", "momentum", "dropout"]
)
@pytest.mark.parametrize("value", [True, np.True_], ids=repr)
def test_true_is_not_accepted_as_a_number(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        make(**{name: value}).fit(X, y)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.coefs_.__setitem__(0, np.zeros((9, 5))), r"coefs_\[0\] was set to .* \(9, 5\), wanted \(4, 5\)"),
        (lambda m: m.coefs_.__setitem__(1, np.zeros((7, 1))), r"coefs_\[1\] .* shape \(7, 1\), wanted \(5, 1\)"),
        (lambda m: m.coefs_.__setitem__(1, np.zeros(5)), r"coefs_\[1\] .* shape \(5,\), wanted \(5, 1\)"),
        (lambda m: m.coefs_.__setitem__(0, np.zeros(5)), r"coefs_\[0\] .* shape \(5,\), wanted \(4, n\)"),
        (lambda m: m.intercepts_.__setitem__(0, np.zeros(6)), r"intercepts_\[0\] .* shape \(6,\), wanted \(5,\)"),
        (lambda m: m.intercepts_.pop(), "coefs_ has 2 arrays and intercepts_ 1"),
        (lambda m: m.coefs_.__setitem__(0, np.full((4, 5), "a")), r"coefs_\[0\] was set to an array of <U1"),
    ],
    ids=lambda x: "" if callable(x) else x,
)  # fmt: skip
def test_assigned_parameters_of_a_wrong_shape_or_dtype_are_refused(change: Any, message: str) -> None:
    model = make().fit(X, y)
    change(model)
    with pytest.raises((dn.ShapeError, dn.DTypeError), match=message):
        model.predict(X)


def test_arrays_with_masked_elements_are_refused() -> None:
    mask = np.zeros(X.shape, bool)
    mask[3, 1] = True
    model = make().fit(X, y)
    for call in (
        lambda: make().fit(np.ma.array(X, mask=mask), y),
        lambda: make().fit(X, np.ma.array(y, mask=mask[:, 1])),
        lambda: make().fit(X, y, np.ma.array(np.ones(60), mask=mask[:, 1])),
        lambda: make().partial_fit(np.ma.array(X, mask=mask), y, classes=[0, 1]),
        lambda: model.predict(np.ma.array(X, mask=mask)),
        lambda: model.predict_proba(np.ma.array(X, mask=mask)),
        lambda: model.score(np.ma.array(X, mask=mask), y),
    ):
        with pytest.raises(dn.DataError, match=r"1 masked elements, .*\.filled\(value\)"):
            call()
    np.testing.assert_array_equal(model.predict(np.ma.array(X)), model.predict(X))  # nothing is masked


def test_class_names_that_would_lose_a_trailing_nul_are_refused() -> None:
    names = ["a\0" if label else "a" for label in y]
    with pytest.raises(dn.DataError, match=r"y has text that ends in NUL"):
        make().fit(X, names)
    with pytest.raises(dn.DataError, match=r"classes has text that ends in NUL"):
        make().partial_fit(X[:1], ["a"], classes=["a", "a\0"])
    model = make().fit(X, np.array(names, object))
    assert list(model.classes_) == ["a", "a\0"]
    assert set(model.predict(X)) <= {"a", "a\0"}
    assert model.to_network().metadata["classes"] == ["a", "a\0"]


def test_the_tag_positive_only_is_set_for_poisson_losses_only() -> None:
    poisson_losses = ["poisson", "half_poisson_deviance", dn.Loss("poisson")]
    for loss in [*poisson_losses, "squared_error", "mean_absolute_error", dn.Loss("huber", delta=0.5)]:
        assert dn.DenseRegressor(loss=loss).__sklearn_tags__().target_tags.positive_only is (loss in poisson_losses)


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_poisson_regressor_matches_scikit_learn_and_can_be_compiled_and_saved(
    outputs: int, backend: str, tmp_path: Any
) -> None:
    if backend == "numba":
        pytest.importorskip("numba")
    from sklearn.neural_network import MLPRegressor

    counts = np.random.default_rng(1).poisson(2, (60, outputs)).squeeze()
    options = {"loss": "poisson", "hidden_layer_sizes": (6,), "max_iter": 12, "random_state": 0, "alpha": 0.01}
    model = dn.DenseRegressor(**options, backend=backend).fit(X, counts)
    expected = MLPRegressor(**options).fit(X, counts)
    np.testing.assert_allclose(model.coefs_[0], expected.coefs_[0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(model.loss_curve_, expected.loss_curve_, rtol=1e-9)
    network = model.to_network()
    plan = network._plan(dn.Loss("half_poisson_deviance"), "adam", 0.0, None, False)
    assert network.backend.compile(plan) is not None
    network.save(tmp_path / "model.safetensors")
    loaded = dn.load(tmp_path / "model.safetensors", backend=backend)
    np.testing.assert_array_equal(loaded.predict(X.T), network.predict(X.T))


def test_the_loss_of_saturated_outputs_is_computed_from_the_logits() -> None:
    """All samples are misclassified, with logits of ±200 and ±300, where scikit-learn limits each loss to about 36."""
    from sklearn.neural_network import MLPClassifier

    inputs, labels = np.array([[200.0], [-200.0], [300.0], [-300.0]]), np.array([0, 1, 0, 1])
    options = {"activation": "identity", "solver": "sgd", "learning_rate_init": 1e-300, "max_iter": 1, "alpha": 0}
    losses = []
    for estimator in (dn.DenseClassifier, MLPClassifier):
        model = estimator(hidden_layer_sizes=(), warm_start=True, random_state=0, **options).fit(inputs, labels)
        model.coefs_[0][...], model.intercepts_[0][...] = 1, 0
        losses.append(model.fit(inputs, labels).loss_)
    assert losses[0] == 250
    assert losses[1] < 37
