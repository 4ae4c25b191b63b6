"""Defaults for building and training a network."""

import argparse
import math
from collections.abc import Callable

from deepnotes.nn.layers import Dense, Dropout, Layer
from deepnotes.nn.optimizers import Optimizer, as_optimizer
from deepnotes.nn.schedules import (
    Constant,
    CosineDecay,
    ExponentialDecay,
    InverseScaling,
    ReduceOnPlateau,
    Schedule,
    StepDecay,
)
from deepnotes.utils.errors import ArgumentError

HIDDEN = (256, 128)
BATCH_SIZE = 32
UPDATES, FEWEST_EPOCHS, MOST_EPOCHS = 2000, 10, 200
DROPOUT = {"classification": 0.4, "regression": 0.2}
RATES = {"sgd": 0.02, "rmsprop": 1e-3, "adam": 3e-3, "adamw": 3e-3}
MOMENTUM = 0.9

SCHEDULES: dict[str, Callable[[float, int, int], Schedule]] = {
    "constant": lambda rate, steps, epochs: Constant(rate),
    "cosine": lambda rate, steps, epochs: CosineDecay(rate, steps, warmup=steps // 20),
    "step": lambda rate, steps, epochs: StepDecay(rate, every=math.ceil(steps / 3)),
    "exponential": lambda rate, steps, epochs: ExponentialDecay(rate, every=steps, factor=0.01),
    "inverse": lambda rate, steps, epochs: InverseScaling(rate, power=1 / math.log10(max(steps, 10))),
    "plateau": lambda rate, steps, epochs: ReduceOnPlateau(rate, factor=0.3, patience=max(2, epochs // 10)),
}
"""Each makes a schedule from the initial rate, the total number of updates, and the number of epochs."""


def hidden_layers(args: argparse.Namespace, kind: str) -> list[Layer]:
    """Return the default hidden layers for a task of a `kind`."""
    rate = DROPOUT[kind] if args.dropout is None else args.dropout
    layers: list[Layer] = []
    for size in args.layers:
        layers += [Dense(size, args.activation), *([Dropout(rate)] if rate else [])]
    return layers


def epochs(args: argparse.Namespace, rows: int) -> int:
    """Return the number of epochs: as requested, or enough for some 2,000 updates."""
    updates = math.ceil(rows / args.batch_size)  # of an epoch
    chosen: int = args.epochs or min(max(math.ceil(UPDATES / updates), FEWEST_EPOCHS), MOST_EPOCHS)
    return chosen


def check(args: argparse.Namespace) -> None:
    """Raise ArgumentError for options that exclude each other."""
    if args.momentum is not None and args.optimizer != "sgd":
        raise ArgumentError(f"--momentum belongs to --optimizer sgd, and the optimizer is {args.optimizer}")
    if args.from_disk and (args.impute or args.categorical):
        given = "--impute" if args.impute else "--categorical"
        raise ArgumentError(f"{given}: samples that stay on disk (--from-disk) are taken as they are")
    if args.target is not None and args.target in args.categorical:
        raise ArgumentError(f"--categorical {args.target}: the target, and so no feature")
    if args.from_disk and args.drop_missing_target:
        raise ArgumentError("--drop-missing-target: of samples that stay on disk (--from-disk) no row is dropped")
    if args.resume and args.checkpoint is None:
        raise ArgumentError("--resume needs --checkpoint DIR, where the training was written to")


def optimizer(args: argparse.Namespace, rows: int) -> Optimizer:
    """Return the optimizer, with its rate on the schedule, for a training on a number of rows."""
    first = RATES.get(args.optimizer, 1e-3) if args.learning_rate is None else args.learning_rate
    passes = epochs(args, rows)
    rate = SCHEDULES[args.schedule](first, passes * math.ceil(rows / args.batch_size), passes)
    momentum = {"momentum": MOMENTUM if args.momentum is None else args.momentum} if args.optimizer == "sgd" else {}
    return as_optimizer(args.optimizer, learning_rate=rate, **momentum)
