"""The Numba backend's matrix products (N2, N13 to N15), on workspaces as in :mod:`deepnotes_numba.products`."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")
from deepnotes_numba.arguments import Buffers, DenseLayer, Workspace
from deepnotes_numba.batches import transpose_blocks
from deepnotes_numba.compiling import jit_standalone
from deepnotes_numba.lowering import block_of
from deepnotes_numba.products import (
    RUN,
    TERMS,
    bias_gradient,
    input_gradient,
    linear,
    share,
    weight_gradient,
)
from deepnotes_numba.vectors import ROWS, block, pointer, transpose

pytestmark = pytest.mark.slow

DTYPES = ["float32", "float64"]
LINEAR, INPUT, WEIGHT, BIAS, TRANSPOSE = range(5)
PRODUCTS = {"linear": LINEAR, "input_gradient": INPUT, "weight_gradient": WEIGHT, "bias_gradient": BIAS}
OPERANDS = {LINEAR: ["A"], INPUT: ["D"], WEIGHT: ["D", "panels"], BIAS: ["D"]}
RESULTS = {LINEAR: "D", INPUT: "A", WEIGHT: "dW", BIAS: "db"}
# n, n_prev and blocks: 1, primes, multiples of tiles, blocks and panels, one more, and sums of more than TERMS terms
SHAPES = [
    (1, 1, 1), (2, 3, 1), (1, 31, 2), (3, 8, 3), (8, 1, 2), (ROWS, 16, 1), (ROWS + 1, 17, 2), (13, 33, 3), (31, 32, 1),
    (64, 64, 2), (97, 7, 1), (5, TERMS + 1, 2), (TERMS + 1, 5, 2), (9, 2 * TERMS + 76, 1), (2 * TERMS + 76, 9, 1),
    (7, 11, 35), (9, 18, 70),
]  # fmt: skip


@jit_standalone
def compute(operation, buffers, layer, workspace, offsets, blocks, rows, add):
    """Compute one of the products; or transpose, where `rows` are the rank and the number of threads."""
    theta, g, errors = buffers
    buffers = Buffers(pointer(theta, 0), pointer(g, 0), pointer(errors, 0), pointer(g, 0), pointer(g, 0), True)
    memory, capacity = workspace
    work, layer = Workspace(pointer(memory, 0), capacity), DenseLayer(*layer)
    A, D, panels = offsets
    if operation == LINEAR:
        linear(buffers.theta, layer, work.memory, A, D, blocks, rows)
    elif operation == INPUT:
        input_gradient(buffers.theta, layer, work.memory, D, A, blocks, rows)
    elif operation == WEIGHT:
        weight_gradient(buffers, layer, work, D, panels, blocks[1], rows, add)
    elif operation == BIAS:
        bias_gradient(buffers, layer, work.memory, D, blocks[1], rows, add)
    elif operation == TRANSPOSE:
        transpose_blocks(work, A, layer.n_prev, panels, blocks, rows[0], rows[1])


@jit_standalone
def transpose_block(x, out, rows, columns):
    transpose(x, 0, out, 0, rows, columns)


@jit_standalone
def shares(n, size, out):
    for rank in range(size):
        out[rank] = share(n, rank, size)


def padded(n: int, S: int) -> int:
    return -(-n // S) * S


class Layer:
    """One layer's arrays as the backend lays them out, with a gap around each, and NaN in all unused memory.

    Attributes
    ----------
    W, b, A, D, dW, db : ndarray
        As in the notes, (n, n_prev), (n, 1), (n_prev, m), (n, m); D is Z or dZ. `read` returns them.
    """

    def __init__(self, shape: tuple[int, int, int], dtype: str, draw: Any) -> None:
        self.n, self.n_prev, self.blocks = shape
        self.S = S = block_of(np.dtype(dtype))
        self.capacity = self.blocks + 2
        self.m = self.blocks * S
        height, height_prev = padded(self.n, S), padded(self.n_prev, S)
        gap = 3 * S
        self.A = gap
        self.D = self.A + height_prev * self.capacity * S + gap
        self.panels = self.D + height * self.capacity * S + gap
        self.work = np.full(self.panels + height_prev * self.capacity * S + gap, np.nan, dtype)
        self.w = 5
        self.b = self.w + self.n * self.n_prev + 3
        self.theta = np.full(self.b + self.n + 7, np.nan, dtype)
        self.g = np.full(len(self.theta) + S, np.nan, dtype)
        self.errors = np.zeros_like(self.g)
        self.values = {
            "W": draw(self.n, self.n_prev).astype(dtype), "b": draw(self.n, 1).astype(dtype),
            "A": draw(self.n_prev, self.m).astype(dtype), "D": draw(self.n, self.m).astype(dtype),
        }  # fmt: skip

    def region(self, name: str) -> np.ndarray:
        """Return the view of the memory of one array, in up to three dimensions; "panels" is A, transposed."""
        S, n, n_prev, blocks = self.S, self.n, self.n_prev, self.blocks
        if name in {"A", "D"}:
            rows, at = (n_prev, self.A) if name == "A" else (n, self.D)
            height = padded(rows, S)
            whole = self.work[at : at + height * self.capacity * S].reshape(self.capacity, height, S)
            return whole[:blocks, :rows].swapaxes(0, 1)
        if name == "panels":
            panels = padded(n_prev, S) // S
            return self.work[self.panels :][: panels * self.capacity * S * S].reshape(panels, self.capacity * S, S)
        flat = self.theta if name in {"W", "b"} else self.g
        at, shape = (self.w, (n, n_prev)) if name in {"W", "dW"} else (self.b, (n, 1))
        return flat[at : at + shape[0] * shape[1]].reshape(shape)

    def put(self, *names: str) -> None:
        """Write arrays to their memory."""
        for name in names:
            if name == "panels":
                panels = np.full((len(self.region(name)) * self.S, self.m), np.nan, self.work.dtype)
                panels[: self.n_prev] = self.values["A"]
                self.region(name)[:, : self.m] = panels.reshape(-1, self.S, self.m).swapaxes(1, 2)
            else:
                view = self.region(name)
                view[...] = self.values[name].reshape(view.shape)

    def read(self, name: str) -> np.ndarray:
        view = self.region(name)
        return view.reshape(len(view), -1).copy()

    def run(self, operation: int, blocks: Any = None, rows: Any = None, add: bool = False) -> None:
        rows = rows or (0, self.n_prev if operation == INPUT else self.n)
        compute(
            operation, (self.theta, self.g, self.errors), (self.w, self.b, self.n, self.n_prev),
            (self.work, self.capacity), (self.A, self.D, self.panels), blocks or (0, self.blocks), rows, add,
        )  # fmt: skip

    def product(self, operation: int, **ranges: Any) -> np.ndarray:
        """Write the operands of a product, compute it, and return it."""
        self.put("W", "b", *OPERANDS[operation])
        self.run(operation, **ranges)
        result = self.region(RESULTS[operation])
        if operation in {WEIGHT, BIAS}:
            start = self.w if operation == WEIGHT else self.b
            result += self.errors[start : start + result.size].reshape(result.shape)
            self.errors[:] = 0
        return self.read(RESULTS[operation])

    def terms(self, operation: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the two factors of a product, and the term added to it, in the widest float type."""
        W, b, A, D = (x.astype(np.longdouble) for x in self.values.values())
        return {
            LINEAR: (W, A, b),
            INPUT: (W.T, D, np.zeros((1, 1))),
            WEIGHT: (D, A.T, np.zeros((1, 1))),
            BIAS: (D, np.ones((self.m, 1)), np.zeros((1, 1))),
        }[operation]


