"""Expressions: which functions can be traced, which cannot, and reading expressions from a file."""

import json
from typing import Any

import array_api_strict
import literature
import numpy as np
import pytest

import deepnotes as dn
from deepnotes.equations import EQUATIONS
from deepnotes.nn import activations, formulas, losses
from deepnotes.nn.expressions import LARGEST, LONGEST_NAME, MOST_NAMES, Expression, trace
from deepnotes.utils.errors import ArgumentError, NotAnExpressionError

Z = np.random.default_rng(0).normal(size=(3, 8)) * 3
A = np.exp(Z) / np.exp(Z).sum(axis=0)
Y = np.eye(3)[:, np.arange(8) % 3]


def traced(function: Any, **options: Any) -> Expression:
    """Return the expression of a function of Z alone."""
    return trace(function, ["Z"], "float64", **options)


@pytest.mark.parametrize("name", activations.LIBRARY)
def test_a_traced_activation_computes_the_same_bits(name):
    (found,) = formulas.activation(dn.Activation(name), "float64", 3)(np, Z)
    np.testing.assert_array_equal(found, EQUATIONS[name](np, Z))


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("name", losses.LIBRARY)
def test_a_traced_loss_computes_the_same_bits(name, outputs):
    (found,) = formulas.loss(dn.Loss(name), "float64", outputs)(np, A[:outputs], Y[:outputs])
    np.testing.assert_array_equal(found, EQUATIONS[name](np, A[:outputs], Y[:outputs]))


def test_expressions_run_on_another_array_library():
    xp = array_api_strict
    expression = formulas.activation(literature.HardSwish(), "float64", 3)
    (found,) = expression(xp, xp.asarray(Z))
    np.testing.assert_array_equal(np.asarray(found), literature.HardSwish().forward(dn.Ops(np, {}), Z))


def test_equal_operations_are_computed_once_and_constants_are_folded():
    expression = traced(lambda xp, Z: (Z * Z + 1) * (Z * Z + 1) * xp.exp(xp.asarray(0.0, dtype=Z.dtype)))
    assert [node.operation for node in expression.nodes] == ["input", "multiply", "constant", "add", "multiply"]


def test_ones_like_a_sum_are_one_element_per_sample():
    def function(xp: Any, Z: Any) -> Any:
        ones = xp.ones_like(xp.sum(Z, axis=0, keepdims=True))
        return Z + xp.sum(ones, axis=0, keepdims=True) + xp.sum(xp.ones_like(Z), axis=0, keepdims=True)

    np.testing.assert_array_equal(traced(function, outputs=3)(np, Z)[0], function(np, Z))


def test_a_value_stays_broadcast_when_its_expression_is_traced_again():
    nodes = [["input", "Z"], ["max", 0], ["spread", 1, 0], ["sum", 2], ["multiply", 0, 3]]
    expression = Expression.from_data(VALID | {"nodes": nodes, "results": [4]})
    again = traced(lambda xp, Z: expression(xp, Z)[0], outputs=3)
    np.testing.assert_allclose(again(np, Z)[0], 3 * Z * Z.max(axis=0), rtol=1e-12)


def test_conditions_of_numbers_are_conditions_of_arrays_as_well():
    def function(xp: Any, Z: Any) -> Any:
        is_large = xp.asarray(2.0, dtype=Z.dtype) > 1
        return xp.where(is_large & (Z > 0), Z, -Z) + xp.astype(is_large, Z.dtype)

    for xp in (np, array_api_strict):
        (found,) = traced(function)(xp, xp.asarray(Z))
        np.testing.assert_array_equal(np.asarray(found), abs(Z) + 1)
    again = traced(lambda xp, Z: traced(function)(xp, Z)[0])
    np.testing.assert_array_equal(again(np, Z)[0], abs(Z) + 1)


def test_numbers_are_divided_by_zero_like_arrays():
    data = VALID | {
        "nodes": [["input", "Z"], ["constant", -1.0], ["constant", 0.0], ["divide", 1, 2], ["multiply", 0, 3]]
    }
    (found,) = Expression.from_data(data | {"results": [4]})(np, np.ones((1, 1)))
    assert found == -np.inf


def test_zeros_of_both_signs_are_different_constants():
    expression = traced(lambda xp, Z: (Z + 0.0, Z + -0.0))
    assert np.signbit([node.value for node in expression.nodes if node.operation == "constant"]).tolist() == [
        False,
        True,
    ]


