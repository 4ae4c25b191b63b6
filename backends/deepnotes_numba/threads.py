"""How many threads a call takes, and whether each takes samples or rows: the limits, and the rule.

The limit is the least of what the user said with ``threads=``, what the operating system grants the process, what
``NUMBA_NUM_THREADS`` says, and what the BLAS under NumPy may use at this moment. The last stands for
``OMP_NUM_THREADS`` and ``OPENBLAS_NUM_THREADS``, and for ``threadpoolctl.threadpool_limits`` where that is installed.
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
