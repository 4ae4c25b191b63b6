"""The report of ``deepnotes bench``: some cases, all contenders, and a sweep around the first case."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deepnotes.testing.bench import advice, page, runs, sweep
from deepnotes.testing.bench.advice import Rows
from deepnotes.testing.bench.cases import Case
from deepnotes.testing.bench.contenders import Contender, contenders, network, select_backends
from deepnotes.testing.bench.limits import Ceilings, ceilings, location
from deepnotes.testing.bench.machine import machine
from deepnotes.testing.bench.runs import Measurement
from deepnotes.utils.errors import ArgumentError
from deepnotes.utils.wording import reason

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MIN_SWEEP_SECONDS = 5.0
"""The time for the sweep, even if everything before it has used up the total."""

PATIENCE = 2
"""A case is left out if it would take more than this multiple of the total time."""

OnProgress = Callable[[str, float, str], None]
"""Called with the current activity, the finished share of the work, and a line to keep on the screen or ``""``."""


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
        The points of the sweep over width and batch.
    absent : dict of str to str
        The reasons why backends and cases were left out.
    ready : dict of str to float
        The seconds that each contender took until its first step was done, compilation included.
    """

    contenders: list[Contender]
    limits: dict[str, Ceilings]
    rounds: int
    machine: dict[str, Any] = field(default_factory=machine)
    steps: list[Measurement] = field(default_factory=list)
    predictions: list[list[Measurement]] = field(default_factory=list)
    swept: list[Measurement] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    ready: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def tables(self) -> list[tuple[str, Rows]]:
        """Return the title and the rows of each case's table."""
        return [
            (f"{s['network']}, batch {s['batch']:,}, {s['dtype']}, Adam", advice.rows(s, p, self.contenders))
            for s, p in zip(self.steps, self.predictions, strict=True)
        ]

    def advice(self) -> list[str]:
        """Return the recommendations for training and predicting in each case."""
        sentences = []
        for s, predictions in zip(self.steps, self.predictions, strict=True):
            sentences.append(advice.advice(f"training with batches of {s['batch']:,}", s, self.contenders))
            for p in predictions:
                what = "one sample" if p["batch"] == 1 else f"{p['batch']:,} samples"
                sentences.append(advice.advice(f"predicting {what}", p, self.contenders))
        return list(dict.fromkeys(sentences))

    def facts(self) -> list[tuple[str, str]]:
        """Return labels and texts: limits of the machine, backends and cases left out, and the total time."""
        facts = [(f"at best, {where}", _describe(limits)) for where, limits in self.limits.items()]
        slow = [f"{who} after {seconds:.1f} s" for who, seconds in self.ready.items() if seconds > 0.5]
        if slow:
            facts.append(("ready", ", ".join(slow)))
        facts += [(f"without {what}", why) for what, why in self.absent.items()]
        undrawn: dict[str, list[str]] = {}
        for (name, batch), why in sweep.skipped(self.swept):
            undrawn.setdefault(why, []).append(f"{name}, batch {batch:,}")
        facts += [("not drawn", f"{'; '.join(those)}: {why}") for why, those in undrawn.items()]
        about = f"{self.machine['processor']}, {self.machine['cores']} cores; {self.rounds} rounds"
        return [*facts, ("measured", f"{about}, {self.seconds:.0f} s")]

    def crossover(self) -> "Figure":
        """Plot the time of a step over width and batch."""
        from deepnotes.testing.bench import figures

        first = self.steps[0]
        titles = {"width": f"by width, batch {first['batch']:,}", "batch": f"by batch size, {first['network']}"}
        axes = {titles["width"]: "neurons of each hidden layer", titles["batch"]: "samples in a batch"}
        panels = {titles[name]: line for name, line in sweep.lines(self.swept).items()}
        return figures.crossover(panels, axes, f"One training step around {first['network']}, {first['dtype']}")

    def html(self) -> str:
        """Return the report as an HTML page."""
        from deepnotes.testing.bench import figures

        parts = [page.heading("Recommendations"), page.listing(self.advice(), "advice")]
        for s, (title, rows) in zip(self.steps, self.tables(), strict=True):
            least = min(limit["microseconds"] for limit in s["limits"].values())
            drawn = figures.bars(s["microseconds"], least, f"One training step, {title}", s["unreliable"])
            times = ", ".join(f"{who} {us:,.4g} µs" for who, us in s["microseconds"].items())
            parts += [page.heading(title), page.table(rows), page.picture(figures.svg(drawn), f"Bars: {times}")]
        if self.swept:
            text = "Time of a training step over width and batch size, by backend and number of threads"
            parts += [
                page.heading("The fastest by width and batch size"),
                page.picture(figures.svg(self.crossover()), text),
            ]
            parts.append(page.table(self._swept_rows()))
        facts = [f"{name}: {what}" for name, what in self.facts()]
        parts += [page.heading("Limits, and cases left out"), page.listing(facts)]
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
    """Measure the cases on these backends and, on request, a sweep around the first one in the remaining time.

    Raises
    ------
    UnknownNameError
        If a backend is not registered.
    ArgumentError
        If no backend is available, or every case is too large or takes too long.
    """
    began = time.perf_counter()
    parts = _Progress(3 * len(cases), seconds / 2 if with_lines else 0.0, on_progress)
    found, absent = select_backends(backends)
    for name, why in absent.items():
        on_progress("", 0.0, f"without {name}: {why}")
    if not found:
        raise ArgumentError(f"none of the backends is available: {'; '.join(f'{n}: {w}' for n, w in absent.items())}")
    parts.next("the limits of this machine")
    limits = {location(backend): ceilings(backend, [cases[0].dtype]) for backend in _one_per_location(found)}
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
        left = max(MIN_SWEEP_SECONDS, seconds - (time.perf_counter() - began))
        report.swept = sweep.sweep(sweep.around(fitting[0]), report.contenders, limits, left, 3, parts.point)
    report.seconds = time.perf_counter() - began
    return report


