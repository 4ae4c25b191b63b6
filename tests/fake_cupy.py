"""A stand-in for CuPy on NumPy's arrays, to test :mod:`deepnotes_cupy.cuda` without a GPU.

It enforces CUDA's rules: a capture belongs to one stream; during a capture, the program must not allocate memory, copy
through the legacy stream or wait; kernel arguments must have the declared types; cuBLAS must be given its workspace
after its stream. Kernels run through tests/cuda_shim.py, and the cuBLAS functions have the types of the cuBLAS header.
"""

import ctypes
import sys
import types
from collections.abc import Callable
from typing import Any

import fake_nccl
import numpy as np
from cuda_shim import Host

from deepnotes_cupy.cublas import TYPES


class OutOfMemoryError(MemoryError):
    """Stands in for CuPy's exception."""


class CUDARuntimeError(RuntimeError):
    """Stands in for CuPy's exception."""


class Array(np.ndarray):
    """Stands in for a CuPy array: ``data.ptr`` is its address."""

    @property
    def data(self) -> Any:
        """An object whose attribute `ptr` is the address of the memory."""
        return types.SimpleNamespace(ptr=self.__array_interface__["data"][0])


class State:
    """The state of CUDA in this process.

    Attributes
    ----------
    log : list of tuple
        All calls.
    streams : list of Stream
        The streams whose contexts have been entered; the last one is current.
    capturing : Stream or None
        The stream that is being captured.
    recorded_calls : list of callable
        The calls captured so far.
    failing : str
        The kind or name of a call that fails while a stream is captured; "" if none fails.
    memory : int
        The number of bytes that can be allocated.
    devices : int
        The number of devices.
    """

    def __init__(self) -> None:
        self.log: list[tuple[Any, ...]] = []
        self.streams: list[Stream] = []
        self.capturing: Stream | None = None
        self.forked: set[int] = set()
        self.clock = 0.0
        self.recorded_calls: list[Callable[[], None]] = []
        self.failing: str = ""
        self.memory = 1 << 40
        self.devices = 1

    @property
    def current(self) -> int:
        """The address of the current stream; 0 is the legacy one."""
        return self.streams[-1].ptr if self.streams else 0

    def enqueue(self, entry: tuple[Any, ...], stream: int, call: Callable[[], None]) -> None:
        """Log a call, and execute it, or record it if a stream is being captured."""
        self.log.append((*entry, stream))
        if self.capturing is None:
            call()
            return
        if stream != self.capturing.ptr and stream not in self.forked:
            raise CUDARuntimeError("cudaErrorStreamCaptureUnsupported: work in a stream that is not the captured one")
        if self.failing in entry:
            raise CUDARuntimeError(
                "cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing"
            )
        self.recorded_calls.append(call)

    def is_captured(self, stream: int) -> bool:
        """Return whether work in a stream is being captured."""
        return self.capturing is not None and (stream == self.capturing.ptr or stream in self.forked)

    def forbid_in_capture(self, operation: str) -> None:
        """Raise an error if a stream is being captured."""
        if self.capturing is not None:
            raise CUDARuntimeError(f"cudaErrorStreamCaptureUnsupported: {operation} while a stream is captured")


CUDA = State()


class Event:
    """A CUDA event."""

    def __init__(self, block: bool = False, disable_timing: bool = False) -> None:
        self.timed = not disable_timing

    @property
    def done(self) -> bool:
        """Whether all work before the event is done: all work is done at once."""
        return True

    def record(self, stream: Any) -> None:
        """Log that the event is recorded at the end of a stream."""
        CUDA.log.append(("record", stream.ptr))
        self.stream, self.captured, self.clock = stream.ptr, CUDA.is_captured(stream.ptr), CUDA.clock

    def synchronize(self) -> None:
        """Log that the host waits for the event."""
        CUDA.forbid_in_capture("cudaEventSynchronize")
        CUDA.log.append(("synchronize",))


