"""Ranks that exchange messages by MPI, with mpi4py.

Every message is sent and received without blocking, so that a rank that waits also sees the report of a rank that has
failed, and gives up after the time limit.
"""

import os
import sys
import time
from contextlib import suppress
from typing import Any

import numpy as np

from deepnotes.network.distributed.connected import ConnectedRanks, Messages
from deepnotes.network.distributed.ranks import SHARDS, TIME_LIMIT
from deepnotes.network.distributed.shared_memory import (
    CHUNK,
    SMALLEST,
    SharedMemory,
    ranks_per_machine,
    sum_in_shared_memory,
)
from deepnotes.utils.errors import ArgumentError, RankError
from deepnotes.utils.extras import import_optional
from deepnotes.utils.wording import brief

GRACE = 1.0
"""The number of seconds to wait for messages of a rank that has failed: it may have sent them before."""
SPINNING = 1e-3
"""The number of seconds to poll without a pause, before the pauses of `PAUSE` seconds."""
PAUSE = 5e-5
CLOSING = 3.0
"""The number of seconds that a process whose training has failed waits, at its end, for the other ranks to end."""
ENDED = 0
"""The tag of the message that a process has ended."""
CALLS = 8192
"""The number of calls with tags of their own: MPI guarantees tags up to 32,767."""


def mpi(
    comm: Any = None, *, shards: int = SHARDS, time_limit: float = TIME_LIMIT, fixed_order: bool = True
) -> "MPIRanks":
    """Return the processes that ``mpiexec`` or Slurm has started, as ranks for ``net.fit(..., ranks=mpi())``.

    All of the processes have to call it, as often as each other.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm, optional
        The communicator; by default ``COMM_WORLD``, all processes. A duplicate of it is used.
    shards : int, default 8
        The number of shards of a batch: a power of two, and at least the number of ranks. The bits of a training run
        depend on it, but not on the number of ranks.
    time_limit : float, default 300.0
        The number of seconds after which a rank that does not answer counts as lost. It has to be longer than an
        evaluation on rank 0.
    fixed_order : bool, default True
        Whether gradients are summed in the fixed order. If not, ``MPI_Iallreduce`` sums those of the ranks in an order
        of its own, so that the last bits depend on the number of ranks.

    Raises
    ------
    MissingExtraError
        If mpi4py is not installed, or finds no MPI library.
    ArgumentError
        If the number of processes is not a power of two of at most `shards`, or another argument is invalid.
    """
    try:
        MPI = import_optional("mpi4py.MPI", "mpi", "ranks that exchange messages by MPI")
    except RuntimeError as error:  # mpi4py is there, but no MPI library
        from deepnotes.utils.errors import MissingExtraError

        raise MissingExtraError("ranks that exchange messages by MPI", "mpi", brief(error)) from error
    if comm is None:
        comm = MPI.COMM_WORLD
    elif not isinstance(comm, MPI.Comm):
        raise ArgumentError.of("comm", comm, "a communicator of mpi4py, or None")
    return MPIRanks(MPI, comm, shards, time_limit, fixed_order)


