"""The check of one part: correct parts pass on every backend, and a fault of a backend or of a part is reported."""

from dataclasses import dataclass
from typing import Any

import array_api_strict
import numpy as np
import pytest
from mutants import MUTANTS

import deepnotes as dn
from deepnotes.nn.expressions import FUNCTIONS, OPERATIONS
from deepnotes.nn.formulas import activation, loss, update
from deepnotes.testing import check_part
from deepnotes.testing.own_parts import OWN_PARTS, Mish
from deepnotes.utils.errors import ArgumentError

STRICT = dn.Backend("strict", array_api_strict)
LIBRARY = [
    dn.Activation("softmax"), dn.Activation("leaky_relu", slope=0.3), dn.Loss("huber", delta=0.4), dn.Loss("poisson"),
    dn.Loss("binary_cross_entropy"), dn.Loss("categorical_cross_entropy"), dn.SGD(momentum=0.9), dn.Adam(epsilon=1e-3),
]  # fmt: skip


@pytest.mark.parametrize("part", LIBRARY, ids=repr)
def test_parts_of_the_library_are_within_their_bounds(part: Any) -> None:
    report = check_part(part, ["numpy", STRICT])
    assert report.passed, str(report)
    assert [result.check for result in report.results] == [
        "numpy float32", "numpy float64", "strict float32", "strict float64",
    ]  # fmt: skip
    assert all(0 < result.worst <= 1 for result in report.results)


def test_the_report_has_a_line_for_each_backend_and_dtype() -> None:
    lines = str(check_part(Mish(), ["numpy", STRICT])).splitlines()
    assert lines[0] == "Mish(): largest error / its bound"
    assert [line[:14] for line in lines[1:]] == ["numpy float32 ", "numpy float64 ", "strict float32", "strict float64"]


def test_a_faulty_backend_fails_for_the_part_that_shows_the_fault() -> None:
    mutant = next(mutant for mutant in MUTANTS if mutant.check == "programs.own_parts.hard_swish").make()
    report = check_part(OWN_PARTS["hard_swish"], [mutant])
    assert not report.passed
    assert "FAILED: float32, outputs: 3: backward: element [" in str(report)
    assert check_part(Mish(), [mutant]).passed


def test_a_part_without_a_derivative_fails_with_the_reason() -> None:
    @dataclass(frozen=True)
    class Reversed(dn.ActivationFunction):
        def forward(self, ops: Any, Z: Any) -> Any:
            return Z[::-1]

    report = check_part(Reversed(), ["numpy"])
    assert not report.passed
    assert "Reversed has no method 'backward'" in report.results[0].message


def test_anything_else_is_refused() -> None:
    with pytest.raises(ArgumentError, match="part: got str, wanted an activation, a loss or an optimizer"):
        check_part("relu")


def test_the_parts_of_the_suite_use_most_operations() -> None:
    used = {
        node.operation
        for part in OWN_PARTS.values()
        for expression in [
            update(part, "float64") if isinstance(part, dn.Optimizer)
            else activation(part, "float64", 3) if isinstance(part, dn.ActivationFunction)
            else loss(part, "float64", 3)
        ]
        for node in expression.nodes
    }  # fmt: skip
    assert FUNCTIONS.keys() - used <= {"expm1"}
    assert {"sum", "max", "where"} <= used <= OPERATIONS.keys() | {"input", "constant", "outputs"}


def test_bounds_are_much_smaller_than_the_results() -> None:
    """A relative error of 1e-5 in float32, or of 1e-13 in float64, is found."""
    for dtype, error in (("float32", 1e-5), ("float64", 1e-13)):

        @dataclass(frozen=True)
        class Inexact(Mish):
            factor: float = 1 + error

            def forward(self, ops: Any, Z: Any) -> Any:
                A = super().forward(ops, Z)
                return A * self.factor if isinstance(Z, np.ndarray) else A

        failed = [result.check for result in check_part(Inexact(), ["numpy"]).results if result.verdict == "failed"]
        assert f"numpy {dtype}" in failed
