"""Plot the output of a network with two inputs as a function of these inputs."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from deepnotes.backends.foreign_arrays import as_host, to_host
from deepnotes.nn.layers import Dense
from deepnotes.plots.canvas import (
    INK,
    MARKERS,
    as_axes,
    class_names,
    colour,
    figure_of,
    get_axes,
    panels,
    shorten,
    tidy,
)
from deepnotes.plots.confusions import indices
from deepnotes.utils.arguments import whole
from deepnotes.utils.errors import ArgumentError, DataError, ShapeError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    from deepnotes.plots.protocols import NetworkLike

MANY_POINTS = 1000
"""If there are at least this many points, they are drawn smaller."""


class Grid(NamedTuple):
    """A grid of points at which a network is evaluated, given by the coordinates along each axis."""

    x: np.ndarray
    y: np.ndarray

    @classmethod
    def around(cls, points: np.ndarray, resolution: int) -> "Grid":
        """Return a grid that covers the range of `points`, shape (2, m), and a tenth of that range on each side.

        `resolution` is the number of coordinates along each axis.
        """
        low, high = points.min(axis=1), points.max(axis=1)
        margin = 0.1 * (high - low)
        margin = np.where(margin > 0, margin, np.maximum(1.0, 0.1 * abs(high)))
        return cls(*(np.linspace(low[i] - margin[i], high[i] + margin[i], resolution) for i in range(2)))

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """The limits of both axes, in the form that matplotlib's ``imshow`` expects."""
        return self.x[0], self.x[-1], self.y[0], self.y[-1]

    def evaluate(self, network: "NetworkLike") -> np.ndarray:
        """Return the k outputs of the network at each point, shape (k, len(y), len(x))."""
        X = np.stack([axis.ravel() for axis in np.meshgrid(self.x, self.y)])
        with np.errstate(all="ignore"):
            return np.asarray(network.predict(X), dtype=np.float64).reshape(-1, len(self.y), len(self.x))


def boundary(
    network: "NetworkLike | Mapping[Any, NetworkLike]",
    X: Any,
    Y: Any = None,
    *,
    classes: Sequence[object] | None = None,
    resolution: int = 256,
    ax: Any = None,
) -> "Figure":
    """Draw the output of a network with two inputs over the range of the samples X, and the samples if Y is given.

    Parameters
    ----------
    network : Network
        A network with two inputs. If its last activation is softmax, or sigmoid with one output, the classes are drawn
        as regions, separated by lines, and paler where the network is less certain. Any other single output is drawn
        as a colour map with contour lines. A dict of networks is drawn in panels: the keys are their titles, or the
        numbers of epochs, as in ``snapshots.networks()`` of :class:`deepnotes.Snapshots`.
    X : array_like, shape (2, m)
        The samples.
    Y : array_like, optional
        The targets of the samples: class indices of shape (m,) or one-hot columns of shape (k, m), or for a network
        that predicts a quantity, numbers of shape (m,) or (1, m).
    classes : sequence, optional
        The names of the classes; by default, the names in the metadata of the network, or else the class indices.
    resolution : int, default 256
        The number of points along each axis at which the network is evaluated.
    ax : Axes, or sequence of Axes, optional
        One for each network; by default, those of a new figure.

    Returns
    -------
    Figure

    Raises
    ------
    ShapeError
        If the network does not have two inputs, or Y does not have m samples.
    ArgumentError, DataError, DTypeError, ForeignArrayError, MissingExtraError
    """
    if isinstance(network, Mapping):
        return _draw_panels(network, X, Y, classes, resolution, ax)
    if network.inputs != 2:
        raise ShapeError(f"the network has {network.inputs} inputs, wanted 2: one for each axis of the plot")
    resolution = whole("resolution", resolution, 2)
    points = _check_points(network, X)
    gives_classes = _gives_classes(network)
    targets = None if Y is None else np.asarray(to_host(network.backend, Y, "Y"))
    if targets is not None and targets.shape[-1:] != points.shape[1:]:
        raise ShapeError(f"Y has shape {targets.shape}, but X has {points.shape[1]} samples")
    grid = Grid.around(points, resolution)
    A = grid.evaluate(network)

    ax = get_axes(ax, 5.2, 4.2)
    if gives_classes:
        P = np.concatenate([1 - A, A]) if len(A) == 1 else A
        _draw_regions(ax, grid, P)
        names = class_names(classes, network.metadata, len(P))
        if targets is not None:
            labels, _ = indices(targets.reshape(1, -1) if len(A) == 1 else targets, "Y")
            _draw_classes(ax, points, labels, names)
    else:
        _draw_levels(ax, grid, A[0], points, targets)
    ax.set_xlim(grid.x[0], grid.x[-1])
    ax.set_ylim(grid.y[0], grid.y[-1])
    x_label, y_label = _axis_labels(network.metadata)
    ax.set_xlabel(x_label)
    ax.set_ylabel(y_label)
    tidy(ax)
    return figure_of(ax)


