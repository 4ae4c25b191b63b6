"""Check the CuPy backend against the equations on a GPU, then compare its speed with other libraries.

    python -m benchmarks.gpu
    python -m benchmarks.gpu --only 'steps*batch 128*' --add

The benchmark requires a checkout, CuPy and NumPy; PyTorch, JAX and Numba are also measured if they are installed. The
results are written after each part, so an interrupted run keeps the results of the finished parts.
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

from benchmarks.gpu import cases, measure, record, rivals  # noqa: E402 - make_importable comes first
from deepnotes.backends.registry import get_backend  # noqa: E402
from deepnotes.testing.bench.machine import machine  # noqa: E402
from deepnotes.utils.errors import DeepnotesError  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "gpu.json"
WIDTHS, BATCHES = (8, 32, 128, 512, 2048), (1, 16, 128, 1024, 8192)
UPDATE_PARAMETERS = 64 << 20
"""The number of parameters in the timed update. θ, the gradient and each slot take 256 MiB, more than any cache."""


def conformance(precision: str, device: int, note: Callable[[str], None]) -> dict[str, Any]:
    """Run the conformance checks with one precision of matrix products, and return a summary of the report."""
    from deepnotes.testing import run

    backend = get_backend("cupy", device=device, matmul_precision=cases.MATMUL[precision])

    def on_result(result: Any, number: int, total: int) -> None:
        note(f"conformance, {precision}: {number} of {total}")

    report = run(backend, quick=precision != "float32", on_result=on_result)
    counts = {verdict: report.count(verdict) for verdict in ("passed", "failed", "known gap", "not applicable")}
    failures = {r.check: r.message for r in report.results if r.verdict == "failed"}
    return {"counts": counts, "failures": failures, "environment": report.environment}


def crossover(device: int, note: Callable[[str], None]) -> dict[str, Any]:
    """Time the CuPy backend and Numba, or NumPy if Numba is not installed, for several widths and batch sizes."""
    return measure.crossover(get_backend("cupy", device=device), measure.host_backend(), WIDTHS, BATCHES, note)


def parts(options: argparse.Namespace, note: Callable[[str], None]) -> dict[str, Callable[[], Any]]:
    """Return a function for each part of the benchmark, by name, in the order in which they run."""
    from benchmarks.gpu import device  # imports CuPy

    def selected_device() -> Any:
        return get_backend("cupy", device=options.device).device  # type: ignore[attr-defined]

    functions: dict[str, Callable[[], Any]] = {
        f"conformance, {precision}": partial(conformance, precision, options.device, note)
        for precision in cases.PRECISIONS
    }
    functions["node"] = lambda: device.node(selected_device())
    functions["bandwidth"] = lambda: device.bandwidths(selected_device(), UPDATE_PARAMETERS)

    def products(case: cases.Case, precision: str) -> Callable[[], float]:
        return device.products(case, precision, selected_device())

    makers = {"deepnotes": partial(rivals.deepnotes, device=options.device)} | rivals.installed()
    for case in cases.CASES:
        for precision in cases.PRECISIONS:
            functions[f"steps, {case.name}, {precision}"] = partial(
                measure.steps, case, precision, makers, products, options.rounds, note
            )
    functions["crossover"] = partial(crossover, options.device, note)
    return functions


def main(argv: list[str] | None = None) -> int:
    """Run the parts; return 0, or 1 if one failed, or 2 if there is no GPU."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--device", type=int, default=0, help="number of the GPU (default: 0)")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each library per case (default: 5)")
    parser.add_argument(
        "--only", default="*", metavar="PATTERN", help="parts to run, such as 'conformance*' (default: all)"
    )
    parser.add_argument("--add", action="store_true", help="keep the results of the other parts that are in the file")
    parser.add_argument("--json", type=Path, default=RESULTS, metavar="FILE", help="file for the results")
    options = parser.parse_args(argv)
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: wanted at least 1")

    def note(text: str) -> None:
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()

    try:
        backend = get_backend("cupy", device=options.device)
    except DeepnotesError as error:
        sys.stderr.write(f"nothing measured: {error}\n")
        return 2
    everything = parts(options, note)
    selected = {name: run_part for name, run_part in everything.items() if fnmatchcase(name, options.only)}
    if not selected:
        parser.error(f"--only {options.only!r} matches none of: {'; '.join(everything)}")
    environment = machine() | {"device": backend.describe()}
    results = record.read(options.json) if options.add else {}
    failed = False
    for name, run_part in selected.items():
        note(name)
        try:
            results[name] = run_part()
        except Exception as error:  # the other parts still run
            results[name] = {"error": f"{type(error).__name__}: {error}"}
            failed = True
        record.write(options.json, environment, results)
    note("")
    sys.stdout.write(f"{record.tables(results)}\n\nresults   {options.json}\n")
    return int(failed or any(result.get("failures") for result in results.values() if isinstance(result, dict)))


if __name__ == "__main__":
    sys.exit(main())
