"""Command-line options that the benchmarks share. Wrong usage exits with status 2; unavailable backends are skipped."""

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
    """Return a parser with the options that the benchmarks share.

    Parameters
    ----------
    doc : str or None
        The docstring of the benchmark; its first line becomes the description.
    rounds : int
        The default number of rounds.
    """
    shared = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    shared.add_argument("--backends", default="all", help="names separated by commas; default: all available backends")
    shared.add_argument("--rounds", type=int, default=rounds, help=f"measurements of each contender; default: {rounds}")
    shared.add_argument("--json", type=Path, help="file for the results")
    return shared


class Options:
    """The parsed and checked options of a benchmark.

    Attributes
    ----------
    backends : list of str
        The names of the requested backends that are available.
    rounds : int
    json : Path or None
        The file for the results.
    given : argparse.Namespace
        All arguments, including those that only this benchmark has.
    """

    def __init__(self, command_line: argparse.ArgumentParser) -> None:
        self.command_line, self.given = command_line, command_line.parse_args()
        self.rounds: int = self.given.rounds
        self.json: Path | None = self.given.json
        if self.rounds < 1:
            command_line.error(f"--rounds {self.rounds}: wanted at least 1")
        try:
            available, missing = select_backends(self.given.backends.split(","))
        except UnknownNameError as error:
            command_line.error(f"--backends: {error}")
        for name, why in missing.items():
            self.leave_out(name, why)
        self.backends = [backend.name for backend in available]
        if not available:
            command_line.error("--backends: none of these is available")

    def known(self, option: str, names: Iterable[str]) -> list[str]:
        """Return the names given for `option`; exit with an error if one of them is not among `names`."""
        names = list(names)
        given = [name for name in getattr(self.given, option.lstrip("-")).split(",") if name]
        unknown = [name for name in given if name not in names]
        if unknown:
            self.command_line.error(f"{option}: unknown: {', '.join(unknown)}; wanted names from {', '.join(names)}")
        return given

    def say(self, text: str) -> None:
        """Report progress on stderr."""
        print(text, file=sys.stderr, flush=True)  # noqa: T201

    def leave_out(self, what: str, why: str | None) -> bool:
        """If there is a reason `why` to leave out `what`, report it and return True; if `why` is None, return False."""
        if why is not None:
            self.say(f"without {what}: {why}")
        return why is not None

    def with_progress(self, cases: Iterable[str]) -> Iterator[str]:
        """Yield the cases one by one; before each, report its name and the estimated remaining time."""
        cases = list(cases)
        began = time.perf_counter()
        for number, case in enumerate(cases):
            elapsed = time.perf_counter() - began
            left = f", about {elapsed / number * (len(cases) - number):.0f} s left" if number else ""
            self.say(f"{number + 1} of {len(cases)}: {case}{left}")
            yield case

    @cached_property
    def limits(self) -> dict[str, PerformanceLimits]:
        """The performance limits of the machine and of each device, by location; they are measured on first access."""
        backends = {location(get_backend(name)): get_backend(name) for name in ["numpy", *self.backends]}
        return {where: measure_limits(backend) for where, backend in backends.items()}

    @property
    def ceilings(self) -> dict[str, Any]:
        """The limits as JSON values."""
        return {where: limits.as_dict() for where, limits in self.limits.items()}
