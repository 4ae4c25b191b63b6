"""Print results as tables in the terminal, format them for documents, and write them to JSON files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.gpu import estimate
from benchmarks.gpu.record import case_rows, number, select
from deepnotes.testing.bench.advice import FOOTNOTE, UNRELIABLE_MARK, Rows, format_number
from deepnotes.testing.bench.machine import machine

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAIRS = ("numba to jax", "numba to pytorch", "numba to products", "numpy to scikit-learn")
"""The ratios of step times that docs/benchmarks.md shows; the JSON files have all ratios."""
README_CONTENDERS = ("numba", "numpy", "scikit-learn", "pytorch", "jax")
"""The contenders that the README shows."""
README_GPU_LIBRARIES = ("deepnotes", "pytorch graph", "jax")
"""The libraries on a GPU that the README shows."""
GPU_LIMITS = {
    "copy, µs": "a node of a graph that copies",
    "launch, µs": "a node of a graph that launches a kernel",
    "copy, GB/s": "a copy on the device",
    "update, GB/s": "the kernel of the update",
}
"""What the entries of the part "limits" in ``gpu.json`` are."""
LEFT_OUT = "–"
"""The text of a cell for a contender that was left out."""


def contender_names(results: dict[str, Any]) -> list[str]:
    """Return the names of all contenders in the results, in order of appearance."""
    return list(dict.fromkeys(name for r in results.values() for name in r["microseconds"]))


def time_rows(results: dict[str, Any], counted: str, pairs: list[str]) -> Rows:
    """Return a table with a row per case: its network, number of samples, microseconds and ratios.

    Parameters
    ----------
    results : dict
        The results by case.
    counted : str
        The heading of the column with the number of samples, such as "batch".
    pairs : list of str
        The ratios to show, such as "numba to jax".
    """
    contenders = contender_names(results)
    rows = [["network", counted, *(f"{contender} µs" for contender in contenders), *pairs]]
    for name, r in results.items():
        ratios = [_spread(r["ratios"][pair]) if pair in r["ratios"] else LEFT_OUT for pair in pairs]
        times = [_time_cell(r, contender) for contender in contenders]
        rows.append([f"{name}, {r['network']}", f"{r['batch']:,}", *times, *ratios])
    return rows


def _time_cell(result: dict[str, Any], contender: str) -> str:
    """Return the cell with a contender's time, which is marked if unreliable, or :data:`LEFT_OUT` if it has none."""
    us = result["microseconds"].get(contender)
    return LEFT_OUT if us is None else format_number(us, contender in result.get("unreliable", []))


def limits_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the table of ``limits``: the work of a step, its shortest possible time, and each contender's share of it.

    A share is the shortest possible time divided by the measured one.
    """
    results = {name: r for name, r in results.items() if "limits" in r}
    contenders = contender_names(results)
    rows = [["network", "Mflop", "MB", "at least, µs", *contenders]]
    for name, r in results.items():
        limits = list(r["limits"].values())
        shares = {contender: share for limit in limits for contender, share in limit["share"].items()}
        cells = [f"{shares[contender]:.0%}" if contender in shares else LEFT_OUT for contender in contenders]
        work = [f"{limits[0]['flops'] / 1e6:,.2f}", f"{limits[0]['bytes'] / 1e6:,.2f}"]
        lower_bound = min(limit["microseconds"] for limit in limits)
        rows.append([f"{name}, {r['network']}, {r['batch']:,}", *work, f"{lower_bound:,.2f}", *cells])
    return rows


def steps_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the table of ``steps.json``, with all ratios if `in_full`, else only those of ``PAIRS``."""
    measured = list(dict.fromkeys(pair for r in results.values() for pair in r["ratios"]))
    return time_rows(results, "batch", measured if in_full else [pair for pair in PAIRS if pair in measured])


def steps_briefly_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the table of ``steps.json`` for the README: the times of ``README_CONTENDERS``, without ratios."""
    selected = {}
    for name, r in results.items():
        times = {contender: us for contender, us in r["microseconds"].items() if contender in README_CONTENDERS}
        selected[name] = r | {"microseconds": times}
    return time_rows(selected, "batch", [])


def gpu_steps_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the table of the training steps in ``gpu.json``."""
    return case_rows(select(results, "steps"))


def gpu_steps_briefly_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the table of the training steps in ``gpu.json`` for the README: the cases with a rival."""
    selected = {}
    for name, r in select(results, "steps").items():
        times = {library: us for library, us in r["microseconds"].items() if library in README_GPU_LIBRARIES}
        facts = {key: r[key] for key in ("network", "batch", "precision", "unreliable")}
        if len(times) > 1:
            selected[name] = facts | {"microseconds": times}
    return case_rows(selected)


def gpu_predictions_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the table of the predictions in ``gpu.json``."""
    return case_rows(select(results, "predict"))


