"""The page of a trace: the formula of each step with its numbers beside it, as text and as HTML."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from deepnotes.network.inspection.events import WIDTH, Event
from deepnotes.network.inspection.matrices import beside, cells
from deepnotes.utils import html
from deepnotes.utils.safe_text import escaped

HEADINGS = {"forward": "Forward pass", "loss": "Loss and cost", "backward": "Backward pass"}
BODY = "body{font-family:Georgia,serif;margin:2em auto;max-width:62em;padding:0 1em;color:#222;background:#fff}"
STYLE = (
    ".trace{border-collapse:collapse;font-size:15px}"
    ".trace td{vertical-align:middle;padding:.45em .9em;border-top:1px solid #ddd;text-align:left}"
    ".trace th{text-align:left;padding:1.1em .9em .3em;font-size:17px}"
    ".trace .n{color:#777;text-align:right}.trace .f{font-size:17px;white-space:nowrap}"
    ".trace .l{white-space:normal;min-width:24em}"
    ".trace .s{color:#777;font-size:13px;white-space:nowrap}.trace .e{white-space:nowrap}"
    ".trace .m{border-collapse:collapse;border:solid #333;border-width:0 1.5px;border-radius:5px}"
    ".trace .m td{border:0;padding:.05em .5em;text-align:right;font:13px ui-monospace,monospace;white-space:nowrap}"
)


class Page(NamedTuple):
    """What a page shows: the attributes of a :class:`~deepnotes.network.inspection.page.Trace`."""

    network: str
    given: Mapping[str, np.ndarray]
    events: Sequence[Event]
    notes: Sequence[str]

    @property
    def title(self) -> str:
        """The title of the page."""
        m = self.given["A0"].shape[1]
        return f"One training step of a {self.network}, on m = {m:,} sample{'s' * (m != 1)}"


def text_page(page: Page) -> str:
    """Return the page as text."""
    lines = [page.title, "=" * len(page.title), "", "Given"]
    width = min(WIDTH, 5 + max(len(e.headline) for e in page.events))
    for name, array in page.given.items():
        lines += ["", beside([f"     {name}{_meaning(name)}", f"     {array.shape}"], array, width)]
    direction = ""
    for event in page.events:
        if event.direction != direction:
            direction = event.direction
            lines += ["", "", HEADINGS[direction]]
        lines += ["", event.text(width, numbered=True)]
    lines += ["", *(f"* {note}" for note in page.notes)]
    return escaped("\n".join(lines), keep="\n")


def _meaning(name: str) -> str:
    return {"A0": " = X, the samples", "Y": ", the targets", "w": ", the sample weights"}.get(name, "")


def html_fragment(page: Page) -> str:
    """Return the page as HTML to be put into a page."""
    rows = [_heading("Given")]
    for name, array in page.given.items():
        meaning = _meaning(name)
        rows.append(_row("", _set(name) + _set(meaning), "", str(array.shape), array))
    direction = ""
    for event in page.events:
        if event.direction != direction:
            direction = event.direction
            rows.append(_heading(HEADINGS[direction]))
        formula = f"{_set(event.name)} = {_set(event.formula)}"
        rows.append(_row(str(event.number), formula, ", ".join(event.equations), event.shapes, event.value))
    notes = "".join(f"<p>{_set(note)}</p>" for note in page.notes)
    return f'<style>{STYLE}</style><h3>{html.text(page.title)}</h3><table class="trace">{"".join(rows)}</table>{notes}'


def html_document(page: Page) -> str:
    """Return the page as an HTML document, which loads nothing."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width"><title>{html.text(page.network)}</title><style>{BODY}</style></head><body>{html_fragment(page)}'
        "</body></html>\n"
    )


def _heading(text: str) -> str:
    return f'<tr><th colspan="5">{html.text(text)}</th></tr>'


def _row(number: str, formula: str, equations: str, shapes: str, array: np.ndarray) -> str:
    matrix = "".join(f"<tr>{''.join(f'<td>{html.text(cell)}</td>' for cell in row)}</tr>" for row in cells(array))
    form = "f l" if len(re.sub("<.*?>", "", formula)) > WIDTH else "f"
    return (
        f'<tr><td class="n">{number}</td><td class="{form}">{formula}</td><td class="e">{equations}</td>'
        f'<td><table class="m">{matrix}</table></td><td class="s">{html.text(shapes)}</td></tr>'
    )


NAME = re.compile(r"\b(d?)([A-MO-Z]|b)([0-9]+)(_[a-z0-9]+)?([ᵀ²³]?)(?![\w\[])|\b(d?)([LYXBSTUVmw])\b")
RAISED = {"ᵀ": " T", "²": " 2", "³": " 3", "": ""}


def _set(formula: str) -> str:
    """Return a formula in HTML: names in italics, the number of the layer in brackets above, as the notes write it."""

    def name(match: re.Match[str]) -> str:
        d, letter, number, suffix, raised, plain_d, plain = match.groups()
        if plain:
            return f"{plain_d}<i>{plain}</i>"
        below = f"<sub>{suffix[1:]}</sub>" if suffix else ""
        return f"{d}<i>{letter}</i><sup>[{number}]{RAISED[raised]}</sup>{below}"

    text = NAME.sub(name, html.text(formula))
    text = re.sub(r"(Σ|mean)_(\w+)", r"\1<sub>\2</sub>", text)
    text = re.sub(r"e\^(-?d?<i>.*?</i><sup>.*?</sup>)", lambda match: f"e<sup>{_flat(match[1])}</sup>", text)
    text = re.sub(r"\^(-?[\d.]+)", r"<sup> \1</sup>", text)
    for plain, printed in ((" * ", " ∗ "), (" - ", " − "), ("(-", "(−"), (" &gt;= ", " ≥ "), (" &lt;= ", " ≤ ")):
        text = text.replace(plain, printed)
    return re.sub("^-", "−", text)


def _flat(exponent: str) -> str:
    """Return a name for use as an exponent, without a superscript of its own."""
    return exponent.replace("<sup>", "").replace("</sup>", "").replace("-", "−")
