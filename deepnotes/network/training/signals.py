"""Signals that end training, deferred until the current chunk of updates is complete."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Deferral:
    """The signals that have arrived since :func:`defer_signals` was called.

    Parameters
    ----------
    errors : dict of int to BaseException
        The error to raise for each signal.
    """

    def __init__(self, errors: dict[int, BaseException]) -> None:
        self._errors = errors
        self._arrived: list[int] = []
        self._is_immediate = False

    def check(self) -> None:
        """Raise the error of the first signal, if one has arrived: KeyboardInterrupt, or SystemExit after SIGTERM."""
        if self._arrived:
            raise self._errors[self._arrived[0]]

    @contextmanager
    def acting_at_once(self) -> Iterator[None]:
        """Let signals act at once within the ``with`` block; the block must be safe to interrupt anywhere."""
        self._is_immediate = True
        try:
            self.check()
            yield
        finally:
            self._is_immediate = False

    def handle(self, number: int, frame: Any) -> None:
        """Record a signal; a second signal always acts at once."""
        self._arrived.append(number)
        if self._is_immediate or len(self._arrived) > 1:
            self.check()


class SharedDeferral(Deferral):
    """The signals and errors that end several training runs, which may be in different threads.

    No signal acts at once during an evaluation: only the main thread could be interrupted.

    Parameters
    ----------
    signals : Deferral
        The signals that the main thread receives.
    """

    def __init__(self, signals: Deferral) -> None:
        super().__init__({})
        self._signals = signals
        self.error: BaseException | None = None

    def stop(self, error: BaseException) -> None:
        """Let each training run end at its next check, because of `error`; the first error counts."""
        if self.error is None:
            self.error = error

    def check(self) -> None:
        """Raise KeyboardInterrupt if the training runs have to end; after SIGTERM, SystemExit."""
        self._signals.check()
        if self.error is not None:
            raise KeyboardInterrupt

    @contextmanager
    def acting_at_once(self) -> Iterator[None]:
        """Check for signals before the ``with`` block."""
        self.check()
        yield


@contextmanager
def defer_signals(terminate: bool = False) -> Iterator[Deferral]:
    """Defer a first Ctrl-C until the caller calls ``check``, so that no update is left incomplete.

    A second Ctrl-C acts at once. Signals are deferred only in the main thread, and only if their handler is Python's
    default; a handler that the user has installed stays in place.

    Parameters
    ----------
    terminate : bool, default False
        Whether to defer SIGTERM as well, if its handler is the default, which ends the process.
    """
    handlers: dict[int, Any] = {signal.SIGINT: signal.default_int_handler}
    errors: dict[int, BaseException] = {signal.SIGINT: KeyboardInterrupt()}
    if terminate:
        handlers[signal.SIGTERM] = signal.SIG_DFL
        errors[signal.SIGTERM] = SystemExit(128 + signal.SIGTERM)  # the exit status that shells report after SIGTERM
    if threading.current_thread() is not threading.main_thread():
        handlers = {}
    handlers = {number: handler for number, handler in handlers.items() if signal.getsignal(number) is handler}
    deferral = Deferral(errors)
    for number in handlers:
        signal.signal(number, deferral.handle)
    try:
        yield deferral
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
