"""The options of ``deepnotes train``."""

import argparse
from collections.abc import Iterable, Mapping

from deepnotes.cli import train_defaults
from deepnotes.cli.arguments import (
    WHOLE,
    add_backend,
    add_data,
    add_from_disk,
    add_start,
    add_threads,
    layer_sizes,
    number,
    one_of,
    whole_number,
)
from deepnotes.cli.ranks import add_ranks
from deepnotes.cli.reading_options import add_names, add_reading, imputation
from deepnotes.cli.replacing import add_force
from deepnotes.cli.tasks import MOST_CLASSES, QUANTILES, ROWS_PER_CLASS
from deepnotes.cli.validation_files import add_validation_file
from deepnotes.datasets.encoding import IMPUTE, MAX_CATEGORIES
from deepnotes.network.distributions import DISTRIBUTIONS
from deepnotes.network.training.full_batch import REASONS
from deepnotes.network.training.intervals import interval
from deepnotes.nn.activations import LIBRARY as ACTIVATIONS
from deepnotes.nn.hidden_layers import NORMALIZATIONS
from deepnotes.nn.losses import LIBRARY as LOSSES
from deepnotes.nn.losses import QuantileLoss
from deepnotes.nn.optimizers import BY_NAME as OPTIMIZERS
from deepnotes.nn.optimizers import FULL_BATCH
from deepnotes.utils.errors import ArgumentError
from deepnotes.utils.safe_text import NUMBER

SHARE = number("a number of at least 0 and less than 1", lambda value: 0 <= value < 1)
POSITIVE = number("a number above 0", lambda value: value > 0)
NOT_NEGATIVE = number("a number of at least 0", lambda value: value >= 0)


EMBED_ABOVE = 10
"""A column with more categories than this is embedded by default, since predictions are better then."""

VALIDATION = 0.2
"""The default share of rows to hold out."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``train``."""
    add_data(parser)
    group = parser.add_argument_group("data")
    add_data_options(group)
    group.add_argument(
        "--validation",
        type=SHARE,
        metavar="SHARE",
        help="the share of rows that take no part in training, for which the scores are reported; 0 holds out none "
        f"(default {VALIDATION:g}; with --folds, 0)",
    )
    add_validation_file(group)
    add_reading(parser.add_argument_group("format of DATA"))
    _add_network_options(parser.add_argument_group("network"))
    training = parser.add_argument_group("training")
    add_training_options(training)
    add_start(training)
    training.add_argument(
        "--calibrate",
        action="store_true",
        help="calibrate the probabilities of classes after training: divide the logits by the temperature that "
        "minimizes the log loss of the early-stopping rows, or without early stopping of the held-out rows",
    )
    _add_many_options(training)
    _add_checkpoint_options(parser.add_argument_group("checkpoints"))
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="the model file (default: the name of DATA, ending in .safetensors)"
    )
    parser.add_argument(
        "--plot",
        metavar="FILE",
        help="write a plot of the loss and the metrics to a .png, .svg or .pdf file (default: no plot)",
    )
    add_force(parser)
    parser.add_argument("--quiet", action="store_true", help="write only errors and the JSON object")


def add_data_options(group: argparse._ArgumentGroup) -> None:
    """Add the options that say which columns to train on, and how."""
    option = group.add_argument
    option(
        "--target",
        metavar="COLUMN",
        help="the column to predict, or several columns of numbers, separated by commas (default: y in "
        ".npz and .npy files, label in IDX files)",
    )
    add_names(group, "exclude", "columns that are not features, such as id,name")
    add_names(
        group,
        "categorical",
        f"columns of categories, in addition to columns of text with at most {MAX_CATEGORIES} recurring values",
    )
    option(
        "--embed-above",
        type=_embed_above,
        metavar="NUMBER",
        help="learn a vector for each category of a column with more categories than this, instead of encoding the "
        f"column one-hot; or the word none, to encode all one-hot (default {EMBED_ABOVE})",
    )
    add_names(group, "numeric", "columns that must contain only numbers")
    add_names(group, "dates", "columns of dates, to be converted to days since 1970-01-01")
    option(
        "--drop-missing-target",
        action="store_true",
        help="leave out rows whose target is missing (default: report an error)",
    )
    option(
        "--impute",
        type=imputation,
        action="append",
        default=[],
        metavar="RULE",
        help=f"how to fill missing numbers: {', '.join(IMPUTE)} (default: report an error), in all columns, or in one "
        "of them with COLUMN=RULE; may be given several times; missing text is replaced by the most frequent value",
    )
    add_from_disk(group)
    option(
        "--task",
        type=one_of("task", ("auto", "classification", "regression")),
        default="auto",
        metavar="NAME",
        help="classification, regression or auto (default): classification if the target is text, or whole numbers "
        f"with at most {MOST_CLASSES} distinct values that recur, each in {ROWS_PER_CLASS} rows on average",
    )


