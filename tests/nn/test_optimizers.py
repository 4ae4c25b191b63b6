"""Optimizers compared with scalar loops; schedules and initial weights compared with their definitions."""

import math
from itertools import product
from typing import Any

import numpy as np
import pytest

import deepnotes as dn
from deepnotes import equations as eq
from deepnotes.nn.initializers import LIBRARY as INITIALIZERS
from deepnotes.nn.initializers import as_initializer
from deepnotes.nn.optimizers import LIBRARY as OPTIMIZERS
from deepnotes.nn.optimizers import as_optimizer
from deepnotes.nn.schedules import as_schedule

U = 2.0**-53  # unit roundoff of float64
OPS = dn.get_backend("numpy").ops
T = 20  # updates
BOUND = 8 * T * T * 4 * U
"""The bound on the error of θ after T updates. Each update adds at most 8 rounding errors to a slot, so the relative
error of the last update is at most 8 T U. Each update is smaller than 4, since gradients are between 1/2 and 2, the
rate is 1/10, and the velocity is at most 10 times the largest gradient. The errors of T updates add up in θ."""


# The equations, evaluated for numbers that need no rounding


def test_gradient_descent():
    assert eq.gradient_descent(np, np.array([1.0, 2.0]), np.array([4.0, -8.0]), 0.25).tolist() == [0.0, 4.0]


@pytest.mark.parametrize(("nesterov", "theta"), [(False, 1 - 0.25 * 6), (True, 1 - 0.25 * (4 + 0.5 * 6))])
def test_momentum(nesterov, theta):
    arrays = eq.momentum(np, np.array([1.0]), np.array([4.0]), np.array([4.0]), 0.25, 0.5, nesterov)
    assert [x.tolist() for x in arrays] == [[theta], [6.0]]


def test_rmsprop():
    """The mean square is 4²/4, its root is 2, and epsilon is added to the root."""
    arrays = eq.rmsprop(np, np.array([1.0]), np.array([4.0]), np.array([0.0]), 0.5, 0.75, 2.0)
    assert [x.tolist() for x in arrays] == [[1 - 0.5 * 4 / (2 + 2)], [4.0]]


def test_adam():
    """The discounted sums are m = 4/2 + 4 and v = 12 · 3/4 + 4², whose root is 5."""
    theta, g, m, v = (np.array([x]) for x in (1.0, 4.0, 4.0, 12.0))
    arrays = eq.adam(np, theta, g, m, v, 0.5, 3.0, 0.5, 0.75)
    assert [x.tolist() for x in arrays] == [[1 - 0.5 * 6 / (5 + 3)], [6.0], [25.0]]


def test_weight_decay_applies_to_the_weights_only():
    theta, decays = np.array([1.0, -2.0, 3.0]), np.array([1.0, 1.0, 0.0])
    assert eq.weight_decay(np, theta, decays, 0.25).tolist() == [0.75, -1.5, 3.0]


# The classes, compared with scalar loops over T updates


def sgd(theta, gradients, rate):
    for g in gradients:
        theta -= rate * g
    return theta


def heavy_ball(theta, gradients, rate, momentum):
    """Return θ after Polyak's method, where the velocity is the step itself."""
    step = 0.0
    for g in gradients:
        step = momentum * step - rate * g
        theta += step
    return theta


def rmsprop(theta, gradients, rate, rho, epsilon):
    s = 0.0
    for g in gradients:
        s = rho * s + (1 - rho) * g**2
        theta -= rate / (math.sqrt(s) + epsilon) * g
    return theta


