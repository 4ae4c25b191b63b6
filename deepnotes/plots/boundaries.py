"""Plot the output of a network of two inputs over the plane."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.backends.foreign_arrays import as_host, to_host
from deepnotes.nn.layers import Dense
from deepnotes.plots.canvas import INK, MARKERS, class_names, colour, figure_of, one_axes, shortened, tidy
from deepnotes.plots.confusions import indices
from deepnotes.utils.arguments import whole
from deepnotes.utils.errors import ArgumentError, DataError, ShapeError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from deepnotes.plots.protocols import NetworkLike

MANY = 1000
"""The number of points from which on they are drawn small."""


def boundary(
    network: "NetworkLike",
    X: Any,
    Y: Any = None,
    *,
    classes: Sequence[object] | None = None,
    resolution: int = 256,
    ax: Any = None,
) -> "Figure":
    """Draw the output of a network of two inputs over the plane around X, and the samples X if Y is given.

    Parameters
    ----------
    network : Network
        With two inputs. The classes of a softmax or sigmoid layer are drawn as regions, paler where the network is less
        certain, with a line between them; any other single output as levels.
    X : array_like, shape (2, m)
    Y : array_like, optional
        Class indices of shape (m,), or columns of shape (k, m); numbers of shape (m,) or (1, m) for a quantity.
    classes : sequence, optional
        The names of the classes; by default those in the metadata of the network, else their numbers.
    resolution : int, default 256
        The number of points along each side at which the network is evaluated.
    ax : Axes, optional

    Returns
    -------
    Figure

    Raises
    ------
    ShapeError
        If the network does not have two inputs, or Y does not have m samples.
    ArgumentError, DataError, DTypeError, ForeignArrayError, MissingExtraError
    """
    if network.inputs != 2:
        raise ShapeError(f"the network has {network.inputs} inputs, wanted 2: one for each side of the picture")
    resolution = whole("resolution", resolution, 2)
    points = as_host(network.backend, to_host(network.backend, X, "X"), "X").astype(np.float64)
    if points.ndim != 2 or points.shape[0] != 2 or points.shape[1] == 0:
        hint = "; samples are columns here: X.T would fit" if points.ndim == 2 and points.shape[1] == 2 else ""
        raise ShapeError.of("X", points.shape, f"(2, m), m at least 1{hint}")
    if not np.isfinite(points).all():
        raise DataError("X holds numbers that are not finite, and a picture has no place for them")
    last = network.layers[-1]
    output = getattr(last.g, "range", "real") if isinstance(last, Dense) else "real"
    k = network.outputs
    if output not in {"unit", "simplex"} and k > 1:
        raise ArgumentError(
            f"the network has {k} outputs that are no classes, wanted one, or a sigmoid or softmax layer"
        )
    if output == "unit" and k > 1:
        raise ArgumentError(
            f"the network has {k} sigmoid outputs, of which more than one can be on; wanted one, or softmax"
        )
    targets = None if Y is None else np.asarray(to_host(network.backend, Y, "Y"))
    if targets is not None and targets.shape[-1:] != points.shape[1:]:
        raise ShapeError(f"Y has shape {targets.shape} and X has {points.shape[1]} samples")
    features = network.metadata.get("features") if isinstance(network.metadata, dict) else None
    x, y = _sides(points, resolution)
    grid = np.stack([axis.ravel() for axis in np.meshgrid(x, y)])
    with np.errstate(all="ignore"):
        A = np.asarray(network.predict(grid), dtype=np.float64).reshape(k, len(y), len(x))

    ax = one_axes(ax, 5.2, 4.2)
    if output in {"unit", "simplex"}:
        P = np.concatenate([1 - A, A]) if k == 1 else A
        _regions(ax, x, y, P)
        names = class_names(classes, network.metadata, len(P))
        if targets is not None:
            _classes(ax, points, indices(targets.reshape(1, -1) if k == 1 else targets, "Y")[0], names)
    else:
        _levels(ax, x, y, A[0], points, targets)
    ax.set_xlim(x[0], x[-1])
    ax.set_ylim(y[0], y[-1])
    sides = ["$x_1$", "$x_2$"]
    if isinstance(features, list) and len(features) == 2:
        sides = [shortened(feature, 30) for feature in features]
    ax.set_xlabel(sides[0])
    ax.set_ylabel(sides[1])
    tidy(ax)
    return figure_of(ax)


def _sides(points: np.ndarray, resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates along each side: the range of the points, extended by a tenth."""
    low, high = points.min(axis=1), points.max(axis=1)
    margin = 0.1 * (high - low)
    margin = np.where(margin > 0, margin, np.maximum(1.0, 0.1 * abs(high)))
    x, y = (np.linspace(low[i] - margin[i], high[i] + margin[i], resolution) for i in range(2))
    return x, y


