"""Text streams that write every byte or raise an error, and streams that ignore failures."""

import contextlib
import errno
import io
import os
import sys
from typing import Any, TextIO, cast

from deepnotes.utils.safe_text import escaped


def write_all(stream: Any, text: str) -> None:
    """Write all of a text to a stream.

    If the file is unbuffered, as with ``PYTHONUNBUFFERED``, Python's text streams do not notice a partial write.

    Raises
    ------
    OSError
        If the text could not be written completely, or `stream` is None, as ``sys.stdout`` is in a process that was
        started without it.
    """
    if stream is None:
        raise OSError(errno.EBADF, "it is closed")
    raw = getattr(stream, "buffer", None)
    if not isinstance(raw, io.RawIOBase):
        stream.write(text)
        return
    stream.flush()
    remaining = memoryview(text.encode(stream.encoding, stream.errors or "strict"))
    while remaining:
        written = raw.write(remaining)
        if written is None:  # the file is non-blocking, and its buffer is full
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        remaining = remaining[written:]


class CompleteWriter:
    """A stream that writes with :func:`write_all`."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write all of `text`."""
        write_all(self._stream, text)


class EscapingWriter(CompleteWriter):
    """A stream to a terminal that escapes rows; each call of ``write`` must pass one row, including its line break."""

    def write(self, text: str) -> None:
        """Write `text`, escaped except for the line break at its end."""
        write_all(self._stream, escaped(text.removesuffix("\n")) + "\n")


class BestEffort(io.TextIOBase):
    """A stream for progress and logs, which drops text that cannot be written instead of making the run fail.

    Parameters
    ----------
    stream : text stream or None
        None if the stream was closed before the program began.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Write as much as possible."""
        with contextlib.suppress(OSError, ValueError):
            write_all(self._stream, text.encode(self.encoding, "replace").decode(self.encoding))
        return len(text)

    def flush(self) -> None:
        """Write buffered text."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._stream.flush()

    def isatty(self) -> bool:
        """Return whether the stream is a terminal."""
        try:
            return bool(self._stream.isatty())
        except (AttributeError, ValueError):
            return False

    def fileno(self) -> int:
        """Return the file descriptor; raise OSError if the stream is closed."""
        if self._stream is None:
            raise io.UnsupportedOperation("it is closed")
        return int(self._stream.fileno())


def stderr() -> TextIO:
    """Return the current standard error as a stream that ignores failures."""
    return cast(TextIO, BestEffort(sys.stderr))
