"""Draw the layers of a network, with the shapes of activations and parameters."""

from typing import TYPE_CHECKING, Any

from deepnotes.nn.layers import Dense, Dropout, Layer
from deepnotes.plots.canvas import INK, PALE, TRAINING, VALIDATION, figure_of, one_axes, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from deepnotes.plots.protocols import NetworkLike

MOST = 10
"""The number of neurons of a layer that are drawn; a wider one has dots in its middle."""
STEP = 2.3
"""The distance between layers; neurons are 1 apart."""


def diagram(network: "NetworkLike", *, ax: Any = None) -> "Figure":
    """Draw the layers of a network, their neurons, and the shapes of activities and parameters.

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
        If `ax` is not matplotlib axes.
    MissingExtraError
        If matplotlib cannot be imported.
    """
    sizes, layers = network.layout.sizes, network.layers
    places = [_places(n) for n in sizes]
    half = max(abs(y) for column in places for y in column)
    ax = one_axes(ax, max(3.2, 1.25 * len(sizes) + 0.6), 0.26 * (2 * half + 6) + 0.4)
    for i, layer in enumerate(layers):
        _joints(ax, i * STEP, places[i], (i + 1) * STEP, places[i + 1], isinstance(layer, Dense))
    for i, (n, column) in enumerate(zip(sizes, places, strict=True)):
        x = i * STEP
        last = i == len(sizes) - 1
        fill = PALE if i == 0 else VALIDATION if last else TRAINING
        _neurons(ax, x, column, n, fill, is_gate=i > 0 and not isinstance(layers[i - 1], Dense))
        head, detail = ("input", "") if i == 0 else _words(layers[i - 1])
        ax.text(x, half + 1.15, detail, ha="center", va="bottom", fontsize=8.5, color=INK)
        ax.text(x, half + 1.85, head, ha="center", va="bottom", fontsize=9.5, color=INK, weight="bold")
        ax.text(x, -half - 0.95, f"({n:,}, m)", ha="center", va="top", fontsize=9, color=INK)
    for i in range(len(layers)):
        of_layer = [entry for entry in network.layout.entries.values() if entry.layer == i]
        if not of_layer:
            continue
        words = "\n".join(f"{e.name} {e.parameter.shape[0]:,}×{e.parameter.shape[1]:,}" for e in of_layer)
        ax.text((i + 0.5) * STEP, -half - 1.75, words, ha="center", va="top", fontsize=8, color=INK)
    ax.set_title(f"{network.layout.size:,} parameters, {network.dtype}", fontsize=10, color=INK)
    ax.set_xlim(-0.5 * STEP, (len(sizes) - 0.5) * STEP)
    ax.set_ylim(-half - 3.3, half + 2.7)
    ax.set_axis_off()
    return figure_of(ax)


def _places(n: int) -> list[float]:
    """Return the positions of the drawn neurons of a layer of n, around 0, from the top."""
    if n <= MOST:
        return [(n - 1) / 2 - i for i in range(n)]
    upper = [(MOST - 1) / 2 - i for i in range(MOST // 2 - 1)]
    return [*upper, *(-y for y in reversed(upper))]


def _joints(ax: "Axes", x: float, left: list[float], x_next: float, right: list[float], is_full: bool) -> None:
    """Draw the lines between two layers: from each neuron to every other, or one to one."""
    from matplotlib.collections import LineCollection

    pairs = [(a, b) for a in left for b in right] if is_full else list(zip(left, right, strict=False))
    lines = LineCollection(
        [[(x, a), (x_next, b)] for a, b in pairs], colors=PALE, linewidths=0.5, alpha=0.45 if is_full else 0.9, zorder=1
    )
    ax.add_collection(lines)


def _neurons(ax: "Axes", x: float, column: list[float], n: int, fill: str, is_gate: bool) -> None:
    """Draw the neurons of a layer: circles; squares where each passes on its own input."""
    ax.scatter(
        [x] * len(column),
        column,
        s=80,
        c="white" if is_gate else fill,
        marker="s" if is_gate else "o",
        edgecolors=fill if is_gate else "white",
        linewidths=1.2 if is_gate else 0.8,
        zorder=3,
    )
    if n > len(column):
        ax.text(x, 0, "⋮", ha="center", va="center", fontsize=13, color=INK, zorder=4)


def _words(layer: Layer) -> tuple[str, str]:
    """Return the name of a layer and its details."""
    if isinstance(layer, Dropout):
        return "dropout", f"{layer.rate:g}"
    name = shortened(type(layer).__name__.lower(), 12)
    if isinstance(layer, Dense):
        return name, shortened(getattr(layer.g, "name", type(layer.g).__name__).replace("_", " "), 14)
    return name, ""
