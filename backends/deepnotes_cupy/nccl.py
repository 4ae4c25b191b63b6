"""Sums of arrays over the GPUs of several processes, one GPU each, by NCCL.

NCCL runs in this backend's stream. That a rank has failed is seen on the host: once a sum is enqueued, the ranks wait
for each other there, where they get reports of failures, and only then for the GPU.
"""

import logging
import socket
import time
from collections.abc import Callable
from typing import Any

from deepnotes.backends import RankError
from deepnotes_cupy.device import Device

SPINNING, PAUSE = 1e-3, 5e-5
"""The number of seconds to poll without a pause, and the pauses afterwards."""


def nccl_sum(device: Device, ranks: Any) -> "NcclSum | None":
    """Return a function that sums arrays over ranks, or None if NCCL cannot: it is missing, or ranks share a GPU.

    All ranks call this function, and get the same answer.

    Parameters
    ----------
    device : Device
    ranks : Ranks

    Raises
    ------
    RankError
        If NCCL does not connect the GPUs.
    """
    nccl = device.nccl()
    gpus = ranks.gather(None if nccl is None else f"{socket.gethostname()} {device.identity()}")
    if None in gpus or len(set(gpus)) < ranks.size:
        cause = f"NCCL is missing on rank {gpus.index(None)}" if None in gpus else "some of them share a GPU"
        logging.getLogger("deepnotes").debug("cupy: the ranks sum gradients on the host, since %s", cause)
        return None
    unique_id = ranks.broadcast(nccl.get_unique_id() if ranks.rank == 0 else None)
    return NcclSum(device, ranks, unique_id)


class NcclSum:
    """A function that sums arrays over ranks.

    Parameters
    ----------
    device : Device
    ranks : Ranks
        Gradients are summed in the fixed tree if their `fixed_order` is true. After their `time_limit`, a sum counts
        as lost.
    unique_id : tuple of int
        The result of ``nccl.get_unique_id`` on rank 0.
    """

    def __init__(self, device: Device, ranks: Any, unique_id: tuple[int, ...]) -> None:
        self._device, self._ranks = device, ranks
        self._nccl: Any = device.nccl()
        self._types = {"float32": self._nccl.NCCL_FLOAT32, "float64": self._nccl.NCCL_FLOAT64}
        add = self._add_in_tree if ranks.fixed_order else self._add_by_nccl
        self._add: Callable[[Any], Any] = add
        with device.section():
            self._communicator = self._call(self._nccl.NcclCommunicator, ranks.size, unique_id, ranks.rank)

    def __call__(self, x: Any) -> Any:
        """Return the sum of the arrays x, shape (p,), of all ranks; it has the same bits on all of them.

        Raises
        ------
        RankError
            If another rank has failed or does not answer, or NCCL fails.
        """
        with self._device.section():
            try:
                total = self._add(x)
                event = self._device.record_event()
                self._ranks.barrier()
                self._wait(event)
            except BaseException:
                self._communicator.abort()  # otherwise the stream would wait for ever
                raise
        return total

    def _add_in_tree(self, x: Any) -> Any:
        """Return the sum by recursive doubling, with the operands in the order of the ranks."""
        stream, distance = self._device.stream_address(), 1
        while distance < self._ranks.size:
            partner = self._ranks.rank ^ distance
            received = self._device.empty(x.size, str(x.dtype))
            arguments = x.size, self._types[str(x.dtype)], partner, stream
            self._call(self._nccl.groupStart)
            self._call(self._communicator.send, self._device.address(x), *arguments)
            self._call(self._communicator.recv, self._device.address(received), *arguments)
            self._call(self._nccl.groupEnd)
            x = received + x if partner < self._ranks.rank else x + received
            distance *= 2
        return x

    def _add_by_nccl(self, x: Any) -> Any:
        """Return the sum in an order that NCCL chooses."""
        total, device = self._device.empty(x.size, str(x.dtype)), self._device
        self._call(
            self._communicator.allReduce, device.address(x), device.address(total), x.size,
            self._types[str(x.dtype)], self._nccl.NCCL_SUM, device.stream_address(),
        )  # fmt: skip
        return total

    def _wait(self, event: Any) -> None:
        """Wait for an event, unless NCCL fails or the time limit is exceeded."""
        start = time.monotonic()
        while not self._device.has_occurred(event):
            waited = time.monotonic() - start
            if waited > self._ranks.time_limit:
                raise RankError(f"a sum of NCCL took longer than {self._ranks.time_limit:g} s (time_limit)")
            self._call(self._communicator.check_async_error)
            if waited > SPINNING:
                time.sleep(PAUSE)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function of NCCL, and convert its errors."""
        try:
            return function(*arguments)
        except self._nccl.NcclError as error:
            raise RankError(f"NCCL failed on rank {self._ranks.rank}: {error}") from error
