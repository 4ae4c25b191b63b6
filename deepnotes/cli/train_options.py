"""The options of ``deepnotes train``."""

import argparse
from collections.abc import Iterable, Mapping

from deepnotes.cli import train_defaults
from deepnotes.cli.arguments import (
    WHOLE,
    add_backend,
    add_data,
    add_from_disk,
    add_threads,
    named,
    number,
    sizes,
    whole,
)
from deepnotes.cli.reading_options import add_names, add_reading
from deepnotes.cli.tasks import MOST_CLASSES
from deepnotes.datasets.encoding import IMPUTE, MOST_CATEGORIES
from deepnotes.network.training.intervals import interval
from deepnotes.nn.activations import LIBRARY as ACTIVATIONS
from deepnotes.nn.losses import LIBRARY as LOSSES
from deepnotes.nn.optimizers import LIBRARY as OPTIMIZERS
from deepnotes.utils.errors import ArgumentError

SHARE = number("a number of at least 0 and less than 1", lambda value: 0 <= value < 1)
POSITIVE = number("a number above 0", lambda value: value > 0)
NOT_NEGATIVE = number("a number of at least 0", lambda value: value >= 0)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``train``."""
    add_data(parser)
    _data(parser.add_argument_group("data"))
    add_reading(parser.add_argument_group("how DATA is written"))
    _network(parser.add_argument_group("network"))
    _training(parser.add_argument_group("training"))
    _checkpoints(parser.add_argument_group("checkpoints"))
    parser.add_argument("-o", "--output", metavar="FILE", help="the model file (default: DATA's name, .safetensors)")
    parser.add_argument(
        "--plot", metavar="FILE", help="draw loss and metrics to a .png, .svg or .pdf (default: do not)"
    )
    parser.add_argument("--quiet", action="store_true", help="write nothing but errors, and the JSON object")


def _data(group: argparse._ArgumentGroup) -> None:
    option = group.add_argument
    option(
        "--target",
        metavar="COLUMN",
        help="what to predict (default: y of .npz and .npy, label of IDX)",
    )
    add_names(group, "exclude", "what is no feature, such as id,name")
    add_names(group, "categorical", f"encode one-hot, as text of at most {MOST_CATEGORIES} values that recur is anyway")
    add_names(group, "numeric", "what must be numbers, so that anything else is an error")
    add_names(group, "dates", "dates, taken as days since 1970-01-01")
    option("--drop-missing-target", action="store_true", help="leave out rows without a target (default: refuse them)")
    option(
        "--impute",
        type=named("way to impute", IMPUTE),
        metavar="NAME",
        help=f"fill missing values: {', '.join(IMPUTE)} (default: refuse them); of text, with the most frequent",
    )
    add_from_disk(group)
    option(
        "--task",
        type=named("task", ("auto", "classification", "regression")),
        default="auto",
        metavar="NAME",
        help="classification, regression or auto (default): classification for a target that is text, or whole "
        f"numbers of at most {MOST_CLASSES} distinct values",
    )
    option(
        "--validation",
        type=SHARE,
        default=0.2,
        metavar="SHARE",
        help="the share of rows to hold out and measure on (default 0.2), 0 for none",
    )


def _network(group: argparse._ArgumentGroup) -> None:
    option = group.add_argument
    option(
        "--layers",
        type=sizes,
        default=train_defaults.HIDDEN,
        metavar="SIZES",
        help=f"of the hidden layers (default {','.join(map(str, train_defaults.HIDDEN))}), or none",
    )
    option(
        "--activation",
        type=named("activation", ACTIVATIONS),
        default="relu",
        metavar="NAME",
        help=f"of the hidden layers: {_choices(ACTIVATIONS, 'relu')}",
    )
    option(
        "--dropout",
        type=SHARE,
        metavar="RATE",
        help=f"after each hidden layer (default {_each(train_defaults.DROPOUT)})",
    )
    option("--dtype", choices=("float32", "float64"), default="float32", help="default float32")
    add_backend(group)
    add_threads(group)


def _training(group: argparse._ArgumentGroup) -> None:
    option = group.add_argument
    usual = {"categorical_cross_entropy", "mean_squared_error"}
    option(
        "--loss",
        type=named("loss", LOSSES),
        metavar="NAME",
        help=f"default {' or '.join(sorted(usual))}, by the task; also {', '.join(sorted({*LOSSES} - usual))}",
    )
    option(
        "--optimizer",
        type=named("optimizer", OPTIMIZERS),
        default="adam",
        metavar="NAME",
        help=_choices(OPTIMIZERS, "adam"),
    )
    option(
        "--learning-rate", type=POSITIVE, metavar="RATE", help=f"the highest (default {_each(train_defaults.RATES)})"
    )
    option("--momentum", type=SHARE, metavar="SHARE", help=f"of sgd (default {train_defaults.MOMENTUM})")
    option(
        "--schedule",
        type=named("schedule", train_defaults.SCHEDULES),
        default="cosine",
        metavar="NAME",
        help=f"how the rate falls: {_choices(train_defaults.SCHEDULES, 'cosine')}",
    )
    option(
        "--epochs",
        type=whole(1),
        metavar="NUMBER",
        help=f"default: {train_defaults.FEWEST_EPOCHS} to {train_defaults.MOST_EPOCHS}, "
        f"for some {train_defaults.UPDATES:,} updates",
    )
    option(
        "--batch-size",
        type=whole(1),
        default=train_defaults.BATCH_SIZE,
        metavar="ROWS",
        help=f"rows to an update (default {train_defaults.BATCH_SIZE})",
    )
    option("--l2", type=NOT_NEGATIVE, default=0.0, metavar="FACTOR", help="of the penalty on weights (default 0)")
    option("--clip-norm", type=POSITIVE, metavar="NORM", help="scale larger gradients down to this (default: do not)")
    option(
        "--early-stopping",
        type=whole(0),
        metavar="PATIENCE",
        help="stop after so many epochs without improvement, and take the best one (default: do not)",
    )
    option("--seed", type=whole(0), default=0, metavar="NUMBER", help="of everything random (default 0)")


def _checkpoints(group: argparse._ArgumentGroup) -> None:
    option = group.add_argument
    option("--checkpoint", metavar="DIR", help="write the training to files in DIR while it runs (default: do not)")
    option(
        "--every",
        type=_interval,
        default="60s",
        metavar="TIME",
        help="from one file to the next: 30s, 5m, 1h, or a number of epochs (default 60s)",
    )
    option(
        "--resume",
        action="store_true",
        help="go on from the latest file in DIR, with the same data and options as before",
    )


def _interval(text: str) -> int | str:
    every = whole(1)(text) if WHOLE.fullmatch(text) else text
    try:
        interval(every)
    except ArgumentError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return every


def _choices(known: Iterable[str], default: str) -> str:
    return ", ".join([f"{default} (default)", *(name for name in known if name != default)])


def _each(defaults: Mapping[str, float]) -> str:
    return ", ".join(f"{value:g} for {name}" for name, value in defaults.items())
