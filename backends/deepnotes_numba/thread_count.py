"""The number of threads for a call, and whether they split samples or rows.

The limit is the user's ``threads=``, or else the smallest of three numbers: the cores that the operating system grants
the process, ``NUMBA_NUM_THREADS``, and the current limit of NumPy's BLAS. The BLAS limit reflects ``OMP_NUM_THREADS``,
``OPENBLAS_NUM_THREADS`` and, if threadpoolctl is installed, ``threadpoolctl.threadpool_limits``.

Below the limit, a rule chooses the number of threads by the amount of work. The rule does not know how long a core
takes to read data that another core wrote: five times as long if they share no cache, and on a virtual machine that
changes from minute to minute. So training measures its own calls, and continues with the fastest number of threads. The
results do not depend on the number of threads.
"""

import os
import threading
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from deepnotes_numba.compiling import numba

WORK_PER_THREAD = 600_000
"""The smallest number of multiplications per step and thread for which one more thread pays off."""
WORK_PER_START = 20_000_000
"""The smallest number of multiplications per call and thread: starting a thread takes a tenth of a millisecond.

This number and `WORK_PER_THREAD` were measured by ``python -m benchmarks.threads``.
"""
WORK_BEYOND_DOUBT = 50_000_000
"""The number of multiplications per step and thread from which all threads are used without a trial."""
WORK_OF_TRIAL = 300_000_000
"""The number of multiplications in the trial of a number of threads: a few milliseconds."""
WORK_BETWEEN_TRIALS = 30 * WORK_OF_TRIAL
"""The number of multiplications after which another number of threads is tried again."""
RECENT = 3
"""The number of recent measurements of which the fastest counts, so that a disturbed one does not matter."""


_this_thread = threading.local()


@contextmanager
def single_threaded() -> Iterator[None]:
    """Limit the calls of this thread to one thread."""
    before = getattr(_this_thread, "is_single", False)
    _this_thread.is_single = True
    try:
        yield
    finally:
        _this_thread.is_single = before


def limit(requested: int | None) -> int:
    """Return the current maximum number of threads of a call; `requested` is the user's setting for this backend."""
    if getattr(_this_thread, "is_single", False):
        return 1
    if requested is not None:
        return requested
    affinity = getattr(os, "sched_getaffinity", None)
    granted = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(granted, int(numba.config.NUMBA_NUM_THREADS), _blas_limit()))


def choose(
    requested: int | None, blocks: int, multiplications: int, steps: int = 1, prefer_rows: bool = False
) -> tuple[int, bool]:
    """Return the number of threads for steps of this size, and whether they split rows instead of samples.

    Rows are split if `prefer_rows` is true, or if there are fewer blocks of samples than threads; the threads then wait
    for each other after every layer. The results have the same bits in both cases, and for any number of threads.
    """
    useful = min(multiplications // WORK_PER_THREAD, multiplications * steps // WORK_PER_START)
    size = min(useful, limit(requested)) if useful > 1 else 1
    return size, size > 1 and (prefer_rows or size > blocks)


def rows_move_less_data(samples: int, sizes: Sequence[int], parameters: int) -> bool:
    """Return whether threads that split rows read less of each other's data than threads that split samples.

    Threads that split samples read the parameters that other threads have changed. Threads that split rows read the
    activations of each layer.
    """
    return samples * sum(sizes) < 2 * parameters


def candidates(maximum: int) -> list[int]:
    """Return the numbers of threads to try: `maximum`, half of it, a quarter of it, and so on, rounded down.

    Examples
    --------
    >>> candidates(6)
    [6, 3, 1]
    """
    return [maximum >> halvings for halvings in range(maximum.bit_length())]


class Pace:
    """Records the speed of training with each number of threads, and chooses the number for the next steps."""

    def __init__(self) -> None:
        self._recent: defaultdict[int, deque[float]] = defaultdict(lambda: deque(maxlen=RECENT))
        self._short_calls: dict[int, tuple[int, float]] = {}
        self._last_use: defaultdict[int, int] = defaultdict(int)
        self._calls = self._work_since_trial = 0
        self._on_trial: int | None = None

    def choose(
        self, requested: int | None, blocks: int, multiplications: int, steps: int, prefer_rows: bool
    ) -> tuple[int, bool, int]:
        """Return the number of threads, whether they split rows, and the number of steps to use them for.

        At first, all numbers of threads are tried; later, from time to time, the one that has been unused for longest.
        With so much work per step that all threads pay off, there are no trials. A trial lasts until it is long enough
        to be compared.
        """
        maximum, split = choose(requested, blocks, multiplications, steps, prefer_rows)
        if maximum == 1 or multiplications >= maximum * WORK_BEYOND_DOUBT:
            return maximum, split, steps
        sizes, work = candidates(maximum), WORK_BETWEEN_TRIALS
        untried = [n for n in sizes if not self._recent[n]]
        size = min(sizes, key=lambda n: min(self._recent[n], default=0.0))
        if self._on_trial not in sizes and (untried or self._work_since_trial >= WORK_BETWEEN_TRIALS):
            self._on_trial = untried[0] if untried else min(sizes, key=self._last_use.__getitem__)
        if self._on_trial in sizes:
            size, work, self._work_since_trial = self._on_trial, WORK_OF_TRIAL, 0
        return size, size > 1 and (prefer_rows or size > blocks), min(steps, max(1, work // multiplications))

    def record(self, size: int, multiplications: int, seconds: float) -> None:
        """Record the time of some steps; the times of short calls are added up until they can be compared."""
        self._calls += 1
        self._last_use[size] = self._calls
        self._work_since_trial += multiplications
        work, elapsed = self._short_calls.pop(size, (0, 0.0))
        work, elapsed = work + multiplications, elapsed + seconds
        if work < WORK_OF_TRIAL / 2:
            self._short_calls[size] = work, elapsed
            return
        self._recent[size].append(elapsed / work)
        if size == self._on_trial:
            self._on_trial = None


def _blas_limit() -> int:
    """Return the smallest of the current thread limits of all loaded BLAS and OpenMP libraries."""
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
