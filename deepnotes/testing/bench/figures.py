"""Plots of measurements, drawn with matplotlib (extra ``plot``), which is imported only when a plot is drawn."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

from deepnotes.plots import require_matplotlib
from deepnotes.testing.bench.advice import format_number
from deepnotes.testing.bench.sweep import Overtaking, overtakings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
"""The colours of Okabe and Ito, which colour-blind readers can distinguish. Markers and line styles differ as well."""
MARKERS, LINE_STYLES = "os^Dv<>P", ("-", "--", "-.", ":")
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "deepnotes",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
Panel = Mapping[str, Sequence[tuple[int, float]]]
"""The data of one panel: for each contender, pairs of x and microseconds."""


def crossover(panels: Mapping[str, Panel], x_labels: Mapping[str, str], title: str, across: int = 2) -> "Figure":
    """Plot the time of a step in one or more panels, and mark where the fastest contender changes.

    Parameters
    ----------
    panels : mapping of str to Panel
        The data of each panel, by the title of the panel.
    x_labels : mapping of str to str
        The label of the x axis of each panel, by the title of the panel.
    title : str
        The title of the figure.
    across : int, default 2
        The maximum number of panels in a row.
    """
    require_matplotlib()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    across = min(across, len(panels))
    down = -(-len(panels) // across)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.2 * across, 3.1 * down + 0.9), layout="constrained")
        shares_x = len({x_labels[name] for name in panels}) == 1
        grid = figure.subplots(down, across, squeeze=False, sharex=shares_x, sharey=True).ravel()
        contenders = list(dict.fromkeys(contender for panel in panels.values() for contender in panel))
        for ax, (name, panel) in zip(grid, panels.items(), strict=False):
            ticks = _x_coordinates(panels.values() if shares_x else [panel])
            _plot_panel(ax, name, x_labels[name], panel, contenders, ticks)
        for ax in grid[len(panels) :]:
            ax.set_axis_off()
        _set_ticks_of_times(grid[0], panels.values())
        for ax in grid[::across]:
            ax.set_ylabel("one training step, µs")
        handles = {text: handle for ax in grid for handle, text in zip(*ax.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(4, len(handles)))
        figure.suptitle(title)
        return figure


def _set_ticks_of_times(ax: Any, panels: Iterable[Panel]) -> None:
    """Mark 1, 2, 5, 10, ... on the shared y axis if the times span less than three powers of ten."""
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    times = [time for panel in panels for points in panel.values() for _, time in points]
    if times and max(times) < 1000 * min(times):
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:,.12g}"))


def _x_coordinates(panels: Iterable[Panel]) -> list[int]:
    """Return the x coordinates of all points in the given panels, sorted and without duplicates."""
    return sorted({point[0] for panel in panels for points in panel.values() for point in points})


def _plot_panel(ax: Any, title: str, x_label: str, panel: Panel, contenders: Sequence[str], ticks: list[int]) -> None:
    """Plot one panel; a contender's position in `contenders` determines its colour, marker and line style."""
    for name, points in panel.items():
        i = contenders.index(name)
        style = {"color": COLOURS[i % 8], "marker": MARKERS[i % 8], "linestyle": LINE_STYLES[i % 4], "markersize": 4}
        ax.plot(*zip(*points, strict=True), label=name, linewidth=1.3, **style)
    ax.set(xscale="log", yscale="log", xlabel=x_label)
    ax.grid(True, which="major", color="#dddddd", linewidth=0.5)
    ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    ax.minorticks_off()
    ax.tick_params(labelbottom=True)
    changes = overtakings(panel)
    for change in changes:
        ax.axvline(change.x, color="#888888", linewidth=0.8, linestyle=":")
    fastest = textwrap.wrap(_describe_changes(changes), 66)  # above the panel, where it hides no line
    ax.set_title(title, pad=6 + 9 * len(fastest))
    ax.annotate(
        "\n".join(fastest), (0.5, 1), (0, 4), xycoords="axes fraction", textcoords="offset points", ha="center",
        va="bottom", fontsize=7, color="#444444",
    )  # fmt: skip


def bars(
    microseconds: Mapping[str, float], limit: float | None, title: str, unreliable: Sequence[str] = ()
) -> "Figure":
    """Plot the time of a step as one horizontal bar for each contender.

    Parameters
    ----------
    microseconds : mapping of str to float
        The time of each contender.
    limit : float or None
        The shortest time that the machine allows, drawn as a line.
    title : str
    unreliable : sequence of str
        The contenders whose times are labelled as unreliable.
    """
    require_matplotlib()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    names = sorted(microseconds, key=microseconds.__getitem__, reverse=True)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 1.2 + 0.32 * len(names)), layout="constrained")
        ax = figure.subplots()
        labels = [f"{name} (unreliable)" if name in unreliable else name for name in names]
        container = ax.barh(labels, [microseconds[name] for name in names], color=COLOURS[0], height=0.65)
        ax.bar_label(container, [format_number(microseconds[name]) for name in names], padding=3)
        if limit is not None:
            ax.axvline(limit, color=COLOURS[1], linestyle="--", label=f"limit of the machine: {format_number(limit)}")
            figure.legend(loc="outside lower right")
        ax.set(xlabel="µs", title=title, xlim=(0, 1.15 * max(microseconds.values())))
        return figure


def save(figure: "Figure", path: Any, format: str | None = None) -> None:
    """Write a figure to a file or stream; with the same versions of the packages, the same bytes are written."""
    import matplotlib as mpl

    metadata = {"Date": None} if (format or str(path).rpartition(".")[2]).lower() == "svg" else None
    with mpl.rc_context(STYLE):
        figure.savefig(path, format=format, dpi=150, metadata=metadata)


def svg(figure: "Figure") -> bytes:
    """Return the figure as the bytes of an SVG file."""
    stream = BytesIO()
    save(figure, stream, "svg")
    return stream.getvalue()


def _describe_changes(changes: Sequence[Overtaking]) -> str:
    """Return a line that says where the fastest contender changes, or an empty one if it does not.

    Examples
    --------
    >>> _describe_changes([Overtaking(84.1, "numba", "numpy"), Overtaking(2171.0, "numpy", "cupy")])
    'fastest: numba; from about 84, numpy; from about 2,200, cupy'
    """
    if not changes:
        return ""
    later = [f"from about {float(f'{change.x:.2g}'):,.0f}, {change.after}" for change in changes]
    return "; ".join([f"fastest: {changes[0].before}", *later])
