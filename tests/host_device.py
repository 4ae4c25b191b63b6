"""HostDevice: a stand-in for a GPU in the tests of the CuPy backend.

Its arrays are NumPy arrays, its kernels are the package's .cu files compiled by g++ (tests/cuda_shim.py), its products
are computed by NumPy from rounded factors, and its graphs are lists of calls. It logs every call. New memory is filled
with NaN, so that tests detect elements that no kernel has written.
"""

import gc
import os
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import fake_nccl
import numpy as np
from cuda_shim import Host

from deepnotes.utils.errors import DeviceMemoryError, ForkedProcessError
from deepnotes_cupy.backend import CupyBackend
from deepnotes_cupy.device import Call, CaptureRefused, Product, Releasable, Slot
from deepnotes_cupy.sources import Kernel


@cache
def host(source: str, dtype: str, checked: bool, flush: bool) -> Host:
    """Return the kernels of a program for a dtype; with `flush`, those in single precision flush subnormals."""
    kernels = Host(dtype, checked, source=source)
    kernels.flush = flush and dtype == "float32"
    return kernels


def round_factor(x: np.ndarray, factors: str) -> np.ndarray:
    """Return a factor as float32, rounded to the precision `factors`; 16-bit factors are stored as integers."""
    if factors == "tf32":
        bits = x.view(np.uint32)
        rounded = (bits + 0xFFF + (bits >> 13 & 1)) & np.uint32(0xFFFFE000)
        return np.where(np.isfinite(x), rounded.view(np.float32), x)
    if factors == "bfloat16":
        return (x.astype(np.uint32) << 16).view(np.float32)
    return x.view(np.float16).astype(np.float32) if factors == "float16" else x


def stored(x: np.ndarray, part: int, layout: tuple[int, int, int], factors: str) -> np.ndarray:
    """Return part number `part` of a factor, shape (rows, columns); the layout has the distance of columns as well."""
    rows, columns, stride = layout
    start = part * columns * stride
    with_gaps = np.lib.stride_tricks.as_strided(x[start:], (columns, rows), (stride * x.itemsize, x.itemsize))
    assert start + (columns - 1) * stride + rows <= x.size
    return round_factor(np.ascontiguousarray(with_gaps), factors).T


class HostGraph:
    """A graph: a list of captured calls."""

    def __init__(self, device: "HostDevice", calls: list[Call]) -> None:
        self.device, self.calls = device, calls

    def launch(self) -> None:
        """Execute all captured calls."""
        self.device.log.append(("graph", len(self.calls)))
        for index, call in enumerate(self.calls):
            self.device.replay(index, call)


