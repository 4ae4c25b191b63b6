"""Plot the losses of the trials of a search against their settings."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.plots.canvas import INK, TRAINING, VALIDATION, escape_formulas, figure_of, panels, tidy
from deepnotes.plots.curves import MAX_RATIO_OF_LINEAR_SCALE, set_logarithmic_scale
from deepnotes.utils.errors import ArgumentError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MIN_RATIO_OF_LOG_SCALE = 15.0
"""Settings whose largest value is at least this many times the smallest positive one have a logarithmic scale."""

MAX_LABELS = 8
"""Settings with at most this many distinct values have one label for each, if each occurs about twice."""


def trials(settings: Mapping[str, Sequence[Any]], losses: Sequence[float]) -> "Figure":
    """Draw the loss of each trial of a search against each setting, in one panel for each setting.

    Parameters
    ----------
    settings : mapping of str to sequence
        The value of each setting in each trial: numbers, or text.
    losses : sequence of float
        The loss of each trial. Trials whose loss is not finite are marked at the upper edge.

    Returns
    -------
    Figure

    Raises
    ------
    ArgumentError
        If there are no settings or no trials, or a setting does not have one value for each trial.
    MissingExtraError
        If matplotlib cannot be imported.

    Examples
    --------
    >>> figure = trials({"width": [16, 32], "activation": ["relu", "tanh"]}, [0.3, 0.2])
    >>> [ax.get_xlabel() for ax in figure.axes]
    ['width', 'activation']
    """
    y = np.asarray(losses, dtype=np.float64)
    if not settings or not y.size:
        raise ArgumentError("settings and losses: wanted at least one setting and one trial")
    for name, values in settings.items():
        if len(values) != y.size:
            raise ArgumentError(f"settings[{name!r}] has {len(values)} values, wanted one for each of {y.size} trials")
    axes = panels(len(settings), 3.8, 3.0)
    for ax, (name, values) in zip(axes, settings.items(), strict=True):
        _draw_panel(ax, name, values, y)
    axes[0].legend(fontsize=9, facecolor="white", edgecolor="none", framealpha=0.85)
    return figure_of(axes[0])


def _draw_panel(ax: "Axes", name: str, values: Sequence[Any], y: np.ndarray) -> None:
    """Draw the losses against one setting, and mark the lowest."""
    x = _positions(ax, values)
    finite = np.isfinite(y)
    ax.plot(x[finite], y[finite], "o", color=TRAINING, markersize=4, alpha=0.7, linestyle="none", label="trial")
    if finite.any():
        best = int(np.argmin(np.where(finite, y, np.inf)))
        ax.plot(x[best], y[best], "*", color=VALIDATION, markersize=12, linestyle="none", label="best trial")
        low, high = y[finite].min(), y[finite].max()
        if low > 0 and high > MAX_RATIO_OF_LINEAR_SCALE * low:
            set_logarithmic_scale(ax, float(high / low))
    if not finite.all():
        ax.plot(
            x[~finite],
            np.ones(int((~finite).sum())),
            "x",
            color=INK,
            markersize=5,
            transform=ax.get_xaxis_transform(),
            clip_on=False,
            linestyle="none",
            label="not finite",
        )
    ax.set_xlabel(escape_formulas(name))
    ax.set_ylabel("validation loss")
    tidy(ax)


def _positions(ax: "Axes", values: Sequence[Any]) -> np.ndarray:
    """Return the horizontal positions of values, and set the scale or the labels of the axis."""
    distinct = sorted(set(values), key=lambda value: (isinstance(value, str), value))
    if any(isinstance(value, str) for value in values) or len(distinct) <= min(MAX_LABELS, len(values) / 2):
        labels = [escape_formulas(value) if isinstance(value, str) else f"{value:g}" for value in distinct]
        ax.set_xticks(range(len(labels)), labels)
        ax.set_xlim(-0.5, len(labels) - 0.5)
        return np.array([distinct.index(value) for value in values])
    x = np.asarray(values, dtype=np.float64)
    positive = x[x > 0]
    if positive.size and (x >= 0).all() and positive.max() >= MIN_RATIO_OF_LOG_SCALE * positive.min():
        low, high = float(positive.min()), float(positive.max())
        if positive.size == x.size:
            set_logarithmic_scale(ax, 10 * high / low, "x")  # labels are wider than high
        else:  # zeros have a place of their own on the left
            ax.set_xscale("symlog", linthresh=low, linscale=0.5)
            ax.set_xlim(-0.3 * low, 3 * high)
    return x
