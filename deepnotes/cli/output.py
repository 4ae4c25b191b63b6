"""The output of a command: the report, the log, the table, and the one JSON object.

Results go to stdout: either all of it is written, or the command fails after it has finished its work. Everything else
goes to stderr, and a stderr that is closed or full changes nothing. In text for people, everything that a terminal
would act on is escaped; CSV and JSON are exact, except for CSV on a terminal, which is for people.
"""

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from deepnotes.datasets.table_writing import write_table
from deepnotes.utils.errors import DeepnotesError, TableError
from deepnotes.utils.safe_text import escaped
from deepnotes.utils.streams import Escaping, stderr, write_all
from deepnotes.utils.wording import reason

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text


class Output:
    """The destinations of a command's output.

    Parameters
    ----------
    as_json : bool
        Keep stdout for one JSON object; the report goes to stderr.
    quiet : bool
        Write only errors and the JSON object.
    """

    def __init__(self, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json, self.quiet = as_json, quiet
        self._fault: OSError | ValueError | None = None

    def report(self, text: str) -> None:
        """Write `text` for people."""
        self._report(escaped(text, keep="\n"))

    def facts(self, facts: Iterable[tuple[str, str]]) -> None:
        """Write aligned lines of a name and its description."""
        facts = [(escaped(name), escaped(text)) for name, text in facts]
        width = max(8, *(len(name) for name, _ in facts))
        self._report("\n".join(f"{name:<{width}}  {text}" for name, text in facts))

    def log(self, text: str) -> None:
        """Write `text` to stderr, as one line."""
        if not self.quiet:
            say(escaped(text))

    def show(self, renderable: "RenderableType") -> None:
        """Write a rich renderable: coloured and folded on a terminal, plain and unfolded elsewhere.

        Its texts have to be escaped by :func:`cell`, since the colours are escape sequences themselves.
        """
        from rich.console import Console

        stream = stderr() if self.as_json else sys.stdout
        on_terminal = stream is not None and stream.isatty()
        console = Console(file=stream) if on_terminal else Console(file=stderr(), width=1000, no_color=True)
        with console.capture() as captured:
            console.print(renderable)
        self._report("\n".join(line.rstrip() for line in captured.get().splitlines()))

    def table(self, names: list[str], columns: Mapping[str, np.ndarray], spreadsheet: bool) -> None:
        """Write columns as CSV to stdout: exact, or escaped where it is a terminal.

        Raises
        ------
        DeepnotesError, BrokenPipeError
            If not all of it can be written.
        """
        if sys.stdout is None:
            raise unwritten("it is closed")
        try:
            stream = Escaping(sys.stdout) if sys.stdout.isatty() else sys.stdout
            write_table(stream, names, columns, spreadsheet=spreadsheet)
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except TableError as error:
            raise unwritten(reason(cast(Exception, error.__cause__))) from error
        except (OSError, ValueError) as error:
            raise unwritten(reason(error)) from error

    def waiting(self, text: str) -> AbstractContextManager[object]:
        """Return a context that shows activity on a terminal; its block must not write to stdout."""
        if self.quiet or not stderr().isatty():
            return nullcontext()
        from rich.console import Console

        return Console(file=stderr()).status(cell(text))

    @contextmanager
    def progress(self) -> Iterator[Callable[[str, float], None]]:
        """Yield a function that shows what is being done and the share done, from 0 to 1, on a terminal only."""
        if self.quiet or not stderr().isatty():
            yield lambda what, share: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        words = TextColumn("{task.description}", markup=False)
        with Progress(BarColumn(bar_width=24), words, console=Console(file=stderr()), transient=True) as bar:
            task = bar.add_task("", total=1.0)
            yield lambda what, share: bar.update(task, completed=share, description=escaped(what))

    def outcome(self, outcome: Mapping[str, Any]) -> None:
        """Write the JSON object if it was requested; numbers that are not finite become null."""
        if self.as_json:
            self._write(json.dumps(finite(outcome), allow_nan=False).replace("\x7f", "\\u007f"))

    def finish(self) -> None:
        """Raise an error if not everything could be written to stdout.

        Raises
        ------
        DeepnotesError, BrokenPipeError
        """
        if isinstance(self._fault, BrokenPipeError):
            raise self._fault
        if self._fault is not None:
            raise unwritten(reason(self._fault)) from self._fault

    def _report(self, text: str) -> None:
        if self.quiet:
            return
        if self.as_json:
            say(text)
        else:
            self._write(text)

    def _write(self, text: str) -> None:
        """Write to stdout; after the first failure, which :meth:`finish` raises, nothing more."""
        if self._fault is None:
            try:
                write_stdout(f"{text}\n")
            except (OSError, ValueError) as error:  # a ValueError if it has been closed since
                self._fault = error


def write_stdout(text: str) -> None:
    """Write text to stdout, every byte of it; characters that its encoding lacks become question marks.

    Raises
    ------
    OSError, ValueError
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    write_all(sys.stdout, text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def unwritten(why: str) -> DeepnotesError:
    """Return the error for output that could not be written to stdout."""
    return DeepnotesError(f"cannot write to stdout: {why}")


def say(text: str) -> None:
    """Write text that is already escaped to stderr, if possible."""
    stream = stderr()
    stream.write(f"{text}\n")
    stream.flush()


def cell(text: str, style: str = "") -> "Text":
    """Return text for a rich table, with everything but line breaks escaped."""
    from rich.text import Text

    return Text(escaped(text, keep="\n"), style)


def counted(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun.

    Examples
    --------
    >>> counted(1, "row"), counted(1234, "row"), counted(2, "class", "classes")
    ('1 row', '1,234 rows', '2 classes')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def figure(value: float) -> str:
    """Return a number to five digits, with thousands set apart.

    Examples
    --------
    >>> figure(0.123456), figure(1234.5678), figure(98765432.1), figure(1.5e-9)
    ('0.12346', '1,234.6', '98,765,432', '1.5e-09')
    """
    if value == 0 or not 1e-4 <= abs(value) < 1e12:
        return f"{value:.5g}"
    return f"{value:,.{max(0, 4 - math.floor(math.log10(abs(value))))}f}"


def finite(value: Any) -> Any:
    """Return a value that is valid JSON: numbers that are not finite become None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value
