"""Calls and processes with a time limit, for tests of code that might hang."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def call_within(seconds: float, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function and return its result; fail if it takes longer than `seconds`."""
    outcome: list[Any] = []

    def call_and_store() -> None:
        try:
            outcome.append((function(*arguments), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=call_and_store, daemon=True)
    thread.start()
    thread.join(seconds)
    assert outcome, f"the call is still running after {seconds} seconds"
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


def call_concurrently(functions: Sequence[Callable[[], Any]], seconds: float = 30) -> list[Any]:
    """Call functions at the same time, each in its own thread; return their results, or raise the first error."""
    start = threading.Barrier(len(functions))
    outcomes: dict[int, tuple[Any, BaseException | None]] = {}

    def call_and_store(number: int) -> None:
        start.wait(seconds)
        try:
            outcomes[number] = functions[number](), None
        except BaseException as error:
            outcomes[number] = None, error

    threads = [threading.Thread(target=call_and_store, args=(number,), daemon=True) for number in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds)
    assert len(outcomes) == len(functions), (
        f"{len(functions) - len(outcomes)} calls are still running after {seconds} seconds"
    )
    for _, error in outcomes.values():
        if error is not None:
            raise error
    return [outcomes[number][0] for number in range(len(functions))]


def run_python(code: str, seconds: float = 30, **environment: str) -> str:
    """Run code in a new process that can import the test modules; return its standard output, or fail."""
    folders = sorted({str(path.parent) for path in Path(__file__).parent.rglob("test_*.py")})
    path = os.pathsep.join(filter(None, [*folders, os.environ.get("PYTHONPATH")]))
    process = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout
