"""Ranks that are threads of one process, to test what is common to all ranks that exchange messages."""

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from deepnotes.network.distributed import ConnectedRanks
from deepnotes.network.distributed.connected import Messages
from deepnotes.utils.errors import RankError

R = TypeVar("R")
GRACE = 0.2


class World:
    """The mailboxes of some ranks: one for each pair, and the report of each rank that has failed."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.mail: dict[tuple[int, int, int], queue.Queue[np.ndarray]] = {}
        self.lock = threading.Lock()
        self.reports: dict[int, tuple[int, str]] = {}
        self.bytes_sent = 0

    def box(self, sender: int, receiver: int, call: int) -> "queue.Queue[np.ndarray]":
        """Return the mailbox for messages in one call, from one rank to another."""
        with self.lock:
            return self.mail.setdefault((sender, receiver, call), queue.Queue())


class ThreadRanks(ConnectedRanks):
    """A rank that is a thread."""

    def __init__(self, world: World, rank: int, shards: int = 8, time_limit: float = 60.0) -> None:
        super().__init__(rank, world.size, shards, time_limit)
        self.world = world

    def transfer(self, sends: Messages, receives: Messages) -> None:
        """Put copies of the messages into the mailboxes of the receivers, and wait for those of this rank."""
        for to, buffer in sends:
            self.world.bytes_sent += buffer.nbytes
            self.world.box(self.rank, to, self.call).put(buffer.copy())
        for sender, buffer in receives:
            deadline, failed_at = time.monotonic() + self.time_limit, None
            box = self.world.box(sender, self.rank, self.call)
            while True:
                try:
                    buffer[...] = box.get(timeout=0.01)
                    break
                except queue.Empty:
                    now = time.monotonic()
                if now > deadline:
                    raise self.lost({sender})
                failed = [(r, text) for r, (call, text) in self.world.reports.items() if call == self.call]
                if failed:
                    failed_at = now if failed_at is None else failed_at
                    if now - failed_at > GRACE:
                        raise RankError(f"rank {failed[0][0]}: {failed[0][1]}", failed[0][0], is_reported=True)

    def report(self, text: str) -> None:
        """Leave a report for all ranks."""
        self.world.reports[self.rank] = self.call, text


def in_threads(count: int, function: Callable[[int], R]) -> list[Any]:
    """Call a function with each of the numbers from 0 in a thread; return the results, or the errors that it raised."""
    results: list[Any] = [None] * count

    def work(number: int) -> None:
        try:
            results[number] = function(number)
        except BaseException as error:
            results[number] = error

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def run_ranks(size: int, function: Callable[[ThreadRanks], R], shards: int = 8, time_limit: float = 60.0) -> list[Any]:
    """Call a function with each rank in a thread of its own; return the results, or the errors that it raised."""
    world = World(size)
    return in_threads(size, lambda rank: function(ThreadRanks(world, rank, shards, time_limit)))
