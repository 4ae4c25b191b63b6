"""Tape: a sequence of calls that is prepared once and enqueued many times."""

from typing import Any

from deepnotes.equations.samples import SAMPLES
from deepnotes_cupy import geometry
from deepnotes_cupy.device import Call, Device, Factors, Product, Slot
from deepnotes_cupy.sources import Launch, codes


class Tape:
    """A sequence of launches, products and copies.

    Parameters
    ----------
    device : Device
    dtype : {"float32", "float64"}
    factors : str
        The precision to which products round their factors.

    Attributes
    ----------
    calls : list of callable
    names : list of str
        The name of each call.
    buffers : list of array
        The memory allocated for the tape; each run writes to it before it reads from it.
    """

    def __init__(self, device: Device, dtype: str, factors: Factors) -> None:
        self.device, self.dtype, self.factors = device, dtype, factors
        self.calls: list[Call] = []
        self.names: list[str] = []
        self.buffers: list[Any] = []
        self._rounded: dict[int, tuple[Any, Any]] = {}

    def run(self) -> None:
        """Enqueue all calls."""
        for call in self.calls:
            call()

    def empty(self, size: int, dtype: str | None = None) -> Any:
        """Return a new flat array, and keep it in `buffers`."""
        self.buffers.append(self.device.empty(size, dtype or self.dtype))
        return self.buffers[-1]

    def launch(self, launch: str | Launch, sizes: tuple[int, ...], *arguments: Any, chunks: int = 1) -> None:
        """Add a launch, with the grid that :func:`geometry.grid` returns for `sizes` and `chunks`.

        A name stands for a kernel of the package. The arguments of a Launch follow `arguments`.
        """
        kernel, last = Launch.of(launch) if isinstance(launch, str) else launch
        grid, block = geometry.grid(kernel, *sizes, dtype=self.dtype, processors=self.device.processors, chunks=chunks)
        self.calls.append(self.device.launcher(kernel, self.dtype, grid, block, (*arguments, *last)))
        self.names.append(kernel.name)

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
    ) -> None:
        """Add ``C = alpha op(A) op(B)``; `sizes` are m, n and k, see :class:`Product`. The factors must be rounded.

        B and C may be Slots.
        """
        product, multiplier = Product(transposed, *sizes, alpha, A, B, C, self.factors), self.device.multiplier
        slots = {name: x for name, x in (("B", B), ("C", C)) if isinstance(x, Slot)}
        if slots:
            self.calls.append(lambda: multiplier(product._replace(**{name: x.array for name, x in slots.items()}))())
        else:
            self.calls.append(multiplier(product))
        self.names.append("product")

    def product_over_samples(self, sizes: tuple[int, int, int], alpha: float, A: Any, B: Any, C: Any) -> None:
        """Add ``C = alpha A Bᵀ``, a sum over samples: a product for each block of samples, and their sum.

        `sizes` are the rows of A, the rows of B, and the number of samples. A block has at least :data:`SAMPLES`
        samples, and so many that the products take no more memory than the factors.
        """
        n, rows, m = sizes
        block = max(SAMPLES, -(-n * rows // (n + rows)))
        whole, rest = divmod(m, block)
        if whole + (rest > 0) == 1:
            self.product((False, True), sizes, alpha, A, B, C)
            return
        parts = self.empty((whole + (rest > 0)) * n * rows)
        block_products = Product((False, True), n, rows, block, alpha, A, B, parts, self.factors, whole)
        self.calls.append(self.device.multiplier(block_products))
        self.names.append("product")
        if rest:
            A, B = A[whole * block * n :], B[whole * block * rows :]
            self.product((False, True), (n, rows, rest), alpha, A, B, parts[whole * n * rows :])
        self.launch("sum_partials", (n * rows,), parts, C, n * rows, whole + (rest > 0))

    def factor(self, x: Any, reusable: bool = True, scale: float = 1.0) -> Any:
        """Return `x` as a factor of products: unchanged, or a copy that a launch on the tape rounds to 16 bits.

        Parameters
        ----------
        x : array
        reusable : bool, default True
            Whether `x` stays unchanged until the end of the tape, so that the rounded copy can be used again.
        scale : float, default 1.0
            The factor by which `x` is multiplied before it is rounded.
        """
        if self.factors not in codes("Half"):
            return x
        cached = self._rounded.get(id(x))
        if cached is not None and reusable:
            return cached[1]
        out = self.empty(x.size, "uint16")
        self.launch("round16", (x.size,), x, out, x.size, codes("Half")[self.factors], scale)
        if reusable:
            self._rounded[id(x)] = (x, out)  # x is kept alive, so that no other array gets its id
        return out