class Graph:
    """A captured graph."""

    def __init__(self, calls: list[Callable[[], None]]) -> None:
        self.calls, self.uploaded = calls, False

    def upload(self, stream: Any) -> None:
        """Remember that the graph was uploaded."""
        self.uploaded = True

    def launch(self, stream: Any) -> None:
        """Execute all captured calls."""
        CUDA.log.append(("graph", len(self.calls), stream.ptr))
        for call in self.calls:
            call()


class Stream:
    """A CUDA stream."""

    count = 0

    def __init__(self, null: bool = False, non_blocking: bool = False) -> None:
        assert null or non_blocking
        Stream.count += 1
        self.ptr = 0 if null else 1000 * Stream.count

    def __enter__(self) -> "Stream":
        CUDA.streams.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        assert CUDA.streams.pop() is self

    def wait_event(self, event: Event) -> None:
        """Log that later work in the stream waits for an event; in a capture, this forks a stream or joins it again."""
        CUDA.log.append(("wait", self.ptr))
        if CUDA.capturing is not None and event.captured:
            if self is CUDA.capturing:
                CUDA.forked.discard(event.stream)
            else:
                CUDA.forked.add(self.ptr)

    def record(self, event: Event) -> Event:
        """Record an event at the end of the stream."""
        event.record(self)
        return event

    def begin_capture(self, mode: int | None = None) -> None:
        """Begin to capture this stream."""
        assert self.ptr
        assert mode == 1  # thread-local mode
        CUDA.forbid_in_capture("cudaStreamBeginCapture")
        CUDA.capturing, CUDA.recorded_calls = self, []

    def end_capture(self) -> Graph:
        """Return the captured calls as a graph."""
        assert CUDA.capturing is self
        CUDA.capturing = None
        if CUDA.forked:
            CUDA.forked.clear()
            raise CUDARuntimeError("cudaErrorStreamCaptureUnjoined: a stream was forked, but not joined")
        return Graph(CUDA.recorded_calls)


class Device:
    """A CUDA device."""

    def __init__(self, index: int) -> None:
        self.id = index

    def __enter__(self) -> "Device":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def use(self) -> None:
        """Make the device current."""
        CUDA.log.append(("use", self.id))


class RawModule:
    """A module of kernels; a launch checks the types of the arguments."""

    def __init__(self, *, code: str, options: tuple[str, ...] = ()) -> None:
        (real,) = [o.removeprefix("-DREAL=") for o in options if o.startswith("-DREAL=")]
        assert "--std=c++17" in options
        self.dtype = {"float": "float32", "double": "float64"}[real]
        self.host = Host(self.dtype, source=code)

    def get_function(self, name: str) -> Callable[..., None]:
        """Return a kernel by its name."""
        CUDA.forbid_in_capture("cuModuleGetFunction")
        parameters = self.host.kernels[name].parameters

        def kernel(
            grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...], shared_mem: int = 0
        ) -> None:
            assert shared_mem <= max(48 << 10, getattr(kernel, "max_dynamic_shared_size_bytes", 0))
            host_arguments = []
            for parameter, value in zip(parameters, arguments, strict=True):
                if parameter.pointer:
                    assert isinstance(value, Array | np.uint64), (name, parameter.name)
                    host_arguments.append(value.view(np.ndarray) if isinstance(value, Array) else None)
                else:
                    assert type(value) is parameter.scalar(self.dtype).type, (name, parameter.name)
                    host_arguments.append(value)

            def launch() -> None:
                self.host.launch(name, grid, block, *host_arguments, shared=shared_mem)

            CUDA.enqueue(("launch", name), CUDA.current, launch)

        kernel.shared_size_bytes = 0  # type: ignore[attr-defined]
        return kernel


def _memcpy(target: int, source: int, size: int, kind: int, stream: int) -> None:
    assert stream
    if kind == 1:  # a copy from pageable memory is synchronous
        CUDA.forbid_in_capture("a copy from the host")
    CUDA.enqueue(("memcpy", kind, size), stream, lambda: ctypes.memmove(target, source, size) and None)


def _empty(size: int, dtype: Any = float) -> Array:
    CUDA.forbid_in_capture("cudaMalloc")
    if int(size) * np.dtype(dtype).itemsize > CUDA.memory:
        raise OutOfMemoryError(f"Out of memory allocating {size} elements")
    return np.full(size, np.nan if np.dtype(dtype).kind == "f" else 77, dtype).view(Array)


