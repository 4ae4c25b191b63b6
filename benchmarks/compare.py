"""Compare the speed of two checkouts, or two files of results: ``python -m benchmarks.compare OLD NEW``.

    python -m benchmarks.compare ../before . --backends numpy,numba
    python -m benchmarks.compare before/steps.json benchmarks/results/steps.json

If OLD and NEW are directories, each holds a checkout. The two checkouts train in turns, so that each round gives a pair
of times. The change of a case is the median of the ratios new / old; its noise is half the interquartile range of these
ratios, relative to their median.

Otherwise, OLD and NEW are two files of the same kind from ``benchmarks/results/``, measured at different times. The
noise of a case then combines the noise in both files. If both files also have the times of the matrix products alone,
all changes are relative to the change of the products, so that a slower machine does not look like slower code.

With ``--strict`` the exit code is 1 if a case became slower.
"""

import argparse
import json
import statistics
from collections.abc import Iterator
from math import hypot
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.networks import NETWORKS
from benchmarks.paired import Pairs, compare_checkouts
from deepnotes.testing.bench.advice import format_number
from deepnotes.testing.bench.timing import UNRELIABLE

REFERENCE = "products"
"""The contender that computes only the matrix products, with NumPy."""
MIN_TIME_CHANGE = 0.05
"""Smaller changes of times are not reported: a different layout of the program in memory can cause them."""
MIN_MEMORY_CHANGE = 0.1
"""The smallest reported change of memory use."""
MIN_COUNT_CHANGE = 0.002
"""The smallest reported change of instruction counts."""


class Value(NamedTuple):
    """The measured value of a case, its relative noise, and the smallest relative change to report."""

    value: float
    noise: float
    min_change: float = MIN_TIME_CHANGE


class Change(NamedTuple):
    """A case's old and new values, the factor between them, and the relative noise of this factor."""

    case: str
    old: float
    new: float
    factor: float
    noise: float

    @property
    def verdict(self) -> str:
        """``"slower"``, ``"faster"``, or an empty string if the change is within the noise."""
        if abs(self.factor - 1) <= self.noise:
            return ""
        return "slower" if self.factor > 1 else "faster"


def values(content: dict[str, Any]) -> dict[str, dict[str, Value]]:
    """Return the measured values in a file of results, by case and contender."""
    return {case: dict(_case_values(result)) for case, result in _iterate_cases(content["results"])}


