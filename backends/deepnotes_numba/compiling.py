"""Compilation without liberties: results are as written, to the last bit.

The compiler may not reorder or fuse operations (``fastmath`` is off): a function is optimised in several places, alone
and within each of its callers, and which of these copies is called depends on what the process compiled or loaded
before. With ``fastmath`` the copies could round differently. Where a fused multiply-add or a sum in parts pays, the
code asks for it explicitly, see :mod:`deepnotes_numba.vectors`.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from deepnotes_numba.cache import CodeCache

numba: Any = import_module("numba")  # its type stubs lack its settings and sets of flags

OPTIONS = {"error_model": "numpy", "nogil": True}
"""No check for division by zero, which would prevent vectorisation, and no GIL."""
INNER = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, **OPTIONS}
"""Omits the wrapper for calls from Python, which takes a quarter of the compiler's time."""


def jit(function: Callable[..., Any]) -> Any:
    """Return `function`, compiled with its callers: only compiled code may call it; a call from Python crashes."""
    return numba.njit(**INNER)(function)


def jit_for(*made_for: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return :func:`jit` for a function that is generated for each of several others, and distinguished by their names.

    In the code on disk, functions of the same name differ only by a number that each process counts from the start. A
    process that loads the code of two others, or has some of its own, would confuse them and compute something else.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        function.__qualname__ = ".".join([function.__qualname__, *(of.__name__ for of in made_for)])
        return jit(function)

    return decorate


def inlined(function: Callable[..., Any]) -> Any:
    """Return `function` as :func:`jit` does, but always inlined into its callers."""
    return numba.njit(forceinline=True, **INNER)(function)


def substituted(function: Callable[..., Any]) -> Any:
    """Return `function`, substituted into its callers before they are compiled.

    Otherwise each level of calls takes the compiler longer: it optimizes a function together with all that it calls.
    """
    return numba.njit(inline="always", **INNER)(function)


def standalone(function: Callable[..., Any]) -> Any:
    """Return `function`, callable from Python, compiled at its first call and not kept on disk."""
    return numba.njit(no_cfunc_wrapper=True, **OPTIONS)(function)


def entry(what: str) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator for a function that Python calls: compiled at its first call, and kept on disk.

    Parameters
    ----------
    what : str
        A few words on what it does, for the user who waits for the compiler.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = standalone(function)
        dispatcher._cache = CodeCache(function, what)  # as its `enable_caching` does with Numba's own
        return dispatcher

    return decorate
