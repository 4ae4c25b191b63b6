"""The registry of backends: it discovers them by entry points, selects one, and explains why one does not work.

A backend is registered as an entry point in the group ``deepnotes.backends``. The entry point is a factory: a function
that returns a :class:`~deepnotes.backends.base.Backend`. Its parameters, each with a default, are the options of the
backend. Listing the backends does not import them; using a backend imports only that backend. A backend that
``"auto"`` may choose has a second entry point, in the group ``deepnotes.auto``. The name of the second entry point is
the priority, a whole number, so the backends can be sorted before any is imported.
"""

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from deepnotes.backends.base import Backend, check_declarations
from deepnotes.utils.errors import ArgumentError, BackendUnavailable, UnknownNameError, unknown_name

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "deepnotes.backends"
AUTO_GROUP = "deepnotes.auto"
"""The group of entry points named by a priority: ``"auto"`` tries these backends, the highest priority first."""

Choice: TypeAlias = tuple[str, dict[str, Any]]
"""The name of a backend, and the options to create it with."""

_selected: ContextVar[Choice | None] = ContextVar("deepnotes_backend", default=None)
_process_default: Choice | None = None
_loaded: dict[tuple[object, ...], Backend] = {}
_lock = threading.RLock()


def registered_backends() -> list[str]:
    """Return the names of all registered backends, including those that do not work here, without importing them."""
    return sorted(_entry_points())


def available_backends() -> list[str]:
    """Return the names of the registered backends that work on this machine, after trying to load each of them."""
    names = []
    for name in registered_backends():
        try:
            load(name)
        except BackendUnavailable:
            continue
        names.append(name)
    return names


def get_backend(backend: str | Backend | None = None, **options: Any) -> Backend:
    """Return the given backend, or by default the selected one.

    The first of these that is given or set selects the backend: the argument, :func:`use_backend`, :func:`set_backend`,
    the environment variable ``DEEPNOTES_BACKEND``; otherwise it is ``"numpy"``. The name ``"auto"`` stands for the
    backend with the highest priority among those that work and accept `options`. deepnotes' own backends are tried in
    the order cupy, numba, numpy.

    Parameters
    ----------
    backend : str or Backend, optional
    **options : object
        The options of the backend, such as ``threads=2``. The same name and options give the same object. Without a
        name, they are added to the options that the backend was selected with.

    Raises
    ------
    UnknownNameError
        If no backend of that name is registered.
    BackendUnavailable
        If the backend is not installed, cannot be imported, or finds no device.
    ArgumentError
        If the backend lacks one of the options or refuses its value, or if options are given with a Backend object.

    Examples
    --------
    >>> get_backend("numpy").name
    'numpy'
    """
    if isinstance(backend, Backend):
        if options:
            raise ArgumentError(
                f"backend={backend!r}: got {_format_options(options)}, wanted options only with the name of a backend"
            )
        return backend
    if backend is None:
        name, selected = _selected.get() or _process_default or (os.environ.get("DEEPNOTES_BACKEND") or "numpy", {})
        options = selected | options
    else:
        name = backend
    return _load_first(by_priority(), options) if name == "auto" else load(name, options)


def is_selected() -> bool:
    """Return whether a backend is selected: by :func:`use_backend`, :func:`set_backend` or ``DEEPNOTES_BACKEND``."""
    return bool(_selected.get() or _process_default or os.environ.get("DEEPNOTES_BACKEND"))


def set_backend(name: str | None, **options: Any) -> None:
    """Set the default backend, with these options, for all threads of the process; None removes the default.

    Existing networks keep their backend.

    Raises
    ------
    UnknownNameError, BackendUnavailable, ArgumentError
        As for :func:`get_backend`; the default then stays as it was.
    """
    global _process_default
    if name is None and not options:
        _process_default = None
    else:
        _get_by_name(name, options)
        _process_default = (str(name), options)


@contextmanager
def use_backend(name: str, **options: Any) -> Iterator[Backend]:
    """Select a backend, with these options, within a ``with`` block, for the current thread or async task only.

    Yields
    ------
    Backend

    Raises
    ------
    UnknownNameError, BackendUnavailable, ArgumentError
        As for :func:`get_backend`.

    Examples
    --------
    >>> with use_backend("numpy") as backend:
    ...     get_backend() is backend
    True
    """
    backend = _get_by_name(name, options)
    token = _selected.set((name, options))
    try:
        yield backend
    finally:
        _selected.reset(token)


