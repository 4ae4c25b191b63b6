"""Decorators that compile functions such that their roundings never change.

``fastmath`` is off, so the compiler may not reorder or fuse operations. The compiler optimizes a function several
times, alone and within each of its callers, and what the process has compiled or loaded before decides which of these
copies is called. With ``fastmath``, the copies could round differently. Where fused multiply-adds and sums in several
parts are faster, they are written out, see :mod:`deepnotes_numba.vectors`.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from deepnotes_numba.cache import CodeCache

numba: Any = import_module("numba")  # imported in this way since its type stubs are incomplete

OPTIONS = {"error_model": "numpy", "nogil": True}
"""Divisions by zero do not raise, since checks would prevent vectorization; and the GIL is released."""
INNER = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, **OPTIONS}
"""Options that omit the wrappers for calls from Python and C, which take a quarter of the compiler's time."""


def jit(function: Callable[..., Any]) -> Any:
    """Return `function`, to be compiled with its callers. Only compiled code may call it; a call by Python crashes."""
    return numba.njit(**INNER)(function)


def inline_code(function: Callable[..., Any]) -> Any:
    """Return `function` as :func:`jit` does; its machine code is always inlined into its callers."""
    return numba.njit(forceinline=True, **INNER)(function)


def inline_source(function: Callable[..., Any]) -> Any:
    """Return `function`, to be inlined into its callers before they are compiled.

    This saves time: at each level of calls, the compiler optimizes a function together with all that it calls.
    """
    return numba.njit(inline="always", **INNER)(function)


def jit_standalone(function: Callable[..., Any]) -> Any:
    """Return `function`, to be called from Python; it is compiled at its first call, and not cached on disk."""
    return numba.njit(no_cfunc_wrapper=True, **OPTIONS)(function)


def entry(description: str) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator for a function that Python calls: compiled at its first call, and cached on disk.

    Parameters
    ----------
    description : str
        A short description of the function, shown to the user while it is compiled.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = jit_standalone(function)
        dispatcher._cache = CodeCache(function, description)  # `enable_caching` sets Numba's own cache in this way
        return dispatcher

    return decorate
