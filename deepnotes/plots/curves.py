"""Plot the losses and metrics of a training run over the epochs."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from deepnotes.plots.canvas import INK, PALE, TRAINING, VALIDATION, as_axes, escape_formulas, figure_of, panels, tidy
from deepnotes.utils.errors import ArgumentError, unknown_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from deepnotes.plots.protocols import HistoryLike

MAX_EPOCHS_WITH_MARKERS = 30
"""With at most this many epochs, each value has a marker."""
MAX_RATIO_OF_LINEAR_SCALE = 20.0
"""If the largest loss is more than this many times the smallest, the scale is logarithmic."""


class BestEpoch(NamedTuple):
    """The best epoch of a training run, counted from 1, and its label in the legend."""

    epoch: int
    label: str


def curves(history: "HistoryLike", show: str | Sequence[str] | None = None, *, ax: Any = None) -> "Figure":
    """Draw the loss and each metric of a training run, each in its own panel, and mark the best epoch.

    Parameters
    ----------
    history : History
    show : str or list of str, optional
        The curves to draw, such as ``["loss", "accuracy"]``; by default, all curves, or only the loss if `ax` is a
        single Axes.
    ax : Axes or sequence of Axes, optional
        The Axes to draw into, one for each name; by default, they are created in a new figure.

    Returns
    -------
    Figure

    Raises
    ------
    ArgumentError
        If the history has no epochs, or the number of Axes differs from the number of names.
    UnknownNameError
        If the history has no curve of a given name.
    MissingExtraError
        If matplotlib cannot be imported.

    Notes
    -----
    The best epoch is the epoch whose parameters early stopping restored, or else the epoch with the lowest validation
    loss. If the largest loss is more than 20 times the smallest, its scale is logarithmic. Values that are not finite
    are marked at the upper edge.
    """
    if history.epochs == 0:
        raise ArgumentError("history: no epoch has finished, so there is nothing to draw")
    known = _values_by_name(history)
    axes = None if ax is None else [*ax] if isinstance(ax, Sequence | np.ndarray) else [ax]
    if show is None:
        show = ["loss"] if axes is not None and len(axes) == 1 else list(known)
    names = _check_names(show, known)
    if axes is None:
        axes = panels(len(names), 4.8, 3.4)
    elif len(axes) != len(names):
        raise ArgumentError(f"ax: got {len(axes)} axes, wanted one for each of {', '.join(names)}")
    axes = [as_axes(each, f"ax[{i}]") for i, each in enumerate(axes)]
    best = _best_epoch(history)
    for i, (name, each) in enumerate(zip(names, axes, strict=True)):
        if i == 1 and best is not None:
            best = best._replace(label="_best")  # matplotlib omits labels with an underscore from the legend
        _draw_panel(each, name, *known[name], best)
    return figure_of(axes[0])


def _values_by_name(history: "HistoryLike") -> dict[str, tuple[list[float], list[float]]]:
    """Return the training values and the validation values of the loss and of each metric; a list may be empty."""
    values = {"loss": (history.loss, history.val_loss)}
    for name in history.metrics:
        base = name.removeprefix("val_")
        values[base] = (history.metrics.get(base, []), history.metrics.get(f"val_{base}", []))
    return values


def _check_names(show: str | Sequence[str], known: Collection[str]) -> list[str]:
    """Return `show` as a list of names, after checking that it is not empty and that all names are in `known`."""
    names = [show] if isinstance(show, str) else list(show)
    if not names:
        raise ArgumentError(f"show={show!r}, wanted at least one of {', '.join(known)}")
    for name in names:
        if name not in known:
            raise unknown_name("curve", name, known)
    return names


def _best_epoch(history: "HistoryLike") -> BestEpoch | None:
    """Return the best epoch; None if none was restored and no validation loss is finite."""
    if history.best_epoch is not None:
        return BestEpoch(history.best_epoch, f"best epoch {history.best_epoch}, restored")
    losses = np.asarray(history.val_loss, dtype=np.float64)
    if not np.isfinite(losses).any():
        return None
    epoch = int(np.argmin(np.where(np.isfinite(losses), losses, np.inf))) + 1
    return BestEpoch(epoch, f"best epoch {epoch}")


def _draw_panel(
    ax: "Axes", name: str, training: Sequence[float], validation: Sequence[float], best: BestEpoch | None
) -> None:
    """Draw the loss or a metric over the epochs; `training` or `validation` may be empty."""
    from matplotlib.ticker import MaxNLocator

    series = [np.asarray(values, dtype=np.float64) for values in (training, validation)]
    if len(training):
        _draw_curve(ax, series[0], label="training", color=TRAINING, linestyle="-", marker="o")
    if len(validation):
        _draw_curve(ax, series[1], label="validation", color=VALIDATION, linestyle="--", marker="s")
    values = np.concatenate(series)
    values = values[np.isfinite(values)]
    if name == "loss" and values.size and values.min() > 0 and values.max() > MAX_RATIO_OF_LINEAR_SCALE * values.min():
        set_logarithmic_scale(ax, float(values.max() / values.min()))
    if not values.size:
        ax.text(0.5, 0.5, "no finite value", ha="center", va="center", transform=ax.transAxes, color=INK)
        ax.set_yticks([])
    if best is not None:
        ax.axvline(best.epoch, color=PALE, linewidth=1, linestyle=":", zorder=0, label=best.label)
    _mark_nonfinite(ax, series)
    epochs = max(map(len, series))
    ax.set_xlim(1 - min(0.5, 0.03 * epochs), epochs + max(0.03 * epochs, 0.03) if epochs > 1 else 1.03)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, steps=[1, 2, 5, 10], min_n_ticks=1))
    ax.set_xlabel("epoch")
    ax.set_ylabel(escape_formulas(name.replace("_", " ")))
    ax.legend(fontsize=9, facecolor="white", edgecolor="none", framealpha=0.85)  # hides the line of the best epoch
    tidy(ax)


def _draw_curve(ax: "Axes", y: np.ndarray, marker: str, **style: Any) -> None:
    """Draw values over the epochs, with markers if there are few values or if a line would not show all of them."""
    finite = np.isfinite(y)
    ax.plot(
        np.arange(1, len(y) + 1),
        np.where(finite, y, np.nan),
        linewidth=1.6,
        marker=marker if len(y) <= MAX_EPOCHS_WITH_MARKERS or _has_isolated_value(finite) else "",
        markersize=4,
        **style,
    )


def _mark_nonfinite(ax: "Axes", series: Sequence[np.ndarray]) -> None:
    """Draw a cross at the upper edge for each epoch with a value that is not finite."""
    epochs = sorted({int(i) + 1 for y in series for i in np.flatnonzero(~np.isfinite(y))})
    if epochs:
        ax.plot(
            epochs,
            np.ones(len(epochs)),
            "x",
            color=INK,
            markersize=5,
            transform=ax.get_xaxis_transform(),
            clip_on=False,
            label="not finite",
        )


def set_logarithmic_scale(ax: "Axes", ratio: float, which: Literal["x", "y"] = "y") -> None:
    """Make the scale of an axis logarithmic; `ratio` is the largest value divided by the smallest."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    ax.set(**{f"{which}scale": "log"})
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if ratio < 300 else (1.0,)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def _has_isolated_value(finite: np.ndarray) -> bool:
    """Return whether a value has no finite neighbours, so that a line without markers would not show it.

    `finite` is an array that says for each epoch whether its value is finite.
    """
    padded = np.concatenate([[False], finite, [False]])
    return bool((padded[1:-1] & ~padded[:-2] & ~padded[2:]).any())
