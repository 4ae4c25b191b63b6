"""``deepnotes backends``: list the registered backends, and explain how to fix those that do not work."""

import argparse
from typing import Any

from deepnotes.backends.base import PROMISES
from deepnotes.backends.registry import get_backend, load, owner, registered_backends
from deepnotes.cli.output import Output, cell
from deepnotes.utils.errors import BackendUnavailable, UnknownNameError

HELP = "List the backends, show which of them work here, and explain how to fix the others."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add nothing: ``backends`` takes no arguments of its own."""


def run(args: argparse.Namespace, output: Output) -> None:
    """Load each backend, and report whether it works."""
    from rich.table import Table

    selected = _selected_backend(output)
    backends = [_describe(name) for name in registered_backends()]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("", "backend", "works", "description, or how to fix it"):
        table.add_column(heading, header_style="bold", overflow="fold")
    for backend in backends:
        if backend["works"]:
            works = cell("yes", "green")
            description = f"{backend['description']}\n{PROMISES[backend['determinism']]}"
        else:
            works = cell("no", "red")
            description = f"{backend['cause']}\nto fix it: {backend['fix']}"
        table.add_row("*" if backend["name"] == selected else "", cell(backend["name"]), works, cell(description))
    output.show(table)
    output.report("\n* marks the selected backend; to select another, use --backend NAME or DEEPNOTES_BACKEND=NAME")
    output.outcome({"command": "backends", "selected": selected, "backends": backends})


def _selected_backend(output: Output) -> str | None:
    """Return the name of the selected backend, whether it works or not, or None if no backend has the selected name."""
    try:
        return get_backend().name
    except BackendUnavailable as error:
        return error.name
    except UnknownNameError as error:
        output.log(f"DEEPNOTES_BACKEND: {error}")
        return None


def _describe(name: str) -> dict[str, Any]:
    """Return the description of a backend, or the reason why it is unavailable, as JSON values."""
    description: dict[str, Any] = {
        "name": name, "works": True, "description": None, "determinism": None, "cause": None, "fix": None,
    }  # fmt: skip
    try:
        backend = load(name)
        return description | {"description": backend.describe(), "determinism": backend.determinism}
    except BackendUnavailable as error:
        cause, fix = error.cause, error.fix
    except Exception as error:  # of the backend's own `describe`: the other backends are listed all the same
        cause = f"its method describe failed ({type(error).__name__}: {error})"
        fix = f"report this to the authors of {owner(name)}"
    return description | {"works": False, "cause": cause, "fix": fix}
