"""Options for reading the data of a command, and those that a model remembers from its training."""

import argparse
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from deepnotes.cli.arguments import whole
from deepnotes.datasets.readings import WHITESPACE, Format
from deepnotes.utils.errors import ArgumentError

FIELDS = tuple(field.name for field in fields(Format))


def add_reading(group: argparse._ActionsContainer) -> None:
    """Add the options that say how a data file is written."""
    option = group.add_argument
    option(
        "--separator",
        metavar="CHARACTER",
        help=f"what stands between cells (default: found out among , ; tab |), or {WHITESPACE}",
    )
    option("--decimal", metavar="CHARACTER", help="the decimal point (default .)")
    option(
        "--thousands", metavar="CHARACTER", help="what groups digits by threes, such as , in 1,035 (default: nothing)"
    )
    option("--strip", metavar="CHARACTERS", help="what is dropped around numbers, such as '$%%'")
    option("--encoding", metavar="NAME", help="of the text, such as latin-1 (default utf-8)")
    option("--no-header", dest="header", action="store_false", default=None, help="columns have no names: x0, x1, ...")
    option(
        "--skip-rows",
        type=whole(0),
        metavar="NUMBER",
        help="how many lines at the beginning are not looked at, such as a title above the header (default 0)",
    )
    option("--comment", metavar="CHARACTER", help="what begins a comment, which ends with the line (default: nothing)")
    option(
        "--missing-value",
        dest="missing_values",
        action="append",
        metavar="TEXT",
        help="one more spelling of a missing value, such as -200; may be given several times",
    )
    option("--date-format", metavar="FORMAT", help="of --dates, such as %%d/%%m/%%Y (default: ISO 8601)")


def add_names(group: argparse._ActionsContainer, name: str, about: str) -> None:
    """Add an option that takes names of columns, and may be given several times."""
    group.add_argument(
        f"--{name}",
        action="append",
        default=[],
        metavar="COLUMNS",
        help=f"{about}; several with commas between, or the option again",
    )


def format_of(args: argparse.Namespace, remembered: Mapping[str, Any] | None = None) -> Format:
    """Return the format of a file: as the options say, else as a model remembers it.

    Raises
    ------
    ArgumentError
    """
    given = {name: getattr(args, name) for name in FIELDS if getattr(args, name) is not None}
    if given.get("separator") in ("\\t", "tab"):
        given["separator"] = "\t"
    try:
        return Format(**{**(remembered or {}), **given})
    except ArgumentError as error:
        name, _, rest = str(error).partition("=")
        option = "missing-value" if name == "missing_values" else name.replace("_", "-")
        raise ArgumentError(f"argument --{option}: {rest}") from None


def as_metadata(form: Format) -> dict[str, Any]:
    """Return what differs from the default, as JSON values."""
    usual = Format()
    different = {name: getattr(form, name) for name in FIELDS if getattr(form, name) != getattr(usual, name)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in different.items()}


def from_metadata(found: Any) -> dict[str, Any]:
    """Return what :func:`as_metadata` returned, checked.

    Raises
    ------
    TypeError, ValueError
        If it is not valid.
    """
    if not isinstance(found, dict) or not set(found) <= set(FIELDS):
        raise TypeError(f"reading {found!r}")
    Format(**found)
    return found
