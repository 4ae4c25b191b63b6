"""Training with extreme sizes and numbers: results are within the error bounds, or an error explains the cause."""

from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest
from checkpointed import BACKENDS

import deepnotes as dn
from deepnotes.backends.bounds import UNIT
from deepnotes.testing.checks import Trial
from deepnotes.testing.training_cases import TrainingCase, check_training

pytestmark = pytest.mark.slow

on_every_backend = pytest.mark.parametrize("backend", BACKENDS)
in_both_precisions = pytest.mark.parametrize("dtype", ["float32", "float64"])


@dataclass(frozen=True)
class ExtremeCase(TrainingCase):
    """A training case with the samples `X`, or random ones times `factor`; `start` may give initial parameters."""

    X: Any = None
    labels: Any = None
    factor: float = 1.0
    start: Any = None

    def data(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Return X, Y and the sample weights (or None)."""
        X, Y, w = super().data()
        X = X * np.asarray(self.factor, X.dtype) if self.X is None else np.asarray(self.X, self.dtype)
        return X, Y if self.labels is None else np.asarray(self.labels)[None], w

    def theta(self) -> np.ndarray:
        """Return the initial parameters."""
        return super().theta() if self.start is None else np.asarray(self.start, self.dtype)


CLASSES: dict[str, Any] = {"loss": "categorical_cross_entropy", "targets": "labels"}
EXTREME = np.array([[1e4, -1e4, 1e4], [-1e4, 1e4, 1e4]])
STRESS: dict[str, dict[str, Any]] = {
    "one sample": {"samples": 1, "call_sizes": (1, 1, 1), **CLASSES},
    "a batch of one": {"batch": 1, **CLASSES},
    "a batch larger than the data": {"batch": 1000, **CLASSES},
    "one class of three": {"labels": [0] * 23, **CLASSES},
    "a constant feature": {"X": np.vstack([np.full(23, 7.0), np.linspace(-1, 1, 23)]), "inputs": 2},
    "a feature of zeros": {"X": np.vstack([np.zeros(23), np.linspace(-1, 1, 23)]), "inputs": 2},
    "a million features": {"inputs": 10**6, "samples": 2, "batch": 1, "call_sizes": (2,), "rate": 1e-6},
}
LAYERS: dict[str, list[dn.Layer]] = {
    "labels": [dn.Dense(4, "tanh"), dn.Dense(3, "softmax")], "real": [dn.Dense(2, "tanh"), dn.Dense(1)],
}  # fmt: skip


@pytest.mark.thinned(3)
@on_every_backend
@in_both_precisions
@pytest.mark.parametrize("case", STRESS)
def test_training_with_unusual_sizes_stays_within_its_bound(backend: str, dtype: str, case: str) -> None:
    settings = STRESS[case]
    layers = LAYERS[settings.get("targets", "real")] if settings.get("inputs") != 10**6 else [dn.Dense(1, "tanh")]
    trial = Trial(dn.get_backend(backend), case)
    check_training(trial, ExtremeCase(layers, dtype, **settings), case, random="X" not in settings)
    assert trial.compared > 10


@on_every_backend
@in_both_precisions
@pytest.mark.parametrize("optimizer", [dn.SGD(), dn.Adam()], ids=["sgd", "adam"])
@pytest.mark.parametrize("size", ["subnormal", "smallest normal", "tiny", "large", "near the largest"])
def test_training_with_inputs_of_any_magnitude_stays_within_its_bound(
    backend: str, dtype: str, optimizer: Any, size: str
) -> None:
    """The gradient of the absolute error is of the order of the inputs, so it is finite."""
    limits = np.finfo(dtype)
    factor = float({
        "subnormal": 8 * limits.smallest_subnormal, "smallest normal": limits.tiny, "tiny": limits.tiny**0.8,
        "large": limits.max**0.4, "near the largest": limits.max / 64,
    }[size])  # fmt: skip
    rate = 0.01 / max(factor, 1.0) if isinstance(optimizer, dn.SGD) else 0.01
    training = ExtremeCase(
        [dn.Dense(1)], dtype, loss="mean_absolute_error", factor=factor, samples=4, batch=2, call_sizes=(4, 4),
        rate=rate, optimizer=optimizer, inputs=3,
    )  # fmt: skip
    if size == "near the largest" and isinstance(optimizer, dn.Adam):  # squares of such gradients are infinite
        net = dn.Network(training.layers, 3, backend=backend, dtype=dtype, theta=training.theta())
        with pytest.raises(dn.NonFiniteLossError, match=r"before update 1 .*the optimizer's slots are not finite"):
            net.fit(*training.data()[:2], loss=training.loss, optimizer=optimizer)
        np.testing.assert_array_equal(net.flat(), training.theta())
        assert net._training is not None
        assert all(np.isfinite(net.backend.to_numpy(slot)).all() for slot in net._training[2].slots)
        net.fit(*training.data()[:2], loss=training.loss, optimizer=optimizer, clip_norm=1.0, epochs=2)
        changes = abs(net.flat() - training.theta())
        largest_rate: Any = optimizer.learning_rate
        assert 0 < changes.max() <= 2.1 * largest_rate  # two updates, each at most slightly larger than the rate
        return
    trial = Trial(dn.get_backend(backend), size)
    check_training(trial, training, size, random=False)
    assert trial.compared > 8


# --- logits -----------------------------------------------------------------------------------------------------------


@on_every_backend
@in_both_precisions
def test_losses_outputs_and_gradients_are_exact_for_logits_of_ten_thousand(backend: str, dtype: str) -> None:
    logits = np.array([[1e4, 1e4, -1e4, -1e4]])
    net = dn.Network([dn.Dense(1, "sigmoid")], 1, backend=backend, dtype=dtype, theta=np.array([1.0, 0.0]))
    np.testing.assert_array_equal(net.predict(logits), [[1, 1, 0, 0]])
    for target, loss in [([[1, 1, 0, 0]], 0.0), ([[0, 0, 1, 1]], 1e4), ([[1, 0, 0, 1]], 5e3)]:
        assert net.evaluate(logits, np.array(target)) == {"loss": loss}
    gradients = net.gradients(logits, np.array([[0, 1, 1, 0]]))
    assert (np.asarray(gradients["W1"]).item(), np.asarray(gradients["b1"]).item()) == ((1e4 + 1e4) / 4, 0.0)

    net = dn.Network([dn.Dense(2, "softmax")], 2, backend=backend, dtype=dtype, theta=np.array([1.0, 0, 0, 1, 0, 0]))
    np.testing.assert_array_equal(net.predict(EXTREME), [[1, 0, 0.5], [0, 1, 0.5]])
    assert net.evaluate(EXTREME[:, :2], np.array([0, 1])) == {"loss": 0.0}
    assert net.evaluate(EXTREME[:, :2], np.array([1, 0])) == {"loss": 2e4}
    g = net.gradients(EXTREME[:, :2], np.array([1, 0]))
    np.testing.assert_array_equal(g["W1"], [[1e4, -1e4], [-1e4, 1e4]])


@on_every_backend
@in_both_precisions
@pytest.mark.parametrize("last", [("sigmoid", "binary_cross_entropy"), ("softmax", "categorical_cross_entropy")])
def test_training_with_logits_of_ten_thousand_stays_within_its_bound(
    backend: str, dtype: str, last: tuple[str, str]
) -> None:
    trial = Trial(dn.get_backend(backend), "logits")
    k = 2
    training = ExtremeCase(
        [dn.Dense(k, last[0])], dtype, loss=last[1], targets="labels" if last[0] == "softmax" else "bits",
        X=np.hstack([EXTREME, -EXTREME[:, :2]]), inputs=2, samples=5, batch=2, call_sizes=(5, 5), rate=1e-3,
        start=[1.0, 0, 0, 1, 0, 0],
    )  # fmt: skip
    check_training(trial, training, "logits", random=False)


@on_every_backend
def test_a_softmax_of_one_class_is_refused_with_alternatives(backend: str) -> None:
    net = dn.Network([dn.Dense(1, "softmax")], 3, backend=backend, seed=0)
    with pytest.raises(
        dn.ArgumentError, match=r"a single output is always 0; for two classes, use Dense\(2, 'softmax'\)"
    ):
        net.fit(np.ones((3, 20)), np.zeros(20, int))


# --- overflow ---------------------------------------------------------------------------------------------------------


@on_every_backend
@in_both_precisions
def test_an_overflow_is_infinite_in_predictions_and_an_error_in_training(backend: str, dtype: str) -> None:
    largest = float(np.finfo(dtype).max)
    X, Y = np.full((1, 3), largest / 2), np.zeros((1, 3))
    net = dn.Network([dn.Dense(1), dn.Dense(1)], 1, backend=backend, dtype=dtype, theta=np.array([4.0, 1.0, 0.0, 0.0]))
    before = net.flat()
    np.testing.assert_array_equal(net.predict(X), np.full((1, 3), np.inf))
    message = r"before update 1 .*the first non-finite output is that of layer 1"
    with pytest.raises(dn.NonFiniteLossError, match=message) as error:
        net.fit(X, Y)
    assert (error.value.step, error.value.layer) == (1, 1)
    with pytest.raises(dn.NonFiniteLossError, match="the outputs of all layers are finite"):
        net.fit(X / 1e8, Y)  # the squared error overflows
    np.testing.assert_array_equal(net.flat(), before)


@on_every_backend
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_argument_with_a_non_finite_number_is_named(backend: str, value: float) -> None:
    net = dn.Network([dn.Dense(1)], 2, backend=backend, seed=0)
    X, Y = np.ones((2, 4)), np.ones((1, 4))
    X[1, 2] = value
    with pytest.raises(dn.DataError, match="X"):
        net.fit(X, Y)
    with pytest.raises(dn.DataError, match="Y"):
        net.fit(np.ones((2, 4)), np.full((1, 4), value))


def test_standardizers_accept_constants_single_samples_and_the_largest_floats() -> None:
    largest = np.finfo(np.float64).max
    X = np.array([[3.0, 3.0], [0.1, 0.1], [0.0, 0.0], [largest, -largest], [largest, largest], [5e-324, 0.0]])
    standardizer = dn.Standardizer.fit(X)
    np.testing.assert_array_equal(standardizer.mean[:, 0], [3.0, 0.1, 0.0, 0.0, largest, 0.0])
    assert standardizer.scale[[0, 1, 2, 4], 0].tolist() == [1.0] * 4
    np.testing.assert_array_equal(standardizer(X)[[0, 1, 2, 4]], np.zeros((4, 2)))
    np.testing.assert_array_equal(standardizer(X)[3], [1.0, -1.0])
    assert np.isfinite(standardizer(X)).all()
    single = dn.Standardizer.fit(X[:, :1])
    np.testing.assert_array_equal(single(X[:, :1]), np.zeros((6, 1)))


# --- a million updates of Adam ----------------------------------------------------------------------------------------

STEPS, RATE = 10**6, 2.0**-20


def drift(dtype: str, steps: int, beta1: float = 0.9, beta2: float = 0.999) -> float:
    """Return a bound on the relative error of θ after `steps` updates of Adam with a constant gradient of -1.

    u is the unit roundoff. A relative error of u in beta causes a relative error of u / (1 - beta) in the discounted
    sum, and the rounding errors of the sum cause as much again; for v, the square root halves both. The other terms are
    a few rounding errors within one update, and one rounding error for each addition of an update to θ.
    """
    u = UNIT[dtype]
    return 2 * u / (1 - beta1) + u / (1 - beta2) + 8 * u + steps * u


@pytest.mark.skipif("numba" not in BACKENDS, reason="requires the extra numba; other backends take minutes")
@in_both_precisions
def test_a_million_updates_of_adam_stay_within_the_error_bound(dtype: str) -> None:
    """With a gradient of -1, each update increases θ by ``rate / (1 + epsilon)``."""
    net = dn.Network([dn.Dense(1)], 1, backend="numba", dtype=dtype, theta=np.zeros(2))
    X, Y = np.ones((1, 1000), dtype), np.full((1, 1000), 1e6, dtype)
    net.fit(X, Y, loss="mean_absolute_error", optimizer=dn.Adam(RATE), batch_size=1, epochs=STEPS // 1000)
    expected = STEPS * RATE / (1 + 1e-8)
    assert net._training is not None
    assert net._training[2].step == STEPS
    assert abs(net.flat() - expected).max() <= drift(dtype, STEPS) * expected


@on_every_backend
@in_both_precisions
@pytest.mark.parametrize("step", [10**6, 2**31 - 1, 2**32, 10**12, 2**53])
def test_adam_continues_from_any_step(backend: str, dtype: str, step: int) -> None:
    """The slots are set to the sums after `step` updates with a gradient of -1."""
    net = dn.Network([dn.Dense(1), dn.Dropout(0.5)], 1, backend=backend, dtype=dtype, theta=np.zeros(2), seed=0)
    X, Y = np.ones((1, 64), dtype), np.full((1, 64), 1e6, dtype)
    settings: dict[str, Any] = {"loss": "mean_absolute_error", "optimizer": dn.Adam(RATE)}
    net.partial_fit(X, Y, **settings)
    parameters = net.backend.to_numpy(net.theta)
    assert net._training is not None
    _, _, state = net._training
    m, v = (net.backend.to_numpy(slot) for slot in state.slots)
    state.step, parameters[:], m[:], v[:] = step, 0, -1 / (1 - 0.9), 1 / (1 - 0.999)
    net.partial_fit(X, Y, **settings)
    assert state.step == step + 1
    theta = net.flat()
    # Dropout doubles or drops the contribution of each sample, so the gradient -g is not exactly -1; compute g from m.
    g = -(net.backend.to_numpy(state.slots[0]) + 0.9 / (1 - 0.9))
    m, v = 0.9 / (1 - 0.9) + g, 0.999 / (1 - 0.999) + g * g
    expected = RATE * (m * (1 - 0.9)) / (np.sqrt(v * (1 - 0.999)) + 1e-8)
    assert np.isfinite(theta).all()
    assert (abs(theta - expected) <= 2 * drift(dtype, 1) * expected).all()


@pytest.mark.parametrize("step", [1, 2, 10, 1000, 10**5, 10**6, 2**31, 10**12])
def test_the_bias_corrections_of_adam_are_accurate_at_any_step(step: int) -> None:
    """Their error comes from ``β^t``, which is rounded once or twice and then subtracted from 1."""
    with localcontext() as context:
        context.prec = 60
        powers = [Decimal(beta) ** step for beta in (0.9, 0.999)]
        s1, s2 = ((1 - p) / (1 - Decimal(beta)) for p, beta in zip(powers, (0.9, 0.999), strict=True))
        rate, epsilon = (Decimal(float(value)) * s2.sqrt() for value in ("1e-3", "1e-8"))
        rate /= s1
        roundings = [2 * p / (1 - p) + 2 for p in powers]
    with np.errstate(divide="raise", over="raise", invalid="raise"):
        arrays = dn.Adam().scalars(np.array([step]), np.array([0.001]))
        numbers = dn.Adam().scalars(step, 0.001)
    unit = Decimal(UNIT["float64"])
    for scalars in ({name: values[0] for name, values in arrays.items()}, numbers):
        assert abs(Decimal(float(scalars["rate"])) - rate) <= (sum(roundings) + 4) * unit * rate
        assert abs(Decimal(float(scalars["epsilon"])) - epsilon) <= (roundings[1] + 4) * unit * epsilon
