"""``deepnotes backends``: which there are, which work here, and what to do about those that do not."""

import argparse
from typing import Any

from deepnotes.backends.base import PROMISES
from deepnotes.backends.registry import get_backend, load, registered_backends
from deepnotes.cli.output import Output, cell
from deepnotes.utils.errors import BackendUnavailable, UnknownNameError

HELP = "List the backends: which work here, and how to mend those that do not."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add nothing: ``backends`` takes no arguments of its own."""


def run(args: argparse.Namespace, output: Output) -> None:
    """Try each backend and report."""
    from rich.table import Table

    selected = _selected(output)
    found = [_found(name) for name in registered_backends()]
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("", "backend", "works", "what it is, or what to do"):
        shown.add_column(heading, header_style="bold", overflow="fold")
    for backend in found:
        works = cell("yes", "green") if backend["works"] else cell("no", "red")
        about = f"{backend['cause']}\nto fix it: {backend['fix']}"
        if backend["works"]:
            about = f"{backend['description']}\n{PROMISES[backend['determinism']]}"
        shown.add_row("*" if backend["name"] == selected else "", cell(backend["name"]), works, cell(about))
    output.show(shown)
    output.report("\n* is selected; --backend NAME or DEEPNOTES_BACKEND=NAME selects another")
    output.outcome({"command": "backends", "selected": selected, "backends": found})


def _selected(output: Output) -> str | None:
    try:
        return get_backend().name
    except BackendUnavailable as error:
        return error.name
    except UnknownNameError as error:
        output.log(f"DEEPNOTES_BACKEND: {error}")
        return None


def _found(name: str) -> dict[str, Any]:
    about: dict[str, Any] = {
        "name": name, "works": True, "description": None, "determinism": None, "cause": None, "fix": None,
    }  # fmt: skip
    try:
        backend = load(name)
        return about | {"description": backend.describe(), "determinism": backend.determinism}
    except BackendUnavailable as error:
        return about | {"works": False, "cause": error.cause, "fix": error.fix}
