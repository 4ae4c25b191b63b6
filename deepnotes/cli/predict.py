"""``deepnotes predict``: predict the target of each row of a table, and write the predictions as CSV."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
from deepnotes.cli.reading_options import MEND_CELLS, add_reading, format_of
from deepnotes.datasets.disk_tables import DiskTable
from deepnotes.datasets.problems import Problems
from deepnotes.datasets.table_writing import find_formulas
from deepnotes.datasets.tables import Table

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
    add_unknown(parser)
    add_reading(parser.add_argument_group("format of DATA (default: that of the training data)"))
    add_from_disk(parser)
    add_backend(parser)
    add_threads(parser)


def run(args: argparse.Namespace, output: Output) -> None:
    """Predict, and write the predictions to a file, or to stdout as CSV or JSON."""
    path = None if args.output is None else Path(args.output)
    require_output_paths({"--output": path}, [Path(args.model), *data.files(args.data)], special=True)
    model = Model.load(args.model, chosen_backend(args))
    request, problems = model.request(file_format=format_of(args, model.format)), Problems(args.data)
    if args.from_disk:
        parts: Iterator[Table | DiskTable] = iter([data.read_from_disk(args.data, request)])
    else:
        parts = data.read_parts(args.data, request, problems)
    rows, formula, predictions = 0, "", dict[str, list[Any]]()
    with output.rows(path, args.spreadsheet) as write:
        for table in parts:
            if not rows:
                for note in table.notes:
                    output.log(note)
            with problems.collecting(rows):
                X = model.inputs(table, args.unknown)
            rows += table.n_rows
            if problems:  # only look for further problems
                continue
            columns = model.task.columns(model.network.predict(X))
            formula = formula or next(iter(find_formulas(columns["prediction"])), "")
            if output.as_json and path is None:
                for name, column in columns.items():
                    predictions.setdefault(name, []).extend(column.tolist())
            else:
                write(columns)
        problems.check(MEND_CELLS)
        if formula and not args.spreadsheet and not output.as_json:
            output.log(
                f"note: spreadsheets would read {formula!r} as a formula; to write it as text, use --spreadsheet"
            )
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
