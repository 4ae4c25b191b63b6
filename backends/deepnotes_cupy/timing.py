"""The choice between ways to train on batches of one size, by timing steps on random numbers.

Neither the data nor the state of the training have an effect on the choice, so a resumed training makes the same one.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from deepnotes.backends import Plan
from deepnotes_cupy import control
from deepnotes_cupy.device import Call, Device
from deepnotes_cupy.replay import GRAPH_STEPS, Replay
from deepnotes_cupy.resident import Resident
from deepnotes_cupy.step import MAX_INDICES, Arrays, Shared, Source

MOST_DRAWN = 1 << 20
"""The largest number of random numbers that are drawn for an array; a larger array repeats them."""
RATE = 1e-3
"""The learning rate of the steps. Not 0: an optimizer may divide by it."""


class StepsStopped(Exception):
    """The steps to time have stopped, since a cost or gradient is not finite; fewer steps would take less time."""


def is_timed(samples: int, batch_size: int) -> bool:
    """Return whether the ways to train on batches of this size are timed: not if the data have at most two batches.

    Training on whole data, and the updates of ``partial_fit``, would not pay for it.
    """
    return samples > 2 * batch_size


def fastest(
    device: Device, plan: Plan, shared: Shared, arrays: Arrays, trainers: Sequence[Replay | Resident], m: int,
    weighted: bool, key: str,
) -> int:  # fmt: skip
    """Return the index of the trainer that takes the least time for some steps; see :meth:`Device.fastest`.

    Parameters
    ----------
    device : Device
    plan : Plan
    shared : Shared
        What a chunk sends to the device is overwritten.
    arrays : Arrays
        They stay as they are.
    trainers : sequence of Replay or Resident
        They train `arrays` on batches of `m` samples.
    m : int
    weighted : bool
        Whether the samples have weights.
    key : str

    Raises
    ------
    StepsStopped
    DeviceMemoryError
    """
    steps = max(1, min(GRAPH_STEPS[0], MAX_INDICES // m))
    rng = np.random.default_rng(0)
    source = random_samples(device, plan, m, weighted, rng)
    changed = arrays.theta, *arrays.slots, shared.control
    before, begin = ([device.empty(x.size, str(x.dtype)) for x in changed] for _ in range(2))
    order = shared.order
    shared.send_order(np.tile(np.arange(m), steps))
    shared.start(0, np.full(steps, RATE), (0.0, 0.0))
    device.upload(rng.normal(0, 0.1, arrays.theta.size).astype(plan.dtype), begin[0])
    for slot in begin[1:-1]:
        slot.fill(0)
    device.copier(shared.control, begin[-1])()
    for x, copy in zip(changed, before, strict=True):
        device.copier(x, copy)()
    for trainer in trainers:  # not earlier: they keep the samples, and memory may be short
        trainer.bind(source, m)
    # Each repetition begins at the same state: training that goes on might diverge, and stop early.
    start = [device.copier(copy, x) for x, copy in zip(changed, begin, strict=True)]
    ways: list[list[Call]] = [[*start, partial(trainer.enqueue, steps)] for trainer in trainers]
    try:
        for way in ways:
            for call in way:
                call()
            if control.read(device.download(shared.control))["stopped"]:
                raise StepsStopped
        return device.fastest(key, ways)
    finally:
        for x, copy in zip(changed, before, strict=True):
            device.copier(copy, x)()
        shared.order = order  # if there were too few places, the new ones are released
        for trainer in trainers:
            trainer.unbind()


def random_samples(device: Device, plan: Plan, m: int, weighted: bool, rng: np.random.Generator) -> Source:
    """Return random samples for a batch, with targets for any loss of the library: classes, or numbers in (0, 1).

    Numbers for several outputs sum to 1, as those for a cross-entropy have to.
    """
    outputs = plan.layout.sizes[-1]

    def send(numbers: np.ndarray, size: int) -> Any:
        array = device.empty(size, plan.dtype)
        device.upload(np.resize(numbers, size).astype(plan.dtype), array)
        return array

    X = send(rng.normal(size=min(m * plan.inputs, MOST_DRAWN)), m * plan.inputs)
    if plan.class_indices:
        Y = send(np.arange(outputs), m)
    else:
        columns = rng.uniform(0.1, 0.9, (min(m, -(-MOST_DRAWN // outputs)), outputs))
        columns /= columns.sum(1, keepdims=True) if outputs > 1 else 1
        Y = send(columns, m * outputs)
    return Source(X, Y, send(np.ones(1), m) if weighted else None)
