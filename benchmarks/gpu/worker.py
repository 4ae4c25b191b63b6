"""Processes of their own for the libraries, so that one that crashes or hangs cannot disturb the others."""

import os
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


class WorkerError(Exception):
    """A call failed or took too long, or the process has ended."""


class Worker:
    """A process that creates an object and calls its methods on request.

    A process that has ended is replaced at the next call; the new one has a new object.

    Parameters
    ----------
    make : callable
        Creates the object; it has to be picklable.
    """

    def __init__(self, make: Callable[[], object]) -> None:
        self._make = make
        self._process: Any = None

    def start(self) -> None:
        """Start the process, unless it is running, without waiting until it is ready."""
        if self._process is not None:
            return
        file, path = tempfile.mkstemp(prefix="deepnotes-", suffix=".log")
        os.close(file)
        self._log = Path(path)
        context = get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, path, self._make), daemon=False)
        self._process.start()
        theirs.close()
        self._ready = False

    def wait(self, seconds: float) -> None:
        """Wait until the object exists.

        Raises
        ------
        WorkerError
            If it could not be created, or not in this time.
        """
        self.start()
        if not self._ready:
            try:
                self._receive(seconds)
            except WorkerError:
                self.stop()
                raise
            self._ready = True

    def call(self, method: str, *arguments: Any, seconds: float) -> Any:
        """Call a method of the object and return its result; the arguments and the result have to be picklable.

        Raises
        ------
        WorkerError
            If the method raises an exception, takes longer than `seconds`, or ends the process.
        """
        deadline = time.monotonic() + seconds
        self.wait(seconds)
        with suppress(OSError):  # if the process has ended, _receive reports it
            self._connection.send((method, arguments))
        return self._receive(deadline - time.monotonic())

    def stop(self) -> None:
        """End the process at once, if it is running."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
            self._connection.close()
            self._log.unlink(missing_ok=True)
            self._process = None

    def _receive(self, seconds: float) -> Any:
        try:
            answered = self._connection.poll(max(0.0, seconds))
            succeeded, value = self._connection.recv() if answered else (False, f"took longer than {seconds:.0f} s")
        except (EOFError, OSError):
            self._process.join()
            succeeded, value = False, f"its process ended {self._how_it_ended()}"
            self.stop()
        else:
            if not answered:
                self.stop()
        if not succeeded:
            raise WorkerError(value)
        return value

    def _how_it_ended(self) -> str:
        code = self._process.exitcode
        how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        lines = self._log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"{how}{last and ': '}{last[:300]}"


def _serve(connection: Connection, log: str, make: Callable[[], object]) -> None:
    """Create the object, then answer requests until the other end of the connection is closed."""
    with open(log, "ab") as file:  # what libraries print, also from C, would disturb the report of the progress
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    try:
        target = make()
    except Exception as error:
        connection.send((False, _message(error)))
        return
    connection.send((True, None))
    while True:
        try:
            method, arguments = connection.recv()
        except EOFError:
            return
        try:
            answer = True, getattr(target, method)(*arguments)
        except Exception as error:
            answer = False, _message(error)
        connection.send(answer)


def _message(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
