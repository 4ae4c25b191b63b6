"""Streams of text: each byte is written or an error raised; where nothing depends on it, failures are ignored."""

import contextlib
import errno
import io
import os
import sys
from typing import Any, TextIO, cast

from deepnotes.utils.safe_text import escaped


def write_all(stream: Any, text: str) -> None:
    """Write text to a stream, every byte of it.

    Over an unbuffered file, as with ``PYTHONUNBUFFERED``, a stream of Python's does not notice that a write took only
    the beginning of what it was given.

    Raises
    ------
    OSError
        If not all of it could be written. A stream that is None was closed before the program began.
    """
    if stream is None:
        raise OSError(errno.EBADF, "it is closed")
    raw = getattr(stream, "buffer", None)
    if not isinstance(raw, io.RawIOBase):
        stream.write(text)
        return
    stream.flush()
    left = memoryview(text.encode(stream.encoding, stream.errors or "strict"))
    while left:
        written = raw.write(left)
        if written is None:  # it does not block, and has no room
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        left = left[written:]


class Whole:
    """A stream that is written to by :func:`write_all`."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write all of `text`."""
        write_all(self._stream, text)


class Escaping(Whole):
    """A stream to a terminal that takes one row with its line break at a time, and shows what is in it."""

    def write(self, text: str) -> None:
        """Write `text` with everything but its last line break escaped."""
        write_all(self._stream, escaped(text.removesuffix("\n")) + "\n")


class BestEffort(io.TextIOBase):
    """A stream that drops what cannot be written: progress and logs are no reason to fail.

    Parameters
    ----------
    stream : text stream or None
        None is a stream that was closed before the program began.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Write what can be written."""
        with contextlib.suppress(OSError, ValueError):
            write_all(self._stream, text.encode(self.encoding, "replace").decode(self.encoding))
        return len(text)

    def flush(self) -> None:
        """Write what is still held."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._stream.flush()

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        try:
            return bool(self._stream.isatty())
        except (AttributeError, ValueError):
            return False

    def fileno(self) -> int:
        """Return the descriptor of the stream; an OSError says that it has none."""
        if self._stream is None:
            raise io.UnsupportedOperation("it is closed")
        return int(self._stream.fileno())


def stderr() -> TextIO:
    """Return the standard stream of errors as it is now, for what need not arrive."""
    return cast(TextIO, BestEffort(sys.stderr))
