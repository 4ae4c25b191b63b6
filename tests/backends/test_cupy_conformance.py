"""The conformance suite on the CuPy backend, on a stand-in for the device that runs its kernels on the CPU."""

from functools import cache
from typing import Any

import pytest
from host_device import backend

from deepnotes.backends import registry
from deepnotes.backends.base import Backend
from deepnotes.testing import BackendConformance, all_checks, run_check
from deepnotes.testing.conformance import report
from deepnotes_cupy.sources import Kernel

PRODUCT_CHECKS = [
    id for id in all_checks()
    if (id.startswith(("programs.", "inference.", "equations.linear", "equations.weight_", "equations.input_"))
    and id not in ("programs.layouts", "programs.large", "programs.widths", "inference.layouts"))  # slow
    or id in ("semantics.bias", "semantics.lattice", "transfers.identity", "determinism.chunks")
]  # fmt: skip
"""The checks whose results depend on the precision of products, except slow ones that would find nothing new."""
HIGHEST = backend(flush=True)
"""A backend whose kernels flush float32 subnormals to 0, as CuPy compiles them; this is its only known gap."""


@pytest.fixture(autouse=True)
def _register_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ``get_backend("cupy")`` return the stand-in."""
    monkeypatch.setitem(registry._loaded, ("cupy",), HIGHEST)


@pytest.mark.slow
class TestHighest(BackendConformance):
    """All checks, in float32 and float64, with float32 products in float32 arithmetic."""

    backend: Backend = HIGHEST
    quick = True


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "check"),
    [(p, c) for p in ("high", "bfloat16", "float16") for c in PRODUCT_CHECKS if p != "float16" or "optimizer" not in c],
)
def test_every_precision_is_within_its_bounds(precision: str, check: str) -> None:
    """The bounds follow from the precision that the backend declares."""
    report(run_check(backend_of_precision(precision), check, quick=True))


@cache
def backend_of_precision(precision: str) -> Backend:
    """Return the backend of a precision, which is created once."""
    return backend(precision)


@pytest.mark.parametrize(
    ("declared", "checks"),
    [
        ("highest", ["equations.linear", "programs.activation.tanh", "programs.optimizer.sgd", "inference.samples"]),
        ("high", ["equations.linear", "equations.weight_gradient"]),
    ],
)
def test_products_less_precise_than_declared_are_found(declared: str, checks: list[str]) -> None:
    """The backend rounds factors to 8 bits but declares 24 or 11; equations, Program and Inference fail the checks."""
    target = backend("bfloat16")
    target.matmul_precision = declared
    target.factors = lambda dtype: "float64" if dtype == "float64" else "bfloat16"
    for check in checks:
        assert run_check(target, check, quick=True).verdict == "failed", check


def test_a_kernel_that_does_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """If check_update does nothing, no update is counted and the check fails, so its results come from the kernels."""
    target = backend()
    launcher = target.device.launcher

    def launch_all_but_check_update(kernel: Kernel, *arguments: Any) -> Any:
        return (lambda: None) if kernel.name == "check_update" else launcher(kernel, *arguments)

    monkeypatch.setattr(target.device, "launcher", launch_all_but_check_update)
    assert run_check(target, "programs.optimizer.adam", quick=True).verdict == "failed"


PROGRAM_CHECKS = [check for check in all_checks() if check.startswith(("programs.", "determinism."))]


@pytest.mark.slow
@pytest.mark.thinned(4)
@pytest.mark.parametrize("check", PROGRAM_CHECKS)
def test_training_in_shared_memory_is_within_the_bounds(check: str) -> None:
    """Where the driver "auto" takes this way, in one block; the other tests of this module train by graphs."""
    report(run_check(resident_backend(), check, quick=True))


@cache
def resident_backend() -> Backend:
    """Return a backend that trains small networks in shared memory."""
    return backend(flush=True, driver="auto")


@pytest.mark.slow
@pytest.mark.thinned(4)
@pytest.mark.parametrize("check", PROGRAM_CHECKS)
def test_training_in_stages_is_within_the_bounds(check: str) -> None:
    """A product and the elementwise part that follows it are computed in one launch."""
    report(run_check(staged_backend(), check, quick=True))


@cache
def staged_backend() -> Backend:
    """Return a backend that finds stages faster than separate launches."""
    target = backend(flush=True)
    target.device.way = 1
    return target
