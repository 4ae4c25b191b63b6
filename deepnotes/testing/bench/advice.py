"""Recommendations based on measurements, and tables of measurements."""

from collections.abc import Sequence
from typing import NamedTuple

from deepnotes.testing.bench.contenders import Contender
from deepnotes.testing.bench.runs import Measurement, share
from deepnotes.testing.bench.timing import UNRELIABLE

UNRELIABLE_MARK = "~"
"""The mark before a time whose rounds scatter too much."""
FOOTNOTE = (
    f"{UNRELIABLE_MARK} unreliable: the middle half of the measured times spans more than {UNRELIABLE:.0%} of their "
    "median"
)

Rows = list[list[str]]
"""The rows of a table; the first row is the header, and all columns after the first contain numbers."""


class Best(NamedTuple):
    """The recommended contender.

    Attributes
    ----------
    contender : Contender
    equivalents : list of str
        The other contenders that are equally fast within noise.
    speedup : float
        How many times as fast as `runner_up` the contender is; 1 if there is no runner-up.
    runner_up : str or None
        The fastest contender with another backend.
    is_reliable : bool
        Whether the rounds of the contender did not scatter too much.
    """

    contender: Contender
    equivalents: list[str]
    speedup: float
    runner_up: str | None
    is_reliable: bool


def best(measurement: Measurement, contenders: Sequence[Contender]) -> Best:
    """Return the fastest contender; of several that are equally fast within noise, the one with the fewest threads."""
    times, scatter = measurement["microseconds"], measurement["scatter"]
    fastest = min(times, key=times.__getitem__)

    def half_scatter(name: str) -> float:
        return (UNRELIABLE if scatter[name] is None else float(scatter[name])) / 2

    noise = {c.name: half_scatter(fastest) + half_scatter(c.name) for c in contenders}
    fast = [c for c in contenders if times[c.name] <= times[fastest] * (1 + noise[c.name])]
    recommended = min(fast, key=lambda c: (c.threads or 1, times[c.name]))
    backends = {c.name: c.backend.name for c in contenders}
    others = [name for name, backend in backends.items() if backend != backends[recommended.name]]
    runner_up = min(others, key=times.__getitem__, default=None)
    return Best(
        recommended,
        [c.name for c in fast if c is not recommended],
        1.0 if runner_up is None else times[runner_up] / times[recommended.name],
        runner_up,
        recommended.name not in measurement["unreliable"],
    )


def format_number(value: float, unreliable: bool = False) -> str:
    """Return a time or ratio as text, with one decimal place below 20 and none from 20 on, marked if it is unreliable.

    Examples
    --------
    >>> format_number(3.14159), format_number(1234.5), format_number(99.9, unreliable=True)
    ('3.1', '1,234', '~100')
    """
    return f"{UNRELIABLE_MARK if unreliable else ''}{f'{value:,.0f}' if value >= 20 else f'{value:.1f}'}"


def format_median(measurement: Measurement, name: str) -> str:
    """Return the median time of a contender in microseconds, with a mark if it is unreliable."""
    return format_number(measurement["microseconds"][name], name in measurement["unreliable"])


def rows(steps: Measurement, predictions: Sequence[Measurement], contenders: Sequence[Contender]) -> Rows:
    """Return the table for one network and batch size: for each contender, the times of a step and of predictions.

    Parameters
    ----------
    steps : Measurement
        The measurement of the training step.
    predictions : sequence of Measurement
        The measurements of predictions, one for each number of samples.
    contenders : sequence of Contender
    """
    headers = [f"predict {p['batch']:,}, µs" for p in predictions]
    table = [["backend", "step, µs", "scatter", "of the limit", *headers]]
    for c in sorted(contenders, key=lambda c: float(steps["microseconds"][c.name])):
        scatter = steps["scatter"][c.name]
        table.append(
            [
                c.name,
                format_median(steps, c.name),
                "unknown" if scatter is None else f"{scatter:.0%}",
                f"{share(steps, c.name):.1%}",
                *(format_median(p, c.name) for p in predictions),
            ]
        )
    return table


def advice(task: str, measurement: Measurement, contenders: Sequence[Contender]) -> str:
    """Return a sentence that recommends a contender for a task, with its options and its advantage over other backends.

    `task` is a phrase such as "predicting one sample".
    """
    b = best(measurement, contenders)
    text = f"for {task} use {b.contender.name}: {b.contender.options}"
    if b.contender.environment:
        text += f", with {b.contender.environment} in the environment"
    if b.runner_up is not None and b.runner_up not in b.equivalents:
        text += f"; {format_number(b.speedup)} times as fast as {b.runner_up}"
    if b.equivalents:
        text += f"; equally fast within the noise: {', '.join(b.equivalents)}"
    if not b.is_reliable:
        text += " (unreliable: other programs may have used the machine, or its clock rate may have changed)"
    return text