class HostDevice:
    """Implements :class:`deepnotes_cupy.device.Device` on the CPU.

    Attributes
    ----------
    log : list of tuple
        Every call: ("launch", kernel), ("product", factors), ("download", bytes), ...
    memory : int or None
        The number of bytes of memory; None means 1 TiB.
    checked : bool
        Whether every memory access of a kernel is checked.
    capture_error : str
        The reason why captures fail; "" if they succeed.
    way : int
        Which of several ways to compute the same is taken for the fastest.
    late : bool
        Whether the calls in the second stream are made as late as possible, and not as early.
    has_nccl : bool
        Whether NCCL is installed.
    bus : str
        The identity of the device; "" means one of its own.
    replay : callable
        Executes a call of a graph, given its index and the call; tests replace it to inject faults.
    """

    xp = np
    processors = 3
    shared_bytes = 227 << 10
    clusters = True

    def __init__(self, memory: int | None = None, flush: bool = False) -> None:
        self.keeps_subnormals = not flush
        self.log: list[tuple[Any, ...]] = []
        self.memory, self.used, self.checked = memory, 0, False
        self.capture_error, self.late, self.way = "", False, 0
        self.replay: Any = lambda index, call: call()
        self.has_nccl, self.bus = True, ""
        self._recording: list[Call] | None = None
        self._holders: weakref.WeakSet[Releasable] = weakref.WeakSet()
        self._addressed: list[weakref.ref[np.ndarray]] = []
        self._aside: list[Call] = []
        self._chosen: dict[str, int] = {}
        self._lock = threading.RLock()
        self._process = os.getpid()

    def count(self, *kinds: str) -> int:
        """Return the number of calls of these kinds."""
        counts = Counter(entry[0] for entry in self.log)
        return sum(counts[kind] for kind in kinds)

    @contextmanager
    def section(self) -> Iterator[None]:
        """Lock the device."""
        if os.getpid() != self._process:
            raise ForkedProcessError('start processes with multiprocessing.get_context("spawn")')
        with self._lock:
            yield

    def empty(self, size: int, dtype: str) -> np.ndarray:
        """Return a new array, filled with NaN."""
        assert self._recording is None, "memory is allocated while a graph is captured"
        requested = int(size) * np.dtype(dtype).itemsize
        if self.memory is not None and requested > self.free_bytes():
            for holder in list(self._holders):
                holder.release()
            gc.collect()
            if requested > self.free_bytes():
                raise DeviceMemoryError(requested, self.free_bytes())
        array = np.full(size, np.nan if np.dtype(dtype).kind == "f" else 77, dtype)
        self.used += requested
        weakref.finalize(array, self._release, requested)
        return array

    def release_on_shortage(self, holder: Releasable) -> None:
        """Have `holder` release its memory before an error is raised."""
        self._holders.add(holder)

    def _release(self, size: int) -> None:
        self.used -= size

    def free_bytes(self) -> int:
        """Return the number of bytes that can be allocated."""
        return (1 << 40) - self.used if self.memory is None else self.memory - self.used

    def prepare(self, kernel: Kernel, dtype: str) -> None:
        """Compile the kernel's program."""
        host(kernel.source, dtype, self.checked, not self.keeps_subnormals)

    def _call(self, entry: tuple[Any, ...], function: Callable[[], object]) -> Call:
        """Return a call that is logged as `entry`, and recorded while a graph is captured."""

        def execute() -> None:
            function()

        def call() -> None:
            self.log.append(entry)
            if self._recording is not None:
                self._recording.append(execute)
            else:
                execute()

        return call

    def address(self, x: np.ndarray) -> int:
        """Return the address of an array; kernels may access it from now on."""
        self._addressed = [*(ref for ref in self._addressed if ref() is not None), weakref.ref(x)]
        return int(x.ctypes.data)

    def launcher(
        self, kernel: Kernel, dtype: str, grid: tuple[int, ...], block: int, arguments: Sequence[Any], shared: int = 0
    ) -> Call:
        """Return a call that launches the kernel, compiled for the CPU."""
        kernels = host(kernel.source, dtype, self.checked, not self.keeps_subnormals)
        name, fixed_arguments = kernel.name, tuple(arguments)
        reaches = self.checked and any(p.kind == "Source" for p in kernel.parameters)

        def launch() -> None:
            reachable = [x for ref in self._addressed if reaches and (x := ref()) is not None]
            current = [x.array if isinstance(x, Slot) else x for x in fixed_arguments]
            kernels.launch(name, grid, block, *current, shared=shared, reachable=reachable)

        return self._call(("launch", name), launch)

    def multiplier(self, product: Product, tuned: bool = False) -> Call:
        """Return a call that computes a product in single or double precision."""
        (transpose_a, transpose_b), m, n, k, alpha, A, B, C, factors, parts, _ = product
        layout_a, layout_b, _ = product.layouts
        kind = {"bfloat16": np.uint16, "float16": np.uint16, "float64": np.float64}.get(factors, np.float32)
        assert A.dtype == B.dtype == kind
        assert C.dtype == (np.float64 if factors == "float64" else np.float32)

        def multiply() -> None:
            for part in range(parts):
                a, b = stored(A, part, layout_a, factors), stored(B, part, layout_b, factors)
                a, b = a.T if transpose_a else a, b.T if transpose_b else b
                c = C[part * m * n : (part + 1) * m * n]
                c.reshape(n, m)[...] = (C.dtype.type(alpha) * (a @ b)).T

        return self._call(("product", factors, m, n, k), multiply)

    def fastest(self, key: str, ways: Sequence[Sequence[Call]]) -> int:
        """Make the calls of each way, as if to time them, and return `way`, or what was returned for the key before."""
        assert self._recording is None, "work is timed while a graph is captured"
        if key not in self._chosen:
            count = len(self.log)
            for calls in ways:
                for call in calls:
                    call()
            self.log[count:] = [("fastest", key)]
        return self._chosen.setdefault(key, self.way)

    def chosen(self, key: str) -> int | None:
        """Return what :meth:`fastest` has returned for a key, or None."""
        return self._chosen.get(key)

    def copier(self, source: np.ndarray, target: np.ndarray) -> Call:
        """Return a call that copies an array."""
        return self._call(("copy", source.nbytes), lambda: np.copyto(target, source))

    def upload(self, host: np.ndarray, target: np.ndarray) -> None:
        """Copy a host array to the beginning of `target`."""
        assert self._recording is None
        self.log.append(("upload", host.nbytes))
        target.reshape(-1)[: host.size] = host.reshape(-1).view(target.dtype)

    def download(self, source: np.ndarray) -> np.ndarray:
        """Return a copy of a device array on the host."""
        assert self._recording is None, "the host waits while a graph is captured"
        self.log.append(("download", source.nbytes))
        return source.copy()

    def capture(self, run: Call) -> HostGraph:
        """Return a graph of the calls that `run` makes."""
        if self.capture_error:
            raise CaptureRefused(self.capture_error)
        calls: list[Any] = []
        self._recording = calls
        try:
            run()
        finally:
            self._recording = None
        return HostGraph(self, calls)

    def aside(self, calls: Sequence[Call]) -> Call:
        """Return a call that makes other calls at once or, if `late`, when :meth:`rejoin` is called."""

        def run() -> None:
            if self.late:
                self._aside.extend(calls)
            else:
                for call in calls:
                    call()

        return run

    def rejoin(self) -> None:
        """Make the calls that are late."""
        calls, self._aside = self._aside, []
        for call in calls:
            call()

    def empty_pinned(self, size: int, dtype: str) -> np.ndarray:
        """Return an array of zeros."""
        return np.zeros(size, dtype)

    def send(self, pairs: Sequence[tuple[np.ndarray, np.ndarray]], after: Any) -> object:
        """Copy each source to its target immediately, and return an event."""
        self.log.append(("send", sum(h.nbytes for h, _ in pairs)))
        for source, target in pairs:
            target[...] = source
        return object()

    def receive(self, source: np.ndarray, host: np.ndarray, after: Any) -> object:
        """Copy immediately, and return an event."""
        self.log.append(("receive", host.nbytes))
        host[...] = source
        return object()

    def record_event(self) -> object:
        """Return an event."""
        return object()

    def await_event(self, event: Any) -> None:
        """Do nothing, since all work is done immediately."""

    def synchronize(self, event: Any) -> None:
        """Do nothing, since all work is done immediately."""

    def has_occurred(self, event: Any) -> bool:
        """Return True, since all work is done immediately."""
        return True

    def nccl(self) -> Any:
        """Return the stand-in for NCCL, or None if there is none."""
        return fake_nccl if self.has_nccl else None

    def stream_address(self) -> int:
        """Return 0."""
        return 0

    def identity(self) -> str:
        """Return the address of this object, or another one's."""
        return self.bus or str(id(self))

    def describe(self) -> str:
        """Return a short description."""
        return "the CPU instead of a GPU"


def backend(precision: str = "highest", memory: int | None = None, flush: bool = False, **options: Any) -> Any:
    """Return the backend on a new HostDevice, which trains by graphs unless `driver` is given."""
    result = CupyBackend(HostDevice(memory, flush), precision, **{"driver": "graph"} | options)
    result.options = {}
    return result
