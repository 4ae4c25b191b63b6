"""``deepnotes evaluate``: measure a model on the rows of a table."""

import argparse
from pathlib import Path

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
from deepnotes.cli.class_tables import never_predicted, report_classes
from deepnotes.cli.models import Model
from deepnotes.cli.output import Output, format_count
from deepnotes.cli.output_paths import require_output_paths
from deepnotes.cli.reading_options import MEND_CELLS, add_reading, format_of
from deepnotes.cli.tasks import Classification
from deepnotes.cli.training_rows import note_on_training_rows
from deepnotes.datasets.problems import Problems

HELP = "Measure the quality of a model on the rows of a table."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``evaluate``."""
    add_model(parser)
    add_data(parser)
    parser.add_argument(
        "--target", metavar="COLUMN", help="the column with the true values (default: the target column of the model)"
    )
    parser.add_argument(
        "--drop-missing-target",
        action="store_true",
        help="leave out rows whose target is missing (default: report an error)",
    )
    add_unknown(parser)
    add_reading(parser.add_argument_group("format of DATA (default: that of the training data)"))
    add_from_disk(parser)
    add_backend(parser)
    add_threads(parser)


def run(args: argparse.Namespace, output: Output) -> None:
    """Compare predictions with the target column, and report the scores."""
    require_output_paths({}, [Path(args.model), *data.files(args.data)])
    model = Model.load(args.model, chosen_backend(args))
    target = model.requested_target(args.target)
    request = model.request(target, format_of(args, model.format), args.drop_missing_target)
    problems = Problems(args.data)
    table = data.read_from_disk(args.data, request) if args.from_disk else data.read(args.data, request, problems)
    for note in table.notes:
        output.log(note)
    with problems.collecting():
        y = data.target_column(table, target)
    with problems.collecting():
        X = model.inputs(table, args.unknown)
    problems.check(MEND_CELLS)
    task = model.task
    with np.errstate(all="ignore"):
        scores = task.evaluate(model.network, X, y)
        classes = task.score_classes(model.network.predict(X), y) if isinstance(task, Classification) else []
    if seen := note_on_training_rows(model.network.metadata, X, y, task):
        output.log(f"note: {seen}")
    output.facts(
        [
            *model.facts(args.model),
            ("data", f"{table.source}: {format_count(table.n_rows, 'row')}"),
            *model.task.facts(scores, format_count(table.n_rows, "row")),
        ]
    )
    if classes:
        report_classes(classes, output, weighted=True)
    output.outcome(
        {
            "command": "evaluate",
            "model": args.model,
            "data": table.source,
            "rows": table.n_rows,
            "target": target,
            "task": model.task.kind,
            "backend": model.network.backend.name,
            "loss": model.task.loss,
            "metrics": scores,
            "per_class": classes or None,
            "never_predicted": never_predicted(classes) if classes else None,
            "note": seen or None,
        }
    )
