"""IDX files, the format of MNIST, plain or gzip: images as rows of pixels, and labels from a companion file."""

import gzip
import zlib
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from deepnotes.datasets.npz_files import PER_COLUMN, as_column, chosen
from deepnotes.datasets.reading import EVERYTHING, Column, Content, Request, require_room
from deepnotes.utils.errors import TableError
from deepnotes.utils.wording import brief, one_line, reason

DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}

GZIP = b"\x1f\x8b"

LABEL = "label"


class Header(NamedTuple):
    """The header of an IDX file."""

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
    """Return whether a file name is that of an IDX file: with .idx, or idx3-ubyte or similar, and perhaps .gz."""
    name = path.name.lower().removesuffix(".gz")
    return name.endswith(".idx") or any(f"{sign}idx{n}-" in name for sign in "-." for n in range(1, 5))


def is_packed(path: Path) -> bool:
    """Return whether a file is gzip-compressed, whatever its name."""
    with path.open("rb") as file:
        return file.read(2) == GZIP


def read_header(file: BinaryIO, source: str) -> Header:
    """Read the header of an IDX file.

    Raises
    ------
    TableError
        If the magic number is not that of an IDX file.
    """
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in DTYPES or not 1 <= magic[3] <= 4:
        raise TableError(f"{source}: the first bytes are {magic.hex(' ') or 'not there'}; an IDX file was wanted")
    sizes = file.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise TableError(f"{source}: the file ends within its header")
    return Header(np.dtype(DTYPES[magic[2]]), tuple(np.frombuffer(sizes, ">u4").tolist()), 4 + len(sizes))


def array(path: Path, source: str) -> np.ndarray:
    """Read the array of an IDX file.

    Raises
    ------
    TableError
        If it is damaged, or would take more memory than allowed.
    """
    opener = gzip.open if is_packed(path) else open
    try:
        with opener(path, "rb") as file:
            header = read_header(file, source)  # type: ignore[arg-type]
            wanted = header.nbytes
            floats = wanted // header.dtype.itemsize
            columns = floats // max(1, header.shape[0])
            wants, size = wanted + 8 * floats + PER_COLUMN * columns, path.stat().st_size
            require_room(wants, size, f"{source}: its array", "unpack it with gunzip")
            data = file.read(wanted if opener is gzip.open else min(wanted, size))  # it allocates all of it first
            if len(data) < wanted or file.read(1):
                told = f"has {len(data):,}" if len(data) < wanted else "has more"
                raise TableError(f"{source}: its header says {brief(header.shape)}, {wanted:,} bytes, and it {told}")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TableError(f"{source}: the gzip file is damaged: {reason(error)}") from error
    return np.frombuffer(data, header.dtype).reshape(header.shape)


def labels_of(path: Path) -> Path | None:
    """Return the file of labels that belongs to a file of images by name, plain or gzip, or None.

    ``train-images-idx3-ubyte.gz`` has ``train-labels-idx1-ubyte.gz``.
    """
    name = path.name.removesuffix(".gz")
    if "images" not in name:
        return None
    name = name.replace("images", "labels")
    for n in (2, 3, 4):
        name = name.replace(f"idx{n}", "idx1")
    both = (path.with_name(there) for there in (f"{name}.gz", name))
    found = sorted((there for there in both if there.is_file()), key=lambda there: there.suffix != path.suffix)
    return found[0] if found else None


def read(path: Path, source: str, request: Request = EVERYTHING) -> Content:
    """Read the requested columns: ``pixel_ROW_COLUMN`` of the images, and ``label``.

    Raises
    ------
    TableError
    """
    columns = columns_of(array(path, source), path, source)
    return chosen(columns, request, list(columns), source)


def columns_of(images: np.ndarray, path: Path, source: str) -> dict[str, np.ndarray]:
    """Return the columns of images with the labels of the companion file, or of labels alone."""
    labels = None if images.ndim == 1 else read_labels(path, len(images))
    if 0 in images.shape:
        raise TableError(f"{source}: its array has shape {images.shape}; at least one of each was wanted")
    if images.ndim == 1:
        return {LABEL: as_column(images, LABEL, source)}
    X = as_column(images.reshape(len(images), -1), "X", source)
    columns: dict[str, np.ndarray] = dict(zip(pixel_names(images.shape[1:]), X.T, strict=True))
    return columns if labels is None else {**columns, LABEL: labels}


def pixel_names(shape: tuple[int, ...]) -> list[str]:
    """Return the name of each pixel of an image, row by row.

    Examples
    --------
    >>> pixel_names((1, 2))
    ['pixel_0_0', 'pixel_0_1']
    """
    return ["_".join(["pixel", *map(str, at)]) for at in np.ndindex(*shape)]


def read_labels(path: Path, m: int) -> Column | None:
    """Read the labels that belong to m images, shape (m,), or return None if there is no such file.

    Raises
    ------
    TableError
        If their number differs from m.
    """
    beside = labels_of(path)
    if beside is None:
        return None
    source = one_line(beside)
    try:
        labels = array(beside, source)
    except OSError as error:
        raise TableError(f"{source}: cannot be read: {reason(error)}") from error
    if labels.shape != (m,):
        raise TableError(f"{source}: the labels have shape {labels.shape}; ({m},) was wanted, one for each image")
    return as_column(labels, LABEL, source)
