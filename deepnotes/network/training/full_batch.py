"""Checks of a training run whose optimizer makes each update from all samples."""

from collections.abc import Sequence
from typing import Any

from deepnotes.nn.full_batch import FullBatchOptimizer
from deepnotes.nn.layers import Layer, is_random
from deepnotes.nn.plan import Layout
from deepnotes.utils.errors import ArgumentError
from deepnotes.utils.wording import brief

REASONS = {
    "l1": "it needs a cost with a derivative everywhere, and L1 has none where a weight is 0",
    "clip_norm": "its line search needs the gradient as it is",
    "layer_rates": "all parameters move by the same step",
    "average": "the last parameters are those with the lowest cost",
}
"""Arguments of :meth:`deepnotes.Network.fit` that a full-batch optimizer refuses, and why."""


def check_full_batch(
    optimizer: FullBatchOptimizer,
    layers: Sequence[Layer],
    layout: Layout,
    batch_size: int,
    update_size: int,
    samples: int,
    **options: Any,
) -> None:
    """Raise ArgumentError unless an optimizer can train these layers with these settings.

    Parameters
    ----------
    batch_size, update_size, samples : int
        The number of samples in a batch, in an update, and in all.
    **options : object
        The values of the arguments in `REASONS`.
    """
    name = type(optimizer).__name__
    for i, layer in enumerate(layers):
        if is_random(layer):
            raise ArgumentError(
                f"optimizer: {name} compares costs of several updates, but layers[{i}], {layer!r}, draws other random "
                "numbers in each, wanted an optimizer such as Adam"
            )
    for entry in layout.entries.values():
        if entry.parameter.constraint is not None and entry.parameter.trained:
            raise ArgumentError(
                f"optimizer: {name} does not keep constraints, but {entry.name} has {entry.parameter.constraint!r}, "
                "wanted an optimizer such as Adam"
            )
    for argument, reason in REASONS.items():
        if options[argument]:
            got = brief(repr(options[argument]))
            raise ArgumentError(f"{argument}={got}: {name} cannot use it, since {reason}; leave it out")
    if update_size < samples:
        raise ArgumentError(
            f"batch_size={batch_size}: {name} makes each update from all {samples} samples, wanted batch_size=None; to "
            "save memory, accumulate several batches, which must have as many samples together"
        )
