"""The CuPy backend: the same equations on an NVIDIA GPU, fused, and captured as CUDA graphs."""

from typing import Any

from deepnotes.backends import Backend

__all__ = ["create"]


def create(
    device: int = 0, matmul_precision: str = "highest", loss_scale: Any = None, resident_bytes: int | None = None
) -> Backend:
    """Return the backend; the entry point.

    Parameters
    ----------
    device : int, default 0
        Which of the devices that CUDA sees.
    matmul_precision : {"highest", "high", "bfloat16", "float16"}
        How float32 products are computed: in float32, or with factors rounded to TF32 or to 16 bits; sums and
        parameters stay float32.
    loss_scale : float or "dynamic", optional
        For "float16": the factor by which small derivatives are multiplied before they are rounded.
    resident_bytes : int, optional
        Samples, targets or weights larger than this stay on the host and are streamed; by default those that would take
        more than 0.3 of the free device memory.

    Raises
    ------
    ArgumentError
        If an option has an invalid value.
    BackendUnavailable
        If there is no working CuPy, driver, device, NVRTC or cuBLAS, with the cause and the command that fixes it; a
        kernel and a product are run to find out.
    """
    from deepnotes_cupy.availability import opened
    from deepnotes_cupy.options import checked

    options = checked(device, matmul_precision, loss_scale, resident_bytes)
    found = opened(options.device)
    from deepnotes_cupy.backend import CupyBackend

    return CupyBackend(found, options.matmul_precision, options.loss_scale, options.resident_bytes)