def _add_network_options(group: argparse._ArgumentGroup) -> None:
    option = group.add_argument
    option(
        "--layers",
        type=layer_sizes,
        metavar="SIZES",
        help=f"the sizes of the hidden layers, or the word none (default: {train_defaults.LAYERS_RULE})",
    )
    option(
        "--activation",
        type=one_of("activation", ACTIVATIONS),
        default="relu",
        metavar="NAME",
        help=f"the activation of the hidden layers: {_list_choices(ACTIVATIONS, 'relu')}",
    )
    option(
        "--dropout",
        type=SHARE,
        metavar="RATE",
        help=f"the dropout rate after each hidden layer (default: {train_defaults.DROPOUT_RULE})",
    )
    add_blocks(group)
    add_computation(group)
    add_ranks(group)


def add_blocks(group: argparse._ArgumentGroup) -> None:
    """Add the options of what is beside the neurons of the hidden layers."""
    option = group.add_argument
    option(
        "--norm",
        choices=tuple(NORMALIZATIONS),
        help="normalize the outputs of each hidden layer where the next layer reads them, by layer or root mean square "
        "normalization (default: no normalization)",
    )
    option(
        "--residual",
        action="store_true",
        help="add the input of each hidden layer but the first to its output, where both have the same size (default: "
        "no shortcuts)",
    )


def add_computation(group: argparse._ArgumentGroup) -> None:
    """Add the options that say how to compute."""
    group.add_argument(
        "--dtype", choices=("float32", "float64"), default="float32", help="the dtype to compute in (default float32)"
    )
    add_backend(group)
    group.set_defaults(default_backend="auto")
    add_threads(group)


