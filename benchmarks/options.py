"""Command-line options that the benchmarks share; wrong usage exits with code 2, unavailable backends are skipped."""

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from deepnotes.backends.registry import get_backend
from deepnotes.testing.bench.contenders import select_backends
from deepnotes.testing.bench.limits import PerformanceLimits, location, measure_limits
from deepnotes.utils.errors import UnknownNameError


def parser(doc: str | None, rounds: int = 7) -> argparse.ArgumentParser:
    """Return a parser with the options of all benchmarks."""
    shared = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    shared.add_argument("--backends", default="all", help="separated by commas; default: all available ones")
    shared.add_argument("--rounds", type=int, default=rounds, help=f"turns per contender; default: {rounds}")
    shared.add_argument("--json", type=Path, help="file for the results")
    return shared


class Options:
    """The checked options.

    Attributes
    ----------
    backends : list of str
        The names of the available ones.
    rounds : int
    json : Path or None
    given : argparse.Namespace
        All arguments.
    """

    def __init__(self, line: argparse.ArgumentParser) -> None:
        self.line, self.given = line, line.parse_args()
        self.rounds: int = self.given.rounds
        self.json: Path | None = self.given.json
        if self.rounds < 1:
            line.error(f"--rounds {self.rounds}: wanted at least 1")
        try:
            found, missing = select_backends(self.given.backends.split(","))
        except UnknownNameError as error:
            line.error(f"--backends: {error}")
        for name, why in missing.items():
            self.leave_out(name, why)
        self.backends = [backend.name for backend in found]
        if not found:
            line.error("--backends: none of them is available")

    def known(self, option: str, names: Iterable[str]) -> list[str]:
        """Return the names given for an option; exit if one of them is unknown."""
        names = list(names)
        given = [name for name in getattr(self.given, option.lstrip("-")).split(",") if name]
        unknown = [name for name in given if name not in names]
        if unknown:
            self.line.error(f"{option}: there is no {', '.join(unknown)}; there are {', '.join(names)}")
        return given

    def say(self, text: str) -> None:
        """Report progress."""
        print(text, file=sys.stderr, flush=True)  # noqa: T201

    def leave_out(self, what: str, why: str | None) -> bool:
        """Report that something is left out, unless the reason is None; return whether it is left out."""
        if why is not None:
            self.say(f"without {what}: {why}")
        return why is not None

    def in_turn(self, cases: Iterable[str]) -> Iterator[str]:
        """Yield the cases, and report the start of each and the estimated remaining time."""
        cases = list(cases)
        began = time.perf_counter()
        for number, case in enumerate(cases):
            spent = time.perf_counter() - began
            left = f", about {spent / number * (len(cases) - number):.0f} s left" if number else ""
            self.say(f"{number + 1} of {len(cases)}: {case}{left}")
            yield case

    @cached_property
    def limits(self) -> dict[str, PerformanceLimits]:
        """The ceilings of the machine and of each device, measured on first access."""
        backends = {location(get_backend(name)): get_backend(name) for name in ["numpy", *self.backends]}
        return {where: measure_limits(backend) for where, backend in backends.items()}

    @property
    def ceilings(self) -> dict[str, Any]:
        """The limits as JSON values."""
        return {where: limits.as_dict() for where, limits in self.limits.items()}
