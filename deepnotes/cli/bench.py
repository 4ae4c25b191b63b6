"""``deepnotes bench``: which backend and how many threads are the fastest for a network on this machine."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from deepnotes.cli.arguments import whole
from deepnotes.cli.conformance import add_json
from deepnotes.cli.output import Output, cell, finite
from deepnotes.cli.output_paths import require_output_paths, writing
from deepnotes.plots import require_matplotlib
from deepnotes.utils.arguments import float_dtype
from deepnotes.utils.atomic import replacing
from deepnotes.utils.errors import ArgumentError
from deepnotes.utils.wording import one_line

if TYPE_CHECKING:
    from deepnotes.testing.bench.report import Report

__all__ = ["HELP", "add_json", "configure", "run"]

HELP = "Time the backends on a network of yours, and say which to use and with how many threads."
SECONDS = 50


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``bench``."""
    parser.add_argument(
        "--layers",
        type=_sizes,
        default=(64, 128, 10),
        metavar="SIZES",
        help="inputs, hidden layers and outputs, such as 64,128,10 (the default); ReLU, then sigmoid or softmax",
    )
    parser.add_argument(
        "--batch",
        type=_list_of(whole(1)),
        default=[64],
        metavar="SIZES",
        help="samples of a mini-batch; several with commas between (default: 64)",
    )
    parser.add_argument(
        "--backends",
        type=_list_of(str),
        default=["all"],
        metavar="NAMES",
        help="with commas between, or 'all' (the default); one that does not work here is left out, by name",
    )
    parser.add_argument(
        "--threads",
        type=_list_of(whole(1)),
        metavar="NUMBERS",
        help="how many threads to try, with commas between (default: 1, 2, 4, ... and all cores)",
    )
    parser.add_argument("--dtype", default="float32", metavar="NAME", help="float32 (the default) or float64")
    parser.add_argument(
        "--rounds", type=whole(1), default=7, metavar="NUMBER", help="turns that each takes (default: 7)"
    )
    parser.add_argument("--plot", metavar="FILE", help="draw lines over width and batch to a .png, .svg or .pdf file")
    parser.add_argument("--html", metavar="FILE", help="write everything, figures included, to one HTML page")
    parser.add_argument(
        "--seconds",
        type=whole(1),
        default=SECONDS,
        metavar="NUMBER",
        help=f"about how long all may take, the lines of --plot and --html included (default: {SECONDS})",
    )
    parser.add_argument("--quiet", action="store_true", help="say nothing but errors, and the JSON object")


def run(args: argparse.Namespace, output: Output) -> None:
    """Time the cases, report, and write the requested files."""
    from deepnotes.testing.bench.cases import Case
    from deepnotes.testing.bench.report import measure

    cases = [Case(args.layers, batch, float_dtype(args.dtype)) for batch in dict.fromkeys(args.batch)]
    require_output_paths({f"--{name}": path for name, path in _paths(args).items()})
    if args.plot or args.html:
        require_matplotlib()
    if args.plot and Path(args.plot).suffix.lower() not in {".png", ".svg", ".pdf"}:
        raise ArgumentError(f"--plot {args.plot}: wanted a name that ends in .png, .svg or .pdf")
    with output.progress() as show:
        report = measure(
            cases,
            args.backends,
            args.threads,
            args.rounds,
            bool(args.plot or args.html),
            float(args.seconds),
            on_progress=_told(show, output),
        )
    _show(report, output)
    _write(report, args, output)
    output.outcome({"command": "bench", **report.as_dict()})


def _told(show: Callable[[str, float], None], output: Output) -> Callable[[str, float, str], None]:
    """Return the callback for progress: words and a share for the bar, and messages that get a line of their own."""

    def tell(what: str, share: float, line: str = "") -> None:
        show(what, share)
        if line:
            output.log(one_line(line))

    return tell


def _show(report: "Report", output: Output) -> None:
    from rich.table import Table

    from deepnotes.testing.bench.advice import DOUBT, FOOTNOTE

    for title, rows in report.tables():
        head, *body = rows
        shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), title=title, title_justify="left")
        for number, heading in enumerate(head):
            shown.add_column(heading, header_style="bold", justify="right" if number else "left")
        for row in body:
            shown.add_row(*map(cell, row))
        output.show(shown)
        if any(cell.startswith(DOUBT) for row in body for cell in row):
            output.report(FOOTNOTE)
        output.report("")
    output.report("\n".join(report.advice()))
    output.report("")
    output.facts(report.facts())


def _write(report: "Report", args: argparse.Namespace, output: Output) -> None:
    """Write the requested files."""
    written = []
    makers: dict[str, tuple[str, Callable[[IO[Any]], object]]] = {
        "plot": ("figure", lambda file: _draw(report, args.plot, file)),
        "html": ("page", lambda file: file.write(report.html().encode())),
        "json": ("results", lambda file: file.write(_as_json(report).encode())),
    }
    for name, path in _paths(args).items():
        what, make = makers[name]
        with writing(path), replacing(path) as file:
            make(file)
        written.append((what, str(path)))
    if written:
        output.facts(written)


def _paths(args: argparse.Namespace) -> dict[str, Path]:
    """Return the requested files, by option."""
    asked = {"plot": args.plot, "html": args.html, "json": args.json if isinstance(args.json, str) else None}
    return {name: Path(path) for name, path in asked.items() if path is not None}


def _draw(report: "Report", path: str, file: IO[Any]) -> None:
    from deepnotes.testing.bench import figures

    figures.save(report.crossover(), file, Path(path).suffix[1:].lower())


def _as_json(report: "Report") -> str:
    return json.dumps(finite({"command": "bench", **report.as_dict()}), indent=1, allow_nan=False) + "\n"


def _sizes(text: str) -> "tuple[int, ...]":
    sizes = tuple(_list_of(whole(1))(text))
    if len(sizes) < 2:
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted inputs and outputs at least, such as 64,10")
    return sizes


def _list_of(convert: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """Return the type of an option that takes comma-separated values."""

    def split(text: str) -> list[Any]:
        return [convert(part.strip(" ")) for part in text.split(",")]

    return split