def add_training_options(group: argparse._ArgumentGroup, *, searching: bool = False) -> None:
    """Add the options of training; if `searching` is true, without those whose values ``search`` tries out."""
    option = group.add_argument
    defaults = {"categorical_cross_entropy", "mean_squared_error"}
    distributions = "" if searching else "; or quantile or gaussian, to predict a distribution of a quantity"
    option(
        "--loss",
        type=one_of("loss", LOSSES if searching else (*LOSSES, *DISTRIBUTIONS)),
        metavar="NAME",
        help="the loss function: categorical_cross_entropy (default for classification), mean_squared_error (default "
        f"for regression), {', '.join(sorted({*LOSSES} - defaults))}{distributions}",
    )
    if not searching:
        option(
            "--quantiles",
            type=_quantiles,
            metavar="NUMBERS",
            help="the quantiles to predict with --loss quantile, in ascending order (default "
            f"{','.join(map(str, QUANTILES))})",
        )
    option(
        "--optimizer",
        type=one_of("optimizer", OPTIMIZERS),
        default="adam",
        metavar="NAME",
        help=f"the optimizer: {_list_choices(OPTIMIZERS, 'adam')}",
    )
    if not searching:
        option(
            "--learning-rate",
            type=POSITIVE,
            metavar="RATE",
            help=f"the highest learning rate of the schedule (default {_list_defaults(train_defaults.RATES)})",
        )
    option("--momentum", type=SHARE, metavar="SHARE", help=f"the momentum of sgd (default {train_defaults.MOMENTUM})")
    option(
        "--schedule",
        type=one_of("schedule", train_defaults.SCHEDULES),
        metavar="NAME",
        help=f"the learning-rate schedule: {_list_choices(train_defaults.SCHEDULES, 'cosine')} (default for lbfgs: "
        "constant)",
    )
    option(
        "--average",
        type=_average,
        metavar="NAME[=NUMBER]",
        help="average the weights over the updates: ema, an exponential average with the decay NUMBER (default "
        f"{train_defaults.DECAY:g}), or swa, the mean at the ends of the epochs after the share NUMBER of them "
        f"(default {train_defaults.LATE:g}) (default: no average)",
    )
    option(
        "--epochs",
        type=whole_number(1),
        metavar="NUMBER",
        help=f"the number of epochs (default: enough for about {train_defaults.UPDATES:,} updates, at least "
        f"{train_defaults.MIN_EPOCHS} and at most {train_defaults.MAX_EPOCHS})",
    )
    option(
        "--batch-size",
        type=whole_number(1),
        metavar="ROWS",
        help=f"the number of rows in a mini-batch (default {train_defaults.BATCH_SIZE}; lbfgs takes all rows)",
    )
    option(
        "--l1",
        type=NOT_NEGATIVE,
        default=0.0,
        metavar="FACTOR",
        help="the factor of the L1 penalty, which makes weights small that are of no use (default 0)",
    )
    if not searching:
        option(
            "--l2",
            type=NOT_NEGATIVE,
            metavar="FACTOR",
            help=f"the factor of the L2 penalty (default: {train_defaults.L2_RULE})",
        )
    option(
        "--class-weight",
        metavar="WEIGHTS",
        help="weights of the classes in the loss, as in scikit-learn: balanced, which gives all classes the same total "
        "weight, or CLASS=WEIGHT,... with 1 for other classes (default: each row counts the same)",
    )
    option(
        "--clip-norm",
        type=POSITIVE,
        metavar="NORM",
        help="scale down gradients whose norm is larger than this (default: no clipping)",
    )
    if not searching:
        option(
            "--early-stopping",
            type=_patience,
            metavar="PATIENCE",
            help="stop after this number of epochs without improvement on the early-stopping rows, and keep the best "
            f"epoch; or the word none, to train on those rows, too (default: {train_defaults.STOPPING_RULE})",
        )
        option(
            "--early-stopping-share",
            type=number("a number above 0 and less than 1", lambda value: 0 < value < 1),
            metavar="SHARE",
            help="the share of the rows to train on that early stopping takes (default "
            f"{train_defaults.STOPPING_SHARE:g}, but at most {train_defaults.MOST_STOPPING_ROWS:,} rows)",
        )
    option(
        "--seed",
        type=whole_number(0),
        default=0,
        metavar="NUMBER",
        help="the seed of all random numbers (default 0)",
    )


def _add_many_options(group: argparse._ArgumentGroup) -> None:
    option = group.add_argument
    option(
        "--folds",
        type=whole_number(2),
        metavar="NUMBER",
        help="cross-validate the settings: train one more network without each of this number of folds of the rows, "
        "and report the scores on these folds (default: no cross-validation)",
    )
    option(
        "--members",
        type=whole_number(2),
        metavar="NUMBER",
        help="train an ensemble of this number of networks, which differ in their seeds (default: one network)",
    )


def _add_checkpoint_options(group: argparse._ArgumentGroup) -> None:
    option = group.add_argument
    option(
        "--checkpoint",
        metavar="DIR",
        help="write checkpoints to the directory DIR during training (default: no checkpoints)",
    )
    option(
        "--every",
        type=_interval,
        metavar="TIME",
        help="the interval between checkpoints: a time such as 30s, 5m or 1h, or a number of epochs (default 60s)",
    )
    option(
        "--resume",
        action="store_true",
        help="continue from the latest checkpoint in DIR; the data and all other options must be the same as before",
    )


def _embed_above(text: str) -> int | str:
    """Convert a number of categories, or the word none."""
    return text if text == "none" else whole_number(0)(text)


def embedding_limit(args: argparse.Namespace) -> int | None:
    """Return the number of categories above which a column is embedded, or None if no column is."""
    if args.embed_above == "none":
        return None
    return EMBED_ABOVE if args.embed_above is None else int(args.embed_above)