def gpu_limits_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the table of the other measurements in ``gpu.json``: streaming, nodes of a graph, bandwidths."""
    streaming, limits = results["streaming"], results["limits"]
    case = f"{streaming['network']}, batch {streaming['batch']:,}, {streaming['samples']:,} samples"
    rates = [[f"{case}: {what}", f"{number(rate)} GB/s"] for what, rate in streaming["GB/s"].items()]
    measured = [[text, f"{number(limits[key])} {key.rpartition(', ')[2]}"] for key, text in GPU_LIMITS.items()]
    return [["", "measured"], *rates, *measured]


def gpu_estimates_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the table of estimates beside the training steps in ``gpu.json``."""
    return estimate.rows(results)


def predictions_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the table of ``predictions.json``."""
    return time_rows(results, "samples", list(next(iter(results.values()))["ratios"]))


def estimators_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the table of ``estimators.json``: the case, accuracies, milliseconds per ``fit``, and ratios of times."""
    first = next(iter(results.values()))
    pairs = list(first["ratios"])
    rows = [
        [
            f"{name}, {r['network']}",
            *(f"{r[what]:,}" for what in ("samples", "batch", "epochs")),
            " ".join(f"{100 * a:.1f}" for a in r["accuracy"].values()),
            *(
                format_number(us / 1000, contender in r.get("unreliable", []))
                for contender, us in r["microseconds"].items()
            ),
            *(_spread(r["ratios"][pair]) for pair in pairs),
        ]
        for name, r in results.items()
    ]
    head = [
        "network",
        "samples",
        "batch",
        "epochs",
        "accuracies, %",
        *(f"{contender} ms" for contender in first["microseconds"]),
    ]
    return [[*head, *pairs], *rows]


def cold_start_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the table of ``cold-start.json``."""
    rows = [[name, *(_spread(r[kind]) for kind in ("first", "warm"))] for name, r in results.items()]
    return [["backend", "first ever, s", "after that, s"], *rows]


def memory_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the table of ``memory.json``."""
    first = next(iter(results.values()))
    rows = [
        [
            name,
            *(format_number(growth) for growth in r["growth"].values()),
            format_number(r["allowed"]),
            format_number(r["samples"]),
        ]
        for name, r in results.items()
    ]
    return [["backend", *(f"{form}, MB" for form in first["growth"]), "allowed, MB", "the samples, MB"], *rows]


def own_parts_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the table of ``own-parts.json``."""
    return time_rows(results, "batch", ["own to library"])


def layers_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the table of ``layers.json``: the time of a plain network, and the other networks' multiples of it."""
    others = [contender for contender in contender_names(results) if contender != "plain"]
    rows = [["backend, network", "batch", "plain µs", *others]]
    for name, r in results.items():
        ratios = [_spread(r["ratios"][f"{other} to plain"]) for other in others]
        rows.append([name, f"{r['batch']:,}", _time_cell(r, "plain"), *ratios])
    return rows


def embeddings_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the table of ``embeddings.json``: the scores of each contender, and the gain of embeddings."""
    contenders = list(next(iter(results.values()))["scores"])
    gains = {f"gain{end}": (f"embedding{end}", f"one-hot{end}") for end in ("", ", LayerNorm")}
    rows = [["table", "rows", "score", *contenders, *gains]]
    for name, r in results.items():
        scores = {contender: np.array(values) for contender, values in r["scores"].items()}
        means = [f"{values.mean():.3f} ± {_deviation(values):.3f}" for values in scores.values()]
        differences = [scores[a] - scores[b] for a, b in gains.values()]
        errors = [_deviation(values) / np.sqrt(len(values)) for values in differences]
        cells = [f"{values.mean():+.3f} ± {error:.3f}" for values, error in zip(differences, errors, strict=True)]
        rows.append([name, f"{r['rows']:,}", r["score"], *means, *cells])
    return rows


def _deviation(values: np.ndarray) -> float:
    """Return the standard deviation of a sample, 0 for a single value."""
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def embeddings_steps_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the table of the steps in ``embeddings.json``, with a row for each backend and table."""
    rows = [["backend, table", "one-hot µs", "embedding µs", "embedding to one-hot", "both with LayerNorm"]]
    for backend in next(iter(results.values()))["steps"]:
        for name, r in results.items():
            step = r["steps"][backend]
            times = [_time_cell(step, contender) for contender in ("one-hot", "embedding")]
            rows.append([f"{backend}: {name}", *times, *map(_spread, step["ratios"].values())])
    return rows


