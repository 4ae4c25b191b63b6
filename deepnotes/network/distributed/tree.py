"""The fixed binary tree in which the gradients of the shards of a batch are summed.

A batch has K shards, where K is a power of two. The gradients of shards 0 and 1, 2 and 3, and so on are added first,
then those sums in pairs, and so on. A rank has consecutive shards, as many as each other rank, and so it computes the
sum of a subtree; :meth:`~deepnotes.network.distributed.ConnectedRanks.sum` continues up the tree. Each addition has the
same operands on any number of ranks, and hence the sum has the same bits.
"""

from collections.abc import Callable

import numpy as np


def shard_bounds(samples: int, shards: int, shard: int) -> tuple[int, int]:
    """Return the position of the first sample of a shard, and the position after the last, in a batch.

    The sizes of the shards of a batch differ by at most 1. If there are fewer samples than shards, some are empty.

    Parameters
    ----------
    samples : int
        The number of samples in the batch.
    shards : int
        The number of shards.
    shard : int
        The index of the shard, from 0.

    Examples
    --------
    >>> [shard_bounds(10, 4, shard) for shard in range(4)]
    [(0, 2), (2, 5), (5, 7), (7, 10)]
    """
    return shard * samples // shards, (shard + 1) * samples // shards


def sum_in_tree(compute: Callable[[int], np.ndarray], first: int, count: int, buffers: list[np.ndarray]) -> np.ndarray:
    """Return the sum of the results of consecutive shards, added in the fixed binary tree; it is in ``buffers[0]``.

    Parameters
    ----------
    compute : callable
        ``compute(shard)`` returns the result of a shard, which the next call may overwrite.
    first, count : int
        The index of the first shard, and the number of shards: a power of two, of which `first` is a multiple.
    buffers : list of ndarray
        Memory for the sums, all of the same shape: one buffer for each level of the tree, which is
        ``count.bit_length() - 1`` buffers, but at least one.

    Examples
    --------
    >>> sum_in_tree(lambda shard: np.array([10.0**shard]), 0, 4, [np.empty(1) for _ in range(2)])
    array([1111.])
    """
    total, *others = buffers
    if count == 1:
        np.copyto(total, compute(first))
        return total
    half = count // 2
    sum_in_tree(compute, first, half, [total, *others[1:]])
    # A result is added as it is: no copy.
    total += compute(first + half) if half == 1 else sum_in_tree(compute, first + half, half, others)
    return total
