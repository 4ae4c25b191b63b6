"""Plot the weights of the first layer as images."""

from math import ceil, isqrt, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.nn.layers import Dense
from deepnotes.plots.canvas import figure_of, get_axes
from deepnotes.utils.arguments import whole
from deepnotes.utils.errors import ArgumentError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from deepnotes.plots.protocols import NetworkLike


def weights(
    network: "NetworkLike", *, shape: tuple[int, int] | None = None, most: int = 64, ax: Any = None
) -> "Figure":
    """Draw the weights of each neuron in the first layer as an image; all images share one colour scale.

    Parameters
    ----------
    network : Network
        A network whose inputs are the pixels of an image, row by row.
    shape : (int, int), optional
        The height and width of an image; by default, images are square.
    most : int, default 64
        The maximum number of neurons to draw, starting with the first.
    ax : Axes, optional

    Returns
    -------
    Figure

    Raises
    ------
    ArgumentError
        If the first layer is not Dense, or the number of pixels differs from the number of inputs.
    MissingExtraError
        If matplotlib cannot be imported.
    """
    if not isinstance(network.layers[0], Dense):
        raise ArgumentError(
            f"the first layer is {network.layers[0]!r}, wanted Dense: one image for each of its neurons"
        )
    height, width = image_shape(shape, network.inputs)
    W = network.backend.to_numpy(network.parameters["W1"]).astype(np.float64)
    n = min(len(W), whole("most", most))
    picture = mosaic(W[:n].reshape(n, height, width))

    ratio = picture.shape[0] / picture.shape[1]
    figure_width = 5.4 if ratio <= 1.3 else 7.0 / ratio
    ax = get_axes(ax, figure_width + 0.9, min(max(1.4, figure_width * ratio), 9.0) + 0.4)
    limit = float(abs(W[:n]).max()) or 1.0
    image = ax.imshow(picture, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    hide_axes(ax)
    number = f"{len(W):,}" if n == len(W) else f"the first {n:,} of {len(W):,}"
    ax.set_title(f"weights of {number} neurons of layer 1", fontsize=11)
    bar = figure_of(ax).colorbar(image, ax=ax, fraction=0.046, pad=0.03)
    bar.ax.tick_params(labelsize=8)
    return figure_of(ax)


def hide_axes(ax: "Axes") -> None:
    """Remove ticks and spines, which mean nothing around an image."""
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)


def mosaic(images: np.ndarray) -> np.ndarray:
    """Arrange n images, shape (n, height, width), in the rows and columns of one image, with NaN between them."""
    n, height, width = images.shape
    columns = ceil(sqrt(n * height / width)) if n > 3 else n
    rows = ceil(n / columns)
    gap = 1 if min(height, width) < 24 else 2
    picture = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap), np.nan)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        picture[top : top + height, left : left + width] = image
    return picture


def image_shape(shape: Any, inputs: int) -> tuple[int, int]:
    """Return the height and width of an image with `inputs` pixels: `shape`, or by default those of a square.

    Raises
    ------
    ArgumentError
        If `shape` has a different number of pixels, or `inputs` is not a square number.
    """
    if shape is None:
        side = isqrt(inputs)
        if side * side != inputs:
            raise ArgumentError(
                f"the network has {inputs} inputs, which is not a square number; wanted shape=(height, width)"
            )
        return side, side
    if not isinstance(shape, tuple | list) or len(shape) != 2:
        raise ArgumentError.of("shape", shape, "(height, width)")
    height, width = (whole("shape", side) for side in shape)
    if height * width != inputs:
        raise ArgumentError(f"shape={shape!r} has {height * width} pixels, but the network has {inputs} inputs")
    return height, width