def many_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the table of ``many.json``, with a row per contender, or per amount of memory."""
    rows = [["backend, case", "contender", "ms, or copies of X", "fit_many to it"]]
    for name, r in results.items():
        if "copies" in r:
            rows.append([name, "fit_many", format_number(r["copies"]), ""])
        for contender, us in r.get("microseconds", {}).items():
            ratio = r["ratios"].get(f"fit_many to {contender}")
            ms = format_number(us / 1000, contender in r["unreliable"])
            rows.append([name, contender, ms, _spread(ratio) if ratio else ""])
    return rows


def c_export_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the table of ``c-export.json``, with a row per contender."""
    rows = [["contender", "µs", "to numba", "accuracy, %", "bytes of parameters", "bytes of the file"]]
    for r in results.values():
        for contender, us in r["microseconds"].items():
            weights = contender.split(", ")[1] if ", " in contender else contender
            ratio, size = r["ratios"].get(f"{contender} to numba"), r["bytes"].get(weights)
            rows.append(
                [
                    contender, format_number(us, contender in r["unreliable"]), _spread(ratio) if ratio else "",
                    f"{100 * r['accuracy'][weights]:.1f}",
                    *(f"{size[what]:,}" if size else "" for what in ("parameters", "file")),
                ]
            )  # fmt: skip
    return rows


def tables_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the table of ``tables.json``: the mean scores of each contender, and the difference to the MLP."""
    contenders = list(next(iter(results.values()))["mean"])
    rows = [["table", "rows, features", "score", *contenders, "deepnotes - MLP"]]
    for name, r in results.items():
        score = "R²" if r["task"] == "regression" else "accuracy"
        difference = f"{r['difference to MLP']:+.3f} ± {r['standard error']:.3f}{'' if r['passed'] else ' (missed)'}"
        means = [f"{r['mean'][contender]:.3f}" for contender in contenders]
        rows.append([name, f"{r['rows']:,}, {r['features']}", score, *means, difference])
    overall = mean_scores(results)
    gain = overall["deepnotes"] - overall["MLP"]
    return [*rows, ["mean", "", "", *(f"{mean:.3f}" for mean in overall.values()), f"{gain:+.3f}"]]


def mean_scores(results: dict[str, Any]) -> dict[str, float]:
    """Return the mean score of each contender over the tables of ``tables.json``; a mean score below 0 counts as 0."""
    contenders = next(iter(results.values()))["mean"]
    return {name: float(np.mean([max(r["mean"][name], 0.0) for r in results.values()])) for name in contenders}


def threads_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the table of ``threads.json``."""
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
    """Return the table of ``instructions.json``."""
    return [["backend", "instructions of a step"], *([name, f"{r['per_step']:,.0f}"] for name, r in results.items())]


def sweep_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the table of ``sweep.json``."""
    points = results["points"]
    contenders = list(dict.fromkeys(contender for p in points for contender in p.get("microseconds", {})))
    rows = [["network", "batch", *(f"{contender} µs" for contender in contenders), "reason if left out"]]
    for p in points:
        cells = [_time_cell(p, contender) if "microseconds" in p else LEFT_OUT for contender in contenders]
        rows.append([p["network"], f"{p['batch']:,}", *cells, p.get("skipped", "")])
    return rows


def exporters_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the table of ``exporters.json``, with a row per model if `in_full`, else with a row per exporter."""
    rows = [["exporter", "model", "", "layers, or reason"] if in_full else ["exporter", "read", "refused, and why"]]
    for exporter, r in results.items():
        name = f"{exporter} {r['version']}" if r["version"] else exporter
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


