"""``deepnotes predict``: what a model says about each row of a table, as CSV."""

import argparse
import sys
from pathlib import Path

from deepnotes.cli import data
from deepnotes.cli.arguments import add_backend, add_data, add_model, add_threads, chosen_backend
from deepnotes.cli.models import Model
from deepnotes.cli.output import Output, counted, require_writable
from deepnotes.tables import write_table

HELP = "Predict the target of each row of a table, as CSV."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``predict``."""
    add_model(parser)
    add_data(parser)
    parser.add_argument("-o", "--output", metavar="FILE", help="the CSV file (default: stdout)")
    add_backend(parser)
    add_threads(parser)


def run(args: argparse.Namespace, output: Output) -> None:
    """Predict and write, to a file, or to stdout as CSV or JSON."""
    if args.output:
        require_writable(Path(args.output), args.data, args.model, special=True)
    model = Model.load(args.model, chosen_backend(args))
    table = data.read(args.data)
    columns = model.task.columns(model.network.predict(model.inputs(table)))
    if args.output:
        write_table(args.output, list(columns), columns)
        output.log(f"{counted(table.n_rows, 'prediction')} written to {args.output}")
    elif not output.as_json:
        write_table(sys.stdout, list(columns), columns)
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
            "predictions": None if args.output else {name: column.tolist() for name, column in columns.items()},
        }
    )
