"""cuBLAS by ctypes, on a handle of our own: CuPy refuses its own products while a stream is being captured.

Every product names its compute type, so that no setting of the process (``CUPY_TF32``, a math mode) can change the
precision.
"""

import ctypes
import sys
from collections.abc import Iterable
from typing import Any

from deepnotes_cupy.device import Factors, Product

CUDA_R_32F, CUDA_R_64F, CUDA_R_16F, CUDA_R_16BF = 0, 1, 2, 14
COMPUTE_32F, COMPUTE_64F, COMPUTE_32F_FAST_TF32 = 68, 70, 77
TYPES: dict[Factors, tuple[int, int, int]] = {  # of the factors, of the product, of the computation
    "float64": (CUDA_R_64F, CUDA_R_64F, COMPUTE_64F),
    "float32": (CUDA_R_32F, CUDA_R_32F, COMPUTE_32F),
    "tf32": (CUDA_R_32F, CUDA_R_32F, COMPUTE_32F_FAST_TF32),
    "bfloat16": (CUDA_R_16BF, CUDA_R_32F, COMPUTE_32F),
    "float16": (CUDA_R_16F, CUDA_R_32F, COMPUTE_32F),
}
DEFAULT_MATH, POINTERS_ON_HOST, DEFAULT_ALGORITHM = 0, 0, -1
ONE_PART = 19
"""Arguments of a product without parts."""
WORKSPACE = 32 << 20
"""The bytes that NVIDIA recommends for Hopper, more than enough for earlier devices."""

STATUS = {
    1: "not initialized",
    3: "out of memory",
    7: "invalid value",
    8: "architecture mismatch",
    11: "mapping error",
    13: "execution failed",
    14: "internal error",
    15: "not supported",
    16: "license error",
}


class CublasError(RuntimeError):
    """A call of cuBLAS failed."""


class CublasMissing(RuntimeError):
    """There is no cuBLAS to load."""


def load(major: int) -> Any:
    """Return the library for this major version of CUDA: from the wheels, Conda, ``CUDA_PATH``, or the system.

    Raises
    ------
    CublasMissing
    """
    names = (f"libcublas.so.{major}", f"cublas64_{major}.dll")
    elsewhere = None
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib  # comes with CuPy 14

        elsewhere = load_nvidia_dynamic_lib("cublas").abs_path
    except (ImportError, RuntimeError, OSError):  # not with this Python; not found; found and broken
        pass
    if elsewhere is not None and any(name in elsewhere for name in names):
        return ctypes.CDLL(elsewhere)
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    if elsewhere is not None:  # of another CUDA version: better than none, and tested before it is used
        return ctypes.CDLL(elsewhere)
    raise CublasMissing(f"cuBLAS for CUDA {major} is found neither among Python's packages nor as {names[0]}")


class Cublas:
    """A handle on the current device.

    Parameters
    ----------
    library : ctypes.CDLL
    stream : int
        The address of the stream that products are enqueued to.
    workspace : (int, int), optional
        Address and size of device memory for it. Without it, cuBLAS allocates its own, which may not be captured.

    Raises
    ------
    CublasError
    """

    def __init__(self, library: Any, stream: int, workspace: tuple[int, int] | None) -> None:
        self._library = library
        self.handle = ctypes.c_void_p()
        self._functions: dict[str, Any] = {}
        self._call("cublasCreate_v2", ctypes.byref(self.handle))
        self._call("cublasSetMathMode", self.handle, ctypes.c_int(DEFAULT_MATH))
        self._call("cublasSetPointerMode_v2", self.handle, ctypes.c_int(POINTERS_ON_HOST))
        self.follow(stream)
        if workspace is not None:  # after the stream, since setting the stream resets the workspace
            self._call(
                "cublasSetWorkspace_v2", self.handle, ctypes.c_void_p(workspace[0]), ctypes.c_size_t(workspace[1])
            )

    def version(self) -> int:
        """Return the version, such as 120905."""
        version = ctypes.c_int()
        self._call("cublasGetVersion_v2", self.handle, ctypes.byref(version))
        return version.value

    def follow(self, stream: int) -> None:
        """Use another stream from now on, without the workspace."""
        self._call("cublasSetStream_v2", self.handle, ctypes.c_void_p(stream))

    def prepared(self, product: Product) -> tuple[Any, ...]:
        """Return the arguments of a product, for :meth:`multiply`."""
        (turned_a, turned_b), m, n, k, alpha, A, B, C, factors, parts = product
        of_factors, of_product, compute = TYPES[factors]
        scalar = ctypes.c_double if factors == "float64" else ctypes.c_float
        one, nothing = scalar(alpha), scalar(0.0)
        batch = parts > 1

        def steps(size: int) -> tuple[Any, ...]:
            """Return the strides from one part to the next, if there are several."""
            return (ctypes.c_longlong(size),) if batch else ()

        return (
            self.handle,
            ctypes.c_int(int(turned_a)), ctypes.c_int(int(turned_b)), ctypes.c_int(m), ctypes.c_int(n), ctypes.c_int(k),
            ctypes.byref(one),
            ctypes.c_void_p(address(A)), ctypes.c_int(of_factors), ctypes.c_int(k if turned_a else m),
            *steps(m * k),
            ctypes.c_void_p(address(B)), ctypes.c_int(of_factors), ctypes.c_int(n if turned_b else k),
            *steps(k * n),
            ctypes.byref(nothing),
            ctypes.c_void_p(address(C)), ctypes.c_int(of_product), ctypes.c_int(m),
            *steps(m * n), *((ctypes.c_int(parts),) if batch else ()),
            ctypes.c_int(compute), ctypes.c_int(DEFAULT_ALGORITHM),
        )  # fmt: skip

    def multiply(self, arguments: Iterable[Any]) -> None:
        """Enqueue a product, or the products of several parts."""
        arguments = tuple(arguments)
        self._call("cublasGemmEx" if len(arguments) == ONE_PART else "cublasGemmStridedBatchedEx", *arguments)

    def _call(self, name: str, *arguments: Any) -> None:
        function = self._functions.get(name)
        if function is None:
            function = self._functions[name] = getattr(self._library, name)
            function.restype = ctypes.c_int
        status = function(*arguments)
        if status:
            raise CublasError(f"{name}: {STATUS.get(status, 'error')} ({status})")

    def __del__(self) -> None:
        if self.handle and not sys.is_finalizing():  # at the end of a process CUDA may be gone before us
            self._library.cublasDestroy_v2(self.handle)


def address(array: Any) -> int:
    """Return the address of a CuPy array."""
    return int(array.data.ptr)
