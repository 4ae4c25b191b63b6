"""``deepnotes train --ranks mpi``: one training run on the processes that a launcher has started."""

import argparse
from collections.abc import Callable
from functools import wraps

from deepnotes.cli.arguments import whole_number
from deepnotes.cli.output import Output
from deepnotes.network.distributed import Ranks, mpi, tcp
from deepnotes.network.distributed.ranks import SHARDS
from deepnotes.utils.errors import ArgumentError

Command = Callable[[argparse.Namespace, Output], None]


def add_ranks(group: argparse._ArgumentGroup) -> None:
    """Add the options that say which processes share the training."""
    group.add_argument(
        "--ranks",
        choices=("mpi", "tcp"),
        help="share the training among the processes that MPI has started, mpiexec -n 4 deepnotes train ... --ranks "
        "mpi, or that torchrun or srun has started, without MPI: tcp (default: one process)",
    )
    group.add_argument(
        "--shards",
        type=whole_number(1),
        metavar="NUMBER",
        help="with --ranks, the number of parts into which each batch is divided: a power of two, and at least the "
        f"number of processes, on which the result does not depend (default {SHARDS})",
    )


def on_ranks(run: Command) -> Command:
    """Decorate the function of ``train``, so that ``args.ranks`` holds the ranks, and only rank 0 has an output.

    An error on one rank ends all of them.
    """

    @wraps(run)
    def shared(args: argparse.Namespace, output: Output) -> None:
        if args.ranks is None:
            if args.shards is not None:
                raise ArgumentError("--shards needs --ranks: without it, batches are not divided")
            run(args, output)
            return
        shards = args.shards or SHARDS
        ranks = mpi(shards=shards) if args.ranks == "mpi" else tcp(shards=shards)
        with ranks.guard():
            if args.folds or args.members:
                option = "--folds" if args.folds else "--members"
                raise ArgumentError(
                    f"{option} cannot be combined with --ranks, which share the training of one network"
                )
            own = argparse.Namespace(**vars(args) | {"ranks": ranks})
            run(own, output if ranks.rank == 0 else Output(quiet=True))

    return shared


def describe_ranks(ranks: Ranks | None) -> list[tuple[str, str]]:
    """Return the number of ranks and of shards as facts for the report; none without ranks."""
    if ranks is None:
        return []
    return [("ranks", f"{ranks.size}, which share the {ranks.shards} shards of each batch")]


def writes_files(ranks: Ranks | None) -> bool:
    """Return whether this process writes the model: without ranks, or as rank 0."""
    return ranks is None or ranks.rank == 0
