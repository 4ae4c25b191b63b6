"""Paired timings of two checkouts: each checkout trains in its own process, and the processes take turns.

Whatever slows the machine down for a while slows both timings of a pair, so it cancels in their ratio.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from deepnotes.testing.bench.cases import Case
from deepnotes.testing.bench.timing import PAUSE_SECONDS, scatter

ROUND_SECONDS = 0.3
BATCHES = 16
"""The number of batches in an epoch."""
WORKER = Path(__file__).with_name("paired_worker.py")


class WorkerError(Exception):
    """A worker process could not run a case, or has ended."""


class Worker:
    """A process that trains with one checkout; leaving its ``with`` block ends the process."""

    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout.resolve()
        paths = os.pathsep.join(str(self.checkout / folder) for folder in (".", "backends"))
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(WORKER)],  # -P: this checkout's benchmarks stay off the path
            cwd=self.checkout, env=os.environ | {"PYTHONPATH": paths}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def request(self, **arguments: Any) -> float:
        """Send a request, with arguments as described in ``paired_worker.py``, and return the seconds that it took.

        Raises
        ------
        WorkerError
            If the worker reports an error or has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(arguments) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(f"{self.checkout}: the worker process ended; its error message is printed above")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{self.checkout}: {answer['error']}")
        return float(answer["seconds"])


class Pairs(NamedTuple):
    """Seconds per training step of the old and of the new checkout, one pair per round."""

    old: list[float]
    new: list[float]

    @property
    def ratios(self) -> list[float]:
        """The time of the new checkout divided by that of the old one, for each round."""
        return [new / old for old, new in zip(self.old, self.new, strict=True)]

    @property
    def factor(self) -> float:
        """The median of the ratios."""
        return statistics.median(self.ratios)

    @property
    def noise(self) -> float | None:
        """Half the interquartile range of the ratios, relative to their median, or None for fewer than three rounds."""
        share = scatter(self.ratios)
        return None if share is None else share / 2


def compare_case(workers: Sequence[Worker], case: Case, backend: str, rounds: int) -> Pairs:
    """Return the paired times of one case; the order of the checkouts alternates from pair to pair.

    Raises
    ------
    WorkerError
        If a checkout cannot run the case.
    """
    for worker in workers:
        worker.request(sizes=list(case.sizes), batch=case.batch, batches=BATCHES, backend=backend, dtype=case.dtype)
        worker.request(epochs=1)  # compiles
    epoch_seconds = max(worker.request(epochs=1) for worker in workers)
    epochs = max(1, round(ROUND_SECONDS / epoch_seconds))
    times: tuple[list[float], list[float]] = [], []
    for number in range(rounds):
        for index in (0, 1) if number % 2 == 0 else (1, 0):
            time.sleep(PAUSE_SECONDS)
            times[index].append(workers[index].request(epochs=epochs) / (epochs * BATCHES))
    return Pairs(*times)


def compare_checkouts(
    old: Path, new: Path, cases: dict[str, Case], backends: Sequence[str], rounds: int
) -> tuple[dict[str, Pairs], dict[str, str]]:
    """Return the paired times, and error messages where timing failed; the keys of both are ``"network: backend"``."""
    pairs: dict[str, Pairs] = {}
    failures: dict[str, str] = {}
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(checkout)) for checkout in (old, new)]
        for name, case in cases.items():
            for backend in backends:
                try:
                    pairs[f"{name}: {backend}"] = compare_case(workers, case, backend, rounds)
                except WorkerError as error:
                    failures[f"{name}: {backend}"] = str(error)
    return pairs, failures
