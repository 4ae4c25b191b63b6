"""Read columns from ``.npz`` and ``.npy`` files; the sizes in their headers are checked before memory is allocated."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepnotes.datasets.reading import (
    EVERYTHING,
    EXACT,
    Column,
    Content,
    Request,
    first_duplicate,
    gaps_of,
    labels_of,
    require_distinct,
    require_memory,
)
from deepnotes.utils.errors import TableError
from deepnotes.utils.wording import brief, reason

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""The accepted compression methods: those of NumPy. With any other, zipfile decompresses pieces of unlimited size."""

MAX_HEADER_BYTES = 10_000
"""The largest size of an array's header in bytes, which is also NumPy's limit."""

HEADER_READERS = {
    b"\x01\x00": (2, np.lib.format.read_array_header_1_0),
    b"\x02\x00": (4, np.lib.format.read_array_header_2_0),
}
"""The size of the header's length field in bytes, and the function that reads the header, by format version."""

PER_COLUMN = 512
"""The memory that a column takes in addition to its values, in bytes."""

SAVE_UNCOMPRESSED = "save it with numpy.savez, without compression"


class Header(NamedTuple):
    """The header of an array file.

    Attributes
    ----------
    shape : tuple of int
    fortran_order : bool
        Whether the values are stored column by column.
    dtype : numpy.dtype
    """

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """The size of the array in bytes."""
        size = self.dtype.itemsize
        for n in self.shape:  # Python's integers cannot overflow, NumPy's could
            size *= n
        return size


class Archive(Mapping[str, np.ndarray]):
    """The arrays of an ``.npz`` file, by name; an array is read when it is accessed.

    Raises
    ------
    TableError
        By the constructor, if the file is not an archive or is damaged; on access, if an array is damaged or would
        take more memory than allowed.
    """

    def __init__(self, path: Path, source: str) -> None:
        self.path, self.source, self.size, self._needed = path, source, path.stat().st_size, 0
        with path.open("rb") as file:
            if file.read(4) != b"PK\x03\x04":
                raise TableError(f"{source}: not a NumPy archive (as written by numpy.savez)")
        try:
            self._zip = zipfile.ZipFile(path)
        except Exception as error:  # zipfile raises many types of errors for a damaged file
            raise TableError(f"{source}: the archive is damaged: {brief(reason(error))}") from error
        self.members = {info.filename.removesuffix(".npy"): info for info in self._zip.infolist()}
        if len(self.members) < len(self._zip.infolist()):
            name = first_duplicate(info.filename.removesuffix(".npy") for info in self._zip.infolist())
            raise TableError(f"{source}: the archive has two arrays with the name {brief(repr(name))}")

    def __getitem__(self, name: str) -> np.ndarray:
        try:
            with self.open_array(name) as file:
                header = self.header(name, file)
                nbytes = header.nbytes
                self._needed += nbytes if header.dtype.kind == "U" else nbytes // header.dtype.itemsize * 8
                self._needed += PER_COLUMN * (header.shape[1] if len(header.shape) == 2 else 1)
                require_memory(self._needed, self.size, f"{self.source}: array {brief(repr(name))}", SAVE_UNCOMPRESSED)
                data = file.read(nbytes)
                if len(data) < nbytes or file.read(1):
                    fault = f"it is {'shorter' if len(data) < nbytes else 'longer'} than its header says"
                    raise TableError(f"{self.source}: array {brief(repr(name))} cannot be read: {fault}")
        except (TableError, MemoryError):
            raise
        except Exception as error:  # zipfile and NumPy raise many types of errors
            raise TableError(
                f"{self.source}: array {brief(repr(name))} cannot be read: {brief(reason(error))}"
            ) from error
        array = np.frombuffer(data, header.dtype)
        return array.reshape(header.shape, order="F" if header.fortran_order else "C")

    def open_array(self, name: str) -> BinaryIO:
        """Open the archive member that holds an array, for reading."""
        info = self.members[name]
        if info.compress_type not in METHODS:
            raise TableError(
                f"{self.source}: array {brief(repr(name))} is compressed by a method that NumPy does not use"
            )
        return self._zip.open(info)  # type: ignore[return-value]

    def header(self, name: str, file: BinaryIO) -> Header:
        """Read the header of an array; afterwards, `file` is positioned at the first value."""
        return read_header(file, f"{self.source}: array {brief(repr(name))}")

    def __iter__(self) -> Any:
        return iter(self.members)

    def __len__(self) -> int:
        return len(self.members)


