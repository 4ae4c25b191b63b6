"""Messages that show the progress of a long compilation."""

import logging
import threading
import time
from importlib import import_module
from typing import Any

event: Any = import_module("numba.core.event")  # imported in this way since its type stubs are incomplete

INTERVAL = 10.0
"""The number of seconds between two messages; a shorter compilation has none."""

_log = logging.getLogger("deepnotes")


class CompileProgress(event.Listener):  # type: ignore[misc]
    """A listener that logs every few seconds how many functions are compiled, and at the end how long it took.

    Numba compiles under a lock, so at most one function is compiled at a time, with all the functions that it calls.
    """

    def __init__(self) -> None:
        self._description: str | None = None
        self._depth = self._functions = 0
        self._start, self._is_registered = 0.0, False
        self._ended = threading.Event()

    def announce(self, description: str) -> None:
        """Note what the next function to be compiled is called in messages."""
        if not self._is_registered:
            event.register("numba:compile", self)
            self._is_registered = True
        self._description, self._depth, self._functions = description, 0, 0

    def withdraw(self) -> None:
        """Forget the announcement, unless a function is being compiled: callbacks compile without an event."""
        if not self._depth:
            self._description = None

    def on_start(self, event: Any) -> None:
        """Start the messages, unless the function is compiled for another one."""
        if self._description is None:
            return
        self._depth += 1
        if self._depth == 1:
            self._start, self._ended = time.monotonic(), threading.Event()
            threading.Thread(target=self._report, args=(self._description, self._ended), daemon=True).start()

    def on_end(self, event: Any) -> None:
        """Count the function; after the last one, stop the messages."""
        if self._description is None or not self._depth:
            return
        self._depth -= 1
        self._functions += 1
        if self._depth:
            return
        self._ended.set()
        seconds = time.monotonic() - self._start
        if seconds >= INTERVAL:
            _log.warning("numba: compiling %s ended after %.0f s", self._description, seconds)
        self._description = None

    def _report(self, description: str, ended: threading.Event) -> None:
        while not ended.wait(INTERVAL):
            seconds = time.monotonic() - self._start
            _log.warning("numba: compiling %s: %d functions in %.0f s so far", description, self._functions, seconds)
