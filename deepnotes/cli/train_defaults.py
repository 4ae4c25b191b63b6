"""The defaults of ``deepnotes train``: layers, epochs, optimizers and learning-rate schedules."""

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

HIDDEN = (256, 128)
"""The sizes of the hidden layers."""
BATCH_SIZE = 32
UPDATES, MIN_EPOCHS, MAX_EPOCHS = 2000, 10, 200
"""The default number of epochs: enough for about `UPDATES` updates, at least `MIN_EPOCHS` and at most `MAX_EPOCHS`."""
DROPOUT = {"classification": 0.4, "regression": 0.2}
"""The dropout rate after each hidden layer, by task."""
RATES = {
    "sgd": 0.02, "rmsprop": 1e-3, "adam": 3e-3, "adamw": 3e-3, "amsgrad": 3e-3, "nadam": 3e-3, "radam": 3e-3,
    "adamax": 5e-3, "adagrad": 0.05, "adadelta": 5.0, "lion": 1e-3,
}  # fmt: skip
"""The learning rate of each optimizer."""
MOMENTUM = 0.9

SCHEDULES: dict[str, Callable[[float, int, int], Schedule]] = {
    "constant": lambda rate, steps, epochs: Constant(rate),
    "cosine": lambda rate, steps, epochs: CosineDecay(rate, steps, warmup=steps // 20),
    "step": lambda rate, steps, epochs: StepDecay(rate, every=math.ceil(steps / 3)),
    "exponential": lambda rate, steps, epochs: ExponentialDecay(rate, every=steps, factor=0.01),
    "inverse": lambda rate, steps, epochs: InverseScaling(rate, power=1 / math.log10(max(steps, 10))),
    "plateau": lambda rate, steps, epochs: ReduceOnPlateau(rate, factor=0.3, patience=max(2, epochs // 10)),
}
"""Functions that create a schedule from the initial rate, the total number of updates, and the number of epochs."""


def make_hidden_layers(args: argparse.Namespace, kind: str) -> list[Layer]:
    """Return the hidden layers for a task of the given kind, "classification" or "regression"."""
    rate = DROPOUT[kind] if args.dropout is None else args.dropout
    layers: list[Layer] = []
    for size in args.layers:
        layers += [Dense(size, args.activation), *([Dropout(rate)] if rate else [])]
    return layers


def choose_epochs(args: argparse.Namespace, rows: int) -> int:
    """Return the requested number of epochs, or the default number for training on this number of rows."""
    updates_per_epoch = math.ceil(rows / args.batch_size)
    epochs: int = args.epochs or min(max(math.ceil(UPDATES / updates_per_epoch), MIN_EPOCHS), MAX_EPOCHS)
    return epochs


def make_optimizer(args: argparse.Namespace, rows: int) -> Optimizer:
    """Return the optimizer, with its learning-rate schedule, for training on this number of rows."""
    rate = RATES.get(args.optimizer, 1e-3) if args.learning_rate is None else args.learning_rate
    epochs = choose_epochs(args, rows)
    schedule = SCHEDULES[args.schedule](rate, epochs * math.ceil(rows / args.batch_size), epochs)
    momentum = {"momentum": MOMENTUM if args.momentum is None else args.momentum} if args.optimizer == "sgd" else {}
    return as_optimizer(args.optimizer, learning_rate=schedule, **momentum)
