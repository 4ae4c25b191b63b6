"""Recommendations from measurements, and rows of tables."""

from collections.abc import Sequence
from typing import NamedTuple

from deepnotes.testing.bench.contenders import Contender
from deepnotes.testing.bench.runs import Measurement, share
from deepnotes.testing.bench.timing import UNRELIABLE

UNRELIABLE_MARK = "~"
"""The mark before a number whose rounds scatter too much."""
FOOTNOTE = (
    f"{UNRELIABLE_MARK} unreliable: the middle half of its rounds spans more than {UNRELIABLE:.0%} of their median"
)

Rows = list[list[str]]
"""Rows of a table; the first row is the head, and all columns after the first are numbers."""


class Best(NamedTuple):
    """The recommended contender and its equals within noise; `next`, of another backend, takes `times` as long."""

    contender: Contender
    equals: list[str]
    times: float
    next: str | None
    sure: bool


def best(found: Measurement, contenders: Sequence[Contender]) -> Best:
    """Return the fastest contender of a result; among those equal within noise, the one with the fewest threads."""
    times, scatter = found["microseconds"], found["scatter"]
    fastest = min(times, key=times.__getitem__)

    def noise(who: str) -> float:
        return sum((scatter[name] if scatter[name] is not None else UNRELIABLE) / 2 for name in (fastest, who))

    equals = [c for c in contenders if times[c.name] <= times[fastest] * (1 + noise(c.name))]
    chosen = min(equals, key=lambda c: (c.threads or 1, times[c.name]))
    backends = {c.name: c.backend.name for c in contenders}
    others = [name for name, backend in backends.items() if backend != backends[chosen.name]]
    behind = min(others, key=times.__getitem__, default=None)
    return Best(
        chosen,
        [c.name for c in equals if c is not chosen],
        1.0 if behind is None else times[behind] / times[chosen.name],
        behind,
        chosen.name not in found["unreliable"],
    )


def figure(value: float, unreliable: bool = False) -> str:
    """Return a time in its significant digits, with a mark if it is unreliable.

    Examples
    --------
    >>> figure(3.14159), figure(1234.5), figure(99.9, unreliable=True)
    ('3.1', '1,234', '~100')
    """
    return f"{UNRELIABLE_MARK if unreliable else ''}{f'{value:,.0f}' if value >= 20 else f'{value:.1f}'}"


def timed(found: Measurement, who: str) -> str:
    """Return the median time of a contender, with a mark if it is unreliable."""
    return figure(found["microseconds"][who], who in found["unreliable"])


def rows(steps: Measurement, predictions: Sequence[Measurement], contenders: Sequence[Contender]) -> Rows:
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


def advice(task: str, found: Measurement, contenders: Sequence[Contender]) -> str:
    """Return the recommendation for a task in a sentence: options, and how much faster it is than other backends."""
    b = best(found, contenders)
    words = f"for {task} use {b.contender.name}: {b.contender.options}"
    if b.contender.environment:
        words += f", with {b.contender.environment} in the environment"
    if b.next is not None and b.next not in b.equals:
        words += f"; {figure(b.times)} times as fast as {b.next}"
    if b.equals:
        words += f"; equally fast within the noise: {', '.join(b.equals)}"
    return words if b.sure else f"{words} (unreliable: other programs used the machine, or its clock rate changed)"
