"""Resident: many training steps in one launch, for networks that fit into the shared memory of one or a few blocks.

The kernel is ``train_resident`` in ``kernels/resident.cu``. This module decides which plans and batch sizes it takes,
and where everything is in shared memory.
"""

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import ceil
from typing import Any

import numpy as np

from deepnotes.backends import Activation, Dense, Dropout, Loss, Plan
from deepnotes_cupy.device import Call, Device
from deepnotes_cupy.lowering import FROM_A, Lowered, update_of
from deepnotes_cupy.sources import Kernel, codes, parse, program
from deepnotes_cupy.step import Arrays, Shared, Source

FILE = "resident.cu"
BLOCKS = 8
"""The number of blocks in a cluster."""
THREADS = {1: 256, BLOCKS: 512}
"""The number of threads in a block, by the number of blocks; registers suffice for no more."""
STATIC_BYTES = 6144
"""The shared memory left for the kernel's other variables."""
CLUSTER_WORK, CLUSTER_SAMPLES = 100_000, 16
"""From so many multiply-adds in a forward pass and samples in a batch on, a cluster is faster than one block."""
MOST_WORK = {1: 1 << 20, BLOCKS: 1 << 23}
"""Up to so many multiply-adds in a forward pass, graphs are slower; by the number of blocks."""
FEWEST_SAMPLES = 8
"""If a block cannot hold so many of its samples at a time, graphs are faster."""
LAUNCH_SECONDS = 0.05
"""The duration that a launch should not exceed, so that Ctrl-C and watchdogs of displays work."""
MOST_LAUNCHES = 8
"""The number of prepared launches, of different numbers of steps, that are kept."""


class Refused(Exception):
    """The plan or the batch size does not suit this driver; the message says why."""


@dataclass(frozen=True)
class Fit:
    """How the training steps of a plan are run on batches of one size.

    Attributes
    ----------
    blocks : int
        1, or the number of blocks in a cluster.
    capacity : int
        The number of samples that a block holds at a time.
    areas : tuple of int
        Where the areas of the shared memory begin, in numbers, and where the last one ends.
    table : tuple of tuple of float
        The row of each layer, see ``Column`` in ``kernels/resident.cu``.
    """

    blocks: int
    capacity: int
    areas: tuple[int, ...]
    table: tuple[tuple[float, ...], ...]


@cache
def kernel(blocks: int) -> Kernel:
    """Return the kernel for one block or for a cluster."""
    head = f"constexpr int THREADS = {THREADS[blocks]};\n" + "#define CLUSTERED\n" * (blocks > 1)
    return parse(head + program(FILE))["train_resident"]


