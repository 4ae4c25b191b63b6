"""The seam inside this backend: what everything above asks of a device.

:class:`~deepnotes_cupy.cuda.CudaDevice` is the real one. In the tests a stand-in has NumPy's arrays, runs the same
kernels compiled for the CPU and writes down every call, so that Programs, fallbacks, streaming and errors are held to
the equations without a GPU.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np

Call: TypeAlias = Callable[[], None]
"""Something made ready to be enqueued, as often as one likes: a launch, a product, a copy."""

Factors: TypeAlias = Literal["float64", "float32", "tf32", "bfloat16", "float16"]
"""How a product sees its factors; it adds up in float64 for the first and in float32 for all others."""

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
    """What was enqueued cannot become a graph; the message says why."""


class Product(NamedTuple):
    """``C = alpha op(A) op(B)`` in column-major words: op(A) is (m, k), op(B) is (k, n), C is (m, n).

    Attributes
    ----------
    turned : (bool, bool)
        Whether A, and B, are taken transposed.
    m, n, k : int
    alpha : float
    A, B, C : array
        Flat, without gaps between columns: A is stored as (m, k), or (k, m) where it is turned.
    factors : str
    parts : int
        With more than one, as many products of k terms each: A, B and C hold theirs one after the other.
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
    """One device, with a stream of this backend's own in which everything enqueued happens in turn."""

    xp: Any
    """The array module of its arrays."""

    processors: int
    """How many multiprocessors it has."""

    keeps_subnormals: bool
    """Whether float32 numbers below the smallest normal one are kept, and not taken for 0."""

    def section(self) -> AbstractContextManager[None]:
        """Return what holds the device for this thread: its stream is the current one, after all work so far."""

    def empty(self, size: int, dtype: str) -> Any:
        """Return a new flat array.

        Raises
        ------
        DeviceMemoryError
        """

    def launcher(self, kernel: str, dtype: str, grid: tuple[int, ...], block: int, arguments: Sequence[Any]) -> Call:
        """Return the launch of a kernel built for `dtype`: arrays, None for no array, and numbers are its arguments."""

    def prepare(self, kernel: str, dtype: str) -> None:
        """Compile a kernel and load it, if it is not."""

    def multiplier(self, product: Product) -> Call:
        """Return the product, by cuBLAS or its like."""

    def copier(self, source: Any, target: Any) -> Call:
        """Return the copy of an array to another one of the same size, both on the device."""

    def upload(self, host: np.ndarray, target: Any) -> None:
        """Enqueue the copy of a host array to the first elements of `target`; the host array may change afterwards."""

    def download(self, source: Any) -> np.ndarray:
        """Return a copy of an array on the host, after all that was enqueued before."""

    def capture(self, run: Call) -> Graph:
        """Return what `run` enqueues as a graph; it is not executed.

        Raises
        ------
        CaptureRefused
        """

    def pinned(self, size: int, dtype: str) -> np.ndarray:
        """Return a flat host array that can be sent while the device computes."""

    def send(self, pairs: Sequence[tuple[np.ndarray, Any]], after: Any) -> Any:
        """Copy pinned arrays to as many elements on the device beside the stream; return an event.

        It begins when the event `after` has happened, if there is one.
        """

    def mark(self) -> Any:
        """Return an event: everything enqueued so far has happened."""

    def await_event(self, event: Any) -> None:
        """Have what is enqueued from now on wait for an event."""

    def settle(self, event: Any) -> None:
        """Wait for an event on the host."""

    def free(self) -> int:
        """Return the bytes that could be had."""

    def describe(self) -> str:
        """Return what it is, in a few words."""
