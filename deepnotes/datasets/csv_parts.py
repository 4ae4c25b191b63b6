"""Read a CSV file in parts of whole rows, so that only one part is in memory at a time."""

import codecs
import csv
import gzip
import io
import os
import stat
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

from deepnotes.datasets import csv_files, csv_text
from deepnotes.datasets.csv_text import CELL_ENDS, GZIP, SEPARATOR_LINE, Header, Text
from deepnotes.datasets.problems import Problems
from deepnotes.datasets.reading import WHITESPACE, Content, Format, Request, require_memory
from deepnotes.utils.errors import TableError
from deepnotes.utils.wording import reason

PART = 1 << 23
"""The number of bytes of text that are read at a time."""


def can_split(form: Format) -> bool:
    """Return whether a file of this format can be read in parts; otherwise, it has to be converted as a whole first."""
    is_utf8 = codecs.lookup(form.encoding).name == "utf-8"
    return is_utf8 and form.comment is None and form.separator != WHITESPACE and not form.skip_rows


def read_parts(path: Path, source: str, request: Request, problems: Problems) -> Iterator[Content]:
    """Yield the requested columns of a CSV file, some thousand rows at a time.

    The first part determines the separator and the header. If the type of a column is not requested, each part
    determines it anew.

    Parameters
    ----------
    path : Path
    source : str
        The name of the file; error messages begin with it.
    request : Request
        Its format must be one that :func:`can_split` accepts.
    problems : Problems
        Gets the problems of the parts.

    Raises
    ------
    TableError, OSError
    """
    csv_files.require_pyarrow(source)
    size = path.stat().st_size
    with path.open("rb") as file:
        chunks = _Chunks(unpacked(file, size, source), request.format)
        header, text, request = csv_files.read_start(chunks.take(), source, request, problems)
        while not _has_row(text, header) and (data := chunks.take()):  # blank lines
            text = replace(text, data=text.data + data)
        yield csv_files.read_rows(text, header, request, size, problems)
        line = text.first_line + csv_text.count_lines(text.data)
        chunks.separator = text.separator
        while data := chunks.take():
            csv_text.require_text(data, source, line)
            text = Text(data, source, text.separator, line, is_continued=True)
            line += csv_text.count_lines(data)
            if _has_row(text, header):
                yield csv_files.read_rows(text, header, request, size, problems)


def _has_row(text: Text, header: Header) -> bool:
    """Return whether a text has a row that is not blank."""
    return next(text.records(len(header.names)), None) is not None


def unpacked(file: IO[bytes], size: int, source: str) -> Iterator[bytes]:
    """Yield the bytes of a file, decompressed if it is a gzip file; `size` is the size of the file.

    Raises
    ------
    TableError
        As :func:`deepnotes.datasets.csv_text.unpack`.
    """
    is_packed = file.read(len(GZIP)) == GZIP
    file.seek(0)
    if not is_packed:
        # As much memory as is asked for is reserved, so no more than the file needs; a pipe has no size.
        part = min(PART, size + 1) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else PART
        yield from iter(lambda: file.read(part), b"")
        return
    needed = 0
    try:
        with gzip.GzipFile(fileobj=file) as unpacked:
            while block := unpacked.read(PART):
                needed += len(block) + 8 * (len(block) - len(block.translate(None, CELL_ENDS)))
                require_memory(needed, size, f"{source}: its text", "unpack it with gunzip")
                yield block
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TableError(f"{source}: the gzip file is damaged: {reason(error)}") from error


class _Chunks:
    """The bytes of a text, taken in chunks that end where a row ends.

    Parameters
    ----------
    blocks : iterator of bytes
    form : Format

    Attributes
    ----------
    separator : str
        The separator of cells, which determines which quotes enclose cells.
    """

    def __init__(self, blocks: Iterator[bytes], form: Format) -> None:
        self._blocks, self._rest = blocks, b""
        self._form, self.separator = form, form.separator or ""

    def take(self) -> bytes:
        """Return the next chunk, which is empty at the end of the text."""
        data, blocks = self._rest, list[bytes]()
        for block in self._blocks:
            blocks.append(block)
            if sum(map(len, blocks)) < len(data):  # doubling what is searched keeps the time linear in a long row
                continue
            data, blocks = b"".join([data, *blocks]), []
            self.separator = self.separator or self._detect(data)
            end = end_of_rows(data, self.separator)
            if csv_text.count_lines(data[:end]) > 1:  # the first chunk needs a row below the header
                self._rest = data[end:]
                return data[:end]
        self._rest = b""
        return b"".join([data, *blocks])

    def _detect(self, data: bytes) -> str:
        """Return the separator of the text that begins with `data`."""
        head = data.removeprefix(codecs.BOM_UTF8)
        if line := SEPARATOR_LINE.match(head):
            return line[1].decode()
        try:
            return csv_text.detect_separator(head, "", self._form)
        except TableError:  # the text is refused when the chunk is read
            return ","


def end_of_rows(data: bytes, separator: str) -> int:
    r"""Return the offset at which the last complete row of a text ends, or 0 if no row is complete.

    If the text is not CSV, return the offset of the last line end, since more of it would not help.

    Examples
    --------
    >>> end_of_rows(b"a,b\n1,2\n3", ","), end_of_rows(b'1,"x\n2,3\n', ","), end_of_rows(b'1,5"\n2,3\n4,"', ",")
    (8, 0, 9)
    """
    whole = data[:-1] if data.endswith(b"\r") else data  # a line feed may follow
    end = max(whole.rfind(b"\n"), whole.rfind(b"\r")) + 1
    if b'"' not in data[:end] or csv_text.unambiguous_quotes(separator).fullmatch(data, 0, end):
        return end
    position = complete = 0

    def lines() -> Iterator[str]:
        nonlocal position
        stream = io.TextIOWrapper(io.BytesIO(data[:end]), "utf-8", "surrogateescape", newline="")
        for line in stream:
            position += len(line.encode("utf-8", "surrogateescape"))
            yield line

    try:
        for _ in csv.reader(lines(), strict=True, skipinitialspace=separator != " ", delimiter=separator):
            complete = position
    except csv.Error as error:
        return complete if "unexpected end" in str(error) else end
    return complete
