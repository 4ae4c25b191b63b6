"""Compiled predictions agree with the equations, for the current parameters."""

import copy
import logging
import pickle
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plans import blobs
from test_user_defined import Scale, SquaredError, Swish

import deepnotes as dn
from deepnotes.backends import eager as eager_module
from deepnotes.backends.eager import EagerInference
from deepnotes.nn.activations import LIBRARY as ACTIVATIONS
from deepnotes.nn.losses import LIBRARY as LOSSES
from deepnotes.nn.losses import Loss, LossFunction, check_pair
from deepnotes.utils.errors import ArgumentError

NUMBA = pytest.mark.skipif(not find_spec("numba"), reason="numba is not installed")
BACKENDS = ["numpy", pytest.param("numba", marks=NUMBA)]
SIZES = [0, 1, 2, 31, 32, 33, 1000]
MIXED: list[dn.Layer] = [dn.Dense(33, "relu"), dn.Dropout(0.4), dn.Dense(9, "gelu"), dn.Dense(4, "softmax")]
LAYOUTS = {
    "by sample": lambda X: np.ascontiguousarray(X.T).T,
    "by feature": np.ascontiguousarray,
    "every second": lambda X: np.repeat(np.repeat(X, 2, axis=0), 2, axis=1)[::2, ::2],
    "backwards": lambda X: np.ascontiguousarray(X[::-1, ::-1])[::-1, ::-1],
    "other dtype": lambda X: X.astype("float32" if X.dtype == np.float64 else "float64"),
    "lists": lambda X: X.tolist() if X.size else X,
}


def network(layers: list[dn.Layer], backend: str, dtype: str = "float64", seed: int = 0) -> dn.Network:
    """Return a network of 37 inputs whose biases are not zero."""
    net = dn.Network(layers, inputs=37, backend=backend, dtype=dtype, seed=seed)
    net.set_flat(net.flat() + np.random.default_rng(seed).normal(0, 0.1, net.layout.size))
    return net


def samples(m: int, dtype: str = "float64") -> np.ndarray:
    """Return numbers that are exact in both dtypes."""
    return np.random.default_rng(m).normal(size=(37, m)).astype("float32").astype(dtype)


def eager_inference(net: dn.Network, dtype: str = "float64") -> EagerInference:
    return EagerInference(dn.get_backend("numpy"), net.layers, net.layout, dtype)


def predict_by_equations(net: dn.Network, X: np.ndarray) -> np.ndarray:
    """Return the outputs computed by NumPy's equations in double precision."""
    return np.asarray(eager_inference(net).predict(net.flat().astype("float64"), np.asarray(X, "float64")))


def assert_outputs(net: dn.Network, X: Any) -> None:
    """Assert that ``predict`` agrees with the equations in double precision.

    In double precision, outputs may differ by 1e-12 of the largest output, about 10,000 rounding errors. A sum
    of k terms has an error of at most k + 1 rounding errors, and an activation has an error of about 50. No layer here
    has more than 100 inputs, and none amplifies errors much. In single precision, outputs may differ by 4 times the
    error of the equations in single precision, plus 8 rounding errors.
    """
    result, expected = net.predict(X), predict_by_equations(net, X)
    assert result.dtype == net.dtype
    assert result.shape == expected.shape
    scale = np.abs(expected).max(initial=0)
    limit = 1e-12 * scale
    if net.dtype == "float32":
        float32_result = np.asarray(eager_inference(net, "float32").predict(net.flat(), np.asarray(X, "float32")))
        limit = 4 * np.abs(float32_result - expected).max(initial=0) + 8 * np.finfo("float32").eps * scale
    assert np.abs(result - expected).max(initial=0) <= limit


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("m", SIZES)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_outputs_match_the_equations_for_every_layout_of_the_samples(
    layout: Any, m: int, dtype: str, backend: str
) -> None:
    X = layout(samples(m, dtype))
    assert_outputs(network(MIXED, backend, dtype), X)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("m", SIZES)