def _asnumpy(x: Any, stream: Any = None, order: str = "C") -> np.ndarray:
    CUDA.forbid_in_capture("a copy to the host")
    assert stream is not None
    CUDA.log.append(("asnumpy", x.nbytes, stream.ptr))
    return np.array(x, order=order)


def _wrap(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a NumPy function so that it returns arrays of class Array."""

    def call(*arguments: Any, **options: Any) -> Any:
        result = function(*arguments, **options)
        return np.asarray(result).view(Array) if isinstance(result, np.ndarray | np.generic) else result

    return call


def _elapsed(begin: Event, end: Event) -> float:
    """Return the milliseconds between two events."""
    CUDA.log.append(("elapsed",))
    assert begin.timed
    assert end.timed
    return end.clock - begin.clock


def modules() -> dict[str, types.ModuleType]:
    """Return the modules to put into ``sys.modules``, by name."""
    runtime = types.SimpleNamespace(
        getDeviceCount=lambda: CUDA.devices,
        getDeviceProperties=lambda i: {
            "name": b"NVIDIA H100 80GB HBM3", "totalGlobalMem": 80 << 30, "multiProcessorCount": 132,
            "sharedMemPerBlockOptin": 227 << 10, "major": 9,
        },
        deviceGetPCIBusId=lambda i: f"0000:0{i}:00.0",
        runtimeGetVersion=lambda: 12090,
        cudaDevAttrMaxSharedMemoryPerBlockOptin=97,
        deviceGetAttribute=lambda attribute, i: 0,  # so that training is by graphs
        driverGetVersion=lambda: 13000,
        memGetInfo=lambda: (CUDA.memory, 80 << 30),
        memcpyAsync=_memcpy,
        memcpyHostToDevice=1,
        memcpyDeviceToHost=2,
        memcpyDeviceToDevice=3,
        streamCaptureModeThreadLocal=1,
    )  # fmt: skip
    cuda = types.ModuleType("cupy.cuda")
    cuda.__dict__.update(
        Device=Device, Stream=Stream, Event=Event, runtime=runtime,
        get_current_stream=lambda: CUDA.streams[-1] if CUDA.streams else Stream(null=True),
        nccl=fake_nccl, alloc_pinned_memory=bytearray, get_elapsed_time=_elapsed,
    )  # fmt: skip
    cupy = types.ModuleType("cupy")
    cupy.__dict__.update(
        __version__="14.2.0", cuda=cuda, ndarray=Array, empty=_empty, asnumpy=_asnumpy, RawModule=RawModule,
        get_default_memory_pool=lambda: types.SimpleNamespace(free_bytes=lambda: 0),
        bool=np.bool, int64=np.int64, float32=np.float32, float64=np.float64, finfo=np.finfo,
    )  # fmt: skip
    cupy.__getattr__ = lambda name: _wrap(getattr(np, name))  # type: ignore[method-assign]
    return {"cupy": cupy, "cupy.cuda": cuda}


class Cublas:
    """Stands in for the cuBLAS library: C functions with the argument types of its header.

    Attributes
    ----------
    calls : list of tuple
        All calls, except products refused by `product_status`.
    product_status : int
        The status code that matrix products return; 0 means success.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.stream, self.workspace, self.product_status = 0, 0, 0
        integer, pointer = ctypes.c_int, ctypes.c_void_p
        matrix, stride = [pointer, integer, integer], ctypes.c_longlong
        head = [pointer, *[integer] * 5, pointer]
        gemm = [*head, *matrix, *matrix, pointer, *matrix, integer, integer]
        batched = [*head, *matrix, stride, *matrix, stride, pointer, *matrix, stride, integer, integer, integer]
        functions: list[tuple[str, Any, list[Any]]] = [
            ("cublasCreate_v2", self._create, [ctypes.POINTER(pointer)]),
            ("cublasDestroy_v2", lambda handle: 0, [pointer]),
            ("cublasSetMathMode", self._logging("math"), [pointer, integer]),
            ("cublasSetPointerMode_v2", self._logging("pointers"), [pointer, integer]),
            ("cublasSetStream_v2", self._set_stream, [pointer, pointer]),
            ("cublasSetWorkspace_v2", self._set_workspace, [pointer, pointer, ctypes.c_size_t]),
            ("cublasGetVersion_v2", self._version, [pointer, ctypes.POINTER(integer)]),
            ("cublasGemmEx", self._gemm, gemm),
            ("cublasGemmStridedBatchedEx", self._gemms, batched),
        ]
        for name, function, types_ in functions:
            setattr(self, name, ctypes.CFUNCTYPE(integer, *types_)(function))

    def _logging(self, name: str) -> Callable[..., int]:
        """Return a function that logs its arguments and succeeds."""

        def log(handle: int, *values: int) -> int:
            self.calls.append((name, handle, *values))
            return 0

        return log

    def _create(self, handle: Any) -> int:
        handle[0] = 0x1000 + len(self.calls)
        self.calls.append(("create", handle[0]))
        return 0

    def _set_stream(self, handle: int, stream: int | None) -> int:
        self.stream, self.workspace = stream or 0, 0
        self.calls.append(("stream", handle, stream))
        return 0

    def _set_workspace(self, handle: int, address: int, size: int) -> int:
        self.workspace = size
        self.calls.append(("workspace", handle, size))
        return 0

    def _version(self, handle: int, version: Any) -> int:
        version[0] = 120905
        return 0

    def _gemm(  # noqa: PLR0913 - the arguments of cublasGemmEx
        self, handle: int, ta: int, tb: int, m: int, n: int, k: int, alpha: int, A: int, kind_a: int, lda: int, B: int,
        kind_b: int, ldb: int, beta: int, C: int, kind_c: int, ldc: int, compute: int, algorithm: int,
    ) -> int:  # fmt: skip
        if self.product_status:
            return self.product_status
        self.calls.append(("gemm", handle, compute))
        assert (kind_a, kind_c, compute) in TYPES.values()
        assert kind_a == kind_b
        assert lda >= (k if ta else m)
        assert ldb >= (n if tb else k)
        assert ldc == m
        real = ctypes.c_double if compute == 70 else ctypes.c_float
        factor = real.from_address(
            alpha
        ).value  # read now, since a host pointer may be invalid when a graph is launched
        assert real.from_address(beta).value == 0
        element = {0: ctypes.c_float, 1: ctypes.c_double}[kind_a]

        def multiply() -> None:
            shapes = (A, (m, k) if ta else (k, m), lda), (B, (k, n) if tb else (n, k), ldb), (C, (n, m), ldc)
            a, b, c = (
                np.ctypeslib.as_array((element * (columns * stride)).from_address(x)).reshape(columns, stride)[:, :rows]
                for x, (columns, rows), stride in shapes
            )
            a, b = a if ta else a.T, b if tb else b.T
            c[...] = (c.dtype.type(factor) * (a @ b)).T

        try:
            CUDA.enqueue(("gemm",), CUDA.current, multiply)
        except CUDARuntimeError:
            return 15
        return 0

    def _gemms(  # noqa: PLR0913 - the arguments of cublasGemmStridedBatchedEx
        self, handle: int, ta: int, tb: int, m: int, n: int, k: int, alpha: int, A: int, kind_a: int, lda: int,
        step_a: int, B: int, kind_b: int, ldb: int, step_b: int, beta: int, C: int, kind_c: int, ldc: int, step_c: int,
        parts: int, compute: int, algorithm: int,
    ) -> int:  # fmt: skip
        size = {0: 4, 1: 8}[kind_a]
        for part in range(parts):
            status = self._gemm(
                handle, ta, tb, m, n, k, alpha, A + part * step_a * size, kind_a, lda, B + part * step_b * size, kind_b,
                ldb, beta, C + part * step_c * size, kind_c, ldc, compute, algorithm,
            )  # fmt: skip
            if status:
                return status
        return 0


def forget() -> None:
    """Reset the state of CUDA, and unload the module that imported this stand-in."""
    CUDA.__init__()  # type: ignore[misc]
    sys.modules.pop("deepnotes_cupy.cuda", None)
