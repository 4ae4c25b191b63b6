"""Keep a command from replacing the model file of another network."""

import argparse
import os
from pathlib import Path
from typing import Any

from deepnotes.cli.models import Model
from deepnotes.cli.output import Output, format_count
from deepnotes.network.formats.containers import open_container
from deepnotes.utils.errors import ArgumentError, ModelFileError
from deepnotes.utils.wording import join_names


def add_force(parser: argparse._ActionsContainer) -> None:
    """Add the option --force."""
    parser.add_argument(
        "--force",
        action="store_true",
        help="replace the model file even if it holds a model of another target, or something else (default: report an "
        "error)",
    )


def require_replaceable(path: Path, model: Model, force: bool, output: Output) -> None:
    """Raise ArgumentError if the file to write holds another network; if it holds an earlier model, say so.

    A model of the same target is an earlier one, which may be replaced, also if it was trained on other columns.

    Raises
    ------
    ArgumentError
    """
    if not os.path.lexists(path) or not path.exists():
        return
    try:
        with open_container(path) as file:
            metadata = file.header.get("metadata")
    except ModelFileError:
        held, is_earlier = "is not a model file", False
    else:
        purpose = _purpose(metadata)
        held, is_earlier = _describe(purpose), purpose is not None and purpose[1] == model.target
    if is_earlier or force:
        output.log(f"note: {path} is replaced; it {held}")
    else:
        raise ArgumentError(f"{path} exists and {held}; to replace it, use --force, or use another --output FILE")


def _purpose(metadata: Any) -> tuple[Any, Any] | None:
    """Return the columns and the target in the metadata of a model file; None if they are not there."""
    try:
        columns = metadata.get("columns")
        names = metadata["features"] if columns is None else [column["name"] for column in columns]
        return names, metadata["target"]
    except (LookupError, TypeError, AttributeError):
        return None


def _describe(purpose: tuple[Any, Any] | None) -> str:
    """Return the part of a message that says which network a file holds."""
    if purpose is None:
        return "holds a network that no command trained"
    names, target = purpose
    shown = f" ({join_names(names)})" if len(names) <= 10 else ""
    return f"holds a model of {target!r} from {format_count(len(names), 'column')}{shown}"
