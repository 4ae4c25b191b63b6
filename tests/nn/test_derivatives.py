"""Derivatives found by deepnotes, compared with the equations and with central differences, and at kinks."""

from typing import Any

import literature
import numpy as np
import pytest

import deepnotes as dn
from deepnotes.equations import EQUATIONS
from deepnotes.nn import activations, formulas, losses
from deepnotes.nn.derivatives import RULES, pullback
from deepnotes.nn.expressions import OPERATIONS, trace
from deepnotes.utils.errors import ArgumentError, NotAnExpressionError

RNG = np.random.default_rng(0)
Z, DA = RNG.normal(size=(3, 50)) * 3, RNG.normal(size=(3, 50))
A = np.exp(Z) / np.exp(Z).sum(axis=0)
Y = np.eye(3)[:, np.arange(50) % 3]


@pytest.mark.parametrize("name", activations.LIBRARY)
def test_the_derived_backward_of_a_library_activation_matches_its_equation(name):
    g = dn.Activation(name)
    forward = EQUATIONS[name](np, Z)
    (found,) = formulas.activation_backward(g, "float64", 3)(np, DA, Z, forward)
    wanted = EQUATIONS[f"{name}_backward"](np, DA, Z, forward)
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("name", losses.LIBRARY)
def test_the_derived_derivative_of_a_library_loss_matches_its_equation(name, outputs):
    (found,) = formulas.loss_derivative(dn.Loss(name), "float64", outputs)(np, A[:outputs], Y[:outputs])
    wanted = EQUATIONS[f"{name}_derivative"](np, A[:outputs], Y[:outputs])
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("part", [*literature.ACTIVATIONS, *literature.LOSSES], ids=lambda part: type(part).__name__)
def test_derived_derivatives_pass_the_check(part):
    assert dn.check(part).largest_error < 1e-6


KINKS = {
    "abs": (lambda xp, z: abs(z), 0.0),
    "maximum": (lambda xp, z: xp.maximum(z, 0.0), 0.0),
    "maximum, swapped": (lambda xp, z: xp.maximum(0.0, z), 0.0),
    "minimum": (lambda xp, z: xp.minimum(z, 0.0), 0.0),
    "two arguments that vary": (lambda xp, z: xp.maximum(2 * z, 4 * z), 3.0),
    "sign": (lambda xp, z: xp.sign(z), 0.0),
    "where": (lambda xp, z: xp.where(z > 0, 3 * z, 5 * z), 5.0),
}


@pytest.mark.parametrize("name", KINKS)
def test_slopes_at_kinks_follow_the_conventions(name):
    function, slope = KINKS[name]
    (found,) = pullback(trace(function, ["z"], "float64"), 1, "z")(np, np.zeros((1, 1)))
    assert found == slope


def test_equal_maxima_over_the_outputs_share_the_derivative():
    largest = trace(lambda xp, Z: xp.max(Z, axis=0, keepdims=True), ["Z"], "float64")
    (found,) = pullback(largest, 3, "Z")(np, np.array([[1.0], [2.0], [2.0]]))
    np.testing.assert_array_equal(found, [[0], [0.5], [0.5]])


def test_the_derivative_of_a_broadcast_sum_adds_up_over_the_outputs():
    share = trace(lambda xp, Z: Z * xp.sum(Z, axis=0, keepdims=True), ["Z"], "float64")
    (found,) = pullback(share, 2, "Z", "d")(np, np.ones((2, 1)), np.array([[3.0], [5.0]]))
    np.testing.assert_array_equal(found, [[16], [16]])  # d/dz_i of (Σ z)²


def test_a_value_that_is_broadcast_and_summed_counts_once_for_each_output():
    """Uniform cross-entropy of logits, as in label smoothing: ``Σ (log Σ e^z - z)``."""

    def uniform(xp: Any, Z: Any) -> Any:
        return xp.sum(xp.log(xp.sum(xp.exp(Z), axis=0, keepdims=True)) - Z, axis=0, keepdims=True)

    (found,) = pullback(trace(uniform, ["Z"], "float64"), 3, "Z")(np, Z)
    np.testing.assert_allclose(found, 3 * A - 1, rtol=1e-12)


