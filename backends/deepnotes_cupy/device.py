"""The interface through which the rest of this backend uses a device.

:class:`~deepnotes_cupy.cuda.CudaDevice` implements it for a GPU. In the tests, ``tests/host_device.py`` implements it
on NumPy's arrays: it runs the same kernels, compiled for the CPU, and records every call. So Programs, fallbacks,
streaming and errors can be tested without a GPU.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np

from deepnotes_cupy.sources import Kernel

Call: TypeAlias = Callable[[], None]
"""A prepared launch, product or copy: each call enqueues it."""

Factors: TypeAlias = Literal["float64", "float32", "tf32", "bfloat16", "float16"]
"""The precision of a product's factors. Its sums are in float64 for float64 factors, otherwise in float32."""

PRECISIONS: dict[str, Factors] = {"highest": "float32", "high": "tf32", "bfloat16": "bfloat16", "float16": "float16"}
"""The precision of the factors of float32 products, by `matmul_precision`; float64 factors stay float64."""

TIMED = "cupy: the ways to compute %s take %s ms"
"""The message that is logged, at level DEBUG, after :meth:`Device.fastest` has timed several ways."""

UNITS: dict[Factors, float] = {
    "float64": 2.0**-53,
    "float32": 2.0**-24,
    "tf32": 2.0**-11,
    "bfloat16": 2.0**-8,
    "float16": 2.0**-11,
}
"""The unit roundoff of each precision."""


class CaptureRefused(RuntimeError):
    """The enqueued work cannot be captured as a graph; the message has the reason."""


