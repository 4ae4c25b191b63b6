"""Run all benchmarks, in under 20 minutes on two cores: ``python -m benchmarks.run``.

Each part runs in a separate process, which writes a file of results. If a part fails or takes too long, its old
results are kept, the other parts still run, and the failure is reported at the end. Then all tables, figures and the
report are redrawn. With ``--quick``, this is a trial run of a few minutes; its results are meaningless.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.report import RESULTS, ROOT


class Part(NamedTuple):
    """A benchmark to run.

    Attributes
    ----------
    name : str
        The name of the part and of its file of results.
    module : str
        The module in ``benchmarks``.
    arguments : tuple of str
        The arguments of the module's command.
    seconds : int
        The approximate duration.
    needs : str
        A program that must be installed, if any.
    """

    name: str
    module: str
    arguments: tuple[str, ...]
    seconds: int
    needs: str = ""


PARTS = [
    Part("steps", "steps", (), 330),
    Part("steps-float64", "steps", ("--dtype", "float64"), 75),
    Part("predictions", "predictions", (), 110),
    Part("estimators", "estimators", (), 70),
    Part("sweep", "sweep", ("--seconds", "200"), 220),
    Part("cold-start", "cold_start", (), 90),
    Part("memory", "memory", (), 30),
    Part("instructions", "instructions", (), 120, "valgrind"),
]
"""The parts in the order in which they run."""
QUICK = {
    "steps": ("--rounds", "1", "--networks", "tiny,mnist"),
    "steps-float64": ("--rounds", "1", "--networks", "tiny,mnist"),
    "predictions": ("--rounds", "1", "--networks", "tiny,digits"),
    "estimators": ("--rounds", "1", "--cases", "tiny-32"),
    "sweep": ("--rounds", "1", "--seconds", "20"),
    "cold-start": ("--rounds", "1", "--repeats", "1"),
}
TIMEOUT_FACTOR = 4
"""A part is killed after this multiple of its approximate duration, but not before `MIN_TIMEOUT`."""
MIN_TIMEOUT = 300
"""The shortest time after which a part is killed, in seconds."""


def run(part: Part, folder: Path, more: tuple[str, ...], timeout: float) -> str | None:
    """Run a part; return the reason if it fails, else None.

    Parameters
    ----------
    part : Part
    folder : Path
        The directory for the results.
    more : tuple of str
        Arguments in addition to those of the part.
    timeout : float
        The number of seconds after which the part is killed.
    """
    if part.needs and shutil.which(part.needs) is None:
        return f"{part.needs} is not installed"
    path = folder / f"{part.name}.json"
    command = [sys.executable, "-m", f"benchmarks.{part.module}", *part.arguments, *more, "--json", str(path)]
    began = time.time()
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True) as process:
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # including the processes that it started
            return f"killed after {timeout:.0f} s"
        except BaseException:  # Ctrl-C, which does not reach a process in its own session
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode:
        return f"exit code {process.returncode}"
    return None if path.exists() and path.stat().st_mtime >= began - 1 else "wrote no results"


def main() -> None:
    """Run the parts, redraw tables and figures, and report failures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backends", default="all", help="names separated by commas; default: all available backends")
    parser.add_argument("--parts", default=",".join(part.name for part in PARTS), help="default: all")
    parser.add_argument(
        "--results",
        type=Path,
        default=RESULTS,
        help="directory for the results; tables are redrawn only if it is the default directory",
    )
    parser.add_argument("--quick", action="store_true", help="measure only one round, for some of the networks")
    options = parser.parse_args()
    names = options.parts.split(",")
    unknown = set(names) - {part.name for part in PARTS}
    if unknown:
        known = ", ".join(part.name for part in PARTS)
        parser.error(f"--parts: unknown: {', '.join(sorted(unknown))}; wanted names from {known}")
    options.results.mkdir(parents=True, exist_ok=True)
    folder = options.results.resolve()
    parts = [part for part in PARTS if part.name in names]
    began, failed = time.perf_counter(), {}
    for number, part in enumerate(parts):
        left = sum(later.seconds for later in parts[number:])
        elapsed = time.perf_counter() - began
        times = f"{elapsed / 60:.1f} min elapsed, about {left / 60:.0f} min left"
        _say(f"== {number + 1} of {len(parts)}: {part.name}; {times}")
        more = ("--backends", options.backends, *(QUICK.get(part.name, ()) if options.quick else ()))
        why = run(part, folder, more, max(TIMEOUT_FACTOR * part.seconds, MIN_TIMEOUT))
        if why is not None:
            failed[part.name] = why
    if folder == RESULTS.resolve():
        _say("== redrawing tables, figures and the report")
        if subprocess.run([sys.executable, "-m", "benchmarks.redraw"], cwd=ROOT, check=False).returncode:
            failed["redraw"] = "see above"
    _say(f"== {time.perf_counter() - began:.0f} s in total; results in {options.results}")
    for name, why in failed.items():
        _say(f"failed: {name}: {why}")
    raise SystemExit(1 if failed else 0)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
