"""IDX files, the format of MNIST, plain or gzip-compressed: images as rows of pixels, and their labels."""

import gzip
import zlib
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from deepnotes.datasets.npz_files import PER_COLUMN, as_column, select
from deepnotes.datasets.reading import EVERYTHING, Column, Content, Request, require_memory
from deepnotes.utils.errors import TableError
from deepnotes.utils.wording import brief, one_line, reason

DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
"""The dtypes, by the code in the magic number."""

GZIP = b"\x1f\x8b"
"""The first two bytes of gzip files."""

LABEL = "label"
"""The name of the column that holds the labels."""


class Header(NamedTuple):
    """The header of an IDX file.

    Attributes
    ----------
    dtype : numpy.dtype
    shape : tuple of int
    length : int
        The length of the header in bytes.
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    length: int

    @property
    def nbytes(self) -> int:
        """The size of the array in bytes."""
        size = self.dtype.itemsize
        for n in self.shape:
            size *= n
        return size


def is_idx(path: Path) -> bool:
    """Return whether a file is named like an IDX file: ``X.idx``, ``X-idx3-ubyte`` or similar, maybe with ``.gz``."""
    name = path.name.lower().removesuffix(".gz")
    return name.endswith(".idx") or any(f"{sign}idx{n}-" in name for sign in "-." for n in range(1, 5))


def is_gzip(path: Path) -> bool:
    """Return whether a file is gzip-compressed, whatever its name."""
    with path.open("rb") as file:
        return file.read(2) == GZIP


def read_header(file: BinaryIO, source: str) -> Header:
    """Read the header of an IDX file.

    Raises
    ------
    TableError
        If the file does not begin with the magic number of IDX files, or ends within its header.
    """
    magic = file.read(4)
    beginning = f"the first bytes are {magic.hex(' ')}" if magic else "the file is empty"
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in DTYPES or not 1 <= magic[3] <= 4:
        raise TableError(f"{source}: {beginning}, wanted an IDX file")
    sizes = file.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise TableError(f"{source}: the file ends within its header")
    return Header(np.dtype(DTYPES[magic[2]]), tuple(np.frombuffer(sizes, ">u4").tolist()), 4 + len(sizes))


def read_array(path: Path, source: str) -> np.ndarray:
    """Read the array of an IDX file.

    Raises
    ------
    TableError
        If the file is damaged, or the array would take more memory than allowed.
    """
    opener = gzip.open if is_gzip(path) else open
    try:
        with opener(path, "rb") as file:
            header = read_header(file, source)  # type: ignore[arg-type]
            nbytes = header.nbytes
            values = nbytes // header.dtype.itemsize
            columns = values // max(1, header.shape[0])
            needed, size = nbytes + 8 * values + PER_COLUMN * columns, path.stat().st_size
            require_memory(needed, size, f"{source}: its array", "decompress it with gunzip")
            # On an uncompressed file, read(n) allocates n bytes even if the file is shorter.
            data = file.read(nbytes if opener is gzip.open else min(nbytes, size))
            if len(data) < nbytes or file.read(1):
                found = f"{len(data):,} bytes follow" if len(data) < nbytes else "more bytes follow"
                declared = f"shape {brief(header.shape)}, which takes {nbytes:,} bytes"
                raise TableError(f"{source}: its header declares {declared}, but {found}")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TableError(f"{source}: the gzip file is damaged: {reason(error)}") from error
    return np.frombuffer(data, header.dtype).reshape(header.shape)


def find_labels_file(path: Path) -> Path | None:
    """Return the file of labels that belongs to a file of images, or None if there is no such file.

    The labels for ``train-images-idx3-ubyte.gz`` are in ``train-labels-idx1-ubyte.gz`` or ``train-labels-idx1-ubyte``.
    """
    name = path.name.removesuffix(".gz")
    if "images" not in name:
        return None
    name = name.replace("images", "labels")
    for n in (2, 3, 4):
        name = name.replace(f"idx{n}", "idx1")
    candidates = (path.with_name(f"{name}.gz"), path.with_name(name))
    files = sorted((file for file in candidates if file.is_file()), key=lambda file: file.suffix != path.suffix)
    return files[0] if files else None


def read(path: Path, source: str, request: Request = EVERYTHING) -> Content:
    """Read the requested columns: ``pixel_ROW_COLUMN`` for each pixel, and ``label``.

    Raises
    ------
    TableError
    """
    columns = columns_of(read_array(path, source), path, source)
    return select(columns, request, list(columns), source)


def columns_of(images: np.ndarray, path: Path, source: str) -> dict[str, np.ndarray]:
    """Return images as columns of pixels, with their labels from a second file; labels alone become a single column."""
    labels = None if images.ndim == 1 else read_labels(path, len(images))
    if 0 in images.shape:
        raise TableError(f"{source}: its array has shape {images.shape}, wanted sizes of at least 1")
    if images.ndim == 1:
        return {LABEL: as_column(images, LABEL, source)}
    X = as_column(images.reshape(len(images), -1), "X", source)
    columns: dict[str, np.ndarray] = dict(zip(pixel_names(images.shape[1:]), X.T, strict=True))
    return columns if labels is None else {**columns, LABEL: labels}


def pixel_names(shape: tuple[int, ...]) -> list[str]:
    """Return the names of the pixels of an image, row by row.

    Examples
    --------
    >>> pixel_names((1, 2))
    ['pixel_0_0', 'pixel_0_1']
    """
    return ["_".join(["pixel", *map(str, index)]) for index in np.ndindex(*shape)]


def read_labels(path: Path, m: int) -> Column | None:
    """Return the labels for a file of m images, shape (m,), or None if there is no file of labels.

    Raises
    ------
    TableError
        If the number of labels is not m.
    """
    labels_path = find_labels_file(path)
    if labels_path is None:
        return None
    source = one_line(labels_path)
    try:
        labels = read_array(labels_path, source)
    except OSError as error:
        raise TableError(f"{source}: cannot be read: {reason(error)}") from error
    if labels.shape != (m,):
        raise TableError(f"{source}: the labels have shape {labels.shape}, wanted ({m},): one label for each image")
    return as_column(labels, LABEL, source)
