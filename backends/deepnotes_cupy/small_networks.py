"""Predictions of networks whose parameters fit into shared memory: the whole forward pass in one launch."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from deepnotes_cupy.device import Device
from deepnotes_cupy.lowering import DenseRow, is_elementwise
from deepnotes_cupy.sources import codes, constant, kernels
from deepnotes_cupy.tape import Tape

SAMPLES = (64, 128)
"""The numbers of samples that a block may process at a time."""


class SmallNetwork:
    """The plan of the kernel ``predict_resident`` for one network, with `samples` samples in a block.

    Parameters
    ----------
    device : Device
    rows : sequence of DenseRow
        Layers for which :meth:`takes` returns True.
    dtype : {"float32", "float64"}
    samples : int
        One of :data:`SAMPLES`.

    Attributes
    ----------
    shared : int
        The bytes of shared memory that a block needs.
    """

    def __init__(self, device: Device, rows: Sequence[DenseRow], dtype: str, samples: int) -> None:
        size = np.dtype(dtype).itemsize
        pack, warps = 16 // size, kernels()["predict_resident"].threads // 32
        entries, self._parameters, buffers = [], 0, [_round_up(rows[0].n_prev, pack), 0]
        for number, row in enumerate(rows):
            # Many neurons per thread need fewer accesses to shared memory, but every warp should have some.
            across = constant("WARP_NEURONS"), samples // constant("WARP_SAMPLES")
            choices = [t for t in (8, 4) if t <= 2 * pack and -(-row.n // (across[0] * t)) * across[1] >= warps]
            per_thread = choices[0] if choices else 2
            padded = _round_up(row.n, across[0] * per_thread)
            self._parameters += padded * ((-(-row.n_prev // pack) | 1) * pack + 1)
            buffers[1 - number % 2] = max(buffers[1 - number % 2], padded)
            code = codes("Activation")["softmax"] if row.g.by_rows else int(row.g.forward.arguments[0])
            entries.append((row.n_prev, row.n, row.W.start, row.b.start, code, per_thread))
        self._device, self._dtype, self._samples, self._rows = device, dtype, samples, buffers[0]
        self._outputs, self._layers = rows[-1].n, len(rows)
        self.shared = size * (self._parameters + sum(buffers) * (samples + pack))
        self._entries = np.array(entries, np.int32)
        self._options = np.array([0.0 if row.g.by_rows else row.g.forward.arguments[1] for row in rows], dtype)
        self._tables: dict[bool, tuple[Any, Any]] = {}

    @staticmethod
    def takes(rows: Sequence[Any], dtype: str, factors: str) -> bool:
        """Return whether the kernel has all activations, and the products have the precision of the dtype."""
        return factors == dtype and all(is_elementwise(row.g) or row.g.forward.kernel.name == "softmax" for row in rows)

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
        device = self._device
        tiles = -(-m // self._samples)
        arguments = (
            X, theta, *self._table(logits), out, self._layers, self._parameters, self._rows, self._samples, m, by_sample
        )  # fmt: skip
        kernel = kernels()["predict_resident"]
        grid = (max(1, min(tiles, device.processors)), 1, 1)
        tape.calls.append(device.launcher(kernel, self._dtype, grid, kernel.threads, arguments, self.shared))
        tape.names.append(kernel.name)

    def _table(self, logits: bool) -> tuple[Any, Any]:
        """Return the table of the layers and their options on the device."""
        if logits not in self._tables:
            entries = self._entries.copy()
            if logits:
                fields = codes("Entry")
                entries[-1, [fields["b_at"], fields["code"]]] = -1, codes("Activation")["identity"]
            arrays = entries.reshape(-1), self._options
            self._tables[logits] = tuple(self._device.empty(a.size, str(a.dtype)) for a in arrays)  # type: ignore[assignment]
            for host, array in zip(arrays, self._tables[logits], strict=True):
                self._device.upload(host, array)
        return self._tables[logits]


def plan_small_networks(device: Device, rows: Sequence[Any], dtype: str, factors: str) -> list[SmallNetwork]:
    """Return the plans that fit into shared memory, in the order of :data:`SAMPLES`: this is the rule by size."""
    if not SmallNetwork.takes(rows, dtype, factors):
        return []
    plans = (SmallNetwork(device, rows, dtype, samples) for samples in SAMPLES)
    return [plan for plan in plans if plan.shared <= device.shared_bytes]


def _round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