class MPIRanks(ConnectedRanks):
    """Ranks that exchange messages by MPI; :func:`mpi` makes one.

    Parameters
    ----------
    MPI : module
        ``mpi4py.MPI``.
    comm : mpi4py.MPI.Comm
    shards, time_limit, fixed_order : object
        As for :func:`mpi`.
    """

    def __init__(self, MPI: Any, comm: Any, shards: int, time_limit: float, fixed_order: bool) -> None:
        super().__init__(comm.Get_rank(), comm.Get_size(), shards, time_limit)
        self._MPI, self._comm, self.fixed_order = MPI, comm.Dup(), bool(fixed_order)
        machine = comm.Split_type(MPI.COMM_TYPE_SHARED)
        self.local_rank = machine.Get_rank()
        self.ranks_per_machine = ranks_per_machine(comm.allgather(machine.allgather(self.rank)))
        """The number of ranks on each machine that sum in shared memory; 1 if the ranks are divided unequally."""
        in_memory = self.fixed_order and self.ranks_per_machine > 1
        self._memory = SharedMemory(MPI, machine) if in_memory else None
        self._failures: dict[int, tuple[int, str]] = {}  # by rank: the call, or 0 if the process has ended; the message
        self._has_failed = False
        self._sent: list[Any] = []  # requests of reports that nobody may ever receive, and their data
        import atexit  # imported late, since most programs do not use it

        atexit.register(self._close)

    def sum(self, buffer: np.ndarray) -> None:
        """Sum buffers in the fixed order, in shared memory where there is some, or by ``MPI_Iallreduce``."""
        if not self.fixed_order:
            self._complete([], [(None, self._comm.Iallreduce(self._MPI.IN_PLACE, buffer))])
        elif self._memory is None or buffer.nbytes < SMALLEST:
            self.sum_by_doubling(buffer)
        else:
            count = CHUNK // buffer.itemsize
            over_machines = None if self.ranks_per_machine == self.size else self._sum_over_machines
            for start in range(0, len(buffer), count):
                chunk = buffer[start : start + count]
                copies = self._memory.copies(chunk)
                sum_in_shared_memory(chunk, copies, self.local_rank, self._meet, over_machines)

    def _sum_over_machines(self, piece: np.ndarray) -> None:
        """Sum a piece over the ranks with the same number on all machines."""
        self.sum_by_doubling(piece, self.ranks_per_machine)

    def _meet(self) -> None:
        """Wait for the other ranks on this machine: in round i, for those whose numbers differ in bit i."""
        assert self._memory is not None
        self._memory.synchronize()
        distance, token = 1, np.zeros(1, np.uint8)
        while distance < self.ranks_per_machine:
            partner = self.rank ^ distance
            self.transfer([(partner, token)], [(partner, np.empty_like(token))])
            distance *= 2
        self._memory.synchronize()

    def transfer(self, sends: Messages, receives: Messages) -> None:
        """Send and receive messages; see :meth:`ConnectedRanks.transfer`."""
        tag = 2 * (self.call % CALLS) + 1
        receiving = [(rank, self._comm.Irecv(buffer, rank, tag)) for rank, buffer in receives]
        self._complete([(rank, self._comm.Isend(buffer, rank, tag)) for rank, buffer in sends], receiving)

    def report(self, text: str) -> None:
        """Send the report to all other ranks; they see it when they wait."""
        self._has_failed = True
        self._send_text(text, 2 * (self.call % CALLS) + 2)

    def _complete(self, sending: list[tuple[Any, Any]], receiving: list[tuple[Any, Any]]) -> None:
        """Wait for requests, given with the ranks concerned; None stands for all ranks."""
        start, seen = time.monotonic(), None
        pending = [*receiving, *sending]
        try:
            while pending := [(rank, request) for rank, request in pending if not request.Test()]:
                now = time.monotonic()
                if now - start > self.time_limit:
                    raise self.lost({rank for rank, _ in pending if rank is not None})
                self._read_reports()
                if (failure := self._failure([rank for rank, _ in pending])) is not None:
                    seen = now if seen is None else seen
                    if now - seen > GRACE:
                        raise failure
                _pause(now - start)
        except self._MPI.Exception as error:
            self._has_failed = True
            raise RankError(f"MPI failed: {brief(error)}") from error
        except BaseException:
            self._has_failed = True
            for _, request in pending:
                with suppress(self._MPI.Exception):
                    request.Cancel()
            raise

    def _read_reports(self) -> None:
        """Keep the reports of ranks that have failed in this call, or whose processes have ended."""
        status = self._MPI.Status()
        for tag in (2 * (self.call % CALLS) + 2, ENDED):
            while self._comm.Iprobe(self._MPI.ANY_SOURCE, tag, status):
                text = np.empty(status.Get_count(self._MPI.BYTE), np.uint8)
                self._comm.Recv([text, self._MPI.BYTE], status.Get_source(), tag)
                call = self.call if tag else 0
                self._failures.setdefault(status.Get_source(), (call, text.tobytes().decode(errors="replace")))

    def _failure(self, waiting_for: list[int | None]) -> RankError | None:
        """Return the error that says which rank has failed, if one has, given the ranks that this one waits for.

        A rank that has reported an error has told all others. If a process has ended, only those that wait for it know.
        """
        for rank, (call, text) in self._failures.items():
            if call == self.call:
                return RankError(f"rank {rank}: {text}", rank, is_reported=True)
            if call == 0 and (rank in waiting_for or None in waiting_for):
                return RankError(f"rank {rank}: {text}", rank)
        return None

    def _send_text(self, text: str, tag: int) -> None:
        """Send a text to all other ranks, without waiting until they receive it."""
        data = np.frombuffer(text.encode(), np.uint8)
        with suppress(self._MPI.Exception):
            self._sent += [
                (data, self._comm.Isend([data, self._MPI.BYTE], rank, tag))
                for rank in range(self.size)
                if rank != self.rank
            ]

    def _close(self) -> None:
        """Say, at the end of the process, that it ends; after a failure, end all processes if the others do not end.

        MPI waits for all processes before it lets one end, so that one that hangs, or is lost, would block the others.
        """
        if self._MPI.Is_finalized() or self.size == 1:
            return
        error = getattr(sys, "last_value", None)
        self._has_failed |= error is not None
        with suppress(self._MPI.Exception):
            self._send_text(
                "its process has ended" if error is None else f"{type(error).__name__}: {brief(error)}", ENDED
            )
            if not self._has_failed:
                return
            request, start = self._comm.Ibarrier(), time.monotonic()
            while not request.Test():
                if time.monotonic() - start > CLOSING:
                    for stream in (sys.stdout, sys.stderr):
                        with suppress(Exception):
                            stream.flush()
                    self._MPI.COMM_WORLD.Abort(1)
                time.sleep(PAUSE)


def _pause(waited: float) -> None:
    """Let other processes run while this one waits, since there may be more ranks than cores."""
    if waited > SPINNING:
        time.sleep(PAUSE)
    elif hasattr(os, "sched_yield"):
        os.sched_yield()
