"""The sum of the buffers of ranks on several machines, in memory that the ranks on each machine share."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from deepnotes.network.distributed.tree import shard_bounds

CHUNK = 1 << 19
"""The number of bytes that each rank has in the shared memory at a time: larger buffers are summed chunk by chunk."""
SMALLEST = 1 << 15
"""The number of bytes from which on a sum in shared memory is faster than messages."""


def sum_in_shared_memory(
    chunk: np.ndarray,
    copies: Sequence[np.ndarray],
    own: int,
    meet: Callable[[], object],
    sum_over_machines: Callable[[np.ndarray], object] | None = None,
) -> None:
    """Replace the content of `chunk` by the sum over all ranks, added in the fixed binary tree.

    Each of the L ranks on a machine copies its chunk into the shared memory, and adds one of L pieces of all copies.
    The first copy then has the sum. Hence a rank reads and writes about as much for any L. If there are only
    two ranks, each adds the other's copy, so that there is less to read and to write.

    Parameters
    ----------
    chunk : ndarray, shape (n,)
    copies : sequence of ndarray, shape (n,)
        The memory of each rank on this machine: L arrays, a power of two. A rank may still read the first one when this
        function returns on another rank, so that the next call has to be given other memory.
    own : int
        The index of this rank on its machine.
    meet : callable
        ``meet()`` waits until all ranks on this machine have called it.
    sum_over_machines : callable, optional
        ``sum_over_machines(piece)`` replaces the content of a piece by its sum over all machines; None if there is one.
    """
    np.copyto(copies[own], chunk)
    meet()
    if len(copies) == 2 and sum_over_machines is None:
        first, second = (copies[0], chunk) if own else (chunk, copies[1])
        np.add(first, second, out=chunk)
        return
    start, stop = shard_bounds(len(chunk), len(copies), own)
    pieces = [copy[start:stop] for copy in copies]
    distance = 1
    while distance < len(pieces):
        for rank in range(0, len(pieces), 2 * distance):
            pieces[rank] += pieces[rank + distance]
        distance *= 2
    if sum_over_machines is not None:
        sum_over_machines(pieces[0])
    meet()
    np.copyto(chunk, copies[0])


def ranks_per_machine(machines: Sequence[Sequence[int]]) -> int:
    """Return how many consecutive ranks share the memory of a machine, a power of two; 1 if the machines differ.

    Parameters
    ----------
    machines : sequence of sequence of int
        The ranks on the machine of each rank.

    Examples
    --------
    >>> ranks_per_machine([[0, 1], [0, 1], [2, 3], [2, 3]])
    2
    >>> ranks_per_machine([[0, 2], [1, 3], [0, 2], [1, 3]])
    1
    """
    count = len(machines[0])
    groups = [list(range(rank - rank % count, rank - rank % count + count)) for rank in range(len(machines))]
    return count if [sorted(ranks) for ranks in machines] == groups and count & (count - 1) == 0 else 1


class SharedMemory:
    """Memory that the ranks on a machine share, allocated by MPI.

    Parameters
    ----------
    MPI : module
        ``mpi4py.MPI``.
    machine : mpi4py.MPI.Comm
        The communicator of the ranks on this machine. All of them have to construct an object.
    """

    def __init__(self, MPI: Any, machine: Any) -> None:
        self._window = MPI.Win.Allocate_shared(2 * CHUNK, 1, comm=machine)
        self._window.Lock_all(MPI.MODE_NOCHECK)
        self._memory = [
            np.frombuffer(self._window.Shared_query(rank)[0], np.uint8).reshape(2, CHUNK)
            for rank in range(machine.Get_size())
        ]
        self._turn = 0

    def copies(self, chunk: np.ndarray) -> list[np.ndarray]:
        """Return memory of each rank for a copy of `chunk`; two consecutive calls return different memory."""
        self._turn = 1 - self._turn
        return [memory[self._turn, : chunk.nbytes].view(chunk.dtype) for memory in self._memory]

    def synchronize(self) -> None:
        """Make what this process has written visible to the others, and what they have written to this one."""
        self._window.Sync()