def load(name: str, options: Mapping[str, Any] | None = None) -> Backend:
    """Return the backend that is registered as `name`, created with `options`; its module is imported on first use.

    Raises
    ------
    UnknownNameError
        If no backend of that name is registered; the message suggests the nearest match.
    BackendUnavailable
        If the backend does not work on this machine; the message states the cause and the fix.
    ArgumentError
        If the backend lacks one of the options or refuses its value.
    """
    if not isinstance(name, str):
        raise ArgumentError.of("backend", name, "a name or a deepnotes Backend")
    options = dict(options or {})
    key = (name, *((option, type(value), value) for option, value in sorted(options.items())))  # 1 is not True
    try:
        hash(key)
    except TypeError:
        raise ArgumentError(
            f"backend {name!r}: got {_format_options(options)}, wanted hashable values, such as a tuple"
        ) from None
    with _lock:
        if key in _loaded:
            return _loaded[key]
        entries = _entry_points()
        if name not in entries:
            raise unknown_name("backend", name, entries)
        _loaded[key] = backend = _create(name, entries[name], options)
        backend.options = options
        return backend


def _get_by_name(name: object, options: dict[str, Any]) -> Backend:
    if not isinstance(name, str):
        suffix = f" with {_format_options(options)}" if options else ""
        raise ArgumentError(f"name={name!r}{suffix}, wanted the name of a backend")
    return get_backend(name, **options)


def _load_first(candidates: list[str], options: dict[str, Any]) -> Backend:
    """Return the first candidate that works and accepts the options."""
    refusals = []
    for candidate in candidates:
        try:
            chosen = load(candidate, options)
        except (BackendUnavailable, UnknownNameError, ArgumentError) as error:
            _log("info", "backend auto: not %s (%s)", candidate, error)
            if isinstance(error, ArgumentError):
                refusals.append(str(error))
            continue
        _log("info", "backend auto: chose %s", candidate)
        return chosen
    failure = f"none of {', '.join(candidates)} works" if candidates else "no backend has a priority"
    if refusals:
        raise ArgumentError(f"backend 'auto': {failure} here with {_format_options(options)} ({', '.join(refusals)})")
    raise BackendUnavailable("auto", failure, "pip install --force-reinstall deepnotes")


def _create(name: str, entry: "EntryPoint", options: dict[str, Any]) -> Backend:
    try:
        factory = entry.load()
        _check_options(name, factory, options)
        backend = factory(**options)
        if isinstance(backend, Backend):
            check_declarations(backend)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0] or entry.module
        if _is_installed(missing):  # such as the entry point "package.create" instead of "package:create"
            raise BackendUnavailable(
                name, f"its entry point {entry.value}: {error}", f"report this to the authors of {owner(name)}"
            ) from error
        raise BackendUnavailable(name, f"Python cannot find {missing!r}", f"pip install {missing}") from error
    except Exception as error:
        if isinstance(error, BackendUnavailable) or (options and isinstance(error, ArgumentError)):
            raise
        package = entry.dist.name if entry.dist else name
        installed_badly = isinstance(error, ImportError | OSError)  # such as a shared library that is missing
        fix = (
            f"pip install --force-reinstall {package}"
            if installed_badly
            else f"report this to the authors of {package}"
        )
        raise BackendUnavailable(name, f"{type(error).__name__}: {error}", fix) from error
    if not isinstance(backend, Backend):
        raise BackendUnavailable(
            name,
            f"its entry point {entry.value} returned {type(backend).__name__}, not a deepnotes Backend",
            f"report this to the authors of {owner(name)}",
        )
    own_name = backend.name
    if own_name != name:
        raise BackendUnavailable(
            name,
            f"its entry point {entry.value} returned a backend of the name {own_name!r}",
            f"give both the same name, or report this to the authors of {owner(name)}",
        )
    return backend


def _is_installed(package: str) -> bool:
    from importlib.util import find_spec

    try:
        return find_spec(package) is not None
    except ValueError:  # a module without a spec
        return True


def owner(name: str) -> str:
    """Return the name of the package that registers the backend `name`."""
    entry = _entry_points()[name]
    return entry.dist.name if entry.dist else entry.module


