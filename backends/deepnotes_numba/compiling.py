"""How the backend compiles: as written, to the last bit.

The compiler may not reorder or fuse what it is given (``fastmath`` is off): a function is optimised in several places,
alone and within each of its callers, and which of these copies is called depends on what the process compiled or
loaded before. With liberties they would round differently. What is worth a fused multiply-add or a sum in parts says
so itself, see :mod:`deepnotes_numba.vectors`.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from deepnotes_numba.cache import CodeCache

numba: Any = import_module("numba")  # its types know neither its settings nor sets of flags

OPTIONS = {"error_model": "numpy", "nogil": True}
"""No check for division by zero, which would keep loops from being vectorised, and no GIL."""
INNER = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, **OPTIONS}
"""Without the code by which Python would call a function, which takes a quarter of the compiler's time."""


def jit(function: Callable[..., Any]) -> Any:
    """Return `function`, to be compiled with what calls it: compiled code alone may call it, from Python it crashes."""
    return numba.njit(**INNER)(function)


def jit_for(*made_for: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return :func:`jit` for a function that is made anew for each of some others, by whose names it is told apart.

    In the code that is kept on disk, functions of one name differ by a number that each process counts anew. A process
    that has the code of two others, or some of its own, would take one for the other, and compute something else.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        function.__qualname__ = ".".join([function.__qualname__, *(of.__name__ for of in made_for)])
        return jit(function)

    return decorate


def inlined(function: Callable[..., Any]) -> Any:
    """Return `function` as :func:`jit` does, but so that it becomes a part of whatever calls it."""
    return numba.njit(forceinline=True, **INNER)(function)


def standalone(function: Callable[..., Any]) -> Any:
    """Return `function`, which Python may call, compiled at its first call; not kept on disk."""
    return numba.njit(no_cfunc_wrapper=True, **OPTIONS)(function)


def entry(what: str) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator for a function that Python calls: compiled at its first call, and kept on disk.

    Parameters
    ----------
    what : str
        A few words for what it does, for the user who waits for the compiler.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = standalone(function)
        dispatcher._cache = CodeCache(function, what)  # as its `enable_caching` does with Numba's own
        return dispatcher

    return decorate
