"""Tape: a sequence of calls that is prepared once and enqueued many times."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from deepnotes.equations.samples import SAMPLES
from deepnotes_cupy import geometry
from deepnotes_cupy.device import Call, Device, Factors, Product, Slot
from deepnotes_cupy.sources import Launch, codes, constant

STAGE_OUTPUTS = 1 << 18
"""The largest number of outputs of a layer for a batch for which stages are tried; large products fill a GPU alone."""


class Tape:
    """A sequence of launches, products and copies.

    Parameters
    ----------
    device : Device
    dtype : {"float32", "float64"}
    factors : str
        The precision to which products round their factors.
    concurrent : bool, default False
        Whether :meth:`aside` has an effect.
    tuned : bool, default False
        Whether the fastest algorithm is chosen for each product, see :meth:`Device.multiplier`, and the fastest way by
        :meth:`fastest`.
    buffers : sequence of array, optional
        The buffers of a tape with the same launches, products and copies; this tape uses the same memory.

    Attributes
    ----------
    calls : list of callable
    names : list of str
        The name of each call.
    buffers : list of array
        The memory allocated for the tape; each run writes to it before it reads from it.
    """

    def __init__(
        self, device: Device, dtype: str, factors: Factors, concurrent: bool = False, tuned: bool = False,
        buffers: Sequence[Any] | None = None,
    ) -> None:  # fmt: skip
        self.device, self.dtype, self.factors = device, dtype, factors
        self.concurrent, self.tuned = concurrent, tuned
        self.calls: list[Call] = []
        self.names: list[str] = []
        self.buffers: list[Any] = []
        self._given = iter(buffers) if buffers is not None else None
        self._apart = False
        self._rounded: dict[int, tuple[Any, Any]] = {}

    def run(self) -> None:
        """Enqueue all calls."""
        for call in self.calls:
            call()

    def empty(self, size: int, dtype: str | None = None) -> Any:
        """Return a new flat array, and keep it in `buffers`."""
        array = self.device.empty(size, dtype or self.dtype) if self._given is None else next(self._given)
        self.buffers.append(array)
        return array

    def constant(self, numbers: Sequence[int]) -> Any:
        """Return a new array of integers, int64, that stays unchanged."""
        array = self.device.empty(len(numbers), "int64")
        self.device.upload(np.array(numbers, np.int64), array)
        return array

    def launch(self, launch: str | Launch, sizes: tuple[int, ...], *arguments: Any, chunks: int = 1) -> None:
        """Add a launch, with the grid that :func:`geometry.grid` returns for `sizes` and `chunks`.

        A name stands for a kernel of the package. The arguments of a Launch follow `arguments`.
        """
        kernel, last = Launch.of(launch) if isinstance(launch, str) else launch
        grid, block = geometry.grid(kernel, *sizes, dtype=self.dtype, processors=self.device.processors, chunks=chunks)
        self.calls.append(self.device.launcher(kernel, self.dtype, grid, block, (*arguments, *last)))
        self.names.append(kernel.name)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Add the calls of the context to the device's second stream, if `concurrent`; see :meth:`Device.aside`."""
        if not self.concurrent:
            yield
            return
        main, self.calls = self.calls, []
        try:
            yield
        finally:
            aside, self.calls = self.calls, main
            if aside:
                main.append(self.device.aside(aside))
                self._apart = True

    def rejoin(self) -> None:
        """Add the end of concurrency: later calls wait for those in the second stream."""
        if self._apart:
            self.calls.append(self.device.rejoin)
            self._apart = False

    def in_stages(self, outputs: int) -> bool:
        """Return whether a product with so many outputs may be a part of a stage, see ``kernels/stages.cuh``."""
        return self.tuned and self.factors in ("float32", "float64") and outputs <= STAGE_OUTPUTS

    def fastest(self, stage: Launch, sizes: tuple[int, ...], separate: Call, together: Call) -> bool:
        """Add the calls of the faster of two ways to compute the same, and return whether it is `together`.

        Parameters
        ----------
        stage : Launch
            The kernel that `together` launches.
        sizes : tuple of int
            Whatever else the time depends on.
        separate, together : callable
            They add their calls to the tape.
        """
        calls, names, added = self.calls, self.names, []
        for way in (separate, together):
            self.calls, self.names = [], []
            way()
            added.append((self.calls, self.names))
        key = repr((stage.kernel.name, stage.kernel.digest, self.dtype, *sizes))
        index = self.device.fastest(key, [x for x, _ in added])
        self.calls, self.names = calls + added[index][0], names + added[index][1]
        return index == 1

    def copy(self, source: Any, target: Any) -> None:
        """Add a copy of `source` to `target`."""
        self.calls.append(self.device.copier(source, target))
        self.names.append("copy")

    def product(
        self,
        transposed: tuple[bool, bool],
        sizes: tuple[int, int, int],
        alpha: float,
        A: Any,
        B: Any,
        C: Any,
        strides: tuple[int, int] | None = None,
    ) -> None:
        """Add ``C = alpha op(A) op(B)``; `sizes` are m, n and k, see :class:`Product`. A and B must be rounded.

        B and C may be Slots.
        """
        product = Product(transposed, *sizes, alpha, A, B, C, self.factors, strides=strides)
        multiplier = self.device.multiplier
        slots = {name: x for name, x in (("B", B), ("C", C)) if isinstance(x, Slot)}
        if slots:
            self.calls.append(lambda: multiplier(product._replace(**{name: x.array for name, x in slots.items()}))())
        else:
            self.calls.append(multiplier(product, self.tuned))
        self.names.append("product")

    def product_over_samples(self, sizes: tuple[int, int, int], alpha: float, A: Any, B: Any, C: Any) -> None:
        """Add ``C = alpha A Bᵀ``, a sum over samples: a product for each block of samples, and their sum.

        `sizes` are the rows of A, the rows of B, and the number of samples; A and B are factors by sample, see
        :meth:`factor`. A block has at least :data:`SAMPLES` samples, and is so large that the products of all blocks
        take no more memory than the factors.
        """
        n, rows, m = sizes
        strides = self.stride(n), self.stride(rows)
        block = max(SAMPLES, -(-n * rows // (n + rows)))
        whole, rest = divmod(m, block)
        if whole + (rest > 0) == 1:
            self.product((False, True), sizes, alpha, A, B, C, strides)
            return
        parts = self.empty((whole + (rest > 0)) * n * rows)
        block_products = Product((False, True), n, rows, block, alpha, A, B, parts, self.factors, whole, strides)
        self.calls.append(self.device.multiplier(block_products, self.tuned))
        self.names.append("product")
        if rest:
            A, B = A[whole * block * strides[0] :], B[whole * block * strides[1] :]
            self.product((False, True), (n, rows, rest), alpha, A, B, parts[whole * n * rows :], strides)
        self.launch("add_parts", (n * rows,), parts, C, n * rows, whole + (rest > 0))

    def stride(self, n: int) -> int:
        """Return the distance between the samples of a factor with n numbers for each: 16-bit ones may have gaps."""
        return padded(n) if self.factors in codes("Half") else n

    def factor(self, x: Any, n: int = 0, reusable: bool = True, scale: float = 1.0) -> Any:
        """Return `x` as a factor of products: unchanged, or a copy that a launch on the tape rounds to 16 bits.

        Parameters
        ----------
        x : array
        n : int, default 0
            If not 0, `x` has n numbers for each sample, and the samples of a copy are apart by :meth:`stride`.
        reusable : bool, default True
            Whether `x` stays unchanged until the end of the tape, so that the rounded copy can be used again.
        scale : float, default 1.0
            The factor by which `x` is multiplied before it is rounded.
        """
        cached = self._rounded.get(id(x))
        if cached is not None and reusable:
            return cached[1]
        m = x.size // n if n else 1
        out, kind = self.empty_factor(m, n or x.size)
        if out is None:
            return x
        if self.stride(n) == n:
            self.launch("round16", (x.size,), x, out, x.size, kind, scale)
        else:
            samples, chunks = geometry.chunks(n, m, dtype=self.dtype, processors=self.device.processors)
            operands = x, None, None, out, kind, scale, None, n, m, samples, 1.0
            self.launch("activation_backward", (n, m), *operands, chunks=chunks)
        if reusable:
            self.keep_factor(x, out)
        return out

    def empty_factor(self, m: int, n: int) -> tuple[Any, int]:
        """Return a new array for a factor of 16 bits and the code of its format, or (None, 0) if factors have more.

        There are m samples of n numbers each.
        """
        formats = codes("Half")
        return (self.empty(m * padded(n), "uint16"), formats[self.factors]) if self.factors in formats else (None, 0)

    def keep_factor(self, x: Any, factor: Any) -> None:
        """Use `factor` whenever `x`, which does not change until the end of the tape, is a factor of a product."""
        self._rounded[id(x)] = x, factor  # x is kept alive, so that no other array gets its id


def padded(n: int) -> int:
    """Return the distance between the samples of a factor of 16 bits with n numbers for each, see ``Factor``."""
    row = constant("ROW")
    return -(-n // row) * row
