"""The number of threads that NumPy's BLAS uses for the products of a training step.

For small products, a second thread saves nothing on an idle machine; on a busy one, the first thread waits again and
again for a second that does not run. So training with small products takes one thread, unless the environment sets
the number. The BLAS has one number for the whole process, so trainings with different numbers take turns. Without
this, the bits of one would depend on what the other does, since a BLAS splits sums among threads.
"""

import ctypes
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from importlib import import_module

SMALL = 1 << 24
"""The largest number of multiplications in a product for which one thread is used."""
VARIABLES = ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS")
"""The environment variables by which a user sets the number of threads of OpenBLAS."""
NAMES = ("openblas", "openblas{}64_", "scipy_openblas", "scipy_openblas{}64_")
"""The prefixes and suffixes of the functions of OpenBLAS; those of NumPy's wheels have both."""


class BlasThreads:
    """The number of threads of a BLAS, which trainings in several Python threads set in turns.

    Parameters
    ----------
    get : callable
        Returns the number.
    set : callable
        Sets the number.
    """

    def __init__(self, get: Callable[[], int], set: Callable[[int], object]) -> None:
        self._get, self._set = get, set
        self._free = threading.Condition()
        self._queue: deque[object] = deque()
        self._active = 0
        self._one = False

    @contextmanager
    def using(self, one: bool) -> Iterator[None]:
        """Use one thread in the ``with`` block, or the number that is set; wait while others use the other number."""
        place = object()
        with self._free:
            self._queue.append(place)
            try:
                self._free.wait_for(lambda: self._queue[0] is place and (not self._active or self._one == one))
                if not self._active:
                    self._one, self._before = one, self._get()
                    if one:
                        self._set(1)
                self._active += 1
            finally:
                self._queue.remove(place)
                self._free.notify_all()
        try:
            yield
        finally:
            with self._free:
                self._active -= 1
                if not self._active and one:
                    self._set(self._before)
                self._free.notify_all()


def threads_for(multiplications: int) -> AbstractContextManager[None]:
    """Use as many threads in the ``with`` block as suit products of at most so many multiplications."""
    blas = None if any(os.environ.get(name) for name in VARIABLES) else openblas()
    return nullcontext() if blas is None else blas.using(multiplications <= SMALL)


def one_thread() -> AbstractContextManager[None]:
    """Use one thread in the ``with`` block, whatever the environment says."""
    blas = openblas()
    return nullcontext() if blas is None else blas.using(True)


@cache
def openblas() -> BlasThreads | None:
    """Return the number of threads of NumPy's OpenBLAS, or None if NumPy uses another BLAS, or one thread."""
    try:
        library = ctypes.CDLL(import_module("numpy._core._multiarray_umath").__file__)  # it includes the BLAS's symbols
    except (ImportError, OSError):
        return None
    for name in NAMES:
        prefix, _, suffix = name.partition("{}")
        get, set = (getattr(library, f"{prefix}_{verb}_num_threads{suffix}", None) for verb in ("get", "set"))
        if get is not None and set is not None:
            return BlasThreads(get, set) if get() > 1 else None
    return None


if hasattr(os, "register_at_fork"):  # other threads of the parent, which may hold the number, do not exist in a child
    os.register_at_fork(after_in_child=openblas.cache_clear)
