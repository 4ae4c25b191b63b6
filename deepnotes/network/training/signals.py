"""Signals that ask a training to end, deferred until the current update is complete."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Deferral:
    """The signals that have arrived while they are deferred, see :func:`deferred`."""

    def __init__(self, errors: dict[int, BaseException]) -> None:
        self._errors = errors
        self._asked: list[int] = []
        self._at_once = False

    def check(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed, and SystemExit with the usual 143 after SIGTERM."""
        if self._asked:
            raise self._errors[self._asked[0]]

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """Let signals act at once within the block, which must change nothing that could be left half done."""
        self._at_once = True
        try:
            self.check()
            yield
        finally:
            self._at_once = False

    def note(self, number: int, frame: Any) -> None:
        """Handle a signal; a second one always acts at once."""
        self._asked.append(number)
        if self._at_once or len(self._asked) > 1:
            self.check()


@contextmanager
def deferred(terminate: bool = False) -> Iterator[Deferral]:
    """Defer a first Ctrl-C until the caller checks, so that no update is left half done; a second one acts at once.

    This applies only in the main thread, and only to Python's own handler: a handler that the user installed is kept.

    Parameters
    ----------
    terminate : bool, default False
        Whether to defer SIGTERM as well, if its default action would end the process.
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
