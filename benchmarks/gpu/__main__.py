"""Hold the CuPy backend to the equations on this machine's GPU, then measure it beside others.

    python -m benchmarks.gpu
    python -m benchmarks.gpu --only 'steps*batch 128*' --add

It needs a checkout, CuPy and NumPy; PyTorch, JAX and Numba are measured beside it where they are installed.
Results are written after each part, so that a run cut short keeps what it has.
"""

import argparse
import sys
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu.checkout import ROOT, make_importable

make_importable()

from benchmarks.gpu import cases, measure, record, rivals  # noqa: E402 - nothing of deepnotes is importable before
from deepnotes.backends.registry import get_backend  # noqa: E402
from deepnotes.testing.bench.machine import machine  # noqa: E402
from deepnotes.utils.errors import DeepnotesError  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "gpu.json"
WIDTHS, BATCHES = (8, 32, 128, 512, 2048), (1, 16, 128, 1024, 8192)
UPDATED = 64 << 20
"""Parameters of the buffer whose update is timed: 256 MiB each for θ, its gradient and the slots, beyond any cache."""


def conformance(precision: str, device: int, note: Callable[[str], None]) -> dict[str, Any]:
    """Return the conformance report of the backend at one precision of products."""
    from deepnotes.testing import run

    backend = get_backend("cupy", device=device, matmul_precision=cases.MATMUL[precision])

    def on_result(result: Any, number: int, of: int) -> None:
        note(f"conformance, {precision}: {number} of {of}")

    report = run(backend, quick=precision != "float32", on_result=on_result)
    counts = {verdict: report.count(verdict) for verdict in ("passed", "failed", "known gap", "not applicable")}
    failures = {r.check: r.message for r in report.results if r.verdict == "failed"}
    return {"counts": counts, "failures": failures, "environment": report.environment}


def overtaking(device: int, note: Callable[[str], None]) -> dict[str, Any]:
    """Return the crossover with the Numba backend, or with NumPy's where there is no Numba."""
    return measure.crossover(get_backend("cupy", device=device), measure.best_on_the_host(), WIDTHS, BATCHES, note)


def parts(options: argparse.Namespace, note: Callable[[str], None]) -> dict[str, Callable[[], Any]]:
    """Return the parts to run, by name, in order."""
    from benchmarks.gpu import device  # imports the backend, hence CuPy

    def chosen() -> Any:
        return get_backend("cupy", device=options.device).device  # type: ignore[attr-defined]

    found: dict[str, Callable[[], Any]] = {
        f"conformance, {precision}": partial(conformance, precision, options.device, note)
        for precision in cases.PRECISIONS
    }
    found["node"] = lambda: device.node(chosen())
    found["bandwidth"] = lambda: device.bandwidths(chosen(), UPDATED)

    def alone(case: cases.Case, precision: str) -> Callable[[], float]:
        return device.products(case, precision, chosen())

    makers = {"deepnotes": partial(rivals.deepnotes, device=options.device)} | rivals.installed()
    for case in cases.CASES:
        for precision in cases.PRECISIONS:
            found[f"steps, {case.name}, {precision}"] = partial(
                measure.steps, case, precision, makers, alone, options.rounds, note
            )
    found["crossover"] = partial(overtaking, options.device, note)
    return found


def main(argv: list[str] | None = None) -> int:
    """Run all parts, and return 0; 1 if one failed; 2 if the command was wrong or there is no GPU."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--device", type=int, default=0, help="number of the GPU (default: 0)")
    parser.add_argument("--rounds", type=int, default=5, help="turns that each rival takes (default: 5)")
    parser.add_argument(
        "--only", default="*", metavar="PATTERN", help="parts to do, such as 'conformance*' (default: all)"
    )
    parser.add_argument("--add", action="store_true", help="keep the parts that the file of results has already")
    parser.add_argument("--json", type=Path, default=RESULTS, metavar="FILE", help="where to write the results")
    options = parser.parse_args(argv)
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}, wanted at least 1")

    def note(text: str) -> None:
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()

    try:
        backend = get_backend("cupy", device=options.device)
    except DeepnotesError as error:
        sys.stderr.write(f"nothing measured: {error}\n")
        return 2
    everything = parts(options, note)
    todo = {name: do for name, do in everything.items() if fnmatchcase(name, options.only)}
    if not todo:
        parser.error(f"--only {options.only!r} matches none of: {'; '.join(everything)}")
    about = machine() | {"device": backend.describe()}
    results = record.earlier(options.json) if options.add else {}
    failed = False
    for name, do in todo.items():
        note(name)
        try:
            results[name] = do()
        except Exception as error:  # go on with the other parts
            results[name] = {"error": f"{type(error).__name__}: {error}"}
            failed = True
        record.write(options.json, about, results)
    note("")
    sys.stdout.write(f"{record.tables(results)}\n\nresults   {options.json}\n")
    return int(failed or any(result.get("failures") for result in results.values() if isinstance(result, dict)))


if __name__ == "__main__":
    sys.exit(main())
