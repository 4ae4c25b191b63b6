"""The CUDA kernels' arithmetic, from the very sources, on the CPU; see cuda_checks.py for what each is held to."""

from platform import machine

import numpy as np
import pytest
from cuda_checks import CHECKS
from cuda_shim import Host, prepare
from cuda_step_checks import STEP_CHECKS

ALL = CHECKS | STEP_CHECKS
DTYPES = ["float32", "float64"]


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """Compile both dtypes at a time."""
    prepare(*((dtype, "checked", "") for dtype in DTYPES))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("check", ALL)
def test_kernels_are_the_equations_and_no_access_is_wrong(check: str, dtype: str) -> None:
    with np.errstate(all="ignore"):  # the references pass NaN and infinities, too
        ALL[check](Host(dtype, checked=True))


@pytest.mark.skipif(machine() not in ("x86_64", "AMD64"), reason="takes subnormal numbers for 0 on x86 alone")
@pytest.mark.parametrize("check", ALL)
def test_kernels_are_the_equations_where_subnormal_numbers_are_flushed(check: str) -> None:
    """As CuPy's option ``-ftz=true`` has it for single precision."""
    host = Host("float32", checked=True)
    host.flush = True
    with np.errstate(all="ignore"):
        ALL[check](host)
