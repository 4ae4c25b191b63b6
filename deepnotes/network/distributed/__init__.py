"""Data-parallel training: the processes that share a training run, called ranks, and how they exchange numbers.

A batch is divided into a fixed number of shards, whose gradients are summed in a fixed binary tree. So a training run
has the same bits on any number of ranks: see :mod:`deepnotes.network.distributed.tree`.
"""

from deepnotes.network.distributed.connected import ConnectedRanks
from deepnotes.network.distributed.mpi import MPIRanks, mpi
from deepnotes.network.distributed.ranks import Ranks, SingleRank, single
from deepnotes.network.distributed.tcp import tcp
from deepnotes.network.distributed.tree import shard_bounds, sum_in_tree

__all__ = [
    "ConnectedRanks", "MPIRanks", "Ranks", "SingleRank", "mpi", "shard_bounds", "single", "sum_in_tree",
    "tcp",
]  # fmt: skip
