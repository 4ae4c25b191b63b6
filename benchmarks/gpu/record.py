"""Read and write the results of the GPU benchmark, and format them as tables."""

import json
from pathlib import Path
from typing import Any

from deepnotes.utils.atomic_files import replacing


def read(path: Path) -> dict[str, Any]:
    """Return the results in a file, or an empty dictionary if the file does not exist."""
    if not path.exists():
        return {}
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["results"]
    return results


def write(path: Path, environment: dict[str, Any], results: dict[str, Any]) -> None:
    """Write the results, and a description of the machine that they were measured on, atomically."""
    with replacing(path, text=True) as file:
        file.write(json.dumps({"machine": environment, "results": results}, indent=1) + "\n")


def tables(results: dict[str, Any]) -> str:
    """Return all results as text: conformance and measured limits, then tables of the steps and of the crossover."""
    blocks = []
    for name, result in results.items():
        if "error" in result:
            blocks.append(f"{name}: {result['error']}")
        elif name.startswith("conformance"):
            counts = ", ".join(f"{count} {verdict}" for verdict, count in result["counts"].items() if count)
            blocks.append("\n".join([f"{name}: {counts}", *(f"  {k}: {v}" for k, v in result["failures"].items())]))
        elif name in {"node", "bandwidth"}:
            blocks.append(f"{name}: " + ", ".join(f"{what} {value:,.2f}" for what, value in result.items()))
    for make_rows, prefix in ((_steps, "steps"), (_crossover, "crossover")):
        rows = make_rows({k: v for k, v in results.items() if k.startswith(prefix) and "error" not in v})
        if len(rows) > 1:
            blocks.append(align(rows))
    return "\n\n".join(blocks)


def align(rows: list[list[str]]) -> str:
    """Return rows as lines of text, with the first column aligned to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    )


def _steps(results: dict[str, Any]) -> list[list[str]]:
    """Return a row for each case and precision: the times in µs, and the ratios of the first one to the others."""
    names = list(dict.fromkeys(name for r in results.values() for name in (*r["microseconds"], *r["missing"])))
    rows = [["network", "products in", *(f"{name}, µs" for name in names), *(f"to {name}" for name in names[1:])]]
    for r in results.values():
        times = [f"{r['microseconds'][name][1]:,.1f}" if name in r["microseconds"] else "none" for name in names]
        ratios = [f"{r['ratios'][name]:.2f}" if name in r.get("ratios", {}) else "" for name in names[1:]]
        rows.append([r["case"], r["precision"], *times, *ratios])
    return rows


def _crossover(results: dict[str, Any]) -> list[list[str]]:
    """Return a row for each width and batch size: the microseconds of each backend, and the name of the faster one."""
    points = results.get("crossover", {}).get("points", [])
    names = points[0]["microseconds"] if points else ()
    rows = [["width", "batch", *(f"{name}, µs" for name in names), "faster"]]
    for point in points:
        times = point["microseconds"]
        rows.append(
            [
                str(point["width"]),
                f"{point['batch']:,}",
                *(f"{t:,.1f}" for t in times.values()),
                min(times, key=times.get),
            ]
        )
    return rows