def _quantiles(text: str) -> tuple[float, ...]:
    """Convert at least two numbers between 0 and 1, separated by commas."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) < 2 or not all(NUMBER.fullmatch(part) for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r}, wanted several numbers between 0 and 1, such as 0.05,0.5,0.95")
    try:
        return QuantileLoss(tuple(map(float, parts))).quantiles
    except ArgumentError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _patience(text: str) -> int | str:
    """Convert a number of epochs, or the word none."""
    return text if text == "none" else whole_number(0)(text)


def _average(text: str) -> tuple[str, float]:
    """Convert the name of an average and its number, by default the usual one."""
    name, equals, number = text.partition("=")
    name = one_of("average", ("ema", "swa"))(name)
    usual = {"ema": train_defaults.DECAY, "swa": train_defaults.LATE}[name]
    return name, SHARE(number) if equals else usual


def _interval(text: str) -> int | str:
    """Check an interval between checkpoints; return a number of epochs as an integer, and a time as the given text."""
    every = whole_number(1)(text) if WHOLE.fullmatch(text) else text
    try:
        interval(every)
    except ArgumentError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return every


def _list_choices(names: Iterable[str], default: str) -> str:
    return ", ".join([f"{default} (default)", *(name for name in names if name != default)])


def _list_defaults(defaults: Mapping[str, float]) -> str:
    return ", ".join(f"{value:g} for {name}" for name, value in defaults.items())


def check_options(args: argparse.Namespace) -> None:
    """Raise ArgumentError for options that cannot be combined."""
    _check_distributions(args)
    if args.momentum is not None and args.optimizer != "sgd":
        raise ArgumentError(f"--momentum is only for --optimizer sgd, but the optimizer is {args.optimizer}")
    if args.optimizer in FULL_BATCH:
        _check_full_batch(args)
    if args.early_stopping == "none" and getattr(args, "early_stopping_share", None) is not None:
        raise ArgumentError("--early-stopping-share needs early stopping, but --early-stopping is none")
    encoding = {"--impute": args.impute, "--categorical": args.categorical, "--embed-above": args.embed_above}
    for option in (name for name, given in encoding.items() if args.from_disk and given not in (None, [])):
        raise ArgumentError(f"{option} cannot be combined with --from-disk: samples on disk are used as they are")
    if args.target is not None and args.target in args.categorical:
        raise target_as_feature_error(args.target)
    if args.from_disk and args.drop_missing_target:
        raise ArgumentError("--drop-missing-target cannot be combined with --from-disk: all rows on disk are used")
    if args.resume and args.checkpoint is None:
        raise ArgumentError("--resume needs --checkpoint DIR, the directory of the checkpoints to continue from")
    if args.every is not None and args.checkpoint is None:
        raise ArgumentError("--every needs --checkpoint DIR, the directory for the checkpoints")


def _check_distributions(args: argparse.Namespace) -> None:
    """Raise ArgumentError if quantiles, a standard deviation or calibrated probabilities cannot be predicted."""
    if getattr(args, "quantiles", None) is not None and args.loss != "quantile":
        raise ArgumentError("--quantiles needs --loss quantile")
    if args.loss == "gaussian" and getattr(args, "members", None):
        raise ArgumentError("--loss gaussian cannot be combined with --members; --loss quantile can")
    if getattr(args, "calibrate", False) and (args.folds or args.members):
        option = "--folds" if args.folds else "--members"
        raise ArgumentError(f"--calibrate cannot be combined with {option}: it calibrates a single network")


def target_as_feature_error(target: str) -> ArgumentError:
    """Return the error for a target that --categorical names."""
    return ArgumentError(f"--categorical {target}: this column is the target, so it is not a feature")


FULL_BATCH_REASONS = {
    "dropout": "its updates compare costs, in which nothing may be random",
    "batch_size": "each of its updates uses all rows",
    "from_disk": "each of its updates uses all rows, in memory",
    **{name: REASONS[name] for name in ("l1", "clip_norm", "average")},
}
"""Options that an optimizer of all rows cannot use, and why."""


def _check_full_batch(args: argparse.Namespace) -> None:
    """Raise ArgumentError for an option that an optimizer of all rows cannot use."""
    for name, reason in FULL_BATCH_REASONS.items():
        if getattr(args, name):
            option = name.replace("_", "-")
            raise ArgumentError(f"--{option} cannot be combined with --optimizer {args.optimizer}: {reason}")