def read_header(file: BinaryIO, what: str) -> Header:
    """Read the header of an array file; `what` names the array in error messages.

    Raises
    ------
    TableError
        If there is no valid header, or the array contains anything but real numbers or text.
    """
    magic = file.read(6)
    if magic != np.lib.format.MAGIC_PREFIX:
        raise TableError(f"{what} is not in NumPy's array format")
    try:
        version = file.read(2)
        if version not in HEADER_READERS:
            raise ValueError(f"its format version is {version!r}")
        width, read = HEADER_READERS[version]
        length = file.read(width)
        if int.from_bytes(length, "little") > MAX_HEADER_BYTES:  # NumPy would allocate memory before it checks
            raise ValueError(f"its header claims {int.from_bytes(length, 'little'):,} bytes")
        shape, fortran_order, dtype = read(io.BytesIO(length + file.read(int.from_bytes(length, "little"))))
    except (MemoryError, RecursionError, Exception) as error:  # Python's parser may raise any of them for deep nesting
        raise TableError(f"{what} cannot be read: {brief(reason(error))}") from None
    if dtype.hasobject:
        raise TableError(f"{what} cannot be read: it holds Python objects, which need pickle")
    if dtype.kind not in "biufU" or dtype.subdtype is not None:
        raise TableError(f"{what} has dtype {brief(dtype)}, wanted real numbers or text")
    if not dtype.itemsize or not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 32:
        raise TableError(f"{what} cannot be read: its shape is {brief(shape)} and its dtype {brief(dtype)}")
    return Header(shape, fortran_order, dtype)


def read(path: Path, source: str, request: Request = EVERYTHING) -> Content:
    """Read the requested columns of an archive.

    Raises
    ------
    TableError
        If the archive is invalid; the message begins with `source`.
    """
    archive = Archive(path, source)
    if not archive:
        raise TableError(f"{source}: the archive is empty, wanted an array X, or one array per column")
    x, ys = matrix_of(archive, source)
    columns = _named_columns(archive, request) if x is None else _matrix_columns(archive, x, ys)
    return select(columns, request, list(columns if x else archive), source)


def matrix_of(archive: Archive, source: str) -> tuple[str | None, list[str]]:
    """Return the name of the array X, or None, and a list with the name of the array y, if there is one.

    Both names may be in upper or lower case.

    Raises
    ------
    TableError
        If the archive has both X and x, or both Y and y.
    """
    names = {letter: [name for name in archive if name.lower() == letter] for letter in "xy"}
    for variants in names.values():
        if len(variants) > 1:
            raise TableError(f"{source}: the archive has {' and '.join(map(repr, variants))}, wanted only one of them")
    return (names["x"][0] if names["x"] else None), names["y"]


def select(columns: dict[str, NDArray[Any]], request: Request, names: list[str], source: str) -> Content:
    """Select the requested columns from `columns`; `names` are the names of all columns in the file.

    Raises
    ------
    TableError
        If a requested column does not exist, or does not have the requested type.
    """
    request = request.resolve(source, names)
    selected: dict[str, Column] = {}
    spelled: dict[str, NDArray[np.str_]] = {}
    for name, column in columns.items():
        if not request.includes(name):
            continue
        if name in request.dates:
            raise TableError(f"{source}: column {name!r} has dtype {column.dtype}, wanted dates")
        if name in request.numeric and column.dtype.kind == "U":
            raise TableError(f"{source}: column {name!r} is text, wanted numbers")
        if name in request.spelled or name in request.text:
            spelled[name] = labels_of(column)
        if name in request.text:
            selected[name] = spelled[name]
        elif column.dtype.kind in "biu":
            if name not in request.spelled:
                require_exact(column, f"{source}: column {name!r}")
            selected[name] = column.astype(np.float64)
        else:
            selected[name] = column
    return Content(selected, {}, gaps_of(selected), names, spelled)


def require_exact(column: NDArray[Any], what: str) -> None:
    """Raise TableError if float64 would make two different integers in a column equal; `what` names the column."""
    if column.dtype.kind in "iu" and column.dtype.itemsize == 8:
        is_big = (column >= EXACT) | (column <= -EXACT)
        if is_big.any():
            require_distinct(np.unique(column[is_big]).tolist(), what)


