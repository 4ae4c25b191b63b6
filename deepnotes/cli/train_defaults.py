"""The defaults of ``deepnotes train``: layers, epochs, optimizers and learning-rate schedules."""

import argparse
import math
from collections.abc import Callable
from typing import NamedTuple

from deepnotes.nn.averaging import EMA, SWA, WeightAverage
from deepnotes.nn.hidden_layers import hidden_layers
from deepnotes.nn.layers import Layer
from deepnotes.nn.optimizer_base import Optimizer
from deepnotes.nn.optimizers import FULL_BATCH, as_optimizer
from deepnotes.nn.schedules import (
    WHOLE_RUN,
    Constant,
    ExponentialDecay,
    InverseScaling,
    ReduceOnPlateau,
    Schedule,
    StepDecay,
)

BATCH_SIZE = 32
UPDATES, MIN_EPOCHS, MAX_EPOCHS = 2000, 10, 200
"""The default number of epochs: enough for about `UPDATES` updates, at least `MIN_EPOCHS` and at most `MAX_EPOCHS`."""
SIZES = ((0, (128,), 0.2), (500, (128, 64), 0.1), (10_000, (256, 128), 0.1))
"""From which number of training rows on the hidden layers have which sizes, and which dropout rate follows each."""
L2_ROWS = 5
"""The factor of the L2 penalty is this number, divided by the number of training rows."""
STOPPING_SHARE, FEWEST_ROWS, MOST_STOPPING_ROWS = 0.1, 1000, 10_000
"""The share of the rows that early stopping takes from at least `FEWEST_ROWS` rows, and the largest number of them."""
LAYERS_RULE = "; ".join(f"{','.join(map(str, layers))} from {rows:,} training rows on" for rows, layers, _ in SIZES[1:])
LAYERS_RULE = f"{','.join(map(str, SIZES[0][1]))}; {LAYERS_RULE}"
DROPOUT_RULE = f"{SIZES[0][2]:g}; {SIZES[1][2]:g} from {SIZES[1][0]:,} training rows on; 0 for lbfgs"
L2_RULE = f"{L2_ROWS} divided by the number of training rows"
STOPPING_RULE = f"train all epochs, and keep the best if there are at least {FEWEST_ROWS:,} rows to train on"
RATES = {
    "sgd": 0.02, "rmsprop": 1e-3, "adam": 3e-3, "adamw": 3e-3, "amsgrad": 3e-3, "nadam": 3e-3, "radam": 3e-3,
    "adamax": 5e-3, "adagrad": 0.05, "adadelta": 5.0, "lion": 1e-3, "muon": 0.02, "lbfgs": 1.0,
}  # fmt: skip
"""The learning rate of each optimizer."""
MOMENTUM = 0.9
DECAY, LATE = 0.999, 0.75
"""The decay of an exponential average of the weights, and the share of the updates before the mean of late ones."""

SCHEDULES: dict[str, Callable[[float, int, int], Schedule]] = {
    "constant": lambda rate, steps, epochs: Constant(rate),
    "cosine": lambda rate, steps, epochs: WHOLE_RUN["cosine"](rate, steps),
    "one-cycle": lambda rate, steps, epochs: WHOLE_RUN["one-cycle"](rate, steps),
    "cyclic": lambda rate, steps, epochs: WHOLE_RUN["cyclic"](rate, steps),
    "step": lambda rate, steps, epochs: StepDecay(rate, every=math.ceil(steps / 3)),
    "exponential": lambda rate, steps, epochs: ExponentialDecay(rate, every=steps, factor=0.01),
    "inverse": lambda rate, steps, epochs: InverseScaling(rate, power=1 / math.log10(max(steps, 10))),
    "plateau": lambda rate, steps, epochs: ReduceOnPlateau(rate, factor=0.3, patience=max(2, epochs // 10)),
}
"""Functions that create a schedule from the initial rate, the total number of updates, and the number of epochs."""


class Recipe(NamedTuple):
    """The settings that follow the size of a table."""

    layers: tuple[int, ...]
    dropout: float
    l2: float

    @classmethod
    def of(cls, args: argparse.Namespace, rows: int) -> "Recipe":
        """Return the requested settings, and where none is requested, the default for this number of training rows."""
        _, layers, dropout = next(size for size in reversed(SIZES) if rows >= size[0])
        dropout = 0.0 if args.optimizer in FULL_BATCH else dropout
        return cls(
            layers if args.layers is None else args.layers,
            dropout if args.dropout is None else args.dropout,
            float(f"{L2_ROWS / rows:.2g}") if args.l2 is None else args.l2,  # two digits, so that it can be typed
        )

    def make_hidden_layers(self, args: argparse.Namespace) -> list[Layer]:
        """Return the hidden layers, with the activation and the other options of `args`."""
        count = len(self.layers)
        return hidden_layers(
            self.layers, [args.activation] * count, [self.dropout] * count, args.norm, residual=args.residual
        )


def stopping_rows(rows: int, patience: int | str | None, share: float | None) -> int:
    """Return how many of the rows to train on are held out for early stopping; 0 for no early stopping.

    Parameters
    ----------
    rows : int
    patience : int, "none" or None
        The value of --early-stopping.
    share : float or None
        The value of --early-stopping-share.
    """
    if patience == "none" or (patience is None and share is None and rows < FEWEST_ROWS):
        return 0
    count = round(rows * share) if share is not None else min(round(rows * STOPPING_SHARE), MOST_STOPPING_ROWS)
    return max(count, 1)


def updates_in_epoch(args: argparse.Namespace, rows: int) -> int:
    """Return the number of updates in an epoch of this number of rows."""
    return 1 if args.optimizer in FULL_BATCH else math.ceil(rows / (args.batch_size or BATCH_SIZE))


def choose_epochs(args: argparse.Namespace, rows: int) -> int:
    """Return the requested number of epochs, or the default number for training on this number of rows."""
    updates = updates_in_epoch(args, rows)
    epochs: int = args.epochs or min(max(math.ceil(UPDATES / updates), MIN_EPOCHS), MAX_EPOCHS)
    return epochs


def schedule_name(args: argparse.Namespace) -> str:
    """Return the name of the requested schedule, or of the default one."""
    return args.schedule or ("constant" if args.optimizer in FULL_BATCH else "cosine")


def make_optimizer(args: argparse.Namespace, rows: int) -> Optimizer:
    """Return the optimizer, with its learning-rate schedule, for training on this number of rows."""
    rate = RATES.get(args.optimizer, 1e-3) if args.learning_rate is None else args.learning_rate
    epochs = choose_epochs(args, rows)
    schedule = SCHEDULES[schedule_name(args)](rate, epochs * updates_in_epoch(args, rows), epochs)
    momentum = {"momentum": MOMENTUM if args.momentum is None else args.momentum} if args.optimizer == "sgd" else {}
    return as_optimizer(args.optimizer, learning_rate=schedule, **momentum)


def make_average(args: argparse.Namespace, rows: int) -> WeightAverage | None:
    """Return the average of the weights, or None, for training on this number of rows."""
    if args.average is None:
        return None
    name, number = args.average
    if name == "ema":
        return EMA(number)
    batches, epochs = updates_in_epoch(args, rows), choose_epochs(args, rows)
    first = max(1, math.ceil(number * epochs))  # the epoch at the end of which the mean begins
    return SWA(first * batches, every=batches)
