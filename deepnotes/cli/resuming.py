"""Explain why a training run cannot be resumed, and what to do instead."""

import argparse
from collections.abc import Callable
from functools import wraps

from deepnotes.cli import train_defaults
from deepnotes.cli.arguments import with_hint
from deepnotes.cli.output import Output
from deepnotes.utils.errors import CheckpointError

EMBEDDED = (
    "The run began with another --embed-above, which says which columns are embedded: pass the same one. A run of an "
    "earlier version embeds none: --embed-above none."
)
"""What to do if the layers differ in an embedding."""
Command = Callable[[argparse.Namespace, Output], None]


def explain_resumption(run: Command) -> Command:
    """Decorate the function of ``train``, so that an error about its schedule or its embeddings says what to do."""

    @wraps(run)
    def explained(args: argparse.Namespace, output: Output) -> None:
        try:
            run(args, output)
        except CheckpointError as error:
            text = str(error)
            if not args.resume or not ("optimizer was" in text or "Embedding(" in text):
                raise
            raise with_hint(error, _advice(args) if "optimizer was" in text else EMBEDDED) from error.__cause__

    return explained


def _advice(args: argparse.Namespace) -> str:
    """Return what to do if the optimizer or its schedule differs from that of the checkpoint."""
    schedule = train_defaults.schedule_name(args)
    return (
        f"The learning rate of --schedule {schedule} depends on the number of epochs and of rows, so a run can "
        "only be resumed with the same --epochs, --schedule and --learning-rate. To train longer, finish it with them, "
        "and then start a new run, with a new schedule, from its weights: --from MODEL --epochs MORE, without "
        "--resume. With --schedule constant from the start, --resume accepts more epochs."
    )
