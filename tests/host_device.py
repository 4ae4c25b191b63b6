"""HostDevice: what stands in for a GPU in the tests of the CuPy backend.

Its arrays are NumPy's, its kernels are the package's own .cu files compiled by g++ (tests/cuda_shim.py), its products
are NumPy's with their factors rounded as asked, its graphs are recordings, and every call is written down. Memory is
poisoned: what a kernel did not write is NaN.
"""

import gc
import os
import threading
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from cuda_shim import Host

from deepnotes.utils.errors import DeviceMemoryError, ForkedProcessError
from deepnotes_cupy.backend import CupyBackend
from deepnotes_cupy.device import Call, CaptureRefused, Product


@cache
def host(dtype: str, checked: bool, flush: bool) -> Host:
    """Return the kernels of one dtype; a device takes subnormals for 0 in single precision alone."""
    made = Host(dtype, checked)
    made.flush = flush and dtype == "float32"
    return made


def rounded(x: np.ndarray, factors: str) -> np.ndarray:
    """Return what a product sees of its factors, in single precision."""
    if factors == "tf32":
        bits = x.view(np.uint32)
        near = (bits + 0xFFF + (bits >> 13 & 1)) & np.uint32(0xFFFFE000)
        return np.where(np.isfinite(x), near.view(np.float32), x)
    if factors == "bfloat16":
        return (x.astype(np.uint32) << 16).view(np.float32)
    return x.view(np.float16).astype(np.float32) if factors == "float16" else x


class HostGraph:
    """Calls that were captured."""

    def __init__(self, device: "HostDevice", calls: list[Call]) -> None:
        self.device, self.calls = device, calls

    def launch(self) -> None:
        """Make them."""
        self.device.log.append(("graph", len(self.calls)))
        for place, call in enumerate(self.calls):
            self.device.replay(place, call)


class HostDevice:
    """See :class:`deepnotes_cupy.device.Device`.

    Attributes
    ----------
    log : list of tuple
        Every call: ("launch", kernel), ("product", factors), ("download", bytes), ...
    memory : int or None
        Bytes that there are.
    checked : bool
        Whether every access of a kernel to memory is looked at.
    refuses : str
        Why nothing can be captured, if nothing can.
    replay : callable
        How a graph makes one of its calls.
    """

    xp = np
    processors = 3

    def __init__(self, memory: int | None = None, flush: bool = False) -> None:
        self.keeps_subnormals = not flush
        self.log: list[tuple[Any, ...]] = []
        self.memory, self.used, self.checked = memory, 0, False
        self.refuses = ""
        self.replay: Any = lambda place, call: call()
        self._recording: list[Call] | None = None
        self._lock = threading.RLock()
        self._process = os.getpid()

    def count(self, *kinds: str) -> int:
        """Return how many calls of these kinds there were."""
        counted = Counter(entry[0] for entry in self.log)
        return sum(counted[kind] for kind in kinds)

    @contextmanager
    def section(self) -> Iterator[None]:
        """Hold the device."""
        if os.getpid() != self._process:
            raise ForkedProcessError('start processes with multiprocessing.get_context("spawn")')
        with self._lock:
            yield

    def empty(self, size: int, dtype: str) -> np.ndarray:
        """Return memory that holds NaN."""
        assert self._recording is None, "memory must not be asked for while a graph is captured"
        wanted = int(size) * np.dtype(dtype).itemsize
        if self.memory is not None and wanted > self.free():
            gc.collect()
            if wanted > self.free():
                raise DeviceMemoryError(wanted, self.free())
        array = np.full(size, np.nan if np.dtype(dtype).kind == "f" else 77, dtype)
        self.used += wanted
        weakref.finalize(array, self._released, wanted)
        return array

    def _released(self, size: int) -> None:
        self.used -= size

    def free(self) -> int:
        """Return what is left."""
        return (1 << 40) - self.used if self.memory is None else self.memory - self.used

    def prepare(self, kernel: str, dtype: str) -> None:
        """Compile."""
        host(dtype, self.checked, not self.keeps_subnormals)

    def _call(self, entry: tuple[Any, ...], do: Call) -> Call:
        def made() -> None:
            do()

        def call() -> None:
            self.log.append(entry)
            if self._recording is not None:
                self._recording.append(made)
            else:
                made()

        return call

    def launcher(self, kernel: str, dtype: str, grid: tuple[int, ...], block: int, arguments: Sequence[Any]) -> Call:
        """Return a launch of the kernel compiled for the CPU."""
        compiled, kept = host(dtype, self.checked, not self.keeps_subnormals), tuple(arguments)
        return self._call(("launch", kernel), lambda: compiled.launch(kernel, grid, block, *kept))

    def multiplier(self, product: Product) -> Call:
        """Return a product in single precision, or double."""
        (turned_a, turned_b), m, n, k, alpha, A, B, C, factors, parts = product
        kind = {"bfloat16": np.uint16, "float16": np.uint16, "float64": np.float64}.get(factors, np.float32)
        assert A.dtype == B.dtype == kind
        assert C.dtype == (np.float64 if factors == "float64" else np.float32)

        def multiply() -> None:
            for part in range(parts):
                a = rounded(A[part * m * k : (part + 1) * m * k], factors)
                b = rounded(B[part * k * n : (part + 1) * k * n], factors)
                a = a.reshape(m, k) if turned_a else a.reshape(k, m).T
                b = b.reshape(k, n) if turned_b else b.reshape(n, k).T
                c = C[part * m * n : (part + 1) * m * n]
                c.reshape(n, m)[...] = (C.dtype.type(alpha) * (a @ b)).T

        return self._call(("product", factors, m, n, k), multiply)

    def copier(self, source: np.ndarray, target: np.ndarray) -> Call:
        """Return a copy."""
        return self._call(("copy", source.nbytes), lambda: np.copyto(target, source))

    def upload(self, host: np.ndarray, target: np.ndarray) -> None:
        """Copy."""
        assert self._recording is None
        self.log.append(("upload", host.nbytes))
        target.reshape(-1)[: host.size] = host.reshape(-1).view(target.dtype)

    def download(self, source: np.ndarray) -> np.ndarray:
        """Copy."""
        assert self._recording is None, "the host must not wait while a graph is captured"
        self.log.append(("download", source.nbytes))
        return source.copy()

    def capture(self, run: Call) -> HostGraph:
        """Record."""
        if self.refuses:
            raise CaptureRefused(self.refuses)
        calls: list[Any] = []
        self._recording = calls
        try:
            run()
        finally:
            self._recording = None
        return HostGraph(self, calls)

    def pinned(self, size: int, dtype: str) -> np.ndarray:
        """Return memory."""
        return np.zeros(size, dtype)

    def send(self, pairs: Sequence[tuple[np.ndarray, np.ndarray]], after: Any) -> object:
        """Copy."""
        self.log.append(("send", sum(h.nbytes for h, _ in pairs)))
        for source, target in pairs:
            target[...] = source
        return object()

    def mark(self) -> object:
        """Return an event."""
        return object()

    def await_event(self, event: Any) -> None:
        """Do nothing: all has happened."""

    def settle(self, event: Any) -> None:
        """Do nothing: all has happened."""

    def describe(self) -> str:
        """Return words."""
        return "the CPU in place of a GPU"


def backend(precision: str = "highest", memory: int | None = None, flush: bool = False, **options: Any) -> Any:
    """Return the backend on a new HostDevice."""
    made = CupyBackend(HostDevice(memory, flush), precision, **options)
    made.options = {}
    return made
