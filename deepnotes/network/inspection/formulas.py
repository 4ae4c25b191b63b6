"""The names of the arrays of a training step, as in the notes, and the formula of each as text.

The text is for readers; the arrays themselves are computed by :func:`deepnotes.nn.steps.gradient_step`.
"""

from collections.abc import Sequence
from typing import NamedTuple

from deepnotes.nn.activations import Activation, ActivationFunction
from deepnotes.nn.layers import Dense, Gate, Layer, LayerNorm, PReLU, RMSNorm
from deepnotes.nn.losses import Loss, LossFunction
from deepnotes.utils.wording import one_line

ACTIVATIONS = {
    "identity": ("{Z}", "{dA}", ""),
    "sigmoid": ("1 / (1 + e^-{Z})", "{dA} * {A} * (1 - {A})", "N6"),
    "tanh": ("tanh {Z}", "{dA} * (1 - {A}²)", "N7"),
    "relu": ("{Z} where {Z} >= 0, else 0", "{dA} * (1 where {Z} > 0, else 0)", "N8"),
    "leaky_relu": ("{Z} where {Z} >= 0, else {slope:g} {Z}", "{dA} * (1 where {Z} > 0, else {slope:g})", "N9"),
    "softmax": ("e^{Z} / Σ_outputs e^{Z}", "{A} * ({dA} - Σ_outputs {dA} * {A})", ""),
    "exp": ("e^{Z}", "{dA} * {A}", ""),
}
"""``A`` (N3), ``dZ`` (N12), and the number of the activation in the notes; for others, see :func:`activation`."""
LOSSES = {
    "binary_cross_entropy": "-({Y} * log {A} + (1 - {Y}) * log(1 - {A}))",
    "categorical_cross_entropy": "-Σ_outputs {Y} * log {A}",
    "mean_squared_error": "({A} - {Y})²",
    "mean_absolute_error": "|{A} - {Y}|",
}
"""The loss of a sample with one output; a mean over the outputs otherwise, except for categorical cross-entropy."""


class Names(NamedTuple):
    """The names of one layer's arrays.

    Attributes
    ----------
    number : int
        The number in the names of its parameters, ``2`` for ``W2``; a layer without parameters has that of the layer
        before it.
    before, after : str
        The input and the output of the layer, such as ``A1`` and ``A2``.
    mask : str
        The mask of a dropout layer, such as ``D1``.
    """

    number: int
    before: str
    after: str
    mask: str

    @property
    def noise(self) -> str:
        """The random numbers of a noise layer, such as ``N1``."""
        return f"N{self.mask[1:]}"

    @property
    def Z(self) -> str:
        """The name of the linear part, ``Z2``."""
        return f"Z{self.number}"


def layer_names(layers: Sequence[Layer], inputs: int) -> list[Names]:
    """Return the names of each layer: ``A2`` is the output of the layer with ``W2``.

    The output of a layer without parameters is named after the layer before it and its own kind: ``A1_dropout``.

    Examples
    --------
    >>> from deepnotes.nn.layers import Dropout
    >>> [names.after for names in layer_names([Dense(4), Dropout(0.2), Dense(1)], 3)]
    ['A1', 'A1_dropout', 'A2']
    """
    names: list[Names] = []
    number, before, size = 0, "A0", inputs
    for layer in layers:
        if layer.parameters(size):
            number += 1
            after = suffix = f"{number}"
        else:
            kind = type(layer).__name__.lower()
            same = sum(n.number == number and n.after.startswith(f"A{number}_{kind}") for n in names)
            suffix = f"{number}" + (f"_{same + 1}" if same else "")
            after = f"{number}_{kind}" + (f"{same + 1}" if same else "")
        names.append(Names(number, before, f"A{after}", f"D{suffix}"))
        before, size = f"A{after}", layer.output_size(size)
    return names


def activation(g: ActivationFunction, names: Names) -> tuple[str, str, str]:
    """Return the formulas of ``A`` and ``dZ`` of a dense layer, and the number of its activation in the notes or ""."""
    Z, A, dA = names.Z, names.after, f"d{names.after}"
    if type(g) is Activation and g.name in ACTIVATIONS:
        forward, backward, number = ACTIVATIONS[g.name]
        arrays = {"Z": Z, "A": A, "dA": dA, **dict(g.options)}
        return forward.format(**arrays), backward.format(**arrays), number
    name = one_line(getattr(g, "name", type(g).__name__))
    return f"{name}({Z})", f"{dA} * {name}'({Z})", ""


