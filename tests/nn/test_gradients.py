"""Gradients of whole networks, compared with central differences of the cost for each parameter, in float64.

A central difference over 2 h with h = 2^-17 has an error of about h² f'''/6 + u f / h, about 1e-11 if all values are of
order 1. The relative error (the norm of the difference divided by the norm of the gradient) must stay below 1e-7 if two
conditions hold; otherwise, the test is repeated with the data of the next seed:

- No kink (such as those of relu, leaky_relu, elu, the absolute error or huber) is crossed between -h and h. This is
  checked exactly: each pre-activation and each residual is on the same side of its kinks at all points.
- The gradient is not almost zero, as it is if all output neurons are inactive relus.
"""

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.nn.activations import LIBRARY as ACTIVATIONS
from deepnotes.nn.layers import Dense, Dropout
from deepnotes.nn.losses import LIBRARY as LOSSES
from deepnotes.nn.losses import Loss, check_pair
from deepnotes.nn.plan import Plan
from deepnotes.nn.steps import forward, gradient_step, sample_losses

H = 2.0**-17
OPS = dn.get_backend("numpy").ops
KINKED = {"relu", "leaky_relu", "elu", "selu", "celu", "relu6"}
REGULARIZATIONS = {"none": {}, "l2": {"l2": 0.3}, "dropout": {"rate": 0.4}}


def is_allowed(activation, loss):
    try:
        check_pair(Loss(loss), dn.Activation(activation))
    except dn.ArgumentError:
        return False
    return True


def pairs(allowed):
    """Return all pairs of an activation and a loss that are allowed, or all pairs that are not."""
    return [(a, loss) for a in ACTIVATIONS for loss in LOSSES if is_allowed(a, loss) == allowed]


class Case:
    """A random network with two layers and random data; `single` names a size to set to 1."""

    def __init__(self, seed, hidden, last, loss, *, single=None, weighted=False, l2=0.0, rate=0.0):
        rng = np.random.default_rng(seed)
        sizes = dict(zip(("features", "neurons", "outputs", "samples"), rng.integers(2, 5, 4).tolist(), strict=True))
        if single:
            sizes[single] = 1
        n0, n1, n2, m = sizes.values()
        layers = [Dense(n1, hidden), *([Dropout(rate)] if rate else []), Dense(n2, last)]
        self.loss, self.l2 = Loss(loss), l2
        self.net = dn.Network(layers, n0, backend="numpy", dtype="float64", seed=seed)
        self.net.set_flat(rng.normal(size=self.net.layout.size))
        self.X = rng.normal(size=(n0, m))
        self.Y = {
            "real": lambda: rng.normal(size=(n2, m)),
            "count": lambda: rng.poisson(2, (n2, m)).astype(float),
            "unit": lambda: rng.uniform(size=(n2, m)),
            "simplex": lambda: rng.dirichlet(np.ones(n2), m).T,
        }[self.loss.targets]()
        self.w = rng.uniform(0.1, 3, m) if weighted else None

    def gradient(self):
        gradients = self.net.gradients(self.X, self.Y, loss=self.loss, sample_weight=self.w, l2=self.l2)
        return np.concatenate([np.ravel(gradients[name]) for name in self.net.layout.entries])

    def losses(self, theta):
        """Return the loss of each sample (with the dropout mask of step 0), and the side of each kink as bytes."""
        layers, parameters = self.net.layers, self.net.layout.split(np, theta)
        A, caches = forward(OPS, layers, parameters, self.X, self.net.seed, np.asarray(0))
        kinks = [cache[1] > 0 for layer, cache in zip(layers, caches, strict=True) if _is_kinked(layer)]
        if self.loss.name in {"mean_absolute_error", "pinball"}:
            kinks.append(A > self.Y)
        if self.loss.name == "hinge":
            kinks.append((2 * self.Y - 1) * A > 1)
        if self.loss.name == "huber":
            kinks.append(abs(A - self.Y) > 1)
        L = sample_losses(OPS, layers, self.loss, A, caches, self.Y)[0]
        return L, b"".join(side.tobytes() for side in kinks)

    def cost(self, theta):
        """Return the mean loss with the L2 penalty, and the side of each kink as bytes."""
        L, sides = self.losses(theta)
        penalty = self.l2 / 2 * (theta**2 * self.net.layout.decays()).sum()
        return np.average(L, weights=self.w) + penalty, sides

    def central_differences(self):
        """Return the central differences, or None if a kink is crossed."""
        theta = self.net.flat()
        _, sides = self.cost(theta)
        central_differences = np.empty(theta.shape)
        for i in range(theta.size):
            step = H * (np.arange(theta.size) == i)
            (up, above), (down, below) = self.cost(theta + step), self.cost(theta - step)
            if not above == below == sides:
                return None
            central_differences[i] = (up - down) / (2 * H)
        return central_differences


