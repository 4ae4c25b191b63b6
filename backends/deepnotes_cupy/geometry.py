"""The grid and block size of each kernel. The result is correct with any grid; these are fast."""

from math import isqrt

import numpy as np

from deepnotes_cupy.sources import kernels

LINE = 128
"""The bytes in a row of a tile, see ``Tile`` in kernels/common.cuh."""
FEWEST_ROWS = 4
"""The fewest rows for a thread of ``activation_backward`` if there is more than one chunk."""
MOST_ROWS = 256
"""The most rows that a thread of ``activation_backward`` sums one after the other."""
STRIP = 4
"""The number of packs of a row that a lane of ``gather`` copies, see kernels/dense.cu."""
WAVES = 16
"""The most blocks for each multiprocessor; beyond that, threads repeat their loops."""
ONE_BLOCK = ("judge",)
PER_SAMPLE = (
    "softmax", "softmax_backward", "softmax_cross_entropy", "sigmoid_cross_entropy", "exp_half_poisson_deviance",
    "loss",
)  # fmt: skip
TILES = ("bias_activation", "activation_backward", "sum_partials")


def grid(
    kernel: str, n: int, m: int = 1, *, dtype: str = "float32", processors: int = 64, chunks: int = 1
) -> tuple[tuple[int, int, int], int]:
    """Return the grid for a kernel, and the number of threads in a block.

    Parameters
    ----------
    kernel : str
    n, m : int
        The numbers of neurons and samples. For kernels over flat buffers, any two numbers whose product is the number
        of elements. For kernels whose arrays have no samples, such as ``sum_partials``, m is 1.
    dtype : {"float32", "float64"}
    processors : int
        The number of multiprocessors of the device.
    chunks : int
        The number of chunks for ``activation_backward``, see :func:`chunks`.

    Examples
    --------
    >>> grid("adam", 1_000_000, processors=132)
    ((977, 1, 1), 256)
    >>> grid("softmax", 10, 128)
    ((8, 1, 1), 256)
    """
    threads, most = kernels()[kernel].threads, WAVES * processors
    pack = 16 // np.dtype(dtype).itemsize
    if kernel in ONE_BLOCK:
        return (1, 1, 1), threads
    if kernel in PER_SAMPLE:
        return (_within(-(-m * _power(n, 32) // threads), most), 1, 1), threads
    if kernel == "gather":
        packs = n // pack if n % pack == 0 else n
        lanes = _power(packs, 32)
        across = _within(-(-m * lanes // threads), most)
        return (across, _within(-(-packs // (STRIP * lanes)), -(-most // across)), 1), threads
    if kernel in TILES:
        across, height = _tiles(n, dtype, threads, packed=kernel != "sum_partials")
        down = {"bias_activation": -(-m // height), "activation_backward": chunks}.get(kernel, 1)
        limit = 65535 if kernel == "activation_backward" else -(-most // across)
        return (_within(across, most), _within(down, limit), 1), threads
    if kernel == "gradient_norm":
        most //= 2  # so that ``judge`` has fewer sums to read
    each = {"dropout": 4, "round16": 8}.get(kernel, pack)
    return (_within(-(-n * m // (each * threads)), most), 1, 1), threads


def chunks(n: int, m: int, *, dtype: str = "float32", processors: int = 64) -> tuple[int, int]:
    """Return the samples in a chunk and the number of chunks, for ``activation_backward`` on n neurons and m samples.

    If each thread has only a few rows, there is one chunk, which needs no ``sum_partials``.

    Examples
    --------
    >>> chunks(512, 128, processors=132)
    (128, 1)
    >>> chunks(512, 65536, processors=132)
    (1986, 33)
    """
    across, height = _tiles(n, dtype, kernels()["activation_backward"].threads)
    enough = -(-4 * processors // across)
    count = max(1, min(enough, -(-m // (FEWEST_ROWS * height)), isqrt(m)))  # adding the chunks' sums takes time, too
    count = max(
        count, -(-m // (MOST_ROWS * height))
    )  # so that the rounding error of a sum does not grow with the batch
    rows = max(1, -(-m // count))
    return rows, max(1, -(-m // rows))


def _tiles(n: int, dtype: str, threads: int, packed: bool = True) -> tuple[int, int]:
    """Return the number of tiles side by side, and the number of rows in a tile."""
    size = np.dtype(dtype).itemsize
    numbers = 16 // size if packed and n % (16 // size) == 0 else 1
    width = _power(n // numbers, LINE // (numbers * size))
    return -(-(n // numbers) // width), threads // width


def _power(count: int, most: int) -> int:
    """Return the smallest power of two that is at least `count`, but at most `most`, itself a power of two."""
    return min(1 << max(count - 1, 0).bit_length(), most)


def _within(blocks: int, most: int) -> int:
    """Return `blocks`, limited to the range from 1 to `most`."""
    return max(1, min(blocks, most))
