"""The CUDA kernels' arithmetic, from the very sources, on the CPU; see cuda_checks.py for what each is held to."""

import pytest
from cuda_checks import CHECKS, hold
from cuda_shim import Host


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("check", CHECKS)
def test_kernels_are_the_equations_and_no_access_is_wrong(check: str, dtype: str) -> None:
    hold(check, Host(dtype, checked=True))
