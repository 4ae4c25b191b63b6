"""Matrix products by cuBLASLt, each with the algorithm that took the least time when it was tried.

For the shapes of small batches, cuBLAS's own choice is often slow. So the algorithms that cuBLASLt suggests for a
product are timed once, and the fastest is kept: in memory, and in a file, so that other processes compute the same
bits. No product has an epilogue, since those of cuBLASLt that apply ReLU turn NaN into 0.
"""

import ctypes
from collections.abc import Callable, Sequence
from math import inf
from typing import Any

from deepnotes_cupy.choices import Choices
from deepnotes_cupy.cublas import STATUS, TYPES, CublasError, address
from deepnotes_cupy.device import Product

SUGGESTIONS = 24
"""The largest number of algorithms that are tried for a product."""
ALIGNMENTS = (256, 128, 64, 32, 16, 8, 4, 2)
"""The alignments of operands that are distinguished, in bytes."""
TRANSPOSE_A, TRANSPOSE_B = 3, 4  # attributes of a matrix product
BATCH_COUNT, STRIDE = 5, 6  # attributes of a layout
MAX_WORKSPACE, REDUCTIONS, ALIGNMENT_A = 1, 3, 5  # attributes of a preference; B, C and D follow A
ALGORITHM = 8
"""The number of integers of 64 bits that describe an algorithm."""
SUMS_IN_WORKSPACE = 2
"""The only way to combine partial sums that is allowed: in the precision of the computation, in a fixed order."""

Launch = Callable[[int, int], None]
"""Enqueues a product, given the stream and the address of the workspace."""


class _Suggestion(ctypes.Structure):
    """``cublasLtMatmulHeuristicResult_t``."""

    _fields_ = (
        ("algorithm", ctypes.c_uint64 * ALGORITHM), ("workspace", ctypes.c_size_t), ("status", ctypes.c_int),
        ("waves", ctypes.c_float), ("reserved", ctypes.c_int * 4),
    )  # fmt: skip


