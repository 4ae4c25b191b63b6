"""``deepnotes importance``: measure how much a model depends on each column of a table."""

import argparse
from pathlib import Path

import numpy as np

import deepnotes
from deepnotes import plots
from deepnotes.cli import data
from deepnotes.cli.arguments import (
    add_backend,
    add_data,
    add_model,
    add_threads,
    add_unknown,
    chosen_backend,
    whole_number,
)
from deepnotes.cli.models import Model
from deepnotes.cli.output import Output, cell, format_count
from deepnotes.cli.output_paths import require_output_paths, writing
from deepnotes.cli.reading_options import add_reading, format_of
from deepnotes.cli.train import plot_path_of
from deepnotes.datasets.table_writing import write_table
from deepnotes.datasets.tables import Column
from deepnotes.network.importance import Importance
from deepnotes.utils.wording import one_line, quote

HELP = "Measure how much a model's score falls when the values of a column are shuffled, for each column."
MOSTLY = 0.9
"""The share of rows of one class from which on accuracy says little about the others."""
SHOWN = 30
"""The largest number of columns that the report lists."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``importance``."""
    add_model(parser)
    add_data(parser)
    option = parser.add_argument
    option("--target", metavar="COLUMN", help="the column with the true values (default: the target of the model)")
    option(
        "--drop-missing-target",
        action="store_true",
        help="leave out rows whose target is missing (default: report an error)",
    )
    option(
        "--metric",
        metavar="NAME",
        help="the score: accuracy (default), balanced_accuracy, f1, roc_auc, or for two classes average_precision; for "
        "a regression r2",
    )
    option(
        "--repeats", type=whole_number(2), default=5, metavar="NUMBER", help="how often to shuffle a column (default 5)"
    )
    option("--seed", type=whole_number(0), default=0, metavar="NUMBER", help="the seed of the orders (default 0)")
    option("-o", "--output", metavar="FILE", help="write all columns to a CSV file")
    option("--plot", metavar="FILE", help="write a plot to a .png, .svg or .pdf file (default: no plot)")
    add_unknown(parser)
    add_reading(parser.add_argument_group("format of DATA (default: that of the training data)"))
    add_backend(parser)
    add_threads(parser)


def run(args: argparse.Namespace, output: Output) -> None:
    """Shuffle the columns one by one, and report how much the score falls."""
    path, plot_path = None if args.output is None else Path(args.output), plot_path_of(args)
    require_output_paths({"--output": path, "--plot": plot_path}, [Path(args.model), *data.files(args.data)])
    model = Model.load(args.model, chosen_backend(args))
    target = model.requested_target(args.target)
    table = data.read(args.data, model.request(target, format_of(args, model.format), args.drop_missing_target))
    for note in table.notes:
        output.log(note)
    y = data.target_column(table, target)
    with np.errstate(all="ignore"), output.waiting("shuffling columns"):
        result = deepnotes.Model(model.network).importance(
            table, y, metric=args.metric, repeats=args.repeats, seed=args.seed, unknown=args.unknown
        )
    columns = result.as_dict()
    output.facts(
        [
            *model.facts(args.model),
            ("data", f"{table.source}: {format_count(table.n_rows, 'row')}"),
            (result.score_name, f"{result.score:.4f}; each column was shuffled {args.repeats} times"),
        ]
    )
    _show(result, output)
    if result.score_name == "accuracy" and (note := _note_on_rare_classes(y)):
        output.log(note)
    if path is not None:
        with writing(path):
            write_table(path, list(columns), {name: np.array(values) for name, values in columns.items()})
        output.log(f"{format_count(len(result.columns), 'column')} written to {path}")
    if plot_path is not None:
        with writing(plot_path):
            plots.save(result.plot(), plot_path)
        output.log(f"plot written to {plot_path}")
    output.outcome(
        {
            "command": "importance",
            "model": args.model,
            "data": table.source,
            "rows": table.n_rows,
            "target": target,
            "score": result.score_name,
            "value": result.score,
            "repeats": args.repeats,
            "seed": args.seed,
            "columns": columns,
            "output": args.output,
            "plot": args.plot,
        }
    )


def _note_on_rare_classes(y: Column) -> str:
    """Return a note if accuracy says little, since nearly all rows are of one class; otherwise an empty string."""
    classes, counts = np.unique(y, return_counts=True)
    share = counts.max() / counts.sum()
    if share < MOSTLY or len(classes) < 2:
        return ""
    return (
        f"note: {share:.1%} of the rows are of class {quote(str(classes[counts.argmax()]))}, so accuracy says little "
        "about the others; --metric roc_auc counts all classes"
    )


def _show(result: Importance, output: Output) -> None:
    """Report the most important columns as a table."""
    from rich.table import Table

    columns = result.as_dict()
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("column")
    table.add_column(f"fall of {result.score_name}", justify="right")
    table.add_column("±", justify="right")
    rows = list(zip(*columns.values(), strict=True))
    for name, mean, std in rows[:SHOWN]:
        table.add_row(cell(one_line(name)), f"{mean:.4f}", f"{std:.4f}")
    output.report("")
    output.show(table)
    if len(rows) > SHOWN:
        output.report(f"and {len(rows) - SHOWN:,} more; --output FILE writes all")
