"""``deepnotes data``: write a built-in data set to a table, to try the other commands on a file."""

import argparse
from pathlib import Path

import numpy as np

from deepnotes.cli import data
from deepnotes.cli.arguments import one_of, whole_number
from deepnotes.cli.output import Output, format_count
from deepnotes.cli.output_paths import require_output_paths, writing
from deepnotes.datasets.splits import train_validation_split
from deepnotes.datasets.table_writing import write_table
from deepnotes.utils.errors import ArgumentError

HELP = "Write a built-in data set to a CSV file, to try the other commands on it."
HELD_OUT = 0.2
"""The share of rows in the file that --held-out names."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``data``."""
    parser.add_argument("name", metavar="NAME", type=one_of("data", data.SETS), help=f"one of {', '.join(data.SETS)}")
    parser.add_argument("-o", "--output", metavar="FILE", help="the file to write (default: NAME.csv)")
    parser.add_argument(
        "--held-out", metavar="FILE", help="write a fifth of the rows, chosen at random, to this file instead"
    )
    parser.add_argument(
        "--seed", type=whole_number(0), default=0, metavar="N", help="the seed of that choice (default: 0)"
    )
    parser.add_argument("--quiet", action="store_true", help="write only errors, and the JSON object")


def run(args: argparse.Namespace, output: Output) -> None:
    """Write the rows of the data set to one file, or to two."""
    path, target = Path(args.output or f"{args.name}.csv"), data.SETS[args.name]
    held_out = None if args.held_out is None else Path(args.held_out)
    for option, file in (("--output", path), ("--held-out", held_out)):
        if file is not None and file.suffix.lower() != ".csv":
            raise ArgumentError(f"{option} {file}: the file is written as CSV, so its name must end in .csv")
    require_output_paths({"--output": path, "--held-out": held_out}, data.files(args.name))
    table = data.read(args.name)
    rows = {path: np.arange(table.n_rows)}
    if held_out is not None:
        y = table.column(target)
        classes = None if y.dtype.kind == "f" else np.unique(y, return_inverse=True)[1]
        rng = np.random.default_rng(args.seed)
        rows[path], rows[held_out] = train_validation_split(table.n_rows, HELD_OUT, rng, classes)
    for file, chosen in rows.items():
        with writing(file):
            write_table(file, table.names, {name: table.column(name)[chosen] for name in table.names})
    for file, chosen in rows.items():
        features = format_count(len(table.names) - 1, "feature")
        output.report(f"{file}: {format_count(len(chosen), 'row')}, {features}, target {target!r}")
    output.outcome(
        {
            "command": "data",
            "data": args.name,
            "target": target,
            "features": len(table.names) - 1,
            "files": {str(file): len(chosen) for file, chosen in rows.items()},
        }
    )
