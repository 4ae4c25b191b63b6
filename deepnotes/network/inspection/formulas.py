"""The names of the arrays of a training step, as in the notes, and the formula of each as text.

The text is for readers; the arrays themselves are computed by :func:`deepnotes.nn.steps.gradient_step`.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from deepnotes.equations.activations import SELU
from deepnotes.nn.activations import Activation, ActivationFunction
from deepnotes.nn.layers import BatchNorm, Dense, Embedding, Gate, Layer, LayerNorm, PReLU, RMSNorm
from deepnotes.nn.losses import Loss, LossFunction
from deepnotes.utils.wording import one_line

ACTIVATIONS = {
    "identity": ("{Z}", "{dA}", ""),
    "sigmoid": ("1 / (1 + e^-{Z})", "{dA} * {A} * (1 - {A})", "N6"),
    "tanh": ("tanh {Z}", "{dA} * (1 - {A}²)", "N7"),
    "relu": ("{Z} where {Z} >= 0, else 0", "{dA} * (1 where {Z} > 0, else 0)", "N8"),
    "leaky_relu": ("{Z} where {Z} >= 0, else {slope:g} {Z}", "{dA} * (1 where {Z} > 0, else {slope:g})", "N9"),
    "softmax": ("e^{Z} / Σ_outputs e^{Z}", "{A} * ({dA} - Σ_outputs {dA} * {A})", ""),
    "log_softmax": ("{Z} - log Σ_outputs e^{Z}", "{dA} - e^{A} * Σ_outputs {dA}", ""),
    "exp": ("e^{Z}", "{dA} * {A}", ""),
    "softplus": ("log(1 + e^{Z})", "{dA} * σ({Z})", ""),
    "softsign": ("{Z} / (1 + |{Z}|)", "{dA} / (1 + |{Z}|)²", ""),
    "elu": (
        "{Z} where {Z} > 0, else {alpha:g} (e^{Z} - 1)",
        "{dA} * (1 where {Z} > 0, else {alpha:g} e^{Z})",
        "",
    ),
    "celu": (
        "{Z} where {Z} > 0, else {alpha:g} (exp({Z} / {alpha:g}) - 1)",
        "{dA} * (1 where {Z} > 0, else exp({Z} / {alpha:g}))",
        "",
    ),
    "selu": (
        "λ * ({Z} where {Z} > 0, else α * (e^{Z} - 1))",
        "{dA} * λ * (1 where {Z} > 0, else α * e^{Z})",
        "",
    ),
    "relu6": ("min(max({Z}, 0), 6)", "{dA} * (1 where 0 < {Z} < 6, else 0)", ""),
    "hardswish": (
        "{Z} * min(max({Z} + 3, 0), 6) / 6",
        "{dA} * ((2 {Z} + 3) / 6 where |{Z}| < 3, else (1 where {Z} > 0, else 0))",
        "",
    ),
    "silu": ("{Z} * σ({Z})", "{dA} * σ({Z}) * (1 + {Z} * (1 - σ({Z})))", ""),
    "mish": (
        "{Z} * tanh(log(1 + e^{Z}))",
        "{dA} * (T + {Z} * (1 - T²) * σ({Z})), with T = tanh(log(1 + e^{Z}))",
        "",
    ),
    "gelu": ("{Z} * Φ({Z})", "{dA} * (Φ({Z}) + {Z} * φ({Z}))", ""),
    "gelu_tanh": (
        "{Z} / 2 * (1 + tanh U), with U = √(2 / π) * ({Z} + 0.044715 {Z}³)",
        "{dA} * (S + {Z} * S * (1 - S) * V), with S = σ(√(8 / π) * ({Z} + 0.044715 {Z}³)) "
        "and V = √(8 / π) * (1 + 0.134145 {Z}²)",
        "",
    ),
}
"""``A`` (N3), ``dZ`` (N12), and the number of the activation in the notes; user-defined ones are not listed."""
SYMBOLS = {
    "σ": "σ(z) = 1 / (1 + e^-z) (N6)",
    "Φ": "Φ is the distribution function of the standard normal distribution, and φ its density",
    "λ": f"λ = {SELU[1]}, α = {SELU[0]}",
}
"""The meaning of the symbols in the formulas of activations."""


class LossFormulas(NamedTuple):
    """The formulas of a loss with one output; ``{Y}`` stands for the targets, smoothed if the loss smooths them.

    Attributes
    ----------
    loss, derivative : str
        ``L`` and ``dA``.
    delta : str
        ``dZ`` after the activation with which the loss is fused.
    joint : bool
        Whether all outputs form one distribution; the other losses are means over the outputs.
    """

    loss: str
    derivative: str
    delta: str = "{A} - {Y}"
    joint: bool = False


LOSSES = {
    "binary_cross_entropy": LossFormulas(
        "-({Y} * log {A} + (1 - {Y}) * log(1 - {A}))", "({A} - {Y}) / ({A} * (1 - {A}))"
    ),
    "categorical_cross_entropy": LossFormulas("-Σ_outputs {Y} * log {A}", "-{Y} / {A}", joint=True),
    "kl_divergence": LossFormulas("Σ_outputs ({Y} * log({Y} / {A}) - {Y} + {A})", "1 - {Y} / {A}", joint=True),
    "mean_squared_error": LossFormulas("({A} - {Y})²", "2 ({A} - {Y})"),
    "mean_absolute_error": LossFormulas("|{A} - {Y}|", "sign({A} - {Y})"),
    "huber": LossFormulas(
        "({A} - {Y})² / 2 where |{A} - {Y}| <= {delta:g}, else {delta:g} (|{A} - {Y}| - {delta:g} / 2)",
        "min(max({A} - {Y}, -{delta:g}), {delta:g})",
    ),
    "log_cosh": LossFormulas("log cosh({A} - {Y})", "tanh({A} - {Y})"),
    "pinball": LossFormulas(
        "max({quantile:g} ({Y} - {A}), (1 - {quantile:g}) ({A} - {Y}))",
        "(1 - sign({Y} - {A})) / 2 - {quantile:g}",
    ),
    "hinge": LossFormulas("max(0, 1 - (2 {Y} - 1) * {A})", "1 - 2 {Y} where (2 {Y} - 1) * {A} < 1, else 0"),
    "poisson": LossFormulas("{A} - {Y} * log {A}", "1 - {Y} / {A}"),
    "half_poisson_deviance": LossFormulas("{Y} * log({Y} / {A}) - {Y} + {A}", "1 - {Y} / {A}"),
    "focal": LossFormulas(
        "-({Y} * (1 - {A}){power} * log {A} + (1 - {Y}) * {A}{power} * log(1 - {A}))",
        "{Y} * B{power} * ({gamma:g} log {A} / B - 1 / {A}) + (1 - {Y}) * {A}{power} * (1 / B - {gamma:g} log B / {A})"
        ", with B = 1 - {A}",
        "{Y} * B{power} * ({gamma:g} {A} * log {A} - B) + (1 - {Y}) * {A}{power} * ({A} - {gamma:g} B * log B), "
        "with B = 1 - {A}",
    ),
}
"""The formulas of the library's losses by name."""


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