def _matrix_columns(archive: Archive, x: str, ys: list[str]) -> dict[str, NDArray[Any]]:
    """Return the columns of the array `x` of an archive and of the arrays `ys`, which hold the targets."""
    columns = matrix(archive[x], x, archive.source)
    for name in ys:
        columns |= targets(archive[name], name, x, len(columns["x0"]), archive.source)
    return columns


def matrix(X: np.ndarray, name: str, source: str) -> dict[str, NDArray[Any]]:
    """Return the columns of a matrix, with the names x0, x1, ..."""
    if X.dtype.kind == "U":
        raise TableError(f"{source}: array {name!r} is text, but features must be numbers")
    require_matrix(X.shape, name, source)
    if X.dtype.kind in "iu" and X.dtype.itemsize == 8 and (X.max() >= EXACT or X.min() <= -EXACT):
        for j in range(X.shape[1]):
            require_exact(X[:, j], f"{source}: column 'x{j}'")
    X = as_column(X, name, source)
    return {f"x{j}": X[:, j] for j in range(X.shape[1])}


def require_matrix(shape: tuple[int, ...], name: str, source: str) -> None:
    """Raise TableError unless `shape` has two dimensions, both at least 1."""
    if len(shape) != 2 or 0 in shape:
        raise TableError(
            f"{source}: array {name!r} has shape {brief(shape)}, wanted (samples, features), both at least 1"
        )


def targets(y: np.ndarray, name: str, x: str, m: int, source: str) -> dict[str, NDArray[Any]]:
    """Return the targets for m samples as columns: y, or y0, y1, ...; integers and booleans keep their dtype."""
    if y.ndim not in (1, 2) or not y.size or len(y) != m:
        raise TableError(
            f"{source}: array {name!r} has shape {brief(y.shape)}, wanted ({m},) or ({m}, k) to match {x!r}"
        )
    y = keep_integers(y, name, source)
    if y.size == m:
        return {"y": y.reshape(-1)}
    return {f"y{j}": y[:, j] for j in range(y.shape[1])}


def _named_columns(archive: Archive, request: Request) -> dict[str, NDArray[Any]]:
    """Return the requested arrays of an archive as columns, for an archive that has no array X."""
    request = request.resolve(archive.source, list(archive))
    columns: dict[str, NDArray[Any]] = {}
    for name in archive:
        if not request.includes(name):
            continue
        column = archive[name]
        if column.ndim != 1:
            raise TableError(
                f"{archive.source}: array {brief(repr(name))} has shape {brief(column.shape)}, wanted an array X of "
                "shape (samples, features), or only arrays of shape (samples,), one per column"
            )
        columns[name] = keep_integers(column, name, archive.source)
        first = next(iter(columns))
        if not column.size or column.size != columns[first].size:
            wanted = "at least one" if name == first else f"{columns[first].size} as in {first!r}"
            raise TableError(f"{archive.source}: array {brief(repr(name))} has {column.size} values, wanted {wanted}")
    return columns


def keep_integers(array: np.ndarray, name: str, source: str) -> NDArray[Any]:
    """Return an array of integers or booleans unchanged; convert any other array with :func:`as_column`."""
    return array if array.dtype.kind in "biu" else as_column(array, name, source)


def as_column(array: np.ndarray, name: str, source: str) -> Column:
    """Convert an array to text in native byte order, or to float64 numbers.

    Raises
    ------
    TableError
        If a number is infinite, or text is not valid.
    """
    if array.dtype.kind == "U":
        text = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
        points = text.view(np.uint32)
        if ((points > 0x10FFFF) | ((points >= 0xD800) & (points < 0xE000))).any():
            raise TableError(f"{source}: array {name!r} is not valid text: it contains invalid code points")
        return text
    with np.errstate(over="ignore"):  # a long double beyond the range of float64 becomes infinite, and raises below
        values = array.astype(np.float64)
    if np.isinf(values).any():
        index = tuple(int(i) for i in np.argwhere(np.isinf(values))[0])
        raise TableError(
            f"{source}: array {name!r} has {values[index]} at {list(index)} where a finite number was expected"
        )
    return values
