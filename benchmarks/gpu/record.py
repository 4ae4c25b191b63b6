"""Read and write the results of the GPU benchmark, and format them as tables."""

import json
from pathlib import Path
from typing import Any

from deepnotes.testing.bench.advice import UNRELIABLE_MARK
from deepnotes.utils.atomic_files import replacing

WHAT = (
    "Training with Adam, predictions and streaming on a GPU. A step is the slope between fits of E and 3E epochs; "
    "each library runs in a process of its own."
)
MISSING = "–"
"""The text of a cell without a measurement."""
COLUMNS = {
    "network": "network",
    "batch": "batch",
    "samples": "samples",
    "precision": "precision",
    "rest_of_fit": "rest of a fit, ms",
    "rest_on_other_data": "on other data, ms",
}
"""The headings of facts about a case, before and after the times."""


def read(path: Path) -> dict[str, Any]:
    """Return the results in a file, or an empty dictionary if the file does not exist."""
    if not path.exists():
        return {}
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["results"]
    return results


def write(path: Path, environment: dict[str, Any], results: dict[str, Any], left_out: dict[str, str]) -> None:
    """Write the results, a description of the machine, and the reasons for parts without results, atomically."""
    content = {"what": WHAT, "machine": environment, "left_out": left_out, "results": results}
    with replacing(path, text=True) as file:
        file.write(json.dumps(content, indent=1) + "\n")


def tables(results: dict[str, Any]) -> str:
    """Return all results as text."""
    lines, blocks = [], []
    for name, result in results.items():
        if "error" in result:
            lines.append(f"{name}: {result['error']}")
        lines += [f"{name}: no {library}: {why}" for library, why in result.get("missing", {}).items()]
        if "counts" in result:
            counts = ", ".join(f"{count} {verdict}" for verdict, count in result["counts"].items() if count)
            lines += [f"{name}: {counts}", *(f"  {check}: {why}" for check, why in result["failures"].items())]
        elif "GB/s" in result:
            rates = ", ".join(f"{what} {rate:,.1f} GB/s" for what, rate in result["GB/s"].items())
            lines.append(f"{name}: {rates}; streamed is {result['share']:.0%} of the pinned copy")
        elif name == "limits":
            lines.append(f"{name}: " + ", ".join(f"{what} {value:,.2f}" for what, value in result.items()))
    in_a_row = {name: r["in_a_row"] | _facts(r) for name, r in results.items() if "in_a_row" in r}
    for title, rows in (
        ("a training step, µs", case_rows(select(results, "steps"), ratios=True)),
        ("a prediction, µs", case_rows(select(results, "predict"), ratios=True)),
        ("a prediction of several in a row, µs", case_rows(in_a_row, ratios=True)),
        ("a step on the GPU and on the host, µs", _crossover(results)),
    ):
        if len(rows) > 1:
            blocks.append(f"{title}\n{align(rows)}")
    return "\n\n".join([*blocks, *(["\n".join(lines)] if lines else [])])


def select(results: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Return the results with times of the parts whose names start with `prefix`."""
    return {name: r for name, r in results.items() if name.startswith(prefix) and "microseconds" in r}


def case_rows(results: dict[str, Any], ratios: bool = False) -> list[list[str]]:
    """Return the heading, then a row per case: each library's time in µs and, on request, the ratios to the others.

    Unreliable times are marked.
    """
    libraries = sorted({n: None for r in results.values() for n in r["microseconds"]}, key=lambda n: n == "products")
    pairs = list(dict.fromkeys(pair for r in results.values() for pair in r.get("ratios", {}))) if ratios else []
    shown = [key for key in COLUMNS if any(key in r for r in results.values())]
    facts, rests = (
        [key for key in shown if not key.startswith("rest")],
        [key for key in shown if key.startswith("rest")],
    )
    units = "" if ratios else " µs"
    heading = [*facts, *(f"{name}{units}" for name in libraries), *(COLUMNS[key] for key in rests)]
    rows = [[*heading, *(f"to {pair.partition(' to ')[2]}" for pair in pairs)]]
    for r in results.values():
        row = [r[key] if isinstance(r.get(key), str) else _format(r.get(key), ",") for key in facts]
        row += [_mark(r, name) + number(r["microseconds"].get(name)) for name in libraries]
        row += [number(r.get(key)) for key in rests]
        rows.append([*row, *(_format(r.get("ratios", {}).get(pair, [None] * 3)[1], ".2f") for pair in pairs)])
    return rows


def number(value: float | None) -> str:
    """Return a number with at least three significant digits, but at most two decimal places; an integer as it is.

    Examples
    --------
    >>> number(7.126), number(63.52), number(104712.5), number(88), number(None)
    ('7.13', '63.5', '104,712', '88', '–')
    """
    digits = 0 if value is None or isinstance(value, int) or abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return _format(value, f",.{digits}f")


def align(rows: list[list[str]]) -> str:
    """Return rows as lines of text, with the first column aligned to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    )


def _format(value: Any, form: str) -> str:
    return MISSING if value is None else format(value, form)


def _mark(result: dict[str, Any], library: str) -> str:
    return UNRELIABLE_MARK if library in result.get("unreliable", []) else ""


def _facts(result: dict[str, Any]) -> dict[str, Any]:
    return {key: result[key] for key in ("network", "samples")}


def _crossover(results: dict[str, Any]) -> list[list[str]]:
    """Return a row for each width and batch size: the microseconds of each backend, and the name of the faster one."""
    points = results.get("crossover", {}).get("points", [])
    names = list(dict.fromkeys(name for point in points for name in point.get("microseconds", {})))
    rows = [["width", "batch", *names, "faster"]]
    for point in points:
        times = point.get("microseconds", {})
        faster = min(times, key=times.get) if times else point["skipped"]
        rows.append([str(point["width"]), f"{point['batch']:,}", *(number(times.get(name)) for name in names), faster])
    return rows
