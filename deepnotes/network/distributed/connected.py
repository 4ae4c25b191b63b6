"""Ranks that exchange messages: sums, broadcasts and gathers in terms of messages between two ranks."""

import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np

from deepnotes.network.distributed.ranks import SHARDS, TIME_LIMIT, as_shards
from deepnotes.utils.arguments import number
from deepnotes.utils.errors import RankError
from deepnotes.utils.wording import brief

Messages: TypeAlias = Sequence[tuple[int, np.ndarray]]
"""Buffers to send to ranks, or to receive from ranks."""


class ConnectedRanks:
    """The base class of ranks that exchange messages; see :class:`~deepnotes.network.distributed.Ranks`.

    A subclass defines :meth:`transfer` and :meth:`report`.

    Parameters
    ----------
    rank, size : int
    shards : int, default 8
    time_limit : float, default 300.0
        The number of seconds to wait for another rank before a RankError says that it does not answer. It has to be
        longer than any evaluation or checkpoint on rank 0.

    Raises
    ------
    ArgumentError
    """

    def __init__(self, rank: int, size: int, shards: int = SHARDS, time_limit: float = TIME_LIMIT) -> None:
        self.rank, self.size, self.shards = rank, size, as_shards(shards, size)
        self.time_limit = number("time_limit", time_limit, positive=True)
        self.fixed_order = True
        self.local_rank = rank
        """The number of this process among those on its machine, from 0: the index of its GPU, if it has one."""
        self.call = 0
        """The number of the outermost :meth:`guard` block, from 1, by which late messages of earlier ones are known."""
        self._depth = 0
        self._received = np.empty(0)

    def transfer(self, sends: Messages, receives: Messages) -> None:
        """Send and receive messages, and return when all buffers may be used again.

        Raises
        ------
        RankError
            If another rank has reported an error in this block, or does not answer within the time limit.
        """
        raise NotImplementedError

    def report(self, text: str) -> None:
        """Tell all other ranks that this one has failed, without waiting for them."""
        raise NotImplementedError

    def lost(self, ranks: set[int]) -> RankError:
        """Return the error for ranks that have not answered for too long."""
        names = " and ".join(f"rank {rank}" for rank in sorted(ranks)) or "another rank"
        return RankError(
            f"{names} did not answer rank {self.rank} for {self.time_limit:g} s (time_limit): it hangs, is lost, waits "
            "for another rank, or needs longer for something that only it does",
            min(ranks, default=None),
        )

    def sum(self, buffer: np.ndarray) -> None:
        """Sum buffers by recursive doubling; see :meth:`Ranks.sum`."""
        self.sum_by_doubling(buffer)

    def sum_by_doubling(self, buffer: np.ndarray, distance: int = 1) -> None:
        """Sum buffers of the ranks whose numbers differ by multiples of `distance`, a power of two, by messages.

        In step i, ranks whose numbers differ in bit i exchange their sums, and both add them in the same order.
        """
        if len(self._received) < len(buffer) or self._received.dtype != buffer.dtype:
            self._received = np.empty_like(buffer)
        received = self._received[: len(buffer)]
        while distance < self.size:
            partner = self.rank ^ distance
            self.transfer([(partner, buffer)], [(partner, received)])
            first, second = (received, buffer) if partner < self.rank else (buffer, received)
            np.add(first, second, out=buffer)
            distance *= 2

    def broadcast(self, value: Any) -> Any:
        """Send the value of rank 0 to all ranks; see :meth:`Ranks.broadcast`."""
        sources = [] if self.rank == 0 else [0]
        targets = [] if self.rank else list(range(1, self.size))
        received = self._exchange(value if self.rank == 0 else None, targets, sources)
        return value if self.rank == 0 else received[0]

    def gather(self, value: Any) -> list[Any]:
        """Send the value of each rank to all ranks; see :meth:`Ranks.gather`."""
        others = [rank for rank in range(self.size) if rank != self.rank]
        received = self._exchange(value, others, others) | {self.rank: value}
        return [received[rank] for rank in range(self.size)]

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.gather(None)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Report an error that leaves the block to the other ranks; see :meth:`Ranks.guard`."""
        self.call += self._depth == 0
        self._depth += 1
        try:
            yield
        except BaseException as error:
            if self._depth == 1 and not (isinstance(error, RankError) and error.is_reported):
                self.report(f"{type(error).__name__}: {brief(error)}")
            raise
        finally:
            self._depth -= 1

    def _exchange(self, value: Any, targets: Sequence[int], sources: Sequence[int]) -> dict[int, Any]:
        """Send an object to some ranks, and return those that others send: first their sizes, then their bytes."""
        if not targets and not sources:
            return {}
        data = np.frombuffer(pickle.dumps(value), np.uint8)
        sizes = {rank: np.zeros(1, np.int64) for rank in sources}
        own_size = np.array([len(data)], np.int64)
        self.transfer([(rank, own_size) for rank in targets], list(sizes.items()))
        buffers = {rank: np.empty(int(size[0]), np.uint8) for rank, size in sizes.items()}
        self.transfer([(rank, data) for rank in targets], list(buffers.items()))
        return {rank: pickle.loads(buffer.tobytes()) for rank, buffer in buffers.items()}