def describe_stranger(error: BaseException) -> str | None:
    """Return the name and the package of a third party's backend whose code or library raised `error`, or None.

    The modules in the traceback are compared with those of the backends that are in use.
    """
    modules = set()
    trace = error.__traceback__
    while trace is not None:
        modules.add(str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0])
        trace = trace.tb_next
    for name, entry in _entry_points().items():
        backends = [backend for key, backend in _loaded.items() if key[0] == name]
        if not backends or owner(name) == "deepnotes":
            continue
        libraries = {str(getattr(backend.xp, "__name__", "")).partition(".")[0] for backend in backends} - {"numpy", ""}
        if modules & ({entry.module.partition(".")[0]} | libraries):
            return f"backend {name!r} of {owner(name)}"
    return None


def stranger_in_use(error: BaseException) -> str | None:
    """Return the name of a third party's backend that deepnotes was computing with when `error` was raised, or None.

    Its results may have caused the error, although its own code did not raise it.
    """
    trace = error.__traceback__
    while trace is not None:
        for value in list(trace.tb_frame.f_locals.values()):
            backend = value if isinstance(value, Backend) else getattr(value, "__dict__", {}).get("backend")
            name = backend.name if isinstance(backend, Backend) else ""
            if name in _entry_points() and owner(name) != "deepnotes":
                return name
        trace = trace.tb_next
    return None


def _check_options(name: str, factory: Callable[..., Any], options: dict[str, Any]) -> None:
    """Raise ArgumentError unless all options are parameters of the factory, or it takes ``**kwargs``."""
    if not options:
        return
    from inspect import Parameter, signature  # slow to import, and most backends are used without options

    parameters = signature(factory).parameters.values()
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters):
        return
    by_name = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    known = [parameter.name for parameter in parameters if parameter.kind in by_name]
    for option in options:
        if option not in known:
            raise ArgumentError(f"backend {name!r} has no option {option!r}; its options: {', '.join(known) or 'none'}")


def _format_options(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{option}={value!r}" for option, value in options.items())


def by_priority() -> list[str]:
    """Return the names of the backends that ``"auto"`` tries, the highest priority first."""
    priorities = _priorities()
    ranked = [(-priorities[entry.value], name) for name, entry in _entry_points().items() if entry.value in priorities]
    return [name for _, name in sorted(ranked)]


@cache
def _priorities() -> dict[str, int]:
    """Return the priority of each factory, by its reference, such as ``"deepnotes_numpy:create"``.

    An entry point that gives no backend a priority is reported once, as a warning, since ``"auto"`` cannot use it.
    """
    from importlib.metadata import entry_points

    priorities, factories = {}, {entry.value for entry in _entry_points().values()}
    for entry in entry_points(group=AUTO_GROUP):
        package = entry.dist.name if entry.dist else entry.module
        place = f"entry point {entry.name!r} of {package} in the group {AUTO_GROUP!r}"
        if not entry.name.isdecimal():
            _log("warning", "%s: its name is no priority, wanted a whole number", place)
        elif entry.value not in factories:
            _log("warning", "%s: %s is not an entry point in the group %r", place, entry.value, GROUP)
        else:
            priorities[entry.value] = int(entry.name)
    return priorities


@cache
def _entry_points() -> "dict[str, EntryPoint]":
    """Return the factory of each backend by its name.

    If several packages register a name, it is deepnotes' own backend, or else that of the package whose name comes
    first; a warning names the others, once.
    """
    from importlib.metadata import entry_points  # slow to import, so only when a backend is needed

    def package(entry: "EntryPoint") -> str:
        return entry.dist.name if entry.dist else entry.module

    chosen: dict[str, EntryPoint] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (package(entry) != "deepnotes", package(entry))):
        first = chosen.setdefault(entry.name, entry)
        if first.value != entry.value:
            _log(
                "warning", "backend %r of %s is not used: %s registers a backend of that name, too",
                entry.name, package(entry), package(first),
            )  # fmt: skip
    return chosen


def _log(level: Literal["info", "warning"], message: str, *args: object) -> None:
    import logging

    getattr(logging.getLogger("deepnotes"), level)(message, *args)


# A pickle of a backend contains its name and options; unpickling calls this function.
Backend._load = staticmethod(load)
