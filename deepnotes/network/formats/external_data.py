"""Tensors of an ONNX model that are stored in separate files, as in models that PyTorch exports.

File names in a model are not trusted: each must be the name of a regular file in the directory of the model, and the
file must be long enough to contain the tensor.
"""

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from deepnotes.utils.errors import ModelFileError
from deepnotes.utils.wording import brief, reason

FIELDS = {"location", "offset", "length", "checksum"}


class ExternalData:
    """The data files in the directory of a model.

    Parameters
    ----------
    folder : Path
        The directory of the model.

    Attributes
    ----------
    bytes : int
        The total size of the data files that were opened so far.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.bytes = folder, 0
        self._opened = set[tuple[int, int]]()  # device and inode of each file

    def read(self, entries: Iterable[tuple[str, str]], size: int, owner: str) -> bytes:
        """Read the bytes of a tensor.

        Parameters
        ----------
        entries : iterable of (str, str)
            The entries ``location``, ``offset`` and ``length`` that the model has for the tensor.
        size : int
            The size of the tensor in bytes.
        owner : str
            The name of the tensor, for error messages.

        Raises
        ------
        ModelFileError
            If the location is not the name of a file in the directory, or the file has too few bytes.
        """
        fields = dict(entries)
        name = fields.get("location", "")
        where = f"{owner} is in the file {brief(repr(name))}"
        if not name or name in {".", ".."} or any(c in name for c in "/\\:\0"):
            raise ModelFileError(f"{where}, wanted the name of a file in the model's directory")
        offset = _number(fields.get("offset", "0"), f"{where} at the offset")
        length = _number(fields.get("length", str(size)), f"{where} at the length")
        if length != size:
            raise ModelFileError(f"{where}, where it takes {length:,} bytes, but its shape needs {size:,} bytes")
        try:
            return self._read(name, where, offset, size)
        except (OSError, ValueError) as error:
            raise ModelFileError(f"{where}, which cannot be read: {reason(error)}") from None

    def _read(self, name: str, where: str, offset: int, size: int) -> bytes:
        folder = os.path.realpath(self.folder)
        path = os.path.realpath(os.path.join(folder, name))
        if os.path.dirname(path) != folder:
            raise ModelFileError(f"{where}, which is a link to another directory")
        flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        with open(os.open(path, flags), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ModelFileError(f"{where}, which is not a regular file")
            if offset + size > status.st_size:
                raise ModelFileError(
                    f"{where} from byte {offset:,} to {offset + size:,}, but the file has {status.st_size:,} bytes"
                )
            if (status.st_dev, status.st_ino) not in self._opened:
                self._opened.add((status.st_dev, status.st_ino))
                self.bytes += status.st_size
            file.seek(offset)
            content = file.read(size)
        if len(content) < size:
            raise ModelFileError(f"{where}, which was truncated while it was read")
        return content


def _number(text: str, field: str) -> int:
    """Return the number of bytes in `text`, an entry of a model; `field` describes the entry in error messages."""
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise ModelFileError(f"{field} {brief(repr(text))}, wanted a number of bytes")
    return int(text)
