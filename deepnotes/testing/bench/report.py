"""The report of ``deepnotes bench``: all contenders measured on several cases, and on a sweep around the first case."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deepnotes.testing.bench import advice, page, runs, sweep
from deepnotes.testing.bench.advice import Rows
from deepnotes.testing.bench.cases import Case
from deepnotes.testing.bench.contenders import Contender, contenders, network, select_backends
from deepnotes.testing.bench.limits import PerformanceLimits, location, measure_limits
from deepnotes.testing.bench.machine import machine
from deepnotes.testing.bench.runs import Measurement
from deepnotes.utils.errors import ArgumentError
from deepnotes.utils.wording import reason

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MIN_SWEEP_SECONDS = 5.0
"""The minimum time for the sweep, even if the total time is already used up."""

MAX_CASE_TIME = 2
"""A case is left out if it would take more than this many times the total time."""

OnProgress = Callable[[str, float, str], None]
"""A function that is called with the current activity, the finished share of the work, and a line of text that stays on
the screen, or an empty string."""


@dataclass
class Report:
    """The measurements of all contenders.

    Attributes
    ----------
    contenders : list of Contender
    limits : dict of str to PerformanceLimits
        The limits of the machine, by location.
    rounds : int
        The number of rounds in which each contender was timed.
    machine : dict
        A description of the machine.
    steps : list of Measurement
        For each case, the times of a training step.
    predictions : list of list of Measurement
        For each case, the times of predictions for one sample and for a batch.
    sweep_points : list of Measurement
        The points of the sweep over width and batch size.
    absent : dict of str to str
        The reasons why backends and cases were left out.
    startup_seconds : dict of str to float
        The time of each contender's first step and prediction, including compilation.
    seconds : float
        The total time of all measurements.
    """

    contenders: list[Contender]
    limits: dict[str, PerformanceLimits]
    rounds: int
    machine: dict[str, Any] = field(default_factory=machine)
    steps: list[Measurement] = field(default_factory=list)
    predictions: list[list[Measurement]] = field(default_factory=list)
    sweep_points: list[Measurement] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    startup_seconds: dict[str, float] = field(default_factory=dict)
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
        """Return pairs of a label and a text: the machine's limits, backends and cases left out, and the total time."""
        facts = [(f"at best, {place}", _describe(limits)) for place, limits in self.limits.items()]
        slow = [f"{name} after {seconds:.1f} s" for name, seconds in self.startup_seconds.items() if seconds > 0.5]
        if slow:
            facts.append(("ready", ", ".join(slow)))
        facts += [(f"without {name}", why) for name, why in self.absent.items()]
        skipped: dict[str, list[str]] = {}
        for (name, batch), why in sweep.skipped(self.sweep_points):
            skipped.setdefault(why, []).append(f"{name}, batch {batch:,}")
        facts += [("not drawn", f"{'; '.join(points)}: {why}") for why, points in skipped.items()]
        machine = f"{self.machine['processor']}, {self.machine['cores']} cores; {self.rounds} rounds"
        return [*facts, ("measured", f"{machine}, {self.seconds:.0f} s")]

    def crossover(self) -> "Figure":
        """Plot the time of a training step against width and batch size."""
        from deepnotes.testing.bench import figures

        first = self.steps[0]
        titles = {"width": f"by width, batch {first['batch']:,}", "batch": f"by batch size, {first['network']}"}
        x_labels = {titles["width"]: "neurons of each hidden layer", titles["batch"]: "samples in a batch"}
        panels = {titles[name]: line for name, line in sweep.lines(self.sweep_points).items()}
        return figures.crossover(panels, x_labels, f"One training step around {first['network']}, {first['dtype']}")

    def html(self) -> str:
        """Return the report as an HTML page."""
        from deepnotes.testing.bench import figures

        parts = [page.heading("Recommendations"), page.bullet_list(self.advice(), "advice")]
        for s, (title, rows) in zip(self.steps, self.tables(), strict=True):
            limit = min(limit["microseconds"] for limit in s["limits"].values())
            figure = figures.bars(s["microseconds"], limit, f"One training step, {title}", s["unreliable"])
            times = ", ".join(f"{name} {us:,.4g} µs" for name, us in s["microseconds"].items())
            parts += [page.heading(title), page.table(rows), page.picture(figures.svg(figure), f"Bars: {times}")]
        if self.sweep_points:
            text = "Time of a training step against width and batch size, by backend and number of threads"
            parts += [
                page.heading("The fastest by width and batch size"),
                page.picture(figures.svg(self.crossover()), text),
            ]
            parts.append(page.table(self._sweep_rows()))
        facts = [f"{label}: {text}" for label, text in self.facts()]
        parts += [page.heading("Limits, and cases left out"), page.bullet_list(facts)]
        parts += [page.heading("Machine"), page.facts(self.machine)]
        return page.page("deepnotes bench", parts)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        best = [advice.best(step, self.contenders) for step in self.steps]
        return {
            "machine": self.machine,
            "rounds": self.rounds,
            "seconds": round(self.seconds, 1),
            "use": [
                {
                    "network": step["network"],
                    "batch": step["batch"],
                    "backend": b.contender.backend.name,
                    "threads": b.contender.threads,
                    "environment": b.contender.environment,
                    "equals": b.equivalents,
                    "reliable": b.is_reliable,
                }
                for step, b in zip(self.steps, best, strict=True)
            ],
            "ceilings": {place: limits.as_dict() for place, limits in self.limits.items()},
            "ready": {name: round(seconds, 2) for name, seconds in self.startup_seconds.items()},
            "steps": self.steps,
            "predictions": [prediction for predictions in self.predictions for prediction in predictions],
            "sweep": self.sweep_points,
            "absent": self.absent,
        }

    def _sweep_rows(self) -> Rows:
        """Return the table of the sweep: for each point, the time of each contender."""
        names = [c.name for c in self.contenders]
        rows = [["network, batch", *(f"{name}, µs" for name in names)]]
        for p in self.sweep_points:
            case = f"{p['network']}, {p['batch']:,}"
            cells = (
                [advice.format_median(p, name) for name in names] if "microseconds" in p else ["left out"] * len(names)
            )
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
    """Measure all cases with all contenders, and if `with_lines`, a sweep around the first case.

    Parameters
    ----------
    cases : sequence of Case
    backends : sequence of str
        The names of backends, or ``["all"]``.
    threads : sequence of int or None
        The numbers of threads; by default, 1, 2, 4, ... and the number of cores.
    rounds : int
        The number of rounds in which each contender is timed.
    with_lines : bool, default False
        Whether to use the remaining time for a sweep over width and batch size.
    seconds : float, default 50.0
        The total time to aim for.
    on_progress : callable, optional

    Raises
    ------
    UnknownNameError
        If a backend is not registered.
    ArgumentError
        If no backend is available, or every case is too large or takes too long.
    """
    start = time.perf_counter()
    progress = _Progress(3 * len(cases), seconds / 2 if with_lines else 0.0, on_progress)
    available, absent = select_backends(backends)
    for name, why in absent.items():
        on_progress("", 0.0, f"without {name}: {why}")
    if not available:
        raise ArgumentError(f"none of the backends is available: {'; '.join(f'{n}: {w}' for n, w in absent.items())}")
    progress.next("the limits of this machine")
    limits = {location(backend): measure_limits(backend, [cases[0].dtype]) for backend in _one_per_location(available)}
    report = Report(contenders(available, threads), limits, rounds, absent=absent)
    feasible = []
    for case in cases:
        problem = case.too_large(case.batch) or _too_long(case, report, seconds)
        if problem is None:
            feasible.append(case)
        else:
            absent[f"{case.network}, batch {case.batch:,}"] = problem
            on_progress("", 0.0, f"without {case.network}, batch {case.batch:,}: {problem}")
    if not feasible:
        raise ArgumentError(f"no case can be measured: {next(iter(reversed(absent.values())))}")
    for case in feasible:
        progress.next(f"{case.network}, batch {case.batch:,}: the first steps")
        report.startup_seconds |= {
            c.name: _first_step(c, case) for c in report.contenders if c.name not in report.startup_seconds
        }
        progress.next(f"{case.network}, batch {case.batch:,}: training")
        report.steps.append(runs.steps(case, report.contenders, limits, rounds))
        progress.next(f"{case.network}, batch {case.batch:,}: predicting")
        samples = [case._replace(batch=m) for m in dict.fromkeys([1, case.batch])]
        report.predictions.append([runs.predictions(c, report.contenders, limits, rounds) for c in samples])
    if with_lines:
        left = max(MIN_SWEEP_SECONDS, seconds - (time.perf_counter() - start))
        points = sweep.around(feasible[0])
        report.sweep_points = sweep.sweep(points, report.contenders, limits, left, 3, progress.start_point)
    report.seconds = time.perf_counter() - start
    return report


