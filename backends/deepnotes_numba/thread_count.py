"""The number of threads of a call, and whether they split samples or rows.

The limit is the user's ``threads=``, or else the smallest of three numbers: the cores that the operating system grants
the process, ``NUMBA_NUM_THREADS``, and the current limit of NumPy's BLAS. The last reflects ``OMP_NUM_THREADS``,
``OPENBLAS_NUM_THREADS`` and, if threadpoolctl is installed, ``threadpoolctl.threadpool_limits``.

Below the limit, a rule chooses the number of threads by the work. It does not know how long a core takes to read data
that another core wrote: five times as long if they share no cache, and on a virtual machine this changes from minute to
minute. So training times its own chunks and continues with the fastest number of threads. The results are the same.
"""

import os
from collections import defaultdict, deque
from collections.abc import Sequence
from functools import cache
from typing import Any

from deepnotes_numba.compiling import numba

WORK_PER_THREAD = 600_000
"""The least number of multiplications per step and thread for which another thread pays: threads meet three times."""
WORK_PER_START = 20_000_000
"""The least number of multiplications per call and thread: it takes a tenth of a millisecond to start a thread.

Both numbers were measured by ``python -m benchmarks.threads``.
"""
WORK_BEYOND_DOUBT = 50_000_000
"""The number of multiplications per step and thread from which all threads pay without a trial."""
WORK_OF_TRIAL = 300_000_000
"""The number of multiplications of a trial of a number of threads: some milliseconds."""
WORK_BETWEEN_TRIALS = 30 * WORK_OF_TRIAL
"""The number of multiplications after which a number of threads that was not the fastest is tried again."""
RECENT = 3
"""The number of recent times, of which the best counts, so that a disturbed one does not decide."""


def limit(asked: int | None) -> int:
    """Return the current maximum number of threads of a call; `asked` is the user's setting for this backend."""
    if asked is not None:
        return asked
    affinity = getattr(os, "sched_getaffinity", None)
    granted = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(granted, int(numba.config.NUMBA_NUM_THREADS), _blas_limit()))


def choose(
    asked: int | None, blocks: int, multiplications: int, steps: int = 1, rows: bool = False
) -> tuple[int, bool]:
    """Return the number of threads for steps of this size, and whether they split rows instead of samples.

    Rows are split on request, and if there are fewer blocks of samples than threads; the threads then meet after every
    layer. Either way, and for any number of threads, the results are the same to the last bit.
    """
    worth = min(multiplications // WORK_PER_THREAD, multiplications * steps // WORK_PER_START)
    size = min(worth, limit(asked)) if worth > 1 else 1
    return size, size > 1 and (rows or size > blocks)


def moves_less(samples: int, sizes: Sequence[int], parameters: int) -> bool:
    """Return whether threads that split rows read less of each other's data than threads that split samples.

    Threads that split samples read all parameters that others have changed, and get back those that they change
    themselves. Threads that split rows read the activations of each layer.
    """
    return samples * sum(sizes) < 2 * parameters


def candidates(most: int) -> list[int]:
    """Return the numbers of threads worth trying: the maximum that the rule allows, and successive halves of it.

    Examples
    --------
    >>> candidates(6)
    [6, 3, 1]
    """
    return [most >> halvings for halvings in range(most.bit_length())]


class Pace:
    """The speed of training for each number of threads: chooses the next number, and records the time."""

    def __init__(self) -> None:
        self._recent: defaultdict[int, deque[float]] = defaultdict(lambda: deque(maxlen=RECENT))
        self._noted: dict[int, tuple[int, float]] = {}
        self._used: defaultdict[int, int] = defaultdict(int)
        self._turn = self._since = 0
        self._on_trial: int | None = None

    def choose(
        self, asked: int | None, blocks: int, multiplications: int, steps: int, rows: bool
    ) -> tuple[int, bool, int]:
        """Return the number of threads, whether they split rows, and the number of steps to use them for.

        Unless there is so much work that all threads pay, all numbers are tried at first, and later the number that has
        been unused for the longest time. A trial lasts until its time can be compared.
        """
        most, split = choose(asked, blocks, multiplications, steps, rows)
        if most == 1 or multiplications >= most * WORK_BEYOND_DOUBT:
            return most, split, steps
        sizes, work = candidates(most), WORK_BETWEEN_TRIALS
        untried = [n for n in sizes if not self._recent[n]]
        size = min(sizes, key=lambda n: min(self._recent[n], default=0.0))
        if self._on_trial not in sizes and (untried or self._since >= WORK_BETWEEN_TRIALS):
            self._on_trial = untried[0] if untried else min(sizes, key=self._used.__getitem__)
        if self._on_trial in sizes:
            size, work, self._since = self._on_trial, WORK_OF_TRIAL, 0
        return size, size > 1 and (rows or size > blocks), min(steps, max(1, work // multiplications))

    def note(self, size: int, multiplications: int, seconds: float) -> None:
        """Record the time of some steps; short calls are added up until their time can be compared."""
        self._turn += 1
        self._used[size] = self._turn
        self._since += multiplications
        work, spent = self._noted.pop(size, (0, 0.0))
        work, spent = work + multiplications, spent + seconds
        if work < WORK_OF_TRIAL / 2:
            self._noted[size] = work, spent
            return
        self._recent[size].append(spent / work)
        if size == self._on_trial:
            self._on_trial = None


def _blas_limit() -> int:
    """Return the smallest current limit on threads of any loaded BLAS or OpenMP."""
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
