"""The Numba backend's matrix products (N2, N13 to N15), in workspaces as :mod:`deepnotes_numba.products` describes."""

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
# n, n_prev and the number of blocks: 1, primes, multiples of the sizes of tiles, blocks and panels, one more than such
# a multiple, and sums of more than TERMS terms
SHAPES = [
    (1, 1, 1), (2, 3, 1), (1, 31, 2), (3, 8, 3), (8, 1, 2), (ROWS, 16, 1), (ROWS + 1, 17, 2), (13, 33, 3), (31, 32, 1),
    (64, 64, 2), (97, 7, 1), (5, TERMS + 1, 2), (TERMS + 1, 5, 2), (9, 2 * TERMS + 76, 1), (2 * TERMS + 76, 9, 1),
    (7, 11, 35), (9, 18, 70),
]  # fmt: skip


@jit_standalone
def compute(operation, buffers, layer, workspace, offsets, blocks, rows, add):
    """Compute one of the products, or transpose A into panels (`rows` is then the rank and the number of threads)."""
    theta, g, errors = buffers
    buffers = Buffers(pointer(theta, 0), pointer(g, 0), pointer(errors, 0), True)
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
def transpose_one_block(x, out, rows, columns):
    transpose(x, 0, out, 0, rows, columns)


@jit_standalone
def fill_shares(n, size, out):
    for rank in range(size):
        out[rank] = share(n, rank, size)


