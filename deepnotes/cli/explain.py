"""``deepnotes explain``: print one training step of a small network, array by array, beside the equations."""

import argparse
import re
from pathlib import Path
from typing import Any

import numpy as np

import deepnotes
from deepnotes.cli.arguments import add_backend, number, one_of, whole_number
from deepnotes.cli.output import Output
from deepnotes.cli.output_paths import require_output_paths, writing
from deepnotes.nn.activations import LIBRARY as ACTIVATIONS
from deepnotes.nn.losses import LIBRARY as LOSSES
from deepnotes.nn.losses import LossFunction, loss_after
from deepnotes.utils.atomic_files import replacing
from deepnotes.utils.errors import ArgumentError
from deepnotes.utils.wording import brief

HELP = "Print one training step of a small network: every array beside its equation, forward and backward."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``explain``."""
    parser.add_argument(
        "sizes",
        metavar="SIZES",
        type=_sizes,
        help="the number of inputs, of neurons in each hidden layer, and of outputs, such as 3-4-1 or 4-8-8-3",
    )
    parser.add_argument(
        "--activation",
        metavar="NAMES",
        type=_activations,
        default=(),
        help="the activation of the hidden layers, or those of all layers, separated by commas: "
        f"{', '.join(ACTIVATIONS)} (default: tanh, then sigmoid for one output and softmax for several)",
    )
    parser.add_argument(
        "--loss",
        metavar="NAME",
        type=one_of("loss", LOSSES),
        help=f"the loss: {', '.join(LOSSES)} (default: the one that matches the last activation)",
    )
    parser.add_argument(
        "--samples", metavar="NUMBER", type=whole_number(1), default=2, help="the number of samples (default: 2)"
    )
    parser.add_argument(
        "--seed", metavar="NUMBER", type=whole_number(0), default=0,
        help="determines the parameters and the samples, which are random numbers (default: 0)",
    )  # fmt: skip
    parser.add_argument(
        "--l2", metavar="NUMBER", type=number("a number of at least 0", lambda x: x >= 0), default=0.0,
        help="the factor of the L2 penalty (default: 0)",
    )  # fmt: skip
    parser.add_argument(
        "--dropout", metavar="RATE", type=number("a number from 0 to below 1", lambda x: 0 <= x < 1), default=0.0,
        help="the share of the outputs of each hidden layer to set to 0 (default: 0)",
    )  # fmt: skip
    parser.add_argument(
        "--dtype", choices=("float32", "float64"), default="float64", help="the precision (default: float64)"
    )
    add_backend(parser)
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="also write the page as an HTML file that loads nothing else"
    )


def run(args: argparse.Namespace, output: Output) -> None:
    """Make the network and its samples, and print the trace of the first training step."""
    require_output_paths({"--output": args.output})
    inputs, *units = args.sizes
    activations = _for_layers(args.activation, units)
    layers: list[deepnotes.Layer] = []
    for n, g in zip(units, activations, strict=True):
        if layers and args.dropout:
            layers.append(deepnotes.Dropout(args.dropout))
        layers.append(deepnotes.Dense(n, g, bias_initializer=_visible_biases))
    net = deepnotes.Network(layers, inputs, backend=args.backend, dtype=args.dtype, seed=args.seed)
    loss = loss_after(deepnotes.Activation(activations[-1]), args.loss)
    rng = np.random.default_rng([args.seed, 1])  # independent of the parameters, which are drawn from the seed itself
    X = rng.normal(size=(inputs, args.samples)).round(2)
    Y = _targets(loss, units[-1], args.samples, rng)
    trace = net.trace(X, Y, loss=loss, l2=args.l2)
    output.report(str(trace))
    if args.output is not None:
        with writing(args.output), replacing(args.output, text=True) as file:
            file.write(trace.to_html())
        output.log(f"wrote {args.output}")
    page = None if args.output is None else str(args.output)
    output.outcome({"command": "explain", "page": page, **trace.as_dict()})


def _visible_biases(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return biases other than 0, with which training starts, so that ``+ b`` of N2 can be followed."""
    return rng.normal(scale=0.5, size=shape).round(2)


def _sizes(text: str) -> tuple[int, ...]:
    """Convert a string such as ``3-4-1`` to the numbers of inputs, hidden neurons and outputs."""
    if not re.fullmatch(r"[0-9]{1,9}(-[0-9]{1,9})+", text) or 0 in (sizes := tuple(map(int, text.split("-")))):
        raise argparse.ArgumentTypeError(
            f"got {brief(repr(text))}, wanted at least two whole numbers above 0, such as 3-4-1"
        )
    return sizes


def _activations(text: str) -> tuple[str, ...]:
    """Convert names separated by commas to the names of activations."""
    check = one_of("activation", ACTIVATIONS)
    return tuple(check(name.strip(" ")) for name in text.split(","))


def _for_layers(names: tuple[str, ...], units: list[int]) -> list[str]:
    """Return an activation for each layer: one name is for the hidden layers, two are for those and the last."""
    last = "sigmoid" if units[-1] == 1 else "softmax"
    hidden = len(units) - 1
    if len(names) == len(units):
        return list(names)
    if len(names) > min(2, len(units)):
        raise ArgumentError(
            f"argument --activation: got {len(names)} names, wanted one for each layer ({len(units)}), one for the "
            "hidden layers and one for the last, or one for the hidden layers"
        )
    first, *rest = names or ("tanh",)
    return [first] * hidden + (rest or [last])


def _targets(loss: LossFunction, outputs: int, samples: int, rng: np.random.Generator) -> Any:
    """Return targets that suit a loss, shape (outputs, samples): classes in turn, or random numbers."""
    turn = np.arange(samples) + np.arange(outputs)[:, None]
    if loss.targets == "simplex":
        return (np.arange(outputs)[:, None] == np.arange(samples) % outputs).astype(float)
    if loss.targets == "unit":
        return (turn % 2).astype(float)
    return rng.poisson(2, turn.shape).astype(float) if loss.targets == "count" else rng.normal(size=turn.shape).round(2)
