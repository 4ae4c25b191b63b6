"""Plot predictions with their intervals, as a line in a band."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from deepnotes.plots.canvas import PALE, TRAINING, figure_of, get_axes, tidy
from deepnotes.utils.errors import ShapeError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def interval(
    x: ArrayLike, lower: ArrayLike, center: ArrayLike, upper: ArrayLike, *, samples: Any = None, ax: Any = None
) -> "Figure":
    """Draw predictions over one feature as a line, and their intervals as a band.

    Parameters
    ----------
    x : array_like, shape (m,) or (1, m)
        The feature, in any order.
    lower, center, upper : array_like, shape (m,) or (1, m)
        The ends of the interval of each prediction, and the prediction, such as its median.
    samples : pair of array_like, optional
        The feature and the targets of samples to draw as points.
    ax : Axes, optional
        By default, the axes of a new figure.

    Returns
    -------
    Figure

    Raises
    ------
    ShapeError
        If the arrays do not have one number for each x.
    MissingExtraError
        If matplotlib cannot be imported.

    Examples
    --------
    >>> x = np.linspace(0, 1, 5)
    >>> figure = interval(x, x - 0.1, x, x + 0.1)
    >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    ['interval', 'prediction']
    """
    arrays = {"x": x, "lower": lower, "center": center, "upper": upper}
    X, *values = (_flat(name, array, np.size(x)) for name, array in arrays.items())
    points = (
        None
        if samples is None
        else [_flat(f"samples[{i}]", part, np.size(samples[0])) for i, part in enumerate(samples)]
    )
    ax = get_axes(ax, 5.6, 3.6)
    if points is not None:
        ax.scatter(*points, s=6, color=PALE, alpha=0.5, linewidths=0, label="samples", zorder=1)
    order = np.argsort(X, kind="stable")
    bottom, middle, top = (part[order] for part in values)
    ax.fill_between(X[order], bottom, top, color=TRAINING, alpha=0.25, linewidth=0, label="interval", zorder=2)
    ax.plot(X[order], middle, color=TRAINING, linewidth=1.6, label="prediction", zorder=3)
    ax.legend(fontsize=9, facecolor="white", edgecolor="none", framealpha=0.85)
    tidy(ax)
    return figure_of(ax)


def _flat(name: str, array: ArrayLike, size: int) -> np.ndarray:
    """Return an array of shape (m,) or (1, m) as shape (m,)."""
    values = np.asarray(array, np.float64)
    if values.shape not in {(size,), (1, size)}:
        raise ShapeError.of(name, values.shape, f"({size},) or (1, {size}): one number for each x")
    return values.reshape(size)