def padded(n: int, S: int) -> int:
    return -(-n // S) * S


class Layer:
    """The arrays of one layer as the backend lays them out, with gaps between them and NaN in all unused memory.

    Attributes
    ----------
    A, D, panels : int
        Where these arrays begin in `work`; D is Z or dZ.
    w, b : int
        Where W and b begin in `theta`, and dW and db in `g`.
    values : dict
        The values of W, b, A and D, of shape (n, n_prev), (n, 1), (n_prev, m) and (n, m) as in the notes.
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
        """Return the memory of W, b, A, D, dW, db or panels (A, transposed) as a view of two or three dimensions."""
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
        """Copy arrays from `values` to their memory; "panels" are copied from A."""
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
        """Write the operands of a product, compute it, and return the result, including its compensation terms."""
        self.put("W", "b", *OPERANDS[operation])
        self.run(operation, **ranges)
        result = self.region(RESULTS[operation])
        if operation in {WEIGHT, BIAS}:
            start = self.w if operation == WEIGHT else self.b
            result += self.errors[start : start + result.size].reshape(result.shape)
            self.errors[:] = 0
        return self.read(RESULTS[operation])

    def terms(self, operation: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the two factors of a product, and the array that is added to it, in the widest float type."""
        W, b, A, D = (x.astype(np.longdouble) for x in self.values.values())
        return {
            LINEAR: (W, A, b),
            INPUT: (W.T, D, np.zeros((1, 1))),
            WEIGHT: (D, A.T, np.zeros((1, 1))),
            BIAS: (D, np.ones((self.m, 1)), np.zeros((1, 1))),
        }[operation]


def bound(x: np.ndarray, y: np.ndarray, added: np.ndarray, dtype: str) -> np.ndarray:
    """Return a bound on the error of ``x y + added``, where x has k columns.

    The bound is ``min(γ_{k+1}, 2 sqrt(k+1) u) (|x| |y| + |added|) + (k+1) tiny``, with an allowance for the rounding
    errors of the reference. The square root applies to random data.
    """
    terms = x.shape[1] + 1
    info = np.finfo(dtype)
    u = float(info.eps) / 2
    factor = min(terms * u / (1 - terms * u), 2 * terms**0.5 * u) * (1 + float(np.finfo(np.longdouble).eps / info.eps))
    return factor * (abs(x) @ abs(y) + abs(added)) + terms * float(info.smallest_normal)


def normal(seed: int) -> Any:
    """Return a function that draws normal numbers."""
    rng = np.random.default_rng(seed)
    return lambda *shape: rng.normal(size=shape)


def integers(seed: int) -> Any:
    """Return a function that draws integers so small that sums of up to 2^14 products fit into 24 bits."""
    rng = np.random.default_rng(seed)
    return lambda *shape: rng.integers(-16, 17, shape)


def bits(x: np.ndarray) -> np.ndarray:
    return x.view(f"u{x.dtype.itemsize}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("operation", PRODUCTS.values(), ids=PRODUCTS)
def test_errors_of_products_of_random_numbers_are_within_the_bound(
    operation: int, shape: tuple[int, int, int], dtype: str
) -> None:
    layer = Layer(shape, dtype, normal(0))
    x, y, added = layer.terms(operation)
    assert (abs(layer.product(operation) - (x @ y + added)) <= bound(x, y, added, dtype)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("operation", PRODUCTS.values(), ids=PRODUCTS)
def test_products_of_small_integers_are_exact_and_write_only_the_result(
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
def test_the_bits_of_a_product_do_not_depend_on_the_number_of_threads(
    size: int, operation: int, shape: tuple[int, int, int], dtype: str
) -> None:
    """Compare a single call with separate calls for each thread's rows (some threads have none) and each block."""
    whole, parts = (Layer(shape, dtype, normal(2)) for _ in range(2))
    expected = whole.product(operation)
    rows = np.zeros((size, 2), np.int64)
    fill_shares(parts.n_prev if operation == INPUT else parts.n, size, rows)
    for low, high in rows.tolist()[::-1]:
        for at in range(parts.blocks if operation in {LINEAR, INPUT} else 1):
            blocks = (at, at + 1) if operation in {LINEAR, INPUT} else (0, parts.blocks)
            actual = parts.product(operation, rows=(low, high), blocks=blocks)
    np.testing.assert_array_equal(bits(actual), bits(expected))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operation", [WEIGHT, BIAS], ids=["weight_gradient", "bias_gradient"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("exact", [True, False])
def test_a_gradient_can_be_added_to_an_existing_gradient(
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
def test_sums_over_many_samples_are_as_accurate_as_over_one_run(samples: int, operation: int, dtype: str) -> None:
    """All terms are equal: if they were added one by one, the rounding errors would all have the same sign."""
    blocks = samples // block_of(np.dtype(dtype))
    layer = Layer((3, 2, blocks), dtype, lambda *shape: np.full(shape, 0.7))
    x, y, _ = layer.terms(operation)
    expected = x @ y
    u = float(np.finfo(dtype).eps) / 2
    assert (abs(layer.product(operation) / expected - 1) <= (RUN + 2) * u).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_threads_together_transpose_all_inputs(shape: tuple[int, int, int], size: int, dtype: str) -> None:
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
def test_transpose_of_one_block(dtype: str) -> None:
    """At least the given rows and columns are transposed, and no memory outside the block changes."""
    S = block_of(np.dtype(dtype))
    x = np.random.default_rng(5).normal(size=(S, S)).astype(dtype)
    for rows in range(1, S + 1):
        for columns in range(1, S + 1):
            out = np.full((S + 2, S), np.nan, dtype)
            transpose_one_block(x.reshape(-1), out[1:-1].reshape(-1), rows, columns)
            np.testing.assert_array_equal(out[1 : 1 + columns, :rows], x[:rows, :columns].T)
            assert np.isnan(out[[0, -1]]).all()


@pytest.mark.parametrize("n", [1, 7, 8, 9, 64, 1001])
@pytest.mark.parametrize("size", [1, 2, 3, 64])
def test_shares_consist_of_whole_tiles_and_cover_all_rows(n: int, size: int) -> None:
    rows = np.zeros((size, 2), np.int64)
    fill_shares(n, size, rows)
    assert rows[0, 0] == 0
    assert rows[-1, 1] == n
    assert (rows[1:, 0] == rows[:-1, 1]).all()
    assert (rows[:, 0] <= rows[:, 1]).all()
    assert all(low % ROWS == 0 or low == n for low in rows[:, 0])


def test_block_of_matches_the_compiled_block_size() -> None:
    for dtype in DTYPES:
        assert compiled_block_size(np.zeros(1, dtype)) == block_of(np.dtype(dtype))


@jit_standalone
def compiled_block_size(x):
    return block(x)
