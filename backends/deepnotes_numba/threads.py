"""How many threads a call takes, and whether each takes samples or rows: the limits, the rule, and the clock.

The limit is the least of what the user said with ``threads=``, what the operating system grants the process, what
``NUMBA_NUM_THREADS`` says, and what the BLAS under NumPy may use at this moment. The last stands for
``OMP_NUM_THREADS`` and ``OPENBLAS_NUM_THREADS``, and for ``threadpoolctl.threadpool_limits`` where that is installed.

The rule knows the work, but not how long it takes one core to read what another wrote: where they share no cache it is
five times as long, and on a virtual machine that changes from minute to minute. So a training has its own chunks timed,
and goes on with the number of threads that was faster. It can, since the results are the same.
"""

import os
from functools import cache
from typing import Any

from deepnotes_numba.compiling import numba

WORK_PER_THREAD = 600_000
"""Multiplications of a step, for each thread, below which one more costs more than it brings: they meet thrice."""
WORK_PER_START = 20_000_000
"""The same for all steps of a call: it takes a tenth of a millisecond to start a thread.

Both were measured by ``python -m benchmarks.threads``.
"""
TRIES = 50
"""Chunks after which a number of threads that was slower is tried again."""


def limit(asked: int | None) -> int:
    """Return the most threads that a call may take now; `asked` is the user's own number for this backend."""
    if asked is not None:
        return asked
    affinity = getattr(os, "sched_getaffinity", None)
    granted = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(granted, int(numba.config.NUMBA_NUM_THREADS), _blas_limit()))


def choose(asked: int | None, blocks: int, multiplications: int, steps: int = 1) -> tuple[int, bool]:
    """Return the number of threads for steps of this size, and whether they split rows instead of samples.

    Samples are split by whole blocks. Where there are fewer blocks than threads, rows are split: then the threads meet
    after every layer. Either way, and for any number of threads, the results are the same to the last bit.
    """
    worth = min(multiplications // WORK_PER_THREAD, multiplications * steps // WORK_PER_START)
    size = min(worth, limit(asked)) if worth > 1 else 1
    return size, size > blocks


def candidates(most: int) -> list[int]:
    """Return the numbers of threads worth a try: the most that the rule allows, and halves of it.

    Examples
    --------
    >>> candidates(6)
    [6, 3, 1]
    """
    return [most >> halvings for halvings in range(most.bit_length())]


class Pace:
    """What the chunks of one training took, by the number of threads."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._chunks = 0

    def choose(self, asked: int | None, blocks: int, multiplications: int, steps: int) -> tuple[int, bool]:
        """Return what :func:`choose` does, or fewer threads if they were faster of late."""
        most, split = choose(asked, blocks, multiplications, steps)
        if most == 1:
            return most, split
        sizes = candidates(most)
        self._chunks += 1
        size = next((n for n in sizes if n not in self._seconds), None)
        if size is None and self._chunks % TRIES == 0:
            size = sizes[self._chunks // TRIES % len(sizes)]
        if size is None:
            size = min(sizes, key=self._seconds.__getitem__)
        return size, size > blocks

    def note(self, size: int, seconds: float) -> None:
        """Remember what a multiplication took; of the first chunk nothing, which may have waited for the compiler."""
        if self._chunks > 1:
            self._seconds[size] = seconds


def _blas_limit() -> int:
    """Return the least number of threads that a loaded BLAS or OpenMP may use now."""
    controller = _controller()
    if controller is not None:
        return min((library["num_threads"] for library in controller.info()), default=1 << 30)
    named = [os.environ.get(name, "") for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")]
    return min((int(value) for value in named if value.isdigit() and int(value)), default=1 << 30)


@cache
def _controller() -> Any:
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return None
    return ThreadpoolController()
