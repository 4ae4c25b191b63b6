"""A training run that one of several processes takes part in: ``mpiexec -n 4 python mpi_worker.py [option=value] ...``.

With ``by=tcp``, the environment variables of torchrun or Slurm say which rank the process is. Each rank prints one
line of JSON: its rank, and the result or the error. The options `fail` and `rank` make one rank fail after the first
20 updates, or before; `units` is the width of the hidden layer. With ``sums=1``, the processes sum arrays instead of
training.
"""

import json
import os
import signal
import sys
import time
import zlib
from typing import Any

import numpy as np

import deepnotes as dn


class Fail(dn.Callback):
    """Fails on one rank, in one of several ways."""

    def __init__(self, way: str, rank: int) -> None:
        self._way, self._rank = way, rank

    def on_chunk(self, training: Any) -> None:
        """Fail, once there were enough updates."""
        if training.ranks.rank != self._rank or training.step < 20:
            return
        way, self._way = self._way, ""
        if way == "raise":
            raise OSError("unplugged")
        if way == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if way == "hang":
            time.sleep(1000)
        if way == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)


class Slow(dn.Callback):
    """Makes chunks short and slow, so that a run can be killed at any moment of it."""

    def on_chunk(self, training: Any) -> None:
        """Wait for a moment."""
        training.per_chunk = 1
        time.sleep(0.01)


def show(**result: Any) -> None:
    """Write a line of JSON at once, so that lines of several ranks do not mix."""
    os.write(sys.stdout.fileno(), f"{json.dumps(result)}\n".encode())


def compare_sums() -> None:
    """Print whether sums in shared memory have the bits of sums by messages; the ranks of odd numbers come last."""
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    ranks = dn.distributed.mpi(world.Split(0, world.rank % 2 * world.size + world.rank))
    rng, equal = np.random.default_rng(world.rank), []
    with ranks.guard():
        for size in (10_001, 131_071, 600_000, 131_072):  # less than a chunk of memory, about one, more
            x = (rng.normal(size=size) * 10.0 ** rng.integers(-6, 7, size)).astype(np.float32)
            by_messages = x.copy()
            ranks.sum(x)
            ranks.sum_by_doubling(by_messages)
            equal.append(x.tobytes() == by_messages.tobytes())
    show(rank=ranks.rank, equal=equal, on_machine=ranks.ranks_per_machine)


def main(options: dict[str, str]) -> None:
    """Train, and print the digest of the parameters."""
    time_limit = float(options.get("time_limit", "60"))
    ranks: Any
    if options.get("by") == "tcp":
        ranks = dn.distributed.tcp(time_limit=time_limit)
    else:
        ranks = dn.distributed.mpi(time_limit=time_limit, fixed_order=options.get("order", "fixed") == "fixed")
    way, failing = options.get("fail", ""), int(options.get("rank", "0"))
    if ranks.rank == failing and way == "raise before":
        raise OSError("no such file")
    if ranks.rank == failing and way == "end":
        show(rank=ranks.rank, ended=True)
        return
    rng = np.random.default_rng(0)
    X = rng.normal(size=(7, 160)).astype(np.float32)
    y, w = (X[0] > 0).astype(int) + (X[1] > 0), rng.uniform(0.5, 2.0, 160)
    layers = [dn.Dense(int(options.get("units", "16")), "relu"), dn.Dropout(0.3), dn.Dense(3, "softmax")]
    net = dn.Network(layers, inputs=7, seed=3, backend=options.get("backend", "numpy"))
    callbacks = [Fail(way, failing), *([Slow()] if "slow" in options else [])]
    checkpoint = options.get("checkpoint")
    try:
        net.fit(
            X, y, sample_weight=w, epochs=50, batch_size=48 if way != "settings" or ranks.rank != failing else 32,
            validation=(X[:, :40], y[:40]), early_stopping=1000, callbacks=callbacks, checkpoint=checkpoint,
            every=None if checkpoint is None else 1,
            resume=checkpoint is not None and "resume" in options, ranks=ranks,
        )  # fmt: skip
    except (dn.RankError, KeyboardInterrupt, OSError) as error:
        show(rank=ranks.rank, error=f"{type(error).__name__}: {error}")
        sys.exit(1)
    digest = zlib.crc32(net.flat().tobytes())
    show(rank=ranks.rank, digest=digest, sum=float(net.flat().sum()))


if __name__ == "__main__":
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    compare_sums() if "sums" in given else main(given)
