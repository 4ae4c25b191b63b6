"""Open the GPU and test it with a kernel and a matrix product; if it does not work, report the cause and the fix."""

import ctypes
import re
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import distributions
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.backends import ArgumentError, BackendUnavailable
from deepnotes_cupy.device import Product
from deepnotes_cupy.sources import kernels

if TYPE_CHECKING:
    from deepnotes_cupy.cuda import CudaDevice

OLDEST_CUPY = 14
"""The oldest supported major version of CuPy."""
INSTALL_DRIVER = "install NVIDIA's driver (https://www.nvidia.com/drivers), or run where there is a GPU"


def open_device(index: int) -> "CudaDevice":
    """Return the device, tested with a kernel and a matrix product.

    Raises
    ------
    BackendUnavailable, ArgumentError
    """
    driver = driver_version()
    if driver is None:  # the most common case, reported without importing CuPy
        no_cupy = "" if find_spec("cupy") else ", and CuPy is not installed"
        raise _unavailable(
            f"there is no NVIDIA driver (libcuda.so.1 is not found){no_cupy}",
            INSTALL_DRIVER if not no_cupy else f"{INSTALL_DRIVER}; then {_install(12)}",
        )
    wheels = installed_wheels()
    if len(wheels) > 1:
        keep = wheels[-1]
        raise _unavailable(
            f"{' and '.join(wheels)} are both installed, and overwrite each other's files",
            f"pip uninstall -y {' '.join(wheels)} && {_install(_cuda_of_wheel(keep))}",
        )
    try:
        cupy = import_module("cupy")
    except ImportError as error:
        cause = (
            "CuPy is not installed"
            if isinstance(error, ModuleNotFoundError)
            else f"CuPy cannot be imported: {_first_line(error)}"
        )
        raise _unavailable(cause, _install(_newest_cuda_for(driver))) from error
    major = _cuda_of_wheel(wheels[0]) if wheels else _cuda_of_build(cupy)
    if int(cupy.__version__.partition(".")[0]) < OLDEST_CUPY:  # earlier versions do not follow the array API standard
        raise _unavailable(f"CuPy {cupy.__version__} is older than {OLDEST_CUPY}", _install(major))
    if 0 < driver < 1000 * major:
        raise _unavailable(*_describe_old_driver(driver, major))
    count = _convert_errors(lambda: cupy.cuda.runtime.getDeviceCount(), driver, major)
    if not count:
        raise _unavailable(*_describe_no_device())
    if index >= count:
        raise ArgumentError(f"device={index}, wanted {'0, the only device' if count == 1 else f'0 to {count - 1}'}")
    return _convert_errors(lambda: _open_and_test(index), driver, major)  # type: ignore[no-any-return]


def driver_version() -> int | None:
    """Return the newest CUDA version that the driver supports, such as 12040; 0 if it fails; None without a driver."""
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        version = ctypes.c_int()
        return version.value if library.cuDriverGetVersion(ctypes.byref(version)) == 0 else 0
    return None


def installed_wheels() -> list[str]:
    """Return the names of the installed CuPy wheels."""
    names = {(d.metadata["Name"] or "").lower() for d in distributions() if d.metadata is not None}
    return sorted(name for name in names if re.fullmatch(r"cupy(-cuda\d+x|-rocm.*)?", name))


def _open_and_test(index: int) -> "CudaDevice":
    """Return the device after testing that it rounds numbers and multiplies matrices correctly."""
    from deepnotes_cupy.cuda import CudaDevice

    device = CudaDevice(index)
    x = np.arange(12, dtype=np.float32)
    with device.section():
        source, half, product = (device.empty(12, kind) for kind in ("float32", "uint16", "float32"))
        device.upload(x, source)
        device.launcher(kernels()["round16"], "float32", (1, 1, 1), 256, (source, half, 12, 0, 1.0))()
        device.multiplier(Product((False, True), 3, 3, 4, 1.0, source, source, product, "float32"))()
        rounded, multiplied = device.download(half), device.download(product)
    A = x.reshape(4, 3).T
    if not np.array_equal(rounded, x.view(np.uint32) >> 16) or not np.array_equal(
        multiplied[:9].reshape(3, 3), A @ A.T
    ):
        raise _unavailable(
            f"device {index} computes wrong results", "pip install --force-reinstall deepnotes, then look at nvidia-smi"
        )
    return device


