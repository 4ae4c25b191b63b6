"""Figures of measurements, by matplotlib (extra ``plot``), which is imported when the first one is drawn."""

from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

from deepnotes.plots import require_matplotlib
from deepnotes.testing.bench.advice import figure
from deepnotes.testing.bench.sweep import Overtaking, overtakings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
"""The colours of Okabe and Ito, which colour-blind readers can distinguish; markers and line styles differ too."""
MARKS, STROKES = "os^Dv<>P", ("-", "--", "-.", ":")
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "deepnotes",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
Line = Mapping[str, Sequence[tuple[int, float]]]
"""By contender, pairs of x and microseconds."""


def crossover(panels: Mapping[str, Line], axes: Mapping[str, str], title: str, across: int = 2) -> "Figure":
    """Plot the time of a step in one panel per line of a sweep, and mark where the fastest contender changes.

    Parameters
    ----------
    panels : mapping of str to Line
        By title.
    axes : mapping of str to str
        The label of the x axis, by panel.
    title : str
    across : int, default 2
        The number of panels in a row.
    """
    require_matplotlib()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    across = min(across, len(panels))
    down = -(-len(panels) // across)
    with mpl.rc_context(STYLE):
        drawn = Figure(figsize=(4.2 * across, 3.1 * down + 0.9), layout="constrained")
        alike = len({axes[name] for name in panels}) == 1
        grid = drawn.subplots(down, across, squeeze=False, sharex=alike, sharey=True).ravel()
        names = list(dict.fromkeys(who for line in panels.values() for who in line))
        for ax, (name, line) in zip(grid, panels.items(), strict=False):
            ticks = _x_coordinates(panels.values() if alike else [line])
            _plot_lines(ax, name, axes[name], line, names, ticks)
        for ax in grid[len(panels) :]:
            ax.set_axis_off()
        for ax in grid[::across]:
            ax.set_ylabel("one training step, µs")
        handles = {text: handle for ax in grid for handle, text in zip(*ax.get_legend_handles_labels(), strict=True)}
        drawn.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(4, len(handles)))
        drawn.suptitle(title)
        return drawn


def _x_coordinates(several: Iterable[Line]) -> list[int]:
    """Return the x coordinates of all points of some lines."""
    return sorted({point[0] for line in several for points in line.values() for point in points})


def _plot_lines(ax: Any, title: str, x: str, line: Line, names: Sequence[str], ticks: list[int]) -> None:
    for who, points in line.items():
        i = names.index(who)
        style = {"color": COLOURS[i % 8], "marker": MARKS[i % 8], "linestyle": STROKES[i % 4], "markersize": 4}
        ax.plot(*zip(*points, strict=True), label=who, linewidth=1.3, **style)
    ax.set(xscale="log", yscale="log", xlabel=x, title=title)
    ax.grid(True, which="major", color="#dddddd", linewidth=0.5)
    ax.set_xticks(ticks, [_short(tick) for tick in ticks])
    ax.minorticks_off()
    ax.tick_params(labelbottom=True)
    for change in overtakings(line):
        ax.axvline(change.x, color="#888888", linewidth=0.8, linestyle=":")
        ax.annotate(
            _label(change), (change.x, 0.03), xycoords=("data", "axes fraction"), fontsize=7, rotation=90, ha="right",
            color="#444444", bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.5},
        )  # fmt: skip


def bars(microseconds: Mapping[str, float], least: float | None, title: str, doubtful: Sequence[str] = ()) -> "Figure":
    """Plot the time of a step as horizontal bars, and the least time that the machine allows, if given."""
    require_matplotlib()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    names = sorted(microseconds, key=microseconds.__getitem__, reverse=True)
    with mpl.rc_context(STYLE):
        drawn = Figure(figsize=(7.5, 1.2 + 0.32 * len(names)), layout="constrained")
        ax = drawn.subplots()
        labels = [f"{name} (unreliable)" if name in doubtful else name for name in names]
        shown = ax.barh(labels, [microseconds[name] for name in names], color=COLOURS[0], height=0.65)
        ax.bar_label(shown, [figure(microseconds[name]) for name in names], padding=3)
        if least is not None:
            ax.axvline(least, color=COLOURS[1], linestyle="--", label=f"limit of the machine: {figure(least)}")
            drawn.legend(loc="outside lower right")
        ax.set(xlabel="µs", title=title, xlim=(0, 1.15 * max(microseconds.values())))
        return drawn


def save(drawn: "Figure", path: Any, format: str | None = None) -> None:
    """Write a figure to a file or stream; the same versions of the packages write the same bytes."""
    import matplotlib as mpl

    metadata = {"Date": None} if (format or str(path).rpartition(".")[2]).lower() == "svg" else None
    with mpl.rc_context(STYLE):
        drawn.savefig(path, format=format, dpi=150, metadata=metadata)


def svg(drawn: "Figure") -> bytes:
    """Return a figure as SVG."""
    stream = BytesIO()
    save(drawn, stream, "svg")
    return stream.getvalue()


def _label(change: Overtaking) -> str:
    return f"from {_short(change.x)} on: {change.after}"


def _short(x: float) -> str:
    """Return a short label for a number, such as 66k for 65,536."""
    return f"{x / 1000:.0f}k" if x >= 10_000 else f"{x / 1000:.3g}k" if x >= 1000 else f"{x:.3g}"
