"""Draw a diagram of the layers of a network, with the shapes of activations and parameters."""

from typing import TYPE_CHECKING, Any, NamedTuple

from deepnotes.nn.layers import Dense, Dropout, Layer
from deepnotes.plots.canvas import INK, PALE, TRAINING, VALIDATION, figure_of, get_axes, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from deepnotes.plots.protocols import NetworkLike

MAX_NEURONS = 10
"""If a layer has more neurons than this, only its first and last neurons are drawn."""
STEP = 2.3
"""The distance between layers; the distance between neurons is 1."""


class Column(NamedTuple):
    """The neurons of one layer, or the inputs.

    Attributes
    ----------
    x : float
        The horizontal position.
    ys : list of float
        The vertical positions of the neurons that are drawn.
    n : int
        The number of neurons, including those that are not drawn.
    """

    x: float
    ys: list[float]
    n: int


def diagram(network: "NetworkLike", *, ax: Any = None) -> "Figure":
    """Draw the layers of a network, their neurons, and the shapes of activations and parameters.

    Parameters
    ----------
    network : Network
    ax : Axes, optional

    Returns
    -------
    Figure

    Raises
    ------
    ArgumentError
        If `ax` is not a matplotlib Axes.
    MissingExtraError
        If matplotlib cannot be imported.
    """
    layers = network.layers
    columns = [Column(i * STEP, _positions(n), n) for i, n in enumerate(network.layout.sizes)]
    half = max(abs(y) for column in columns for y in column.ys)
    ax = get_axes(ax, max(3.2, 1.25 * len(columns) + 0.6), 0.26 * (2 * half + 6) + 0.4)
    for i, layer in enumerate(layers):
        _draw_connections(ax, columns[i], columns[i + 1], is_full=isinstance(layer, Dense))
    colours = [PALE, *[TRAINING] * (len(layers) - 1), VALIDATION]
    for column, source, colour in zip(columns, (None, *layers), colours, strict=True):
        _draw_neurons(ax, column, colour, passes_input_on=source is not None and not isinstance(source, Dense))
        name, detail = ("input", "") if source is None else _describe(source)
        ax.text(column.x, half + 1.15, detail, ha="center", va="bottom", fontsize=8.5, color=INK)
        ax.text(column.x, half + 1.85, name, ha="center", va="bottom", fontsize=9.5, color=INK, weight="bold")
        ax.text(column.x, -half - 0.95, f"({column.n:,}, m)", ha="center", va="top", fontsize=9, color=INK)
    for i, column in enumerate(columns[:-1]):
        entries = [entry for entry in network.layout.entries.values() if entry.layer == i]
        if not entries:
            continue
        text = "\n".join(f"{e.name} {e.parameter.shape[0]:,}×{e.parameter.shape[1]:,}" for e in entries)
        ax.text(column.x + 0.5 * STEP, -half - 1.75, text, ha="center", va="top", fontsize=8, color=INK)
    ax.set_title(f"{network.layout.size:,} parameters, {network.dtype}", fontsize=10, color=INK)
    ax.set_xlim(-0.5 * STEP, (len(columns) - 0.5) * STEP)
    ax.set_ylim(-half - 3.3, half + 2.7)
    ax.set_axis_off()
    return figure_of(ax)


def _positions(n: int) -> list[float]:
    """Return the vertical positions, from the top, of the neurons to draw for a layer of n neurons centred at 0."""
    if n <= MAX_NEURONS:
        return [(n - 1) / 2 - i for i in range(n)]
    upper = [(MAX_NEURONS - 1) / 2 - i for i in range(MAX_NEURONS // 2 - 1)]
    return [*upper, *(-y for y in reversed(upper))]


def _draw_connections(ax: "Axes", left: Column, right: Column, is_full: bool) -> None:
    """Draw lines between the neurons of two layers: all pairs if `is_full` is true, else only opposite neurons."""
    from matplotlib.collections import LineCollection

    pairs = [(a, b) for a in left.ys for b in right.ys] if is_full else list(zip(left.ys, right.ys, strict=False))
    lines = LineCollection(
        [[(left.x, a), (right.x, b)] for a, b in pairs],
        colors=PALE,
        linewidths=0.5,
        alpha=0.45 if is_full else 0.9,
        zorder=1,
    )
    ax.add_collection(lines)


def _draw_neurons(ax: "Axes", column: Column, colour: str, passes_input_on: bool) -> None:
    """Draw the neurons of a layer, as squares if each passes on a single input, else as circles."""
    ax.scatter(
        [column.x] * len(column.ys),
        column.ys,
        s=80,
        c="white" if passes_input_on else colour,
        marker="s" if passes_input_on else "o",
        edgecolors=colour if passes_input_on else "white",
        linewidths=1.2 if passes_input_on else 0.8,
        zorder=3,
    )
    if column.n > len(column.ys):
        ax.text(column.x, 0, "⋮", ha="center", va="center", fontsize=13, color=INK, zorder=4)


def _describe(layer: Layer) -> tuple[str, str]:
    """Return the name of a layer, and its activation or dropout rate."""
    if isinstance(layer, Dropout):
        return "dropout", f"{layer.rate:g}"
    name = shorten(type(layer).__name__.lower(), 12)
    if isinstance(layer, Dense):
        return name, shorten(getattr(layer.g, "name", type(layer.g).__name__).replace("_", " "), 14)
    return name, ""
