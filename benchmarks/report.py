"""Tables of the results, in the terminal and in documents: ``python -m benchmarks.report`` writes the latter anew.

They are the README and the pages under docs. A table stands there between ``<!-- name -->`` and ``<!-- /name -->`` and
is made of ``benchmarks/results/name.json``; where either is missing, nothing is done.
"""

import json
import re
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAIRS = ("numba to jax", "numba to pytorch", "numba to products", "numpy to scikit-learn")
"""The ratios of training steps that the README shows; the files have all."""

Rows = list[list[str]]
"""The first is the head; the first column is text, the others are numbers."""


def timed_rows(results: dict[str, Any], counted: str, pairs: list[str]) -> Rows:
    """Return the rows of steps or predictions: network, how many samples, microseconds, ratios."""
    first = next(iter(results.values()))
    rows = [["network", counted, *(f"{who} µs" for who in first["microseconds"]), *pairs]]
    for name, r in results.items():
        times = [_figure(us) for us in r["microseconds"].values()]
        ratios = [_spread(r["ratios"][pair]) for pair in pairs]
        rows.append([f"{name}, {r['network']}", f"{r['batch']:,}", *times, *ratios])
    return rows


def steps_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the rows of ``steps.json``, with all ratios or those of the README."""
    measured = list(next(iter(results.values()))["ratios"])
    return timed_rows(results, "batch", measured if in_full else [pair for pair in PAIRS if pair in measured])


def predictions_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the rows of ``predictions.json``."""
    return timed_rows(results, "samples", list(next(iter(results.values()))["ratios"]))


def estimators_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the rows of ``estimators.json``: milliseconds, and how many times as long the other takes."""
    first = next(iter(results.values()))
    pairs = list(first["ratios"])
    rows = [
        [
            f"{name}, {r['network']}",
            *(f"{r[what]:,}" for what in ("samples", "batch", "epochs")),
            " ".join(f"{100 * a:.1f}" for a in r["accuracy"].values()),
            *(_figure(us / 1000) for us in r["microseconds"].values()),
            *(_spread(r["ratios"][pair]) for pair in pairs),
        ]
        for name, r in results.items()
    ]
    head = ["network", "samples", "batch", "epochs", "accuracies, %", *(f"{who} ms" for who in first["microseconds"])]
    return [[*head, *pairs], *rows]


def cold_start_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the rows of ``cold-start.json``."""
    rows = [[who, *(_spread(r[kind]) for kind in ("first", "warm"))] for who, r in results.items()]
    return [["backend", "first ever, s", "after that, s"], *rows]


def memory_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the rows of ``memory.json``."""
    first = next(iter(results.values()))
    rows = [
        [who, *(_figure(grown) for grown in r["growth"].values()), _figure(r["allowed"]), _figure(r["samples"])]
        for who, r in results.items()
    ]
    return [["backend", *(f"{form}, MB" for form in first["growth"]), "allowed, MB", "the samples, MB"], *rows]


def threads_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the rows of ``threads.json``."""
    first = next(iter(results.values()))
    rows = [
        [
            name,
            f"{r['multiplications']:,}",
            *(_figure(us) for us in r["microseconds"].values()),
            _spread(r["ratio"]),
        ]
        for name, r in results.items()
    ]
    counts = [f"{n} thread{'' if n == '1' else 's'}, µs" for n in first["microseconds"]]
    return [["network, batch", "multiplications", *counts, "ratio"], *rows]


TABLES = {
    "steps": (steps_rows, {"scikit-learn", "torch", "jax"}),
    "steps-avx2": (steps_rows, set()),
    "predictions": (predictions_rows, {"onnxruntime"}),
    "estimators": (estimators_rows, {"scikit-learn"}),
    "cold-start": (cold_start_rows, set()),
    "memory": (memory_rows, set()),
    "threads": (threads_rows, set()),
}
"""By name, what makes the rows, and the packages that matter beside those that always do."""


def markdown(name: str, content: dict[str, Any]) -> str:
    """Return a table of the README and the line that says where it was measured."""
    make, packages = TABLES[name]
    head, *rows = [f"| {' | '.join(row)} |" for row in make(content["results"], False)]
    m = content["machine"]
    shown = packages | {"deepnotes", "numpy", "numba"}
    versions = ", ".join(f"{name} {version}" for name, version in m["versions"].items() if version and name in shown)
    where = (
        f"{m['processor']}, {m['cores']} cores, Python {m['python']}, {versions}, BLAS {m['blas']}; {m['date']}, "
        f"commit {m['commit']}."
    )
    return "\n".join([head, "|---|" + "--:|" * (head.count("|") - 2), *rows, "", where])


def fill(readme: str) -> str:
    """Return a document with its tables made anew."""
    for name in TABLES:
        path = RESULTS / f"{name}.json"
        if path.exists():
            table = markdown(name, json.loads(path.read_text(encoding="utf-8")))
            markers = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
            readme = re.sub(markers, lambda m, table=table: f"{m[1]}{table}\n{m[2]}", readme, flags=re.DOTALL)
    return readme


def publish(name: str, what: str, results: dict[str, Any], path: Path | None) -> None:
    """Print the results as a table, and write them, with what they are and where they were measured, if asked."""
    head, *rows = TABLES[name][0](results, True)
    table = Table(*head, title=what, box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*row)
    Console(width=max(80, 18 * len(head))).print(table)
    if path:
        content = {"what": what, "machine": machine(), "results": results}
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 20 else f"{value:.1f}"


def _spread(values: list[float]) -> str:
    least, median, most = values
    return f"{median:.2f} ({least:.2f} to {most:.2f})"


if __name__ == "__main__":
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        page.write_text(fill(page.read_text(encoding="utf-8")), encoding="utf-8")
