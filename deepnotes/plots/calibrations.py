"""Plot how well the probabilities of a classifier are calibrated: a reliability diagram."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.nn.metrics import calibration_bins, expected_calibration_error
from deepnotes.plots.canvas import INK, MARKERS, PALE, TRAINING, VALIDATION, colour, figure_of, get_axes, shorten, tidy
from deepnotes.plots.confusions import indices
from deepnotes.utils.arguments import whole
from deepnotes.utils.array_checks import refuse_masked
from deepnotes.utils.errors import ArgumentError, DataError, ShapeError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def calibration(predictions: Any, Y: Any, *, bins: int = 15, sample_weight: Any = None, ax: Any = None) -> "Figure":
    """Draw the accuracy of predictions over their confidence, with the expected calibration error.

    The samples are divided by the probability of their predicted class into bins of equal width. Each bin is a point,
    larger the more samples it has. Points below the diagonal are overconfident.

    Parameters
    ----------
    predictions : array_like or dict of str to array_like
        Probabilities of shape (k, m), or (1, m) for two classes. A dict, such as of the predictions before and after
        calibration, is drawn with a line for each.
    Y : array_like
        Class indices of shape (m,), or columns of shape (k, m).
    bins : int, default 15
    sample_weight : array_like, shape (m,), optional
    ax : Axes, optional
        By default, the axes of a new figure.

    Returns
    -------
    Figure

    Raises
    ------
    ShapeError, DTypeError, DataError
    ArgumentError
        If there are no predictions, or `bins` is not a whole number above 0.
    MissingExtraError
        If matplotlib cannot be imported.

    References
    ----------
    C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, On Calibration of Modern Neural Networks, arXiv:1706.04599.

    Examples
    --------
    >>> figure = calibration([[0.9, 0.9, 0.2, 0.9]], [1, 0, 0, 1])
    >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    ['perfectly calibrated', 'calibration error 22.5%']
    """
    count = whole("bins", bins)
    lines = predictions if isinstance(predictions, Mapping) else {"": predictions}
    if not lines:
        raise ArgumentError.of("predictions", predictions, "at least one array of probabilities")
    true, _ = indices(Y, "Y")
    w = None if sample_weight is None else _weights(sample_weight, len(true))
    curves = {name: _binned(f"predictions[{name!r}]" if name else "predictions", A, true, w, count)
              for name, A in lines.items()}  # fmt: skip

    ax = get_axes(ax, 4.6, 4.4)
    ax.plot([0, 1], [0, 1], color=PALE, linewidth=1.0, linestyle="--", label="perfectly calibrated", zorder=1)
    for i, (name, (confidence, accuracy, share, error)) in enumerate(curves.items()):
        paint = (TRAINING, VALIDATION)[i] if len(curves) <= 2 else colour(i)
        label = f"{shorten(name)}: " if name else ""
        ax.plot(confidence, accuracy, color=paint, linewidth=1.4, zorder=2)
        ax.scatter(
            confidence, accuracy, s=12 + 150 * share, color=paint, marker=MARKERS[i % len(MARKERS)], alpha=0.85,
            linewidths=0, label=f"{label}calibration error {error:.1%}", zorder=3,
        )  # fmt: skip
    lowest = min(float(confidence.min()) for confidence, *_ in curves.values())
    ax.set_xlim(min(0.5, lowest) - 0.02, 1.02)
    ax.set_ylim(-0.02, 1.02)
    ax.set_xlabel("confidence: the probability of the predicted class", fontsize=10, color=INK)
    ax.set_ylabel("accuracy", fontsize=10, color=INK)
    legend = ax.legend(fontsize=9, facecolor="white", edgecolor="none", framealpha=0.85, loc="best")
    for handle in legend.legend_handles[1:]:
        handle.set_sizes([40])
    tidy(ax)
    return figure_of(ax)


def _binned(
    name: str, predictions: Any, true: np.ndarray, w: np.ndarray | None, bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Return the confidence, the accuracy and the share of the samples of each bin that has some, and the error."""
    refuse_masked(predictions, name)
    A = np.atleast_2d(np.asarray(predictions, np.float64))
    if A.ndim != 2 or A.shape[1] != len(true) or not A.size:
        raise ShapeError.of(
            name, A.shape, f"(k, {len(true)}) or (1, {len(true)}): a column for each of Y, at least one"
        )
    if not ((A >= 0) & (A <= 1 + 1e-6)).all():
        raise DataError(f"{name} holds {A[~((A >= 0) & (A <= 1 + 1e-6))][0]:g}, wanted probabilities between 0 and 1")
    classes = max(len(A), 2)
    if true.max() >= classes:
        raise DataError(
            f"Y holds the class index {true.max()}, wanted at most {classes - 1}: {name} has {classes} classes"
        )
    Y = true[None] if len(A) == 1 else np.arange(len(A))[:, None] == true
    confidence, accuracy, total = calibration_bins(A, Y, w, bins)
    used = total > 0
    share = total[used] / total.sum()
    return confidence[used], accuracy[used], share, expected_calibration_error(A, Y, w, bins)


def _weights(sample_weight: Any, samples: int) -> np.ndarray:
    """Return the weights of the samples, shape (m,), as float64."""
    refuse_masked(sample_weight, "sample_weight")
    w = np.asarray(sample_weight, np.float64)
    if w.shape != (samples,):
        raise ShapeError.of("sample_weight", w.shape, f"({samples},): one number for each sample")
    if not (np.isfinite(w) & (w >= 0)).all() or not w.any():
        raise DataError("sample_weight: wanted finite numbers of at least 0, not all of them 0")
    return w
