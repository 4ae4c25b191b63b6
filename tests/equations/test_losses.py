"""Losses (N10, N11 and variants): values, derivatives, and sample weights compared with repeated samples."""

import math
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest

import deepnotes as dn
from deepnotes import equations as eq
from deepnotes.nn.activations import LIBRARY as ACTIVATIONS
from deepnotes.nn.losses import LIBRARY, Loss, check_pair
from deepnotes.utils.errors import ArgumentError

U = 2.0**-53  # unit roundoff of float64
OPS = dn.get_backend("numpy").ops


@pytest.fixture(autouse=True)
def _silent():
    """Silence NumPy's warnings: an exponential may overflow within a correct computation."""
    with np.errstate(all="ignore"):
        yield


# The reference: the loss of one output, in decimal numbers.
REFERENCE = {
    "binary_cross_entropy": lambda a, y: -(y * a.ln() + (1 - y) * (1 - a).ln()),
    "categorical_cross_entropy": lambda a, y: -y * a.ln(),
    "mean_squared_error": lambda a, y: (a - y) ** 2,
    "mean_absolute_error": lambda a, y: abs(a - y),
    "huber": lambda a, y: (a - y) ** 2 / 2 if abs(a - y) <= DELTA else DELTA * (abs(a - y) - DELTA / 2),
    "poisson": lambda a, y: a - y * a.ln(),
    "half_poisson_deviance": lambda a, y: y * (y / a).ln() - y + a,
    "kl_divergence": lambda a, y: y * (y / a).ln() - y + a,
    "focal": lambda a, y: -(y * (1 - a) ** 2 * a.ln() + (1 - y) * a**2 * (1 - a).ln()),
    "hinge": lambda a, y: max(1 - (2 * y - 1) * a, Decimal(0)),
    "log_cosh": lambda a, y: (((a - y).exp() + (y - a).exp()) / 2).ln(),
    "pinball": lambda a, y: (y - a) * (QUANTILE if y > a else QUANTILE - 1),
}
DELTA: Decimal = Decimal("0.25")
QUANTILE: Decimal = Decimal("0.875")
OPTIONS = {"huber": {"delta": float(DELTA)}, "pinball": {"quantile": float(QUANTILE)}}
LOSSES = [Loss(name, **OPTIONS.get(name, {})) for name in REFERENCE]
OVER_CLASSES = {"categorical_cross_entropy", "kl_divergence"}
"""The losses that are the sum over the outputs, instead of their mean."""


def reference(name, A, Y):
    """Return the loss of a sample: the mean over its outputs, or for some losses their sum."""
    terms = [REFERENCE[name](a, y) for a, y in zip(A, Y, strict=True)]
    return sum(terms) / (1 if name in OVER_CLASSES else len(terms))


def data(k, m=40, seed=0):
    """Return outputs and targets between 0 and 1 whose differences are odd multiples of 1/32, away from all kinks."""
    rng = np.random.default_rng(seed)
    return rng.integers(1, 16, (k, m)) / 16, rng.integers(1, 16, (k, m)) / 16 + 1 / 32


def columns(A, Y):
    """Yield the outputs and targets of each sample as decimal numbers."""
    for a, y in zip(A.T.tolist(), Y.T.tolist(), strict=True):
        yield [Decimal(x) for x in a], [Decimal(x) for x in y]


