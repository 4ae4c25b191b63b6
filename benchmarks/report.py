"""Results as tables, in the terminal and for documents, and as JSON files."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from deepnotes.testing.bench.advice import FOOTNOTE, UNRELIABLE_MARK, Rows, format_number
from deepnotes.testing.bench.machine import machine

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAIRS = ("numba to jax", "numba to pytorch", "numba to products", "numpy to scikit-learn")
"""The ratios of training steps shown in docs/benchmarks.md; the files have all ratios."""
README_CONTENDERS = ("numba", "numpy", "scikit-learn", "pytorch", "jax")
"""The contenders shown in the README."""
LEFT_OUT = "–"
"""The cell of a contender that was left out."""


def contender_names(results: dict[str, Any]) -> list[str]:
    """Return the names of all contenders in the results, in order of appearance."""
    return list(dict.fromkeys(who for r in results.values() for who in r["microseconds"]))


def timed_rows(results: dict[str, Any], counted: str, pairs: list[str]) -> Rows:
    """Return rows of network, number of samples, microseconds and ratios."""
    names = contender_names(results)
    rows = [["network", counted, *(f"{who} µs" for who in names), *pairs]]
    for name, r in results.items():
        ratios = [_spread(r["ratios"][pair]) if pair in r["ratios"] else LEFT_OUT for pair in pairs]
        rows.append([f"{name}, {r['network']}", f"{r['batch']:,}", *(_timed(r, who) for who in names), *ratios])
    return rows


def _timed(result: dict[str, Any], who: str) -> str:
    """Return a time, with a mark if it is unreliable, or a placeholder if the contender was left out."""
    us = result["microseconds"].get(who)
    return LEFT_OUT if us is None else format_number(us, who in result.get("unreliable", []))


def limits_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the rows of the machine's limits and the share of them that each contender reaches."""
    results = {name: r for name, r in results.items() if "limits" in r}
    names = contender_names(results)
    rows = [["network", "Mflop", "MB", "at least, µs", *names]]
    for name, r in results.items():
        limits = list(r["limits"].values())
        shares = {who: share for limit in limits for who, share in limit["share"].items()}
        cells = [f"{shares[who]:.0%}" if who in shares else LEFT_OUT for who in names]
        work = [f"{limits[0]['flops'] / 1e6:,.2f}", f"{limits[0]['bytes'] / 1e6:,.2f}"]
        least = min(limit["microseconds"] for limit in limits)
        rows.append([f"{name}, {r['network']}, {r['batch']:,}", *work, f"{least:,.2f}", *cells])
    return rows


def steps_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the rows of ``steps.json``, with all ratios or only those of docs/benchmarks.md."""
    measured = list(dict.fromkeys(pair for r in results.values() for pair in r["ratios"]))
    return timed_rows(results, "batch", measured if in_full else [pair for pair in PAIRS if pair in measured])


def steps_briefly_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the rows of ``steps.json`` for the README: the times of ``README_CONTENDERS``, without ratios."""
    shown = {
        name: r | {"microseconds": {who: us for who, us in r["microseconds"].items() if who in README_CONTENDERS}}
        for name, r in results.items()
    }
    return timed_rows(shown, "batch", [])


def gpu_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the rows of ``gpu-steps.json`` or ``gpu-predictions.json``, with unrounded numbers."""
    heads = {"network": "network", "batch": "batch", "samples": "samples", "precision": "precision"}
    heads |= {who: f"{who} µs" for who in contender_names(results)} | {"rest_of_fit": "rest of a fit, ms"}
    cases = [r | r["microseconds"] for r in results.values()]
    shown = [key for key in heads if any(key in case for case in cases)]
    rows = [[_unrounded(case.get(key, LEFT_OUT)) for key in shown] for case in cases]
    return [[heads[key] for key in shown], *rows]


def _unrounded(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:,}"


def predictions_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the rows of ``predictions.json``."""
    return timed_rows(results, "samples", list(next(iter(results.values()))["ratios"]))


def estimators_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the rows of ``estimators.json``: milliseconds, and ratios to the time of the estimators here."""
    first = next(iter(results.values()))
    pairs = list(first["ratios"])
    rows = [
        [
            f"{name}, {r['network']}",
            *(f"{r[what]:,}" for what in ("samples", "batch", "epochs")),
            " ".join(f"{100 * a:.1f}" for a in r["accuracy"].values()),
            *(format_number(us / 1000, who in r.get("unreliable", [])) for who, us in r["microseconds"].items()),
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
        [
            who,
            *(format_number(grown) for grown in r["growth"].values()),
            format_number(r["allowed"]),
            format_number(r["samples"]),
        ]
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
            *(format_number(us) for us in r["microseconds"].values()),
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
    rows = [["network", "batch", *(f"{who} µs" for who in names), "reason if left out"]]
    for p in points:
        cells = [_timed(p, who) if "microseconds" in p else LEFT_OUT for who in names]
        rows.append([p["network"], f"{p['batch']:,}", *cells, p.get("skipped", "")])
    return rows


def exporters_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the rows of ``exporters.json``, one per model, or one per exporter for documents."""
    rows = [["exporter", "model", "", "layers, or reason"] if in_full else ["exporter", "read", "refused, and why"]]
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
            rows.append([name, *[LEFT_OUT] * (len(rows[0]) - 2), f"not run: {r['why']}"])
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
"""For each table, the function that returns its rows, and packages whose versions it states in addition."""
TEXTS = {"exporters"}
"""Tables of text, whose columns are aligned to the left."""
DOCUMENTS_ONLY = {"steps-briefly", "gpu-steps", "gpu-predictions"}
"""Tables that are not in the report: it has all steps already, and is about one machine."""
SOURCES = {"limits": "steps", "steps-briefly": "steps", "crossover": "sweep"}
"""The file of results of a table or figure whose name differs from that of the file."""


def markdown(name: str, content: dict[str, Any]) -> str:
    """Return a table as Markdown, with a line about the machine and the versions."""
    make, packages = TABLES[name]
    rows = make(content["results"], False)
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    unreliable = any(cell.startswith(UNRELIABLE_MARK) for row in rows[1:] for cell in row)
    note = f"{FOOTNOTE}.\n\n" if unreliable else ""
    table = "\n".join([head, "|---|" + ("---|" if name in TEXTS else "--:|") * (len(rows[0]) - 1), *body])
    return f"{table}\n\n{note}{measured_on(content, packages)}"


def measured_on(content: dict[str, Any], packages: set[str]) -> str:
    """Return a line about the machine and the versions of a measurement."""
    m, shown = content["machine"], packages | {"deepnotes", "numpy", "numba"}
    if "device" in m:
        versions = ", ".join(f"{name} {version}" for name, version in m["versions"].items())
        return f"{m['device']}, Python {m['python']}, {versions}; {m['date']}, commit {m['commit']}."
    if "cupy" in content.get("ceilings", {}):
        shown |= {"cupy-cuda12x", "cupy-cuda13x"}
    versions = ", ".join(f"{name} {version}" for name, version in m["versions"].items() if version and name in shown)
    return (
        f"{m['processor']}, {m['cores']} cores, Python {m['python']}, {versions}, BLAS {m['blas']}; {m['date']}, "
        f"commit {m['commit']}."
    )


def publish(name: str, what: str, results: dict[str, Any], path: Path | None, **more: Any) -> None:
    """Print the results as a table and, if a path is given, write them with a description and the machine."""
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