def _draw_panels(
    networks: "Mapping[Any, NetworkLike]", X: Any, Y: Any, classes: Sequence[object] | None, resolution: int, ax: Any
) -> "Figure":
    """Draw each network in its own panel, with a legend beside the first row."""
    if not networks:
        raise ArgumentError("network is an empty dict, wanted at least one network")
    if ax is not None and (not isinstance(ax, Sequence | np.ndarray) or len(ax) != len(networks)):
        raise ArgumentError.of("ax", ax, f"a sequence of {len(networks)} Axes, one for each network")
    axes = panels(len(networks), 3.4, 3.0) if ax is None else [as_axes(a, f"ax[{i}]") for i, a in enumerate(ax)]
    last_in_row = min(len(axes), 3) - 1
    for i, (panel, (title, network)) in enumerate(zip(axes, networks.items(), strict=True)):
        boundary(network, X, Y, classes=classes, resolution=resolution, ax=panel)
        panel.set_title(f"epoch {title:,}" if isinstance(title, int) else shorten(title, 30), fontsize=10)
        for label in (panel.xaxis.label, panel.yaxis.label):
            label.set_fontsize(8)
        legend = panel.get_legend()
        if legend is not None and i != last_in_row:
            legend.remove()
    return figure_of(axes[0])


def _check_points(network: "NetworkLike", X: Any) -> np.ndarray:
    """Return X as a float64 array of shape (2, m), after checking its shape and values."""
    points = as_host(network.backend, to_host(network.backend, X, "X"), "X").astype(np.float64)
    if points.ndim != 2 or points.shape[0] != 2 or points.shape[1] == 0:
        hint = "; samples are columns, so pass X.T" if points.ndim == 2 and points.shape[1] == 2 else ""
        raise ShapeError.of("X", points.shape, f"(2, m) with m at least 1{hint}")
    if not np.isfinite(points).all():
        raise DataError("X holds numbers that are not finite, wanted finite coordinates")
    return points


def _gives_classes(network: "NetworkLike") -> bool:
    """Return True if the outputs are probabilities of classes, False if the network has one output of another kind.

    Raises
    ------
    ArgumentError
        If there are several outputs that are not the probabilities of mutually exclusive classes.
    """
    last, k = network.layers[-1], network.outputs
    output = getattr(last.g, "range", "real") if isinstance(last, Dense) else "real"
    if output == "unit" and k > 1:
        raise ArgumentError(
            f"the network has {k} sigmoid outputs, so its classes are not mutually exclusive; wanted one output, or a "
            "softmax layer"
        )
    if output not in {"unit", "simplex"} and k > 1:
        raise ArgumentError(
            f"the network has {k} outputs that are not probabilities of classes, wanted one output, or a softmax layer"
        )
    return output in {"unit", "simplex"}


