"""Which results changed by more than the noise: ``python -m benchmarks.compare OLD.json NEW.json``.

Each file is one of ``benchmarks/results/``, of the same kind. The noise of a case is what both runs scattered: half of
the middle half of each. Where the matrix products alone were timed beside it, in the same rounds, a change is reckoned
beside theirs, so that a machine that was slower that day does not pass for slower code. With ``--strict`` the exit code
is 1 if a case became slower.
"""

import argparse
import json
from collections.abc import Iterator
from math import hypot
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from deepnotes.testing.bench.advice import figure
from deepnotes.testing.bench.timing import UNRELIABLE

YARDSTICK = "products"
LEAST = 0.05
"""Smaller changes of times are not reported: another layout of the program in memory can cause them."""
COUNTS = 0.002
"""The noise of counted instructions."""


class Value(NamedTuple):
    """The figure of a case, the share of it that is noise, and the least change worth reporting."""

    figure: float
    noise: float
    least: float = LEAST


class Change(NamedTuple):
    """The change of a case: its factor, that of the yardstick, and how much of it may be noise."""

    case: str
    old: float
    new: float
    factor: float
    noise: float

    @property
    def verdict(self) -> str:
        """``slower``, ``faster``, or nothing."""
        if abs(self.factor - 1) <= self.noise:
            return ""
        return "slower" if self.factor > 1 else "faster"


def values(content: dict[str, Any]) -> dict[str, dict[str, Value]]:
    """Return the figures of a file of results, by case and contender."""
    return {case: dict(_values(result)) for case, result in _cases(content["results"])}


def _cases(results: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for point in results.get("points", []):
        yield f"{point['network']}, batch {point['batch']:,}", point
    yield from ((case, result) for case, result in results.items() if case != "points")


def _values(result: dict[str, Any]) -> Iterator[tuple[str, Value]]:
    scatter = result.get("scatter", {})
    for who, us in result.get("microseconds", {}).items():
        share = scatter.get(who)
        yield who, Value(us, (UNRELIABLE if share is None else share) / 2)
    for kind in ("first", "warm"):
        if kind in result:
            least, median, most = result[kind]
            yield kind, Value(median, (most - least) / median / 2)
    for form, megabytes in result.get("growth", {}).items():
        yield form, Value(megabytes, 0.0, 0.1)
    if "per_step" in result:
        yield "instructions", Value(result["per_step"], 0.0, COUNTS)


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    """Return the change of each case that both files have."""
    found = []
    before, after = values(old), values(new)
    for case in before:
        for who, was in before[case].items():
            now = after.get(case, {}).get(who)
            if now is None:
                continue
            factor, noise = now.figure / max(was.figure, 1e-9), hypot(was.noise, now.noise)
            if who != YARDSTICK and YARDSTICK in before[case] and YARDSTICK in after[case]:
                then, today = before[case][YARDSTICK], after[case][YARDSTICK]
                factor /= today.figure / then.figure
                noise = hypot(noise, then.noise, today.noise)
            found.append(Change(f"{case}: {who}", was.figure, now.figure, factor, max(noise, was.least)))
    return found


def only_in_one(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return the cases that only one of the files has."""
    before, after = ({f"{case}: {who}" for case, by in values(c).items() for who in by} for c in (old, new))
    return [f"only the old file has {case}" for case in sorted(before - after)] + [
        f"only the new file has {case}" for case in sorted(after - before)
    ]


def main() -> None:
    """Print what changed."""
    line = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    line.add_argument("old", type=Path)
    line.add_argument("new", type=Path)
    line.add_argument("--all", action="store_true", help="show what did not change, too")
    line.add_argument("--strict", action="store_true", help="exit with 1 if a case became slower")
    options = line.parse_args()
    try:
        old, new = (json.loads(path.read_text(encoding="utf-8")) for path in (options.old, options.new))
        found, missing = changes(old, new), only_in_one(old, new)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        line.error(f"these are not two files of results: {type(error).__name__}: {error}")
    if not found:
        line.error("the two files have no case in common")
    console = Console(width=140, soft_wrap=True)
    console.print(_table([change for change in found if options.all or change.verdict]))
    for told in missing:
        console.print(told)
    for name in ("processor", "cores", "python", "versions", "blas", "commit"):
        was, now = old["machine"].get(name), new["machine"].get(name)
        if was != now:
            console.print(f"{name}: {was} before, {now} now")
    slower, faster = ([c for c in found if c.verdict == v] for v in ("slower", "faster"))
    console.print(f"{len(found)} cases: {len(slower)} slower, {len(faster)} faster, the others within the noise")
    if options.strict and slower:
        raise SystemExit(1)


def _table(shown: list[Change]) -> Table:
    table = Table("case", "before", "now", "change", "noise", "", box=None)
    for column in table.columns[1:5]:
        column.justify = "right"
    for c in shown:
        table.add_row(c.case, figure(c.old), figure(c.new), f"{c.factor - 1:+.1%}", f"±{c.noise:.1%}", c.verdict)
    return table


if __name__ == "__main__":
    main()
