"""Resident: many training steps in one launch, for networks that fit into the shared memory of one or a few blocks.

The kernel is ``train_resident`` in ``kernels/resident.cu``. This module decides which plans and batch sizes it takes,
and where everything is in shared memory.
"""

from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from itertools import pairwise
from math import ceil, inf
from typing import Any, NamedTuple

import numpy as np

from deepnotes.backends import Activation, Plan
from deepnotes_cupy.device import Call, Device
from deepnotes_cupy.generated import Part, combine, insert
from deepnotes_cupy.lowering import DenseRow, DropoutRow, Lowered, lower_activation
from deepnotes_cupy.sources import Kernel, codes, constant, parse, program
from deepnotes_cupy.step import Arrays, Shared, Source

FILE = "resident.cu"
IDENTITY, RELU = -1, -2
"""The codes of activations without structures; RELU is ReLU within products."""
BLOCKS = 8
"""The number of blocks in a cluster."""
THREADS = {1: 256, BLOCKS: 512}
"""The number of threads in a block, by the number of blocks; registers suffice for no more."""
STATIC_BYTES = 6144
"""The shared memory left for the kernel's other variables."""
CLUSTER_WORK, CLUSTER_SAMPLES = 100_000, 16
"""From so many multiply-adds in a forward pass and samples in a batch on, a cluster is faster than one block."""
MOST_WORK = {1: 1 << 20, BLOCKS: 1 << 23}
"""Up to so many multiply-adds in a forward pass, graphs are expected to be slower; by the number of blocks."""
MARGIN = 4
"""Within this factor of :data:`MOST_WORK`, both drivers are timed."""
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
    parts : str
        The generated code of the activations, the loss and the update.
    options : tuple of float
        The options of the activations.
    load : float
        The multiply-adds of a forward pass, as a share of :data:`MOST_WORK`.
    """

    blocks: int
    capacity: int
    areas: tuple[int, ...]
    table: tuple[tuple[float, ...], ...]
    parts: str
    options: tuple[float, ...]
    load: float = 0.0

    @property
    def is_certain(self) -> bool:
        """Whether this driver is so much faster than graphs that they need not be timed."""
        return self.load * MARGIN <= 1


@cache
def kernel(blocks: int, parts: str) -> Kernel:
    """Return the kernel for one block or for a cluster, with the code of a :class:`Fit`."""
    head = f"constexpr int THREADS = {THREADS[blocks]};\nconstexpr int RELU = {RELU};\n"
    return parse(head + "#define CLUSTERED\n" * (blocks > 1) + insert(program(FILE), parts))["train_resident"]


def fit(plan: Plan, lowered: Lowered, m: int, device: Device, most: float = 1.0) -> Fit:
    """Return how this driver trains a plan on batches of `m` samples.

    Parameters
    ----------
    plan : Plan
    lowered : Lowered
        The kernels of the plan.
    m : int
    device : Device
    most : float
        The largest share of :data:`MOST_WORK`; if it is infinite, nothing is refused because graphs may be faster.

    Raises
    ------
    Refused
    """
    work = plan.layout.size * m
    blocks = BLOCKS if device.clusters and work >= CLUSTER_WORK and m >= CLUSTER_SAMPLES else 1
    load = work / MOST_WORK[blocks]
    if load > most:
        raise Refused(f"a forward pass takes {work:,} multiply-adds, more than {most * MOST_WORK[blocks]:,.0f}")
    rows = layer_rows(plan, lowered)
    size = np.dtype(plan.dtype).itemsize
    memory = (device.shared_bytes - STATIC_BYTES) // size
    needed = ceil(m / blocks)
    one = _layout(plan, rows, blocks, 1, size)
    per_sample = _layout(plan, rows, blocks, 65, size).areas[-1] - one.areas[-1]
    capacity = min(needed, max(0, memory - one.areas[-1]) * 64 // per_sample + 1 if one.areas[-1] <= memory else 0)
    while capacity and _layout(plan, rows, blocks, capacity, size).areas[-1] > memory:
        capacity -= 1
    if capacity < (1 if most == inf else min(needed, FEWEST_SAMPLES)):
        raise Refused(f"{plan.layout.size:,} parameters do not fit into {device.shared_bytes:,} bytes of shared memory")
    return replace(_layout(plan, rows, blocks, capacity, size), load=load)


class Rows(NamedTuple):
    """What does not depend on the batch size: columns of a row for the inputs and of one for each dense layer.

    `parts` and `options` are those of :class:`Fit`.
    """

    columns: list[dict[str, float]]
    parts: str
    options: tuple[float, ...]


def layer_rows(plan: Plan, lowered: Lowered) -> Rows:
    """Return the rows of a plan, if this driver can train it."""
    _check_kinds(plan, lowered)
    rows: list[dict[str, float]] = [{"neurons": plan.inputs}]
    parts: list[Part | None] = [None]
    for row in lowered.rows:
        last = row is lowered.rows[-1]
        if isinstance(row, DropoutRow):
            if last:
                raise Refused("the last layer is dropout")
            if "mask" in rows[-1] or (parts[-1] and parts[-1].by_rows):
                raise Refused("a dropout layer follows another one or a layer like softmax")
            scale = 1 / (1 - row.rate)
            rows[-1] |= {"mask": row.number, "threshold": round(row.rate * 2**32), "scale": scale}
            continue
        assert isinstance(row, DenseRow)
        rows.append({"neurons": row.n, "weights": row.W.start, "biases": row.b.start})
        parts.append(None if lowered.loss.fused and last else row.g.part)
    if not 2 <= len(rows) <= constant("MOST_ROWS", FILE):
        raise Refused(f"{len(rows) - 1} dense layers")
    relu, in_product = lower_activation(Activation("relu"), plan.dtype, 2).part, Part("")
    for number, part in enumerate(parts[:-1]):
        if part == relu and "mask" not in rows[number]:
            parts[number] = in_product
    code, numbers = combine(parts, {None: IDENTITY, in_product: RELU})
    options: list[float] = []
    for columns, part, number in zip(rows, parts, numbers, strict=True):
        part = part or Part("")
        columns |= {"code": number, "options_at": len(options), "needs_Z": part.needs_Z, "needs_A": part.needs_A}
        options += part.options
    code = "\n".join([code, lowered.loss.part.declare("LossPart"), lowered.update.part.declare("UpdatePart")])
    return Rows(rows, code, tuple(options))


def _check_kinds(plan: Plan, lowered: Lowered) -> None:
    """Refuse an optimizer with too many slots or scalars, and layers other than Dense and Dropout."""
    slots, scalars = len(plan.optimizer.slots), 1 + len(lowered.update.scalars)
    if slots > constant("MOST_SLOTS", FILE) or scalars > constant("MOST_SCALARS", FILE):
        raise Refused(f"the optimizer has {slots} slots and {scalars} scalars")
    if not all(isinstance(row, DenseRow | DropoutRow) for row in lowered.rows):
        raise Refused("there are layers other than Dense and Dropout")


def _layout(plan: Plan, rows: Rows, blocks: int, capacity: int, size: int) -> Fit:
    """Return the Fit for a number of samples that a block holds at a time; numbers have `size` bytes."""
    pack = 16 // size
    end = 0

    def take(count: int) -> int:
        """Return the beginning of a new area of `count` numbers."""
        nonlocal end
        end += -(-count // pack) * pack
        return end - -(-count // pack) * pack

    table = [{"mask": 0, "threshold": 0, "scale": 1.0, "weights": 0, "biases": 0} | row for row in rows.columns]
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
    table[0]["z_at"] = table[0]["a_at"] = table[0]["outputs"] = areas["inputs"]
    for row in table[1:]:
        numbers = capacity * int(row["stride"])
        row["z_at"] = row["a_at"] = row["outputs"] = take(numbers)
        if row["needs_Z"]:
            row["z_at"] = take(numbers)
        if row["needs_A"] and row["mask"]:
            row["a_at"] = take(numbers)
    areas["end"] = end
    return Fit(
        blocks, capacity, tuple(areas[name] for name in codes("Area", FILE)),
        tuple(tuple(row[name] for name in codes("Column", FILE)) for row in table), rows.parts, rows.options,
    )  # fmt: skip


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
        lowered = shared.lowered
        options = np.array([*fit.options, *lowered.loss.part.options, *lowered.update.part.options, 0.0])
        self._options = device.empty(len(options), "float64")
        device.upload(options, self._options)
        work = 3 * plan.layout.size * m / fit.blocks
        self._most_steps = max(1, int(LAUNCH_SECONDS / (10e-6 + work / 10e9)))
        self._source: Source | None = None
        self._bound: tuple[Any, ...] = ()
        self._launches: dict[int, Call] = {}

    @property
    def digest(self) -> str:
        """A short text that differs for everything on which the time of a step depends, apart from the batch size."""
        plan, found = self._plan, self.fit
        options = plan.class_indices, plan.l1 > 0, plan.l2 > 0, plan.clip_norm is None
        text = repr((kernel(found.blocks, found.parts).digest, found.table, found.areas, options))
        return sha256(text.encode()).hexdigest()[:16]

    def bind(self, source: Source, batch_size: int) -> None:
        """Gather batches from the arrays of `source` from now on."""
        arrays = *source, self._shared.order
        same = self._bound and all(a is b for a, b in zip(arrays, self._bound, strict=False))
        if not same or batch_size != self._bound[-1]:
            self._source, self._bound = source, (*arrays, batch_size)
            self._launches.clear()

    def enqueue(self, steps: int) -> None:
        """Enqueue a number of steps, as :meth:`run` does; see :meth:`deepnotes_cupy.replay.Replay.enqueue`."""
        self.run(steps)

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
        train_resident = kernel(fit.blocks, fit.parts)
        loss_options = len(fit.options)
        update_options = loss_options + len(shared.lowered.loss.part.options)
        most_slots = constant("MOST_SLOTS", FILE)
        slots = (*self._arrays.slots, *(None,) * most_slots)[:most_slots]
        return self._device.launcher(
            train_resident, plan.dtype, (fit.blocks, 1, 1), train_resident.threads,
            (
                *self._source, shared.order, shared.control, shared.scalars, self._arrays.theta, *slots, self._table,
                self._areas, self._options, loss_options, update_options, len(fit.table),
                1 if plan.class_indices else layout.sizes[-1], shared.columns, self._m, self._bound[-1], steps,
                fit.capacity, int(plan.class_indices), plan.seed, plan.l1, plan.l2, plan.clip_norm or 0.0,
                1e-4 * float(np.finfo(plan.dtype).max),
            ),
            shared=fit.areas[-1] * np.dtype(plan.dtype).itemsize,
        )  # fmt: skip