def ranks_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the table of the steps in ``ranks.json``: what the parts predict beside what was measured, by batch."""
    rows = [
        [
            "batch, ranks",
            "predicted, ms",
            "measured, ms",
            "of which the sum, %",
            "times as fast as one rank",
            "by quartiles",
        ]
    ]
    for case, r in results.items():
        if case == "sums":
            continue
        batch, size = case.removeprefix("batch "), r["ranks"]
        times, ratios, quartiles = r["microseconds"], r["ratios"], r["ratios of the fastest quarters"]
        for variant, label in (("one process", "1, without shards"), ("each alone", f"{size} at once, each alone")):
            if variant in times:
                both = [f"{x[variant]:.2f}" for x in (ratios, quartiles)]
                rows.append([f"{batch}, {label}", "", format_number(times[variant] / 1e3), "", *both])
        for ranks, predicted in r["predicted"].items():
            name = {"1": "one process, shards", str(size): "fixed"}.get(ranks)
            share = 1 - (r["predicted_without_sums"][ranks] / predicted) if "predicted_without_sums" in r else 0
            rows.append(
                [
                    f"{batch}, {ranks}", format_number(predicted / 1e3),
                    LEFT_OUT if name is None else format_number(times[name] / 1e3), f"{100 * share:.1f}",
                    *(LEFT_OUT if name is None else f"{x[name]:.2f}" for x in (ratios, quartiles)),
                ]
            )  # fmt: skip
    return rows


def ranks_sums_rows(results: dict[str, Any], in_full: bool) -> Rows:
    """Return the table of the sums in ``ranks.json``: the fixed tree, and the order that MPI chooses."""
    rows = [["float32 numbers", "fixed tree, µs", "MPI_Iallreduce, µs", "fixed to MPI"]]
    for size, r in results["sums"].items():
        ratio = r["fixed"] / r["engine"]
        rows.append([f"{int(size):,}", format_number(r["fixed"]), format_number(r["engine"]), f"{ratio:.2f}"])
    return rows


TABLES = {
    "ranks": (ranks_rows, set()),
    "ranks-sums": (ranks_sums_rows, set()),
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
    "tables": (tables_rows, {"scikit-learn"}),
    "threads": (threads_rows, set()),
    "own-parts": (own_parts_rows, set()),
    "layers": (layers_rows, set()),
    "embeddings": (embeddings_rows, set()),
    "embeddings-steps": (embeddings_steps_rows, set()),
    "many": (many_rows, {"scikit-learn", "jax"}),
    "c-export": (c_export_rows, set()),
    "instructions": (instructions_rows, set()),
    "gpu-steps": (gpu_steps_rows, {"torch", "jax"}),
    "gpu-steps-briefly": (gpu_steps_briefly_rows, {"torch", "jax"}),
    "gpu-predictions": (gpu_predictions_rows, {"torch"}),
    "gpu-limits": (gpu_limits_rows, set()),
    "gpu-estimates": (gpu_estimates_rows, set()),
}
"""For each table, the function that returns its rows, and the packages whose versions are named below it.

The functions return the heading and then the rows of a table, for some results. Their argument `in_full` is True for
the terminal and the report, and False for the documents. Below every table, the versions of deepnotes and of the
backends are also named.
"""
TEXTS = {"exporters"}
"""The tables that contain text; their columns are aligned to the left."""
GPU_TABLES = ("gpu-steps", "gpu-steps-briefly", "gpu-predictions", "gpu-limits", "gpu-estimates")
DOCUMENTS_ONLY = {"steps-briefly", *GPU_TABLES}
"""The tables that the report leaves out: the first is contained in ``steps``, the others are about other machines."""
SOURCES = (
    {"limits": "steps", "steps-briefly": "steps", "crossover": "sweep"}
    | {"ranks-sums": "ranks", "embeddings-steps": "embeddings"}
    | dict.fromkeys(GPU_TABLES, "gpu")
)
"""For each table or figure that is not named like its file of results, the name of the file."""


def markdown(name: str, content: dict[str, Any]) -> str:
    """Return a table as Markdown, followed by a line about the machine and the versions."""
    make_rows, packages = TABLES[name]
    rows = make_rows(content["results"], False)
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    unreliable = any(cell.startswith(UNRELIABLE_MARK) for row in rows[1:] for cell in row)
    note = f"{FOOTNOTE}.\n\n" if unreliable else ""
    table = "\n".join([head, "|---|" + ("---|" if name in TEXTS else "--:|") * (len(rows[0]) - 1), *body])
    return f"{table}\n\n{note}{measured_on(content, packages)}"


def measured_on(content: dict[str, Any], packages: set[str]) -> str:
    """Return a line about the machine and the versions that `content` was measured with.

    Parameters
    ----------
    content : dict
        The contents of a file of results.
    packages : set of str
        The packages to name in addition to deepnotes and its backends.
    """
    m, shown = content["machine"], packages | {"deepnotes", "numpy", "numba"}
    if "cupy" in content.get("ceilings", {}):
        shown |= {"cupy-cuda12x", "cupy-cuda13x"}
    versions = ", ".join(f"{name} {version}" for name, version in m["versions"].items() if version and name in shown)
    commit = f", commit {m['commit']}" if m["commit"] else ""
    if "device" in m:
        return f"{m['device']}, Python {m['python']}, {versions}; {m['date']}{commit}."
    processor = f"{m['processor']}, {m['cores']} cores"
    return f"{processor}, Python {m['python']}, {versions}, BLAS {m['blas']}; {m['date']}{commit}."


def publish(name: str, what: str, results: dict[str, Any], path: Path | None, **more: Any) -> None:
    """Print results as a table and, if a path is given, write them to a JSON file.

    Parameters
    ----------
    name : str
        The name of the table, a key of ``TABLES``.
    what : str
        A description of what was measured.
    results : dict
    path : Path or None
        The file. It also contains `what` and a description of the machine.
    **more : object
        More entries for the file.
    """
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
    minimum, median, maximum = values
    return f"{median:.2f} ({minimum:.2f} to {maximum:.2f})"