class _Progress:
    """Reports the finished share of the work: parts of equal size, then a sweep of a given number of seconds."""

    def __init__(self, parts: int, sweep_seconds: float, on_progress: OnProgress) -> None:
        self.sweep = sweep_seconds
        self.total, self.done, self.on_progress = parts + 1 + sweep_seconds, 0.0, on_progress

    def next(self, what: str) -> None:
        self.on_progress(what, self.done / self.total, "")
        self.done += 1

    def point(self, point: sweep.Point, number: int, left: float) -> None:
        done = self.done + max(0.0, self.sweep - left)
        what = f"{point.case.network}, batch {point.case.batch:,}: {left:.0f} s left"
        self.on_progress(what, min(1.0, done / self.total), "")


def _one_per_location(backends: Sequence[Any]) -> list[Any]:
    return list({location(backend): backend for backend in backends}.values())


def _too_long(case: Case, report: Report, seconds: float) -> str | None:
    """Return why a case takes too long to measure, or None."""
    needed = sum(runs.estimate_seconds(case, c, report.limits, report.rounds) for c in report.contenders)
    if needed <= PATIENCE * seconds:
        return None
    limit = f"wanted at most {PATIENCE * seconds:,.0f} s; --seconds {needed / PATIENCE:,.0f} allows it"
    return f"takes {needed:,.0f} s or more, {limit}, or fewer --backends or --rounds"


def _first_step(contender: Contender, case: Case) -> float:
    """Return the seconds of the first step and prediction, with imports and compilation."""
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


def _describe(limits: Ceilings) -> str:
    """Return the ceilings as text."""
    products = ", ".join(f"{rate / 1e9:,.0f} Gflop/s in {dtype}" for dtype, rate in limits.flops.items())
    (_, near), (_, far) = limits.copies[0], limits.copies[-1]
    bandwidths = f"{far / 1e9:,.0f} GB/s in memory, {near / 1e9:,.0f} in a cache"
    return f"{products}; {bandwidths}; {limits.call * 1e6:.1f} µs per call"