def test_every_loss_has_a_reference():
    assert set(REFERENCE) == set(LIBRARY)


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_values_match_the_formula(loss, k):
    """N10 and variants: one value per sample, the mean over its outputs.

    For these data no term is larger than 3. A term has at most 8 roundings, 2 of them in a logarithm, and k terms are
    added.
    """
    A, Y = data(k)
    L = loss.value(OPS, A, Y)
    assert L.shape == (1, A.shape[1])
    for value, (a, y) in zip(L[0].tolist(), columns(A, Y), strict=True):
        size = 3 * (k if loss.name in OVER_CLASSES else 1)
        assert abs(value - float(reference(loss.name, a, y))) <= (8 + k) * U * size


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_derivatives_match_the_formula(loss, k):
    """N10 and variants: dA = ∂L/∂A differs from a difference quotient with 50 digits by at most 8 roundings.

    The derivative of the focal loss has two logarithms, two exponentials of them and fifteen operations.
    """
    A, Y = data(k)
    dA = loss.derivative(OPS, A, Y)
    assert dA.shape == A.shape
    h = Decimal("1e-15")
    for i, (a, y) in enumerate(columns(A, Y)):
        for j in range(k):
            with localcontext(prec=50):
                up, down = ([x + s * (q == j) for q, x in enumerate(a)] for s in (h, -h))
                exact = float((reference(loss.name, up, y) - reference(loss.name, down, y)) / (2 * h))
            assert abs(dA[j, i] - exact) <= (64 if loss.name == "focal" else 8) * U * (abs(exact) + 1 / k)


def test_binary_cross_entropy_by_hand():
    """N10: L = -(y log a + (1 - y) log(1 - a)), within the roundings of two logarithms, two products and two sums."""
    A, Y = np.array([[0.5, 0.8, 0.8, 0.3]]), np.array([[1.0, 1.0, 0.0, 0.25]])
    expected = [
        math.log(2),
        -math.log(0.8),
        -math.log(1 - 0.8),
        -(0.25 * math.log(0.3) + 0.75 * math.log(1 - 0.3)),
    ]
    assert (abs(eq.binary_cross_entropy(np, A, Y)[0] - expected) <= 8 * U * np.array(expected)).all()


def test_the_cost_is_the_mean_over_the_samples():
    """N10: the cost is the mean of L over the m samples, exact for small integers."""
    cost = eq.mean_loss(np, np.array([[1.0, 2.0, 6.0, -1.0]]))
    assert cost.shape == ()
    assert cost == 2.0


def test_sigmoid_with_binary_cross_entropy_gives_a_minus_y():
    """N11: dZ[L] = A[L] - Y is the derivative of N10 times the slope of the sigmoid (N12).

    The derivative is a quotient with the denominator ``a (1 - a)``; multiplying by the slope, which is the same rounded
    number, cancels it. Only the roundings of the quotient and of the product remain.
    """
    Z = np.linspace(-8, 8, 41)[None]
    A = eq.sigmoid(np, Z)
    for y in (0.0, 0.25, 1.0):
        Y = np.full_like(A, y)
        delta = eq.sigmoid_cross_entropy_delta(np, A, Y)
        assert delta.tolist() == (A - Y).tolist()
        chain = eq.sigmoid_backward(np, eq.binary_cross_entropy_derivative(np, A, Y), Z, A)
        assert (abs(chain - delta) <= 3 * U * abs(delta)).all()