def test_read_only_samples_are_accepted_and_stay_unchanged(m: int, backend: str) -> None:
    X = samples(m)
    before = X.copy()
    X.flags.writeable = False
    assert_outputs(network(MIXED, backend), X)
    np.testing.assert_array_equal(X, before)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("m", [1, 33])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_outputs_match_the_equations_for_every_activation(activation: str, m: int, dtype: str, backend: str) -> None:
    layers: list[dn.Layer] = [dn.Dense(n, activation) for n in (1, 70, 3)]
    if activation == "exp":  # exp applied to exp would overflow
        layers = [dn.Dense(1, "tanh"), dn.Dense(70, "exp"), dn.Dense(3, "tanh"), dn.Dense(2, "exp")]
    assert_outputs(network(layers, backend, dtype), samples(m, dtype))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("m", [1, 33])
@pytest.mark.parametrize(
    "layers",
    [
        [dn.Dropout(0.5), dn.Dense(3, "tanh")],
        [dn.Dense(3, "tanh"), dn.Dropout(0.5), dn.Dropout(0.1)],
        [dn.Dense(8, dn.Activation("leaky_relu", slope=0.3)), dn.Dropout(0.5), dn.Dense(5, "softmax"), dn.Dropout(0.2)],
        [dn.Dense(1, dn.Activation("elu", alpha=2.0))],
        [dn.Dense(100, "relu"), dn.Dense(2), dn.Dense(100, "silu"), dn.Dense(64)],
    ],
    ids=lambda layers: str(len(layers)),
)
def test_outputs_match_the_equations_with_dropout_options_and_various_widths(
    layers: list[dn.Layer], m: int, backend: str
) -> None:
    assert_outputs(network(layers, backend), samples(m))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("activation", [a for a in ACTIVATIONS if a != "softmax"])
