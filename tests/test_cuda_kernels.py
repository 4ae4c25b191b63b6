"""The CUDA kernels' arithmetic, from the very sources, on the CPU; see cuda_checks.py for what each is held to."""

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
