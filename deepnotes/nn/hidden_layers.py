"""Hidden layers with dropout, normalization and shortcuts: those of the estimators and of the command line."""

from collections.abc import Sequence

from deepnotes.nn.activations import ActivationFunction
from deepnotes.nn.layers import Dense, Dropout, Layer, LayerNorm, Residual, RMSNorm, flatten

NORMALIZATIONS: dict[str, type[LayerNorm] | type[RMSNorm]] = {"layer": LayerNorm, "rms": RMSNorm}
"""The layers that normalize, by name."""


def hidden_layers(
    sizes: Sequence[int],
    activations: Sequence[str | ActivationFunction],
    rates: Sequence[float],
    normalization: str | None = None,
    residual: bool = False,
) -> list[Layer]:
    """Return the layers before the last one: a Dense layer for each size, and what belongs to it.

    A hidden layer is ``Dense(n, g), Dropout(rate)``. With a normalization, each Dense layer but the first has
    normalized inputs, and so has the layer that follows. With shortcuts, each hidden layer that has as many inputs as
    outputs, but not the first, is in a residual block, together with the normalization of its inputs. So no
    normalization is on the way from the first hidden layer to the last, as in the ResNet for tables of Y. Gorishniy et
    al., arXiv:2106.11959.

    Parameters
    ----------
    sizes : sequence of int
        The number of neurons of each hidden layer.
    activations : sequence of str or ActivationFunction
        One for each.
    rates : sequence of float
        The dropout rate after each; there is no dropout where it is 0.
    normalization : {"layer", "rms"}, optional
        LayerNorm or RMSNorm; by default there is none.
    residual : bool, default False
        Whether there are shortcuts.

    Examples
    --------
    >>> for layer in hidden_layers([8, 8], ["relu", "relu"], [0.0, 0.1], "layer", residual=True):
    ...     print(layer)
    Dense(8, 'relu')
    LayerNorm(epsilon=1e-05)
    Dense(8, 'relu')
    Dropout(rate=0.1)
    Shortcut(layers=3)
    LayerNorm(epsilon=1e-05)
    """
    norm = [] if normalization is None else [NORMALIZATIONS[normalization]()]
    layers: list[Layer] = []
    for i, (n, g, rate) in enumerate(zip(sizes, activations, rates, strict=True)):
        own: list[Layer] = [*(norm if i else []), Dense(n, g), *([Dropout(rate)] if rate else [])]
        layers += [Residual(own)] if residual and i and n == sizes[i - 1] else own
    return [*flatten(layers), *(norm if layers else [])]
