"""Run the checks of the files tests/cuda_*_checks.py on the package's CUDA sources, compiled for the CPU."""

import re
from pathlib import Path
from platform import machine

import numpy as np
import pytest
from cuda_checks import CHECKS
from cuda_inference_checks import INFERENCE_CHECKS
from cuda_shim import Host, prepare
from cuda_stage_checks import STAGE_CHECKS
from cuda_step_checks import STEP_CHECKS

from deepnotes_cupy.geometry import chunks, grid
from deepnotes_cupy.sources import control, kernels

pytestmark = pytest.mark.slow

ALL = CHECKS | STEP_CHECKS | STAGE_CHECKS | INFERENCE_CHECKS
DTYPES = ["float32", "float64"]


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """Compile all builds in parallel."""
    prepare(*((dtype, "checked", "") for dtype in DTYPES), ("float32", "fast", ""))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("check", ALL)
def test_kernels_agree_with_the_equations_without_invalid_memory_accesses(check: str, dtype: str) -> None:
    with np.errstate(all="ignore"):  # some inputs are NaN or infinite
        ALL[check](Host(dtype, checked=True))


@pytest.mark.skipif(machine() not in ("x86_64", "AMD64"), reason="only x86 can flush subnormal numbers to 0")
@pytest.mark.parametrize("check", ALL)
def test_kernels_agree_with_the_equations_if_subnormal_numbers_are_flushed(check: str) -> None:
    """CuPy compiles with ``-ftz=true``, which flushes subnormal numbers in single precision."""
    host = Host("float32", checked=True)
    host.flush = True
    with np.errstate(all="ignore"):
        ALL[check](host)


@pytest.mark.parametrize("check", ALL)
def test_kernels_agree_with_the_equations_if_products_and_sums_are_fused(check: str) -> None:
    """NVRTC fuses a product and a sum by default (``-fmad=true``)."""
    cpu = Path("/proc/cpuinfo")
    if not cpu.exists() or not re.search(r"^flags\b.*\bfma\b", cpu.read_text(), re.MULTILINE):
        pytest.skip("needs an x86 with fused multiply-add")
    with np.errstate(all="ignore"):
        ALL[check](Host("float32", build="fused"))


@pytest.mark.parametrize("dtype", DTYPES)
def test_grids_are_within_the_limits_of_devices_and_chunks_cover_the_samples(dtype: str) -> None:
    """Random sizes up to 2^20 neurons and 2^24 samples, on small and large devices."""
    rng = np.random.default_rng(0)
    for n, m, processors in (2 ** rng.uniform((0, 0, 0), (20, 24, 8), (300, 3))).astype(int).tolist():
        rows, count = chunks(n, m, dtype=dtype, processors=processors)
        assert (count - 1) * rows < m <= count * rows
        for kernel in kernels():
            (x, y, z), threads = grid(kernel, n, m, dtype=dtype, processors=processors, chunks=count)
            assert 1 <= x < 2**31
            assert 1 <= y <= 65535
            assert (z, threads) == (1, kernels()[kernel].threads)


def test_samples_are_gathered_from_more_than_2_to_the_31_numbers() -> None:
    """The array takes little memory, since nearly all of its numbers are never accessed."""
    n, samples = 1 << 12, (1 << 19) + 5
    try:
        X = np.zeros((samples, n), np.float32)
    except MemoryError:
        pytest.skip("needs 8 GiB of address space")
    order = np.array([samples - 1, 0, samples - 2])
    X[order] = np.arange(3 * n).reshape(3, n)
    out = np.empty((3, n), np.float32)
    source = np.array([X.ctypes.data, 0, 0, order.ctypes.data, 3], np.int64)
    arguments = (source, np.zeros(1, control()), 0, out, None, 0, None, None, n, 0, 3)
    Host("float32").launch("gather", (1, 4), 256, *arguments, reachable=(X, order))
    np.testing.assert_array_equal(out.ravel(), np.arange(3 * n))
