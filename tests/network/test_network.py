"""The public methods of Network: parameters, prediction, evaluation, training."""

import copy
import pickle
from typing import Any

import array_api_strict
import numpy as np
import pytest
from plans import BACKENDS, STRICT, blobs

import deepnotes as dn


def network(backend: Any = "numpy", **settings: Any) -> dn.Network:
    layers = [dn.Dense(8, "tanh"), dn.Dense(3, "softmax")]
    return dn.Network(layers, inputs=4, backend=backend, **{"seed": 1, "dtype": "float64"} | settings)


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda b: getattr(b, "name", b))
def test_parameters_are_assignable_by_name(backend: Any) -> None:
    net = network(backend)
    assert list(net.parameters) == ["W1", "b1", "W2", "b2"]
    W = np.arange(32.0).reshape(8, 4)
    net.parameters["W1"] = W
    np.testing.assert_array_equal(net.backend.to_numpy(net.parameters["W1"]), W)
    net.parameters["b2"] = [[1.0], [2.0], [3.0]]
    np.testing.assert_array_equal(net.backend.to_numpy(net.parameters["b2"]).ravel(), [1, 2, 3])
    with pytest.raises(dn.ShapeError, match=r"W1 has shape \(4, 8\), wanted \(8, 4\)"):
        net.parameters["W1"] = W.T
    with pytest.raises(KeyError, match="unknown parameter 'w1'; did you mean"):
        net.parameters["w1"]
    with pytest.raises(TypeError):
        del net.parameters["W1"]


def test_parameters_are_views_of_one_buffer() -> None:
    net = network()
    W1 = net.parameters["W1"]
    assert np.shares_memory(W1, net.theta)
    W1[:] = 0  # type: ignore[index]
    assert not np.asarray(net.theta)[: W1.shape[0] * W1.shape[1]].any()


def test_training_keeps_the_buffer_and_its_views() -> None:
    net = network()
    W1, before = net.parameters["W1"], net.flat()
    X, y = blobs()
    net.fit(X, y, epochs=1)
    assert np.shares_memory(W1, net.theta)
    assert not np.array_equal(before, net.flat())


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda b: getattr(b, "name", b))
def test_a_network_learns(backend: Any) -> None:
    X, y = blobs()
    net = network(backend)
    history = net.fit(X, y, optimizer=dn.Adam(0.01), epochs=30, validation=blobs(seed=1), metrics=["accuracy"])
    assert history.epochs == 30
    assert history.loss[-1] < 0.3 * history.loss[0]
    assert history.metrics["val_accuracy"][-1] > 0.95
    assert history.metrics["val_accuracy"][-1] == net.evaluate(*blobs(seed=1), metrics="accuracy")["accuracy"]
    assert history.val_loss[-1] == net.evaluate(*blobs(seed=1))["loss"]
    assert len(history.seconds) == len(history.learning_rate) == 30


def test_parameters_after_training_are_determined_by_the_seed() -> None:
    X, y = blobs()

    def train(seed: int) -> np.ndarray:
        layers = [dn.Dense(8, "relu"), dn.Dropout(0.2), dn.Dense(3, "softmax")]
        net = dn.Network(layers, inputs=4, seed=seed)
        net.fit(X, y, epochs=3)
        return net.flat()

    np.testing.assert_array_equal(train(5), train(5))
    assert not np.array_equal(train(5), train(6))


def test_a_network_without_a_seed_draws_one_and_stores_it() -> None:
    first, second = (dn.Network([dn.Dense(3)], inputs=4) for _ in range(2))
    assert first.seed != second.seed
    np.testing.assert_array_equal(dn.Network([dn.Dense(3)], inputs=4, seed=first.seed).flat(), first.flat())


def test_initial_parameters_batches_and_dropout_masks_are_the_same_on_every_backend() -> None:
    X, y = blobs()

    def train(backend: Any) -> np.ndarray:
        layers = [dn.Dense(8, "tanh"), dn.Dropout(0.3), dn.Dense(3, "softmax")]
        net = dn.Network(layers, inputs=4, backend=backend, seed=2, dtype="float64")
        net.fit(X, y, epochs=2)
        return net.flat()

    reference = train("numpy")
    for backend in BACKENDS[1:]:
        # Over 14 updates, the results differ only because matrix products are summed in different orders.
        np.testing.assert_allclose(train(backend), reference, rtol=0, atol=1e-13)