def _convert_errors(function: Callable[[], Any], driver: int, major: int) -> Any:
    """Call a function and return its result; convert its errors to BackendUnavailable with cause and fix."""
    try:
        return function()
    except (BackendUnavailable, ArgumentError):
        raise
    except Exception as error:
        raise _unavailable(*_explain(error, driver, major)) from error


def _explain(error: Exception, driver: int, major: int) -> tuple[str, str]:
    """Return the cause and the fix of an error that was raised while the device was opened and tested."""
    text, kind = str(error), type(error).__name__
    if "InsufficientDriver" in text:
        return _describe_old_driver(driver, major)
    if "NoDevice" in text or "no CUDA-capable device" in text:
        return _describe_no_device()
    if isinstance(error, MemoryError) or "out of memory" in text:
        return f"the device has no memory left ({_first_line(error)})", "end other programs that use it, see nvidia-smi"
    if kind == "CublasMissing" or "cublas" in text.lower():
        return _first_line(error), _install(major)
    missing = kind in ("DynamicLibNotFoundError", "ImportError", "OSError") or "not find" in text
    if "nvrtc" in text.lower() and missing:
        return f"NVRTC, CUDA's compiler, cannot be loaded ({_first_line(error)})", _install(major)
    if kind == "CompileException" or "NVRTC" in text:
        return f"a kernel does not compile ({_first_line(error)})", _install(major)
    if "NoKernelImage" in text or "NO_BINARY_FOR_GPU" in text:
        return f"this CuPy was built for other GPUs ({_first_line(error)})", _install(_newest_cuda_for(driver))
    return f"{kind}: {_first_line(error)}", f"{_install(major)}; then look at nvidia-smi"


def _describe_old_driver(driver: int, major: int) -> tuple[str, str]:
    """Return the cause and the fix for a driver that does not work, or is too old for this CuPy."""
    if not driver:
        return "the NVIDIA driver does not work", INSTALL_DRIVER
    cause = f"the driver supports CUDA {driver // 1000}.{driver % 1000 // 10}, but this CuPy is for CUDA {major}"
    if 12000 <= driver < 1000 * major:
        return (
            cause,
            f"pip uninstall -y cupy-cuda{major}x && {_install(_newest_cuda_for(driver))}, or update the driver",
        )
    return cause, f"update the driver to one for CUDA {major} (https://www.nvidia.com/drivers)"


def _describe_no_device() -> tuple[str, str]:
    """Return the cause and the fix if CUDA sees no device."""
    import os

    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None:
        return f"CUDA sees no device with CUDA_VISIBLE_DEVICES={hidden!r}", "unset CUDA_VISIBLE_DEVICES"
    return "CUDA sees no device", "look at nvidia-smi; in a container, start it with --gpus all"


def _unavailable(cause: str, fix: str) -> BackendUnavailable:
    return BackendUnavailable("cupy", cause, fix)


def _install(major: int) -> str:
    """Return the command that installs CuPy for a major version of CUDA."""
    return f'pip install "deepnotes[cuda{major}]"'


def _newest_cuda_for(driver: int) -> int:
    """Return the newest supported major version of CUDA that a driver can run."""
    return 13 if driver >= 13000 else 12


def _cuda_of_wheel(wheel: str) -> int:
    """Return the major version of CUDA that a CuPy wheel is for, according to its name."""
    match = re.search(r"cuda(\d+)x", wheel)
    return int(match[1]) if match else 12


def _cuda_of_build(cupy: Any) -> int:
    """Return the major version of CUDA that CuPy was built for, if it was not installed from a wheel."""
    return int(cupy.cuda.runtime.runtimeGetVersion()) // 1000


def _first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
