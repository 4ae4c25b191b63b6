"""A stand-in for the library cuBLASLt: C functions with the argument types of its header, on the arrays of fake_cupy.

It suggests three algorithms, of which the second takes the least time on the clock of fake_cupy.
"""

import ctypes
from typing import Any

import numpy as np
from fake_cupy import CUDA, CUDARuntimeError

MILLISECONDS = (3.0, 1.0, 2.0)
"""The time that a product takes, by algorithm."""
DTYPES = {0: np.float32, 1: np.float64}


class Suggestion(ctypes.Structure):
    """``cublasLtMatmulHeuristicResult_t``."""

    _fields_ = (
        ("algorithm", ctypes.c_uint64 * 8), ("workspace", ctypes.c_size_t), ("status", ctypes.c_int),
        ("waves", ctypes.c_float), ("reserved", ctypes.c_int * 4),
    )  # fmt: skip


class CublasLt:
    """The functions of the library.

    Attributes
    ----------
    products : list of (int, int)
        The algorithm and the stream of each product.
    suggestions : int
        How often algorithms were asked for.
    failing : set of int
        Algorithms that fail when they run.
    preferences : list of dict
        The attributes of each preference.
    """

    def __init__(self) -> None:
        self.products: list[tuple[int, int]] = []
        self.suggestions, self.failing = 0, set[int]()
        self.preferences: list[dict[int, int]] = []
        self._objects: dict[int, Any] = {}
        integer, pointer, size = ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t
        handle, long = ctypes.POINTER(pointer), ctypes.c_int64
        attribute = [pointer, integer, pointer, size]
        functions: list[tuple[str, Any, list[Any]]] = [
            ("cublasLtCreate", lambda out: self._create(out, "handle"), [handle]),
            ("cublasLtMatmulDescCreate", self._create, [handle, integer, integer]),
            ("cublasLtMatmulDescSetAttribute", self._set, attribute),
            ("cublasLtMatrixLayoutCreate", self._create, [handle, integer, ctypes.c_uint64, ctypes.c_uint64, long]),
            ("cublasLtMatrixLayoutSetAttribute", self._set, attribute),
            ("cublasLtMatmulPreferenceCreate", self._create_preference, [handle]),
            ("cublasLtMatmulPreferenceSetAttribute", self._set, attribute),
            ("cublasLtMatmulPreferenceDestroy", lambda preference: 0, [pointer]),
            ("cublasLtMatmulAlgoGetHeuristic", self._suggest, [*[pointer] * 7, integer, pointer, pointer]),
            ("cublasLtMatmulAlgoCheck", self._check, [pointer] * 8),
            ("cublasLtMatmul", self._multiply, [*[pointer] * 14, size, pointer]),
        ]
        for name, function, types in functions:
            setattr(self, name, ctypes.CFUNCTYPE(integer, *types)(function))

    def _create(self, out: Any, *description: Any) -> int:
        out[0] = 0x10 + len(self._objects)
        self._objects[out[0]] = [description, {}]
        return 0

    def _create_preference(self, out: Any) -> int:
        self._create(out)
        self.preferences.append(self._objects[out[0]][1])
        return 0

    def _set(self, target: int, attribute: int, value: int, size: int) -> int:
        self._objects[target][1][attribute] = int.from_bytes(ctypes.string_at(value, size), "little")
        return 0

    def _suggest(self, *arguments: int) -> int:
        requested, results, count = arguments[7:]
        assert requested >= len(MILLISECONDS)
        self.suggestions += 1
        for number in range(len(MILLISECONDS)):
            address = results + number * ctypes.sizeof(Suggestion)
            Suggestion.from_address(address).algorithm[:] = [number, 2**64 - 1, *[0] * 6]
        ctypes.c_int.from_address(count).value = len(MILLISECONDS)
        return 0

    def _check(self, *arguments: int) -> int:
        algorithm = (ctypes.c_uint64 * 8).from_address(arguments[6])
        return 0 if algorithm[0] < len(MILLISECONDS) and algorithm[1] == 2**64 - 1 else 15

    def _multiply(  # noqa: PLR0913 - the arguments of cublasLtMatmul
        self, handle: int, operation: int, alpha: int, A: int, a: int, B: int, b: int, beta: int, C: int, c: int,
        D: int, d: int, algorithm: int, workspace: int, size: int, stream: int,
    ) -> int:  # fmt: skip
        assert (C, c) == (D, d)
        assert workspace
        number = (ctypes.c_uint64 * 8).from_address(algorithm)[0]
        if number in self.failing:
            return 13
        (_, scale_type), attributes = self._objects[operation]
        scalar = ctypes.c_double if scale_type == 1 else ctypes.c_float
        factor = scalar.from_address(alpha).value
        assert scalar.from_address(beta).value == 0
        self.products.append((number, stream))

        def multiply() -> None:
            CUDA.clock += MILLISECONDS[number]
            x, y, z = self._array(A, a), self._array(B, b), self._array(C, c)
            x = x.swapaxes(1, 2) if attributes.get(3) else x
            y = y.swapaxes(1, 2) if attributes.get(4) else y
            z[...] = z.dtype.type(factor) * (x @ y)

        try:
            CUDA.enqueue(("product",), stream, multiply)
        except CUDARuntimeError:
            return 15
        return 0

    def _array(self, address: int, layout: int) -> np.ndarray:
        """Return the matrices of a layout, shape (batch, rows, columns)."""
        (kind, rows, columns, leading), attributes = self._objects[layout]
        assert leading >= rows
        batch = attributes.get(5, 1)
        assert attributes.get(6, leading * columns) == leading * columns
        real = {0: ctypes.c_float, 1: ctypes.c_double}[kind]
        flat = np.ctypeslib.as_array((real * (batch * leading * columns)).from_address(address))
        return flat.reshape(batch, columns, leading)[..., :rows].swapaxes(1, 2)
