"""The protocol of ranks, and its form for a single process."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import numpy as np

from deepnotes.utils.arguments import whole
from deepnotes.utils.errors import ArgumentError

SHARDS = 8
"""The default number of shards of a batch."""
TIME_LIMIT = 300.0
"""The default number of seconds after which a rank that does not answer counts as lost."""


@runtime_checkable
class Ranks(Protocol):
    """The processes that share a training run, as one of them sees them.

    All ranks call the same methods in the same order. :meth:`deepnotes.Network.fit` takes an object of this kind.

    Attributes
    ----------
    rank : int
        The number of this process, from 0. Rank 0 shows progress, evaluates, and writes files.
    size : int
        The number of processes: a power of two, and at most `shards`.
    shards : int
        The number of shards of a batch: a power of two. The bits of a training run depend on it, but not on `size`.
    fixed_order : bool
        Whether gradients are summed in the fixed binary tree. If not, their order may depend on `size`.
    time_limit : float
        The number of seconds after which a rank that does not answer counts as lost.
    """

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""

    @property
    def size(self) -> int:
        """The number of processes."""

    @property
    def shards(self) -> int:
        """The number of shards of a batch."""

    @property
    def fixed_order(self) -> bool:
        """Whether gradients are summed in the fixed binary tree."""

    @property
    def time_limit(self) -> float:
        """The number of seconds after which a rank that does not answer counts as lost."""

    def sum(self, buffer: np.ndarray) -> None:
        """Replace the content of `buffer`, shape (p,), on every rank by the sum of the buffers of all ranks.

        The sum is added in the fixed binary tree of :mod:`deepnotes.network.distributed.tree`, if `fixed_order`.
        """

    def broadcast(self, value: Any) -> Any:
        """Return the `value` of rank 0, any object that can be pickled, on every rank."""

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, in the order of the ranks, on every rank."""

    def barrier(self) -> None:
        """Wait until all ranks have called this method."""

    def guard(self) -> Any:
        """Return a context manager: if an error leaves its block on one rank, the other ranks raise a RankError.

        The methods above may be called only within it.
        """


class SingleRank:
    """The form of :class:`Ranks` for a single process.

    Parameters
    ----------
    shards : int, default 8

    Raises
    ------
    ArgumentError
    """

    rank, size, local_rank, fixed_order, time_limit = 0, 1, 0, True, TIME_LIMIT

    def __init__(self, shards: int = SHARDS) -> None:
        self.shards = as_shards(shards, 1)

    def sum(self, buffer: np.ndarray) -> None:
        """Leave the buffer as it is; see :meth:`Ranks.sum`."""

    def broadcast(self, value: Any) -> Any:
        """Return `value`."""
        return value

    def gather(self, value: Any) -> list[Any]:
        """Return a list that contains `value`."""
        return [value]

    def barrier(self) -> None:
        """Return at once."""

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Return a context manager that does nothing."""
        yield


def single(shards: int = SHARDS) -> SingleRank:
    """Return ranks for a single process: ``net.fit(..., ranks=single())`` has the bits of any number of ranks.

    Parameters
    ----------
    shards : int, default 8
        The number of shards of a batch: a power of two.

    Raises
    ------
    ArgumentError

    Examples
    --------
    >>> single(shards=4).size
    1
    """
    return SingleRank(shards)


def as_shards(shards: Any, size: int) -> int:
    """Return a number of shards after checking it and the number of ranks.

    Raises
    ------
    ArgumentError
        If the number of shards is not a power of two, or if the number of ranks does not divide it.
    """
    count: int = whole("shards", shards, 1)
    if count & (count - 1):
        raise ArgumentError.of("shards", count, "a power of two")
    if size < 1 or count % size:
        raise ArgumentError(
            f"{size} ranks cannot share {count} shards equally, wanted 1, 2, 4 or another power of two of at most "
            f"{count} ranks; shards=NUMBER allows more"
        )
    return count
