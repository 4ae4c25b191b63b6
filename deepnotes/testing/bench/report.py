"""The report of ``deepnotes bench``: one network, some batches, all contenders, and a sweep around it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deepnotes.testing.bench import advice, page, runs, sweep
from deepnotes.testing.bench.advice import Rows
from deepnotes.testing.bench.cases import Case
from deepnotes.testing.bench.contenders import Contender, chosen, contenders, network
from deepnotes.testing.bench.limits import Ceilings, ceilings, place
from deepnotes.testing.bench.machine import machine
from deepnotes.testing.bench.runs import Found
from deepnotes.utils.errors import ArgumentError
from deepnotes.utils.wording import reason

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEAST_SWEEP = 5.0
"""The seconds for the sweep even if compilation has used up the time."""

PATIENCE = 2
"""A case that takes more than this multiple of the total seconds is left out."""

OnProgress = Callable[[str, float, str], None]
"""Called with the current activity, the share of the work that is done, and a line to keep, or an empty one."""


@dataclass
class Report:
    """The measurements of all contenders.

    Attributes
    ----------
    steps : list of dict
        The training step of each case.
    predictions : list of list of dict
        For each case, predictions of one sample and of a batch.
    swept : list of dict
        The points of the lines over width and batch.
    absent : dict of str to str
        Backends and cases that were left out, and why.
    ready : dict of str to float
        Seconds until the first step of each contender was made: imports, compilers and caches.
    """

    contenders: list[Contender]
    limits: dict[str, Ceilings]
    rounds: int
    machine: dict[str, Any] = field(default_factory=machine)
    steps: list[Found] = field(default_factory=list)
    predictions: list[list[Found]] = field(default_factory=list)
    swept: list[Found] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    ready: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def tables(self) -> list[tuple[str, Rows]]:
        """Return a title and rows for each case."""
        return [
            (f"{s['network']}, batch {s['batch']:,}, {s['dtype']}, Adam", advice.rows(s, p, self.contenders))
            for s, p in zip(self.steps, self.predictions, strict=True)
        ]

    def advice(self) -> list[str]:
        """Return the recommendations for each case: to train, and to predict."""
        told = []
        for s, predictions in zip(self.steps, self.predictions, strict=True):
            told.append(advice.advice(f"training with batches of {s['batch']:,}", s, self.contenders))
            for p in predictions:
                what = "one sample" if p["batch"] == 1 else f"{p['batch']:,} samples"
                told.append(advice.advice(f"predicting {what}", p, self.contenders))
        return list(dict.fromkeys(told))

    def facts(self) -> list[tuple[str, str]]:
        """Return the limits of the machine, what was left out, and the time that everything took."""
        told = [(f"at best, {where}", _worded(limits)) for where, limits in self.limits.items()]
        slow = [f"{who} after {seconds:.1f} s" for who, seconds in self.ready.items() if seconds > 0.5]
        if slow:
            told.append(("ready", ", ".join(slow)))
        told += [(f"without {what}", why) for what, why in self.absent.items()]
        undrawn: dict[str, list[str]] = {}
        for (name, batch), why in sweep.skipped(self.swept):
            undrawn.setdefault(why, []).append(f"{name}, batch {batch:,}")
        told += [("not drawn", f"{'; '.join(those)}: {why}") for why, those in undrawn.items()]
        about = f"{self.machine['processor']}, {self.machine['cores']} cores; {self.rounds} rounds"
        return [*told, ("measured", f"{about}, {self.seconds:.0f} s")]

    def crossover(self) -> "Figure":
        """Return the lines over width and batch."""
        from deepnotes.testing.bench import figures

        first = self.steps[0]
        titles = {"width": f"over the width, batch {first['batch']:,}", "batch": f"over the batch, {first['network']}"}
        axes = {titles["width"]: "neurons of each hidden layer", titles["batch"]: "samples of a batch"}
        panels = {titles[name]: line for name, line in sweep.lines(self.swept).items()}
        return figures.crossover(panels, axes, f"One training step around {first['network']}, {first['dtype']}")

    def html(self) -> str:
        """Return everything as one page."""
        from deepnotes.testing.bench import figures

        parts = [page.heading("What to take"), page.listing(self.advice(), "advice")]
        for s, (title, rows) in zip(self.steps, self.tables(), strict=True):
            least = min(limit["microseconds"] for limit in s["limits"].values())
            drawn = figures.bars(s["microseconds"], least, f"One training step, {title}", s["unreliable"])
            told = ", ".join(f"{who} {us:,.4g} µs" for who, us in s["microseconds"].items())
            parts += [page.heading(title), page.table(rows), page.picture(figures.svg(drawn), f"Bars: {told}")]
        if self.swept:
            told = "Lines of the time of a training step over width and batch, one for each backend and threads"
            parts += [page.heading("Where one overtakes another"), page.picture(figures.svg(self.crossover()), told)]
            parts.append(page.table(self._swept_rows()))
        facts = [f"{name}: {what}" for name, what in self.facts()]
        parts += [page.heading("Limits and what was left out"), page.listing(facts)]
        parts += [page.heading("Machine"), page.facts(self.machine)]
        return page.page("deepnotes bench", parts)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        best = [advice.best(found, self.contenders) for found in self.steps]
        return {
            "machine": self.machine,
            "rounds": self.rounds,
            "seconds": round(self.seconds, 1),
            "use": [
                {
                    "network": found["network"],
                    "batch": found["batch"],
                    "backend": b.contender.backend.name,
                    "threads": b.contender.threads,
                    "environment": b.contender.environment,
                    "equals": b.equals,
                    "reliable": b.sure,
                }
                for found, b in zip(self.steps, best, strict=True)
            ],
            "ceilings": {where: limits.as_dict() for where, limits in self.limits.items()},
            "ready": {who: round(seconds, 2) for who, seconds in self.ready.items()},
            "steps": self.steps,
            "predictions": [found for both in self.predictions for found in both],
            "sweep": self.swept,
            "absent": self.absent,
        }

    def _swept_rows(self) -> Rows:
        names = [c.name for c in self.contenders]
        rows = [["network, batch", *(f"{name}, µs" for name in names)]]
        for p in self.swept:
            case = f"{p['network']}, {p['batch']:,}"
            cells = [advice.timed(p, who) for who in names] if "microseconds" in p else ["left out"] * len(names)
            rows.append([case, *cells])
        return rows


def measure(
    cases: Sequence[Case],
    backends: Sequence[str],
    threads: Sequence[int] | None,
    rounds: int,
    with_lines: bool = False,
    seconds: float = 50.0,
    on_progress: OnProgress = lambda what, share, line: None,
) -> Report:
    """Measure the cases on these backends and, on request, a sweep around the first in the remaining seconds.

    Raises
    ------
    UnknownNameError
        If a backend is not registered.
    ArgumentError
        If nothing is left to measure: no backend works, or every case is too large for the memory.
    """
    began = time.perf_counter()
    parts = _Shares(3 * len(cases), seconds / 2 if with_lines else 0.0, on_progress)
    found, absent = chosen(backends)
    for name, why in absent.items():
        on_progress("", 0.0, f"without {name}: {why}")
    if not found:
        raise ArgumentError(f"none of the backends works here: {'; '.join(f'{n}: {w}' for n, w in absent.items())}")
    parts.next("the limits of this machine")
    limits = {place(backend): ceilings(backend, [cases[0].dtype]) for backend in _one_of_each_place(found)}
    report = Report(contenders(found, threads), limits, rounds, absent=absent)
    fitting = []
    for case in cases:
        why_not = case.too_large(case.batch) or _too_long(case, report, seconds)
        if why_not is None:
            fitting.append(case)
        else:
            absent[f"{case.network}, batch {case.batch:,}"] = why_not
            on_progress("", 0.0, f"without {case.network}, batch {case.batch:,}: {why_not}")
    if not fitting:
        raise ArgumentError(f"too large for this machine: {next(iter(reversed(absent.values())))}")
    for case in fitting:
        parts.next(f"{case.network}, batch {case.batch:,}: the first steps")
        report.ready |= {c.name: _first_step(c, case) for c in report.contenders if c.name not in report.ready}
        parts.next(f"{case.network}, batch {case.batch:,}: training")
        report.steps.append(runs.steps(case, report.contenders, limits, rounds))
        parts.next(f"{case.network}, batch {case.batch:,}: predicting")
        samples = [case._replace(batch=m) for m in dict.fromkeys([1, case.batch])]
        report.predictions.append([runs.predictions(c, report.contenders, limits, rounds) for c in samples])
    if with_lines:
        left = max(LEAST_SWEEP, seconds - (time.perf_counter() - began))
        report.swept = sweep.sweep(sweep.around(fitting[0]), report.contenders, limits, left, 3, parts.point)
    report.seconds = time.perf_counter() - began
    return report


class _Shares:
    """The share of the work that is done: parts of equal size, then a sweep of a number of seconds."""

    def __init__(self, parts: int, sweep_seconds: float, on_progress: OnProgress) -> None:
        self.sweep = sweep_seconds
        self.all, self.done, self.tell = parts + 1 + sweep_seconds, 0.0, on_progress

    def next(self, what: str) -> None:
        self.tell(what, self.done / self.all, "")
        self.done += 1

    def point(self, point: sweep.Point, number: int, left: float) -> None:
        done = self.done + max(0.0, self.sweep - left)
        what = f"{point.case.network}, batch {point.case.batch:,}: {left:.0f} s left"
        self.tell(what, min(1.0, done / self.all), "")


def _one_of_each_place(backends: Sequence[Any]) -> list[Any]:
    return list({place(backend): backend for backend in backends}.values())


def _too_long(case: Case, report: Report, seconds: float) -> str | None:
    """Return the reason to skip a case that takes far too long, or None."""
    needed = sum(runs.reckoned(case, c, report.limits, report.rounds) for c in report.contenders)
    if needed <= PATIENCE * seconds:
        return None
    return (
        f"takes {needed:,.0f} s or more; --seconds {needed / PATIENCE:,.0f}, or fewer --backends or --rounds, allow it"
    )


def _first_step(contender: Contender, case: Case) -> float:
    """Return the time until the first step and the first prediction are done: imports, compilers, caches."""
    X, y = case.data(case.batch)
    began = time.perf_counter()
    try:
        with contender.execution_context():
            net = network(contender.backend, case)
            net.fit(X.T, y, epochs=1, batch_size=case.batch)
            net.predict(X.T)
    except MemoryError as error:
        raise ArgumentError(f"{case.network}, batch {case.batch:,}: {contender.name}: {reason(error)}") from None
    return time.perf_counter() - began


def _worded(limits: Ceilings) -> str:
    """Return the ceilings in words."""
    products = ", ".join(f"{rate / 1e9:,.0f} Gflop/s in {dtype}" for dtype, rate in limits.flops.items())
    (_, near), (_, far) = limits.copies[0], limits.copies[-1]
    return (
        f"{products}; {far / 1e9:,.0f} GB/s in memory, {near / 1e9:,.0f} in a cache; {limits.call * 1e6:.1f} µs a call"
    )
