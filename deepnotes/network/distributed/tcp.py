"""Ranks without MPI: torchrun, Slurm, Dask, Ray or a shell starts the processes, and they exchange messages by TCP."""

import os
from typing import TYPE_CHECKING

from deepnotes.network.distributed.launch import find_launch
from deepnotes.network.distributed.ranks import SHARDS, TIME_LIMIT
from deepnotes.utils.arguments import whole
from deepnotes.utils.errors import ArgumentError

if TYPE_CHECKING:
    from deepnotes.network.distributed.tcp_ranks import TCPRanks

SECRET = "DEEPNOTES_SECRET"
"""The environment variable with the secret that the processes of a run share."""


def tcp(
    rank: int | None = None,
    size: int | None = None,
    address: str | None = None,
    port: int | None = None,
    *,
    secret: str | None = None,
    shards: int = SHARDS,
    time_limit: float = TIME_LIMIT,
) -> "TCPRanks":
    """Return the processes that torchrun, Slurm or another launcher has started, as ranks; they need no MPI.

    By default, the environment variables of the launcher say which rank this process is, and where rank 0 is: see
    :func:`deepnotes.network.distributed.launch.find_launch`. Other launchers, such as Dask and Ray, pass them.

    Parameters
    ----------
    rank, size : int, optional
        The number of this process, from 0, and the number of processes.
    address : str, optional
        The name or address of the machine of rank 0. With "localhost", all processes have to be on one machine.
    port : int, optional
        A port at which rank 0 listens.
    secret : str, optional
        A text that the processes of this run share, and nobody else knows; by default the value of the environment
        variable ``DEEPNOTES_SECRET``, or none. The ranks exchange pickled objects: without a secret, a program that
        reaches their ports can run code in them.
    shards : int, default 8
        The number of shards of a batch: a power of two, and at least the number of ranks.
    time_limit : float, default 300.0
        The number of seconds after which a rank that does not connect, or does not answer, counts as lost.

    Raises
    ------
    ArgumentError
        If an argument or an environment variable is missing or invalid.
    RankError
        If the processes do not find each other within the time limit.

    Examples
    --------
    >>> tcp(rank=0, size=1).size
    1
    """
    if rank is None and size is None:
        launch = find_launch()
        rank, size = launch.rank, launch.size
        address, port = launch.address if address is None else address, launch.port if port is None else port
    elif rank is None or size is None:
        raise ArgumentError(f"rank={rank} and size={size}, wanted both or neither")
    rank, size = whole("rank", rank, 0), whole("size", size, 1)
    if rank >= size:
        raise ArgumentError.of("rank", rank, f"less than size={size}")
    if size > 1 and (address is None or port is None):
        raise ArgumentError("address and port: wanted those of rank 0, at which the other ranks find it")
    if address is not None and (not isinstance(address, str) or not address):
        raise ArgumentError.of("address", address, "the name or address of the machine of rank 0")
    if port is not None and whole("port", port, 1) > 65_535:
        raise ArgumentError.of("port", port, "at most 65535")
    secret = os.environ.get(SECRET, "") if secret is None else secret
    if not isinstance(secret, str):
        raise ArgumentError(f"secret: got {type(secret).__name__}, wanted a str")
    from deepnotes.network.distributed.tcp_ranks import TCPRanks  # imported late, since most programs do not use it

    return TCPRanks(rank, size, address or "localhost", port or 0, secret, shards, time_limit)