def test_dropout_acts_in_training_only() -> None:
    net = dn.Network([dn.Dense(50, "relu"), dn.Dropout(0.5), dn.Dense(2)], inputs=4, seed=0)
    X = np.ones((4, 3))
    np.testing.assert_array_equal(net.predict(X), net.predict(X))
    plain = dn.Network([dn.Dense(50, "relu"), dn.Dense(2)], inputs=4, seed=0)
    np.testing.assert_array_equal(net.predict(X), plain.predict(X))
    net.fit(X, np.ones((2, 3)), epochs=1)
    plain.fit(X, np.ones((2, 3)), epochs=1)
    assert not np.array_equal(net.flat(), plain.flat())


def test_predictions_have_the_array_type_of_the_inputs() -> None:
    net = network(STRICT)
    X, _ = blobs(5)
    assert isinstance(net.predict(X), np.ndarray)
    native = net.predict(array_api_strict.asarray(X))
    assert type(native).__module__.startswith("array_api_strict")
    np.testing.assert_array_equal(np.from_dlpack(native), net.predict(X))


@pytest.mark.parametrize("kind", ["int8", "uint8", "float32", "float16", "bool", "list"])
def test_inputs_may_have_any_real_dtype(kind: str) -> None:
    X = np.eye(4)
    converted = X.tolist() if kind == "list" else X.astype(kind)
    np.testing.assert_array_equal(network().predict(converted), network().predict(X))


def test_the_memory_layout_of_the_data_does_not_matter() -> None:
    X, y = blobs(60)
    wide = np.zeros((8, 120))
    wide[::2, ::2] = X
    layouts = [X, np.asfortranarray(X), wide[::2, ::2], X[::-1, ::-1][::-1, ::-1]]
    frozen = X.copy()
    frozen.flags.writeable = False
    results = []
    for samples in [*layouts, frozen]:
        net = network()
        net.fit(samples, y, epochs=2)
        results.append(net.flat())
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=0, atol=1e-13)


def test_training_on_a_transposed_view_copies_only_batches() -> None:
    """The data are 100 times as large as a batch."""
    import tracemalloc

    rows = np.random.default_rng(0).normal(size=(50_000, 40)).astype(np.float32)
    net = dn.Network([dn.Dense(4, "tanh"), dn.Dense(1)], inputs=40, seed=0)
    target = np.zeros((1, 50_000), dtype=np.float32)
    tracemalloc.start()
    try:
        net.fit(rows.T, target, epochs=1, batch_size=500)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < rows.nbytes / 2


def test_fit_does_not_change_its_arguments() -> None:
    X, y = blobs(50)
    before, labels = X.copy(), y.copy()
    network(standardizer=dn.Standardizer.fit(X)).fit(X, y, epochs=2)
    np.testing.assert_array_equal(X, before)
    np.testing.assert_array_equal(y, labels)


def test_the_prediction_for_no_samples_is_empty() -> None:
    assert network().predict(np.zeros((4, 0))).shape == (3, 0)


def test_predictions_in_chunks_are_equal_up_to_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = blobs(103)
    net = network()
    predictions, metrics = net.predict(X), net.evaluate(X, y, metrics=["accuracy"])
    monkeypatch.setattr("deepnotes.backends.eager.ELEMENTS", 80)
    # For products with fewer columns, BLAS may use a different kernel, whose results differ by rounding errors.
    np.testing.assert_allclose(net.predict(X), predictions, rtol=1e-14)
    assert net.evaluate(X, y, metrics=["accuracy"])["accuracy"] == metrics["accuracy"]
    np.testing.assert_allclose(net.evaluate(X, y)["loss"], metrics["loss"], rtol=1e-14)


def test_labels_may_be_indices_or_one_hot() -> None:
    X, y = blobs(50)
    first, second = network(), network()
    first.fit(X, y, epochs=2)
    second.fit(X, np.eye(3)[:, y], epochs=2)
    np.testing.assert_array_equal(first.flat(), second.flat())
    assert first.evaluate(X, y, metrics="accuracy") == first.evaluate(X, np.eye(3)[:, y], metrics="accuracy")
    third = network()
    third.fit(X, y.reshape(1, -1).astype(float), epochs=2)
    np.testing.assert_array_equal(first.flat(), third.flat())


def test_the_default_loss_matches_the_last_activation() -> None:
    X, y = blobs(30, k=2)
    for layer, loss in (
        (dn.Dense(1, "sigmoid"), "binary_cross_entropy"),
        (dn.Dense(2, "softmax"), "categorical_cross_entropy"),
        (dn.Dense(1), "mean_squared_error"),
    ):
        net = dn.Network([layer], inputs=4, seed=0)
        assert net.evaluate(X, y) == net.evaluate(X, y, loss=loss)