BATCH_NORM = {"sample_mean": "mean", "sample_variance": "var", "inverse_std": "r"}
"""The names of the inner arrays of a BatchNorm, by the equations that compute them."""


def batch_norm(layer: BatchNorm, names: Names, of_batch: bool) -> dict[str, str]:
    """Return the formulas of the arrays of a BatchNorm, as :func:`normalization` does.

    The mean and the variance of a batch are named ``mean2`` and ``var2``. If not `of_batch`, the step uses the running
    mean and variance, since it has one sample only.
    """
    n, before, dX_hat = names.number, names.before, f"gamma{names.number} * d{names.after}"
    mean, variance = (f"mean{n}", f"var{n}") if of_batch else (f"running_mean{n}", f"running_var{n}")
    X_hat = f"({before} - {mean}) * r{n}"
    dA_prev = f"r{n} * ({dX_hat} - mean_samples({dX_hat}) - {X_hat} * mean_samples({dX_hat} * {X_hat}))"
    return {
        "sample_mean": f"mean_samples({before})",
        "sample_variance": f"mean_samples(({before} - {mean})²)",
        "inverse_std": f"1 / sqrt({variance} + {layer.epsilon:g})",
        "A": f"gamma{n} * {X_hat} + beta{n}",
        "dA_prev": dA_prev if of_batch else f"r{n} * {dX_hat}",
        "gamma": f"(1/m) Σ_samples d{names.after} * {X_hat}",
        "beta": f"(1/m) Σ_samples d{names.after}",
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


def embedding(layer: Embedding, names: Names, inputs: int) -> dict[str, str]:
    """Return the formulas of the arrays of an :class:`~deepnotes.nn.layers.Embedding`, as :func:`normalization` does.

    Those of the tables' gradients are under their names in the layer, such as ``E3_``.
    """
    n, X, dA = names.number, names.before, f"d{names.after}"
    columns = ", ".join(map(str, layer.columns))
    vectors = " above ".join(f"{t.key}{n}[{X}[{t.column}]]ᵀ" for t in layer)
    gradients, row = {}, inputs - len(layer.columns)
    for t in layer:
        gradients[t.key] = f"(1/m) one_hot({X}[{t.column}]) {dA}[{row}:{row + t.size}]ᵀ"
        row += t.size
    return {
        "A": f"{X} without the rows {columns}, above {vectors}",
        "dA_prev": f"{dA} of the numeric rows, and 0 in the rows {columns}",
        **gradients,
    }


def of_layer(layer: Layer, names: Names, inputs: int) -> dict[str, str]:
    """Return the formulas of the arrays of a layer of the library other than Dense and Dropout, or nothing."""
    if type(layer) in (LayerNorm, RMSNorm):
        return normalization(layer, names)  # type: ignore[arg-type]
    if type(layer) is Gate:
        return gate(layer, names)
    if type(layer) is Embedding:
        return embedding(layer, names, inputs)
    return prelu(names) if type(layer) is PReLU else {}


def loss_formula(loss: LossFunction, A: str, outputs: int) -> str:
    """Return the formula of the loss of each sample."""
    if type(loss) is not Loss:
        return f"{one_line(type(loss).__name__)}({A}, Y)"
    formula = _filled(LOSSES[loss.name].loss, loss, A, outputs)
    return formula if outputs == 1 or LOSSES[loss.name].joint else f"mean_outputs {_in_parentheses(formula)}"


def derivative_formula(loss: LossFunction, A: str, outputs: int, factor: str = "") -> str:
    """Return the formula of ``dA[L]``; `factor`, such as ``" * w"``, multiplies it."""
    if type(loss) is not Loss:
        return f"∂L/∂{A}{factor}"
    return _of_outputs(LOSSES[loss.name].derivative, loss, A, outputs, factor)


def delta_formula(loss: LossFunction, A: str, outputs: int, factor: str = "") -> str:
    """Return the formula of ``dZ[L]`` of a loss that is fused with the last activation; `factor` multiplies it."""
    if type(loss) is not Loss:
        return f"∂L/∂Z of {one_line(type(loss).__name__)}{factor}"
    return _of_outputs(LOSSES[loss.name].delta, loss, A, outputs, factor)


def is_n11(loss: LossFunction) -> bool:
    """Return whether ``dZ[L]`` of a fused loss is N11, ``A - Y``."""
    return type(loss) is Loss and LOSSES[loss.name].delta == LossFormulas._field_defaults["delta"]


def _of_outputs(formula: str, loss: Loss, A: str, outputs: int, factor: str) -> str:
    """Return a derivative of a loss, divided by the number of outputs unless they form one distribution."""
    formula, separator, definition = _filled(formula, loss, A, outputs).partition(", with ")
    share = "" if outputs == 1 or LOSSES[loss.name].joint else f" / {outputs}"
    if share or factor:
        formula = f"{_in_parentheses(formula)}{share}{factor}"
    return formula + separator + definition


def _filled(formula: str, loss: Loss, A: str, outputs: int) -> str:
    options = dict(loss.options)
    s, gamma = options.get("label_smoothing", 0.0), options.get("gamma", 1.0)
    Y = f"({1 - s:g} Y + {s:g} / {outputs})" if s else "Y"
    return formula.format(A=A, Y=Y, power="²" if gamma == 2 else f"^{gamma:g}", **options)


def _in_parentheses(formula: str) -> str:
    """Return a formula in parentheses if it is a sum or has cases."""
    inner = re.sub(r"\([^()]*\)|\|[^|]*\|", "", re.sub(r"\((?:[^()]|\([^()]*\))*\)", "", formula))
    return f"({formula})" if re.search(r" [+-] | where ", inner) else formula


def is_plain(layer: Layer) -> bool:
    """Return whether a layer is described by N2 and N3; a class derived from Dense may compute something else."""
    return type(layer) is Dense


def kind(layer: Layer) -> str:
    """Return the name of a layer's class, on one line."""
    return one_line(type(layer).__name__)