class Slot:
    """An array argument of prepared calls that changes from call to call: each call uses the current `array`.

    Parameters
    ----------
    size : int
        The size of the arrays.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.array: Any = None


class Product(NamedTuple):
    """``C = alpha op(A) op(B)`` in column-major order: op(A) is (m, k), op(B) is (k, n), C is (m, n).

    Attributes
    ----------
    transposed : (bool, bool)
        Whether A and B, respectively, are transposed.
    m, n, k : int
    alpha : float
    A, B, C : array
        Flat. A is stored as (m, k), or as (k, m) if it is transposed; B likewise.
    factors : str
    parts : int
        The number of products, all with the same m, n and k; A, B and C hold the operands and results of all of them,
        one after the other.
    strides : (int, int) or None
        The distances between the columns of A, and of B, as they are stored; None if there are no gaps. C has none.
    """

    transposed: tuple[bool, bool]
    m: int
    n: int
    k: int
    alpha: float
    A: Any
    B: Any
    C: Any
    factors: Factors
    parts: int = 1
    strides: tuple[int, int] | None = None

    @property
    def layouts(self) -> tuple[tuple[int, int, int], ...]:
        """The numbers of rows and columns of A, B and C as they are stored, and the distances between columns."""
        (a, b), m, n, k = self.transposed, self.m, self.n, self.k
        shapes = (k, m) if a else (m, k), (n, k) if b else (k, n), (m, n)
        strides = *(self.strides or (shapes[0][0], shapes[1][0])), m
        return tuple((*shape, stride) for shape, stride in zip(shapes, strides, strict=True))


class Releasable(Protocol):
    """Something that holds memory that it can do without."""

    def release(self) -> None:
        """Release the memory."""


class Graph(Protocol):
    """Captured calls that are enqueued together."""

    def launch(self) -> None:
        """Enqueue all calls of the graph."""


class Device(Protocol):
    """A device with a stream of its own, in which all enqueued work runs in order."""

    xp: Any
    """The array module of its arrays."""

    processors: int
    """The number of multiprocessors."""

    shared_bytes: int
    """The largest size of the shared memory of a block."""

    clusters: bool
    """Whether the blocks of a cluster can access each other's shared memory."""

    keeps_subnormals: bool
    """Whether float32 subnormals are kept instead of flushed to 0."""

    def section(self) -> AbstractContextManager[None]:
        """Return a context that locks the device for this thread and makes its stream current.

        Work enqueued within the context runs after all work enqueued before it, and before all work enqueued after it.
        """

    def empty(self, size: int, dtype: str) -> Any:
        """Return a new flat array.

        Raises
        ------
        DeviceMemoryError
        """

    def address(self, x: Any) -> int:
        """Return the address of an array, to be stored in a structure in device memory."""

    def launcher(
        self, kernel: Kernel, dtype: str, grid: tuple[int, ...], block: int, arguments: Sequence[Any], shared: int = 0
    ) -> Call:
        """Return a call that launches a kernel built for `dtype`.

        Arguments are numbers, arrays, Slots, or None (null); `shared` is the size of the dynamic shared memory in
        bytes.
        """

    def prepare(self, kernel: Kernel, dtype: str) -> None:
        """Compile and load a kernel, unless it is loaded already."""

    def multiplier(self, product: Product, tuned: bool = False) -> Call:
        """Return a call that computes the product, by cuBLAS or its equivalent.

        If `tuned`, the fastest of several algorithms is chosen now, which takes time and overwrites C.
        """

    def fastest(self, key: str, ways: Sequence[Sequence[Call]]) -> int:
        """Return the index of the fastest of several ways to compute the same, or 0 if they take nearly equal time.

        They are timed once for a key, which describes what is computed; that overwrites the results. The answer is
        kept, so that later processes take the same way.
        """

    def chosen(self, key: str) -> int | None:
        """Return what :meth:`fastest` has answered for a key, in this process or an earlier one; None if nothing."""

    def copier(self, source: Any, target: Any) -> Call:
        """Return a call that copies an array to another one of the same size, both on the device."""

    def upload(self, host: np.ndarray, target: Any) -> None:
        """Enqueue a copy of a host array to the first elements of `target`.

        The caller may modify the host array as soon as this returns.
        """

    def download(self, source: Any) -> np.ndarray:
        """Return a copy of an array on the host, after waiting for all work enqueued so far."""

    def capture(self, run: Call) -> Graph:
        """Call `run`, and return the work that it enqueues as a graph, without executing the work.

        Raises
        ------
        CaptureRefused
        """

    def aside(self, calls: Sequence[Call]) -> Call:
        """Return a call that makes other calls in a second stream.

        They start after all work enqueued before that call. Work enqueued after it does not wait for them, until
        :meth:`rejoin` is called.
        """

    def rejoin(self) -> None:
        """Make work enqueued from now on wait for the second stream."""

    def empty_pinned(self, size: int, dtype: str) -> np.ndarray:
        """Return a new flat host array in page-locked memory, which can be sent while the device computes."""

    def send(self, pairs: Sequence[tuple[np.ndarray, Any]], after: Any) -> Any:
        """Copy pinned arrays to the device concurrently with the stream, and return an event for the end of the copies.

        Parameters
        ----------
        pairs : sequence of (ndarray, array)
            Each pinned array and its target.
        after : event or None
            An event after which the copies begin.
        """

    def receive(self, source: Any, host: np.ndarray, after: Any) -> Any:
        """Copy to a pinned array, concurrently with the stream and with :meth:`send`, and return an event for the end.

        The copy begins after the event `after`.
        """

    def record_event(self) -> Any:
        """Return an event for the end of all work enqueued so far."""

    def await_event(self, event: Any) -> None:
        """Make work enqueued from now on wait for an event."""

    def synchronize(self, event: Any) -> None:
        """Block the host until an event has occurred."""

    def has_occurred(self, event: Any) -> bool:
        """Return whether an event has occurred."""

    def nccl(self) -> Any:
        """Return CuPy's module of NCCL, or None if the library is missing."""

    def stream_address(self) -> int:
        """Return the address of the stream."""

    def identity(self) -> str:
        """Return a text that tells this device from all others of the machine, whichever of them are visible."""

    def release_on_shortage(self, holder: Releasable) -> None:
        """Have `holder` release its memory if memory is short, before :meth:`empty` raises an error.

        Only a weak reference to `holder` is kept.
        """

    def free_bytes(self) -> int:
        """Return the number of bytes that can be allocated."""

    def describe(self) -> str:
        """Return a short description of the device."""
