"""The options for reading data files, taken from the command line or from the metadata of a model."""

import argparse
from collections.abc import Container, Mapping, Sequence
from dataclasses import fields
from typing import Any

from deepnotes.cli.arguments import whole_number
from deepnotes.datasets.encoding import IMPUTE
from deepnotes.datasets.reading import WHITESPACE, Format
from deepnotes.utils.errors import ArgumentError, unknown_name

FIELDS = tuple(field.name for field in fields(Format))
"""The names of the options, as attributes of the parsed arguments and as keys of the metadata."""

MEND_CELLS = "correct it, or use --missing-value if it stands for a missing value"
"""The advice for a cell that is not a number."""


def add_reading(group: argparse._ActionsContainer) -> None:
    """Add the options that describe the format of a data file."""
    option = group.add_argument
    option(
        "--separator",
        metavar="CHARACTER",
        help=f"the character between cells, or {WHITESPACE} (default: detected; one of , ; tab |)",
    )
    option("--decimal", metavar="CHARACTER", help="the decimal separator (default .)")
    option(
        "--thousands",
        metavar="CHARACTER",
        help="the character between groups of three digits, such as , in 1,035 (default: none)",
    )
    option("--strip", metavar="CHARACTERS", help="characters to remove before and after numbers, such as '$%%'")
    option("--encoding", metavar="NAME", help="the encoding of the text, such as latin-1 (default utf-8)")
    option(
        "--no-header",
        dest="header",
        action="store_false",
        default=None,
        help="the file has no row of column names; the columns are then named x0, x1, ...",
    )
    option(
        "--skip-rows",
        type=whole_number(0),
        metavar="NUMBER",
        help="the number of lines to skip at the beginning of the file, for example a title (default 0)",
    )
    option(
        "--comment",
        metavar="CHARACTER",
        help="the character that begins a comment, which extends to the end of the line (default: none)",
    )
    option(
        "--missing-value",
        dest="missing_values",
        action="append",
        metavar="TEXT",
        help="additional text that stands for a missing value, such as -200; may be given several times",
    )
    option(
        "--date-format",
        metavar="FORMAT",
        help="the format of dates in the columns named by --dates, such as %%d/%%m/%%Y (default: ISO 8601)",
    )


def add_names(group: argparse._ActionsContainer, name: str, description: str) -> None:
    """Add an option --`name` that takes column names and may be given several times."""
    group.add_argument(
        f"--{name}",
        action="append",
        default=[],
        metavar="COLUMNS",
        help=f"{description}; separate several names with commas, or repeat the option",
    )


def imputation(text: str) -> str:
    """Check the value of --impute: a rule, or rules for columns, as COLUMN=RULE, separated by commas."""
    for part in text.split(",") if "=" in text else [text]:
        _, equals, rule = part.rpartition("=")
        if (equals or "=" not in text) and rule not in IMPUTE:
            raise argparse.ArgumentTypeError(str(unknown_name("imputation", rule, IMPUTE)))
    return text


def imputation_rules(values: Sequence[str], names: Sequence[str], known: Container[str]) -> dict[str, str]:
    """Return the rule by which each column is imputed, if it is.

    Parameters
    ----------
    values : sequence of str
        The values of --impute.
    names : sequence of str
        The names of the features.
    known : container of str
        The names of all columns.

    Raises
    ------
    ArgumentError
        If a value names a column that is not a feature.

    Examples
    --------
    >>> imputation_rules(["mean", "b=zero,c=median"], ["a", "b", "c"], {"a", "b", "c", "y"})
    {'a': 'mean', 'b': 'zero', 'c': 'median'}
    """
    rules, of_columns = dict[str, str](), dict[str, str]()
    for value in values:
        if "=" not in value:
            rules = dict.fromkeys(names, value)
            continue
        for part in [value] if value.rpartition("=")[0] in known else value.split(","):
            column, _, rule = part.rpartition("=")
            if column.strip() not in names:
                state = "is not a feature" if column.strip() in known else "does not exist"
                raise ArgumentError(f"argument --impute: {part}: column {column.strip()!r} {state}")
            of_columns[column.strip()] = rule
    return rules | of_columns


def format_of(args: argparse.Namespace, defaults: Mapping[str, Any] | None = None) -> Format:
    """Return the format of a data file.

    Parameters
    ----------
    args : Namespace
        The parsed arguments.
    defaults : mapping, optional
        The values for options that were not given, from :func:`from_metadata`.

    Raises
    ------
    ArgumentError
        If the value of an option is invalid.
    """
    options = {name: getattr(args, name) for name in FIELDS if getattr(args, name) is not None}
    if options.get("separator") in ("\\t", "tab"):
        options["separator"] = "\t"
    try:
        return Format(**{**(defaults or {}), **options})
    except ArgumentError as error:
        name, _, rest = str(error).partition("=")
        option = "missing-value" if name == "missing_values" else name.replace("_", "-")
        raise ArgumentError(f"argument --{option}: {rest}") from None


def as_metadata(file_format: Format) -> dict[str, Any]:
    """Return those options that differ from their defaults, as JSON values."""
    default = Format()
    changed = {name: value for name in FIELDS if (value := getattr(file_format, name)) != getattr(default, name)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in changed.items()}


def from_metadata(metadata: Any) -> dict[str, Any]:
    """Check JSON values that :func:`as_metadata` has returned, and return them as options.

    Raises
    ------
    TypeError, ValueError
        If an option is invalid.
    """
    if not isinstance(metadata, dict) or not set(metadata) <= set(FIELDS):
        raise TypeError(f"format {metadata!r}")
    Format(**metadata)
    return metadata
