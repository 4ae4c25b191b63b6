"""The installed CuPy has the functions that the backend calls only on a GPU, and they accept its arguments."""

import inspect
from typing import Any

import numpy as np
import pytest

cupy: Any = pytest.importorskip("cupy", reason="needs CuPy, but no GPU: install the extra cuda12 or cuda13")

from deepnotes.equations.array import Namespace  # noqa: E402

runtime = cupy.cuda.runtime


def accepts(function: Any, *names: str) -> bool:
    """Return whether a function has these parameters, according to its signature or its docstring."""
    try:
        parameters = set(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        parameters = set((function.__doc__ or "").partition("Args:")[2].replace("(", " ").split()) | set(
            (function.__doc__ or "").splitlines()[0].replace("(", " ").replace(",", " ").replace("=", " ").split()
        )
    return set(names) <= parameters


def test_cupy_has_the_functions_of_the_namespace() -> None:
    names = {name for name in vars(Namespace) if name[0] != "_"} | set(Namespace.__annotations__)
    assert not {name for name in names if not hasattr(cupy, name)}
    for name in ("array", "ascontiguousarray", "broadcast_to", "empty"):
        assert callable(getattr(cupy, name))
    assert cupy.float32 is np.float32


def test_the_runtime_has_the_functions_and_constants_that_the_backend_uses() -> None:
    for name in (
        "getDeviceCount", "getDeviceProperties", "runtimeGetVersion", "driverGetVersion", "memGetInfo", "memcpyAsync",
        "deviceGetAttribute",
    ):  # fmt: skip
        assert callable(getattr(runtime, name)), name
    assert (runtime.memcpyHostToDevice, runtime.memcpyDeviceToDevice) == (1, 3)
    assert runtime.streamCaptureModeThreadLocal == 1
    assert runtime.cudaDevAttrMaxSharedMemoryPerBlockOptin == 97


def test_streams_events_and_graphs_have_the_methods_that_the_backend_uses() -> None:
    for name in ("begin_capture", "end_capture", "wait_event", "record", "synchronize", "__enter__", "__exit__"):
        assert callable(getattr(cupy.cuda.Stream, name)), name
    assert accepts(cupy.cuda.Stream.__init__, "non_blocking")
    assert accepts(cupy.cuda.Event.__init__, "disable_timing")
    for name in ("launch", "upload"):
        assert callable(getattr(cupy.cuda.Graph, name)), name
    for name in ("get_current_stream", "alloc_pinned_memory", "Device"):
        assert callable(getattr(cupy.cuda, name)), name
    assert callable(cupy.cuda.Device.use)
    assert callable(cupy.get_default_memory_pool().free_bytes)


def test_transfers_and_modules_accept_the_arguments_of_the_backend() -> None:
    assert accepts(cupy.asnumpy, "stream", "order")
    module = cupy.RawModule(code='extern "C" __global__ void f() {}', options=("-DREAL=float", "--std=c++17"))
    assert callable(module.get_function)
    assert isinstance(cupy.RawKernel.max_dynamic_shared_size_bytes, type(cupy.RawKernel.num_regs))  # an attribute
    assert "shared_mem" in cupy.RawKernel.__call__.__doc__
    assert issubclass(cupy.cuda.memory.OutOfMemoryError, MemoryError)
    assert issubclass(runtime.CUDARuntimeError, RuntimeError)


def test_availability_recognizes_the_error_of_a_machine_without_a_device() -> None:
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        assert any(word in str(error) for word in ("InsufficientDriver", "NoDevice"))  # noqa: PT017
    else:
        assert count >= 0


def test_graphs_can_only_be_created_by_capture() -> None:
    with pytest.raises(NotImplementedError):
        cupy.cuda.Graph()
