"""Signals that ask a training to end: it does, after a whole update."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Deferral:
    """What becomes of signals while they are held back, see :func:`deferred`."""

    def __init__(self, errors: dict[int, BaseException]) -> None:
        self._errors = errors
        self._asked: list[int] = []
        self._at_once = False

    def check(self) -> None:
        """Raise KeyboardInterrupt after Ctrl-C, and SystemExit with the usual 143 after SIGTERM."""
        if self._asked:
            raise self._errors[self._asked[0]]

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """Let signals act at once within the block: it changes nothing that could be left half done."""
        self._at_once = True
        try:
            self.check()
            yield
        finally:
            self._at_once = False

    def note(self, number: int, frame: Any) -> None:
        """Handle a signal: a second one acts at once in any case."""
        self._asked.append(number)
        if self._at_once or len(self._asked) > 1:
            self.check()


@contextmanager
def deferred(terminate: bool = False) -> Iterator[Deferral]:
    """Hold a first Ctrl-C back until the caller asks, so that no update is left half done; a second one acts at once.

    Only in the main thread, and only where Python's own handler is installed: a handler of the user's own is kept.

    Parameters
    ----------
    terminate : bool, default False
        Whether to hold SIGTERM back as well, if it would only end the process.
    """
    ways: dict[int, tuple[Any, BaseException]] = {signal.SIGINT: (signal.default_int_handler, KeyboardInterrupt())}
    if terminate:
        ways[signal.SIGTERM] = (signal.SIG_DFL, SystemExit(128 + signal.SIGTERM))
    if threading.current_thread() is not threading.main_thread():
        ways = {}
    ways = {number: way for number, way in ways.items() if signal.getsignal(number) is way[0]}
    deferral = Deferral({number: error for number, (_, error) in ways.items()})
    for number in ways:
        signal.signal(number, deferral.note)
    try:
        yield deferral
    finally:
        for number, (usual, _) in ways.items():
            signal.signal(number, usual)