def _iterate_cases(results: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for point in results.get("points", []):
        yield f"{point['network']}, batch {point['batch']:,}", point
    yield from ((case, result) for case, result in results.items() if case != "points")


def _case_values(result: dict[str, Any]) -> Iterator[tuple[str, Value]]:
    scatter = result.get("scatter", {})
    for contender, us in result.get("microseconds", {}).items():
        share = scatter.get(contender)
        yield contender, Value(us, (UNRELIABLE if share is None else share) / 2)
    for kind in ("first", "warm"):
        if kind in result:
            minimum, median, maximum = result[kind]
            yield kind, Value(median, (maximum - minimum) / median / 2)
    for layout, megabytes in result.get("growth", {}).items():
        yield layout, Value(megabytes, 0.0, MIN_MEMORY_CHANGE)
    if "per_step" in result:
        yield "instructions", Value(result["per_step"], 0.0, MIN_COUNT_CHANGE)


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    """Return the change of each case that both files have."""
    result = []
    old_values, new_values = values(old), values(new)
    for case, by_contender in old_values.items():
        for contender, before in by_contender.items():
            after = new_values.get(case, {}).get(contender)
            if after is None:
                continue
            factor, noise = after.value / max(before.value, 1e-9), hypot(before.noise, after.noise)
            if contender != REFERENCE and REFERENCE in by_contender and REFERENCE in new_values[case]:
                reference, new_reference = by_contender[REFERENCE], new_values[case][REFERENCE]
                factor /= new_reference.value / reference.value
                noise = hypot(noise, reference.noise, new_reference.noise)
            noise = max(noise, before.min_change)
            result.append(Change(f"{case}: {contender}", before.value, after.value, factor, noise))
    return result


def paired_changes(pairs: dict[str, Pairs]) -> list[Change]:
    """Return the change of each case between two checkouts, in microseconds per step."""
    return [
        Change(
            case,
            statistics.median(times.old) * 1e6,
            statistics.median(times.new) * 1e6,
            times.factor,
            max(UNRELIABLE / 2 if times.noise is None else times.noise, MIN_TIME_CHANGE),
        )
        for case, times in pairs.items()
    ]


def only_in_one(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return a message for each case that only one of the files has."""
    before, after = (
        {f"{case}: {contender}" for case, by_contender in values(content).items() for contender in by_contender}
        for content in (old, new)
    )
    return [f"only the old file has {case}" for case in sorted(before - after)] + [
        f"only the new file has {case}" for case in sorted(after - before)
    ]


def main() -> None:
    """Print the changes of all cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path, help="a checkout, or a file of results")
    parser.add_argument("new", type=Path, help="another checkout or file, of the same kind")
    parser.add_argument("--all", action="store_true", help="show all cases, not only those that changed")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a case became slower")
    checkouts = parser.add_argument_group("for checkouts")
    checkouts.add_argument("--backends", default="numpy,numba", help="separated by commas; default: numpy,numba")
    checkouts.add_argument(
        "--networks",
        default=",".join(NETWORKS),
        help=f"names separated by commas, from {', '.join(NETWORKS)}; default: all",
    )
    checkouts.add_argument("--rounds", type=int, default=15, help="pairs of timings per case; default: 15")
    options = parser.parse_args()
    compare = _compare_checkouts if options.old.is_dir() and options.new.is_dir() else _compare_files
    result, remarks = compare(parser, options)
    console = Console(width=140, soft_wrap=True)
    console.print(_make_table([change for change in result if options.all or change.verdict]))
    for remark in remarks:
        console.print(remark, markup=False)
    slower, faster = ([change for change in result if change.verdict == verdict] for verdict in ("slower", "faster"))
    console.print(f"{len(result)} cases: {len(slower)} slower, {len(faster)} faster, the others within the noise")
    if options.strict and slower:
        raise SystemExit(1)


def _compare_files(parser: argparse.ArgumentParser, options: argparse.Namespace) -> tuple[list[Change], list[str]]:
    """Return the changes between two files, and remarks on what else differs."""
    try:
        old, new = (json.loads(path.read_text(encoding="utf-8")) for path in (options.old, options.new))
        result, remarks = changes(old, new), only_in_one(old, new)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        parser.error(f"wanted two checkouts or two files of results: {type(error).__name__}: {error}")
    if not result:
        parser.error("the two files have no case in common")
    for name in ("processor", "cores", "python", "versions", "blas", "commit"):
        before, after = old["machine"].get(name), new["machine"].get(name)
        if before != after:
            remarks.append(f"{name}: {before} before, {after} now")
    return result, remarks


def _compare_checkouts(parser: argparse.ArgumentParser, options: argparse.Namespace) -> tuple[list[Change], list[str]]:
    """Return the changes between two checkouts, and remarks on the cases that could not be timed."""
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: wanted at least 1")
    names = options.networks.split(",")
    unknown = [name for name in names if name not in NETWORKS]
    if unknown:
        parser.error(f"--networks: unknown: {', '.join(unknown)}; wanted names from {', '.join(NETWORKS)}")
    cases = {name: NETWORKS[name] for name in names}
    pairs, failures = compare_checkouts(options.old, options.new, cases, options.backends.split(","), options.rounds)
    if not pairs:
        parser.error(f"no case could be timed: {next(iter(failures.values()))}")
    return paired_changes(pairs), [f"{case} was not compared: {reason}" for case, reason in failures.items()]


def _make_table(changes: list[Change]) -> Table:
    table = Table("case", "before", "now", "change", "noise", "", box=None)
    for column in table.columns[1:5]:
        column.justify = "right"
    for change in changes:
        table.add_row(
            change.case,
            format_number(change.old),
            format_number(change.new),
            f"{change.factor - 1:+.1%}",
            f"±{change.noise:.1%}",
            change.verdict,
        )
    return table


if __name__ == "__main__":
    main()
