"""Conclusions from results: who is fastest, by how much and how surely; and rows of tables."""

from collections.abc import Sequence
from typing import NamedTuple

from deepnotes.testing.bench.contenders import Contender
from deepnotes.testing.bench.runs import Found, share
from deepnotes.testing.bench.timing import UNRELIABLE

DOUBT = "~"
"""The mark before a number whose rounds scatter too much."""
FOOTNOTE = f"{DOUBT} unreliable: the middle half of its rounds spans more than {UNRELIABLE:.0%} of their median"

Rows = list[list[str]]
"""The first is the head; the first column is text, the others are numbers."""


class Best(NamedTuple):
    """The recommended contender, those as fast within noise, and the best of another backend, `times` as slow."""

    contender: Contender
    equals: list[str]
    times: float
    next: str | None
    sure: bool


def best(found: Found, contenders: Sequence[Contender]) -> Best:
    """Return the fastest contender of a result; among those equal within noise, the one with the fewest threads."""
    times, scatter = found["microseconds"], found["scatter"]
    fastest = min(times, key=times.__getitem__)

    def noise(who: str) -> float:
        return sum((scatter[name] if scatter[name] is not None else UNRELIABLE) / 2 for name in (fastest, who))

    level = [c for c in contenders if times[c.name] <= times[fastest] * (1 + noise(c.name))]
    chosen = min(level, key=lambda c: (c.threads or 1, times[c.name]))
    backends = {c.name: c.backend.name for c in contenders}
    others = [name for name, backend in backends.items() if backend != backends[chosen.name]]
    behind = min(others, key=times.__getitem__, default=None)
    return Best(
        chosen,
        [c.name for c in level if c is not chosen],
        1.0 if behind is None else times[behind] / times[chosen.name],
        behind,
        chosen.name not in found["unreliable"],
    )


def figure(value: float, doubtful: bool = False) -> str:
    """Return a time with its significant digits, marked if it is in doubt.

    Examples
    --------
    >>> figure(3.14159), figure(1234.5), figure(99.9, doubtful=True)
    ('3.1', '1,234', '~100')
    """
    return f"{DOUBT if doubtful else ''}{f'{value:,.0f}' if value >= 20 else f'{value:.1f}'}"


def timed(found: Found, who: str) -> str:
    """Return the median of a contender, marked if it is in doubt."""
    return figure(found["microseconds"][who], who in found["unreliable"])


def rows(steps: Found, predictions: Sequence[Found], contenders: Sequence[Contender]) -> Rows:
    """Return the table of one network and batch: steps, their share of the limit, and predictions."""
    counts = [f"predict {p['batch']:,}, µs" for p in predictions]
    table = [["backend", "step, µs", "scatter", "of the limit", *counts]]
    for c in sorted(contenders, key=lambda c: float(steps["microseconds"][c.name])):
        scatter = steps["scatter"][c.name]
        table.append(
            [
                c.name,
                timed(steps, c.name),
                "unknown" if scatter is None else f"{scatter:.0%}",
                f"{share(steps, c.name):.1%}",
                *(timed(p, c.name) for p in predictions),
            ]
        )
    return table


def advice(what: str, found: Found, contenders: Sequence[Contender]) -> str:
    """Return the recommendation in a sentence: what for, which options, and how much faster than others."""
    b = best(found, contenders)
    words = f"for {what} take {b.contender.name}: {b.contender.options}"
    if b.contender.environment:
        words += f", with {b.contender.environment} in the environment"
    if b.next is not None and b.next not in b.equals:
        words += f"; {figure(b.times)} times as fast as {b.next}"
    if b.equals:
        words += f"; as fast as far as can be told: {', '.join(b.equals)}"
    return words if b.sure else f"{words} (unreliable: the machine was busy with something else, or its clock changed)"