def test_constants_are_folded_in_the_dtype():
    (found,) = trace(lambda xp, Z: Z + xp.exp(xp.asarray(1.0, dtype=Z.dtype)), ["Z"], "float32")(
        np, np.zeros((1, 1), "f")
    )
    assert found == np.exp(np.float32(1))


def test_the_sum_of_ones_like_an_array_is_the_number_of_outputs():
    def function(xp: Any, Z: Any) -> Any:
        return Z * xp.sum(xp.ones_like(Z), axis=0, keepdims=True)

    (found,) = traced(function)(np, np.full((4, 1), 8.0))
    assert (found == 32).all()


def test_numbers_are_computed_as_in_c_without_an_error():
    (found,) = traced(lambda xp, Z: Z / (1.0 / (Z.shape[0] - 1)))(np, np.full((1, 2), 8.0))
    assert (found == 0).all()


def test_a_function_may_branch_on_the_number_of_outputs():
    def function(xp: Any, Z: Any) -> Any:
        return Z if Z.shape[0] == 1 else Z / Z.shape[0]

    assert len(traced(function, outputs=1).nodes) == 1
    (found,) = traced(function, outputs=2)(np, np.full((4, 1), 8.0))  # the trace holds for any number above 1
    assert (found == 2).all()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda xp, Z: xp.take(Z, 0, axis=0), "take"),
        (lambda xp, Z: Z[0], "index"),
        (lambda xp, Z: Z if Z > 0 else -Z, "branch"),
        (lambda xp, Z: Z * float(Z), "Python numbers"),
        (lambda xp, Z: Z / Z.shape[1], "number of samples"),
        (lambda xp, Z: xp.sum(Z), "axis=None"),
        (lambda xp, Z: xp.sum(Z, axis=1, keepdims=True), "axis=1"),
        (lambda xp, Z: Z**0.5, "power"),
        (lambda xp, Z: Z + np.ones(3), "ndarray"),
        (lambda xp, Z: Z + "a", "str"),
        (lambda xp, Z: xp.astype(Z, xp.int64), "conversion"),
        (lambda xp, Z: xp.asarray([1.0, 2.0]) * Z, "array of constants"),
    ],
)
def test_the_error_names_what_cannot_be_traced(function, message):
    with pytest.raises(NotAnExpressionError, match=message):
        traced(function)


def test_a_formula_with_too_many_operations_is_refused():
    def function(xp: Any, Z: Any) -> Any:
        for _ in range(2 * LARGEST):
            Z = xp.exp(Z)
        return Z

    with pytest.raises(NotAnExpressionError, match="more than 10,000 operations"):
        traced(function)


# --- as JSON ----------------------------------------------------------------------------------------------------------


def test_infinite_constants_survive_json():
    expression = traced(lambda xp, Z: xp.where(Z > 0, Z, -float("inf") * xp.ones_like(Z)))
    assert Expression.from_data(json.loads(json.dumps(expression.to_data(), allow_nan=False))) == expression


@pytest.mark.parametrize("part", literature.ACTIVATIONS, ids=lambda part: type(part).__name__)
def test_an_expression_is_read_back_from_json(part):
    expression = formulas.activation(part, "float32", 3)
    assert Expression.from_data(json.loads(json.dumps(expression.to_data()))) == expression


def test_constants_that_are_not_finite_survive_json():
    expression = traced(lambda xp, Z: Z * float("inf") - float("nan") + -float("inf"))
    again = Expression.from_data(json.loads(json.dumps(expression.to_data(), allow_nan=False)))
    assert again.to_data() == expression.to_data()
    assert again.digest == expression.digest


VALID = {
    "arrays": ["Z"], "numbers": [], "dtype": "float64", "results": [2],
    "nodes": [["input", "Z"], ["constant", 2.0], ["multiply", 0, 1]],
}  # fmt: skip


def test_the_data_that_the_hostile_cases_change_are_valid():
    assert Expression.from_data(VALID)(np, Z)[0] is not None


