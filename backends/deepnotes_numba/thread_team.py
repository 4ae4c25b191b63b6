"""Threads that execute one compiled function together and wait for each other at barriers.

There is no pool: a call starts the threads that it needs, in less than a tenth of a millisecond, and ends them. So
no thread outlives a call or is lost in a fork, any number of calls may run at once, and the threads of other libraries
are left alone.
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
    """Call ``function((rank, size, meeting), *arguments)`` for each rank in a thread of its own.

    `meeting` is the memory of a barrier; see :mod:`deepnotes_numba.barrier`.

    Returns
    -------
    object
        The result for rank 0.

    Raises
    ------
    RuntimeError
        If a thread cannot be started.
    Exception
        The first exception of any of the calls, after the others were stopped.
    """
    meeting = np.zeros(SIZE, np.int64)
    if size == 1:
        return function((0, 1, meeting), *arguments)
    errors: list[BaseException] = []
    here = _current_core()

    def follow(rank: int) -> None:
        try:
            _leave_core(here)
            function((rank, size, meeting), *arguments)
        except BaseException as error:
            meeting[BROKEN] = 1
            errors.append(error)

    started = []
    try:
        for rank in range(1, size):
            thread = threading.Thread(target=follow, args=(rank,), name=f"deepnotes-{rank}", daemon=True)
            thread.start()
            started.append(thread)
        return function((0, size, meeting), *arguments)
    except BaseException:
        meeting[BROKEN] = 1
        raise
    finally:
        for thread in started:
            thread.join()
        if errors:
            raise errors[0]


def _leave_core(core: int | None) -> None:
    """Keep this thread off a core, if it may use others: new threads often start on the core of the waiting thread.

    The system would separate them only at its next tick, and many steps take less time than that.
    """
    if core is not None:
        with suppress(OSError):
            others = os.sched_getaffinity(0) - {core}
            if others:
                os.sched_setaffinity(0, others)


def _current_core() -> int | None:
    """Return the core that this thread runs on, or None if the system does not report it or cannot move threads."""
    get_core = _find_getcpu()
    return None if get_core is None else int(get_core())


@cache
def _find_getcpu() -> Any:
    return getattr(ctypes.CDLL(None), "sched_getcpu", None) if hasattr(os, "sched_setaffinity") else None
