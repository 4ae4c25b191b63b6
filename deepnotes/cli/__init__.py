"""The command line: ``deepnotes train``, ``predict``, ``evaluate``, ``export``, ``backends`` and others.

The exit status is 0 on success, 1 if a command fails, 2 for wrong usage, 130 after Ctrl-C, and 141 if the program that
reads stdout has closed its end of the pipe. Errors are reported on stderr, in one or two lines, or a line
for each problem of a data file; with ``--debug``, the
traceback is printed as well.
"""

import contextlib
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from deepnotes.backends.registry import describe_stranger, owner, stranger_in_use
from deepnotes.cli.arguments import parser
from deepnotes.cli.output import Output, write_stderr
from deepnotes.utils.errors import (
    ArgumentError,
    BackendUnavailable,
    DeepnotesError,
    MissingExtraError,
    TableError,
    UnknownNameError,
)
from deepnotes.utils.safe_text import escaped

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments after ``deepnotes``; by default, those of the process.
    """
    debug = False
    _occupy_closed_descriptors()
    with _messages_on_stderr():
        try:
            args = parser().parse_args(argv)
            debug = args.debug
            output = Output(args.json is True, getattr(args, "quiet", False))
            args.run(args, output)
            output.finish()
        except SystemExit as end:  # argparse raises it after --help and --version
            return int(end.code or 0)
        except BrokenPipeError:
            return 141
        except (Exception, KeyboardInterrupt) as error:
            if debug:
                write_stderr(escaped(traceback.format_exc().rstrip(), keep="\n"))
            write_stderr("\n".join(_error_lines(error)))
            return _exit_status(error)
        finally:
            for stream in (sys.stdout, sys.stderr):
                _flush_or_discard(stream)
    return 0


def _exit_status(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return 130
    return 2 if isinstance(error, ArgumentError | UnknownNameError) else 1


def _error_lines(error: BaseException) -> list[str]:
    """Return the message of `error` as one line, followed by a line for each of its notes, or for each problem."""
    if isinstance(error, KeyboardInterrupt):
        return ["deepnotes: " + escaped("; ".join(["interrupted", *map(str, error.args)]))]
    text = str(error)
    if isinstance(error, OSError):
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or text
    elif isinstance(error, MemoryError):
        text = "out of memory"
    elif not isinstance(error, DeepnotesError):
        problem, advice = "this is a bug in deepnotes", "--debug shows the traceback"
        if stranger := describe_stranger(error):
            problem = f"the {stranger} failed"
        elif name := stranger_in_use(error):
            problem += f" or in the backend {name!r} of {owner(name)}"
            advice = f"'deepnotes conformance --backend {name}' checks the backend; {advice}"
        text = f"{problem} ({type(error).__name__}: {error}); {advice}"
    if isinstance(error, BackendUnavailable | MissingExtraError) or not isinstance(error, DeepnotesError):
        text = " ".join(text.split())  # messages of other libraries may span several lines
    notes = getattr(error, "__notes__", []) if isinstance(error, DeepnotesError) else []
    if isinstance(error, TableError) and len(error.problems) > 1:
        count = f"{len(error.problems):,} problems in the data:"
        return [f"deepnotes: error: {count}", *(f"  {escaped(note.strip())}" for note in (text, *notes))]
    return [f"deepnotes: error: {escaped(text)}", *map(escaped, notes)]


def _occupy_closed_descriptors() -> None:
    """Open the null device for each closed standard stream, so that no other file gets its descriptor."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor


def _flush_or_discard(stream: Any) -> None:
    """Flush a stream, or discard its buffer if it cannot be written, so that Python's shutdown does not fail."""
    try:
        stream.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except (AttributeError, ValueError):  # the stream is closed
        pass


class _StderrHandler(logging.Handler):
    """A handler that writes the library's log messages to stderr, with control characters escaped."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record to stderr."""
        write_stderr(escaped(self.format(record), keep="\n" if record.exc_info else ""))


@contextlib.contextmanager
def _messages_on_stderr() -> Iterator[None]:
    """While a command runs, write log messages and warnings to stderr in the format of the command's other messages.

    Log messages are written only if the user has not configured logging.
    """
    before = logging.lastResort, warnings.formatwarning
    logging.lastResort = _StderrHandler(logging.WARNING)
    warnings.formatwarning = lambda message, category, *_: f"{category.__name__}: {escaped(str(message))}\n"
    try:
        yield
    finally:
        logging.lastResort, warnings.formatwarning = before
