"""What a command says, and where: the report, the log, and the one JSON object."""

import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from deepnotes.errors import ArgumentError, DeepnotesError
from deepnotes.wording import reason

if TYPE_CHECKING:
    from rich.console import RenderableType


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

    def report(self, text: str) -> None:
        """Write `text` for people."""
        if not self.quiet:
            _write(sys.stderr if self.as_json else sys.stdout, text)

    def facts(self, facts: Iterable[tuple[str, str]]) -> None:
        """Write lines of a name and what there is to say about it, aligned."""
        facts = list(facts)
        width = max(8, *(len(name) for name, _ in facts))
        self.report("\n".join(f"{name:<{width}}  {text}" for name, text in facts))

    def log(self, text: str) -> None:
        """Write `text` to stderr."""
        if not self.quiet:
            _write(sys.stderr, text)

    def show(self, renderable: "RenderableType") -> None:
        """Write something of rich's: coloured and folded on a terminal, plain and unfolded elsewhere."""
        from rich.console import Console

        stream = sys.stderr if self.as_json else sys.stdout
        console = Console(file=stream) if stream.isatty() else Console(file=stream, width=1000)
        with console.capture() as captured:
            console.print(renderable)
        self.report("\n".join(line.rstrip() for line in captured.get().splitlines()))

    def waiting(self, text: str) -> AbstractContextManager[object]:
        """Return a context in which a terminal shows that work is under way; it must write nothing to stdout."""
        if self.quiet or not sys.stderr.isatty():
            return nullcontext()
        from rich.console import Console
        from rich.text import Text

        return Console(file=sys.stderr).status(Text(text))

    @contextmanager
    def progress(self) -> Iterator[Callable[[str, float], None]]:
        """Yield a function that shows what is done and how much of all, from 0 to 1: on a terminal, else nowhere."""
        if self.quiet or not sys.stderr.isatty():
            yield lambda what, share: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        console = Console(file=sys.stderr)
        with Progress(
            BarColumn(bar_width=24), TextColumn("{task.description}"), console=console, transient=True
        ) as bar:
            task = bar.add_task("", total=1.0)
            yield lambda what, share: bar.update(task, completed=share, description=what)

    def outcome(self, outcome: Mapping[str, Any]) -> None:
        """Write the JSON object, if it was asked for; what is not finite becomes null."""
        if self.as_json:
            _write(sys.stdout, json.dumps(finite(outcome), allow_nan=False))


def complain(text: str) -> None:
    """Write what went wrong to stderr, after the name of the program."""
    _write(sys.stderr, f"deepnotes: {text}")


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


def require_writable(path: Path, *inputs: str, special: bool = False, option: str = "--output") -> None:
    """Raise an error if `path` cannot be written, before any work is done for it.

    Parameters
    ----------
    path : Path
    *inputs : str
        Files that the command reads, which it must not overwrite.
    special : bool, default False
        Whether `path` may be a pipe or a device.
    option : str, default "--output"
        What it was given by.

    Raises
    ------
    ArgumentError, DeepnotesError
    """
    if path.is_dir():
        raise DeepnotesError(f"cannot write {path}: it is a directory")
    if path.exists():
        for name in inputs:
            if Path(name).exists() and path.samefile(name):
                raise ArgumentError(f"{option} {path} is what the command reads, and would be lost")
    if path.exists() and not path.is_file():
        if special:
            return
        raise DeepnotesError(f"cannot write {path}: it is no regular file")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise DeepnotesError(f"cannot write {path}: {reason(error)}") from None


def finite(value: Any) -> Any:
    """Return a value fit for JSON: None in place of each number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


def _write(stream: TextIO, text: str) -> None:
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "replace").decode(encoding) + "\n")
    stream.flush()