def test_the_delta_of_k_sigmoid_outputs_is_divided_by_k():
    """N11 for k outputs: dZ[L] = (A[L] - Y) / k."""
    A, Y = np.array([[0.5, 0.25], [0.75, 1.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    assert eq.sigmoid_cross_entropy_delta(np, A, Y).tolist() == [[-0.25, 0.125], [0.375, 0.0]]


def test_softmax_with_categorical_cross_entropy_gives_a_minus_y():
    """N11 for softmax: A - Y is dA = -y/a times the Jacobian of softmax.

    The product is a (-y/a + Σ y), that is, -y + a. The quotient, the product, the sum of k terms and two more
    operations are rounded.
    """
    k = 4
    rng = np.random.default_rng(0)
    Z, Y = rng.normal(0, 2, (k, 30)), np.eye(k)[rng.integers(0, k, 30)].T
    A = eq.softmax(np, Z)
    delta = eq.softmax_cross_entropy_delta(np, A, Y)
    assert delta.tolist() == (A - Y).tolist()
    chain = eq.softmax_backward(np, eq.categorical_cross_entropy_derivative(np, A, Y), Z, A)
    assert (abs(chain - delta) <= (k + 4) * U * (A + Y)).all()


FUSED = [
    ("sigmoid", "binary_cross_entropy"),
    ("softmax", "categorical_cross_entropy"),
    ("exp", "half_poisson_deviance"),
    ("exp", "poisson"),
    ("sigmoid", "focal"),
    ("softmax", "kl_divergence"),
]


@pytest.mark.parametrize(("activation", "name"), FUSED)
def test_fused_losses_equal_unfused_losses(activation, name):
    """N10, N11: for |z| <= 4, the loss computed from the logits equals the loss computed from the outputs.

    In this range, the loss computed from the outputs is accurate: a and 1 - a are at least 1e-4. The relative error of
    a is 16 + k roundings (two exponentials of 8 each); this is also the absolute error of log a. The error of
    log(1 - a) is larger by the factor a / (1 - a) <= e^4. An exponential is at most e^4.
    """
    k, loss = 3, Loss(name)
    rng = np.random.default_rng(0)
    Z, Y = rng.uniform(-4, 4, (k, 40)), np.eye(k)[rng.integers(0, k, 40)].T
    assert loss.fused_with(dn.Activation(activation))
    unfused = loss.value(OPS, eq.EQUATIONS[activation](np, Z), Y)
    fused = loss.value_of_logits(OPS, Z, Y)
    assert fused.shape == unfused.shape == (1, 40)
    assert (abs(fused - unfused) <= 2 * (16 + k) * math.exp(4) * U).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fused_losses_are_exact_at_extreme_logits(dtype):
    """N10, N11: at z = ±1e4, the loss is 0 for correct logits; for wrong ones it is |z| or 2 |z|, and not infinite."""
    Z = np.array([[1e4, 1e4, -1e4, -1e4]], dtype)
    Y = np.array([[1, 0, 1, 0]], dtype)
    assert eq.sigmoid_cross_entropy(np, Z, Y).tolist() == [[0.0, 1e4, 1e4, 0.0]]
    assert eq.sigmoid_cross_entropy_delta(np, eq.sigmoid(np, Z), Y).tolist() == [[0.0, 1.0, -1.0, 0.0]]

    Z, Y = np.array([[1e4, 1e4], [-1e4, -1e4]], dtype), np.array([[1, 0], [0, 1]], dtype)
    assert eq.softmax_cross_entropy(np, Z, Y).tolist() == [[0.0, 2e4]]
    assert eq.softmax_cross_entropy_delta(np, eq.softmax(np, Z), Y).tolist() == [[0.0, 1.0], [0.0, -1.0]]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "name", ["binary_cross_entropy", "categorical_cross_entropy", "poisson", "half_poisson_deviance"]
)
def test_losses_of_saturated_outputs_are_finite(name, dtype):
    A, Y = np.array([[0, 1, 0, 1]], dtype), np.array([[0, 0, 1, 1]], dtype)
    L, dA = eq.EQUATIONS[name](np, A, Y), eq.EQUATIONS[f"{name}_derivative"](np, A, Y)
    assert np.isfinite(L).all()
    assert np.isfinite(dA).all()
    eps = float(np.finfo(dtype).eps)  # binary cross-entropy clips outputs at eps, the other losses at smaller values
    assert L[0, 2] >= -math.log(eps) * (1 - 2 * eps)
    assert dA[0, 2] <= -1 / eps


def test_huber_uses_its_delta():
    A, Y = np.array([[0.0, 0.5, 3.0, -3.0]]), np.zeros((1, 4))
    assert eq.huber(np, A, Y).tolist() == [[0.0, 0.125, 2.5, 2.5]]
    assert eq.huber_derivative(np, A, Y).tolist() == [[0.0, 0.5, 1.0, -1.0]]
    assert Loss("huber", delta=2.0).value(OPS, A, Y).tolist() == [[0.0, 0.125, 4.0, 4.0]]
    assert Loss("huber", delta=2.0).derivative(OPS, A, Y).tolist() == [[0.0, 0.5, 2.0, -2.0]]


def test_the_slope_of_the_absolute_error_at_0_is_0():
    A, Y = np.array([[1.0, 2.0, 3.0]]), np.full((1, 3), 2.0)
    assert eq.mean_absolute_error_derivative(np, A, Y).tolist() == [[-1.0, 0.0, 1.0]]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_hot(dtype):
    result = eq.one_hot(np, np.array([[2, 0, 2, 1]]), 4, np.dtype(dtype))
    assert result.dtype == dtype
    assert result.tolist() == np.eye(4)[:, [2, 0, 2, 1]].tolist()


def test_class_indices_equal_one_hot_targets():
    X, y = np.random.default_rng(0).normal(size=(3, 8)), np.arange(8) % 4
    net = dn.Network([dn.Dense(4, "softmax")], 3, dtype="float64", seed=0)
    by_index, by_column = net.gradients(X, y), net.gradients(X, np.eye(4)[:, y])
    assert {k: g.tolist() for k, g in by_index.items()} == {k: g.tolist() for k, g in by_column.items()}


# Weights


def test_sample_scale_has_mean_1():
    assert eq.sample_scale(np, np.array([[3.0, 1.0, 0.0, 4.0]])).tolist() == [[1.5, 0.5, 0.0, 2.0]]


def test_weights_of_1_change_nothing():
    for m in range(1, 50):
        assert eq.sample_scale(np, np.ones((1, m))).tolist() == [[1.0] * m]


def test_weights_of_0_stay_0():
    assert eq.sample_scale(np, np.zeros((1, 3))).tolist() == [[0.0] * 3]


def integer_network():
    net = dn.Network([dn.Dense(3, "relu"), dn.Dense(2)], 2, backend="numpy", dtype="float64", seed=0)
    net.set_flat(np.random.default_rng(0).integers(-4, 5, net.layout.size).astype(float))
    return net


@pytest.mark.parametrize("batch_size", [1, 4, 8, 600])
def test_sample_weights_have_the_same_effect_at_every_batch_size(batch_size):
    """N14 with weights of mean 1 over all samples: the cost of a batch is ``Σ w L / m``.

    The mean of these costs over an epoch is the weighted mean of the losses. If the cost of a batch were divided by the
    sum of its own weights, weights would have no effect at a batch size of 1.
    """
    rng = np.random.default_rng(3)
    X, y = rng.normal(size=(3, 8)), np.array([0, 1, 2, 0, 1, 2, 0, 0])
    w = np.array([1.0, 9.0, 0.0, 2.0, 0.5, 4.0, 7.0, 0.5])
    untrained = dn.Network([dn.Dense(3, "softmax")], 3, dtype="float64", seed=0)
    expected = untrained.evaluate(X, y, sample_weight=w)["loss"]
    history = untrained.fit(X, y, sample_weight=w, batch_size=batch_size, epochs=2, optimizer=dn.SGD(1e-300))
    assert history.loss == pytest.approx([expected] * 2, rel=8 * len(w) * U)

    trained_net = dn.Network([dn.Dense(3, "softmax")], 3, dtype="float64", seed=0)
    trained_net.fit(X, y, sample_weight=w, batch_size=batch_size, epochs=1, optimizer=dn.SGD(1e-9))
    sum_of_gradients = (trained_net.flat() - untrained.flat()) / -1e-9
    batches = len(range(0, 8, batch_size))
    by_name = untrained.gradients(X, y, sample_weight=w)
    gradient = np.concatenate([by_name["W1"].ravel(), by_name["b1"].ravel()])
    np.testing.assert_allclose(sum_of_gradients, batches * gradient, rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_the_loss_of_an_epoch_is_the_weighted_mean_over_its_samples(batch_size):
    """The mean takes class weights into account, and a last batch that is smaller than the others."""
    rng = np.random.default_rng(4)
    X, y, w = rng.normal(size=(3, 10)), rng.integers(0, 3, 10), rng.uniform(0, 3, 10)
    class_weight = np.array([1.0, 5.0, 0.25])
    net = dn.Network([dn.Dense(3, "softmax")], 3, dtype="float64", seed=0)
    losses = [net.evaluate(X[:, i : i + 1], y[i : i + 1])["loss"] for i in range(10)]
    history = net.fit(
        X, y, sample_weight=w, class_weight=class_weight, optimizer=dn.SGD(1e-300), epochs=1, batch_size=batch_size
    )
    assert history.loss[0] == pytest.approx(np.average(losses, weights=w * class_weight[y]), rel=1e-13)


def test_balanced_class_weights_take_sample_weights_into_account():
    """With integer weights, the result is the same as when each sample is repeated as many times as its weight says."""
    rng = np.random.default_rng(5)
    X, y, w = rng.normal(size=(3, 30)), rng.integers(0, 3, 30), rng.integers(0, 5, 30)
    weighted, repeated = (dn.Network([dn.Dense(3, "softmax")], 3, dtype="float64", seed=0) for _ in range(2))
    options = {"class_weight": "balanced", "optimizer": dn.SGD(0.1), "epochs": 20, "batch_size": 1000}
    weighted.fit(X, y, sample_weight=w, **options)
    repeated.fit(np.repeat(X, w, axis=1), np.repeat(y, w), **options)
    np.testing.assert_allclose(weighted.flat(), repeated.flat(), rtol=0, atol=1e-13)


def test_partial_fit_does_not_scale_sample_weights():
    """``fit`` divides the weights by their mean over all samples, but ``partial_fit`` gets only some of the samples."""
    X, y = np.random.default_rng(6).normal(size=(3, 1)), np.array([1])
    start = dn.Network([dn.Dense(2, "softmax")], 3, dtype="float64", seed=0)
    steps = []
    for w in (1.0, 10.0):
        net = dn.Network([dn.Dense(2, "softmax")], 3, dtype="float64", seed=0)
        loss = net.partial_fit(X, y, sample_weight=[w], optimizer=dn.SGD(0.01))
        assert loss == pytest.approx(start.evaluate(X, y)["loss"])
        steps.append(net.flat() - start.flat())
    np.testing.assert_allclose(steps[1], 10 * steps[0])


def test_validation_data_can_have_sample_weights():
    rng = np.random.default_rng(7)
    X, y, w = rng.normal(size=(3, 12)), rng.integers(0, 2, 12), rng.integers(0, 4, 12)
    net = dn.Network([dn.Dense(2, "softmax")], 3, dtype="float64", seed=0)
    metrics = ["accuracy", "r2", "mean_squared_error", "mean_absolute_error"]
    history = net.fit(X, y, validation=(X, y, w), epochs=1, metrics=metrics)
    repeated = net.evaluate(np.repeat(X, w, axis=1), np.repeat(y, w), metrics=metrics)
    assert {name: history.last(f"val_{name}") for name in repeated} == pytest.approx(repeated, rel=1e-13)
    assert net.evaluate(X, y, metrics=metrics, sample_weight=w) == pytest.approx(repeated, rel=1e-13)
    assert net.evaluate(X, y, metrics=metrics) != pytest.approx(repeated, rel=1e-3)


def test_metrics_of_the_training_data_ignore_class_weights():
    X, y = np.random.default_rng(8).normal(size=(3, 12)), np.arange(12) % 3 // 2
    net = dn.Network([dn.Dense(2, "softmax")], 3, dtype="float64", seed=0)
    history = net.fit(X, y, class_weight=[1.0, 100.0], metrics="accuracy", epochs=1)
    assert history.metrics["accuracy"][0] == net.evaluate(X, y, metrics="accuracy")["accuracy"]


def test_integer_weights_equal_repeated_samples():
    """N13, N14 with weights; exact, since all values are integers and both sample counts are powers of 2."""
    rng = np.random.default_rng(1)
    X, Y, w = rng.integers(-4, 5, (2, 4)), rng.integers(-4, 5, (2, 4)), np.array([3, 1, 0, 4])
    net = integer_network()
    weighted = net.gradients(X, Y, sample_weight=w)
    repeated = net.gradients(np.repeat(X, w, axis=1), np.repeat(Y, w, axis=1))
    assert any(g.any() for g in weighted.values())
    assert {k: g.tolist() for k, g in weighted.items()} == {k: g.tolist() for k, g in repeated.items()}
    losses = net.evaluate(X, Y, sample_weight=w), net.evaluate(np.repeat(X, w, axis=1), np.repeat(Y, w, axis=1))
    assert losses[0] == losses[1]


def test_a_batch_with_weight_0_changes_nothing():
    """The weights are scaled to 0 and 2, so the second update equals an unweighted update at twice the rate."""
    rng = np.random.default_rng(1)
    X, Y = rng.integers(-4, 5, (2, 2)), rng.integers(-4, 5, (2, 2))
    net, expected = integer_network(), integer_network()
    options = {"epochs": 1, "batch_size": 1, "shuffle": False}
    history = net.fit(X, Y, sample_weight=[0, 5], optimizer=dn.SGD(0.125), **options)
    assert history.loss == expected.fit(X[:, 1:], Y[:, 1:], optimizer=dn.SGD(0.25), **options).loss
    assert net.flat().tolist() == expected.flat().tolist() != integer_network().flat().tolist()


@pytest.mark.parametrize(
    ("class_weight", "weights"),
    [
        ({0: 2.0, 2: 0.5}, [2.0, 1.0, 0.5]),
        ([0.25, 1.0, 4.0], [0.25, 1.0, 4.0]),
        ("balanced", None),
    ],
)
@pytest.mark.parametrize("sample_weight", [None, np.arange(1.0, 13.0)], ids=["alone", "times-sample-weight"])
def test_class_weights_equal_sample_weights_set_by_class(class_weight, weights, sample_weight):
    X, y = np.random.default_rng(0).normal(size=(3, 12)), np.array([0] * 6 + [1] * 2 + [2] * 4)
    if weights is None:
        sums = np.bincount(y, sample_weight)
        weights = sums.sum() / (3 * sums)
    equivalent = np.array(weights)[y] * (1 if sample_weight is None else sample_weight)
    nets = [dn.Network([dn.Dense(3, "softmax")], 3, dtype="float64", seed=0) for _ in range(3)]
    histories = [
        nets[0].fit(X, y, class_weight=class_weight, sample_weight=sample_weight, batch_size=5, epochs=3),
        nets[1].fit(X, y, sample_weight=equivalent, batch_size=5, epochs=3),
        nets[2].fit(X, y, sample_weight=sample_weight, batch_size=5, epochs=3),
    ]
    assert histories[0].loss == histories[1].loss != histories[2].loss
    assert nets[0].flat().tolist() == nets[1].flat().tolist() != nets[2].flat().tolist()


def test_class_weights_apply_to_a_single_sigmoid_output():
    X, Y = np.random.default_rng(0).normal(size=(3, 8)), np.array([0, 0, 0, 0, 0, 1, 0, 1])
    nets = [dn.Network([dn.Dense(1, "sigmoid")], 3, dtype="float64", seed=0) for _ in range(2)]
    nets[0].fit(X, Y, class_weight={1: 3.0}, epochs=2)
    nets[1].fit(X, Y, sample_weight=np.where(Y, 3.0, 1.0), epochs=2)
    assert nets[0].flat().tolist() == nets[1].flat().tolist()


# Pairs of a loss and an activation


def test_losses_refuse_activations_outside_their_domain():
    """Losses that take a logarithm of the output are refused for activations with negative outputs."""
    allowed = {
        "binary_cross_entropy": {"sigmoid", "softmax"},
        "categorical_cross_entropy": {"softmax"},
        "poisson": {"sigmoid", "softmax", "softplus", "exp"},
        "half_poisson_deviance": {"sigmoid", "softmax", "softplus", "exp"},
        "focal": {"sigmoid", "softmax"},
        "kl_divergence": {"softmax"},
    }
    for loss in LIBRARY:
        for activation in ACTIVATIONS:
            if activation in allowed.get(loss, set(ACTIVATIONS)):
                check_pair(Loss(loss), dn.Activation(activation))
            else:
                with pytest.raises(ArgumentError, match=f"loss '{loss}' needs outputs in the range .*{activation!r}"):
                    check_pair(Loss(loss), dn.Activation(activation))


def test_the_half_poisson_deviance_is_exact_at_the_target_and_at_extreme_logits():
    Y = np.array([[0.0, 1.0, 3.0, 20.0]])
    assert eq.half_poisson_deviance(np, Y, Y)[0, 1:].tolist() == [0.0, 0.0, 0.0]
    Z = np.array([[-math.inf, 0.0, -1000.0]])
    L = eq.exp_half_poisson_deviance(np, Z, np.array([[1.0, 1.0, 2.0]]))
    assert L.tolist() == [[math.inf, 0.0, 2 * math.log(2) + 2000 - 2]]
    assert eq.exp_half_poisson_deviance(np, np.array([[-800.0]]), np.array([[0.0]])) == 0


def test_no_other_pairs_are_fused():
    pairs = {(a, name) for a in ACTIVATIONS for name in LIBRARY if Loss(name).fused_with(dn.Activation(a))}
    assert pairs == set(FUSED)


@pytest.mark.parametrize("k", [1, 3])
def test_label_smoothing_replaces_the_targets(k):
    """The loss with the option s is that of the targets (1 - s) y + s / k, fused with softmax or not."""
    rng = np.random.default_rng(0)
    Z, Y = rng.normal(size=(k, 40)), np.eye(k)[rng.integers(0, k, 40)].T
    A, smooth = eq.softmax(np, Z), 0.7 * Y + 0.3 / k
    loss, plain = Loss("categorical_cross_entropy", label_smoothing=0.3), Loss("categorical_cross_entropy")
    for method, x in (("value", A), ("derivative", A), ("value_of_logits", Z), ("delta", A)):
        found, wanted = (getattr(x_loss, method)(OPS, x, y) for x_loss, y in ((loss, Y), (plain, smooth)))
        np.testing.assert_allclose(found, wanted, rtol=1e-14, atol=1e-15)
    for refused in (1.0, -0.1, math.nan):
        with pytest.raises(ArgumentError, match="categorical_cross_entropy: label_smoothing"):
            Loss("categorical_cross_entropy", label_smoothing=refused)


def test_the_focal_loss_is_cross_entropy_times_a_power_of_the_probability_of_the_other_class():
    Z, Y = np.array([[3.0, -2.0, 0.5, -30.0, 40.0]]), np.array([[1.0, 1.0, 0.0, 0.0, 1.0]])
    other: Any = eq.sigmoid(np, Z * (1 - 2 * Y))
    expected = other**1.5 * eq.sigmoid_cross_entropy(np, Z, Y)
    np.testing.assert_allclose(eq.sigmoid_focal(np, Z, Y, 1.5), expected, rtol=1e-13)


def test_log_cosh_is_accurate_near_0_and_does_not_overflow():
    E = np.array([[1e-9, -1e-4, 0.5, 1000.0]])
    expected = [[0.5e-18, 0.5e-8 - 1e-16 / 12, math.log(math.cosh(0.5)), 1000 - math.log(2)]]
    np.testing.assert_allclose(eq.log_cosh(np, E, np.zeros_like(E)), expected, rtol=1e-14)


def test_the_minimum_of_the_pinball_loss_is_the_quantile():
    y = np.sort(np.random.default_rng(0).exponential(size=101))
    losses = [eq.pinball(np, np.full((1, 101), a), y[None], 0.9).mean() for a in y]
    assert int(np.argmin(losses)) == 90
    assert eq.pinball_derivative(np, np.array([[0.0, 1.0, 2.0]]), np.ones((1, 3)), 0.75).tolist() == [
        [-0.75, -0.25, 0.25]
    ]