class _Progress:
    """Reports the finished share of the work.

    Measuring the limits of the machine and each of the `parts` counts as one second, and the sweep as `sweep_seconds`.
    """

    def __init__(self, parts: int, sweep_seconds: float, on_progress: OnProgress) -> None:
        self.sweep_seconds = sweep_seconds
        self.total, self.done, self.on_progress = parts + 1 + sweep_seconds, 0.0, on_progress

    def next(self, activity: str) -> None:
        """Report that the next part begins."""
        self.on_progress(activity, self.done / self.total, "")
        self.done += 1

    def start_point(self, point: sweep.Point, number: int, left: float) -> None:
        """Report that a point of the sweep begins, with `left` seconds left."""
        done = self.done + max(0.0, self.sweep_seconds - left)
        activity = f"{point.case.network}, batch {point.case.batch:,}: {left:.0f} s left"
        self.on_progress(activity, min(1.0, done / self.total), "")


def _one_per_location(backends: Sequence[Any]) -> list[Any]:
    """Return one of the backends for each location."""
    return list({location(backend): backend for backend in backends}.values())


def _too_long(case: Case, report: Report, seconds: float) -> str | None:
    """Return a message if a case would take too long to measure, else None."""
    needed = sum(runs.estimate_seconds(case, c, report.limits, report.rounds) for c in report.contenders)
    if needed <= MAX_CASE_TIME * seconds:
        return None
    wanted = f"wanted at most {MAX_CASE_TIME * seconds:,.0f} s"
    return (
        f"takes {needed:,.0f} s or more, {wanted}; use --seconds {needed / MAX_CASE_TIME:,.0f}, or fewer --backends or "
        "--rounds"
    )


def _first_step(contender: Contender, case: Case) -> float:
    """Return the seconds that the first step and prediction take, including imports and compilation."""
    X, y = case.data(case.batch)
    start = time.perf_counter()
    try:
        with contender.execution_context():
            net = network(contender.backend, case)
            net.fit(X.T, y, epochs=1, batch_size=case.batch)
            net.predict(X.T)
    except MemoryError as error:
        raise ArgumentError(f"{case.network}, batch {case.batch:,}: {contender.name}: {reason(error)}") from None
    return time.perf_counter() - start


def _describe(limits: PerformanceLimits) -> str:
    """Return the limits as text."""
    products = ", ".join(f"{rate / 1e9:,.0f} Gflop/s in {dtype}" for dtype, rate in limits.flops.items())
    (_, in_cache), (_, in_memory) = limits.copies[0], limits.copies[-1]
    bandwidths = f"{in_memory / 1e9:,.0f} GB/s in memory, {in_cache / 1e9:,.0f} in a cache"
    return f"{products}; {bandwidths}; {limits.call * 1e6:.1f} µs per call"
