"""Plot how strongly the loss, or an output, depends on each input."""

from collections.abc import Sequence
from math import isqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.backends.foreign_arrays import as_host, to_host
from deepnotes.plots.canvas import INK, PALE, TRAINING, class_names, figure_of, get_axes, shorten, tidy
from deepnotes.plots.images import hide_axes, image_shape, mosaic
from deepnotes.utils.arguments import whole
from deepnotes.utils.errors import ArgumentError, ShapeError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from deepnotes.plots.protocols import NetworkLike

SMALLEST_IMAGE = 36
"""The smallest number of inputs that are drawn as an image if no shape is given."""
MOST_FEATURES = 20
"""The largest number of features that are drawn as bars."""


def saliency(
    network: "NetworkLike",
    X: Any,
    Y: Any = None,
    *,
    output: int | str | None = None,
    shape: tuple[int, int] | None = None,
    features: Sequence[object] | None = None,
    most: int = 16,
    ax: Any = None,
) -> "Figure":
    """Draw the absolute derivatives of the loss, or of an output, by the inputs (arXiv:1312.6034).

    Images are drawn for each sample, below the sample. Other inputs are drawn as bars, the largest at the top: the mean
    over the samples. If the network has a standardizer, the derivatives are by the standardized inputs, so that those
    of features in different units can be compared.

    Parameters
    ----------
    network : Network
    X : array_like, shape (n[0], m)
        The samples.
    Y : array_like, optional
        The targets, as for :meth:`Network.input_gradient`, for the derivative of the loss.
    output : int or str, optional
        The output whose derivative is drawn if there is no `Y`: its number, or the name of its class in the metadata of
        the network. By default, the largest output of each sample.
    shape : (int, int), optional
        The height and width of an image; it can be left out if images are square, with at least 36 pixels, and the
        features have no names.
    features : sequence, optional
        The names of the inputs, which are then drawn as bars; by default, the names in the metadata of the network.
    most : int, default 16
        The largest number of images, starting with the first sample.
    ax : Axes, optional
        By default, the axes of a new figure.

    Returns
    -------
    Figure

    Raises
    ------
    ArgumentError
        If there are both `Y` and `output`, or both `shape` and `features`; if the network has no such output; or if
        `shape` has another number of pixels, or `features` another number of names, than there are inputs.
    ShapeError, DTypeError, DataError, ForeignArrayError, MissingExtraError
    """
    if Y is not None and output is not None:
        raise ArgumentError("wanted either Y, for the loss, or output, but not both")
    if shape is not None and features is not None:
        raise ArgumentError("wanted either shape, for images, or features, for bars, but not both")
    names = _feature_names(network, features)
    n, most = network.inputs, whole("most", most)
    if shape is not None or (names is None and n >= SMALLEST_IMAGE and isqrt(n) ** 2 == n):
        shape = image_shape(shape, n)
    samples = as_host(network.backend, to_host(network.backend, X, "X"), "X")
    if samples.ndim == 2 and samples.shape[1] == 0:
        raise ShapeError.of("X", samples.shape, f"({n}, m) with m at least 1")
    derivatives, of = _derivatives(network, samples, Y, output)
    if network.standardizer is not None:
        derivatives = derivatives * network.standardizer.scale
    if shape is not None:
        images, below = (x[:, :most].T.reshape(-1, *shape) for x in (samples, derivatives))
        return _draw_images(ax, images, below, of)
    unit = "standard deviation" if network.standardizer is not None else "unit"
    return _draw_bars(ax, derivatives.mean(axis=1), names, f"mean change of the {of}\nper {unit} of the input")


def _derivatives(network: "NetworkLike", X: np.ndarray, Y: Any, output: int | str | None) -> tuple[np.ndarray, str]:
    """Return the absolute derivatives by the inputs, shape (n[0], m), float64, and what they are derivatives of."""
    if Y is not None:
        return abs(np.asarray(network.input_gradient(X, Y), np.float64)), "loss"
    if output is None and network.outputs > 1:
        chosen, of = np.asarray(network.predict(X)).argmax(axis=0), "largest output"
    else:
        k = 0 if output is None else _output_index(network, output)
        chosen, of = np.full(X.shape[1], k), "output" if network.outputs == 1 else f"output {shorten(output)}"
    jacobian = np.asarray(network.jacobian(X), np.float64)
    return abs(jacobian[chosen, :, np.arange(len(chosen))].T), of


