"""Plot which classes a network confuses."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.backends.foreign_arrays import to_host
from deepnotes.plots.canvas import INK, class_names, figure_of, literal, one_axes, shortened
from deepnotes.utils.array_checks import refuse_masked
from deepnotes.utils.errors import DataError, DTypeError, ShapeError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from deepnotes.plots.protocols import NetworkLike

MOST_CLASSES = 1000
MOST_SHARES, MOST_COUNTS = 6, 20
"""The number of classes up to which cells have room for a count and a share, and for a count."""


def confusion(
    predictions: Any, Y: Any, *, classes: Sequence[object] | None = None, ax: Any = None, _metadata: Any = None
) -> "Figure":
    """Draw how many samples of each class (a row) were taken for each class (a column).

    Parameters
    ----------
    predictions, Y : array_like
        The predicted and the true classes: outputs or one-hot columns of shape (k, m), outputs between 0 and 1 of shape
        (1, m), or class indices of shape (m,).
    classes : sequence, optional
        The names of the classes; by default their numbers.
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
    The shade is the share of the row, so that rare classes are as visible as frequent ones.
    """
    found, k_found = indices(predictions, "predictions")
    true, k_true = indices(Y, "Y")
    if len(found) != len(true):
        raise ShapeError(f"Y has {len(true)} samples and predictions have {len(found)}, wanted as many")
    if not len(true):
        raise DataError("predictions hold no samples, wanted at least one")
    k = max(k_found, k_true, 2, len(classes) if classes is not None else 0)
    names = class_names(classes, _metadata, k)
    counts = np.bincount(true * k + found, minlength=k * k).reshape(k, k)
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)

    longest = max(len(shortened(name)) for name in names)
    side = min(max(3.2, 0.52 * k), 12.0) + 0.06 * longest
    ax = one_axes(ax, side + 1.4, side + 0.5)
    image = ax.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    _ticks(ax, [shortened(name) for name in names], longest)
    if k <= MOST_COUNTS:
        size = 9.5 if k <= MOST_SHARES else 9 if k <= 12 else 7
        for i in range(k):
            for j in range(k):
                if k <= MOST_SHARES:
                    text = f"{counts[i, j]:,}\n{shares[i, j]:.0%}" if totals[i, 0] else "0"
                else:
                    text = f"{counts[i, j]:,}" if counts[i, j] else ""
                ax.text(
                    j, i, text, ha="center", va="center", fontsize=size, color="white" if shares[i, j] > 0.55 else INK
                )
    right = int(np.trace(counts))
    ax.set_title(literal(f"{right / len(true):.1%} of {len(true):,} right"), fontsize=11)
    ax.set_xlabel("predicted")
    ax.set_ylabel("true")
    bar = figure_of(ax).colorbar(image, ax=ax, fraction=0.046, pad=0.03)
    bar.set_label("share of the true class", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    return figure_of(ax)


def confusion_of(
    network: "NetworkLike", X: Any, Y: Any, *, classes: Sequence[object] | None = None, ax: Any = None
) -> "Figure":
    """Draw which classes a network takes for which; see :func:`confusion`.

    Parameters
    ----------
    network : Network
    X : array_like, shape (n[0], m)
    Y : array_like
        Class indices of shape (m,), or columns of shape (n[L], m).
    classes : sequence, optional
        By default those in the metadata of the network, else their numbers.
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


def indices(given: Any, name: str) -> tuple[np.ndarray, int]:
    """Return class indices, shape (m,), and the number of classes as far as it is known.

    Parameters
    ----------
    given : array_like
        Shape (k, m), (1, m) or (m,).
    name : str

    Raises
    ------
    ShapeError, DTypeError, DataError
    """
    refuse_masked(given, name)
    array = np.asarray(given)
    if array.dtype.kind not in "biuf":
        raise DTypeError.of(name, array.dtype, "class indices or outputs")
    if array.ndim == 2 and array.shape[0] > 1:
        if not np.isfinite(array).all():
            raise DataError(f"{name} holds numbers that are not finite, wanted outputs or one-hot columns")
        return array.argmax(axis=0), array.shape[0]
    if array.ndim not in {1, 2}:
        raise ShapeError.of(name, array.shape, "(k, m), (1, m) or (m,)")
    flat = array.reshape(-1)
    if not np.isfinite(flat).all():
        raise DataError(f"{name} holds numbers that are not finite, wanted class indices or outputs")
    if array.ndim == 2 and ((flat >= 0) & (flat <= 1)).all():
        return (flat > 0.5).astype(np.int64), 2
    if (flat != np.rint(flat)).any() or (flat < 0).any():
        wrong = flat[(flat != np.rint(flat)) | (flat < 0)][0]
        raise DataError(f"{name} holds {wrong}, wanted class indices: whole numbers of at least 0")
    if flat.max(initial=0) >= MOST_CLASSES:
        raise DataError(f"{name} holds {flat.max()}, wanted class indices below {MOST_CLASSES}")
    found = flat.astype(np.int64)
    return found, int(found.max(initial=-1)) + 1


def _ticks(ax: Any, names: list[str], longest: int) -> None:
    k = len(names)
    every = max(1, k // 40)
    at = range(0, k, every)
    slanted = longest > 3 and k > 2
    size = 9 if k <= 20 else 7
    ax.set_xticks(
        at, [names[i] for i in at], fontsize=size, rotation=40 if slanted else 0, ha="right" if slanted else "center"
    )
    if slanted:
        for label in ax.get_xticklabels():
            label.set_rotation_mode("anchor")
    ax.set_yticks(at, [names[i] for i in at], fontsize=size)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
