"""``deepnotes predict``: predict the target of each row of a table, and write the predictions as CSV."""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from deepnotes.cli import data
from deepnotes.cli.arguments import (
    add_backend,
    add_data,
    add_from_disk,
    add_model,
    add_threads,
    add_unknown,
    chosen_backend,
)
from deepnotes.cli.models import Model
from deepnotes.cli.output import Output, format_count
from deepnotes.cli.output_paths import require_output_paths
from deepnotes.cli.reading_options import MEND_CELLS, add_names, add_reading, format_of
from deepnotes.datasets.disk_tables import DiskTable
from deepnotes.datasets.problems import Problems
from deepnotes.datasets.reading import Request, split_names
from deepnotes.datasets.table_writing import find_formulas
from deepnotes.datasets.tables import Table
from deepnotes.utils.errors import ArgumentError

HELP = "Predict the target of each row of a table, and write the predictions as CSV."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``predict``."""
    add_model(parser)
    add_data(parser)
    parser.add_argument("-o", "--output", metavar="FILE", help="the CSV file to write (default: stdout)")
    parser.add_argument(
        "--spreadsheet",
        action="store_true",
        help="put an apostrophe before text that a spreadsheet would read as a formula",
    )
    add_names(parser, "keep", "columns of DATA to copy to the output, such as id")
    add_unknown(parser)
    add_reading(parser.add_argument_group("format of DATA (default: that of the training data)"))
    add_from_disk(parser)
    add_backend(parser)
    add_threads(parser)


def keeping(request: Request, keep: Sequence[str]) -> Request:
    """Return a request that also reads the columns to copy to the output, as they are spelled in the file."""
    if not keep:
        return request
    needed = dict.fromkeys(request.columns or ())
    parts = [(name, split_names([name], needed)) for name in keep]
    # A list of names can only be split here if it has the name of a feature; the reader splits the others.
    names = [part for name, split in parts for part in (split if needed.keys() & split else [name])]
    text = [*request.text, *(name for name in names if name not in needed)]
    return replace(request, columns=[*needed, *names], text=text, spelled=names, lists=True)


def with_kept(columns: dict[str, np.ndarray], table: Table | DiskTable, keep: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the columns that are copied to the output, followed by the given ones.

    Raises
    ------
    ArgumentError
        If two columns have the same name.
    """
    if not keep or not isinstance(table, Table):
        return columns
    names = split_names(keep, {*table.names, *table.others})
    if clash := next((name for name in names if name in columns), None):
        raise ArgumentError(f"--keep {clash}: the predictions have a column of this name; rename it in the data")
    return {name: table.labels(name) for name in names} | columns


def _first_formula(columns: Mapping[str, np.ndarray]) -> str:
    """Return the first text in the columns that a spreadsheet would read as a formula, or an empty text."""
    texts = (text for column in columns.values() if column.dtype.kind == "U" for text in find_formulas(column))
    return next(texts, "")


def _note_on_formula(text: str, output: Output) -> None:
    """Report a text that a spreadsheet would read as a formula, unless it is empty."""
    if text:
        output.log(f"note: spreadsheets would read {text!r} as a formula; to write it as text, use --spreadsheet")


def _read(args: argparse.Namespace, request: Request, problems: Problems) -> Iterable[Table | DiskTable]:
    """Return the rows of DATA in parts; `problems` gets what is wrong with them."""
    if not args.from_disk:
        return data.read_parts(args.data, request, problems)
    if args.keep:
        raise ArgumentError("--keep cannot be combined with --from-disk")
    return [data.read_from_disk(args.data, request)]


def run(args: argparse.Namespace, output: Output) -> None:
    """Predict, and write the predictions to a file, or to stdout as CSV or JSON."""
    path = None if args.output is None else Path(args.output)
    require_output_paths({"--output": path}, [Path(args.model), *data.files(args.data)], special=True)
    model = Model.load(args.model, chosen_backend(args))
    request = keeping(model.request(file_format=format_of(args, model.format)), args.keep)
    problems = Problems(args.data)
    rows, formula, predictions = 0, "", dict[str, list[Any]]()
    with output.rows(path, args.spreadsheet) as write:
        for table in _read(args, request, problems):
            if not rows:
                for note in table.notes:
                    output.log(note)
            with problems.collecting(rows):
                X = model.inputs(table, args.unknown)
            rows += table.n_rows
            if problems:  # only look for further problems
                continue
            columns = with_kept(model.task.columns(model.network.predict(X)), table, args.keep)
            formula = formula or _first_formula(columns)
            if output.as_json and path is None:
                for name, column in columns.items():
                    predictions.setdefault(name, []).extend(column.tolist())
            else:
                write(columns)
        problems.check(MEND_CELLS)
        if not args.spreadsheet and not output.as_json:
            _note_on_formula(formula, output)
    if path is not None:
        output.log(f"{format_count(rows, 'prediction')} written to {args.output}")
    output.outcome(
        {
            "command": "predict",
            "model": args.model,
            "data": table.source,
            "rows": rows,
            "target": model.target,
            "task": model.task.kind,
            "backend": model.network.backend.name,
            "output": args.output,
            "predictions": None if path is not None else predictions,
        }
    )