def _axis_labels(metadata: Any) -> list[str]:
    """Return the names of the two features if the metadata contain them, else x_1 and x_2."""
    features = metadata.get("features") if isinstance(metadata, dict) else None
    if isinstance(features, list) and len(features) == 2:
        return [shorten(feature, 30) for feature in features]
    return ["$x_1$", "$x_2$"]


def _draw_regions(ax: "Axes", grid: Grid, P: np.ndarray) -> None:
    """Draw the region of each class in the colour of the class, shaded by the probability, with lines between regions.

    `P` has the probability of each class at each point of the grid, shape (k, len(y), len(x)).
    """
    from matplotlib.colors import to_rgb

    colours = np.array([to_rgb(colour(i)) for i in range(len(P))])
    most_likely, probability = P.argmax(axis=0), P.max(axis=0)
    strength = 0.12 + 0.48 * np.clip((probability - 1 / len(P)) / (1 - 1 / len(P)), 0, 1)[..., None]
    image = 1 - strength * (1 - colours[most_likely])
    image[~np.isfinite(P).all(axis=0)] = 0.5
    ax.imshow(image, origin="lower", extent=grid.extent, aspect="auto", interpolation="nearest")
    for i in range(len(P) - 1 if len(P) == 2 else len(P)):
        margin = P[i] - np.delete(P, i, axis=0).max(axis=0)
        if np.isfinite(margin).all() and margin.min() < 0 < margin.max():
            ax.contour(grid.x, grid.y, margin, levels=[0.0], colors=INK, linewidths=1.0)


def _draw_classes(ax: "Axes", points: np.ndarray, labels: np.ndarray, names: list[str]) -> None:
    """Draw the samples with a different colour and marker for each class."""
    if labels.max() >= len(names):
        raise DataError(f"Y has the class {labels.max()}, wanted classes from 0 to {len(names) - 1}")
    size = _marker_size(points)
    for i in np.unique(labels):
        x, y = points[:, labels == i]
        ax.scatter(
            x,
            y,
            s=size,
            c=colour(i),
            marker=MARKERS[i % len(MARKERS)],
            edgecolors="white" if points.shape[1] >= MANY_POINTS else INK,
            linewidths=0.3 if points.shape[1] >= MANY_POINTS else 0.5,
            label=shorten(names[i]),
        )
    ax.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5), borderaxespad=0.4)


def _draw_levels(ax: "Axes", grid: Grid, Z: np.ndarray, points: np.ndarray, targets: np.ndarray | None) -> None:
    """Draw the output Z as a colour map with contour lines, and the samples in the colours of their targets."""
    norm = _colour_scale(Z, targets)
    image = ax.imshow(Z, origin="lower", extent=grid.extent, aspect="auto", cmap="cividis", norm=norm)
    if np.isfinite(Z).all() and Z.max() > Z.min():
        ax.contour(grid.x, grid.y, Z, levels=8, colors="white", linewidths=0.6, linestyles="solid", alpha=0.7)
    if targets is not None:
        ax.scatter(
            points[0],
            points[1],
            s=_marker_size(points),
            c=targets.reshape(-1),
            cmap="cividis",
            norm=norm,
            edgecolors="white",
            linewidths=0.6,
        )
    bar = figure_of(ax).colorbar(image, ax=ax, fraction=0.05, pad=0.02)
    bar.set_label("output", fontsize=9)
    bar.ax.tick_params(labelsize=8)


def _colour_scale(Z: np.ndarray, targets: np.ndarray | None) -> "Normalize":
    """Return a colour scale that covers all finite values of Z and of the targets."""
    from matplotlib.colors import Normalize

    values = Z.ravel() if targets is None else np.concatenate([Z.ravel(), targets.ravel().astype(np.float64)])
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    return Normalize(low, high if high > low else low + 1)


def _marker_size(points: np.ndarray) -> int:
    return 22 if points.shape[1] < MANY_POINTS else 7
