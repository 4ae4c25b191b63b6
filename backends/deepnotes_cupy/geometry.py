"""The grid and block size of each kernel. Results are correct with any grid; these grids are fast."""

from math import isqrt

import numpy as np

from deepnotes_cupy.sources import Kernel, constant, kernels

LINE = 128
"""The number of bytes in a row of a tile, see ``Tile`` in kernels/common.cuh."""
MIN_ROWS = 4
"""If samples are split into chunks, each thread of ``activation_backward`` gets at least about this many rows."""
MAX_ROWS = 256
"""The largest number of rows that a thread of ``activation_backward`` adds one after the other."""
STRIP = 4
"""The number of packs of a row that a lane of ``gather`` copies, see kernels/dense.cu."""
WAVES = 16
"""The largest number of blocks per multiprocessor; for larger arrays, each thread processes more elements."""
ONE_BLOCK = ("check_update", "end_epoch")
PER_SAMPLE = ("loss", "row_activation", "row_backward", "feature_forward", "feature_backward")
BY_ROWS = ("bias_activation", "embed", "normalize")
STAGES = ("forward_stage", "backward_stage")
TILES = (*BY_ROWS, "activation_backward", "sum_partials", "normalize_batch", "differentiate_batch")


def grid(
    kernel: str | Kernel, n: int, m: int = 1, *, dtype: str = "float32", processors: int = 64, chunks: int = 1
) -> tuple[tuple[int, int, int], int]:
    """Return the grid for a kernel, and the number of threads in a block.

    Parameters
    ----------
    kernel : str or Kernel
        The name of a kernel of the package, or a generated kernel.
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
    >>> grid("add_parts", 1_000_000, processors=132)
    ((977, 1, 1), 256)
    >>> grid("dropout", 10, 128)
    ((2, 1, 1), 256)
    """
    declaration = kernels()[kernel] if isinstance(kernel, str) else kernel
    kernel, threads, max_blocks = declaration.name, declaration.threads, WAVES * processors
    pack = 16 // np.dtype(dtype).itemsize
    if kernel in ONE_BLOCK:
        return (1, 1, 1), threads
    if kernel == "dense_few":
        return (_clamp(-(-32 * n // threads), max_blocks), 1, 1), threads
    if kernel in PER_SAMPLE:
        return (_clamp(-(-m * _next_power_of_two(n, 32) // threads), max_blocks), 1, 1), threads
    if kernel == "gather":
        packs = n // pack if n % pack == 0 else n
        lanes = _next_power_of_two(packs, 32)
        blocks_x = _clamp(-(-m * lanes // threads), max_blocks)
        blocks_y = _clamp(-(-packs // (STRIP * lanes)), -(-max_blocks // blocks_x))
        return (blocks_x, blocks_y, 1), threads
    if kernel in STAGES:
        blocks_x, blocks_y = -(-n // constant("STAGE_NEURONS")), stage_tiles(m)[1]
        return (blocks_x, _clamp(blocks_y, 65535), 1), threads
    if kernel in TILES:
        blocks_x, height = _tiles(n, dtype, threads, packed=kernel in ("bias_activation", "activation_backward"))
        blocks_y = chunks if kernel == "activation_backward" else -(-m // height) if kernel in BY_ROWS else 1
        limit = 65535 if kernel == "activation_backward" else -(-max_blocks // blocks_x)
        return (_clamp(blocks_x, max_blocks), _clamp(blocks_y, limit), 1), threads
    if kernel in ("gradient_norm", "weighted_sums"):
        max_blocks //= 2  # so that there are fewer sums to read
    per_thread = {"dropout": 4, "noise": 1, "round16": 8, "embedding_gradient": 1}.get(kernel, pack)
    return (_clamp(-(-n * m // (per_thread * threads)), max_blocks), 1, 1), threads


def chunks(n: int, m: int, *, dtype: str = "float32", processors: int = 64) -> tuple[int, int]:
    """Return the number of samples in a chunk and the number of chunks, for ``activation_backward``.

    There are n neurons and m samples. If each thread has only a few rows, there is one chunk, so that ``sum_partials``
    is not needed.

    Examples
    --------
    >>> chunks(512, 128, processors=132)
    (128, 1)
    >>> chunks(512, 65536, processors=132)
    (1986, 33)
    """
    tiles, height = _tiles(n, dtype, kernels()["activation_backward"].threads)
    enough_blocks = -(-4 * processors // tiles)
    # Use few chunks, since adding their sums takes time, but enough that the rounding error of a sum does not grow with
    # the batch.
    count = max(1, min(enough_blocks, -(-m // (MIN_ROWS * height)), isqrt(m)))
    count = max(count, -(-m // (MAX_ROWS * height)))
    rows = max(1, -(-m // count))
    return rows, max(1, -(-m // rows))


def stage_tiles(m: int) -> tuple[int, int]:
    """Return the number of samples in a tile of ``backward_stage``, and the number of tiles for m samples."""
    samples = constant("STAGE_SAMPLES")
    return samples, -(-m // samples)


def _tiles(n: int, dtype: str, threads: int, packed: bool = True) -> tuple[int, int]:
    """Return the number of tiles side by side, and the number of rows in a tile."""
    size = np.dtype(dtype).itemsize
    numbers = 16 // size if packed and n % (16 // size) == 0 else 1
    width = _next_power_of_two(n // numbers, LINE // (numbers * size))
    return -(-(n // numbers) // width), threads // width


def _next_power_of_two(count: int, limit: int) -> int:
    """Return the smallest power of two that is at least `count`, but at most `limit`, which must be a power of two."""
    return min(1 << max(count - 1, 0).bit_length(), limit)


def _clamp(blocks: int, limit: int) -> int:
    """Return `blocks`, limited to the range from 1 to `limit`."""
    return max(1, min(blocks, limit))
