"""cuBLAS, called through ctypes with separate handles, since CuPy refuses products while a stream is captured.

Every product states its compute type, so no setting of the process (``CUPY_TF32``, a math mode) changes the precision.
"""

import ctypes
import sys
from collections.abc import Iterable
from typing import Any

from deepnotes_cupy.device import Factors, Product

CUDA_R_32F, CUDA_R_64F, CUDA_R_16F, CUDA_R_16BF = 0, 1, 2, 14
COMPUTE_32F, COMPUTE_64F, COMPUTE_32F_FAST_TF32 = 68, 70, 77
TYPES: dict[Factors, tuple[int, int, int]] = {  # the types of the factors, of the product, and of the computation
    "float64": (CUDA_R_64F, CUDA_R_64F, COMPUTE_64F),
    "float32": (CUDA_R_32F, CUDA_R_32F, COMPUTE_32F),
    "tf32": (CUDA_R_32F, CUDA_R_32F, COMPUTE_32F_FAST_TF32),
    "bfloat16": (CUDA_R_16BF, CUDA_R_32F, COMPUTE_32F),
    "float16": (CUDA_R_16F, CUDA_R_32F, COMPUTE_32F),
}
DEFAULT_MATH, POINTERS_ON_HOST, DEFAULT_ALGORITHM = 0, 0, -1
SINGLE_PRODUCT_ARGUMENTS = 19
"""The number of arguments of ``cublasGemmEx``; the batched function has more."""
WORKSPACE = 32 << 20
"""The size in bytes that NVIDIA recommends for Hopper; earlier devices need less."""

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
    """A call to cuBLAS failed."""


class CublasMissing(RuntimeError):
    """cuBLAS cannot be found."""


def load(major: int, library: str = "cublas") -> Any:
    """Load cuBLAS or cuBLASLt for a major version of CUDA, from the wheels, Conda, ``CUDA_PATH`` or the system.

    Raises
    ------
    CublasMissing
    """
    names = (f"lib{library}.so.{major}", f"{library}64_{major}.dll")
    path = None
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib  # comes with CuPy 14

        path = load_nvidia_dynamic_lib(library).abs_path
    except (ImportError, RuntimeError, OSError):  # pathfinder is not installed, or cuBLAS is missing or broken
        pass
    if path is not None and any(name in path for name in names):
        return ctypes.CDLL(path)
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    if path is not None:  # for another CUDA version: it may work, and is tested before it is used
        return ctypes.CDLL(path)
    raise CublasMissing(f"cuBLAS for CUDA {major} was found neither in a Python package nor as {names[0]}")


class Cublas:
    """A cuBLAS handle on the current device.

    Parameters
    ----------
    library : ctypes.CDLL
    stream : int
        The address of the stream in which products are enqueued.
    workspace : (int, int), optional
        The address and size of device memory for cuBLAS. Without it, cuBLAS allocates memory itself, which is not
        allowed during a capture.

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
        self.set_stream(stream)
        if workspace is not None:  # last, since setting the stream resets the workspace
            self._call(
                "cublasSetWorkspace_v2", self.handle, ctypes.c_void_p(workspace[0]), ctypes.c_size_t(workspace[1])
            )

    def version(self) -> int:
        """Return the version, such as 120905."""
        version = ctypes.c_int()
        self._call("cublasGetVersion_v2", self.handle, ctypes.byref(version))
        return version.value

    def set_stream(self, stream: int) -> None:
        """Use another stream from now on; this drops the workspace."""
        self._call("cublasSetStream_v2", self.handle, ctypes.c_void_p(stream))

    def prepare(self, product: Product) -> tuple[Any, ...]:
        """Return the arguments with which :meth:`multiply` enqueues a product."""
        factor_type, product_type, compute = TYPES[product.factors]
        scalar = ctypes.c_double if product.factors == "float64" else ctypes.c_float
        scale, zero = scalar(product.alpha), scalar(0.0)
        batch = product.parts > 1

        def matrix(array: Any, kind: int, layout: tuple[int, int, int]) -> tuple[Any, ...]:
            """Return the arguments for a matrix; if there are several parts, the distance between them is the last."""
            _, columns, stride = layout
            distance = (ctypes.c_longlong(columns * stride),) if batch else ()
            return ctypes.c_void_p(address(array)), ctypes.c_int(kind), ctypes.c_int(stride), *distance

        a, b, c = product.layouts
        return (
            self.handle,
            *(ctypes.c_int(int(transposed)) for transposed in product.transposed),
            ctypes.c_int(product.m), ctypes.c_int(product.n), ctypes.c_int(product.k),
            ctypes.byref(scale),
            *matrix(product.A, factor_type, a),
            *matrix(product.B, factor_type, b),
            ctypes.byref(zero),
            *matrix(product.C, product_type, c), *((ctypes.c_int(product.parts),) if batch else ()),
            ctypes.c_int(compute), ctypes.c_int(DEFAULT_ALGORITHM),
        )  # fmt: skip

    def multiply(self, arguments: Iterable[Any]) -> None:
        """Enqueue a product, or the products of several parts, with the arguments from :meth:`prepare`."""
        arguments = tuple(arguments)
        self._call(
            "cublasGemmEx" if len(arguments) == SINGLE_PRODUCT_ARGUMENTS else "cublasGemmStridedBatchedEx", *arguments
        )

    def _call(self, name: str, *arguments: Any) -> None:
        function = self._functions.get(name)
        if function is None:
            function = self._functions[name] = getattr(self._library, name)
            function.restype = ctypes.c_int
        status = function(*arguments)
        if status:
            raise CublasError(f"{name}: {STATUS.get(status, 'error')} ({status})")

    def __del__(self) -> None:
        if self.handle and not sys.is_finalizing():  # at interpreter exit, CUDA may be unloaded already
            self._library.cublasDestroy_v2(self.handle)


def address(array: Any) -> int:
    """Return the address of a CuPy array."""
    return int(array.data.ptr)
