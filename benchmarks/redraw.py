"""Redraw the tables and figures in the documents, and the report, from the results: ``python -m benchmarks.redraw``.

The documents are the README and the pages under docs. The text between ``<!-- name -->`` and ``<!-- /name -->`` is
replaced by a table of the results in ``benchmarks/results/name.json``, if that file exists. The figure ``crossover`` is
written to ``docs/images/crossover.svg``, with a digest of its results. The figure ``docs/images/activations.svg`` shows
the library's elementwise activations. The report, with all tables and figures, is
written to ``benchmarks/results/report.html``.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from benchmarks.report import DOCUMENTS_ONLY, RESULTS, ROOT, SOURCES, TABLES, markdown, measured_on
from deepnotes import plots
from deepnotes.nn.activations import LIBRARY as ACTIVATIONS
from deepnotes.testing.bench import figures, page
from deepnotes.testing.bench.sweep import lines

IMAGE = Path("docs") / "images" / "crossover.svg"
PICTURED = [name for name in ACTIVATIONS if name not in ("softmax", "log_softmax")]
"""The activations in the figure of all activations; softmax and its logarithm are not elementwise."""
CAPTION = "How long a training step takes against the width of two layers, for each backend and batch"
"""The text of the figure ``crossover``."""


def results(name: str) -> dict[str, Any] | None:
    """Return the results for a table or figure, or None if there is no file."""
    path = RESULTS / f"{SOURCES.get(name, name)}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def digest(name: str) -> str:
    """Return the digest of the file of results for a table or figure."""
    return hashlib.sha256((RESULTS / f"{SOURCES.get(name, name)}.json").read_bytes()).hexdigest()


def documents() -> list[Path]:
    """Return the README and the pages under docs."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def fill(document: str) -> str:
    """Return the text of a document with its tables and the link to its figure updated."""
    for name in [*TABLES, "crossover"]:
        content = results(name)
        if content is not None:
            text = _figure(content) if name == "crossover" else markdown(name, content)
            markers = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
            escaped = text.replace("\\", r"\\")  # in a template, a backslash would start an escape sequence
            document = re.sub(markers, rf"\g<1>{escaped}\n\g<2>", document, flags=re.DOTALL)
    return document


def _figure(content: dict[str, Any]) -> str:
    return f"![{CAPTION}]({IMAGE.as_posix()})\n\n{measured_on(content, set())}"


def crossover(content: dict[str, Any]) -> bytes:
    """Plot the results of the sweep, and return an SVG that contains their digest."""
    panels = lines(content["results"]["points"])
    figure = figures.crossover(panels, dict.fromkeys(panels, "neurons of each of two layers"), CAPTION, across=3)
    picture = figures.svg(figure)
    return picture.rstrip().removesuffix(b"</svg>") + f"<!-- sweep.json {digest('crossover')} -->\n</svg>\n".encode()


def report() -> str:
    """Return an HTML page with all results."""
    parts = []
    sweep = results("crossover")
    if sweep is not None:
        parts += [page.heading("The fastest backend by width and batch size"), page.picture(crossover(sweep), CAPTION)]
    machines = {}
    for name, (make_rows, packages) in TABLES.items():
        content = results(name)
        rows = [] if content is None else make_rows(content["results"], True)
        if content is not None and len(rows) > 1 and name not in DOCUMENTS_ONLY:
            parts += [page.heading(f"{name}: {content['what']}"), page.table(rows)]
            parts.append(page.paragraph(measured_on(content, packages), small=True))
            machines[content["machine"]["date"], content["machine"]["commit"]] = content["machine"]
    for (date, commit), machine in machines.items():
        parts += [page.heading(f"Measured on {date}, commit {commit}"), page.facts(machine)]
    return page.page("deepnotes: the benchmarks", parts)


def main() -> None:
    """Write the figures, the documents and the report."""
    plots.save(plots.activation(PICTURED), ROOT / IMAGE.with_name("activations.svg"))
    sweep = results("crossover")
    if sweep is not None:
        (ROOT / IMAGE).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / IMAGE).write_bytes(crossover(sweep))
    for path in documents():
        path.write_text(fill(path.read_text(encoding="utf-8")), encoding="utf-8")
    (RESULTS / "report.html").write_text(report(), encoding="utf-8")


if __name__ == "__main__":
    main()