def adam(theta, gradients, rate, beta1, beta2, epsilon, decay=0.0):
    """Return θ after algorithm 1 of arXiv:1412.6980 or, with `decay`, algorithm 2 of arXiv:1711.05101."""
    m = v = 0.0
    for t, g in enumerate(gradients, 1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
        theta = theta - rate * decay * theta - rate * m_hat / (math.sqrt(v_hat) + epsilon)
    return theta


def random_gradients(p=6, seed=0):
    """Return T gradients of p parameters, with absolute values between 1/2 and 2 and random signs."""
    rng = np.random.default_rng(seed)
    return rng.choice([-1, 1], (T, p)) * rng.uniform(0.5, 2, (T, p))


def train(optimizer, theta, gradients):
    """Return θ after the updates; the second half of θ contains biases."""
    p = len(theta)
    decays = (np.arange(p) < p // 2).astype(float)
    slots = tuple(np.zeros(p) for _ in optimizer.slots)
    for t, g in enumerate(gradients, 1):
        scalars = optimizer.scalars(t, as_schedule(optimizer.learning_rate)(t - 1))
        theta, slots = optimizer.update(OPS, theta, g, slots, decays, scalars)
        assert len(slots) == len(optimizer.slots)
    return theta


LOOPS = [
    (dn.SGD(0.1), sgd, (0.1,)),
    (dn.SGD(0.1, momentum=0.9), heavy_ball, (0.1, 0.9)),
    (dn.RMSProp(0.1, rho=0.8, epsilon=0.1), rmsprop, (0.1, 0.8, 0.1)),
    (dn.Adam(0.1, beta1=0.8, beta2=0.9, epsilon=0.1), adam, (0.1, 0.8, 0.9, 0.1)),
    (dn.RMSProp(), rmsprop, (0.001, 0.9, 1e-7)),
    (dn.Adam(), adam, (0.001, 0.9, 0.999, 1e-8)),
]


@pytest.mark.parametrize(
    ("optimizer", "loop", "hyperparameters"), LOOPS, ids=[repr(optimizer) for optimizer, *_ in LOOPS]
)
def test_updates_match_the_scalar_loop(optimizer, loop, hyperparameters):
    """The cases include the defaults, and an epsilon large enough to show where it is added."""
    theta, gradients = np.linspace(-1, 1, 6), random_gradients()
    result = train(optimizer, theta, gradients)
    expected = [loop(theta[i], gradients[:, i].tolist(), *hyperparameters) for i in range(6)]
    assert abs(result - expected).max() <= BOUND
    assert abs(result - theta).min() > 1e6 * BOUND


def test_adamw_decays_weights_but_not_biases():
    theta, gradients = np.linspace(1, 2, 6), random_gradients()
    result = train(dn.AdamW(0.1, epsilon=0.1, weight_decay=0.5), theta, gradients)
    for i, start in enumerate(theta.tolist()):
        decay = 0.5 if i < 3 else 0.0
        expected = adam(start, gradients[:, i].tolist(), 0.1, 0.9, 0.999, 0.1, decay)
        assert abs(result[i] - expected) <= BOUND


def test_nesterov_matches_the_method_of_sutskever():
    """For f = θ²/2: v ← μ v - ε f'(θ + μ v), θ ← θ + v (ICML 2013, equations 3 and 4); dn.SGD stores θ + μ v."""
    rate, momentum = 0.1, 0.9
    optimizer = dn.SGD(rate, momentum=momentum, nesterov=True)
    result: Any = np.array([1.0])
    slots: Any = (np.array([0.0]),)
    theta, v = 1.0, 0.0
    for t in range(1, T + 1):
        result, slots = optimizer.update(OPS, result, result, slots, np.ones(1), optimizer.scalars(t, rate))
        v = momentum * v - rate * (theta + momentum * v)
        theta += v
        assert abs(result[0] - (theta + momentum * v)) <= BOUND
    assert abs(result[0]) < 0.2


# In a network


def network_with_unit_gradients():
    """Return a network with two parameters, X and Y; while the parameters exceed -100, both gradients are 1."""
    net = dn.Network([dn.Dense(1)], 1, backend="numpy", dtype="float64", seed=0)
    net.set_flat(np.array([3.0, 1.0]))
    return net, np.array([[1.0]]), np.array([[-200.0]])


def test_adam_counts_updates_from_1_across_calls():
    """With a constant gradient, the corrected means are 1, so every update has the size rate / (1 + epsilon)."""
    net, X, Y = network_with_unit_gradients()
    optimizer = dn.Adam(0.5, epsilon=0.25)
    net.fit(X, Y, loss="mean_absolute_error", optimizer=optimizer, epochs=1)
    for t in range(1, T + 1):
        assert abs(net.flat() - ([3 - t * 0.4, 1 - t * 0.4])).max() <= BOUND
        net.partial_fit(X, Y, loss="mean_absolute_error", optimizer=optimizer)


def test_fit_starts_the_schedule_at_update_0():
    net, X, Y = network_with_unit_gradients()
    rate = dn.StepDecay(1.0, every=2, factor=0.5)
    history = net.fit(X, Y, loss="mean_absolute_error", optimizer=dn.SGD(rate), epochs=5)
    assert history.learning_rate == [1.0, 1.0, 0.5, 0.5, 0.25]
    assert net.flat().tolist() == [3 - 3.25, 1 - 3.25]


def test_fit_reduces_the_rate_on_a_plateau():
    """The loss is constant and the patience 1, so the rate is halved every second epoch, but not below min_rate."""
    net, X, _ = network_with_unit_gradients()
    rate = dn.ReduceOnPlateau(1.0, factor=0.5, patience=1, min_rate=0.125)
    history = net.fit(X, net.predict(X), loss="mean_absolute_error", optimizer=dn.SGD(rate), epochs=10)
    assert history.learning_rate == [1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125, 0.125]


def test_adamw_decays_the_weights_of_a_network():
    net, X, _ = network_with_unit_gradients()
    net.fit(X, net.predict(X), loss="mean_squared_error", optimizer=dn.AdamW(0.5, weight_decay=0.5), epochs=1)
    assert net.flat().tolist() == [3 - 0.25 * 3, 1.0]


# Schedules


@pytest.mark.parametrize(
    ("rate", "steps", "expected"),
    [
        (dn.Constant(0.3), [0, 1, 10**9], [0.3, 0.3, 0.3]),
        (dn.StepDecay(1.0, every=3, factor=0.5), [0, 2, 3, 5, 6, 9], [1, 1, 0.5, 0.5, 0.25, 0.125]),
        (dn.ExponentialDecay(1.0, every=2, factor=0.25), [0, 1, 2, 3, 4], [1, 0.5, 0.25, 0.125, 0.0625]),
        (dn.CosineDecay(1.0, steps=8), [0, 4, 8, 100], [1, 0.5, 0, 0]),
        (dn.CosineDecay(1.0, steps=12, warmup=4, final=0.5), [0, 1, 3, 4, 8, 12], [0.25, 0.5, 1, 1, 0.75, 0.5]),
        (dn.InverseScaling(1.0), [0, 3, 15], [1, 0.5, 0.25]),
        (dn.InverseScaling(2.0, power=2), [0, 1, 3], [2, 0.5, 0.125]),
        (dn.ReduceOnPlateau(dn.StepDecay(1.0, every=1, factor=0.5)), [0, 1, 2], [1, 0.5, 0.25]),
    ],
    ids=repr,
)
def test_schedules_give_the_expected_rates(rate, steps, expected):
    """The factors are powers of 2, and cos(π/2) = 6e-17 is lost when 1 is added, so the rates are exact."""
    assert [rate(step) for step in steps] == expected


def test_cosine_decay_at_45_degrees():
    """After 2 of 8 updates the angle is 45°; the bound allows 4 rounding errors."""
    assert abs(dn.CosineDecay(1.0, steps=8)(2) - (1 + math.sqrt(0.5)) / 2) <= 4 * U


def test_the_rate_is_reduced_when_the_patience_is_exceeded():
    schedule = dn.ReduceOnPlateau(1.0, factor=0.5, patience=2, min_delta=0.125)
    memory: Any = {}
    for value, best, waited, scale in [
        (8.0, 8.0, 0, 1.0),
        (7.5, 8.0, 1, 1.0),  # improves by less than an eighth
        (7.0, 8.0, 2, 1.0),  # improves by exactly an eighth, which does not count
        (6.0, 6.0, 0, 1.0),
        (9.0, 6.0, 1, 1.0),
        (math.nan, 6.0, 2, 1.0),
        (6.0, 6.0, 0, 0.5),  # the third epoch without improvement
        (6.0, 6.0, 1, 0.5),
        (6.0, 6.0, 2, 0.5),
        (6.0, 6.0, 0, 0.25),
        (-4.0, -4.0, 0, 0.25),
        (-4.25, -4.0, 1, 0.25),
        (-5.0, -5.0, 0, 0.25),
    ]:
        memory = schedule.observe(memory, value)
        assert memory == {"best": best, "waited": waited, "scale": scale}


# Initial weights

SHAPE = n, n_prev = 200, 300


VARIANCES = {"he": 2 / n_prev, "glorot": 2 / (n + n_prev), "lecun": 1 / n_prev, "standard": 1.0}


@pytest.mark.parametrize(
    ("name", "shape"), [*product(["he", "glorot", "lecun"], ["normal", "uniform"]), ("standard", "normal")]
)
def test_initial_weights_have_the_expected_variance(name, shape):
    """The mean and the variance of N numbers are within 6 standard deviations of their expected values.

    The standard deviations are σ / sqrt N and σ² sqrt((κ - 1) / N), where κ is the kurtosis. The limits of a uniform
    distribution are ±sqrt(3 variance); the probability that none of the N numbers is within a relative distance of
    40/N of them is e^-40.
    """
    W = as_initializer(f"{name}_{shape}")(np.random.default_rng(0), SHAPE)
    N, kurtosis, variance = n * n_prev, 3 if shape == "normal" else 1.8, VARIANCES[name]
    assert W.shape == SHAPE
    assert abs(W.mean()) < 6 * math.sqrt(variance / N)
    assert abs((W**2).mean() - variance) < 6 * variance * math.sqrt((kurtosis - 1) / N)
    limit = math.sqrt(3 * variance)
    if shape == "uniform":
        assert limit * (1 - 40 / N) < abs(W).max() <= limit
    else:
        assert abs(W).max() > limit


def test_every_initializer_is_tested():
    assert set(INITIALIZERS) == {
        *("zeros", "standard_normal"),
        *(f"{a}_{b}" for a in ("he", "glorot", "lecun") for b in ("normal", "uniform")),
        *("torch_uniform", "sklearn_uniform", "sklearn_sigmoid_uniform"),  # tested in test_dialects.py
    }


def test_the_zeros_initializer_gives_zeros_and_is_the_default_for_biases():
    parameters = dn.Dense(3, initializer="zeros").parameters(2)
    for p in parameters.values():
        assert p.initializer(np.random.default_rng(0), p.shape).tolist() == np.zeros(p.shape).tolist()
    assert dn.Dense(3).parameters(2)["b"].initializer is INITIALIZERS["zeros"]


@pytest.mark.parametrize("activation", dn.nn.activations.LIBRARY)
def test_the_default_initializer_follows_the_activation(activation):
    symmetric = {"identity", "sigmoid", "tanh", "softmax", "exp", "softsign", "log_softmax"}
    expected = "glorot_uniform" if activation in symmetric else "he_normal"
    expected = "lecun_normal" if activation == "selu" else expected
    assert dn.Dense(3, activation).parameters(2)["W"].initializer is INITIALIZERS[expected]


# Invalid arguments

INVALID_RATES = [0, -1.0, math.nan, math.inf, "fast", None, True]


@pytest.mark.parametrize("rate", INVALID_RATES)
@pytest.mark.parametrize("make", [*OPTIMIZERS.values(), dn.Constant, dn.InverseScaling, dn.ReduceOnPlateau])
def test_invalid_learning_rates_are_refused(make, rate):
    with pytest.raises(dn.ArgumentError, match=r"learning_rate=.*, wanted a finite number above 0"):
        make(rate)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dn.SGD(momentum=1.5), "momentum=1.5, wanted at least 0 and at most 1"),
        (lambda: dn.SGD(momentum=math.nan), "momentum=nan, wanted at least 0 and at most 1"),
        (lambda: dn.SGD(nesterov=True), "nesterov=True needs momentum above 0"),
        (lambda: dn.RMSProp(rho=-0.1), "rho=-0.1, wanted at least 0 and less than 1"),
        (lambda: dn.RMSProp(epsilon=0), "epsilon=0, wanted a finite number above 0"),
        (lambda: dn.Adam(beta1=1), "beta1=1, wanted at least 0 and less than 1"),
        (lambda: dn.Adam(beta2=1.5), "beta2=1.5, wanted at least 0 and less than 1"),
        (lambda: dn.Adam(epsilon=-1e-8), "epsilon=-1e-08, wanted a finite number above 0"),
        (lambda: dn.AdamW(weight_decay=-0.1), "weight_decay=-0.1, wanted a finite number of at least 0"),
        (lambda: dn.AdamW(beta1=1), "beta1=1, wanted at least 0 and less than 1"),
        (lambda: dn.StepDecay(0.1, every=0), "every=0, wanted a whole number of at least 1"),
        (lambda: dn.ExponentialDecay(0.1, every=1, factor=0), "factor=0, wanted a finite number above 0"),
        (lambda: dn.CosineDecay(0.1, steps=10, warmup=10), "warmup=10, wanted at least 0 and less than steps=10"),
        (lambda: dn.CosineDecay(0.1, steps=10, final=0.2), "final=0.2, wanted between 0 and learning_rate=0.1"),
        (lambda: dn.InverseScaling(0.1, power=0), "power=0, wanted a finite number above 0"),
        (lambda: dn.ReduceOnPlateau(0.1, factor=1), "factor=1, wanted above 0 and less than 1"),
        (lambda: dn.ReduceOnPlateau(0.1, patience=-1), "patience=-1, wanted a whole number of at least 0"),
    ],
)
def test_invalid_options_are_refused(make, message):
    with pytest.raises(dn.ArgumentError) as error:
        make()
    assert message in str(error.value)


def test_optimizers_and_initializers_are_found_by_name():
    assert as_optimizer("sgd", learning_rate=0.5, momentum=0.9) == dn.SGD(0.5, momentum=0.9)
    assert as_optimizer("adamw") == dn.AdamW()
    with pytest.raises(dn.UnknownNameError, match="unknown optimizer 'adamm'; did you mean 'adam'"):
        as_optimizer("adamm")
    with pytest.raises(dn.UnknownNameError, match="unknown initializer 'he_norm'; did you mean 'he_normal'"):
        as_initializer("he_norm")