def bound(x: np.ndarray, y: np.ndarray, added: np.ndarray, dtype: str) -> np.ndarray:
    """Return the bound on the error of ``x y + added``, by section 4 of the design, for k terms and the added one.

    The bound is ``min(γ_{k+1}, 2 sqrt(k+1) u) (|x| |y| + |added|) + (k+1) tiny``, with the square root for random data,
    and an allowance for the reference's own roundings.
    """
    k = x.shape[1] + 1
    info = np.finfo(dtype)
    u = float(info.eps) / 2
    factor = min(k * u / (1 - k * u), 2 * k**0.5 * u) * (1 + float(np.finfo(np.longdouble).eps / info.eps))
    return factor * (abs(x) @ abs(y) + abs(added)) + k * float(info.smallest_normal)


def normal(seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return lambda *shape: rng.normal(size=shape)


def integers(seed: int) -> Any:
    """Return a generator of integers so small that a sum of up to 2^14 products of two needs at most 24 bits."""
    rng = np.random.default_rng(seed)
    return lambda *shape: rng.integers(-16, 17, shape)


def bits(x: np.ndarray) -> np.ndarray:
    return x.view(f"u{x.dtype.itemsize}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("operation", PRODUCTS.values(), ids=PRODUCTS)
def test_a_product_of_random_numbers_is_within_its_bound(
    operation: int, shape: tuple[int, int, int], dtype: str
) -> None:
    layer = Layer(shape, dtype, normal(0))
    x, y, added = layer.terms(operation)
    assert (abs(layer.product(operation) - (x @ y + added)) <= bound(x, y, added, dtype)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("operation", PRODUCTS.values(), ids=PRODUCTS)
def test_a_product_of_small_integers_is_exact_and_no_other_memory_is_written(
    operation: int, shape: tuple[int, int, int], dtype: str
) -> None:
    layer = Layer(shape, dtype, integers(1))
    x, y, added = layer.terms(operation)
    layer.put("W", "b", *OPERANDS[operation])
    before = [bits(a).copy() for a in (layer.work, layer.theta, layer.g)]
    np.testing.assert_array_equal(layer.product(operation), x @ y + added)
    layer.region(RESULTS[operation])[...] = np.nan
    for array, old in zip((layer.work, layer.theta, layer.g), before, strict=True):
        np.testing.assert_array_equal(bits(array), old)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("operation", PRODUCTS.values(), ids=PRODUCTS)
@pytest.mark.parametrize("size", [2, 3, 5])
def test_the_bits_of_a_product_do_not_depend_on_how_threads_share_it(
    size: int, operation: int, shape: tuple[int, int, int], dtype: str
) -> None:
    """Compare one call with calls for each thread's rows, some of them empty, and for single blocks."""
    whole, parts = (Layer(shape, dtype, normal(2)) for _ in range(2))
    expected = whole.product(operation)
    rows = np.zeros((size, 2), np.int64)
    shares(parts.n_prev if operation == INPUT else parts.n, size, rows)
    for low, high in rows.tolist()[::-1]:
        for at in range(parts.blocks if operation in {LINEAR, INPUT} else 1):
            blocks = (at, at + 1) if operation in {LINEAR, INPUT} else (0, parts.blocks)
            actual = parts.product(operation, rows=(low, high), blocks=blocks)
    np.testing.assert_array_equal(bits(actual), bits(expected))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operation", [WEIGHT, BIAS], ids=["weight_gradient", "bias_gradient"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("exact", [True, False])
def test_a_gradient_is_added_to_the_gradient_so_far(
    exact: bool, operation: int, shape: tuple[int, int, int], dtype: str
) -> None:
    draw = integers(3) if exact else normal(3)
    layer = Layer(shape, dtype, draw)
    result = layer.region(RESULTS[operation])
    old = result[...] = draw(*result.shape).astype(dtype)
    x, y, _ = layer.terms(operation)
    limit = 0 if exact else bound(x, y, old.astype(np.longdouble), dtype)
    assert (abs(layer.product(operation, add=True) - (x @ y + old)) <= limit).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operation", [WEIGHT, BIAS], ids=["weight_gradient", "bias_gradient"])
@pytest.mark.parametrize("samples", [10_000, 100_000])
def test_a_sum_over_many_samples_is_as_accurate_as_one_run(samples: int, operation: int, dtype: str) -> None:
    """The terms are equal: added one after the other, their rounding errors would all have the same sign."""
    blocks = samples // block_of(np.dtype(dtype))
    layer = Layer((3, 2, blocks), dtype, lambda *shape: np.full(shape, 0.7))
    x, y, _ = layer.terms(operation)
    expected = x @ y
    u = float(np.finfo(dtype).eps) / 2
    assert (abs(layer.product(operation) / expected - 1) <= (RUN + 2) * u).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_number_of_threads_transposes_all_inputs(shape: tuple[int, int, int], size: int, dtype: str) -> None:
    actual, expected = (Layer(shape, dtype, normal(4)) for _ in range(2))
    expected.put("panels")
    actual.put("A")
    for rank in range(size):
        actual.run(TRANSPOSE, rows=(rank, size))
    features = np.arange(padded(actual.n_prev, actual.S)).reshape(-1, 1, actual.S) < actual.n_prev
    for layer in (actual, expected):
        layer.region("panels")[:] = np.where(features, layer.region("panels"), np.nan)
        layer.region("A")[...] = 0
    np.testing.assert_array_equal(bits(actual.work), bits(expected.work))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_block_is_transposed(dtype: str) -> None:
    """For every number of rows and columns, at least those are transposed, and no memory outside the block changes."""
    S = block_of(np.dtype(dtype))
    x = np.random.default_rng(5).normal(size=(S, S)).astype(dtype)
    for rows in range(1, S + 1):
        for columns in range(1, S + 1):
            out = np.full((S + 2, S), np.nan, dtype)
            transpose_block(x.reshape(-1), out[1:-1].reshape(-1), rows, columns)
            np.testing.assert_array_equal(out[1 : 1 + columns, :rows], x[:rows, :columns].T)
            assert np.isnan(out[[0, -1]]).all()


@pytest.mark.parametrize("n", [1, 7, 8, 9, 64, 1001])
@pytest.mark.parametrize("size", [1, 2, 3, 64])
def test_shares_are_whole_tiles_and_cover_all_rows(n: int, size: int) -> None:
    rows = np.zeros((size, 2), np.int64)
    shares(n, size, rows)
    assert rows[0, 0] == 0
    assert rows[-1, 1] == n
    assert (rows[1:, 0] == rows[:-1, 1]).all()
    assert (rows[:, 0] <= rows[:, 1]).all()
    assert all(low % ROWS == 0 or low == n for low in rows[:, 0])


def test_a_block_is_two_registers() -> None:
    assert [columns(np.zeros(1, dtype)) for dtype in DTYPES] == [block_of(np.dtype(dtype)) for dtype in DTYPES]


@jit_standalone
def columns(x):
    return block(x)
