"""How the backend compiles: as written, to the last bit, and with a disk cache that never serves stale code.

The compiler may not reorder or fuse what it is given (``fastmath`` is off): a function is optimised in several places,
alone and within each of its callers, and which of these copies is called depends on what the process compiled or
loaded before. With liberties they would round differently. What is worth a fused multiply-add or a sum in parts says
so itself, see :mod:`deepnotes_numba.vectors`.

Numba's own cache notices a change in a function's file, not in the files of what it calls. So the cache lies in a
folder named by a digest of all files of this backend and of the versions that matter: any change opens a new folder.
"""

import hashlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

numba: Any = import_module("numba")  # its types know neither its settings nor sets of flags

_ready: set[tuple[str, Any]] = set()
_NOTHING = nullcontext()
OPTIONS = {"error_model": "numpy", "nogil": True}
"""No check for division by zero, which would keep loops from being vectorised, and no GIL."""


def cache_folder() -> Path:
    """Return the folder of this version of this backend, under ``DEEPNOTES_CACHE_DIR`` or the user's cache folder."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    for version in (numba.__version__, import_module("llvmlite").__version__, np.__version__, sys.version):
        digest.update(version.encode() + b"\0")
    root = os.environ.get("DEEPNOTES_CACHE_DIR")
    base = Path(root) if root else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deepnotes"
    return base / f"numba-{digest.hexdigest()[:16]}"


@contextmanager
def cached() -> Iterator[None]:
    """Within this block, functions are decorated for the backend's own cache folder; Numba's setting is put back."""
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(cache_folder())
    try:
        yield
    finally:
        numba.config.CACHE_DIR = before


def announced(what: str, dtype: np.dtype | None = None) -> AbstractContextManager[None]:
    """Say once, before the wait, that there is one: `what` has not been compiled for this dtype on this machine yet."""
    return _NOTHING if (what, dtype) in _ready else _announced(what, dtype)


@contextmanager
def _announced(what: str, dtype: np.dtype | None) -> Iterator[None]:
    key = what, dtype
    what = what if dtype is None else f"{what} for {dtype}"
    folder = cache_folder()
    mark = folder / what.replace(" ", "-")
    if not mark.exists():
        kept = f"once: the result is kept in {folder}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            kept = f"in each process anew, since nothing can be kept in {folder} ({error.strerror})"
        logging.getLogger("deepnotes").warning("numba: compiling %s takes some seconds, %s", what, kept)
    yield
    _ready.add(key)
    with suppress(OSError):  # then the next process says it again
        mark.touch()


def jit(function: Callable[..., Any]) -> Any:
    """Return `function`, to be compiled with what calls it."""
    return numba.njit(**OPTIONS)(function)


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
    return numba.njit(forceinline=True, **OPTIONS)(function)


def entry(function: Callable[..., Any]) -> Any:
    """Return `function`, which Python calls, compiled at its first call and kept on disk with all that it calls."""
    with cached():
        try:
            return numba.njit(cache=True, **OPTIONS)(function)
        except RuntimeError:  # there is nowhere to write: compile anew in each process
            return numba.njit(**OPTIONS)(function)
