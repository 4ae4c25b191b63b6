"""The settings that ``deepnotes search`` tries out."""

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from deepnotes.cli import train_defaults
from deepnotes.nn.optimizers import FULL_BATCH

DEPTHS = (1, 2, 3)
WIDTHS = (16, 32, 64, 128, 256)
ACTIVATIONS = ("relu", "gelu", "silu", "tanh")
DROPOUT = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
RATES = (1 / 30, 10.0)
"""The range of the learning rate, as factors of the default rate of the optimizer; the distribution is log-uniform."""
L2 = (1e-6, 1e-2)
"""The range of the L2 factor; the distribution is log-uniform, except that one in three trials has no penalty."""
DESCRIPTION = (
    f"{DEPTHS[0]} to {DEPTHS[-1]} hidden layers of {WIDTHS[0]} to {WIDTHS[-1]} neurons, the activation, the learning "
    "rate, the dropout rate and the L2 penalty"
)

Settings = Mapping[str, Any]
"""The options of ``train`` that differ between trials, by their names in the parsed arguments."""


def draw_settings(args: argparse.Namespace, recipe: train_defaults.Recipe) -> Iterator[Settings]:
    """Yield the settings of one trial after the other, without end; the first trial has the defaults of ``train``.

    Numbers have two significant digits, so that the printed options are exact.

    Parameters
    ----------
    args : Namespace
        The seed and the optimizer.
    recipe : Recipe
        The defaults of ``train`` for the table.
    """
    rng = np.random.default_rng(args.seed)
    dropouts = (0.0,) if args.optimizer in FULL_BATCH else DROPOUT
    default_rate = train_defaults.RATES.get(args.optimizer, 1e-3)
    yield {
        "layers": recipe.layers,
        "activation": "relu",
        "learning_rate": default_rate,
        "dropout": recipe.dropout,
        "l2": recipe.l2,
    }
    while True:
        depth, width = int(rng.choice(DEPTHS)), int(rng.choice(WIDTHS))
        rate, l2 = (_log_uniform(rng, *limits) for limits in (RATES, L2))
        yield {
            "layers": (width,) * depth,
            "activation": str(rng.choice(ACTIVATIONS)),
            "learning_rate": float(f"{default_rate * rate:.2g}"),
            "dropout": float(rng.choice(dropouts)),
            "l2": 0.0 if rng.random() < 1 / 3 else float(f"{l2:.2g}"),
        }


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def as_options(settings: Settings) -> str:
    """Return settings as options of ``train``.

    Examples
    --------
    >>> as_options({"layers": (32, 16), "learning_rate": 0.001})
    '--layers 32,16 --learning-rate 0.001'
    """
    texts = {name: format_setting(value) for name, value in settings.items()}
    return " ".join(f"--{name.replace('_', '-')} {text}" for name, text in texts.items())


def format_setting(value: Any) -> str:
    """Return the value of an option as text."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return value if isinstance(value, str) else f"{value:g}"
