"""Validation of this backend's options, before CuPy is imported."""

from typing import Any, NamedTuple

from deepnotes.backends import ArgumentError, whole
from deepnotes_cupy.device import PRECISIONS
from deepnotes_cupy.scaling import LARGEST

DRIVERS = ("auto", "graph", "resident")
"""Ways to train."""


class Options(NamedTuple):
    """The options of :func:`deepnotes_cupy.create`."""

    device: int = 0
    matmul_precision: str = "highest"
    loss_scale: Any = None
    resident_bytes: int | None = None
    driver: str = "auto"


def check_options(
    device: Any, matmul_precision: Any, loss_scale: Any, resident_bytes: Any, driver: Any = "auto"
) -> Options:
    """Return the options, or raise an error for the first invalid one.

    Raises
    ------
    ArgumentError
    """
    if not isinstance(matmul_precision, str) or matmul_precision not in PRECISIONS:
        raise ArgumentError.of("matmul_precision", matmul_precision, f"one of {', '.join(PRECISIONS)}")
    if loss_scale is not None:
        if matmul_precision != "float16":
            raise ArgumentError(
                f"loss_scale={loss_scale!r} with matmul_precision={matmul_precision!r}: loss scaling is for 'float16', "
                "in which small derivatives underflow"
            )
        is_number = isinstance(loss_scale, int | float) and not isinstance(loss_scale, bool)
        if loss_scale != "dynamic" and not (is_number and 0 < loss_scale <= LARGEST):
            raise ArgumentError.of("loss_scale", loss_scale, "'dynamic' or a number above 0 and at most 2^24")
    if not isinstance(driver, str) or driver not in DRIVERS:
        raise ArgumentError.of("driver", driver, f"one of {', '.join(DRIVERS)}")
    if driver == "resident" and matmul_precision != "highest":
        raise ArgumentError(
            f"driver='resident' with matmul_precision={matmul_precision!r}: it computes products in 'highest' precision"
        )
    limit = None if resident_bytes is None else whole("resident_bytes", resident_bytes, 0)
    return Options(whole("device", device, 0), matmul_precision, loss_scale, limit, driver)
