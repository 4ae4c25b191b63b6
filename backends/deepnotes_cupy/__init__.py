"""The CuPy backend: fused CUDA kernels and cuBLAS products on an NVIDIA GPU, captured as CUDA graphs."""

from typing import Any

from deepnotes.backends import Backend

__all__ = ["create"]


def create(
    device: int = 0,
    matmul_precision: str = "highest",
    loss_scale: Any = None,
    resident_bytes: int | None = None,
    driver: str = "auto",
) -> Backend:
    """Return the CuPy backend; this is its entry point.

    Parameters
    ----------
    device : int, default 0
        The index of the CUDA device.
    matmul_precision : {"highest", "high", "bfloat16", "float16"}
        How float32 matrix products are computed: in float32, or with factors rounded to TF32 or to 16 bits. Sums and
        parameters stay in float32.
    loss_scale : float or "dynamic", optional
        For "float16": the factor by which small derivatives are multiplied before they are rounded.
    resident_bytes : int, optional
        Arrays of samples, targets or weights that are larger than this stay on the host and are streamed. By default,
        the limit is 0.3 times the free device memory.
    driver : {"auto", "graph", "resident"}
        How networks are trained: step by step, as CUDA graphs ("graph"); many steps in one launch, with parameters in
        shared memory ("resident"), for small networks only; or in the faster way ("auto"), which is timed once if the
        size of the network and of the batch leaves it open.

    Raises
    ------
    ArgumentError
        If an option has an invalid value.
    BackendUnavailable
        If CuPy, the driver, the device, NVRTC or cuBLAS is missing, or fails to run a kernel and a matrix product as a
        test. The error states the cause and the command that fixes it.
    """
    from deepnotes_cupy.availability import open_device
    from deepnotes_cupy.options import check_options

    options = check_options(device, matmul_precision, loss_scale, resident_bytes, driver)
    device_object = open_device(options.device)
    from deepnotes_cupy.backend import CupyBackend

    return CupyBackend(device_object, *options[1:])
