"""Invalid arguments are refused with an error that names them; extreme but valid numbers are accepted."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.nn.initializers import as_initializer
from deepnotes.nn.metrics import as_metrics
from deepnotes.utils.arguments import number
from deepnotes.utils.errors import UnknownParameterError

X, Y = np.ones((2, 4)), np.ones((1, 4))


def network() -> dn.Network:
    return dn.Network([dn.Dense(1)], 2, backend="numpy", seed=0)


# Names


@pytest.mark.parametrize("name", [[], {}, None, 3, b"relu", np.zeros(2), math.nan], ids=repr)
@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("activation", lambda name: dn.Dense(3, name)),
        ("activation", dn.Activation),
        ("loss", dn.Loss),
        ("loss", lambda name: network().evaluate(X, Y, loss=name) if name is not None else dn.Loss(name)),
        ("optimizer", lambda name: network().fit(X, Y, optimizer=name)),
        ("initializer", as_initializer),
        ("metric", lambda name: network().evaluate(X, Y, metrics=[name])),
    ],
)
def test_a_value_that_is_not_a_name_is_an_unknown_name(kind: str, make: Any, name: Any) -> None:
    with pytest.raises(dn.UnknownNameError, match=f"^unknown {kind} "):
        make(name)


def test_an_initializer_that_is_not_a_name_is_refused() -> None:
    with pytest.raises(dn.UnknownNameError, match=r"unknown initializer \[\]"):
        dn.Dense(3, initializer=[])


# Metrics


@pytest.mark.parametrize("metrics", [None, 3, 0.5])
def test_metrics_that_are_not_a_sequence_are_refused(metrics: Any) -> None:
    with pytest.raises(dn.ArgumentError, match=rf"metrics={metrics}, wanted .* \(\) for none"):
        network().evaluate(X, Y, metrics=metrics)


def loss(A: np.ndarray, Y: np.ndarray) -> float:
    return 0.0


@pytest.mark.parametrize(
    ("metrics", "name"),
    [
        (loss, "loss"),
        ([lambda A, Y: 0.0, lambda A, Y: 1.0], "<lambda>"),
        (["r2", "r2"], "r2"),
        (["accuracy", as_metrics("accuracy")["accuracy"]], "accuracy"),
    ],
)
def test_metrics_with_the_same_name_are_refused(metrics: Any, name: str) -> None:
    with pytest.raises(dn.ArgumentError, match=f"metrics: '{name}' is already the name of"):
        network().fit(X, Y, metrics=metrics)


def test_the_error_names_a_metric_whose_value_is_too_large_for_a_float() -> None:
    def huge(A: np.ndarray, Y: np.ndarray) -> float:
        return 10**400

    with pytest.raises(dn.ArgumentError, match="metrics: huge returned 1000"):
        network().evaluate(X, Y, metrics=[huge])


def test_metrics_are_names_or_functions() -> None:
    assert as_metrics(()) == {}
    assert list(as_metrics(["r2", max])) == ["r2", "max"]
    assert list(as_metrics("r2")) == ["r2"]


# Numbers


@pytest.mark.parametrize("value", [10**400, -(10**400), math.nan, -math.inf, True, "1", None, 1j, [1.0]])
@pytest.mark.parametrize("limits", [{}, {"positive": True}, {"signed": True}, {"below": 1}])
def test_a_value_that_is_not_a_finite_number_is_refused(value: Any, limits: dict[str, Any]) -> None:
    with pytest.raises(dn.ArgumentError, match=r"^rate=.*, wanted "):
        number("rate", value, **limits)


@pytest.mark.parametrize("make", [dn.Adam, dn.SGD, dn.Constant, lambda rate: dn.Adam(epsilon=rate)])
def test_an_integer_too_large_for_a_float_is_refused(make: Any) -> None:
    with pytest.raises(dn.ArgumentError, match=r"=1000.*, wanted a finite number above 0"):
        make(10**400)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64, int])
def test_numpy_numbers_are_accepted_as_options(kind: Any) -> None:
    functions: list[tuple[Any, str]] = [
        (dn.Activation("leaky_relu", slope=kind(2)), "slope"),
        (dn.Activation("elu", alpha=kind(2)), "alpha"),
        (dn.Loss("huber", delta=kind(2)), "delta"),
    ]
    for function, option in functions:
        assert function.options == ((option, 2.0),)
        assert type(function.options[0][1]) is float


@pytest.mark.parametrize("value", [math.nan, math.inf, 10**400, True, "1", None])
def test_options_that_are_not_finite_numbers_are_refused(value: Any) -> None:
    with pytest.raises(dn.ArgumentError, match=r"leaky_relu: slope=.*, wanted a finite number$"):
        dn.Activation("leaky_relu", slope=value)
    with pytest.raises(dn.ArgumentError, match=r"elu: alpha=.*, wanted a finite number$"):
        dn.Activation("elu", alpha=value)
    with pytest.raises(dn.ArgumentError, match=r"huber: delta=.*, wanted a finite number above 0$"):
        dn.Loss("huber", delta=value)


def test_slope_and_alpha_may_be_negative_or_0_and_delta_must_be_positive() -> None:
    assert dn.Activation("leaky_relu", slope=-1).options == (("slope", -1.0),)
    assert dn.Activation("elu", alpha=0).options == (("alpha", 0.0),)
    for delta in (0, -1.0):
        with pytest.raises(dn.ArgumentError, match="huber: delta"):
            dn.Loss("huber", delta=delta)


def test_hyperparameters_that_are_numpy_scalars_do_not_change_the_dtype_of_the_parameters() -> None:
    theta, slots = np.ones(2, np.float32), (np.ones(2, np.float32),)
    for optimizer in (dn.RMSProp(rho=np.float64(0.5)), dn.SGD(momentum=np.float64(0.5))):
        updated, _ = optimizer.update(
            dn.get_backend("numpy").ops, theta, theta, slots, theta, optimizer.scalars(1, 0.5)
        )
        assert updated.dtype == np.float32


@pytest.mark.parametrize("rate", [0.1, 1, dn.Constant(0.1)])
def test_a_minimum_rate_above_the_learning_rate_is_refused(rate: Any) -> None:
    with pytest.raises(dn.ArgumentError, match=r"min_rate=1.5, wanted between 0 and learning_rate="):
        dn.ReduceOnPlateau(rate, min_rate=1.5)
    dn.ReduceOnPlateau(0.5, min_rate=0.5)
    dn.ReduceOnPlateau(dn.CosineDecay(0.1, steps=10), min_rate=0.05)


# The default initializer of an activation


def test_a_user_defined_activation_determines_the_default_initializer() -> None:
    class Square(dn.ActivationFunction):
        initializer = "lecun_normal"

    class Plain(dn.ActivationFunction):
        pass

    for activation, expected in [(Square(), "lecun_normal"), (Plain(), "glorot_uniform")]:
        assert dn.Dense(3, activation).parameters(2)["W"].initializer is as_initializer(expected)
    assert dn.Dense(3, Square(), "zeros").parameters(2)["W"].initializer is as_initializer("zeros")


# Parameters


@pytest.mark.parametrize("name", ["W9", "", None, [], 1])
def test_an_unknown_parameter_is_an_error(name: Any) -> None:
    parameters = network().parameters
    with pytest.raises(UnknownParameterError) as error:
        parameters[name]
    with pytest.raises(UnknownParameterError):
        parameters[name] = np.ones((1, 2))
    assert isinstance(error.value, dn.DeepnotesError)
    assert isinstance(error.value, KeyError)
    assert str(error.value).startswith(f"unknown parameter {name!r}; ")
    assert name not in parameters
    assert parameters.get(name) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
def test_parameters_that_are_not_finite_are_refused(value: float) -> None:
    """1e300 is infinite in float32, the dtype of the network."""
    net = network()
    before = net.flat()
    with pytest.raises(dn.DataError, match=r"^W1\[0, 1\] is "):
        net.parameters["W1"] = [[1.0, value]]
    np.testing.assert_array_equal(net.flat(), before)


# Early stopping


@pytest.mark.parametrize(
    ("mode", "values", "best"),
    [
        ("min", [4.0, 3.5, 3.0, 3.25], 1),  # no decrease by more than 1
        ("min", [4.0, 3.5, 2.5, 2.0], 3),
        ("max", [1.0, 1.5, 2.0, 2.0], 1),
        ("max", [1.0, 1.5, 2.5, 3.0], 3),
    ],
)
def test_only_changes_above_min_delta_are_improvements(mode: str, values: list[float], best: int) -> None:
    history, net = dn.History(), network()
    training: Any = SimpleNamespace(
        history=history, network=net, flat=net.flat, watched=("loss",), epoch=0, epochs=len(values), step=1, stop=False
    )
    stopping = dn.EarlyStopping(patience=9, monitor="loss", min_delta=1.0, mode=mode)
    stopping.on_start(training)
    for value in values:
        training.epoch += 1
        history.loss.append(value)
        stopping.on_epoch(training)
    stopping.on_end(training)
    assert history.best_epoch == best


# Standardizer


@pytest.mark.parametrize("standardizer", [True, "standard", dn.Standardizer, np.ones((2, 1))])
def test_a_standardizer_of_another_type_is_refused(standardizer: Any) -> None:
    with pytest.raises(dn.ArgumentError, match=r"(?s)^standardizer=.*, wanted a Standardizer, such as"):
        dn.Network([dn.Dense(1)], 2, standardizer=standardizer)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("value", [0.1, -1e-300, 1e300, 5e-324, np.finfo(np.float64).max, 0.0])
@pytest.mark.parametrize("m", [1, 3, 10_007])
def test_a_constant_feature_has_the_scale_1(value: float, m: int, order: Any) -> None:
    """If only the rounding error of the mean makes the standard deviation nonzero, as for 0.1, it is treated as 0."""
    samples = np.array([np.full(m, value), np.arange(m)], order=order)
    standardizer = dn.Standardizer.fit(samples)
    assert standardizer.mean[0, 0] == value
    assert standardizer.scale[0, 0] == 1


def test_a_feature_that_varies_by_one_rounding_error_has_the_scale_1() -> None:
    standardizer = dn.Standardizer.fit(np.array([[1.0, 1.0 + 2.0**-52, 1.0, 1.0]]))
    assert standardizer.scale.tolist() == [[1.0]]


@pytest.mark.parametrize("power", [-1000, -500, 0, 500, 1000, 1020])
def test_features_whose_squares_or_sums_overflow_are_standardized(power: int) -> None:
    """Multiplying the samples by a power of 2 is exact, and multiplies mean and scale by the same power."""
    samples = np.random.default_rng(0).normal(1, 1, (3, 50))
    standardizer, scaled = dn.Standardizer.fit(samples), dn.Standardizer.fit(np.ldexp(samples, power))
    np.testing.assert_array_equal(scaled.mean, np.ldexp(standardizer.mean, power))
    np.testing.assert_array_equal(scaled.scale, np.ldexp(standardizer.scale, power))
    np.testing.assert_array_equal(standardizer.mean, samples.mean(axis=1, keepdims=True))
    np.testing.assert_array_equal(standardizer.scale, samples.std(axis=1, keepdims=True))
    np.testing.assert_array_equal(scaled(np.ldexp(samples, power)), standardizer(samples))


def test_features_around_1e300_are_standardized() -> None:
    standardizer = dn.Standardizer.fit(np.array([[1e300, -1e300], [3e300, 1e300], [1.0, 3.0]]))
    np.testing.assert_allclose(standardizer.mean, [[0], [2e300], [2]], rtol=1e-15)
    np.testing.assert_allclose(standardizer.scale, [[1e300], [1e300], [1]], rtol=1e-15)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_samples_that_are_not_finite_cannot_be_standardized(value: float) -> None:
    with pytest.raises(dn.DataError, match="mean and scale must be finite"):
        dn.Standardizer.fit(np.array([[1.0, 2.0], [1.0, value]]))


@pytest.mark.parametrize("shape", [(3,), (3, 0), (0, 3), (1, 2, 3)])
def test_samples_of_a_wrong_shape_cannot_be_standardized(shape: tuple[int, ...]) -> None:
    with pytest.raises(dn.ShapeError, match=r"X has shape \(.*\), wanted \(n, m\)"):
        dn.Standardizer.fit(np.ones(shape))