def test_the_prediction_for_a_sample_does_not_depend_on_other_samples(activation: str, backend: str) -> None:
    """In particular, only the sample with a NaN has NaN in its outputs."""
    net = network([dn.Dense(33, activation), dn.Dense(3)], backend)
    X = samples(50)
    X[4, 7] = np.nan
    together = net.predict(X)
    assert np.isnan(together).all(axis=0).tolist() == [i == 7 for i in range(50)]
    separate = np.concatenate([net.predict(X[:, [i]]) for i in range(50)], axis=1)
    np.testing.assert_allclose(separate, together, rtol=0, atol=1e-12 * np.nanmax(np.abs(together)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_many_samples_are_predicted_in_parts(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results agree up to rounding, since the BLAS may use a different algorithm for a part."""
    net, X = network(MIXED, backend), samples(1000)
    Y = np.random.default_rng(0).integers(0, 4, 1000)
    A, metrics = net.predict(X), net.evaluate(X, Y)
    monkeypatch.setattr(eager_module, "ELEMENTS", 37 * 90)
    if backend == "numba":
        from deepnotes_numba import inference as numba_inference

        monkeypatch.setattr(numba_inference, "ELEMENTS", 1)
        monkeypatch.setattr(numba_inference, "MIN_BLOCKS", 1)
    np.testing.assert_allclose(net.predict(X), A, rtol=0, atol=1e-12)
    np.testing.assert_allclose(net.evaluate(X, Y)["loss"], metrics["loss"], rtol=1e-12)


# --- evaluate ---------------------------------------------------------------------------------------------------------


def losses_for(activation: str) -> list[str]:
    """Return the names of the losses that accept the outputs of an activation."""
    names = []
    for name in LOSSES:
        try:
            check_pair(Loss(name), dn.Activation(activation))
        except ArgumentError:
            continue
        names.append(name)
    return names


PAIRS = [(a, name) for a in ("identity", "softplus", "sigmoid", "softmax") for name in losses_for(a)]


def assert_evaluates(net: dn.Network, X: Any, Y: np.ndarray, loss: LossFunction, w: np.ndarray | None = None) -> None:
    """Assert that the mean loss agrees with the equations, within the limits of `assert_outputs`.

    Class indices are first converted to one-hot columns. The error of a mean is at most the largest error of its terms.
    """
    k = net.outputs
    columns = np.eye(k)[Y].T if Y.ndim == 1 and k > 1 else Y.reshape(k, -1).astype("float64")
    _, expected = eager_inference(net).losses(net.flat().astype("float64"), np.asarray(X, "float64"), columns, loss)
    scale = max(1, np.abs(expected).max())
    limit = 1e-12 * scale
    if net.dtype == "float32":
        _, float32_result = eager_inference(net, "float32").losses(net.flat(), X, columns.astype("float32"), loss)
        limit = 4 * np.abs(float32_result - expected).max() + 8 * np.finfo("float32").eps * scale
    result = net.evaluate(X, Y, loss=loss, sample_weight=w)["loss"]
    assert abs(result - np.average(expected[0], weights=w)) <= limit


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("activation", "loss"), PAIRS)
def test_evaluate_matches_the_equations_for_every_loss(
    activation: str, loss: str, weighted: bool, dtype: str, backend: str
) -> None:
    net = network([dn.Dense(12, "tanh"), dn.Dense(3, activation)], backend, dtype)
    for m in (1, 32, 100):
        rng = np.random.default_rng(m)
        Y = rng.uniform(size=(3, m))
        if LOSSES[loss].targets == "simplex":
            Y = Y / Y.sum(axis=0)
        Y = Y.astype("float32")
        assert_evaluates(net, samples(m, dtype), Y, Loss(loss), rng.uniform(size=m) if weighted else None)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("k", "activation"), [(4, "softmax"), (1, "sigmoid")])
def test_classes_may_be_indices_or_columns(k: int, activation: str, weighted: bool, backend: str) -> None:
    net = network([dn.Dense(12, "tanh"), dn.Dense(k, activation)], backend)
    loss = Loss("binary_cross_entropy" if k == 1 else "categorical_cross_entropy")
    for m in (1, 2, 33, 1000):
        rng = np.random.default_rng(m)
        y = rng.integers(0, max(k, 2), m)
        w = rng.uniform(size=m) if weighted else None
        assert_evaluates(net, samples(m), y, loss, w)
        assert_evaluates(net, samples(m), np.asfortranarray(np.eye(k)[y].T) if k > 1 else y[None], loss, w)


@pytest.mark.parametrize("backend", BACKENDS)
def test_evaluate_accepts_losses_with_options_custom_losses_and_metrics(backend: str) -> None:
    net, X = network([dn.Dense(3, "tanh"), dn.Dropout(0.5)], backend), samples(50)
    Y = np.random.default_rng(0).normal(size=(3, 50))
    for loss in (Loss("huber", delta=0.25), Loss("huber", delta=3.0), SquaredError()):
        assert_evaluates(net, X, Y, loss)
    net = network(MIXED, backend)
    y = np.random.default_rng(0).integers(0, 4, 50)
    expected = float((net.predict(X).argmax(axis=0) == y).mean())
    assert net.evaluate(X, y, metrics=["accuracy"])["accuracy"] == expected


# --- current parameters -----------------------------------------------------------------------------------------------


def assign_some_parameters(net: dn.Network, folder: Path) -> dn.Network:
    net.parameters["W1"] = 2 * np.asarray(net.parameters["W1"])
    net.parameters["b2"] = np.ones((9, 1))
    return net


def assign_all_parameters(net: dn.Network, folder: Path) -> dn.Network:
    net.set_flat(np.cos(np.arange(net.layout.size)))
    return net


def replace_theta(net: dn.Network, folder: Path) -> dn.Network:
    net.theta = net.from_host(np.sin(np.arange(net.layout.size)))
    return net


def train_with_fit(net: dn.Network, folder: Path) -> dn.Network:
    net.fit(samples(40), np.arange(40) % 4, epochs=2)
    return net


def train_with_partial_fit(net: dn.Network, folder: Path) -> dn.Network:
    net.partial_fit(samples(40), np.arange(40) % 4)
    return net


def train_and_restore_the_best_epoch(net: dn.Network, folder: Path) -> dn.Network:
    y = np.arange(40) % 4
    stop = dn.EarlyStopping(patience=1)
    net.fit(samples(40), y, epochs=4, optimizer=dn.SGD(5.0), validation=(samples(41)[:, :40], y), early_stopping=stop)
    return net


def save_and_load(net: dn.Network, folder: Path) -> dn.Network:
    net.set_flat(np.cos(np.arange(net.layout.size)))
    net.save(folder / "net.safetensors")
    return dn.load(folder / "net.safetensors", backend=net.backend.name)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "change",
    [
        assign_some_parameters,
        assign_all_parameters,
        replace_theta,
        train_with_fit,
        train_with_partial_fit,
        train_and_restore_the_best_epoch,
        save_and_load,
    ],
)
def test_the_next_prediction_uses_new_parameters(change: Any, backend: str, tmp_path: Path) -> None:
    """Check one sample, for which the Numba backend keeps the address of the parameters, and many samples."""
    net = network(MIXED, backend)
    before = [net.predict(samples(m)) for m in (1, 33)]
    net = change(net, tmp_path)
    for m, old in zip((1, 33), before, strict=True):
        assert_outputs(net, samples(m))
        assert not np.allclose(net.predict(samples(m)), old)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "copy_network", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["copy", "pickle"]
)
def test_a_copy_of_a_network_that_has_predicted_is_independent(copy_network: Any, backend: str) -> None:
    net = network(MIXED, backend)
    expected = [net.predict(samples(m)) for m in (1, 33)]
    duplicate = copy_network(net)
    net.set_flat(np.zeros(net.layout.size))
    for m, outputs in zip((1, 33), expected, strict=True):
        np.testing.assert_array_equal(duplicate.predict(samples(m)), outputs)
        assert np.ptp(net.predict(samples(m))) == 0


# --- custom parts -----------------------------------------------------------------------------------------------------


class IndexedSwish(Swish):
    """A user-defined activation that cannot be traced, since no expression has an index."""

    def forward(self, ops: Any, Z: Any) -> Any:
        return super().forward(ops, Z[:])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "layers",
    [[dn.Dense(8, IndexedSwish()), dn.Dense(2)], [dn.Dense(8, "silu"), Scale(), dn.Dense(2)]],
    ids=["activation", "layer"],
)
def test_parts_that_cannot_be_traced_run_eagerly_and_the_log_says_so(
    layers: list[dn.Layer], backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    X = np.asarray(blobs(50)[0])
    net = dn.Network(layers, inputs=4, backend=backend, dtype="float64", seed=0)
    with caplog.at_level(logging.DEBUG, logger="deepnotes"):
        separate, together = net.predict(X[:, :1]), net.predict(X)
    assert type(net.inference) is EagerInference
    reference = dn.Network(
        [dn.Dense(8, "silu"), dn.Dense(2)], inputs=4, backend=backend, dtype="float64", theta=flat_without(net, "s2")
    )
    tolerance = 1e-12 * np.abs(together).max()
    np.testing.assert_allclose(together, reference.predict(X), rtol=0, atol=tolerance)
    np.testing.assert_allclose(separate, together[:, :1], rtol=0, atol=tolerance)
    if backend == "numba":
        assert "runs eagerly" in caplog.text


def flat_without(net: dn.Network, name: str) -> np.ndarray:
    """Return all parameters except the one with this name, as a flat array."""
    entries = net.layout.entries.values()
    return np.concatenate([net.flat()[e.start : e.stop] for e in entries if e.name != name])
