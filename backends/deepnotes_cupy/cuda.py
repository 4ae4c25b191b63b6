"""CudaDevice: a GPU, used through CuPy's memory, streams, kernels and graphs, and through cuBLAS."""

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache, partial
from math import inf
from typing import Any
from weakref import WeakSet

import cupy
import numpy as np
from cupy.cuda import runtime

from deepnotes.backends import DeviceMemoryError, ForkedProcessError
from deepnotes_cupy.choices import Choices, choices_path
from deepnotes_cupy.cublas import WORKSPACE, Cublas, CublasError, CublasMissing, address, load
from deepnotes_cupy.cublaslt import CublasLt, Launch
from deepnotes_cupy.device import TIMED, Call, CaptureRefused, Graph, Product, Releasable, Slot
from deepnotes_cupy.sources import REAL, Kernel

SHARED_BYTES = 48 << 10
"""The dynamic shared memory of a block that a kernel may use without asking for more."""
REPEATS = 20
"""The largest number of times that work is repeated to time it."""
EQUAL = 1.02
"""If the first way takes at most so many times as long as the fastest one, it is taken, since times vary."""
TUNING_MILLISECONDS = 0.3
"""The time that the repetitions take, unless the work takes longer."""


class CudaGraph:
    """A captured graph."""

    def __init__(self, graph: Any, stream: Any) -> None:
        self._graph, self._stream = graph, stream

    def launch(self) -> None:
        """Enqueue the graph."""
        self._graph.launch(self._stream)


