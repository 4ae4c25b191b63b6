"""A stand-in for ``cupy.cuda.nccl``: ranks are threads of one process, and buffers are in the memory of the host.

It enforces the rules of NCCL: all ranks of a communicator join; a rank sends to its partner and receives in one
group, since either alone would wait for ever; types and numbers of elements agree; nothing is called after an abort.
"""

import ctypes
import itertools
import queue
import threading
from typing import Any

import numpy as np

NCCL_FLOAT32, NCCL_FLOAT64, NCCL_SUM = 7, 8, 0
DTYPES = {NCCL_FLOAT32: np.float32, NCCL_FLOAT64: np.float64}
SECONDS = 10
available = True
_ids = itertools.count(1)
_lock = threading.Lock()
_worlds: dict[tuple[int, ...], "World"] = {}
_local = threading.local()
log: list[tuple[Any, ...]] = []
"""All calls that move data: the name, the rank, and the number of elements."""


communicators: list["NcclCommunicator"] = []
"""All communicators that were made."""


class NcclError(RuntimeError):
    """Stands in for CuPy's exception."""


class World:
    """The ranks of a communicator."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size)
        self.mail: dict[tuple[int, int], queue.Queue[np.ndarray]] = {
            (sender, receiver): queue.Queue() for sender in range(size) for receiver in range(size)
        }


def get_unique_id() -> tuple[int, ...]:
    """Return 128 numbers."""
    return next(_ids), *([-1] * 127)


def groupStart() -> None:
    """Begin a group."""
    assert not getattr(_local, "calls", None)
    _local.calls = []


def groupEnd() -> None:
    """Make the calls of the group: first all that send."""
    calls, _local.calls = _local.calls, None
    assert sorted(kind for kind, _ in calls) == ["recv", "send"]
    for _, call in sorted(calls, key=lambda entry: entry[0] != "send"):
        call()


def _array(address: int, count: int, kind: int) -> np.ndarray:
    dtype = np.dtype(DTYPES[kind])
    return np.frombuffer((ctypes.c_byte * (count * dtype.itemsize)).from_address(address), dtype)


class NcclCommunicator:
    """A rank."""

    def __init__(self, size: int, unique_id: tuple[int, ...], rank: int) -> None:
        assert type(unique_id) is tuple
        assert len(unique_id) == 128
        with _lock:
            self.world = _worlds.setdefault(unique_id, World(size))
        self.size, self.rank, self.aborted = size, rank, False
        communicators.append(self)
        try:
            self.world.barrier.wait(SECONDS)
        except threading.BrokenBarrierError:
            raise NcclError("NCCL_ERROR_SYSTEM_ERROR: a rank did not join") from None

    def abort(self) -> None:
        """End the communicator."""
        self.aborted = True

    def check_async_error(self) -> None:
        """Do nothing: there are no errors."""

    def send(self, address: int, count: int, kind: int, peer: int, stream: int) -> None:
        """Send to a rank, at the end of the group."""
        assert not self.aborted
        data = _array(address, count, kind).copy()
        log.append(("send", self.rank, count))
        _local.calls.append(("send", lambda: self.world.mail[self.rank, peer].put(data)))

    def recv(self, address: int, count: int, kind: int, peer: int, stream: int) -> None:
        """Receive from a rank, at the end of the group."""
        assert not self.aborted
        _local.calls.append(("recv", lambda: self._receive(_array(address, count, kind), peer)))

    def allReduce(self, source: int, target: int, count: int, kind: int, op: int, stream: int) -> None:
        """Add the buffers in an order that depends on the number of ranks: from the last to the first."""
        assert op == NCCL_SUM
        assert not self.aborted
        log.append(("allReduce", self.rank, count))
        own, total = _array(source, count, kind).copy(), _array(target, count, kind)
        for peer in range(self.size):
            self.world.mail[self.rank, peer].put(own)
        total[...] = 0
        part = np.empty_like(own)
        for peer in reversed(range(self.size)):
            self._receive(part, peer)
            total += part

    def _receive(self, target: np.ndarray, peer: int) -> None:
        try:
            data = self.world.mail[peer, self.rank].get(timeout=SECONDS)
        except queue.Empty:
            raise NcclError("NCCL_ERROR_SYSTEM_ERROR: a rank did not send") from None
        assert (data.dtype, data.shape) == (target.dtype, target.shape)
        target[...] = data