def normalization(layer: LayerNorm | RMSNorm, names: Names) -> dict[str, str]:
    """Return the formulas of the arrays of a normalization.

    Those of its parameters' gradients are under ``gamma`` and ``beta``, that of the derivative by its input under
    ``dA_prev``. The centered input is named ``C2``, and the inverse of its root mean square ``r2``.
    """
    n, before, dA = names.number, names.before, f"d{names.after}"
    centers = isinstance(layer, LayerNorm)
    X, mean = (f"C{n}" if centers else before), f" - mean_features(gamma{n} * {dA})" if centers else ""
    X_hat = f"{X} * r{n}"
    return {
        "center": f"{before} - mean_features({before})",
        "inverse_rms": f"1 / sqrt(mean_features({X}²) + {layer.epsilon:g})",
        "A": f"gamma{n} * {X_hat}" + (f" + beta{n}" if centers else ""),
        "dA_prev": f"r{n} * (gamma{n} * {dA}{mean} - {X_hat} * mean_features(gamma{n} * {dA} * {X_hat}))",
        "gamma": f"(1/m) Σ_samples {dA} * {X_hat}",
        "beta": f"(1/m) Σ_samples {dA}",
    }


def prelu(names: Names) -> dict[str, str]:
    """Return the formulas of the arrays of a :class:`~deepnotes.nn.layers.PReLU`, as :func:`normalization` does."""
    n, before, dA = names.number, names.before, f"d{names.after}"
    return {
        "A": f"{before} where {before} > 0, else alpha{n} * {before}",
        "dA_prev": f"{dA} * (1 where {before} > 0, else alpha{n})",
        "alpha": f"(1/m) Σ_samples {dA} * min({before}, 0)",
    }


def gate(layer: Gate, names: Names) -> dict[str, str]:
    """Return the formulas of the arrays of a :class:`~deepnotes.nn.layers.Gate`, as :func:`normalization` does."""
    before, dA = names.before, f"d{names.after}"
    V, G = f"{before}[:n]", f"{before}[n:]"
    name = one_line(getattr(layer.g, "name", type(layer.g).__name__))
    return {
        "A": f"{V} * {name}({G}), where {V} and {G} are the halves of {before}",
        "dA_prev": f"{dA} * {name}({G}) above {dA} * {V} * {name}'({G})",
    }


def of_layer(layer: Layer, names: Names) -> dict[str, str]:
    """Return the formulas of the arrays of a layer of the library other than Dense and Dropout, or nothing."""
    if type(layer) in (LayerNorm, RMSNorm):
        return normalization(layer, names)  # type: ignore[arg-type]
    if type(layer) is Gate:
        return gate(layer, names)
    return prelu(names) if type(layer) is PReLU else {}


def loss_formula(loss: LossFunction, A: str, outputs: int) -> str:
    """Return the formula of the loss of each sample."""
    name = one_line(getattr(loss, "name", type(loss).__name__))
    if type(loss) is not Loss or name not in LOSSES:
        return f"{name}({A}, Y)"
    formula = LOSSES[name].format(A=A, Y="Y")
    return formula if outputs == 1 or name == "categorical_cross_entropy" else f"mean_outputs {formula}"


def delta_formula(loss: LossFunction, A: str, outputs: int) -> str:
    """Return the formula of ``dZ[L]`` of a loss that is fused with the last activation (N11)."""
    if type(loss) is not Loss:
        return f"∂L/∂Z of {type(loss).__name__}"
    return f"{A} - Y" if outputs == 1 or loss.name == "categorical_cross_entropy" else f"({A} - Y) / {outputs}"


def is_plain(layer: Layer) -> bool:
    """Return whether a layer is described by N2 and N3; a class derived from Dense may compute something else."""
    return type(layer) is Dense


def kind(layer: Layer) -> str:
    """Return the name of a layer's class, on one line."""
    return one_line(type(layer).__name__)