def _regions(ax: "Axes", x: np.ndarray, y: np.ndarray, P: np.ndarray) -> None:
    """Draw the most likely class in its colour, shaded by its probability, with lines between classes."""
    from matplotlib.colors import to_rgb

    colours = np.array([to_rgb(colour(i)) for i in range(len(P))])
    likeliest, sure = P.argmax(axis=0), P.max(axis=0)
    strength = 0.12 + 0.48 * np.clip((sure - 1 / len(P)) / (1 - 1 / len(P)), 0, 1)[..., None]
    image = 1 - strength * (1 - colours[likeliest])
    image[~np.isfinite(P).all(axis=0)] = 0.5
    extent = (x[0], x[-1], y[0], y[-1])
    ax.imshow(image, origin="lower", extent=extent, aspect="auto", interpolation="nearest")
    for i in range(len(P) - 1 if len(P) == 2 else len(P)):
        rest = np.delete(P, i, axis=0).max(axis=0)
        lead = P[i] - rest
        if np.isfinite(lead).all() and lead.min() < 0 < lead.max():
            ax.contour(x, y, lead, levels=[0.0], colors=INK, linewidths=1.0)


def _classes(ax: "Axes", points: np.ndarray, labels: np.ndarray, names: list[str]) -> None:
    """Draw the samples, each class in its colour and shape."""
    if labels.max() >= len(names):
        raise DataError(f"Y has the class {labels.max()}, and the network knows 0 .. {len(names) - 1}")
    size = 22 if points.shape[1] < MANY else 7
    for i in np.unique(labels):
        of_i = labels == i
        ax.scatter(
            points[0, of_i],
            points[1, of_i],
            s=size,
            c=colour(i),
            marker=MARKERS[i % len(MARKERS)],
            edgecolors="white" if size < 10 else INK,
            linewidths=0.3 if size < 10 else 0.5,
            label=shortened(names[i]),
        )
    ax.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5), borderaxespad=0.4)


def _levels(
    ax: "Axes", x: np.ndarray, y: np.ndarray, Z: np.ndarray, points: np.ndarray, targets: np.ndarray | None
) -> None:
    """Draw a quantity as levels, and the samples filled by their values."""
    from matplotlib.colors import Normalize

    shown = [Z[np.isfinite(Z)], *([] if targets is None else [targets.ravel().astype(np.float64)])]
    values = np.concatenate(shown)
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    norm = Normalize(low, high if high > low else low + 1)
    extent = (x[0], x[-1], y[0], y[-1])
    image = ax.imshow(Z, origin="lower", extent=extent, aspect="auto", cmap="cividis", norm=norm)
    if np.isfinite(Z).all() and Z.max() > Z.min():
        ax.contour(x, y, Z, levels=8, colors="white", linewidths=0.6, linestyles="solid", alpha=0.7)
    if targets is not None:
        size = 22 if points.shape[1] < MANY else 7
        ax.scatter(
            points[0],
            points[1],
            s=size,
            c=targets.reshape(-1),
            cmap="cividis",
            norm=norm,
            edgecolors="white",
            linewidths=0.6,
        )
    bar = figure_of(ax).colorbar(image, ax=ax, fraction=0.05, pad=0.02)
    bar.set_label("output", fontsize=9)
    bar.ax.tick_params(labelsize=8)
