"""``deepnotes predict``: predict the target of each row of a table, and write the predictions as CSV."""

import argparse
from pathlib import Path

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
from deepnotes.cli.reading_options import add_reading, format_of
from deepnotes.datasets.table_writing import find_formulas, write_table

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
    table = model.read(args.data, args.from_disk, file_format=format_of(args, model.format))
    for note in table.notes:
        output.log(note)
    columns = model.task.columns(model.network.predict(model.inputs(table, args.unknown)))
    if not args.spreadsheet and not output.as_json and (texts := find_formulas(columns["prediction"])):
        output.log(f"note: spreadsheets would read {texts[0]!r} as a formula; to write it as text, use --spreadsheet")
    if path is not None:
        write_table(path, list(columns), columns, spreadsheet=args.spreadsheet)
        output.log(f"{format_count(table.n_rows, 'prediction')} written to {args.output}")
    elif not output.as_json:
        output.table(list(columns), columns, args.spreadsheet)
    output.outcome(
        {
            "command": "predict",
            "model": args.model,
            "data": table.source,
            "rows": table.n_rows,
            "target": model.target,
            "task": model.task.kind,
            "backend": model.network.backend.name,
            "output": args.output,
            "predictions": None if path is not None else {name: column.tolist() for name, column in columns.items()},
        }
    )