class CublasLt:
    """A handle of cuBLASLt, and the algorithms chosen so far.

    Parameters
    ----------
    library : ctypes library
    workspace : int
        The size in bytes of the workspaces that are passed to products.
    measure : callable
        Returns the time that each of a list of launches takes, or infinity for those that fail.
    choices : Choices
    """

    def __init__(
        self, library: Any, workspace: int, measure: Callable[[Sequence[Launch]], list[float]], choices: Choices
    ) -> None:
        self._library, self._workspace, self._measure, self._choices = library, workspace, measure, choices
        self._handle = ctypes.c_void_p()
        self._call("cublasLtCreate", ctypes.byref(self._handle))

    def prepare(self, product: Product) -> Launch:
        """Return a function that enqueues a product, by the algorithm that was fastest.

        Raises
        ------
        CublasError
            If cuBLASLt has no algorithm for the product.
        """
        operation, layouts = self._describe(product)
        alignments = [_alignment(address(x)) for x in (product.A, product.B, product.C)]
        sizes = product.transposed, product.m, product.n, product.k, product.parts, product.strides
        key = repr((*sizes, product.factors, alignments))
        algorithm = self._choices.get(key)
        if algorithm is None or len(algorithm) != ALGORITHM or not self._is_valid(operation, layouts, algorithm):
            suggested = self._suggest(operation, layouts, alignments)
            launches = [self._launch(product, operation, layouts, x) for x in suggested]
            times = self._measure(launches) if len(launches) > 1 else [0.0]
            if not launches or min(times) == inf:
                raise CublasError(f"cuBLASLt has no algorithm for the product {key}")
            algorithm = self._choices.add(key, suggested[times.index(min(times))])
        return self._launch(product, operation, layouts, algorithm)

    def _launch(self, product: Product, operation: Any, layouts: Sequence[Any], algorithm: Sequence[int]) -> Launch:
        scalar = ctypes.c_double if product.factors == "float64" else ctypes.c_float
        alpha, zero = scalar(product.alpha), scalar(0.0)
        a, b, c = layouts
        A, B, C = (ctypes.c_void_p(address(x)) for x in (product.A, product.B, product.C))
        before = (
            self._handle, operation, ctypes.byref(alpha), A, a, B, b, ctypes.byref(zero), C, c, C, c,
            ctypes.byref((ctypes.c_uint64 * ALGORITHM)(*algorithm)),
        )  # fmt: skip
        size = ctypes.c_size_t(self._workspace)

        def launch(stream: int, workspace: int, keep_alive: Any = (product, alpha, zero)) -> None:
            self._call("cublasLtMatmul", *before, ctypes.c_void_p(workspace), size, ctypes.c_void_p(stream))

        return launch

    def _describe(self, product: Product) -> tuple[Any, list[Any]]:
        """Return the descriptors of a product, and of the layouts of A, B and C; they live as long as the process."""
        factor_type, product_type, compute = TYPES[product.factors]
        operation = ctypes.c_void_p()
        scale_type = product_type  # of alpha: the type of the sums
        self._call("cublasLtMatmulDescCreate", ctypes.byref(operation), ctypes.c_int(compute), ctypes.c_int(scale_type))
        for transposed, attribute in zip(product.transposed, (TRANSPOSE_A, TRANSPOSE_B), strict=True):
            if transposed:
                self._set("cublasLtMatmulDescSetAttribute", operation, attribute, ctypes.c_int32(1))
        layouts = []
        for which, (rows, columns, stride) in enumerate(product.layouts):
            layout = ctypes.c_void_p()
            self._call(
                "cublasLtMatrixLayoutCreate", ctypes.byref(layout),
                ctypes.c_int(product_type if which == 2 else factor_type),
                ctypes.c_uint64(rows), ctypes.c_uint64(columns), ctypes.c_int64(stride),
            )  # fmt: skip
            if product.parts > 1:
                set_attribute = "cublasLtMatrixLayoutSetAttribute"
                self._set(set_attribute, layout, BATCH_COUNT, ctypes.c_int32(product.parts))
                self._set(set_attribute, layout, STRIDE, ctypes.c_int64(columns * stride))
            layouts.append(layout)
        return operation, layouts

    def _suggest(self, operation: Any, layouts: Sequence[Any], alignments: Sequence[int]) -> list[tuple[int, ...]]:
        """Return the algorithms that cuBLASLt suggests, the one that it expects to be fastest first."""
        a, b, c = layouts
        preference, count = ctypes.c_void_p(), ctypes.c_int()
        self._call("cublasLtMatmulPreferenceCreate", ctypes.byref(preference))
        try:
            set_attribute = "cublasLtMatmulPreferenceSetAttribute"
            self._set(set_attribute, preference, MAX_WORKSPACE, ctypes.c_uint64(self._workspace))
            self._set(set_attribute, preference, REDUCTIONS, ctypes.c_uint32(SUMS_IN_WORKSPACE))
            for i, alignment in enumerate([*alignments, alignments[-1]]):
                self._set(set_attribute, preference, ALIGNMENT_A + i, ctypes.c_uint32(alignment))
            results = (_Suggestion * SUGGESTIONS)()
            self._call(
                "cublasLtMatmulAlgoGetHeuristic", self._handle, operation, a, b, c, c, preference,
                ctypes.c_int(SUGGESTIONS), results, ctypes.byref(count),
            )  # fmt: skip
        finally:
            self._call("cublasLtMatmulPreferenceDestroy", preference)
        return [tuple(result.algorithm) for result in results[: count.value] if result.status == 0]

    def _is_valid(self, operation: Any, layouts: Sequence[Any], algorithm: Sequence[int]) -> bool:
        """Return whether an algorithm from a file works for a product."""
        a, b, c = layouts
        result = _Suggestion()
        try:
            self._call(
                "cublasLtMatmulAlgoCheck", self._handle, operation, a, b, c, c,
                ctypes.byref((ctypes.c_uint64 * ALGORITHM)(*algorithm)), ctypes.byref(result),
            )  # fmt: skip
        except CublasError:
            return False
        return int(result.workspace) <= self._workspace

    def _set(self, function: str, target: Any, attribute: int, value: Any) -> None:
        size = ctypes.c_size_t(ctypes.sizeof(value))
        self._call(function, target, ctypes.c_int(attribute), ctypes.byref(value), size)

    def _call(self, name: str, *arguments: Any) -> None:
        function = getattr(self._library, name)
        function.restype = ctypes.c_int
        status = function(*arguments)
        if status:
            raise CublasError(f"{name}: {STATUS.get(status, 'error')} ({status})")


def _alignment(address: int) -> int:
    """Return the largest of :data:`ALIGNMENTS` that divides an address."""
    return next(size for size in ALIGNMENTS if address % size == 0)
