"""Plot an activation function g and its derivative g'."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.equations.ops import Ops
from deepnotes.nn.activations import ActivationFunction, as_activation
from deepnotes.plots.canvas import (
    INK,
    PALE,
    TRAINING,
    VALIDATION,
    as_axes,
    escape_formulas,
    figure_of,
    get_axes,
    panels,
    shorten,
    tidy,
)
from deepnotes.utils.errors import ArgumentError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NUMPY: Any = np
SPAN, POINTS = 4.0, 1601
JUMP = 0.1
"""The least change of g' between neighbouring points at which its line is interrupted, if it is steep only there."""


def activation(g: str | ActivationFunction | Sequence[str | ActivationFunction], *, ax: Any = None) -> "Figure":
    """Draw activation functions ``g(z)`` (N6 to N9 and variants), each with its derivative ``g'(z)`` (N12).

    Parameters
    ----------
    g : str or ActivationFunction, or a list of them
        The activations; each has its own panel.
    ax : Axes or sequence of Axes, optional
        The Axes to draw into, one for each activation; by default, they are created in a new figure.

    Returns
    -------
    Figure

    Raises
    ------
    UnknownNameError
        If there is no activation of a name; the message suggests the nearest match.
    ArgumentError
        If an activation is not elementwise, as softmax, or the number of Axes differs from that of the activations.
    MissingExtraError
        If matplotlib cannot be imported.

    Examples
    --------
    >>> figure = activation(["tanh", "relu"])
    >>> [ax.get_title() for ax in figure.axes]
    ['tanh', 'relu']
    """
    functions = [as_activation(each) for each in ([g] if isinstance(g, str | ActivationFunction) else g)]
    if not functions:
        raise ArgumentError("g: got no activations, wanted at least one")
    values = [_values(each) for each in functions]
    if ax is None:
        axes = [get_axes(None, 4.2, 3.2)] if len(functions) == 1 else panels(len(functions), 3.2, 2.6)
    else:
        given = [*ax] if isinstance(ax, Sequence | np.ndarray) else [ax]
        axes = [as_axes(each, f"ax[{i}]") for i, each in enumerate(given)]
        if len(axes) != len(functions):
            raise ArgumentError(f"ax: got {len(axes)} axes, wanted {len(functions)}, one for each activation")
    for i, (each, panel) in enumerate(zip(functions, axes, strict=True)):
        _draw(panel, each, *values[i], legend=i == 0)
    return figure_of(axes[0])


def _values(g: ActivationFunction) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return z, g(z) and g'(z); where g' jumps, it is NaN."""
    z, ops = np.linspace(-SPAN, SPAN, POINTS), Ops(NUMPY, {})
    with np.errstate(all="ignore"):
        Z: Any = z[None]
        A: Any = np.asarray(g.forward(ops, Z))
        slope = np.array(g.backward(ops, NUMPY.ones_like(Z), Z, A))[0]
        two: Any = np.stack([z, z[::-1]])
        if not np.allclose(np.asarray(g.forward(ops, two))[0], A[0], equal_nan=True):
            raise ArgumentError(f"g: {g!r} is not elementwise, so it has no curve")
    changes = np.pad(abs(np.diff(slope)), 2, mode="edge")
    around = np.maximum(changes[:-4], changes[4:])
    jumps = (changes[2:-2] > JUMP) & (changes[2:-2] > 10 * around)
    slope[1:][jumps] = np.nan
    return z, A[0], slope


def _draw(ax: "Axes", g: ActivationFunction, z: np.ndarray, A: np.ndarray, slope: np.ndarray, legend: bool) -> None:
    """Draw one activation."""
    ax.axhline(0, color=PALE, linewidth=0.7)
    ax.axvline(0, color=PALE, linewidth=0.7)
    ax.plot(z, A, color=TRAINING, linewidth=1.8, label="g(z)")
    ax.plot(z, slope, color=VALIDATION, linewidth=1.8, linestyle="--", label="g'(z)")
    finite = np.concatenate([A, slope])[np.isfinite(np.concatenate([A, slope]))]
    if finite.size:
        low, high = max(finite.min(), -SPAN), min(finite.max(), SPAN)
        margin = 0.06 * max(high - low, 1e-3)
        ax.set_ylim(low - margin, high + margin)
    ax.set_xlim(-SPAN, SPAN)
    options = ", ".join(f"{name}={value:g}" for name, value in getattr(g, "options", ()))
    name = shorten(getattr(g, "name", type(g).__name__))
    ax.set_title(name + escape_formulas(f" ({options})" if options else ""), fontsize=10, color=INK)
    ax.set_xlabel("z", fontsize=9, color=INK)
    tidy(ax)
    if legend:
        ax.legend(loc="upper left", fontsize=9, frameon=False)
