"""Tensors of an ONNX file that are stored in another file next to it, as PyTorch's exporter does.

File names in a model are not trusted: each must name a regular file in the model's own folder, and that file must
contain the bytes that a tensor claims.
"""

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from deepnotes.utils.errors import ModelFileError
from deepnotes.utils.wording import brief, reason

FIELDS = {"location", "offset", "length", "checksum"}


class ExternalData:
    """The data files next to a model.

    Parameters
    ----------
    folder : Path
        The folder of the model.

    Attributes
    ----------
    bytes : int
        The total size of the files opened so far.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.bytes = folder, 0
        self._seen = set[tuple[int, int]]()

    def read(self, entries: Iterable[tuple[str, str]], size: int, what: str) -> bytes:
        """Return the bytes of a tensor.

        Parameters
        ----------
        entries : iterable of (str, str)
            The model's entries for the tensor: location, offset, length.
        size : int
            The number of bytes that the tensor must have.
        what : str
            The name of the tensor in messages.

        Raises
        ------
        ModelFileError
            If the location is not the name of a file in the folder, or the file has too few bytes.
        """
        told = dict(entries)
        name = told.get("location", "")
        where = f"{what} is in the file {brief(repr(name))}"
        if not name or name in {".", ".."} or any(c in name for c in "/\\:\0"):
            raise ModelFileError(f"{where}, and only a file in the model's own folder, by its plain name, is read")
        offset, length = (_number(told.get(key, default), f"{where} at the {key}") for key, default in
                          (("offset", "0"), ("length", str(size))))  # fmt: skip
        if length != size:
            raise ModelFileError(f"{where}, where it has {length:,} bytes, and its shape wants {size:,}")
        try:
            return self._content(name, where, offset, size)
        except (OSError, ValueError) as error:
            raise ModelFileError(f"{where}, which cannot be read: {reason(error)}") from None

    def _content(self, name: str, where: str, offset: int, size: int) -> bytes:
        folder = os.path.realpath(self.folder)
        path = os.path.realpath(os.path.join(folder, name))
        if os.path.dirname(path) != folder:
            raise ModelFileError(f"{where}, which is a link to another folder")
        flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        with open(os.open(path, flags), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ModelFileError(f"{where}, which is no regular file")
            if offset + size > found.st_size:
                raise ModelFileError(
                    f"{where} from byte {offset:,} to {offset + size:,}, and the file holds {found.st_size:,}"
                )
            if (found.st_dev, found.st_ino) not in self._seen:
                self._seen.add((found.st_dev, found.st_ino))
                self.bytes += found.st_size
            file.seek(offset)
            content = file.read(size)
        if len(content) < size:
            raise ModelFileError(f"{where}, which was cut short while it was read")
        return content


def _number(text: str, what: str) -> int:
    """Return a number of bytes from its text in a model."""
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise ModelFileError(f"{what} {brief(repr(text))}, wanted a number of bytes")
    return int(text)
