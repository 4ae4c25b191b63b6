"""The interface to a device, which everything above it in this backend uses.

:class:`~deepnotes_cupy.cuda.CudaDevice` is the real one. In the tests a stand-in has NumPy's arrays, runs the same
kernels compiled for the CPU and records every call, so that Programs, fallbacks, streaming and errors are checked
against the equations without a GPU.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np

Call: TypeAlias = Callable[[], None]
"""A launch, product or copy that is prepared, and can be enqueued any number of times."""

Factors: TypeAlias = Literal["float64", "float32", "tf32", "bfloat16", "float16"]
"""The precision of a product's factors; sums are in float64 for the first and in float32 for all others."""

PRECISIONS: dict[str, Factors] = {"highest": "float32", "high": "tf32", "bfloat16": "bfloat16", "float16": "float16"}
"""The factors of float32 products, by `matmul_precision`; those of float64 stay float64."""

UNITS: dict[Factors, float] = {
    "float64": 2.0**-53,
    "float32": 2.0**-24,
    "tf32": 2.0**-11,
    "bfloat16": 2.0**-8,
    "float16": 2.0**-11,
}
"""Their unit roundoffs."""


class CaptureRefused(RuntimeError):
    """The enqueued work cannot become a graph; the message says why."""


class Product(NamedTuple):
    """``C = alpha op(A) op(B)`` in column-major terms: op(A) is (m, k), op(B) is (k, n), C is (m, n).

    Attributes
    ----------
    turned : (bool, bool)
        Whether A, and B, are taken transposed.
    m, n, k : int
    alpha : float
    A, B, C : array
        Flat, without gaps between columns: A is stored as (m, k), or (k, m) if it is transposed.
    factors : str
    parts : int
        The number of products, each of k terms; A, B and C hold them one after the other.
    """

    turned: tuple[bool, bool]
    m: int
    n: int
    k: int
    alpha: float
    A: Any
    B: Any
    C: Any
    factors: Factors
    parts: int = 1


class Graph(Protocol):
    """Calls that were captured, to be enqueued together."""

    def launch(self) -> None:
        """Enqueue all of them."""


class Device(Protocol):
    """One device, with a stream of this backend's own in which all enqueued work runs in order."""

    xp: Any
    """The array module of its arrays."""

    processors: int
    """The number of multiprocessors."""

    keeps_subnormals: bool
    """Whether float32 subnormals are kept instead of flushed to 0."""

    def section(self) -> AbstractContextManager[None]:
        """Return a context that holds the device for this thread: its stream is current, after all work so far."""

    def empty(self, size: int, dtype: str) -> Any:
        """Return a new flat array.

        Raises
        ------
        DeviceMemoryError
        """

    def launcher(self, kernel: str, dtype: str, grid: tuple[int, ...], block: int, arguments: Sequence[Any]) -> Call:
        """Return the launch of a kernel built for `dtype`: arrays, None for no array, and numbers are its arguments."""

    def prepare(self, kernel: str, dtype: str) -> None:
        """Compile a kernel and load it, unless it is already loaded."""

    def multiplier(self, product: Product) -> Call:
        """Return the product, by cuBLAS or its equivalent."""

    def copier(self, source: Any, target: Any) -> Call:
        """Return the copy of an array to another one of the same size, both on the device."""

    def upload(self, host: np.ndarray, target: Any) -> None:
        """Enqueue the copy of a host array to the first elements of `target`; the host array may change afterwards."""

    def download(self, source: Any) -> np.ndarray:
        """Return a copy of an array on the host, after all earlier work."""

    def capture(self, run: Call) -> Graph:
        """Return what `run` enqueues as a graph; it is not executed.

        Raises
        ------
        CaptureRefused
        """

    def pinned(self, size: int, dtype: str) -> np.ndarray:
        """Return a flat host array that can be sent while the device computes."""

    def send(self, pairs: Sequence[tuple[np.ndarray, Any]], after: Any) -> Any:
        """Copy pinned arrays to the device, one target each, concurrently with the stream; return an event.

        It begins after the event `after`, if there is one.
        """

    def mark(self) -> Any:
        """Return an event that occurs when all work enqueued so far is done."""

    def await_event(self, event: Any) -> None:
        """Make work enqueued from now on wait for an event."""

    def settle(self, event: Any) -> None:
        """Wait for an event on the host."""

    def free(self) -> int:
        """Return the bytes that can be allocated."""

    def describe(self) -> str:
        """Describe the device in a few words."""
