"""``deepnotes conformance``: check that a backend computes what the equations define."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepnotes.cli.arguments import add_backend, add_threads, chosen_backend
from deepnotes.cli.arguments import add_json_to_file as add_json
from deepnotes.cli.output import Output, cell, format_count, replace_nonfinite
from deepnotes.cli.output_paths import require_output_paths, writing
from deepnotes.utils.atomic_files import replacing
from deepnotes.utils.errors import DeepnotesError
from deepnotes.utils.wording import one_line

if TYPE_CHECKING:
    from deepnotes.testing import Report, Result
    from deepnotes.testing.runner import Verdict

__all__ = ["HELP", "add_json", "configure", "run"]

HELP = "Check a backend against the equations, and compare its errors with their bounds."
NAMED = 10
"""The largest number of failed checks that are named after the check that may explain them; the table has them all."""
MARKS = {"passed": ("pass", "green"), "failed": ("FAIL", "bold red"), "known gap": ("gap", "yellow")}
"""The text and the style of each verdict in the table."""
SUMMARY_WORDS: tuple[tuple["Verdict", str], ...] = (
    ("passed", "passed"),
    ("failed", "failed"),
    ("known gap", "known gaps"),
    ("not applicable", "not applicable"),
)
"""The verdicts in the order of the summary, each with the words that follow its count there."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``conformance``."""
    add_backend(parser)
    add_threads(parser)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="use fewer and smaller inputs, to finish in less than a minute, compilation aside",
    )
    parser.add_argument(
        "--check",
        action="append",
        metavar="PATTERN",
        help="run only the checks whose names match, such as 'equations.*'; may be given several times (default: all)",
    )


def run(args: argparse.Namespace, output: Output) -> None:
    """Run the checks and show their results.

    Raises
    ------
    DeepnotesError
        If a check failed.
    """
    from deepnotes.testing import run as run_checks

    backend = chosen_backend(args)
    path = Path(args.json) if isinstance(args.json, str) else None
    require_output_paths({"--json": path})
    with output.progress() as show:

        def on_result(result: "Result", number: int, total: int) -> None:
            show(f"{number} of {total}: {result.check}", number / total)

        report = run_checks(backend, checks=args.check, quick=args.quick, on_result=on_result)
    _show(report, output)
    if args.debug:
        for result in report.results:
            if result.traceback:
                output.report(f"\n{result.check}\n{result.traceback.rstrip()}")
    content = {"command": "conformance", **report.as_dict()}
    if path is not None:
        with writing(path), replacing(path, text=True) as file:
            file.write(json.dumps(replace_nonfinite(content), indent=1, allow_nan=False) + "\n")
        output.report(f"report    {path}")
    output.outcome(content)
    if not report.passed:
        raise DeepnotesError(
            f"backend {report.backend!r} fails {report.count('failed')} of {len(report.results)} checks"
        )


def _show(report: "Report", output: Output) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("", "check", "worst / bound", "location, or error"):
        justify: Any = "right" if heading.startswith("worst") else "left"
        table.add_column(heading, header_style="bold", overflow="fold", justify=justify)
    for result in report.results:
        mark, style = MARKS.get(result.verdict, ("n/a", "dim"))
        description = one_line(result.message or result.where)
        if result.traceback:
            description = description.removeprefix("raised ")  # as the column before says
        if result.causes:
            description = f"may follow from {', '.join(result.causes)}: {description}"
        table.add_row(cell(mark, style), cell(result.check), _format_ratio(result), cell(description))
    output.show(table)
    seconds = sum(result.seconds for result in report.results)
    counts = [f"{report.count(verdict)} {word}" for verdict, word in SUMMARY_WORDS if report.count(verdict)]
    compared = sum(result.compared for result in report.results)
    output.report("")
    summary = f"{', '.join(counts)}; {compared:,} numbers in {seconds:.1f} s{', quick' if report.quick else ''}"
    output.facts([*report.environment.items(), ("checks", summary)])
    _list_failures(report, output)


def _list_failures(report: "Report", output: Output) -> None:
    """Report each failed check that no other failure explains, and how many others it may explain."""
    causes = report.causes()
    if not causes:
        return
    messages = {result.check: one_line(result.message) for result in report.results}
    output.report("\nfailed checks, causes first:")
    for check, effects in causes.items():
        output.report(f"  {check}: {messages[check]}")
        if effects:
            more = f" and {len(effects) - NAMED:,} more" if len(effects) > NAMED else ""
            names = f"{', '.join(effects[:NAMED])}{more}"
            output.report(f"    may explain {format_count(len(effects), 'other failure')}: {names}")
    if any(result.traceback for result in report.results):
        output.report("--debug shows the tracebacks of errors that the backend raised")


def _format_ratio(result: "Result") -> str:
    """Format the worst error of a check as a multiple of its bound."""
    if result.verdict == "not applicable":
        return ""
    if result.verdict == "failed" and result.traceback:
        return "raised"
    if result.verdict == "failed" and result.worst <= 1:
        return ""  # the error is not that of a number: another dtype or shape, a value that is no array
    return "exact" if result.worst == 0 else f"{result.worst:.2f}" if result.worst < 1e6 else "wrong"
