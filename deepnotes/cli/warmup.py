"""``deepnotes warmup``: compile ahead of time what a backend would compile at its first use."""

import argparse
import time

from deepnotes.backends.registry import get_backend
from deepnotes.cli.arguments import add_backend
from deepnotes.cli.output import Output
from deepnotes.utils.wording import one_line

HELP = "Prepare a backend for this machine, so that no later run waits for a compiler."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``warmup``."""
    add_backend(parser)


def run(args: argparse.Namespace, output: Output) -> None:
    """Prepare one item after the other, and report how long each took."""
    backend = get_backend(args.backend)
    output.facts([("backend", f"{backend.name}: {backend.describe()}")])
    prepared: list[dict[str, str | float]] = []
    steps = backend.warmup()
    began = done = time.perf_counter()
    while True:
        with output.waiting(f"preparing {backend.name}"):
            what = next(steps, None)
        before, done = done, time.perf_counter()
        if what is None:
            break
        prepared.append({"what": what, "seconds": done - before})
        output.report(_line(done - before, what))
    output.report(_line(done - began, "in all") if prepared else "nothing to prepare")
    output.outcome({"command": "warmup", "backend": backend.name, "prepared": prepared, "seconds": done - began})


def _line(seconds: float, what: str) -> str:
    return f"{seconds:8.2f} s  {one_line(what)}"
