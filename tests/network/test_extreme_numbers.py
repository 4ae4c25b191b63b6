"""Numbers near the limits of their range: schedules that overflow, weights near the largest float."""

import warnings
from typing import Any

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.network.training.loop import _rates
from deepnotes.utils.errors import ArgumentError

HUGE = 10**400
UPDATES = [0, 1, 4_999, 2**31, 2**53 + 1, 2**63 - 3]
BACKENDS = [name for name in ("numpy", "numba") if name in dn.available_backends()]


def schedules() -> list[dn.Schedule]:
    """Return schedules of every class, with extreme but valid arguments."""
    schedules: list[dn.Schedule] = []
    for rate in (1e-300, 1, 1e300, np.float32(0.1)):
        for factor in (2, 1e300, 1e-300, np.float32(1.5)):
            for every in (1, HUGE, np.uint8(3)):
                schedules += [dn.StepDecay(rate, every, factor), dn.ExponentialDecay(rate, every, factor)]
        for steps, warmup in ((1, 0), (HUGE, HUGE - 1), (2**63, 2**62), (np.uint8(200), np.uint8(3))):
            schedules += [dn.CosineDecay(rate, steps, warmup), dn.CosineDecay(rate, steps, warmup, float(rate))]
        schedules += [dn.InverseScaling(rate, power) for power in (1e-300, 100, 10**6, 1e300)]
        schedules += [dn.ReduceOnPlateau(rate, 1e-300), dn.ReduceOnPlateau(dn.StepDecay(rate, 1, 2))]
    return schedules


def test_a_schedule_gives_finite_rates_or_an_argument_error() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for schedule in schedules():
            for first in UPDATES:
                try:
                    rates = _rates(schedule, first, 3, {})
                except ArgumentError:
                    continue
                assert np.isfinite(rates).all(), (schedule, first)


@pytest.mark.parametrize("schedule", [dn.StepDecay(0.1, 1, 2), dn.ExponentialDecay(0.1, 1, 2.0)], ids=repr)
def test_a_schedule_that_overflows_is_an_argument_error(schedule: dn.Schedule) -> None:
    with pytest.raises(ArgumentError, match=r"learning_rate: got .*, wanted finite rates .* for updates 4999 to 5000"):
        _rates(schedule, 4999, 2, {})


def test_inverse_scaling_by_a_high_power_underflows_to_0() -> None:
    assert dn.InverseScaling(0.1, 100.0)(10**9) == 0.0


class Reciprocal(dn.Schedule):
    """A user-defined schedule that divides by 0 in the first update."""

    def __call__(self, step: int) -> float:
        return 1 / step


def test_an_arithmetic_error_in_a_schedule_is_an_argument_error() -> None:
    net = dn.Network([dn.Dense(1)], inputs=2, seed=0)
    before = net.flat()
    with pytest.raises(ArgumentError, match="learning_rate"):
        net.fit(np.ones((2, 4)), np.ones((1, 4)), optimizer=dn.SGD(Reciprocal()))
    np.testing.assert_array_equal(net.flat(), before)


def test_initial_parameters_beyond_the_dtype_are_refused() -> None:
    def initialize(rng: Any, shape: tuple[int, int]) -> np.ndarray:
        return np.full(shape, 1e39)

    with pytest.raises(ArgumentError, match=r"up to 1e\+39 are too large for float32"):
        dn.Network([dn.Dense(2, initializer=initialize)], inputs=3, dtype="float32")
    dn.Network([dn.Dense(2, initializer=initialize)], inputs=3, dtype="float64")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("last", "loss", "k"),
    [("identity", "mean_absolute_error", 3), ("identity", "huber", 3), ("softmax", "categorical_cross_entropy", 3)],
)
def test_the_mean_of_finite_losses_is_finite(last: str, loss: str, k: int, backend: str) -> None:
    """Each output has an error of 2e38, or the logits are ±2e38: sums overflow in float32, but the mean does not."""
    net = dn.Network([dn.Dense(k, last)], inputs=1, backend=backend, seed=0)
    net.parameters["W1"] = np.array([[2e38], [-2e38], [2e38]], "float32")
    X = np.ones((1, 8), "float32")
    Y = np.zeros((k, 8), "float32")
    Y[0] = last == "softmax"
    mean = net.evaluate(X, Y, loss=loss)["loss"]
    assert mean == pytest.approx(np.log(2) if last == "softmax" else 2e38, rel=1e-5)
    history = net.fit(X, Y, loss=loss, optimizer=dn.SGD(1e-3), epochs=1, batch_size=8)
    assert history.loss[0] == pytest.approx(mean, rel=1e-5)