def fit(plan: Plan, lowered: Lowered, m: int, device: Device, forced: bool = False) -> Fit:
    """Return how this driver trains a plan on batches of `m` samples.

    Parameters
    ----------
    plan : Plan
    lowered : Lowered
        The kernels of the plan.
    m : int
    device : Device
    forced : bool
        Whether this driver is taken even if graphs may be faster.

    Raises
    ------
    Refused
    """
    work = plan.layout.size * m
    blocks = BLOCKS if device.clusters and work >= CLUSTER_WORK and m >= CLUSTER_SAMPLES else 1
    if not forced and work > MOST_WORK[blocks]:
        raise Refused(f"a forward pass takes {work:,} multiply-adds, more than {MOST_WORK[blocks]:,}")
    rows = _layer_rows(plan, lowered)
    size = np.dtype(plan.dtype).itemsize
    memory = (device.shared_bytes - STATIC_BYTES) // size
    needed = ceil(m / blocks)
    one = _layout(plan, rows, blocks, 1, size)
    per_sample = _layout(plan, rows, blocks, 65, size).areas[-1] - one.areas[-1]
    capacity = min(needed, max(0, memory - one.areas[-1]) * 64 // per_sample + 1 if one.areas[-1] <= memory else 0)
    while capacity and _layout(plan, rows, blocks, capacity, size).areas[-1] > memory:
        capacity -= 1
    if capacity < (1 if forced else min(needed, FEWEST_SAMPLES)):
        raise Refused(f"{plan.layout.size:,} parameters do not fit into {device.shared_bytes:,} bytes of shared memory")
    return _layout(plan, rows, blocks, capacity, size)


def _layer_rows(plan: Plan, lowered: Lowered) -> list[dict[str, float]]:
    """Return the columns of each row that do not depend on the batch size: for the inputs, and for each dense layer."""
    if type(plan.loss) is not Loss or plan.loss.name not in codes("Loss") or update_of(plan.optimizer) is None:
        raise Refused("the loss or the optimizer has only a generated kernel")
    places = {(entry.layer, entry.key): entry.start for entry in plan.layout.entries.values()}
    rows: list[dict[str, float]] = [{"neurons": plan.inputs, "code": codes("Activation")["identity"]}]
    for index, layer in enumerate(plan.layers):
        if isinstance(layer, Dropout):
            if layer.rate > 0:
                if "mask" in rows[-1] or rows[-1]["code"] == codes("Activation")["softmax"]:
                    raise Refused("a dropout layer follows another one or softmax")
                scale = 1 / (1 - layer.rate)
                rows[-1] |= {"mask": index + 1, "threshold": round(layer.rate * 2**32), "scale": scale}
            continue
        if type(layer) is not Dense or type(layer.g) is not Activation or layer.g.name not in codes("Activation"):
            raise Refused(f"{layer!r} has only a generated kernel")
        name = "identity" if lowered.loss.fused and index == len(plan.layers) - 1 else layer.g.name
        rows.append({
            "neurons": plan.layout.sizes[index + 1], "code": codes("Activation")[name],
            "option": next((value for _, value in layer.g.options), 0.0),
            "weights": places[index, "W"], "biases": places[index, "b"],
        })  # fmt: skip
    if "mask" in rows[-1]:
        raise Refused("the last layer is dropout")
    if not 2 <= len(rows) <= _constant("MOST_ROWS"):
        raise Refused(f"{len(rows) - 1} dense layers")
    return rows


def _layout(plan: Plan, rows: list[dict[str, float]], blocks: int, capacity: int, size: int) -> Fit:
    """Return the Fit for a number of samples that a block holds at a time; numbers have `size` bytes."""
    pack = 16 // size
    end = 0

    def take(count: int) -> int:
        """Return the beginning of a new area of `count` numbers."""
        nonlocal end
        end += -(-count // pack) * pack
        return end - -(-count // pack) * pack

    names = {code: name for name, code in codes("Activation").items()}
    table = [{"option": 0.0, "mask": 0, "threshold": 0, "scale": 1.0, "weights": 0, "biases": 0} | row for row in rows]
    for row in table:
        row["stride"] = pack * (int(row["neurons"]) // pack + 1 | 1)
    for before, row in pairwise(table):
        row["matrix"] = take(-(-int(row["neurons"]) // pack) * pack * int(before["stride"]))
    table[0]["matrix"] = 0
    share = ceil(end // pack / blocks)
    targets = 1 if plan.class_indices else plan.layout.sizes[-1]
    areas = {
        "gradient": take(end),
        "slots": take(len(plan.optimizer.slots) * share * pack),
        "marks": take(-(-4 * share // size)),
        "partial": take(32 // size),
        "indices": take(2 * capacity * 8 // size),
        "targets": take(2 * (-(-capacity * targets // pack) * pack)),
        "sample_weights": take(2 * (-(-capacity // pack) * pack)),
        "sample_losses": take(capacity),
        "derivatives": take(2 * capacity * int(max(row["stride"] for row in table[1:]))),
        "inputs": take(2 * capacity * int(table[0]["stride"])),
    }
    table[0]["outputs"] = table[0]["saved"] = areas["inputs"]
    for row in table[1:]:
        numbers, name = capacity * int(row["stride"]), names[int(row["code"])]
        row["outputs"] = row["saved"] = take(numbers)
        if name != "identity" and (name not in FROM_A or row["mask"]):
            row["saved"] = take(numbers)
    areas["end"] = end
    return Fit(
        blocks, capacity, tuple(areas[name] for name in codes("Area", FILE)),
        tuple(tuple(row[name] for name in codes("Column", FILE)) for row in table),
    )  # fmt: skip


def _constant(name: str) -> int:
    """Return a constant of the kernel."""
    text = program(FILE)
    start = text.index(f"constexpr int {name} = ") + len(f"constexpr int {name} = ")
    return int(text[start : text.index(";", start)])


class Resident:
    """Runs steps on batches of `m` samples, many in each launch; see :class:`deepnotes_cupy.replay.Replay`.

    Parameters
    ----------
    device : Device
    plan : Plan
    fit : Fit
    shared : Shared
    arrays : Arrays
    m : int
    """

    def __init__(self, device: Device, plan: Plan, fit: Fit, shared: Shared, arrays: Arrays, m: int) -> None:
        self.fit, self._device, self._plan, self._shared, self._arrays, self._m = fit, device, plan, shared, arrays, m
        self._table = device.empty(len(fit.table) * len(fit.table[0]), "float64")
        device.upload(np.asarray(fit.table, np.float64), self._table)
        self._areas = device.empty(len(fit.areas), "int32")
        device.upload(np.asarray(fit.areas, np.int32), self._areas)
        work = 3 * plan.layout.size * m / fit.blocks
        self._most_steps = max(1, int(LAUNCH_SECONDS / (10e-6 + work / 10e9)))
        self._source: Source | None = None
        self._bound: tuple[Any, ...] = ()
        self._launches: dict[int, Call] = {}

    def bind(self, source: Source, batch_size: int) -> None:
        """Gather batches from the arrays of `source` from now on."""
        arrays = *source, self._shared.order
        same = self._bound and all(a is b for a, b in zip(arrays, self._bound, strict=False))
        if not same or batch_size != self._bound[-1]:
            self._source, self._bound = source, (*arrays, batch_size)
            self._launches.clear()

    def unbind(self) -> None:
        """Release the data."""
        self._source, self._bound = None, ()
        self._launches.clear()

    def run(self, steps: int) -> None:
        """Enqueue a number of steps."""
        while steps:
            count = min(steps, self._most_steps)
            if count not in self._launches:
                self._launches = {count: self._launcher(count)} | dict(list(self._launches.items())[:MOST_LAUNCHES])
            self._launches[count]()
            steps -= count

    def _launcher(self, steps: int) -> Call:
        """Return a call that makes some steps."""
        assert self._source is not None
        plan, fit, shared, layout = self._plan, self.fit, self._shared, self._plan.layout
        launch = shared.lowered.loss.launch
        code, option = launch.arguments or (0, 0.0)
        update = update_of(plan.optimizer)
        assert update is not None
        train_resident = kernel(fit.blocks)
        options = (*update[1], 0.0, 0.0)[:2]
        slots = (*self._arrays.slots, None, None)[:2]
        return self._device.launcher(
            train_resident, plan.dtype, (fit.blocks, 1, 1), train_resident.threads,
            (
                *self._source, shared.order, shared.control, shared.scalars, self._arrays.theta, *slots, self._table,
                self._areas, len(fit.table), 1 if plan.class_indices else layout.sizes[-1], len(plan.optimizer.slots),
                self._m, self._bound[-1], steps, fit.capacity, int(plan.class_indices),
                codes("LossKernel", FILE)[launch.kernel.name], code, codes("Rule", FILE)[update[0]], plan.seed, option,
                plan.l2, *options, plan.clip_norm or 0.0, 1e-4 * float(np.finfo(plan.dtype).max),
            ),
            shared=fit.areas[-1] * np.dtype(plan.dtype).itemsize,
        )  # fmt: skip
