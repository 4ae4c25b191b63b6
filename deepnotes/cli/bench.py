"""``deepnotes bench``: find the fastest backend and number of threads for a network on this machine."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from deepnotes.cli.arguments import add_json_to_file as add_json
from deepnotes.cli.arguments import whole_number
from deepnotes.cli.output import Output, cell, replace_nonfinite
from deepnotes.cli.output_paths import require_output_paths, writing
from deepnotes.plots import require_matplotlib
from deepnotes.utils.arguments import float_dtype
from deepnotes.utils.atomic_files import replacing
from deepnotes.utils.errors import ArgumentError
from deepnotes.utils.wording import one_line

if TYPE_CHECKING:
    from deepnotes.testing.bench.report import Report

__all__ = ["HELP", "add_json", "configure", "run"]

HELP = "Time the backends on a network of your choice, and recommend a backend and a number of threads."
SECONDS = 50
"""The default of --seconds."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``bench``."""
    parser.add_argument(
        "--layers",
        type=_network_sizes,
        default=(64, 128, 10),
        metavar="SIZES",
        help="the number of inputs, the sizes of the hidden layers, and the number of outputs (default: 64,128,10); "
        "the hidden layers use ReLU, and the last layer uses sigmoid if it has one output, or else softmax",
    )
    parser.add_argument(
        "--batch",
        type=_list_of(whole_number(1)),
        default=[64],
        metavar="SIZES",
        help="the batch sizes to try, separated by commas (default: 64)",
    )
    parser.add_argument(
        "--backends",
        type=_list_of(str),
        default=["all"],
        metavar="NAMES",
        help="the names of the backends to time, separated by commas, or 'all' (the default); backends that do not "
        "work here are reported and skipped",
    )
    parser.add_argument(
        "--threads",
        type=_list_of(whole_number(1)),
        metavar="NUMBERS",
        help="the numbers of threads to try, separated by commas (default: 1, 2, 4, ... and all cores)",
    )
    parser.add_argument("--dtype", default="float32", metavar="NAME", help="float32 (the default) or float64")
    parser.add_argument(
        "--rounds",
        type=whole_number(1),
        default=7,
        metavar="NUMBER",
        help="the number of measurements of each backend (default: 7)",
    )
    parser.add_argument(
        "--plot",
        metavar="FILE",
        help="write a plot of the times against layer width and batch size to a .png, .svg or .pdf file",
    )
    parser.add_argument("--html", metavar="FILE", help="write the whole report, with plots, as a single HTML page")
    parser.add_argument(
        "--seconds",
        type=whole_number(1),
        default=SECONDS,
        metavar="NUMBER",
        help="the approximate time limit of the whole command in seconds, including --plot and --html "
        f"(default: {SECONDS})",
    )
    parser.add_argument("--quiet", action="store_true", help="write only errors and the JSON object")


def run(args: argparse.Namespace, output: Output) -> None:
    """Time the cases, report the results, and write the requested files."""
    from deepnotes.testing.bench.cases import Case
    from deepnotes.testing.bench.report import measure

    cases = [Case(args.layers, batch, float_dtype(args.dtype)) for batch in dict.fromkeys(args.batch)]
    require_output_paths({f"--{name}": path for name, path in _output_paths(args).items()})
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
            on_progress=_progress_callback(show, output),
        )
    _show(report, output)
    _write_files(report, args, output)
    output.outcome({"command": "bench", **report.as_dict()})


def _progress_callback(show: Callable[[str, float], None], output: Output) -> Callable[[str, float, str], None]:
    """Return a callback that shows the current step and the completed share, and logs the message, if there is one."""

    def report_progress(step: str, share: float, message: str = "") -> None:
        show(step, share)
        if message:
            output.log(one_line(message))

    return report_progress


def _show(report: "Report", output: Output) -> None:
    from rich.table import Table

    from deepnotes.testing.bench.advice import FOOTNOTE, UNRELIABLE_MARK

    for title, rows in report.tables():
        head, *body = rows
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), title=title, title_justify="left")
        for column, heading in enumerate(head):
            table.add_column(heading, header_style="bold", justify="right" if column else "left")
        for row in body:
            table.add_row(*map(cell, row))
        output.show(table)
        if any(text.startswith(UNRELIABLE_MARK) for row in body for text in row):
            output.report(FOOTNOTE)
        output.report("")
    output.report("\n".join(report.advice()))
    output.report("")
    output.facts(report.facts())


def _write_files(report: "Report", args: argparse.Namespace, output: Output) -> None:
    """Write the requested files, and report their paths."""
    written = []
    writers: dict[str, tuple[str, Callable[[IO[Any]], object]]] = {
        "plot": ("figure", lambda file: _write_plot(report, args.plot, file)),
        "html": ("page", lambda file: file.write(report.html().encode())),
        "json": ("results", lambda file: file.write(_to_json(report).encode())),
    }
    for option, path in _output_paths(args).items():
        description, write = writers[option]
        with writing(path), replacing(path) as file:
            write(file)
        written.append((description, str(path)))
    if written:
        output.facts(written)


def _output_paths(args: argparse.Namespace) -> dict[str, Path]:
    """Return the paths of the requested files, by option."""
    paths = {"plot": args.plot, "html": args.html, "json": args.json if isinstance(args.json, str) else None}
    return {option: Path(path) for option, path in paths.items() if path is not None}


def _write_plot(report: "Report", path: str, file: IO[Any]) -> None:
    from deepnotes.testing.bench import figures

    figures.save(report.crossover(), file, Path(path).suffix[1:].lower())


def _to_json(report: "Report") -> str:
    return json.dumps(replace_nonfinite({"command": "bench", **report.as_dict()}), indent=1, allow_nan=False) + "\n"


def _network_sizes(text: str) -> tuple[int, ...]:
    """Convert a string such as ``64,128,10`` to the numbers of inputs, hidden neurons and outputs."""
    sizes = tuple(_list_of(whole_number(1))(text))
    if len(sizes) < 2:
        raise argparse.ArgumentTypeError(
            f"got {text!r}, wanted at least the numbers of inputs and outputs, such as 64,10"
        )
    return sizes


def _list_of(convert: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """Return an option type that accepts values separated by commas."""

    def split(text: str) -> list[Any]:
        return [convert(part.strip(" ")) for part in text.split(",")]

    return split
