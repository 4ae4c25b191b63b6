"""What tests of things that may hang share: calls and processes that fail after a time instead."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def within(seconds: float, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function that may hang, if there is a bug, and fail then."""
    outcome: list[Any] = []

    def work() -> None:
        try:
            outcome.append((function(*arguments), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    assert outcome, f"it still runs after {seconds} seconds"
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


def at_once(functions: Sequence[Callable[[], Any]], seconds: float = 30) -> list[Any]:
    """Call functions in as many threads, which all begin together; return what they do, or raise."""
    start = threading.Barrier(len(functions))
    found: dict[int, tuple[Any, BaseException | None]] = {}

    def work(number: int) -> None:
        start.wait(seconds)
        try:
            found[number] = functions[number](), None
        except BaseException as error:
            found[number] = None, error

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds)
    assert len(found) == len(functions), f"{len(functions) - len(found)} still run after {seconds} seconds"
    for _, error in found.values():
        if error is not None:
            raise error
    return [found[number][0] for number in range(len(functions))]


def python(code: str, seconds: float = 30, **environment: str) -> str:
    """Run a program that can import what lies here, in a process of its own; return what it printed, or fail."""
    folders = sorted({str(path.parent) for path in Path(__file__).parent.rglob("test_*.py")})
    path = os.pathsep.join(filter(None, [*folders, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
