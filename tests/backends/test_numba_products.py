"""The Numba backend's matrix products (N2, N13 to N15), on workspaces laid out as `deepnotes_numba.products` says."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")
from deepnotes_numba.batches import turn
from deepnotes_numba.compiling import standalone
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
LINEAR, INPUT, WEIGHT, BIAS, TURN = range(5)
PRODUCTS = {"linear": LINEAR, "input_gradient": INPUT, "weight_gradient": WEIGHT, "bias_gradient": BIAS}
NEEDS = {LINEAR: ["A"], INPUT: ["D"], WEIGHT: ["D", "turned"], BIAS: ["D"]}
GIVES = {LINEAR: "D", INPUT: "A", WEIGHT: "dW", BIAS: "db"}
# n, n_prev and blocks: 1, primes, whole tiles, blocks and panels and one more, and sums of more than TERMS terms
SHAPES = [
    (1, 1, 1), (2, 3, 1), (1, 31, 2), (3, 8, 3), (8, 1, 2), (ROWS, 16, 1), (ROWS + 1, 17, 2), (13, 33, 3), (31, 32, 1),
    (64, 64, 2), (97, 7, 1), (5, TERMS + 1, 2), (TERMS + 1, 5, 2), (9, 2 * TERMS + 76, 1), (2 * TERMS + 76, 9, 1),
    (7, 11, 35), (9, 18, 70),
]  # fmt: skip


@standalone
def compute(what, theta, w, b, n, n_prev, work, A, D, turned, g, lost, blocks, room, part, rows, add):
    """Compute one of the products, from and to where the compiled training has its arrays."""
    theta, work, g, lost = pointer(theta, 0), pointer(work, 0), pointer(g, 0), pointer(lost, 0)
    if what == LINEAR:
        linear(theta, w, b, n, n_prev, work, A, D, blocks, rows)
    elif what == INPUT:
        input_gradient(theta, w, n, n_prev, work, D, A, blocks, rows)
    elif what == WEIGHT:
        weight_gradient(g, lost, w, n, n_prev, work, D, turned, blocks[1], room, rows, add)
    elif what == BIAS:
        bias_gradient(g, lost, b, n, work, D, blocks[1], rows, add)
    elif what == TURN:
        turn(work, A, n_prev, turned, blocks, room, part)


@standalone
def transpose_block(x, out, rows, columns):
    transpose(x, 0, out, 0, rows, columns)


@standalone
def shares(n, size, out):
    for rank in range(size):
        out[rank] = share(n, (rank, size))


def padded(n: int, S: int) -> int:
    return -(-n // S) * S


class Layer:
    """One layer's arrays as the backend lays them out, with room around each, and NaN wherever nothing belongs.

    Attributes
    ----------
    W, b, A, D, dW, db : ndarray
        As in the notes, (n, n_prev), (n, 1), (n_prev, m), (n, m); D is Z or dZ. Read with `read`.
    """

    def __init__(self, shape: tuple[int, int, int], dtype: str, draw: Any, spare: int = 2) -> None:
        self.n, self.n_prev, self.blocks = shape
        self.S = S = block_of(np.dtype(dtype))
        self.room = self.blocks + spare
        self.m = self.blocks * S
        height, height_prev = padded(self.n, S), padded(self.n_prev, S)
        gap = 3 * S
        self.A = gap
        self.D = self.A + height_prev * self.room * S + gap
        self.turned = self.D + height * self.room * S + gap
        self.work = np.full(self.turned + height_prev * self.room * S + gap, np.nan, dtype)
        self.w = 5
        self.b = self.w + self.n * self.n_prev + 3
        self.theta = np.full(self.b + self.n + 7, np.nan, dtype)
        self.g = np.full(len(self.theta) + S, np.nan, dtype)
        self.lost = np.zeros_like(self.g)  # what the runs of a long sum round off
        self.values = {
            "W": draw(self.n, self.n_prev).astype(dtype), "b": draw(self.n, 1).astype(dtype),
            "A": draw(self.n_prev, self.m).astype(dtype), "D": draw(self.n, self.m).astype(dtype),
        }  # fmt: skip

    def region(self, name: str) -> np.ndarray:
        """Return the view that holds an array of the notes, of as many dimensions as it takes."""
        S, n, n_prev, blocks = self.S, self.n, self.n_prev, self.blocks
        if name in {"A", "D"}:
            rows, at = (n_prev, self.A) if name == "A" else (n, self.D)
            height = padded(rows, S)
            whole = self.work[at : at + height * self.room * S].reshape(self.room, height, S)
            return whole[:blocks, :rows].swapaxes(0, 1)
        if name == "turned":
            panels = padded(n_prev, S) // S
            return self.work[self.turned :][: panels * self.room * S * S].reshape(panels, self.room * S, S)
        flat = self.theta if name in {"W", "b"} else self.g
        at, shape = (self.w, (n, n_prev)) if name in {"W", "dW"} else (self.b, (n, 1))
        return flat[at : at + shape[0] * shape[1]].reshape(shape)

    def put(self, *names: str) -> None:
        """Write arrays to where they belong; "turned" is A, turned over."""
        for name in names:
            if name == "turned":
                panels = np.full((len(self.region(name)) * self.S, self.m), np.nan, self.work.dtype)
                panels[: self.n_prev] = self.values["A"]
                self.region(name)[:, : self.m] = panels.reshape(-1, self.S, self.m).swapaxes(1, 2)
            else:
                view = self.region(name)
                view[...] = self.values[name].reshape(view.shape)

    def read(self, name: str) -> np.ndarray:
        view = self.region(name)
        return view.reshape(len(view), -1).copy()

    def run(self, what: int, blocks: Any = None, rows: Any = None, part: Any = (0, 1), add: bool = False) -> None:
        rows = rows or (0, self.n_prev if what == INPUT else self.n)
        compute(
            what, self.theta, self.w, self.b, self.n, self.n_prev, self.work, self.A, self.D, self.turned, self.g,
            self.lost, blocks or (0, self.blocks), self.room, part, rows, add,
        )  # fmt: skip

    def product(self, what: int, **parts: Any) -> np.ndarray:
        """Compute a product from what it needs, and return it."""
        self.put("W", "b", *NEEDS[what])
        self.run(what, **parts)
        found = self.region(GIVES[what])
        if what in {WEIGHT, BIAS}:
            start = self.w if what == WEIGHT else self.b
            found += self.lost[start : start + found.size].reshape(found.shape)
            self.lost[:] = 0
        return self.read(GIVES[what])

    def terms(self, what: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the two factors of a product, and what is added to it, in the widest floats that there are."""
        W, b, A, D = (x.astype(np.longdouble) for x in self.values.values())
        return {
            LINEAR: (W, A, b),
            INPUT: (W.T, D, np.zeros((1, 1))),
            WEIGHT: (D, A.T, np.zeros((1, 1))),
            BIAS: (D, np.ones((self.m, 1)), np.zeros((1, 1))),
        }[what]


