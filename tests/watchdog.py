"""Calls and processes with a time limit, for tests of code that a bug could make hang."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def within(seconds: float, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function and return its result; fail if it takes longer than `seconds`."""
    outcome: list[Any] = []

    def work() -> None:
        try:
            outcome.append((function(*arguments), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    assert outcome, f"it is still running after {seconds} seconds"
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


def at_once(functions: Sequence[Callable[[], Any]], seconds: float = 30) -> list[Any]:
    """Call functions at the same time, each in a thread; return their results, or raise the first error."""
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
    assert len(found) == len(functions), f"{len(functions) - len(found)} are still running after {seconds} seconds"
    for _, error in found.values():
        if error is not None:
            raise error
    return [found[number][0] for number in range(len(functions))]


def python(code: str, seconds: float = 30, **environment: str) -> str:
    """Run code that can import the test modules in a new process; return its output, or fail."""
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