def _is_kinked(layer):
    return isinstance(layer, Dense) and layer.g.name in KINKED  # type: ignore[attr-defined]


def assert_gradient_matches(*names, **options):
    """Compare the gradient with central differences, for the first seed that meets the conditions above."""
    for seed in range(100):
        case = Case(seed, *names, **options)
        g = case.gradient()
        if np.linalg.norm(g) < 1 / 256:
            continue
        numeric = case.central_differences()
        if numeric is not None:
            assert np.linalg.norm(g - numeric) <= 1e-7 * np.linalg.norm(g)
            return
    pytest.fail("no seed meets the conditions")


@pytest.mark.thinned(3)
@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("regularization", REGULARIZATIONS)
@pytest.mark.parametrize(("activation", "loss"), pairs(allowed=True))
def test_gradients_match_central_differences(activation, loss, regularization, weighted):
    """N11 to N16, for every allowed pair, also with one feature, one neuron, one output or one sample.

    A softmax of one output is constant, and so is its logarithm; they have at least two outputs.
    """
    for single in (None, "features", "neurons", "outputs", "samples"):
        if not (single == "outputs" and activation in {"softmax", "log_softmax"}):
            options = REGULARIZATIONS[regularization]
            assert_gradient_matches(activation, activation, loss, single=single, weighted=weighted, **options)


@pytest.mark.parametrize("hidden", ACTIVATIONS)
@pytest.mark.parametrize(
    ("last", "loss"), [("sigmoid", "binary_cross_entropy"), ("softmax", "categorical_cross_entropy")]
)
def test_gradients_of_fused_outputs_match_for_every_hidden_activation(last, loss, hidden):
    """N16 with N11: (W[2]ᵀ (A[2] - Y) * g'[1](Z[1])) Xᵀ for every g[1]."""
    assert_gradient_matches(hidden, last, loss)


@pytest.mark.parametrize(("activation", "loss"), pairs(allowed=False))
def test_pairs_that_are_not_allowed_are_refused(activation, loss):
    net = dn.Network([Dense(2, activation)], 1)
    with pytest.raises(dn.ArgumentError, match=f"loss '{loss}' needs outputs in the range"):
        net.gradients([[0.5]], [[1.0], [0.0]], loss=loss)


@pytest.mark.parametrize(("activation", "loss"), pairs(allowed=True))
def test_the_cost_of_a_step_is_the_weighted_mean_of_the_losses(activation, loss):
    """N10: ``gradient_step`` and ``evaluate`` return the cost that the tests above differentiate.

    Each cost has m + 4 rounding errors.
    """
    case = Case(0, activation, activation, loss, weighted=True)
    net, w = case.net, case.w
    assert w is not None
    plan = Plan(net.inputs, net.layers, "float64", net.seed, case.loss, dn.SGD())
    scaled = (w / w.mean()).reshape(1, -1)
    step = gradient_step(OPS, plan, net.theta, net.layout.decays(), np.asarray(0), case.X, case.Y, scaled)
    cost, _ = case.cost(net.theta)
    bound = 2 * (w.size + 4) * 2.0**-53 * np.average(abs(case.losses(net.theta)[0]), weights=w)
    assert cost != 0
    assert abs(step.cost - cost) <= bound
    assert abs(net.evaluate(case.X, case.Y, loss=loss, sample_weight=w)["loss"] - cost) <= bound
    assert step.weight == w.size