def _output_index(network: "NetworkLike", output: Any) -> int:
    """Return the number of an output, given that or the name of its class."""
    names = class_names(None, network.metadata, network.outputs)
    if isinstance(output, str) and output in names:
        return names.index(output)
    if isinstance(output, int | np.integer) and not isinstance(output, bool) and 0 <= output < network.outputs:
        return int(output)
    raise ArgumentError.of("output", output, f"a number from 0 to {network.outputs - 1} or the name of a class")


def _feature_names(network: "NetworkLike", features: Any) -> list[str] | None:
    """Return the names of the inputs: `features`, or those in the metadata of the network, or None."""
    if features is None:
        names = network.metadata.get("features") if isinstance(network.metadata, dict) else None
        return [str(name) for name in names] if isinstance(names, list) and len(names) == network.inputs else None
    if isinstance(features, str) or len(features) != network.inputs:
        raise ArgumentError.of("features", features, f"{network.inputs} names")
    return [str(name) for name in features]


def _draw_images(ax: Any, samples: np.ndarray, derivatives: np.ndarray, of: str) -> "Figure":
    """Draw n samples, shape (n, height, width), and below each its derivatives, relative to their largest."""
    gap = np.full((len(samples), 1, samples.shape[2]), np.nan)
    empty = np.full(samples.shape, np.nan)
    above = mosaic(np.concatenate([samples.astype(np.float64), gap, empty], axis=1))
    below = mosaic(np.concatenate([empty, gap, _relative(derivatives)], axis=1))
    height, width = above.shape
    inches = min(0.9 / samples.shape[2], 7.0 / width, 8.0 / height)  # for each pixel
    ax = get_axes(ax, max(width * inches, 1.8) + 1.2, max(height * inches, 1.6) + 0.5)
    ax.imshow(above, cmap="gray_r", interpolation="nearest")
    image = ax.imshow(below, cmap="inferno", vmin=0, vmax=1, interpolation="nearest")
    hide_axes(ax)
    ax.set_title(f"derivative of the {of}", fontsize=11)
    bar = figure_of(ax).colorbar(image, ax=ax, fraction=0.046, pad=0.03)
    bar.set_label("relative to the largest", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    return figure_of(ax)


def _relative(derivatives: np.ndarray) -> np.ndarray:
    """Return derivatives of samples, shape (n, height, width), each divided by the largest of its sample."""
    largest = derivatives.max(axis=(1, 2), keepdims=True)
    relative: np.ndarray = np.divide(derivatives, largest, out=np.zeros_like(derivatives), where=largest != 0)
    return relative


def _draw_bars(ax: Any, derivatives: np.ndarray, names: list[str] | None, label: str) -> "Figure":
    """Draw the derivative by each feature as a bar, the largest at the top."""
    n = len(derivatives)
    shown = np.argsort(-derivatives, kind="stable")[:MOST_FEATURES]
    ax = get_axes(ax, 6.0, 1.2 + 0.3 * len(shown))
    ax.barh(np.arange(len(shown)), derivatives[shown], color=TRAINING, height=0.65)
    labels = [f"$x_{{{i + 1}}}$" if names is None else shorten(names[i], 30) for i in shown]
    ax.set_yticks(np.arange(len(shown)), labels)
    ax.invert_yaxis()
    ax.axvline(0, color=PALE, linewidth=0.8)
    ax.set_xlabel(label)
    if len(shown) < n:
        ax.set_title(f"{len(shown)} of {n:,} features", fontsize=10, color=INK)
    tidy(ax)
    ax.tick_params(axis="y", length=0)
    return figure_of(ax)
