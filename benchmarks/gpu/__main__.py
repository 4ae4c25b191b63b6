"""Compare the speed of the CuPy backend on a GPU with that of PyTorch and JAX.

    python -m benchmarks.gpu
    python -m benchmarks.gpu --only 'steps*batch 128*' --add --minutes 1
    python -m benchmarks.gpu --conformance

It requires a checkout, CuPy and NumPy; PyTorch and JAX are also measured if they are installed. Each library runs in a
process of its own, and in each part they take turns. The most important parts come first. Each has a limit of its own,
and none starts after ``--minutes``; parts that are left out are named. The results are written after each part, so an
interrupted run keeps those of the parts that are done.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gpu.checkout import ROOT, make_importable

make_importable()

from benchmarks.gpu import cases, measure, record, rivals  # noqa: E402 - make_importable comes first
from benchmarks.gpu.measure import OURS, Deadline  # noqa: E402
from benchmarks.gpu.worker import Worker, WorkerError  # noqa: E402
from deepnotes.testing.bench.machine import machine  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "gpu.json"
WIDTHS, BATCHES = (8, 32, 128, 512, 2048), (1, 16, 128, 1024, 8192)
UPDATE_PARAMETERS = 64 << 20
"""The number of parameters in the timed update. θ, the gradient and each slot take 256 MiB, more than any cache."""
START_SECONDS = 60.0
"""The maximum time in which a library has to be imported and to open the GPU."""
LEAST_SECONDS = 5.0
"""A part does not start if less time than this is left."""


class Part(NamedTuple):
    """A part of the benchmark.

    Attributes
    ----------
    name : str
    seconds : float
        The maximum time that it may take.
    libraries : sequence of str
        The names of the libraries besides deepnotes.
    run : callable
        Runs the part for these libraries' processes until a deadline, and returns its results.
    on_request : bool
        Whether an option asks for the part; then ``--minutes`` does not limit it.
    """

    name: str
    seconds: float
    libraries: Sequence[str]
    run: Callable[[Mapping[str, Worker], Deadline], dict[str, Any]]
    on_request: bool = False


def parts(rounds: int, libraries: Sequence[str]) -> list[Part]:
    """Return the parts in the order in which they run, the most important first."""

    def steps(case: cases.Case, precision: str, libraries: Sequence[str]) -> Part:
        run = partial(measure.steps, case, precision, rounds)
        return Part(f"steps, {case.name}, {precision}", 45, libraries, run)

    def predictions(sizes: tuple[int, ...], samples: int) -> Part:
        name = f"predict, {'-'.join(map(str, sizes))}, {samples:,}"
        return Part(name, 20, ["pytorch"], partial(measure.predictions, sizes, samples, rounds))

    return [
        *(steps(case, precision, libraries) for case, precision in cases.STEPS),
        *(predictions(*case) for case in cases.PREDICTIONS),
        *(steps(cases.WIDE, precision, []) for precision in ("bfloat16", "float32")),
        Part("streaming", 40, [], partial(measure.streaming, cases.STREAMING, cases.STREAMED_SAMPLES, rounds)),
        Part("limits", 15, [], partial(measure.limits, UPDATE_PARAMETERS)),
        *(steps(case, precision, ["pytorch graph", "jax"]) for case, precision in cases.MORE_STEPS),
    ]


def parts_on_request(options: argparse.Namespace) -> list[Part]:
    """Return the parts that an option asks for."""
    selected = []
    if options.conformance:
        for precision in cases.PRECISIONS:
            selected.append(Part(f"conformance, {precision}", 600, [], partial(measure.conformance, precision), True))
    if options.crossover:
        selected.append(Part("crossover", 600, [], partial(measure.crossover, WIDTHS, BATCHES), True))
    return selected


class Run:
    """A run of the benchmark.

    Parameters
    ----------
    path : Path
        The file for the results.
    results : dict
        Earlier results, which are kept.

    Attributes
    ----------
    workers : dict of str to Worker
        The libraries' processes.
    results : dict
        The results by part.
    left_out : dict of str to str
        For each library and part that is left out, the reason.
    """

    def __init__(self, path: Path, results: dict[str, Any]) -> None:
        self.workers: dict[str, Worker] = {}
        self.results, self.left_out = results, dict[str, str]()
        self._path, self._environment, self._began = path, machine(), time.monotonic()

    def say(self, text: str) -> None:
        """Report progress on stderr."""
        sys.stderr.write(f"[{time.monotonic() - self._began:5.1f} s] {text}\n")
        sys.stderr.flush()

    def leave_out(self, what: str, why: str) -> None:
        """Leave out a library or a part."""
        self.left_out[what] = why
        self.say(f"without {what}: {why}")

    def start(self, libraries: Mapping[str, Callable[[], Any]]) -> None:
        """Start the processes of all libraries at once, and leave out those that fail.

        Raises
        ------
        WorkerError
            If deepnotes fails.
        """
        self.workers = {name: Worker(make) for name, make in libraries.items()}
        for worker in self.workers.values():
            worker.start()
        deadline = Deadline(START_SECONDS)
        for name, worker in list(self.workers.items()):
            try:
                worker.wait(deadline.left)
                self.say(f"{name} is ready")
            except WorkerError as error:
                if name == OURS:
                    raise
                self.leave_out(name, str(error))
                del self.workers[name]
        self._environment["device"] = self.workers[OURS].call("describe", seconds=START_SECONDS)

    def stop(self) -> None:
        """End all processes."""
        for worker in self.workers.values():
            worker.stop()

    def run(self, part: Part, seconds: float, later: Sequence[Part]) -> None:
        """Run a part, and write its results and the names of the `later` parts, in case that this is the last one."""
        self.say(part.name)
        workers = {name: w for name, w in self.workers.items() if name == OURS or name in part.libraries}
        try:
            result = part.run(workers, Deadline(seconds))
        except Exception as error:  # the other parts still run
            result = {"error": f"{type(error).__name__}: {error}"}
        self.results[part.name] = result
        self.write({other.name: "the benchmark was interrupted" for other in later})
        for line in filter(None, record.tables({part.name: result}).splitlines()):
            self.say(f"    {line}")

    def write(self, interrupted: Mapping[str, str] | None = None) -> None:
        """Write the results."""
        record.write(self._path, self._environment, self.results, self.left_out | dict(interrupted or {}))


def main(argv: list[str] | None = None, libraries: Mapping[str, Callable[[], Any]] | None = None) -> int:
    """Run the parts; return 0, or 1 if deepnotes failed in one, or 2 if there is no GPU.

    `libraries` has, by name, the functions that create the objects in the libraries' processes; deepnotes is the first.
    """
    options, parser = _parse(argv)
    budget, run = Deadline(60 * options.minutes), Run(options.out, record.read(options.out) if options.add else {})
    libraries = _installed(options, run) if libraries is None else libraries
    everything = [*parts(options.rounds, list(libraries)), *parts_on_request(options)]
    selected = [part for part in everything if fnmatchcase(part.name, options.only)]
    if not selected:
        parser.error(f"--only {options.only!r} matches none of: {'; '.join(part.name for part in everything)}")
    started = False
    try:
        for number, part in enumerate(selected):
            left = part.seconds if part.on_request else min(part.seconds, budget.left)
            if left < LEAST_SECONDS:
                run.leave_out(part.name, f"the {options.minutes:g} minutes were over")
                continue
            if not started:
                names = {OURS, *(library for part in selected for library in part.libraries)}
                run.start({name: make for name, make in libraries.items() if name in names})
                started = True
            run.run(part, left, selected[number + 1 :])
        if started:
            run.write()
    except WorkerError as error:
        sys.stderr.write(f"nothing measured: {error}\n")
        return 2
    finally:
        run.stop()
    ours = [r for r in run.results.values() if "error" in r or r.get("failures") or OURS in r.get("missing", {})]
    if started:
        sys.stdout.write(f"{record.tables(run.results)}\n\nresults   {options.out}\n")
    return int(bool(ours))


def _parse(argv: list[str] | None) -> tuple[argparse.Namespace, argparse.ArgumentParser]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0, help="about how long to measure (default: 5)")
    parser.add_argument("--device", type=int, default=0, help="number of the GPU (default: 0)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each library per case (default: 3)")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="parts to run, such as 'steps*' (default: all)")
    parser.add_argument("--add", action="store_true", help="keep the results of the other parts that are in the file")
    parser.add_argument("--compiled", action="store_true", help="also measure torch.compile")
    parser.add_argument("--conformance", action="store_true", help="also run conformance, beyond --minutes")
    parser.add_argument("--crossover", action="store_true", help="also compare with the host, beyond --minutes")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE", help="file for the results")
    options = parser.parse_args(argv)
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: wanted at least 1")
    if not options.minutes >= 0:
        parser.error(f"--minutes {options.minutes}: wanted at least 0")
    return options, parser


def _installed(options: argparse.Namespace, run: Run) -> dict[str, Callable[[], Any]]:
    """Return the functions for deepnotes and for the rivals that are installed, and name the packages that are not."""
    libraries: dict[str, Callable[[], Any]] = {OURS: partial(rivals.Deepnotes, options.device)}
    for name, make in rivals.RIVALS.items():
        package = "jax" if name == "jax" else "torch"
        if find_spec(package) is None:
            run.left_out.setdefault(package, "it is not installed")
        elif options.compiled or name != "pytorch compiled":
            libraries[name] = make
    for package, why in run.left_out.items():
        run.say(f"without {package}: {why}")
    return libraries


if __name__ == "__main__":
    sys.exit(main())