@pytest.mark.parametrize(
    "change",
    [
        {"nodes": [["input", "Z"], ["multiply", 0, 1], ["multiply", 0, 1]]},  # a cycle
        {"nodes": [["input", "Z"], ["constant", 2.0], ["multiply", 0, 2]]},
        {"nodes": [["input", "Z"], ["constant", 2.0], ["multiply", 0, -1]]},
        {"nodes": [["input", "Z"], ["constant", 2.0], ["multiply", 0, True]]},
        {"nodes": [["input", "Z"], ["constant", 2.0], ["multiply", 0, 1.0]]},
        {"nodes": [["input", "Z"], ["constant", 2.0], ["multiply", 0]]},
        {"nodes": [["input", "Z"], ["constant", 2.0], ["multiply", 0, 1, 1]]},
        {"nodes": [["input", "Z"], ["constant", 2.0], ["__import__", 0]]},
        {"nodes": [["input", "Z"], ["constant", 2.0], ["take", 0, 1]]},
        {"nodes": [["input", "X"], ["constant", 2.0], ["multiply", 0, 1]]},
        {"nodes": [["input", "Z"], ["constant", float("nan")], ["multiply", 0, 1]]},
        {"nodes": [["input", "Z"], ["constant", float("inf")], ["multiply", 0, 1]]},
        {"nodes": [["input", "Z"], ["constant", 10**400], ["multiply", 0, 1]]},
        {"nodes": [["input", "Z"], ["constant", "2"], ["multiply", 0, 1]]},
        {"nodes": [["input", "Z"], ["less", 0, 0], ["multiply", 0, 1]]},  # a condition as a number
        {"nodes": [["input", "Z"], ["constant", 2.0], ["where", 0, 0, 1]]},  # a number as a condition
        {"nodes": [["input", "Z"], ["constant", 2.0], ["bitwise_and", 0, 1]]},
        {"nodes": [["input", "Z"], ["sum", 0], ["sum", 1]]},  # reductions of one row, or of a number
        {"nodes": [["input", "Z"], ["constant", 2.0], ["max", 1]]},
        {"nodes": [["input", "Z"], ["constant", 2.0], ["spread", 0, 0]]},  # broadcast to a shape that is not larger
        {"nodes": [["input", "Z"], ["constant", 2.0], ["spread", 1, 1]]},
        {"nodes": [["input", "Z"], ["sum", 0], ["spread", 0, 1]]},
        {"nodes": [["input", "Z"], ["constant", "infinity"], ["multiply", 0, 1]]},
        {"nodes": [["input", "Z"]] * (LARGEST + 1)},
        {"nodes": []},
        {"nodes": {}},
        {"nodes": [[], [], []]},
        {"nodes": ["input", "constant", "multiply"]},
        {"results": [3]},
        {"results": [-1]},
        {"results": []},
        {"results": [0] * (LARGEST + 1)},
        {"results": "2"},
        {"arrays": ["Z", "Z"]},
        {"arrays": [["Z"]]},
        {"arrays": "Z"},
        {"numbers": ["Z"]},
        {"numbers": None},
        {"numbers": ["a" * (LONGEST_NAME + 1)]},
        {"numbers": ["a b"]},
        {"numbers": [f"a{i}" for i in range(MOST_NAMES)]},
        {"dtype": "float16"},
        {"dtype": ["float64"]},
        {"dtype": np.array(["float64", "float64"])},
        {"arrays": np.array(["Z"])},
        {"nodes": [["input", "Z"], ["constant", np.float64(2)], ["multiply", 0, 1]]},
        {"nodes": [["input", "Z"], ["constant", 2.0], ["multiply", np.int64(0), 1]]},
        {"results": np.array([2])},
    ],
)
def test_hostile_data_is_refused(change):
    with pytest.raises(ArgumentError, match="expression"):
        Expression.from_data(VALID | change)


@pytest.mark.parametrize("data", [None, 3, "abc", [], {}, {"nodes": []}, [[]] * 5])
def test_data_of_another_shape_is_refused(data):
    with pytest.raises(ArgumentError, match="expression"):
        Expression.from_data(data)


def test_the_longest_allowed_chain_is_read_and_computed_without_recursion():
    nodes: list[Any] = [["input", "Z"], ["constant", 0.5]] + [["multiply", i + 1, 1] for i in range(LARGEST - 2)]
    nodes[2] = ["multiply", 0, 1]
    expression = Expression.from_data(VALID | {"nodes": nodes, "results": [LARGEST - 1]})
    assert expression(np, np.ones((1, 1)))[0] == 0
