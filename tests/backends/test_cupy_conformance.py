"""The conformance suite on the CuPy backend, over a stand-in for the device that runs its kernels on the CPU."""

from functools import cache
from typing import Any

import pytest
from host_device import backend

from deepnotes.backends import registry
from deepnotes.backends.base import Backend
from deepnotes.testing import BackendConformance, all_checks, run_check
from deepnotes.testing.conformance import report

OF_PRODUCTS = [
    id for id in all_checks()
    if (id.startswith(("programs.", "inference.", "equations.linear", "equations.weight_", "equations.input_"))
    and id not in ("programs.layouts", "programs.large", "programs.widths", "inference.layouts"))  # slow, and no other
    or id in ("semantics.bias", "semantics.lattice", "transfers.identity", "determinism.chunks")
]  # fmt: skip
"""Checks that the precision of products makes a difference to."""
HIGHEST = backend(flush=True)
"""With kernels that take subnormals of float32 for 0, as CuPy compiles them: the one known gap."""


@pytest.fixture(autouse=True)
def _known_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked for by the name "cupy" is the stand-in."""
    monkeypatch.setitem(registry._loaded, ("cupy",), HIGHEST)


@pytest.mark.slow
class TestHighest(BackendConformance):
    """All of it, in float32 and float64, products in float32 arithmetic."""

    backend: Backend = HIGHEST
    quick = True


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "check"),
    [(p, c) for p in ("high", "bfloat16", "float16") for c in OF_PRODUCTS if p != "float16" or "optimizer" not in c],
)
def test_precisions(precision: str, check: str) -> None:
    """Bounds follow the precision that the backend says it has."""
    report(run_check(of(precision), check, quick=True))


@cache
def of(precision: str) -> Backend:
    """Return a backend of this precision, the same each time."""
    return backend(precision)


@pytest.mark.parametrize(
    ("claimed", "checks"),
    [
        ("highest", ["equations.linear", "programs.activation.tanh", "programs.optimizer.sgd", "inference.samples"]),
        ("high", ["equations.linear", "equations.weight_gradient"]),
    ],
)
def test_products_that_are_worse_than_said_are_found(claimed: str, checks: list[str]) -> None:
    """Factors of 8 bits in a backend that says 24, or 11: in the equations, the Program and the Inference."""
    on = backend("bfloat16")
    on.matmul_precision = claimed
    on.factors = lambda dtype: "float64" if dtype == "float64" else "bfloat16"
    for check in checks:
        assert run_check(on, check, quick=True).verdict == "failed", check


def test_what_a_kernel_leaves_out_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the verdict on a batch no update counts: what the checks see is made by the kernels."""
    on = backend()
    launcher = on.device.launcher

    def crippled(kernel: str, *arguments: Any) -> Any:
        return (lambda: None) if kernel == "judge" else launcher(kernel, *arguments)

    monkeypatch.setattr(on.device, "launcher", crippled)
    assert run_check(on, "programs.optimizer.adam", quick=True).verdict == "failed"