def test_partial_fit_continues_with_the_state_of_the_optimizer() -> None:
    X, y = blobs(64)
    by_fit, by_partial_fit = network(), network()
    by_fit.fit(X, y, optimizer=dn.Adam(0.01), epochs=2, batch_size=16, shuffle=False)
    for _ in range(2):
        for i in range(0, 64, 16):
            by_partial_fit.partial_fit(X[:, i : i + 16], y[i : i + 16], optimizer=dn.Adam(0.01))
    np.testing.assert_array_equal(by_fit.flat(), by_partial_fit.flat())
    restarted = network()
    for _ in range(2):
        restarted.fit(X, y, optimizer=dn.Adam(0.01), epochs=1, batch_size=16, shuffle=False)
    assert not np.array_equal(restarted.flat(), by_fit.flat())


def test_partial_fit_returns_the_mean_loss() -> None:
    X, y = blobs(10)
    net = network()
    before = net.evaluate(X, y)["loss"]
    np.testing.assert_allclose(net.partial_fit(X, y), before, rtol=1e-14)


def test_a_network_standardizes_its_inputs() -> None:
    X, y = blobs()
    X = X * np.array([[1e6], [1e-6], [1.0], [0.0]]) + np.array([[1e9], [0.0], [0.0], [5.0]])
    standardizer = dn.Standardizer.fit(X)
    net = network(standardizer=standardizer, dtype="float32")
    plain = network(dtype="float32")
    np.testing.assert_array_equal(net.predict(X), plain.predict(standardizer(X)))
    net.fit(X, y, epochs=5)
    assert net.evaluate(X, y, metrics="accuracy")["accuracy"] > 0.9
    native = dn.Network(net.layers, 4, backend=STRICT, theta=net.flat(), standardizer=standardizer, dtype="float64")
    np.testing.assert_allclose(
        np.from_dlpack(native.predict(array_api_strict.asarray(X))), native.predict(X), rtol=1e-12
    )


@pytest.mark.parametrize("power", [120, 900, -900])
def test_only_the_ratios_of_sample_weights_matter(power: int) -> None:
    X, y = blobs(30)
    w = np.random.default_rng(0).integers(1, 4, 30).astype(float)
    plain, scaled = network(dtype="float32"), network(dtype="float32")
    plain.fit(X, y, sample_weight=w, epochs=2)
    scaled.fit(X, y, sample_weight=np.ldexp(w, power), epochs=2)
    np.testing.assert_array_equal(scaled.flat(), plain.flat())
    assert scaled.evaluate(X, y, sample_weight=np.ldexp(w, power)) == plain.evaluate(X, y, sample_weight=w)


def test_partial_fit_applies_class_weights() -> None:
    X, y = blobs(30)
    first, second = network(), network()
    first.partial_fit(X, y, class_weight={0: 2.0})
    second.partial_fit(X, y, sample_weight=np.where(y == 0, 2.0, 1.0))
    np.testing.assert_array_equal(first.flat(), second.flat())


def test_the_memory_for_a_prediction_is_bounded() -> None:
    """The outputs of 1,000 neurons for all 40,000 samples would take 160 MB."""
    import tracemalloc

    net = dn.Network([dn.Dense(1000, "relu"), dn.Dense(1)], inputs=2, seed=0)
    X = np.zeros((2, 40_000), dtype=np.float32)
    tracemalloc.start()
    try:
        net.predict(X)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 80e6


def test_a_summary_is_an_aligned_table() -> None:
    net = dn.Network(
        [dn.Dense(128, dn.Activation("leaky_relu", slope=0.01)), dn.Dropout(0.5), dn.Dense(10, "softmax")],
        inputs=64,
        seed=0,
    )
    assert net.summary() == (
        "layer    output    activation               parameters\n"
        "------------------------------------------------------\n"
        "input    (64, m)\n"
        "dense    (128, m)  leaky_relu (slope=0.01)       8,320\n"
        "dropout  (128, m)  rate 0.5\n"
        "dense    (10, m)   softmax                       1,290\n"
        "------------------------------------------------------\n"
        "9,610 parameters, float32, 38.4 kB, backend numpy"
    )


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["copy", "pickle"])
def test_a_copy_is_independent_and_has_the_same_state(clone: Any) -> None:
    X, y = blobs(20)
    net = network()
    net.partial_fit(X, y)
    other = clone(net)
    other.partial_fit(X, y)
    assert not np.array_equal(net.flat(), other.flat())
    net.partial_fit(X, y)
    np.testing.assert_array_equal(net.flat(), other.flat())
    assert other.backend is net.backend
