"""Signals that ask a training to end: it does, after a whole update."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def deferred(terminate: bool = False) -> Iterator[Callable[[], None]]:
    """Hold a first Ctrl-C back until the caller asks, so that no update is left half done; a second one acts at once.

    Only in the main thread, and only where Python's own handler is installed: others know what they want.

    Parameters
    ----------
    terminate : bool, default False
        Whether to hold SIGTERM back, too, if nothing else was to become of it than the end of the process.

    Yields
    ------
    callable
        It raises KeyboardInterrupt after Ctrl-C, and SystemExit with the usual 143 after SIGTERM.
    """
    ways: dict[int, tuple[Any, type[BaseException], tuple[int, ...]]] = {
        signal.SIGINT: (signal.default_int_handler, KeyboardInterrupt, ())
    }
    if terminate:
        ways[signal.SIGTERM] = (signal.SIG_DFL, SystemExit, (128 + signal.SIGTERM,))
    if threading.current_thread() is not threading.main_thread():
        ways = {}
    ways = {number: way for number, way in ways.items() if signal.getsignal(number) is way[0]}
    asked: list[int] = []

    def check() -> None:
        if asked:
            _, error, arguments = ways[asked[0]]
            raise error(*arguments)

    def note(number: int, frame: Any) -> None:
        asked.append(number)
        if len(asked) > 1:
            check()

    for number in ways:
        signal.signal(number, note)
    try:
        yield check
    finally:
        for number, (usual, *_) in ways.items():
            signal.signal(number, usual)
