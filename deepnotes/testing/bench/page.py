"""Functions that return HTML, for self-contained pages of results; they escape all text that is passed in."""

from base64 import b64encode
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from deepnotes.testing.bench.advice import FOOTNOTE, Rows

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a;
       background: #fff; }
h1 { font-size: 1.6rem; margin-bottom: 0 } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse; margin: .7rem 0; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .9rem .25rem 0; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
.wide { overflow-x: auto } img { max-width: 100%; height: auto } .advice li { margin: .3rem 0 }
code { background: #f2f2f2; padding: .1rem .3rem; border-radius: 3px } .small { color: #555; font-size: .85rem }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """Return an HTML page; `parts` must already be HTML, and `title` is text."""
    body = "\n".join(parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style></head>\n"
        f"<body>\n<h1>{escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def heading(text: str) -> str:
    """Return the HTML of a heading."""
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str, small: bool = False) -> str:
    """Return the HTML of a paragraph, in small print if `small`."""
    return f"<p{' class=small' if small else ''}>{escape(text)}</p>"


def bullet_list(items: Iterable[str], css_class: str = "") -> str:
    """Return the HTML of a bullet list."""
    return f'<ul class="{escape(css_class)}">' + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"


def table(rows: Rows) -> str:
    """Return the HTML of a table, with a footnote if some of its numbers are marked as unreliable."""
    header, *body = rows
    lines = ["<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in header) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in body]
    note = paragraph(FOOTNOTE, small=True) if any(cell.startswith("~") for row in body for cell in row) else ""
    return f'<div class="wide"><table>{"".join(lines)}</table></div>{note}'


def picture(svg: bytes, alternative: str) -> str:
    """Return the HTML of an SVG image with an alternative text."""
    return f'<p><img alt="{escape(alternative)}" src="data:image/svg+xml;base64,{b64encode(svg).decode("ascii")}"></p>'


def facts(machine: Mapping[str, Any]) -> str:
    """Return the HTML of a table that describes the machine, given the result of :func:`machine.machine`."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    threads = ", ".join(f"{name}={value}" for name, value in machine["threads"].items()) or "one per core"
    about = {
        "processor": f"{machine['processor']}, {machine['cores']} cores",
        "system": f"{machine['system']}, Python {machine['python']}",
        "versions": versions,
        "BLAS": machine["blas"] or "not loaded",
        "threads": threads,
        "commit": machine["commit"] or "an installed package",
        "date": machine["date"],
    }
    cells = "".join(
        f'<tr><td>{escape(name)}</td><td style="text-align:left;white-space:normal">{escape(str(value))}</td></tr>'
        for name, value in about.items()
    )
    return f"<table>{cells}</table>"
