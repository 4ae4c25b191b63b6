"""The output of a command: the report, the log, the table, and the JSON object.

Results go to stdout. If they cannot be written completely, the command still finishes its work and then fails. All
other messages go to stderr; errors in writing to stderr are ignored. Characters that a terminal would interpret are
escaped, except in JSON and in CSV that goes to a file or a pipe.
"""

import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.datasets.table_writing import row_writer, writing_table
from deepnotes.utils.errors import DeepnotesError
from deepnotes.utils.json_values import replace_nonfinite as replace_nonfinite
from deepnotes.utils.safe_text import escaped
from deepnotes.utils.streams import EscapingWriter, stderr, write_all
from deepnotes.utils.wording import reason

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

MOST_IN_MEMORY = 1 << 23
"""The largest number of bytes of rows for stdout that are kept in memory rather than in a file."""


class Output:
    """The destinations of a command's output.

    Parameters
    ----------
    as_json : bool
        Write one JSON object to stdout, and the report to stderr.
    quiet : bool
        Write only errors and the JSON object.
    """

    def __init__(self, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json, self.quiet = as_json, quiet
        self._error: OSError | ValueError | None = None

    def report(self, text: str) -> None:
        """Write `text`, which may have several lines, to the report."""
        self._report(escaped(text, keep="\n"))

    def facts(self, facts: Iterable[tuple[str, str]]) -> None:
        """Write pairs of a name and a description to the report, one pair per line, in aligned columns."""
        facts = [(escaped(name), escaped(text)) for name, text in facts]
        width = max(8, *(len(name) for name, _ in facts))
        self._report("\n".join(f"{name:<{width}}  {text}" for name, text in facts))

    def log(self, text: str) -> None:
        """Write `text` to stderr, as one line."""
        if not self.quiet:
            write_stderr(escaped(text))

    def show(self, renderable: "RenderableType") -> None:
        """Write a renderable of rich: to a terminal in colour, with long lines wrapped; elsewhere as plain lines.

        Its strings must already be escaped by :func:`cell`, since escaping the output would also escape the colours.
        """
        from rich.console import Console

        stream = stderr() if self.as_json else sys.stdout
        on_terminal = stream is not None and stream.isatty()
        console = Console(file=stream) if on_terminal else Console(file=stderr(), width=1000, no_color=True)
        with console.capture() as captured:
            console.print(renderable)
        self._report("\n".join(line.rstrip() for line in captured.get().splitlines()))

    @contextmanager
    def rows(self, path: Path | None, spreadsheet: bool) -> Iterator[Callable[[Mapping[str, np.ndarray]], None]]:
        """Yield a function that writes rows, given as columns by name, as CSV; the first call also writes the header.

        If the block ends in an error, nothing is written: a file at `path` keeps its content, and what goes to stdout
        is kept in a temporary file until the block has ended.

        Parameters
        ----------
        path : Path or None
            The file to write; None for stdout, where a terminal gets the rows escaped.
        spreadsheet : bool
            Whether to mark text that a spreadsheet would read as a formula as text.

        Raises
        ------
        DeepnotesError, BrokenPipeError
            If the rows cannot be written completely.
        """
        if path is not None:
            with writing_table(path, spreadsheet) as write:
                yield write
            return
        if sys.stdout is None:
            raise stdout_error("it is closed")
        with tempfile.SpooledTemporaryFile(
            MOST_IN_MEMORY, "w+", encoding="utf-8", errors="surrogatepass", newline=""
        ) as kept:
            yield row_writer(EscapingWriter(kept) if sys.stdout.isatty() else kept, spreadsheet)
            try:
                kept.seek(0)
                while text := kept.read(1 << 20):
                    write_all(sys.stdout, text)
                sys.stdout.flush()
            except BrokenPipeError:
                raise
            except (OSError, ValueError) as error:
                raise stdout_error(reason(error)) from error

    def waiting(self, text: str) -> AbstractContextManager[object]:
        """Return a context manager that shows `text` on a terminal; its block must not write to stdout."""
        if self.quiet or not stderr().isatty():
            return nullcontext()
        from rich.console import Console

        return Console(file=stderr()).status(cell(text))

    @contextmanager
    def progress(self) -> Iterator[Callable[[str, float], None]]:
        """Yield a function that shows a step and the completed share, from 0 to 1, if stderr is a terminal."""
        if self.quiet or not stderr().isatty():
            yield lambda step, share: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        description = TextColumn("{task.description}", markup=False)
        with Progress(BarColumn(bar_width=24), description, console=Console(file=stderr()), transient=True) as bar:
            task = bar.add_task("", total=1.0)
            yield lambda step, share: bar.update(task, completed=share, description=escaped(step))

    def outcome(self, outcome: Mapping[str, Any]) -> None:
        """Write the JSON object if it was requested, with null for numbers that are not finite."""
        if self.as_json:
            self._write(json.dumps(replace_nonfinite(outcome), allow_nan=False).replace("\x7f", "\\u007f"))

    def finish(self) -> None:
        """Raise an error if the output could not be written completely to stdout.

        Raises
        ------
        DeepnotesError, BrokenPipeError
        """
        if isinstance(self._error, BrokenPipeError):
            raise self._error
        if self._error is not None:
            raise stdout_error(reason(self._error)) from self._error

    def _report(self, text: str) -> None:
        if self.quiet:
            return
        if self.as_json:
            write_stderr(text)
        else:
            self._write(text)

    def _write(self, text: str) -> None:
        """Write to stdout, unless an earlier write has failed; store an error for :meth:`finish` to raise."""
        if self._error is None:
            try:
                write_stdout(f"{text}\n")
            except (OSError, ValueError) as error:  # a ValueError if stdout is closed
                self._error = error


def write_stdout(text: str) -> None:
    """Write all of `text` to stdout, with question marks for characters that its encoding cannot represent.

    Raises
    ------
    OSError, ValueError
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    write_all(sys.stdout, text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def stdout_error(cause: str) -> DeepnotesError:
    """Return the error for output that could not be written to stdout."""
    return DeepnotesError(f"cannot write to stdout: {cause}")


def write_stderr(text: str) -> None:
    """Write a line to stderr, ignoring failures; `text` must already be escaped."""
    stream = stderr()
    stream.write(f"{text}\n")
    stream.flush()


def cell(text: str, style: str = "") -> "Text":
    """Return a cell for a table of rich, with all control characters in `text` except line breaks escaped."""
    from rich.text import Text

    return Text(escaped(text, keep="\n"), style)


def format_count(number: int, singular: str, plural: str = "") -> str:
    """Return a number followed by a noun; by default, the plural of the noun is the singular with an s.

    Examples
    --------
    >>> format_count(1, "row"), format_count(1234, "row"), format_count(2, "class", "classes")
    ('1 row', '1,234 rows', '2 classes')
    """
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def format_number(value: float) -> str:
    """Return a number with five significant digits, and with commas as thousands separators.

    Examples
    --------
    >>> format_number(0.123456), format_number(1234.5678), format_number(98765432.1), format_number(1.5e-9)
    ('0.12346', '1,234.6', '98,765,432', '1.5e-09')
    """
    if value == 0 or not 1e-4 <= abs(value) < 1e12:
        return f"{value:.5g}"
    return f"{value:,.{max(0, 4 - math.floor(math.log10(abs(value))))}f}"
