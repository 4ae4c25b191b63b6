"""Predictions of networks whose parameters fit into shared memory: the whole forward pass in one launch."""

from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from deepnotes.backends import Activation
from deepnotes_cupy.device import Device
from deepnotes_cupy.generated import combine, insert
from deepnotes_cupy.lowering import DenseRow, lower_activation
from deepnotes_cupy.sources import Kernel, codes, constant, parse, program
from deepnotes_cupy.tape import Tape

FILE = "small_networks.cu"
IDENTITY, RELU = -1, -2
"""The codes of activations without structures; RELU is ReLU within products."""
SAMPLES = (64, 128)
"""The numbers of samples that a block may process at a time."""


class Table(NamedTuple):
    """A network as arguments of the kernel ``predict_resident``.

    Attributes
    ----------
    entries : ndarray of int32, shape (layers, 7)
    samples : int
        The number of samples that a block processes at a time.
    parameters, rows : int
        The size of the parameters in shared memory, and of the first buffer of activations.
    shared : int
        The bytes of shared memory that a block needs.
    """

    entries: np.ndarray
    samples: int
    parameters: int
    rows: int
    shared: int


def tabulate(layers: Sequence[tuple[int, ...]], dtype: str, samples: int) -> Table:
    """Return the table for layers, each given by the first numbers of its entry.

    They are n_prev, n, the offsets of W and b in θ, the activation's code, and where its options begin.

    Examples
    --------
    >>> tabulate([(64, 10, 0, 640, IDENTITY, 0)], "float32", 64).shared
    26176
    """
    size = np.dtype(dtype).itemsize
    pack, warps = 16 // size, kernel("#define EACH_ACTIVATION(CASE)").threads // 32
    neurons, columns = constant("WARP_NEURONS", FILE), samples // constant("WARP_SAMPLES", FILE)
    entries, parameters, buffers = [], 0, [_round_up(layers[0][0], pack), 0]
    for number, (n_prev, n, *rest) in enumerate(layers):
        # With more neurons per thread, there are fewer accesses to shared memory, but no warp should be without work.
        choices = [t for t in (8, 4) if t <= 2 * pack and -(-n // (neurons * t)) * columns >= warps]
        per_thread = choices[0] if choices else 2
        padded = _round_up(n, neurons * per_thread)
        parameters += padded * ((-(-n_prev // pack) | 1) * pack + 1)
        buffers[1 - number % 2] = max(buffers[1 - number % 2], padded)
        entries.append((n_prev, n, *rest, per_thread))
    shared = size * (parameters + sum(buffers) * (samples + pack))
    return Table(np.array(entries, np.int32), samples, parameters, buffers[0], shared)


class SmallNetwork:
    """The launch of ``predict_resident`` for one network.

    Parameters
    ----------
    device : Device
    table : Table
    options : ndarray of float64
        The options of the activations.
    kernel : Kernel
        The kernel with the activations.
    """

    def __init__(self, device: Device, table: Table, options: np.ndarray, kernel: Kernel) -> None:
        self._device, self._table, self._options, self._kernel = device, table, options, kernel
        self._on_device: dict[bool, list[Any]] = {}

    def append(self, tape: Tape, X: Any, theta: Any, out: Any, m: int, by_sample: bool, logits: bool) -> None:
        """Append the launch to a tape.

        Parameters
        ----------
        tape : Tape
        X : array or Slot
            Shape (m, n[0]) if `by_sample`, otherwise (n[0], m), both in C order.
        theta, out : array or Slot
        m : int
        by_sample : bool
        logits : bool
            Whether to compute, instead of the outputs, the product of the last layer without b.
        """
        entries, samples, parameters, rows, shared = self._table
        arguments = (
            X, theta, *self._arrays(logits), out, len(entries), parameters, rows, samples, m, int(by_sample)
        )  # fmt: skip
        kernel = self._kernel
        grid = (max(1, min(-(-m // samples), self._device.processors)), 1, 1)
        tape.calls.append(self._device.launcher(kernel, tape.dtype, grid, kernel.threads, arguments, shared))
        tape.names.append(kernel.name)

    def _arrays(self, logits: bool) -> list[Any]:
        """Return the entries of the table and the options on the device."""
        if logits not in self._on_device:
            entries, fields = self._table.entries.copy(), codes("Entry", FILE)
            if logits:
                entries[-1, [fields["b_at"], fields["code"]]] = -1, IDENTITY
            self._on_device[logits] = []
            for host in (entries.reshape(-1), self._options):
                self._on_device[logits].append(self._device.empty(host.size, str(host.dtype)))
                self._device.upload(host, self._on_device[logits][-1])
        return self._on_device[logits]


class Program(NamedTuple):
    """The kernel for a network, the options of its activations, and its layers in the form for :func:`tabulate`."""

    kernel: Kernel
    options: np.ndarray
    layers: Sequence[tuple[int, ...]]


def program_of(rows: Sequence[DenseRow], dtype: str) -> Program:
    """Return the kernel for layers."""
    relu = lower_activation(Activation("relu"), dtype, 2).part
    code, numbers = combine([row.g.part for row in rows], {None: IDENTITY, relu: RELU})
    options = [row.g.part.options if row.g.part else () for row in rows]
    begins = accumulate(map(len, options), initial=0)
    layers = [
        (row.n_prev, row.n, row.W.start, row.b.start, number, begin)
        for row, number, begin in zip(rows, numbers, begins, strict=False)
    ]
    return Program(kernel(code), np.array([*(x for some in options for x in some), 0.0]), layers)


def small_networks(device: Device, rows: Sequence[DenseRow], dtype: str, factors: str) -> list[SmallNetwork]:
    """Return the launches for few and for many samples, or none: this is the rule by size.

    The parameters and the activations of one tile must fit into shared memory, and products must have the precision of
    the dtype.
    """
    if factors != dtype:
        return []
    predict_resident, options, layers = program_of(rows, dtype)
    tables = (tabulate(layers, dtype, samples) for samples in SAMPLES)
    fitting = [table for table in tables if table.shared <= device.shared_bytes]
    return [SmallNetwork(device, table, options, predict_resident) for table in fitting]


@cache
def kernel(activations: str) -> Kernel:
    """Return the kernel with the generated code of activations."""
    head = f"constexpr int RELU = {RELU};\n"
    return parse(insert(program(FILE), head + activations))["predict_resident"]


def _round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
