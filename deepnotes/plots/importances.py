"""Plot the importance of the columns of a table for a model."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from deepnotes.plots.canvas import INK, PALE, TRAINING, figure_of, get_axes, shorten, tidy
from deepnotes.utils.errors import ArgumentError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 20
"""The largest number of columns that are drawn."""


def importances(
    columns: Sequence[str], mean: ArrayLike, std: ArrayLike, score: str = "score", *, ax: Any = None
) -> "Figure":
    """Draw the importance of each column as a bar, with its standard deviation, the largest at the top.

    Parameters
    ----------
    columns : sequence of str
        The names of n columns; the 20 most important are drawn.
    mean, std : array_like, shape (n,)
        The mean importance of each column, and its standard deviation.
    score : str
        The name of the score.
    ax : Axes, optional
        By default, the axes of a new figure.

    Returns
    -------
    Figure

    Raises
    ------
    ArgumentError
        If there are no columns, or not one mean and one standard deviation for each.
    MissingExtraError
        If matplotlib cannot be imported.

    Examples
    --------
    >>> figure = importances(["area", "town"], [0.9, 0.1], [0.02, 0.01], "R²")
    >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
    ['area', 'town']
    """
    means, deviations = np.asarray(mean, np.float64), np.asarray(std, np.float64)
    if not len(columns) or means.shape != (len(columns),) or deviations.shape != means.shape:
        raise ArgumentError(
            f"columns, mean and std have {len(columns)}, {means.size} and {deviations.size} values, wanted the same "
            "number of at least 1"
        )
    order = np.argsort(-means, kind="stable")
    shown = order[:MOST]
    ax = get_axes(ax, 6.0, 1.2 + 0.3 * len(shown))
    y = np.arange(len(shown))
    ax.barh(y, means[shown], xerr=deviations[shown], color=TRAINING, height=0.65, ecolor=INK, capsize=2.5)
    ax.set_yticks(y, [shorten(columns[i], 30) for i in shown])
    ax.invert_yaxis()
    ax.axvline(0, color=PALE, linewidth=0.8)
    ax.set_xlabel(f"fall of {score} if the column is shuffled")
    if len(shown) < len(order):
        ax.set_title(f"{len(shown)} of {len(order):,} columns", fontsize=10, color=INK)
    tidy(ax)
    ax.tick_params(axis="y", length=0)
    return figure_of(ax)
