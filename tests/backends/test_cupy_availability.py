"""If the CuPy backend does not work, the error states the cause and the command that fixes it."""

import ctypes
import importlib.metadata
import json
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import fake_cupy
import pytest
from fake_cupy import CUDA, CUDARuntimeError

import deepnotes as dn
from deepnotes.utils.errors import ArgumentError, BackendUnavailable
from deepnotes_cupy import availability, create, cublas


class DynamicLibNotFoundError(RuntimeError):
    """Stands in for the exception of cuda.pathfinder."""


@pytest.fixture
def working_cupy(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """Simulate a machine on which the backend works, and return its CuPy."""
    fake_cupy.forget()
    modules = fake_cupy.modules()
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(cublas, "load", lambda major: fake_cupy.Cublas())
    monkeypatch.setattr(availability, "driver_version", lambda: 13000)
    monkeypatch.setattr(availability, "installed_wheels", lambda: ["cupy-cuda12x"])
    yield modules["cupy"]
    fake_cupy.forget()


def always_raise(error: Exception) -> Callable[..., Any]:
    """Return a function that accepts any arguments and raises `error`."""

    def function(*arguments: Any, **options: Any) -> Any:
        raise error

    return function


def test_creating_the_backend_runs_a_kernel_and_a_product(working_cupy: types.ModuleType) -> None:
    backend = create()
    assert ("launch", "round16") in [entry[:2] for entry in CUDA.log]
    assert "gemm" in [entry[0] for entry in CUDA.log]
    assert backend.name == "cupy"
    assert "cupy 14.2.0" in backend.describe()
    assert create(matmul_precision="float16", loss_scale="dynamic").matmul_precision == "float16"


def missing_cupy(patch: pytest.MonkeyPatch, cupy: Any) -> None:
    patch.setitem(sys.modules, "cupy", None)


def broken_cupy(patch: pytest.MonkeyPatch, cupy: Any) -> None:
    patch.setattr(
        availability, "import_module", always_raise(ImportError("libcudart.so.12: cannot open shared object"))
    )


def old_cupy(patch: pytest.MonkeyPatch, cupy: Any) -> None:
    patch.setattr(cupy, "__version__", "13.6.0")


def no_driver(patch: pytest.MonkeyPatch, cupy: Any) -> None:
    patch.setattr(availability, "driver_version", lambda: None)
    patch.setattr(availability, "find_spec", lambda name: name)


def neither_driver_nor_cupy(patch: pytest.MonkeyPatch, cupy: Any) -> None:
    patch.setattr(availability, "driver_version", lambda: None)
    patch.setattr(availability, "find_spec", lambda name: None)


def old_driver(patch: pytest.MonkeyPatch, cupy: Any) -> None:
    patch.setattr(availability, "driver_version", lambda: 11080)


def newer_wheel(patch: pytest.MonkeyPatch, cupy: Any) -> None:
    patch.setattr(availability, "driver_version", lambda: 12040)
    patch.setattr(availability, "installed_wheels", lambda: ["cupy-cuda13x"])


def failing_driver(patch: pytest.MonkeyPatch, cupy: Any) -> None:
    patch.setattr(availability, "driver_version", lambda: 0)
    error = CUDARuntimeError(
        "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version"
    )
    patch.setattr(cupy.cuda.runtime, "getDeviceCount", always_raise(error))


def two_wheels(patch: pytest.MonkeyPatch, cupy: Any) -> None:
    patch.setattr(availability, "installed_wheels", lambda: ["cupy-cuda12x", "cupy-cuda13x"])


def no_device(patch: pytest.MonkeyPatch, cupy: Any) -> None:
    patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    error = CUDARuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")
    patch.setattr(cupy.cuda.runtime, "getDeviceCount", always_raise(error))


def hidden_device(patch: pytest.MonkeyPatch, cupy: Any) -> None:
    patch.setenv("CUDA_VISIBLE_DEVICES", "")
    CUDA.devices = 0


def no_nvrtc(patch: pytest.MonkeyPatch, cupy: Any) -> None:
    error = DynamicLibNotFoundError('Failure finding "libnvrtc.so.13 or libnvrtc.so.12": No such file\nand more')
    patch.setattr(cupy, "RawModule", always_raise(error))


def does_not_compile(patch: pytest.MonkeyPatch, cupy: Any) -> None:
    class CompileException(Exception):
        pass

    patch.setattr(cupy, "RawModule", always_raise(CompileException("dense.cu(3): error: identifier is undefined")))


def no_cublas(patch: pytest.MonkeyPatch, cupy: Any) -> None:
    patch.setattr(
        cublas, "load", always_raise(cublas.CublasMissing("cuBLAS for CUDA 12 cannot be loaded (libcublas.so.12: ...)"))
    )


def broken_cublas(patch: pytest.MonkeyPatch, cupy: Any) -> None:
    library = fake_cupy.Cublas()
    library.product_status = 8
    patch.setattr(cublas, "load", lambda major: library)


def unsupported_gpu(patch: pytest.MonkeyPatch, cupy: Any) -> None:
    patch.setattr(
        cupy, "RawModule", always_raise(RuntimeError("CUDA_ERROR_NO_BINARY_FOR_GPU: no kernel image is available"))
    )


def no_memory(patch: pytest.MonkeyPatch, cupy: Any) -> None:
    CUDA.memory = 100


def wrong_results(patch: pytest.MonkeyPatch, cupy: Any) -> None:
    patch.setattr(cupy.cuda.runtime, "memcpyAsync", lambda *arguments: None)


DRIVERS = "https://www.nvidia.com/drivers"
CAUSES: list[tuple[Callable[..., None], str, str]] = [
    (missing_cupy, "CuPy is not installed", 'pip install "deepnotes[cuda13]"'),  # the driver supports CUDA 13
    (broken_cupy, "CuPy cannot be imported: libcudart.so.12", 'pip install "deepnotes[cuda13]"'),
    (no_driver, "there is no NVIDIA driver (libcuda.so.1 is not found)", DRIVERS),
    (old_cupy, "CuPy 13.6.0 is older than 14", 'pip install "deepnotes[cuda12]"'),
    (
        neither_driver_nor_cupy, "is not found), and CuPy is not installed",
        f"{DRIVERS}), or run where there is a GPU; then pip",
    ),
    (old_driver, "the driver supports CUDA 11.8, but this CuPy is for CUDA 12", "update the driver to one for CUDA 12"),
    (
        newer_wheel, "the driver supports CUDA 12.4, but this CuPy is for CUDA 13",
        'pip uninstall -y cupy-cuda13x && pip install "deepnotes[cuda12]"',
    ),
    (failing_driver, "the NVIDIA driver does not work", DRIVERS),
    (
        two_wheels, "cupy-cuda12x and cupy-cuda13x are both installed",
        'pip uninstall -y cupy-cuda12x cupy-cuda13x && pip install "deepnotes[cuda13]"',
    ),
    (no_device, "CUDA sees no device", "nvidia-smi"),
    (hidden_device, "CUDA sees no device with CUDA_VISIBLE_DEVICES=''", "unset CUDA_VISIBLE_DEVICES"),
    (no_nvrtc, "NVRTC, CUDA's compiler, cannot be loaded (Failure finding", 'pip install "deepnotes[cuda12]"'),
    (does_not_compile, "a kernel does not compile (dense.cu(3)", 'pip install "deepnotes[cuda12]"'),
    (no_cublas, "cuBLAS for CUDA 12 cannot be loaded", 'pip install "deepnotes[cuda12]"'),
    (broken_cublas, "cublasGemmEx: architecture mismatch (8)", 'pip install "deepnotes[cuda12]"'),
    (unsupported_gpu, "this CuPy was built for other GPUs", 'pip install "deepnotes[cuda13]"'),
    (no_memory, "the device has no memory left", "nvidia-smi"),
    (wrong_results, "device 0 computes wrong results", "nvidia-smi"),
]  # fmt: skip
"""Functions that break the simulated machine, with the expected cause and fix."""


@pytest.mark.parametrize(("break_it", "cause", "fix"), CAUSES, ids=[c[0].__name__ for c in CAUSES])
def test_each_cause_is_reported_with_its_fix(
    working_cupy: types.ModuleType, monkeypatch: pytest.MonkeyPatch, break_it: Callable[..., None], cause: str, fix: str
) -> None:
    break_it(monkeypatch, working_cupy)
    with pytest.raises(BackendUnavailable) as caught:
        create()
    assert cause in caught.value.cause
    assert fix in caught.value.fix
    assert "\n" not in str(caught.value)


def test_a_device_index_out_of_range_is_an_argument_error(working_cupy: types.ModuleType) -> None:
    with pytest.raises(ArgumentError, match="device=1, wanted 0, the only device"):
        create(device=1)
    CUDA.devices = 4
    with pytest.raises(ArgumentError, match="device=4, wanted 0 to 3"):
        create(device=4)


def test_only_wheels_of_cupy_itself_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["cupy-cuda12x", "CuPy-CUDA13x", "cupy_fake", "numpy", "cupy-xarray"]
    installed = [types.SimpleNamespace(metadata={"Name": name}) for name in names]
    monkeypatch.setattr(availability, "distributions", lambda: installed)
    assert availability.installed_wheels() == ["cupy-cuda12x", "cupy-cuda13x"]


# --- the machine that runs the tests ----------------------------------------------------------------------------------


def has_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


@pytest.mark.skipif(has_driver(), reason="this machine has an NVIDIA driver")
def test_without_a_driver_auto_does_not_import_cupy() -> None:
    code = (
        "import sys, deepnotes as dn; name = dn.get_backend('auto').name; "
        "print(name, 'cupy' in sys.modules, 'deepnotes_cupy.backend' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() in (["numba", "False", "False"], ["numpy", "False", "False"])


@pytest.mark.skipif(has_driver(), reason="this machine has an NVIDIA driver")
def test_the_command_line_lists_the_backend_with_the_fix(run: Any) -> None:
    out, _ = run("backends", "--json")
    (entry,) = [b for b in json.loads(out)["backends"] if b["name"] == "cupy"]
    assert entry["works"] is False
    assert "there is no NVIDIA driver" in entry["cause"]
    assert DRIVERS in entry["fix"]


def test_the_backend_is_registered_and_its_extras_are_complete() -> None:
    assert "cupy" in dn.registered_backends()
    requirements = importlib.metadata.requires("deepnotes") or []
    for major in (12, 13):
        extra = [line for line in requirements if f'extra == "cuda{major}"' in line]
        assert any(line.startswith(f"cupy-cuda{major}x>=14") for line in extra)
        assert any(all(part in line for part in ("cuda-toolkit[", "cublas", "cudart", "nvrtc")) for line in extra)
