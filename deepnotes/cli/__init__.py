"""The command line: ``deepnotes train``, ``predict``, ``evaluate``, ``export``, ``backends`` and others.

The exit status is 0; 1 if a run fails; 2 for wrong usage; 130 after Ctrl-C; 141 if the reader of stdout has closed it.
Errors are reported in a line or two on stderr, with a traceback only if ``--debug`` is given.
"""

import contextlib
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from deepnotes.cli.arguments import parser
from deepnotes.cli.output import Output, say
from deepnotes.utils.errors import (
    ArgumentError,
    BackendUnavailable,
    DeepnotesError,
    MissingExtraError,
    UnknownNameError,
)
from deepnotes.utils.safe_text import escaped

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments after ``deepnotes``; by default those of the process.
    """
    debug = False
    _occupy_closed_descriptors()
    with _shown_messages():
        try:
            args = parser().parse_args(argv)
            debug = args.debug
            output = Output(args.json is True, getattr(args, "quiet", False))
            args.run(args, output)
            output.finish()
        except SystemExit as end:  # argparse's, after --help and --version
            return int(end.code or 0)
        except BrokenPipeError:
            return 141
        except (Exception, KeyboardInterrupt) as error:
            if debug:
                say(escaped(traceback.format_exc().rstrip(), keep="\n"))
            say("\n".join(_lines(error)))
            return _status(error)
        finally:
            for stream in (sys.stdout, sys.stderr):
                _settle(stream)
    return 0


def _status(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return 130
    return 2 if isinstance(error, ArgumentError | UnknownNameError) else 1


def _lines(error: BaseException) -> list[str]:
    """Return the message of `error`: one line, and one more for each of its notes."""
    if isinstance(error, KeyboardInterrupt):
        return ["deepnotes: " + escaped("; ".join(["interrupted", *map(str, error.args)]))]
    text = str(error)
    if isinstance(error, OSError):
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or text
    elif isinstance(error, MemoryError):
        text = "out of memory"
    elif not isinstance(error, DeepnotesError):
        text = f"this is a bug of deepnotes ({type(error).__name__}: {error}); --debug shows the traceback"
    if isinstance(error, BackendUnavailable | MissingExtraError) or not isinstance(error, DeepnotesError):
        text = " ".join(text.split())  # whose causes are worded by other libraries
    notes = getattr(error, "__notes__", []) if isinstance(error, DeepnotesError) else []
    return [f"deepnotes: error: {escaped(text)}", *map(escaped, notes)]


def _occupy_closed_descriptors() -> None:
    """Open the null device where a standard stream is closed, so that no file of ours gets its descriptor."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor


def _settle(stream: Any) -> None:
    """Flush a stream, or drop its buffer if it cannot be written, so that Python's shutdown does not fail."""
    try:
        stream.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except (AttributeError, ValueError):  # it was closed, before the program began or since
        pass


class _Log(logging.Handler):
    """A handler that shows the library's warnings, unless the user has configured logging."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record to stderr."""
        say(escaped(self.format(record), keep="\n" if record.exc_info else ""))


@contextlib.contextmanager
def _shown_messages() -> Iterator[None]:
    """Write logs and warnings to stderr like other messages while a command runs."""
    before = logging.lastResort, warnings.formatwarning
    logging.lastResort = _Log(logging.WARNING)
    warnings.formatwarning = lambda message, category, *_: f"{category.__name__}: {escaped(str(message))}\n"
    try:
        yield
    finally:
        logging.lastResort, warnings.formatwarning = before
