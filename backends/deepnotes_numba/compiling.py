"""Compilation that preserves every rounding.

The compiler may not reorder or fuse operations (``fastmath`` is off): it optimizes a function several times, alone and
within each of its callers, and which of these copies is called depends on what the process compiled or loaded before.
With ``fastmath`` the copies could round differently. Fused multiply-adds and sums in several parts are written out
where they are faster, see :mod:`deepnotes_numba.vectors`.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from deepnotes_numba.cache import CodeCache

numba: Any = import_module("numba")  # its type stubs lack its settings and sets of flags

OPTIONS = {"error_model": "numpy", "nogil": True}
"""Division by zero is not checked, which would prevent vectorization, and the GIL is released."""
INNER = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, **OPTIONS}
"""Options without the wrapper for calls from Python, which takes a quarter of the compiler's time."""


def jit(function: Callable[..., Any]) -> Any:
    """Return `function`, compiled when a caller is; a call from Python, rather than compiled code, crashes."""
    return numba.njit(**INNER)(function)


def jit_for(*others: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator like :func:`jit`, for a function that closes over others: their names become part of its name.

    In cached code, functions of the same name differ only by a number that each process counts from the start. A
    process that loads code of two other processes, or compiles some itself, would confuse such functions.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        function.__qualname__ = ".".join([function.__qualname__, *(other.__name__ for other in others)])
        return jit(function)

    return decorate


def inlined(function: Callable[..., Any]) -> Any:
    """Return `function` as :func:`jit` does, but always inlined into the machine code of its callers."""
    return numba.njit(forceinline=True, **INNER)(function)


def substituted(function: Callable[..., Any]) -> Any:
    """Return `function`, substituted into its callers before they are compiled.

    Otherwise each level of calls takes the compiler longer: it optimizes a function together with all that it calls.
    """
    return numba.njit(inline="always", **INNER)(function)


def standalone(function: Callable[..., Any]) -> Any:
    """Return `function`, callable from Python, compiled at its first call and not cached on disk."""
    return numba.njit(no_cfunc_wrapper=True, **OPTIONS)(function)


def entry(what: str) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator for a function that Python calls: compiled at its first call, and cached on disk.

    Parameters
    ----------
    what : str
        A short description of the function, shown to the user while it is compiled.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = standalone(function)
        dispatcher._cache = CodeCache(function, what)  # as `enable_caching` sets Numba's own cache
        return dispatcher

    return decorate