def bound(x: np.ndarray, y: np.ndarray, added: np.ndarray, dtype: str) -> np.ndarray:
    """Return how far ``x y + added`` may be off, by section 4 of the design, for k terms and one that is added.

    That is ``min(γ_{k+1}, 2 sqrt(k+1) u) (|x| |y| + |added|) + (k+1) tiny``, the square root for random data; the
    reference's own roundings come on top.
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
    """Return a source of numbers so small that no sum of at most 2^14 products of two needs more than 24 bits."""
    rng = np.random.default_rng(seed)
    return lambda *shape: rng.integers(-16, 17, shape)


def bits(x: np.ndarray) -> np.ndarray:
    return x.view(f"u{x.dtype.itemsize}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("what", PRODUCTS.values(), ids=PRODUCTS)
def test_a_product_of_random_numbers_keeps_its_bound(what: int, shape: tuple[int, int, int], dtype: str) -> None:
    layer = Layer(shape, dtype, normal(0))
    x, y, added = layer.terms(what)
    assert (abs(layer.product(what) - (x @ y + added)) <= bound(x, y, added, dtype)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("what", PRODUCTS.values(), ids=PRODUCTS)
def test_a_product_of_small_integers_is_exact_and_nothing_else_is_written(
    what: int, shape: tuple[int, int, int], dtype: str
) -> None:
    layer = Layer(shape, dtype, integers(1))
    x, y, added = layer.terms(what)
    layer.put("W", "b", *NEEDS[what])
    before = [bits(a).copy() for a in (layer.work, layer.theta, layer.g)]
    np.testing.assert_array_equal(layer.product(what), x @ y + added)
    layer.region(GIVES[what])[...] = np.nan
    for array, old in zip((layer.work, layer.theta, layer.g), before, strict=True):
        np.testing.assert_array_equal(bits(array), old)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("what", PRODUCTS.values(), ids=PRODUCTS)
@pytest.mark.parametrize("size", [2, 3, 5])
def test_whoever_computes_a_row_or_a_block_finds_the_same_bits(
    size: int, what: int, shape: tuple[int, int, int], dtype: str
) -> None:
    """Rows as `share` deals them out, and blocks one by one; where parts are empty, too."""
    whole, parts = (Layer(shape, dtype, normal(2)) for _ in range(2))
    wanted = whole.product(what)
    rows = np.zeros((size, 2), np.int64)
    shares(parts.n_prev if what == INPUT else parts.n, size, rows)
    for low, high in rows.tolist()[::-1]:
        for at in range(parts.blocks if what in {LINEAR, INPUT} else 1):
            blocks = (at, at + 1) if what in {LINEAR, INPUT} else (0, parts.blocks)
            found = parts.product(what, rows=(low, high), blocks=blocks)
    np.testing.assert_array_equal(bits(found), bits(wanted))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("what", [WEIGHT, BIAS], ids=["weight_gradient", "bias_gradient"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("exact", [True, False])
def test_a_gradient_is_added_to_what_is_there(exact: bool, what: int, shape: tuple[int, int, int], dtype: str) -> None:
    draw = integers(3) if exact else normal(3)
    layer = Layer(shape, dtype, draw)
    there = layer.region(GIVES[what])
    old = there[...] = draw(*there.shape).astype(dtype)
    x, y, _ = layer.terms(what)
    limit = 0 if exact else bound(x, y, old.astype(np.longdouble), dtype)
    assert (abs(layer.product(what, add=True) - (x @ y + old)) <= limit).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("what", [WEIGHT, BIAS], ids=["weight_gradient", "bias_gradient"])
@pytest.mark.parametrize("samples", [10_000, 100_000])
def test_a_sum_over_samples_is_as_exact_as_one_run(samples: int, what: int, dtype: str) -> None:
    """Equal terms, whose roundings all go one way when they are added one after the other."""
    blocks = samples // block_of(np.dtype(dtype))
    layer = Layer((3, 2, blocks), dtype, lambda *shape: np.full(shape, 0.7))
    x, y, _ = layer.terms(what)
    wanted = x @ y
    u = float(np.finfo(dtype).eps) / 2
    assert (abs(layer.product(what) / wanted - 1) <= (RUN + 2) * u).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_inputs_are_turned_over_whole_by_whatever_threads(shape: tuple[int, int, int], size: int, dtype: str) -> None:
    found, wanted = (Layer(shape, dtype, normal(4)) for _ in range(2))
    wanted.put("turned")
    found.put("A")
    for rank in range(size):
        found.run(TURN, part=(rank, size))
    features = np.arange(padded(found.n_prev, found.S)).reshape(-1, 1, found.S) < found.n_prev
    for layer in (found, wanted):
        layer.region("turned")[:] = np.where(features, layer.region("turned"), np.nan)
        layer.region("A")[...] = 0
    np.testing.assert_array_equal(bits(found.work), bits(wanted.work))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_block_is_transposed(dtype: str) -> None:
    """Every number of rows and columns: at least those are where they belong, and no others than the block's change."""
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
def test_shares_are_whole_tiles_and_together_all_rows(n: int, size: int) -> None:
    rows = np.zeros((size, 2), np.int64)
    shares(n, size, rows)
    assert rows[0, 0] == 0
    assert rows[-1, 1] == n
    assert (rows[1:, 0] == rows[:-1, 1]).all()
    assert (rows[:, 0] <= rows[:, 1]).all()
    assert all(low % ROWS == 0 or low == n for low in rows[:, 0])


def test_a_block_is_two_registers() -> None:
    assert [columns(np.zeros(1, dtype)) for dtype in DTYPES] == [block_of(np.dtype(dtype)) for dtype in DTYPES]


@standalone
def columns(x):
    return block(x)