class CudaDevice:
    """See :class:`deepnotes_cupy.device.Device`.

    Parameters
    ----------
    index : int
        The index of the CUDA device.
    """

    xp = cupy
    keeps_subnormals = False  # CuPy compiles everything with -ftz=true

    def __init__(self, index: int) -> None:
        self.index, self._process = index, os.getpid()
        self._lock = threading.RLock()
        if index:
            cupy.cuda.Device(index).use()  # for arithmetic in this thread outside sections
        with cupy.cuda.Device(index):
            self._stream = cupy.cuda.Stream(non_blocking=True)
            self._copy_stream = cupy.cuda.Stream(non_blocking=True)
            self._receive_stream = cupy.cuda.Stream(non_blocking=True)
            properties = runtime.getDeviceProperties(index)
            self.processors = int(properties["multiProcessorCount"])
            self.shared_bytes = int(properties["sharedMemPerBlockOptin"])
            self._holders: WeakSet[Releasable] = WeakSet()
            self.clusters = int(properties["major"]) >= 9
            library = load(runtime.runtimeGetVersion() // 1000)
            with self._stream:
                self._workspace = cupy.empty(WORKSPACE, np.uint8)
            self._cublas = Cublas(library, self._stream.ptr, (self._workspace.data.ptr, WORKSPACE))
            self._foreign_cublas = Cublas(library, 0, None)  # for eager execution in other streams
            self._second_stream = cupy.cuda.Stream(non_blocking=True)
            with self._second_stream:
                self._second_workspace = cupy.empty(WORKSPACE, np.uint8)  # products that run at once must not share one
            self._second_cublas = Cublas(library, self._second_stream.ptr, (self._second_workspace.data.ptr, WORKSPACE))
            self._before, self._after = (cupy.cuda.Event(disable_timing=True) for _ in range(2))

    # --- the stream ----------------------------------------------------------------------------------------

    def check_process(self) -> None:
        """Raise ForkedProcessError in a process that was forked from the one that opened the device."""
        if os.getpid() != self._process:
            raise ForkedProcessError(
                "this process was forked from one that already used the GPU, but CUDA does not survive forks: start "
                'processes with multiprocessing.get_context("spawn")'
            )

    @contextmanager
    def section(self) -> Iterator[None]:
        """Lock the device and make its stream current; see :meth:`Device.section`."""
        self.check_process()
        with self._lock, cupy.cuda.Device(self.index):
            outer = cupy.cuda.get_current_stream()
            if outer.ptr == self._stream.ptr:
                yield
                return
            self._before.record(outer)
            self._stream.wait_event(self._before)
            with self._stream:
                yield
            self._after.record(self._stream)
            outer.wait_event(self._after)

    # --- memory -------------------------------------------------------------------------------------------------

    def empty(self, size: int, dtype: str) -> Any:
        """Return a new flat array; see :meth:`Device.empty`."""
        self.check_process()
        with suppress(MemoryError):  # CuPy releases its pool and tries again before it raises this error
            return cupy.empty(size, dtype)
        for holder in list(self._holders):
            holder.release()
        try:
            return cupy.empty(size, dtype)
        except MemoryError:
            raise DeviceMemoryError(size * np.dtype(dtype).itemsize, self.free_bytes()) from None

    def release_on_shortage(self, holder: Releasable) -> None:
        """Have `holder` release its memory before an error is raised; see :meth:`Device.release_on_shortage`."""
        self._holders.add(holder)

    def free_bytes(self) -> int:
        """Return the number of bytes that can be allocated: free in the driver, or unused in CuPy's pool."""
        with cupy.cuda.Device(self.index):
            return int(runtime.memGetInfo()[0]) + int(cupy.get_default_memory_pool().free_bytes())

    def upload(self, host: np.ndarray, target: Any) -> None:
        """Copy a host array; see :meth:`Device.upload`. The driver copies pageable memory before it returns."""
        host = np.ascontiguousarray(host)
        runtime.memcpyAsync(
            address(target), host.ctypes.data, host.nbytes, runtime.memcpyHostToDevice, self._stream.ptr
        )

    def download(self, source: Any) -> np.ndarray:
        """Return a copy on the host; see :meth:`Device.download`."""
        return np.asarray(cupy.asnumpy(source, stream=self._stream, order="A"))  # in the same memory layout

    def copier(self, source: Any, target: Any) -> Call:
        """Return a call that copies an array; see :meth:`Device.copier`."""
        destination, origin, size, stream = address(target), address(source), source.nbytes, self._stream.ptr

        def copy(keep_alive: Any = (source, target)) -> None:
            runtime.memcpyAsync(destination, origin, size, runtime.memcpyDeviceToDevice, stream)

        return copy

    def empty_pinned(self, size: int, dtype: str) -> np.ndarray:
        """Return an array in page-locked memory from CuPy's pool."""
        memory = cupy.cuda.alloc_pinned_memory(max(1, size) * np.dtype(dtype).itemsize)
        return np.frombuffer(memory, dtype, size)

    def send(self, pairs: Sequence[tuple[np.ndarray, Any]], after: Any) -> Any:
        """Enqueue copies of pinned arrays in the copy stream; see :meth:`Device.send`."""
        if after is not None:
            self._copy_stream.wait_event(after)
        for host, target in pairs:
            runtime.memcpyAsync(
                address(target), host.ctypes.data, host.nbytes, runtime.memcpyHostToDevice, self._copy_stream.ptr
            )
        return self._copy_stream.record(cupy.cuda.Event(disable_timing=True))

    def receive(self, source: Any, host: np.ndarray, after: Any) -> Any:
        """Enqueue a copy to a pinned array in a stream of its own; see :meth:`Device.receive`."""
        self._receive_stream.wait_event(after)
        runtime.memcpyAsync(
            host.ctypes.data, address(source), host.nbytes, runtime.memcpyDeviceToHost, self._receive_stream.ptr
        )
        return self._receive_stream.record(cupy.cuda.Event(disable_timing=True))

    def record_event(self) -> Any:
        """Return an event at the end of the stream; see :meth:`Device.record_event`."""
        return self._stream.record(cupy.cuda.Event(disable_timing=True))

    def await_event(self, event: Any) -> None:
        """Make the stream wait for an event; see :meth:`Device.await_event`."""
        self._stream.wait_event(event)

    def synchronize(self, event: Any) -> None:
        """Wait for an event on the host; see :meth:`Device.synchronize`."""
        event.synchronize()

    def address(self, x: Any) -> int:
        """Return the address of an array; see :meth:`Device.address`."""
        return address(x)

    # --- work ---------------------------------------------------------------------------------------------------

    def launcher(
        self, kernel: Kernel, dtype: str, grid: tuple[int, ...], block: int, arguments: Sequence[Any], shared: int = 0
    ) -> Call:
        """Return a call that launches a kernel in the current stream, with arguments of the declared types."""
        function = self._kernel(kernel, dtype)
        parameters = kernel.parameters
        if len(arguments) != len(parameters):
            raise TypeError(f"kernel {kernel.name} takes {len(parameters)} arguments, got {len(arguments)}")
        packed = [
            (np.uint64(0) if x is None else x) if p.pointer else p.scalar(dtype).type(x)
            for p, x in zip(parameters, arguments, strict=True)
        ]
        slots = [(i, x) for i, x in enumerate(arguments) if isinstance(x, Slot)]
        if shared > SHARED_BYTES:
            function.max_dynamic_shared_size_bytes = self.shared_bytes - function.shared_size_bytes

        def launch() -> None:
            for i, slot in slots:
                packed[i] = slot.array
            function(grid, (block,), tuple(packed), shared_mem=shared)
            for i, _ in slots:
                packed[i] = None  # the memory of the array can be released

        return launch

    def multiplier(self, product: Product, tuned: bool = False) -> Call:
        """Return a call that computes a product in the current stream; see :meth:`Device.multiplier`."""
        if tuned and (call := self._tuned_multiplier(product)):
            return call
        prepared = self._cublas.prepare(product)
        own_stream, second_stream = self._stream.ptr, self._second_stream.ptr

        def multiply(keep_alive: Product = product) -> None:
            stream = cupy.cuda.get_current_stream().ptr
            if stream == own_stream:
                self._cublas.multiply(prepared)
                return
            if stream == second_stream:
                self._second_cublas.multiply((self._second_cublas.handle, *prepared[1:]))
                return
            with self._lock:
                self._foreign_cublas.set_stream(stream)
                self._foreign_cublas.multiply((self._foreign_cublas.handle, *prepared[1:]))

        return multiply

    def _tuned_multiplier(self, product: Product) -> Call | None:
        """Return a call that computes a product by the fastest algorithm, or None if cuBLASLt is not available."""
        try:
            launch = self._cublaslt().prepare(product)
        except (CublasError, CublasMissing, AttributeError) as error:  # AttributeError: a function is missing
            logging.getLogger("deepnotes").debug("cupy: products are not tuned: %s", error)
            return None
        workspaces = {
            self._stream.ptr: self._workspace.data.ptr, self._second_stream.ptr: self._second_workspace.data.ptr
        }  # fmt: skip

        def multiply() -> None:
            stream = cupy.cuda.get_current_stream().ptr
            launch(stream, workspaces[stream])

        return multiply

    def fastest(self, key: str, ways: Sequence[Sequence[Call]]) -> int:
        """Return the index of the fastest of several ways to compute the same; see :meth:`Device.fastest`."""
        if (index := self.chosen(key)) is not None and index < len(ways):
            return index
        times = [self._milliseconds(way) for way in ways]
        index = 0 if times[0] <= EQUAL * min(times) else times.index(min(times))
        logging.getLogger("deepnotes").debug(TIMED, key, times)
        if times[index] == inf:  # nothing was timed, so nothing is kept
            return index
        (kept,) = self._choices().add(key, (index,))
        return kept if kept < len(ways) else index

    def chosen(self, key: str) -> int | None:
        """Return the fastest way, if it is known; see :meth:`Device.chosen`."""
        match self._choices().get(key):
            case (index,):
                return index
        return None

    @cache  # noqa: B019
    def _choices(self) -> Choices:
        properties = runtime.getDeviceProperties(self.index)
        return Choices(choices_path(f"{_device_name(properties)}-{self.processors}-{self._cublas.version()}"))

    @cache  # noqa: B019
    def _cublaslt(self) -> CublasLt:
        library = load(runtime.runtimeGetVersion() // 1000, "cublasLt")
        return CublasLt(library, WORKSPACE, self._measure, self._choices())

    def _measure(self, launches: Sequence[Launch]) -> list[float]:
        """Return the milliseconds that each launch takes, or infinity if it fails."""
        operands = self._stream.ptr, self._workspace.data.ptr
        return [self._milliseconds([partial(launch, *operands)]) for launch in launches]

    def _milliseconds(self, calls: Sequence[Call]) -> float:
        """Return the milliseconds that some calls take, repeated in a graph, or infinity if they fail."""
        begin, end = cupy.cuda.Event(), cupy.cuda.Event()

        def time(run: Call) -> float:
            begin.record(self._stream)
            run()
            end.record(self._stream)
            end.synchronize()
            return float(cupy.cuda.get_elapsed_time(begin, end))

        def run(times: int = 1) -> None:
            for _ in range(times):
                for call in calls:
                    call()

        try:
            run()  # the first time loads the kernels
            count = max(1, min(REPEATS, int(TUNING_MILLISECONDS / max(time(run), 1e-3))))
            graph = self.capture(partial(run, count))
            return min(time(graph.launch) for _ in range(3)) / count
        except (CublasError, CaptureRefused):
            return inf

    def aside(self, calls: Sequence[Call]) -> Call:
        """Return a call that makes other calls in the second stream; see :meth:`Device.aside`."""

        def run() -> None:
            self._second_stream.wait_event(self.record_event())
            with self._second_stream:
                for call in calls:
                    call()

        return run

    def rejoin(self) -> None:
        """Make the stream wait for the second one; see :meth:`Device.rejoin`."""
        self._stream.wait_event(self._second_stream.record(cupy.cuda.Event(disable_timing=True)))

    def capture(self, run: Call) -> Graph:
        """Capture the stream; see :meth:`Device.capture`. Other threads may allocate memory meanwhile."""
        try:
            self._stream.begin_capture(runtime.streamCaptureModeThreadLocal)
            try:
                run()
            except BaseException:
                with suppress(Exception):  # it raises the same error again, but makes the stream usable
                    self._stream.end_capture()
                raise
            graph = self._stream.end_capture()
            graph.upload(self._stream)
        except (RuntimeError, CublasError) as error:  # including CUDARuntimeError and CUDADriverError
            raise CaptureRefused(f"{type(error).__name__}: {error}") from error
        return CudaGraph(graph, self._stream)

    def prepare(self, kernel: Kernel, dtype: str) -> None:
        """Compile and load a kernel; see :meth:`Device.prepare`."""
        self._kernel(kernel, dtype)

    @cache  # noqa: B019 (a device lives as long as the process)
    def _kernel(self, kernel: Kernel, dtype: str) -> Any:
        return self._module(kernel.source, dtype).get_function(kernel.name)

    @cache  # noqa: B019
    def _module(self, source: str, dtype: str) -> Any:
        return cupy.RawModule(code=source, options=(f"-DREAL={REAL[dtype]}", "--std=c++17"))

    # --- other processes ----------------------------------------------------------------------------------------------

    def has_occurred(self, event: Any) -> bool:
        """Return whether an event has occurred."""
        return bool(event.done)

    def nccl(self) -> Any:
        """Return CuPy's module of NCCL, or None if the library is missing."""
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # CuPy warns that it does not find the library
            try:
                from cupy.cuda import nccl
            except ImportError:
                return None
        return nccl if getattr(nccl, "available", False) else None

    def stream_address(self) -> int:
        """Return the address of the stream."""
        return int(self._stream.ptr)

    def identity(self) -> str:
        """Return the address of the GPU on the bus of the machine."""
        return str(runtime.deviceGetPCIBusId(self.index))

    # --- description --------------------------------------------------------------------------------------------------

    def describe(self) -> str:
        """Return the versions of the libraries, and all devices with their memory."""
        cuda, driver = runtime.runtimeGetVersion(), runtime.driverGetVersion()
        major, minor = divmod(self._cublas.version(), 10000)
        count = runtime.getDeviceCount()
        devices = "; ".join(
            _describe_device(i) + (" (selected)" if count > 1 and i == self.index else "") for i in range(count)
        )
        return (
            f"cupy {cupy.__version__}, CUDA {_format_version(cuda)}, driver for CUDA {_format_version(driver)}, "
            f"cuBLAS {major}.{minor // 100}; {devices}"
        )


def _describe_device(index: int) -> str:
    properties = runtime.getDeviceProperties(index)
    name = _device_name(properties)
    return f"device {index}: {name}, {properties['totalGlobalMem'] / 2**30:.1f} GiB"


def _device_name(properties: dict[str, Any]) -> str:
    name = properties["name"]
    return name.decode() if isinstance(name, bytes) else str(name)


def _format_version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
