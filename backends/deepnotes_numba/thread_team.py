"""Threads that run parts of one compiled function together and wait for each other at barriers.

There is no pool: a call starts the threads that it needs, in less than a tenth of a millisecond, and ends them. So
nothing outlives a call or is lost in a fork, any number of calls may run at once, and other libraries' threads need no
control.
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
    """Call ``function(rank, size, meeting, *arguments)`` for each rank in as many threads; return what rank 0 returns.

    Raises
    ------
    RuntimeError
        If a thread cannot be started.
    Exception
        What any of the calls raised, after the others were stopped.
    """
    meeting = np.zeros(SIZE, np.int64)
    if size == 1:
        return function(0, 1, meeting, *arguments)
    errors: list[BaseException] = []
    here = _core()

    def follow(rank: int) -> None:
        try:
            _leave(here)
            function(rank, size, meeting, *arguments)
        except BaseException as error:
            meeting[BROKEN] = 1
            errors.append(error)

    started = []
    try:
        for rank in range(1, size):
            thread = threading.Thread(target=follow, args=(rank,), name=f"deepnotes-{rank}", daemon=True)
            thread.start()
            started.append(thread)
        return function(0, size, meeting, *arguments)
    except BaseException:
        meeting[BROKEN] = 1
        raise
    finally:
        for thread in started:
            thread.join()
        if errors:
            raise errors[0]


def _leave(core: int | None) -> None:
    """Keep this thread off a core, if there are others: a new one often starts on the core of the one that waits.

    The system would separate them only at its next tick, while many steps take less time than that.
    """
    if core is not None:
        with suppress(OSError):
            others = os.sched_getaffinity(0) - {core}
            if others:
                os.sched_setaffinity(0, others)


def _core() -> int | None:
    """Return the core that this thread runs on, if the system says so and allows moving threads."""
    tells = _teller()
    return None if tells is None else int(tells())


@cache
def _teller() -> Any:
    return getattr(ctypes.CDLL(None), "sched_getcpu", None) if hasattr(os, "sched_setaffinity") else None
