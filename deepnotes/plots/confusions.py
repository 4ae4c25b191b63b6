"""Plot the confusion matrix of a classifier."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.backends.foreign_arrays import to_host
from deepnotes.plots.canvas import INK, class_names, escape_formulas, figure_of, get_axes, shorten
from deepnotes.utils.array_checks import refuse_masked
from deepnotes.utils.errors import DataError, DTypeError, ShapeError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from deepnotes.plots.protocols import NetworkLike

MAX_CLASSES = 1000
MAX_CLASSES_WITH_SHARES = 6
"""With at most this many classes, each cell shows its count and its share of the true class."""
MAX_CLASSES_WITH_COUNTS = 20
"""With at most this many classes, each cell shows its count."""


def confusion(
    predictions: Any, Y: Any, *, classes: Sequence[object] | None = None, ax: Any = None, _metadata: Any = None
) -> "Figure":
    """Draw the confusion matrix: the number of samples for each true class (rows) and predicted class (columns).

    Parameters
    ----------
    predictions, Y : array_like
        The predicted and the true classes: outputs or one-hot columns of shape (k, m), outputs between 0 and 1 of shape
        (1, m), or class indices of shape (m,).
    classes : sequence, optional
        The names of the classes; by default, the class indices.
    ax : Axes, optional

    Returns
    -------
    Figure

    Raises
    ------
    ShapeError, DTypeError, DataError, ArgumentError
    MissingExtraError
        If matplotlib cannot be imported.

    Notes
    -----
    A cell is shaded by its share of its row, so that rare classes are as visible as frequent classes.
    """
    predicted, k_predicted = indices(predictions, "predictions")
    true, k_true = indices(Y, "Y")
    if len(predicted) != len(true):
        raise ShapeError(f"Y has {len(true)} samples but predictions have {len(predicted)}, wanted the same number")
    if not len(true):
        raise DataError("predictions hold no samples, wanted at least one")
    k = max(k_predicted, k_true, 2, len(classes) if classes is not None else 0)
    names = [shorten(name) for name in class_names(classes, _metadata, k)]
    counts = np.bincount(true * k + predicted, minlength=k * k).reshape(k, k)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)

    longest = max(map(len, names))
    side = min(max(3.2, 0.52 * k), 12.0) + 0.06 * longest
    ax = get_axes(ax, side + 1.4, side + 0.5)
    image = ax.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    _draw_ticks(ax, names, longest)
    if k <= MAX_CLASSES_WITH_COUNTS:
        _draw_cells(ax, counts, shares)
    correct = int(np.trace(counts))
    ax.set_title(escape_formulas(f"{correct / len(true):.1%} of {len(true):,} right"), fontsize=11)
    ax.set_xlabel("predicted")
    ax.set_ylabel("true")
    bar = figure_of(ax).colorbar(image, ax=ax, fraction=0.046, pad=0.03)
    bar.set_label("share of the true class", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    return figure_of(ax)


def confusion_of(
    network: "NetworkLike", X: Any, Y: Any, *, classes: Sequence[object] | None = None, ax: Any = None
) -> "Figure":
    """Draw the confusion matrix of a network; see :func:`confusion`.

    Parameters
    ----------
    network : Network
    X : array_like, shape (n[0], m)
    Y : array_like
        Class indices of shape (m,), or columns of shape (n[L], m).
    classes : sequence, optional
        The names of the classes; by default, the names in the metadata of the network, or else the class indices.
    ax : Axes, optional

    Returns
    -------
    Figure

    Raises
    ------
    ShapeError, DTypeError, DataError, ForeignArrayError, ArgumentError, MissingExtraError
    """
    A, Y = (to_host(network.backend, x, "Y") for x in (network.predict(X), Y))
    return confusion(A, Y, classes=classes, ax=ax, _metadata=network.metadata if classes is None else None)


def indices(values: Any, name: str) -> tuple[np.ndarray, int]:
    """Return class indices, shape (m,), and the number of classes.

    If `values` are class indices, the number of classes is the largest index plus 1.

    Parameters
    ----------
    values : array_like
        Outputs or one-hot columns of shape (k, m), outputs between 0 and 1 of shape (1, m), or class indices of shape
        (m,) or (1, m).
    name : str
        The name of the argument, for error messages.

    Raises
    ------
    ShapeError, DTypeError, DataError
    """
    refuse_masked(values, name)
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise DTypeError.of(name, array.dtype, "class indices or outputs")
    if array.ndim not in {1, 2}:
        raise ShapeError.of(name, array.shape, "(k, m), (1, m) or (m,)")
    is_columns = array.ndim == 2 and array.shape[0] > 1
    if not np.isfinite(array).all():
        expected = "outputs or one-hot columns" if is_columns else "class indices or outputs"
        raise DataError(f"{name} holds numbers that are not finite, wanted {expected}")
    if is_columns:
        return array.argmax(axis=0), array.shape[0]
    flat = array.reshape(-1)
    if array.ndim == 2 and ((flat >= 0) & (flat <= 1)).all():
        return (flat > 0.5).astype(np.int64), 2
    invalid = (flat != np.rint(flat)) | (flat < 0)
    if invalid.any():
        raise DataError(f"{name} holds {flat[invalid][0]}, wanted class indices: whole numbers of at least 0")
    if flat.max(initial=0) >= MAX_CLASSES:
        raise DataError(f"{name} holds {flat.max()}, wanted class indices below {MAX_CLASSES}")
    labels = flat.astype(np.int64)
    return labels, int(labels.max(initial=-1)) + 1


def _draw_cells(ax: Any, counts: np.ndarray, shares: np.ndarray) -> None:
    """Write the count into each cell, and its share of the row if there are only a few classes."""
    k = len(counts)
    with_shares = k <= MAX_CLASSES_WITH_SHARES
    size = 9.5 if with_shares else 9 if k <= 12 else 7
    for (i, j), count in np.ndenumerate(counts):
        text = f"{count:,}" if count else ""
        if with_shares:
            text = f"{count:,}\n{shares[i, j]:.0%}" if counts[i].any() else "0"
        colour = "white" if shares[i, j] > 0.55 else INK
        ax.text(j, i, text, ha="center", va="center", fontsize=size, color=colour)


def _draw_ticks(ax: Any, names: list[str], longest: int) -> None:
    """Label the rows and columns with about 40 class names at most, without tick marks.

    `longest` is the number of characters in the longest name.
    """
    k = len(names)
    positions = range(0, k, max(1, k // 40))
    labels = [names[i] for i in positions]
    slanted = longest > 3 and k > 2
    size = 9 if k <= 20 else 7
    ax.set_xticks(positions, labels, fontsize=size, rotation=40 if slanted else 0, ha="right" if slanted else "center")
    if slanted:
        for label in ax.get_xticklabels():
            label.set_rotation_mode("anchor")
    ax.set_yticks(positions, labels, fontsize=size)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
