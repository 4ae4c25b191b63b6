"""``deepnotes warmup``: compile a backend's kernels ahead of their first use."""

import argparse
import time

from deepnotes.backends.registry import get_backend
from deepnotes.cli.arguments import add_backend
from deepnotes.cli.output import Output
from deepnotes.utils.wording import one_line

HELP = "Compile a backend's kernels ahead of time, so that no later command has to wait for a compiler."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``warmup``."""
    add_backend(parser)


def run(args: argparse.Namespace, output: Output) -> None:
    """Compile one item at a time, and report how long each of them took."""
    backend = get_backend(args.backend)
    output.facts([("backend", f"{backend.name}: {backend.describe()}")])
    prepared: list[dict[str, str | float]] = []
    items = backend.warmup()
    start = end = time.perf_counter()
    while True:
        with output.waiting(f"preparing {backend.name}"):
            item = next(items, None)
        previous, end = end, time.perf_counter()
        if item is None:
            break
        prepared.append({"what": item, "seconds": end - previous})
        output.report(_line(end - previous, item))
    output.report(_line(end - start, "in total") if prepared else "nothing to prepare")
    output.outcome({"command": "warmup", "backend": backend.name, "prepared": prepared, "seconds": end - start})


def _line(seconds: float, item: str) -> str:
    return f"{seconds:8.2f} s  {one_line(item)}"
