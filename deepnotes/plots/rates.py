"""Plot the losses of a learning-rate range test over the rates."""

from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.plots.canvas import INK, PALE, TRAINING, as_axes, figure_of, panels, tidy
from deepnotes.plots.curves import set_logarithmic_scale
from deepnotes.utils.errors import ArgumentError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from deepnotes.plots.protocols import RateTestLike


def learning_rates(test: "RateTestLike", *, ax: Any = None) -> "Figure":
    """Draw the loss of each batch of a range test over the learning rate, the smoothed losses, and the suggested rate.

    Parameters
    ----------
    test : RateTest
        The result of :func:`deepnotes.learning_rate_test`.
    ax : Axes, optional
        The Axes to draw into; by default, it is created in a new figure.

    Returns
    -------
    Figure

    Raises
    ------
    ArgumentError
        If fewer than two losses are finite.
    MissingExtraError
        If matplotlib cannot be imported.
    """
    finite = np.isfinite(test.losses)
    rates, losses, smoothed = (x[finite] for x in (test.learning_rates, test.losses, test.smoothed))
    if len(losses) < 2:
        raise ArgumentError(f"test: {len(losses)} of its losses are finite, wanted at least 2 to draw")
    ax = panels(1, 4.8, 3.4)[0] if ax is None else as_axes(ax)
    set_logarithmic_scale(ax, float(rates[0]), float(rates[-1]), "x")
    ax.plot(rates, losses, ".", color=PALE, markersize=3, label="each batch")
    ax.plot(rates, smoothed, "-", color=TRAINING, linewidth=1.6, label="smoothed")
    if test.suggestion is not None:
        label = f"suggestion: {test.suggestion:.2g}"
        ax.axvline(test.suggestion, color=INK, linewidth=1, linestyle=":", zorder=0, label=label)
    ax.set_xlabel("learning rate")
    ax.set_ylabel("loss")
    ax.legend(fontsize=9, facecolor="white", edgecolor="none", framealpha=0.85)
    tidy(ax)
    return figure_of(ax)
