"""``deepnotes conformance``: whether a backend computes what the equations say."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from deepnotes.cli.arguments import add_backend, add_threads, chosen_backend
from deepnotes.cli.output import Output, cell, finite
from deepnotes.cli.output_paths import require_output_paths, writing
from deepnotes.utils.atomic import replacing
from deepnotes.utils.errors import DeepnotesError
from deepnotes.utils.wording import one_line

if TYPE_CHECKING:
    from deepnotes.testing import Report, Result
    from deepnotes.testing.runner import Verdict

HELP = "Hold a backend to the equations, and report how closely it keeps to them."
MARKS = {"passed": ("pass", "green"), "failed": ("FAIL", "bold red"), "known gap": ("gap", "yellow")}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``conformance``."""
    add_backend(parser)
    add_threads(parser)
    parser.add_argument("--quick", action="store_true", help="fewer and smaller inputs: less than a minute")
    parser.add_argument(
        "--check",
        action="append",
        metavar="PATTERN",
        help="make only these checks, such as 'equations.*' (again for more; default: all)",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the option --json, which takes a file here."""
    parser.add_argument(
        "--json",
        nargs="?",
        const=True,
        default=False,
        metavar="FILE",
        help="write the report as JSON, to stdout or FILE",
    )


def run(args: argparse.Namespace, output: Output) -> None:
    """Make the checks, show the table, and fail if one of them did."""
    from deepnotes.testing import run as make

    backend = chosen_backend(args)
    path = Path(args.json) if isinstance(args.json, str) else None
    require_output_paths({"--json": path})
    with output.progress() as show:

        def on_result(result: "Result", number: int, of: int) -> None:
            show(f"{number} of {of}: {result.check}", number / of)

        report = make(backend, checks=args.check, quick=args.quick, on_result=on_result)
    _show(report, output)
    content = {"command": "conformance", **report.as_dict()}
    if path is not None:
        with writing(path), replacing(path, text=True) as file:
            file.write(json.dumps(finite(content), indent=1, allow_nan=False) + "\n")
        output.report(f"report    {path}")
    output.outcome(content)
    if not report.passed:
        raise DeepnotesError(
            f"backend {report.backend!r} fails {report.count('failed')} of {len(report.results)} checks"
        )


def _show(report: "Report", output: Output) -> None:
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("", "check", "worst / bound", "where, or what is wrong"):
        right = heading.startswith("worst")
        shown.add_column(heading, header_style="bold", overflow="fold", justify="right" if right else "left")
    for result in report.results:
        mark, style = MARKS.get(result.verdict, ("n/a", "dim"))
        shown.add_row(
            cell(mark, style), cell(result.check), _times(result), cell(one_line(result.message or result.where))
        )
    output.show(shown)
    seconds = sum(result.seconds for result in report.results)
    counts = [f"{report.count(verdict)} {word}" for verdict, word in WORDS if report.count(verdict)]
    compared = sum(result.compared for result in report.results)
    output.report("")
    made = f"{', '.join(counts)}; {compared:,} numbers in {seconds:.1f} s{', quick' if report.quick else ''}"
    output.facts([*report.environment.items(), ("checks", made)])


WORDS: tuple[tuple["Verdict", str], ...] = (
    ("passed", "passed"),
    ("failed", "failed"),
    ("known gap", "known gaps"),
    ("not applicable", "not applicable"),
)


def _times(result: "Result") -> str:
    """Return the worst error as a multiple of its bound."""
    if result.verdict == "not applicable":
        return ""
    return "exact" if result.worst == 0 else f"{result.worst:.2f}" if result.worst < 1e6 else "wrong"
