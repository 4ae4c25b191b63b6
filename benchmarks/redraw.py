"""Redraw all tables and figures of the documents, and the report, from the results: ``python -m benchmarks.redraw``.

The documents are the README and the pages under docs. A table stands there between ``<!-- name -->`` and
``<!-- /name -->`` and is made of ``benchmarks/results/name.json``; where either is missing, nothing is done. The
picture ``crossover`` becomes ``docs/images/crossover.svg``, which says by a digest which results it was drawn from.
The report, with all of it, goes to ``benchmarks/results/report.html``.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from benchmarks.report import DOCUMENTS_ONLY, RESULTS, ROOT, SOURCES, TABLES, markdown, measured_on
from deepnotes.testing.bench import figures, page
from deepnotes.testing.bench.sweep import lines

IMAGE = Path("docs") / "images" / "crossover.svg"
CAPTION = "How long a training step takes over the width of two layers, for each backend and batch"


def results(name: str) -> dict[str, Any] | None:
    """Return the content of the file that a table or figure is made from, or None if there is none."""
    path = RESULTS / f"{SOURCES.get(name, name)}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def digest(name: str) -> str:
    """Return the digest of that file, which a figure records."""
    return hashlib.sha256((RESULTS / f"{SOURCES.get(name, name)}.json").read_bytes()).hexdigest()


def documents() -> list[Path]:
    """Return the README and the pages under docs."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def fill(document: str) -> str:
    """Return a document with its tables, and the lines under its figure, regenerated."""
    for name in [*TABLES, "crossover"]:
        content = results(name)
        if content is not None:
            shown = _figure(content) if name == "crossover" else markdown(name, content)
            markers = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
            escaped = shown.replace("\\", r"\\")  # in a template, a backslash would start an escape sequence
            document = re.sub(markers, rf"\g<1>{escaped}\n\g<2>", document, flags=re.DOTALL)
    return document


def _figure(content: dict[str, Any]) -> str:
    return f"![{CAPTION}]({IMAGE.as_posix()})\n\n{measured_on(content, set())}"


def crossover(content: dict[str, Any]) -> bytes:
    """Return the picture of a sweep, as SVG, with the digest of the results in it."""
    panels = lines(content["results"]["points"])
    drawn = figures.crossover(panels, dict.fromkeys(panels, "neurons of each of two layers"), CAPTION, across=3)
    picture = figures.svg(drawn)
    return picture.rstrip().removesuffix(b"</svg>") + f"<!-- sweep.json {digest('crossover')} -->\n</svg>\n".encode()


def report() -> str:
    """Return all results as one page."""
    parts = []
    sweep = results("crossover")
    if sweep is not None:
        parts += [page.heading("Where one overtakes another"), page.picture(crossover(sweep), CAPTION)]
    machines = {}
    for name, (make, packages) in TABLES.items():
        content = results(name)
        rows = [] if content is None else make(content["results"], True)
        if content is not None and len(rows) > 1 and name not in DOCUMENTS_ONLY:
            parts += [page.heading(f"{name}: {content['what']}"), page.table(rows)]
            parts.append(page.paragraph(measured_on(content, packages), small=True))
            machines[content["machine"]["date"], content["machine"]["commit"]] = content["machine"]
    for (date, commit), machine in machines.items():
        parts += [page.heading(f"Measured on {date}, commit {commit}"), page.facts(machine)]
    return page.page("deepnotes: the benchmarks", parts)


def main() -> None:
    """Write the figure, the documents and the report."""
    sweep = results("crossover")
    if sweep is not None:
        (ROOT / IMAGE).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / IMAGE).write_bytes(crossover(sweep))
    for path in documents():
        path.write_text(fill(path.read_text(encoding="utf-8")), encoding="utf-8")
    (RESULTS / "report.html").write_text(report(), encoding="utf-8")


if __name__ == "__main__":
    main()
