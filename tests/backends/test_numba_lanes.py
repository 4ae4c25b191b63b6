"""Lanes compute what NumPy computes for each number, and touch no memory but that of the numbers they select."""

import ctypes
import mmap
import operator
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")
from numba import from_dtype

import deepnotes as dn
from deepnotes.nn.losses import Loss
from deepnotes_numba import elementary, kernel_functions
from deepnotes_numba.compiling import jit_standalone
from deepnotes_numba.kernels import activation_kernels, layer_kernels, loss_kernel, update_kernel
from deepnotes_numba.lanes import (
    absolute,
    few_lanes_of,
    first_lanes,
    lanes_of,
    load,
    load_few,
    nearest,
    spread,
    square_root,
    store,
    store_few,
    where,
)
from deepnotes_numba.vectors import block, sums1, sums8

DTYPES = ["float32", "float64"]
needs_mprotect = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no mprotect")
VALUES = [0.0, -0.0, 1.0, -1.0, 2.5, -3.5, 0.1, 1e30, -1e-30, np.inf, -np.inf, np.nan]


def lanes(dtype: str) -> int:
    return lanes_of(from_dtype(np.dtype(dtype))).count


def pairs(dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Return all pairs of VALUES, in arrays whose length is a multiple of the lanes."""
    a, b = (x.reshape(-1) for x in np.meshgrid(VALUES, VALUES))
    size = -(-len(a) // lanes(dtype)) * lanes(dtype)
    return np.resize(a, size).astype(dtype), np.resize(b, size).astype(dtype)


@jit_standalone
def operate(a, b, out):
    """Write the results of all operations, one per row of `out`."""
    for at in range(0, a.shape[0], block(a)):
        x, y = load(a, at, None), load(b, at, None)
        one, zero, step = spread(a.dtype.type(1)), spread(a.dtype.type(0)), a.shape[0]
        store(out, at, x + y, None)
        store(out, at + step, x - y, None)
        store(out, at + 2 * step, x * y, None)
        store(out, at + 3 * step, x / y, None)
        store(out, at + 4 * step, -x, None)
        store(out, at + 5 * step, absolute(x), None)
        store(out, at + 6 * step, square_root(x), None)
        store(out, at + 7 * step, nearest(x), None)
        store(out, at + 8 * step, where(x < y, one, zero), None)
        store(out, at + 9 * step, where(x <= y, one, zero), None)
        store(out, at + 10 * step, where(x > y, one, zero), None)
        store(out, at + 11 * step, where(x >= y, one, zero), None)
        store(out, at + 12 * step, where(x == y, one, zero), None)
        store(out, at + 13 * step, where(x != y, one, zero), None)
        store(out, at + 14 * step, where((x > y) & (x > zero), one, zero), None)
        store(out, at + 15 * step, where((x > y) | (x > zero), one, zero), None)
        store(out, at + 16 * step, where((x > y) ^ (x > zero), one, zero), None)
        store(out, at + 17 * step, kernel_functions.maximum(x, y), None)
        store(out, at + 18 * step, kernel_functions.minimum(x, y), None)
        store(out, at + 19 * step, kernel_functions.sign(x), None)


OPERATIONS: list[Callable[..., Any]] = [
    operator.add, operator.sub, operator.mul, operator.truediv, lambda a, b: -a, lambda a, b: abs(a),
    lambda a, b: np.sqrt(a), lambda a, b: np.rint(a), operator.lt, operator.le, operator.gt, operator.ge, operator.eq,
    operator.ne, lambda a, b: (a > b) & (a > 0), lambda a, b: (a > b) | (a > 0), lambda a, b: (a > b) ^ (a > 0),
    np.maximum, np.minimum, lambda a, b: np.sign(a),
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
def test_operations_agree_with_numpy(dtype: str) -> None:
    a, b = pairs(dtype)
    out = np.full((len(OPERATIONS), len(a)), 7, dtype)
    operate(a, b, out.reshape(-1))
    with np.errstate(all="ignore"):
        for operation, found in zip(OPERATIONS, out, strict=True):
            np.testing.assert_array_equal(found, np.asarray(operation(a, b), dtype))


def test_the_sign_of_a_zero_is_kept() -> None:
    a, b = pairs("float64")
    out = np.empty((len(OPERATIONS), len(a)))
    operate(a, b, out.reshape(-1))
    for row in (4, 5, 6, 7):  # -x, |x|, the root and the nearest integer
        expected = OPERATIONS[row](np.array([0.0, -0.0]), None)
        for zero, wanted in zip((False, True), expected, strict=True):
            found = out[row][(a == 0) & (np.signbit(a) == zero)]
            assert (np.signbit(found) == np.signbit(wanted)).all()


@jit_standalone
def copy_first(x, at, count, out, o):
    first = first_lanes(count, spread(x.dtype.type(0)))
    numbers = load(x, at, first)
    store(out, o, numbers, first)
    store(out, o + 2 * block(x), numbers, None)


@pytest.mark.parametrize("dtype", DTYPES)
def test_masked_loads_and_stores_touch_the_first_lanes_only(dtype: str) -> None:
    L = lanes(dtype)
    x = np.arange(1, 3 * L + 1, dtype=dtype)
    for count in range(L + 1):
        out = np.full(4 * L, -1, dtype)
        copy_first(x, L // 2, count, out, 1)
        expected = np.full(4 * L, -1, dtype)
        expected[1 : 1 + count] = x[L // 2 : L // 2 + count]
        expected[1 + 2 * L : 1 + 3 * L] = 0  # the lanes that the mask leaves out
        expected[1 + 2 * L : 1 + 2 * L + count] = x[L // 2 : L // 2 + count]
        np.testing.assert_array_equal(out, expected)


@jit_standalone
def copy_few(x, at, count, out, o):
    numbers = load_few(x, at, count)
    store_few(out, o, numbers, count)
    store_few(out, o + 8, numbers, np.int64(8))


@pytest.mark.parametrize("dtype", DTYPES)
def test_loads_and_stores_of_few_lanes_touch_as_many_as_are_left(dtype: str) -> None:
    L = few_lanes_of(from_dtype(np.dtype(dtype))).count
    x = np.arange(1, 17, dtype=dtype)
    for left in range(1, L + 3):
        out = np.full(16, -1, dtype)
        copy_few(x, 3, left, out, 1)
        expected = np.full(16, -1, dtype)
        count = min(left, L)
        expected[1 : 1 + count] = x[3 : 3 + count]
        expected[9 : 9 + L] = 0
        expected[9 : 9 + count] = x[3 : 3 + count]
        np.testing.assert_array_equal(out, expected)


@jit_standalone
def evaluate(x, numbers, of_lanes):
    n = x.shape[0]
    for i in range(n):
        numbers[i], numbers[n + i] = elementary.exp(x[i]), elementary.expm1(x[i])
        numbers[2 * n + i], numbers[3 * n + i] = elementary.log(x[i]), elementary.log1p(x[i])
        numbers[4 * n + i] = elementary.tanh(x[i])
    for at in range(0, n, block(x)):
        values = load(x, at, None)
        store(of_lanes, at, elementary.exp(values), None)
        store(of_lanes, n + at, elementary.expm1(values), None)
        store(of_lanes, 2 * n + at, elementary.log(values), None)
        store(of_lanes, 3 * n + at, elementary.log1p(values), None)
        store(of_lanes, 4 * n + at, elementary.tanh(values), None)


@pytest.mark.parametrize("dtype", DTYPES)
def test_elementary_functions_of_lanes_and_of_numbers_have_the_same_bits(dtype: str) -> None:
    rng = np.random.default_rng(0)
    info = np.finfo(dtype)
    x = np.concatenate([rng.normal(0, 3, 900), rng.uniform(-800, 800, 90), VALUES, [info.tiny / 8, info.max]])
    x = np.resize(x, 1024).astype(dtype)
    numbers, of_lanes = np.empty((2, 5 * 1024), dtype)
    evaluate(x, numbers, of_lanes)
    np.testing.assert_array_equal(numbers, of_lanes)
    with np.errstate(all="ignore"):
        expected = np.concatenate([f(x.astype("f8")) for f in (np.exp, np.expm1, np.log, np.log1p, np.tanh)])
        np.testing.assert_allclose(of_lanes, expected.astype(dtype), rtol=20 * float(info.eps), atol=0)


@jit_standalone
def sum_rows(x, step, repeats, together, alone):
    sums8(x, 0, step, repeats, together, 0)
    for i in range(8):
        sums1(x, i * block(x), step, repeats, alone, i)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_sums_of_eight_rows_have_the_bits_of_the_sums_of_each(dtype: str) -> None:
    step = 8 * 64
    x = np.random.default_rng(0).normal(size=3 * step).astype(dtype)
    together, alone = np.full((2, 9), 7, dtype)
    sum_rows(x, step, 3, together, alone)
    np.testing.assert_array_equal(together, alone)
    assert together[8] == 7


def guarded(shape: tuple[int, ...], dtype: Any, end: bool) -> np.ndarray:
    """Return an array next to a page that may not be read or written: after its end, or before its start."""
    size, page = int(np.prod(shape)) * np.dtype(dtype).itemsize, mmap.PAGESIZE
    pages = max(1, -(-size // page))
    memory = mmap.mmap(-1, (pages + 2) * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for at in (start, start + (pages + 1) * page):
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(at), ctypes.c_size_t(page), 0) == 0
    offset = page + (pages * page - size if end else 0)
    return np.frombuffer(memory, dtype, int(np.prod(shape)), offset).reshape(shape)


def columns(call: Any, arrays: list[np.ndarray], m: int) -> list[np.ndarray]:
    """Call a kernel with the first m columns of arrays, in guarded memory; return what they become."""
    results = []
    for end in (True, False):
        views = [guarded(x[:, :m].shape, x.dtype, end) for x in arrays]
        for view, x in zip(views, arrays, strict=True):
            view[:] = x[:, :m]
        call(*views)
        results.append([view.copy() for view in views])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)
    return results[0]


def check_all_widths(call: Any, arrays: list[np.ndarray]) -> None:
    """Check that a kernel computes each column in the same way, however many there are."""
    m = arrays[0].shape[1]
    expected = columns(call, arrays, m)
    for count in range(1, m):
        for found, whole in zip(columns(call, arrays, count), expected, strict=True):
            np.testing.assert_array_equal(found, whole[:, :count])


def addresses(*arrays: np.ndarray) -> list[int]:
    return [x.ctypes.data for x in arrays]


def random_arrays(dtype: str, *rows: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.uniform(0.1, 0.9, (n, 2 * lanes(dtype) + 3)).astype(dtype) for n in rows]


@needs_mprotect
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["relu", "softmax"])
def test_activations_of_any_number_of_samples(name: str, dtype: str) -> None:
    kernels = activation_kernels(dn.Activation(name), dtype, 5, False)
    assert kernels is not None

    def call(Z: np.ndarray, A: np.ndarray, D: np.ndarray) -> None:
        kernels.forward.function(*addresses(Z, A), *Z.shape, kernels.forward.addresses[1])
        kernels.backward.function(*addresses(D, Z, A), *Z.shape, kernels.backward.addresses[1])

    check_all_widths(call, random_arrays(dtype, 5, 5, 5))


@needs_mprotect
@pytest.mark.parametrize("labelled", [False, True])
def test_losses_of_any_number_of_samples(labelled: bool) -> None:
    kernel = loss_kernel(Loss("categorical_cross_entropy"), True, "float32", 5)

    def call(*arrays: np.ndarray) -> None:
        A = arrays[1]
        kernel.function(*addresses(*arrays), *A.shape, int(labelled), kernel.addresses[1])

    Z, A, Y, D, C, L = random_arrays("float32", 5, 5, 1 if labelled else 5, 5, 1, 1)
    if labelled:
        Y[:] = np.arange(Y.size) % 5
    check_all_widths(call, [Z, A, Y, D, C, L])


@needs_mprotect
def test_layers_by_feature_of_any_number_of_samples() -> None:
    kernels = layer_kernels(dn.LayerNorm(), "float64", 5)
    P = np.random.default_rng(1).normal(size=10)

    def call(X: np.ndarray, A: np.ndarray, D: np.ndarray, E: np.ndarray, T: np.ndarray) -> None:
        k, m = X.shape
        kernels.forward.function(*addresses(X, A, P), k, m, kernels.forward.addresses[1])
        kernels.backward.function(*addresses(D, X, P, E, T), k * m, k, m, kernels.backward.addresses[1])

    check_all_widths(call, random_arrays("float64", 5, 5, 5, 5, 5))


@needs_mprotect
@pytest.mark.parametrize("dtype", DTYPES)
def test_updates_of_any_number_of_parameters(dtype: str) -> None:
    kernel = update_kernel(dn.Adam(), dtype)
    scalars = np.full(16, 0.5)

    def call(theta: np.ndarray, g: np.ndarray, *slots: np.ndarray) -> None:
        places = np.array(addresses(*slots))
        kernel.function(
            *addresses(theta, g, places), 0, theta.size, scalars.ctypes.data, 1, kernel.addresses[1], 0.0, 1.0
        )

    check_all_widths(call, random_arrays(dtype, 1, 1, 1, 1))
