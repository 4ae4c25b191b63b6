"""Plot the loss and metrics of a training, epoch by epoch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.plots.canvas import INK, PALE, TRAINING, VALIDATION, as_axes, figure_of, literal, panels, tidy
from deepnotes.utils.errors import ArgumentError, unknown_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from deepnotes.plots.protocols import HistoryLike

FEW = 30
"""The number of epochs up to which each is marked."""
WIDE = 20.0
"""The factor by which a loss has to fall for a logarithmic scale."""


def curves(history: "HistoryLike", show: str | Sequence[str] | None = None, *, ax: Any = None) -> "Figure":
    """Draw the loss and the metrics of a training, each in a panel, with the best epoch marked.

    Parameters
    ----------
    history : History
    show : str or list of str, optional
        Which figures, such as ``["loss", "accuracy"]``; by default all, or the loss alone where there is one ax.
    ax : Axes or sequence of Axes, optional
        Where to draw, one for each figure; by default in a new figure.

    Returns
    -------
    Figure

    Raises
    ------
    ArgumentError
        If there is no epoch to draw, or not one axes for each figure.
    UnknownNameError
        If there is no such figure.
    MissingExtraError
        If matplotlib cannot be imported.

    Notes
    -----
    The best epoch is the one that early stopping restored, else that of the lowest validation loss. A loss that falls
    by more than a factor of 20 has a logarithmic scale. Values that are not finite are marked at the upper edge.
    """
    if history.epochs == 0:
        raise ArgumentError("history: no epoch was finished, so there is nothing to draw")
    known = {"loss": (history.loss, history.val_loss)}
    for name in history.metrics:
        base = name.removeprefix("val_")
        known[base] = (history.metrics.get(base, []), history.metrics.get(f"val_{base}", []))
    given = None if ax is None else [*ax] if isinstance(ax, Sequence | np.ndarray) else [ax]
    if show is None:
        show = ["loss"] if given is not None and len(given) == 1 else list(known)
    names = [show] if isinstance(show, str) else list(show)
    for name in names:
        if name not in known:
            raise unknown_name("figure", name, known)
    if not names or (given is not None and len(given) != len(names)):
        raise ArgumentError(
            f"ax: got {len(given or ())} axes, wanted one for each of {', '.join(names) or 'no figure'}"
        )
    if given is None:
        axes = panels(len(names), 4.8, 3.4)
    else:
        axes = [as_axes(each, f"ax[{i}]") for i, each in enumerate(given)]
    best, why = _best(history)
    for i, (name, each) in enumerate(zip(names, axes, strict=True)):
        _panel(each, name, *known[name], best, why if i == 0 else "")
    return figure_of(axes[0])


def _best(history: "HistoryLike") -> tuple[int | None, str]:
    """Return the best epoch, counted from 1, and its description."""
    if history.best_epoch is not None:
        return history.best_epoch, f"best epoch {history.best_epoch}, restored"
    losses = np.asarray(history.val_loss, dtype=np.float64)
    if not np.isfinite(losses).any():
        return None, ""
    best = int(np.argmin(np.where(np.isfinite(losses), losses, np.inf))) + 1
    return best, f"best epoch {best}"


def _panel(
    ax: "Axes", name: str, training: Sequence[float], validation: Sequence[float], best: int | None, why: str
) -> None:
    from matplotlib.ticker import MaxNLocator

    drawn = [("training", training, TRAINING, "-", "o"), ("validation", validation, VALIDATION, "--", "s")]
    drawn = [row for row in drawn if len(row[1])]
    epochs = max(len(values) for _, values, *_ in drawn)
    broken: set[int] = set()
    for label, values, colour, line, marker in drawn:
        y = np.asarray(values, dtype=np.float64)
        finite = np.isfinite(y)
        broken |= set(np.flatnonzero(~finite) + 1)
        ax.plot(
            np.arange(1, len(y) + 1),
            np.where(finite, y, np.nan),
            color=colour,
            linestyle=line,
            linewidth=1.6,
            marker=marker if len(y) <= FEW or _lonely(finite) else "",
            markersize=4,
            label=label,
        )
    found = np.concatenate([np.asarray(values, dtype=np.float64) for _, values, *_ in drawn])
    found = found[np.isfinite(found)]
    if name == "loss" and found.size and found.min() > 0 and found.max() > WIDE * found.min():
        _logarithmic(ax, float(found.max() / found.min()))
    if not found.size:
        ax.text(0.5, 0.5, "no finite value", ha="center", va="center", transform=ax.transAxes, color=INK)
        ax.set_yticks([])
    if best is not None:
        ax.axvline(best, color=PALE, linewidth=1, linestyle=":", zorder=0, label=why or "_best")
    if broken:
        at = np.array(sorted(broken))
        ax.plot(
            at,
            np.ones(len(at)),
            "x",
            color=INK,
            markersize=5,
            transform=ax.get_xaxis_transform(),
            clip_on=False,
            label="not finite",
        )
    ax.set_xlim(1 - min(0.5, 0.03 * epochs), epochs + max(0.03 * epochs, 0.03) if epochs > 1 else 1.03)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, steps=[1, 2, 5, 10], min_n_ticks=1))
    ax.set_xlabel("epoch")
    ax.set_ylabel(literal(name.replace("_", " ")))
    ax.legend(fontsize=9, facecolor="white", edgecolor="none", framealpha=0.85)  # above the line of the best epoch
    tidy(ax)


def _logarithmic(ax: "Axes", ratio: float) -> None:
    """Make the vertical scale logarithmic, with plain numbers, 1, 2, 5, 10, where there is room."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if ratio < 300 else (1.0,)))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def _lonely(finite: np.ndarray) -> bool:
    """Return whether there is a value without neighbours, which a line would not show."""
    padded = np.concatenate([[False], finite, [False]])
    return bool((padded[1:-1] & ~padded[:-2] & ~padded[2:]).any())
