"""The command line: ``deepnotes train``, ``predict``, ``evaluate``, ``export``, ``backends`` and others.

The exit status is 0; 1 where a run fails; 2 for wrong usage; 130 after Ctrl-C; 141 where the reader of stdout went
away. What goes wrong is told in a line or two on stderr, with a traceback only where ``--debug`` asks for it.
"""

import contextlib
import os
import sys
import traceback
from collections.abc import Sequence

from deepnotes.cli.arguments import parser
from deepnotes.cli.output import Output, complain
from deepnotes.errors import ArgumentError, DeepnotesError, UnknownNameError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Parameters
    ----------
    argv : sequence of str, optional
        The words after ``deepnotes``; by default those that the process was started with.
    """
    debug = False
    try:
        args = parser().parse_args(argv)
        debug = args.debug
        args.run(args, Output(args.json is True, getattr(args, "quiet", False)))
        sys.stdout.flush()
    except SystemExit as end:  # argparse's, after --help and --version
        return int(end.code or 0)
    except BrokenPipeError:
        _close_stdout()
        return 141
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        complain(_told(error))
        _close_stdout()
        return _status(error)
    return 0


def _status(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return 130
    return 2 if isinstance(error, ArgumentError | UnknownNameError) else 1


def _told(error: BaseException) -> str:
    """Return what to say of `error`, in two lines at most."""
    if isinstance(error, KeyboardInterrupt):
        return "; ".join(["interrupted", *map(str, error.args)])
    text = str(error)
    if isinstance(error, OSError):
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or text
    elif isinstance(error, MemoryError):
        text = "out of memory"
    elif not isinstance(error, DeepnotesError):
        text = f"this is a bug of deepnotes ({type(error).__name__}: {error}); --debug shows the traceback"
    return f"error: {text if len(text.splitlines()) <= 2 else ' '.join(text.split())}"


def _close_stdout() -> None:
    """Write what stdout still holds, or drop it where nobody can take it, so that Python's end does not complain."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
