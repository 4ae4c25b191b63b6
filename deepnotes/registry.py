"""Which backends there are, and which one is meant: discovery by entry point, selection, errors that say the fix.

A backend is a factory (a function of no arguments that returns a :class:`~deepnotes.backend.Backend`) registered
under the entry-point group ``deepnotes.backends``. Listing them imports none of them; using one imports only that one.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING

from deepnotes.backend import Backend
from deepnotes.errors import ArgumentError, BackendUnavailable, unknown_name

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "deepnotes.backends"
AUTO = ("cupy", "numba", "numpy")
"""What ``"auto"`` tries, in this order."""

_selected: ContextVar[str | None] = ContextVar("deepnotes_backend", default=None)
_process_default: str | None = None
_loaded: dict[str, Backend] = {}
_lock = threading.RLock()


def registered_backends() -> list[str]:
    """Return the names of all registered backends, whether or not they work here; nothing is imported."""
    return sorted(_entry_points())


def available_backends() -> list[str]:
    """Return the names of the registered backends that work here; each is loaded to find out."""
    names = []
    for name in registered_backends():
        try:
            load(name)
        except BackendUnavailable:
            continue
        names.append(name)
    return names


def get_backend(backend: str | Backend | None = None) -> Backend:
    """Return a backend: the one given, else the selected one.

    The order is: the argument, :func:`use_backend`, :func:`set_backend`, the environment variable
    ``DEEPNOTES_BACKEND``, ``"numpy"``. The name ``"auto"`` stands for the first that works of cupy, numba and numpy.

    Parameters
    ----------
    backend : str or Backend, optional

    Raises
    ------
    UnknownNameError
        If no backend of that name is registered.
    BackendUnavailable
        If it is not installed, fails to import or has no device.

    Examples
    --------
    >>> get_backend("numpy").name
    'numpy'
    """
    if isinstance(backend, Backend):
        return backend
    name = backend or _selected.get() or _process_default or os.environ.get("DEEPNOTES_BACKEND") or "numpy"
    if name != "auto":
        return load(name)
    for candidate in AUTO:
        try:
            chosen = load(candidate)
        except (BackendUnavailable, ValueError) as error:
            _log_info("backend auto: not %s (%s)", candidate, error)
            continue
        _log_info("backend auto: chose %s", candidate)
        return chosen
    raise BackendUnavailable("auto", f"none of {', '.join(AUTO)} works", "pip install --force-reinstall deepnotes")


def set_backend(name: str | None) -> None:
    """Make `name` the default of the whole process, all threads included; None takes that back.

    Networks that exist keep the backend they were made with.

    Raises
    ------
    UnknownNameError, BackendUnavailable
        As :func:`get_backend`, before anything changes.
    """
    global _process_default
    if name is not None:
        get_backend(name)
    _process_default = name


@contextmanager
def use_backend(name: str) -> Iterator[Backend]:
    """Select a backend within a ``with`` block, for this thread or async task alone.

    Yields
    ------
    Backend

    Raises
    ------
    UnknownNameError, BackendUnavailable
        As :func:`get_backend`.

    Examples
    --------
    >>> with use_backend("numpy") as backend:
    ...     get_backend() is backend
    True
    """
    backend = get_backend(name)
    token = _selected.set(name)
    try:
        yield backend
    finally:
        _selected.reset(token)


def load(name: str) -> Backend:
    """Return the backend registered as `name`, importing it at its first use.

    Raises
    ------
    UnknownNameError
        If no backend of that name is registered; the message has the nearest match.
    BackendUnavailable
        If it cannot be made here, with the cause and the fix.
    """
    if not isinstance(name, str):
        raise ArgumentError(f"backend: got {name!r}, wanted a name or a deepnotes Backend")
    with _lock:
        if name in _loaded:
            return _loaded[name]
        entries = _entry_points()
        if name not in entries:
            raise unknown_name("backend", name, entries)
        _loaded[name] = backend = _make(name, entries[name])
        return backend


def _make(name: str, entry: "EntryPoint") -> Backend:
    try:
        backend = entry.load()()
    except BackendUnavailable:
        raise
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0] or entry.module
        raise BackendUnavailable(name, f"Python cannot find {missing!r}", f"pip install {missing}") from error
    except Exception as error:
        owner = entry.dist.name if entry.dist else name
        raise BackendUnavailable(
            name, f"{type(error).__name__}: {error}", f"pip install --force-reinstall {owner}"
        ) from error
    if not isinstance(backend, Backend):
        raise BackendUnavailable(
            name,
            f"its entry point {entry.value} gave {type(backend).__name__}, not a deepnotes Backend",
            "report this to the authors of the backend",
        )
    return backend


@cache
def _entry_points() -> "dict[str, EntryPoint]":
    from importlib.metadata import entry_points  # slow to import, so not before a backend is asked for

    return {entry.name: entry for entry in entry_points(group=GROUP)}


def _log_info(message: str, *args: object) -> None:
    import logging

    logging.getLogger("deepnotes").info(message, *args)
