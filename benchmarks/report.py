"""Results as tables, in the terminal and for documents, and as files of data."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from deepnotes.testing.bench.advice import DOUBT, FOOTNOTE, Rows, figure
from deepnotes.testing.bench.machine import machine

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAIRS = ("numba to jax", "numba to pytorch", "numba to products", "numpy to scikit-learn")
"""The ratios of training steps that docs/benchmarks.md shows; the files have all."""
BRIEFLY = ("numba", "numpy", "scikit-learn", "pytorch", "jax")
"""The contenders whose steps the README shows."""
NOTHING = "–"
"""The cell of a contender that was left out."""


def everybody(results: dict[str, Any]) -> list[str]:
    """Return all contenders that were timed in any of the results, in their order."""
    return list(dict.fromkeys(who for r in results.values() for who in r["microseconds"]))


def timed_rows(results: dict[str, Any], counted: str, pairs: list[str]) -> Rows:
    """Return the rows of steps or predictions: network, how many samples, microseconds, ratios."""
    names = everybody(results)
    rows = [["network", counted, *(f"{who} µs" for who in names), *pairs]]
    for name, r in results.items():
        ratios = [_spread(r["ratios"][pair]) if pair in r["ratios"] else NOTHING for pair in pairs]
        rows.append([f"{name}, {r['network']}", f"{r['batch']:,}", *(_timed(r, who) for who in names), *ratios])
    return rows


def _timed(result: dict[str, Any], who: str) -> str:
    """Return a time, marked if it is in doubt, or a placeholder if there is none."""
    us = result["microseconds"].get(who)
    return NOTHING if us is None else figure(us, who in result.get("unreliable", []))


def limits_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the rows of the machine's limits and the share of them that each contender reaches."""
    results = {name: r for name, r in results.items() if "limits" in r}
    names = everybody(results)
    rows = [["network", "Mflop", "MB", "at least, µs", *names]]
    for name, r in results.items():
        limits = list(r["limits"].values())
        shares = {who: share for limit in limits for who, share in limit["share"].items()}
        cells = [f"{shares[who]:.0%}" if who in shares else NOTHING for who in names]
        work = [f"{limits[0]['flops'] / 1e6:,.2f}", f"{limits[0]['bytes'] / 1e6:,.2f}"]
        least = min(limit["microseconds"] for limit in limits)
        rows.append([f"{name}, {r['network']}, {r['batch']:,}", *work, f"{least:,.2f}", *cells])
    return rows


def steps_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the rows of ``steps.json``, with all ratios or those of docs/benchmarks.md."""
    measured = list(dict.fromkeys(pair for r in results.values() for pair in r["ratios"]))
    return timed_rows(results, "batch", measured if in_full else [pair for pair in PAIRS if pair in measured])


def steps_briefly_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the rows of ``steps.json`` for the README: the times of ``BRIEFLY``, without ratios."""
    shown = {
        name: r | {"microseconds": {who: us for who, us in r["microseconds"].items() if who in BRIEFLY}}
        for name, r in results.items()
    }
    return timed_rows(shown, "batch", [])


def gpu_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the rows of ``gpu-steps.json`` or ``gpu-predictions.json``, with the figures as recorded."""
    heads = {"network": "network", "batch": "batch", "samples": "samples", "precision": "precision"}
    heads |= {who: f"{who} µs" for who in everybody(results)} | {"rest_of_fit": "rest of a fit, ms"}
    cases = [r | r["microseconds"] for r in results.values()]
    shown = [key for key in heads if any(key in case for case in cases)]
    rows = [[_recorded(case.get(key, NOTHING)) for key in shown] for case in cases]
    return [[heads[key] for key in shown], *rows]


def _recorded(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:,}"


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
            *(figure(us / 1000, who in r.get("unreliable", [])) for who, us in r["microseconds"].items()),
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
        [who, *(figure(grown) for grown in r["growth"].values()), figure(r["allowed"]), figure(r["samples"])]
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
            *(figure(us) for us in r["microseconds"].values()),
            _spread(r["ratio"]),
        ]
        for name, r in results.items()
    ]
    counts = [f"{n} thread{'' if n == '1' else 's'}, µs" for n in first["microseconds"]]
    return [["network, batch", "multiplications", *counts, "ratio"], *rows]


def instructions_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the rows of ``instructions.json``."""
    return [["backend", "instructions of a step"], *([who, f"{r['per_step']:,.0f}"] for who, r in results.items())]


