"""``deepnotes train --validation-file FILE``: hold out the rows of a second file."""

import argparse
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np

from deepnotes.cli import data
from deepnotes.datasets.encoding import IMPUTE_THEM
from deepnotes.datasets.problems import Gap
from deepnotes.datasets.reading import Request
from deepnotes.datasets.tables import Table
from deepnotes.utils.errors import ArgumentError


def add_validation_file(group: argparse._ActionsContainer) -> None:
    """Add the option --validation-file."""
    group.add_argument(
        "--validation-file",
        metavar="FILE",
        help="hold out the rows of this file, which has the same columns as DATA, instead of a share of the rows",
    )


def files_of(args: argparse.Namespace) -> list[Path]:
    """Return the paths of all files that are opened to read the data of ``train``.

    Raises
    ------
    ArgumentError
        If --validation-file cannot be combined with another option.
    """
    paths = data.files(args.data)
    if args.validation_file is None:
        return paths
    for option, value in (
        ("--validation", args.validation),
        ("--folds", args.folds),
        ("--from-disk", args.from_disk or None),
    ):
        if value is not None:
            raise ArgumentError(f"{option} cannot be combined with --validation-file")
    return [*paths, *data.files(args.validation_file)]


def append_rows(table: Table, path: str, request: Request, target: data.Target, impute: Collection[str]) -> Table:
    """Return a table with the rows of a second file, read with the columns and types of the first, at its end.

    Parameters
    ----------
    table : Table
        The first table.
    path : str
        The argument of --validation-file.
    request : Request
        The request with which the first table was read.
    target : str or list of str
        The target columns.
    impute : collection of str
        The columns whose missing values are filled; in other columns, they are errors.

    Raises
    ------
    UnknownNameError, TableError
        If the second file cannot be read, lacks a column, or has values of another type or missing values.
    """
    resolved = request.resolve(table.source, [*table.names, *table.others])
    is_text = {name: table.column(name).dtype.kind == "U" for name in table.names}
    same_types = replace(
        resolved,
        columns=table.names,
        exclude=(),
        text=[name for name in table.names if is_text[name]],
        numeric=[name for name in table.names if not is_text[name] and name not in resolved.dates],
        dates=[name for name in table.names if name in resolved.dates],
        spelled=list(table.spelled),
        drop_missing=[name for name in resolved.drop_missing if name in table.names],
    )
    second = data.read(path, same_types)
    data.target_column(second, target)
    optional = {*data.names_of(target), *impute}
    second.require_complete([name for name in second.names if name not in optional], IMPUTE_THEM)
    gaps = dict(table.gaps)
    for name, gap in second.gaps.items():  # these are only counted from here on
        gaps[name] = replace(gaps.get(name, Gap(0, gap.positions, gap.description)))
        gaps[name].count += gap.count
    return Table(
        table.names,
        {name: np.concatenate([table.column(name), second.column(name)]) for name in table.names},
        table.source,
        table.lines,
        gaps,
        table.others,
        {name: np.concatenate([table.spelled[name], second.spelled[name]]) for name in table.spelled},
        [*table.notes, *(f"{second.source}: {note}" for note in second.notes)],
    )
