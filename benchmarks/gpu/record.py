"""The file of results of a GPU, and its tables."""

import json
from pathlib import Path
from typing import Any

from deepnotes.utils.atomic_files import replacing


def earlier(path: Path) -> dict[str, Any]:
    """Return the results in a file, or an empty dictionary if there is no file."""
    if not path.exists():
        return {}
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["results"]
    return results


def write(path: Path, about: dict[str, Any], results: dict[str, Any]) -> None:
    """Write the results atomically, with the machine that they were measured on."""
    with replacing(path, text=True) as file:
        file.write(json.dumps({"machine": about, "results": results}, indent=1) + "\n")


def tables(results: dict[str, Any]) -> str:
    """Return the results as text."""
    blocks = []
    for name, found in results.items():
        if "error" in found:
            blocks.append(f"{name}: {found['error']}")
        elif name.startswith("conformance"):
            counts = ", ".join(f"{count} {verdict}" for verdict, count in found["counts"].items() if count)
            blocks.append("\n".join([f"{name}: {counts}", *(f"  {k}: {v}" for k, v in found["failures"].items())]))
        elif name in {"node", "bandwidth"}:
            blocks.append(f"{name}: " + ", ".join(f"{what} {value:,.2f}" for what, value in found.items()))
    for make, which in ((_steps, "steps"), (_crossover, "crossover")):
        rows = make({k: v for k, v in results.items() if k.startswith(which) and "error" not in v})
        if len(rows) > 1:
            blocks.append(aligned(rows))
    return "\n\n".join(blocks)


def aligned(rows: list[list[str]]) -> str:
    """Return rows as text, with the first column aligned to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    )


def _steps(results: dict[str, Any]) -> list[list[str]]:
    """Return a row for each case and precision: microseconds, and ratios to the other rivals."""
    who = list(dict.fromkeys(w for r in results.values() for w in (*r["microseconds"], *r["missing"])))
    rows = [["network", "products in", *(f"{w}, µs" for w in who), *(f"to {w}" for w in who[1:])]]
    for r in results.values():
        times = [f"{r['microseconds'][w][1]:,.1f}" if w in r["microseconds"] else "none" for w in who]
        ratios = [f"{r['ratios'][w]:.2f}" if w in r.get("ratios", {}) else "" for w in who[1:]]
        rows.append([r["case"], r["precision"], *times, *ratios])
    return rows


def _crossover(results: dict[str, Any]) -> list[list[str]]:
    """Return a row for each width and batch, with the name of the faster backend."""
    points = results.get("crossover", {}).get("points", [])
    rows = [["width", "batch", *(f"{w}, µs" for w in (points[0]["microseconds"] if points else ())), "faster"]]
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
