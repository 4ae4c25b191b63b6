"""What a command says, and where: the report, the log, the table, and the one JSON object.

What goes to stdout is the outcome: all of it arrives, or the command fails, after it has finished its work. What goes
to stderr is for whoever watches: a stderr that is closed or full changes nothing. In all that is written for people,
whatever a terminal would act on is escaped; CSV and JSON are exact, except that CSV on a terminal is for people.
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
    """Where the words of a command go.

    Parameters
    ----------
    as_json : bool
        Keep stdout for one JSON object; the report goes to stderr.
    quiet : bool
        Say nothing but errors, and the JSON object.
    """

    def __init__(self, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json, self.quiet = as_json, quiet
        self._fault: OSError | ValueError | None = None

    def report(self, text: str) -> None:
        """Write `text` for people."""
        self._report(escaped(text, keep="\n"))

    def facts(self, facts: Iterable[tuple[str, str]]) -> None:
        """Write lines of a name and what there is to say about it, aligned."""
        facts = [(escaped(name), escaped(text)) for name, text in facts]
        width = max(8, *(len(name) for name, _ in facts))
        self._report("\n".join(f"{name:<{width}}  {text}" for name, text in facts))

    def log(self, text: str) -> None:
        """Write `text` to stderr, as one line."""
        if not self.quiet:
            say(escaped(text))

    def show(self, renderable: "RenderableType") -> None:
        """Write something of rich's: coloured and folded on a terminal, plain and unfolded elsewhere.

        Its texts are those of :func:`cell`, since the colours are escape sequences themselves.
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
        """Return a context in which a terminal shows that work is under way; it must write nothing to stdout."""
        if self.quiet or not stderr().isatty():
            return nullcontext()
        from rich.console import Console

        return Console(file=stderr()).status(cell(text))

    @contextmanager
    def progress(self) -> Iterator[Callable[[str, float], None]]:
        """Yield a function that shows what is done and how much of all, from 0 to 1: on a terminal, else nowhere."""
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
        """Write the JSON object, if it was asked for; what is not finite becomes null."""
        if self.as_json:
            self._write(json.dumps(finite(outcome), allow_nan=False).replace("\x7f", "\\u007f"))

    def finish(self) -> None:
        """Raise an error if stdout did not take all that was written to it.

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
            except (OSError, ValueError) as error:  # a ValueError where it has been closed since
                self._fault = error


def write_stdout(text: str) -> None:
    """Write text to stdout, every byte of it; what its encoding does not have becomes a question mark.

    Raises
    ------
    OSError, ValueError
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    write_all(sys.stdout, text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def unwritten(why: str) -> DeepnotesError:
    """Return the error for what did not arrive at stdout."""
    return DeepnotesError(f"cannot write to stdout: {why}")


def say(text: str) -> None:
    """Write text that is escaped already to stderr, if that can be written to."""
    stream = stderr()
    stream.write(f"{text}\n")
    stream.flush()


def cell(text: str, style: str = "") -> "Text":
    """Return text for a table of rich's, with everything but line breaks escaped."""
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
    """Return a value fit for JSON: None in place of each number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value
