"""Threads that execute one compiled function together and wait for each other at barriers.

There is no thread pool: each call starts the threads that it needs, in less than a tenth of a millisecond, and ends
them. So no thread outlives a call or is lost in a fork, any number of calls may run at once, and the threads of other
libraries are not affected.
"""

import ctypes
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np

from deepnotes_numba.barrier import BROKEN, SIZE


def run(size: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call ``function((rank, size, barrier), *arguments)`` for each rank from 0 to `size` - 1, in separate threads.

    `barrier` is the memory of a barrier; see :mod:`deepnotes_numba.barrier`.

    Returns
    -------
    object
        The result for rank 0.

    Raises
    ------
    RuntimeError
        If a thread cannot be started.
    Exception
        The first exception that any of the calls raised, after the other calls have stopped.
    """
    barrier = np.zeros(SIZE, np.int64)
    if size == 1:
        return function((0, 1, barrier), *arguments)
    errors: list[BaseException] = []
    caller_core = current_core()

    def work(rank: int) -> None:
        try:
            leave_core(caller_core)
            function((rank, size, barrier), *arguments)
        except BaseException as error:
            barrier[BROKEN] = 1
            errors.append(error)

    started = []
    try:
        for rank in range(1, size):
            thread = threading.Thread(target=work, args=(rank,), name=f"deepnotes-{rank}", daemon=True)
            thread.start()
            started.append(thread)
        return function((0, size, barrier), *arguments)
    except BaseException:
        barrier[BROKEN] = 1
        raise
    finally:
        for thread in started:
            thread.join()
        if errors:
            raise errors[0]


def leave_core(core: int | None) -> None:
    """Keep this thread off a core, if it may use others.

    New threads often start on the core of the thread that waits for them. The system would separate them only at its
    next tick, and many steps take less time than that.
    """
    if core is not None:
        with suppress(OSError):
            others = os.sched_getaffinity(0) - {core}
            if others:
                os.sched_setaffinity(0, others)


def current_core() -> int | None:
    """Return the core that this thread runs on, or None if the system does not report it, or cannot move threads."""
    get_core = _find_getcpu()
    return None if get_core is None else int(get_core())


@cache
def _find_getcpu() -> Any:
    return getattr(ctypes.CDLL(None), "sched_getcpu", None) if hasattr(os, "sched_setaffinity") else None