def sweep_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the rows of ``sweep.json``."""
    points = results["points"]
    names = list(dict.fromkeys(who for p in points for who in p.get("microseconds", {})))
    rows = [["network", "batch", *(f"{who} µs" for who in names), "left out, since"]]
    for p in points:
        cells = [_timed(p, who) if "microseconds" in p else NOTHING for who in names]
        rows.append([p["network"], f"{p['batch']:,}", *cells, p.get("skipped", "")])
    return rows


def exporters_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the rows of ``exporters.json``: one for each model, or for a document one for each exporter."""
    rows = [["exporter", "model", "", "layers, or why not"] if in_full else ["exporter", "read", "refused, and why"]]
    for who, r in results.items():
        name = f"{who} {r['version']}" if r["version"] else who
        cases = {what: case["outcome"] for what, case in r["cases"].items()}
        why = {what: case.get("why", case.get("layers", "")) for what, case in r["cases"].items()}
        if in_full:
            rows += [[name, what, outcome, why[what]] for what, outcome in cases.items()]
        elif cases:
            read = "; ".join(what for what, outcome in cases.items() if outcome == "read")
            others = [
                f"**{what}**{'' if outcome == 'refused' else f' ({outcome})'}: {why[what]}"
                for what, outcome in cases.items()
                if outcome != "read"
            ]
            rows.append([name, read, "<br>".join(others).replace("](", "]\\(")])  # no links in Markdown
        if not cases:
            rows.append([name, *[NOTHING] * (len(rows[0]) - 2), f"not run: {r['why']}"])
    return rows


TABLES = {
    "exporters": (exporters_rows, {"torch", "skl2onnx", "keras", "jax2onnx", "onnx"}),
    "steps": (steps_rows, {"scikit-learn", "torch", "jax"}),
    "steps-briefly": (steps_briefly_rows, {"scikit-learn", "torch", "jax"}),
    "steps-avx2": (steps_rows, set()),
    "steps-float64": (steps_rows, {"scikit-learn", "torch", "jax"}),
    "limits": (limits_rows, {"scikit-learn", "torch", "jax"}),
    "predictions": (predictions_rows, {"onnxruntime"}),
    "estimators": (estimators_rows, {"scikit-learn"}),
    "sweep": (sweep_rows, set()),
    "cold-start": (cold_start_rows, set()),
    "memory": (memory_rows, set()),
    "threads": (threads_rows, set()),
    "instructions": (instructions_rows, set()),
    "gpu-steps": (gpu_rows, set()),
    "gpu-predictions": (gpu_rows, set()),
}
"""The function that makes the rows of each table, and the packages to name besides the usual ones."""
TEXTS = {"exporters"}
"""Tables of words, which are aligned to the left."""
DOCUMENTS_ONLY = {"steps-briefly", "gpu-steps", "gpu-predictions"}
"""Tables that the report leaves out: it has all of the steps, and is of one machine."""
SOURCES = {"limits": "steps", "steps-briefly": "steps", "crossover": "sweep"}
"""The file of results of a table or figure, if its name differs."""


def markdown(name: str, content: dict[str, Any]) -> str:
    """Return a table of the documents and the line that says where it was measured."""
    make, packages = TABLES[name]
    rows = make(content["results"], False)
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    doubtful = any(cell.startswith(DOUBT) for row in rows[1:] for cell in row)
    note = f"{FOOTNOTE}.\n\n" if doubtful else ""
    table = "\n".join([head, "|---|" + ("---|" if name in TEXTS else "--:|") * (len(rows[0]) - 1), *body])
    return f"{table}\n\n{note}{measured_on(content, packages)}"


def measured_on(content: dict[str, Any], packages: set[str]) -> str:
    """Return the line that says where something was measured."""
    m, shown = content["machine"], packages | {"deepnotes", "numpy", "numba"}
    if "device" in m:
        versions = ", ".join(f"{name} {version}" for name, version in m["versions"].items())
        return f"{m['device']}, Python {m['python']}, {versions}; {m['date']}, commit {m['commit']}."
    if "cupy" in content.get("ceilings", {}):  # it took part
        shown |= {"cupy-cuda12x", "cupy-cuda13x"}
    versions = ", ".join(f"{name} {version}" for name, version in m["versions"].items() if version and name in shown)
    return (
        f"{m['processor']}, {m['cores']} cores, Python {m['python']}, {versions}, BLAS {m['blas']}; {m['date']}, "
        f"commit {m['commit']}."
    )


def publish(name: str, what: str, results: dict[str, Any], path: Path | None, **more: Any) -> None:
    """Print the results as a table and, if requested, write them with their kind and the machine."""
    head, *rows = TABLES[name][0](results, True)
    table = Table(*head, title=what, box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*row)
    Console(width=max(80, 18 * len(head))).print(table)
    if path:
        content = {"what": what, "machine": machine(), **more, "results": results}
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _spread(values: list[float]) -> str:
    least, median, most = values
    return f"{median:.2f} ({least:.2f} to {most:.2f})"