def test_a_constant_of_minus_zero_keeps_its_sign():
    (found,) = pullback(trace(lambda xp, z: z * z / (-0.0), ["z"], "float64"), 1, "z")(np, np.ones((1, 1)))
    assert found == -np.inf


def test_a_constant_result_has_the_derivative_0_in_the_shape_of_the_argument():
    constant = trace(lambda xp, Z: 0 * xp.sign(Z) + 1, ["Z"], "float64")
    (found,) = pullback(constant, 2, "Z")(np, np.ones((2, 3)))
    np.testing.assert_array_equal(found, np.zeros((2, 3)))


def test_every_operation_has_a_rule_or_the_derivative_0():
    flat = {"sign", "less", "less_equal", "greater", "greater_equal", "equal", "bitwise_and", "bitwise_xor", "number"}
    assert set(RULES) | flat == set(OPERATIONS)


def test_the_error_names_what_prevents_a_derivative():
    class Shuffled(dn.ActivationFunction):
        def forward(self, ops: Any, Z: Any) -> Any:
            return ops.xp.take(Z, ops.xp.asarray([1, 0]), axis=0)

    net = dn.Network([dn.Dense(2, Shuffled()), dn.Dense(1)], inputs=2, seed=0)
    with pytest.raises(NotAnExpressionError, match=r"Shuffled has no method 'backward'.*the function take; write"):
        net.fit(np.ones((2, 4)), np.ones((1, 4)), epochs=1)


def test_a_part_that_changes_is_derived_again():
    class Scaled(dn.ActivationFunction):
        factor = 2.0

        def forward(self, ops: Any, Z: Any) -> Any:
            return self.factor * Z

    g = Scaled()
    ones: Any = np.ones((1, 1))
    assert g.backward(dn.Ops(np, {}), ones, ones, ones) == 2
    g.factor = 3.0
    assert g.backward(dn.Ops(np, {}), ones, ones, ones) == 3


# --- dn.check ---------------------------------------------------------------------------------------------------------


def test_the_check_lists_kinks_and_overflows():
    assert dn.check(literature.HardSwish()).kinks == (-3.0, 3.0)
    assert dn.check(literature.SoftShrink(0.4)).kinks == (-0.4, 0.4)
    assert dn.check(literature.Pinball()).kinks == (0.0,)
    assert dn.check(literature.Mish()).kinks == ()

    class Swish(dn.ActivationFunction):
        def forward(self, ops: Any, Z: Any) -> Any:
            return Z / (1 + ops.xp.exp(-Z))

    report = dn.check(Swish())
    assert report.not_finite == (-800.0, -100000.0)  # e^-z overflows, and its derivative is infinity times 0
    assert str(report).endswith("not smooth at: none\nderivative not finite at: -800, -100000")


def test_the_check_finds_a_wrong_derivative():
    class Wrong(literature.Mish):
        def backward(self, ops: Any, dA: Any, Z: Any, A: Any) -> Any:
            return dA * Z

    with pytest.raises(ArgumentError, match=r"Wrong.backward: at .* it returned .*, central differences give"):
        dn.check(Wrong())


def test_the_check_finds_a_derivative_of_another_shape():
    class Wrong(literature.LogCosh):
        def derivative(self, ops: Any, A: Any, Y: Any) -> Any:
            return ops.xp.sum(A - Y, axis=0, keepdims=True)

    with pytest.raises(ArgumentError, match=r"Wrong.derivative: returned the shape \(1, 400\), wanted \(3, 400\)"):
        dn.check(Wrong())


def test_the_check_refuses_anything_but_an_activation_or_a_loss():
    with pytest.raises(ArgumentError, match="part: got str, wanted an activation or a loss"):
        dn.check("relu")
