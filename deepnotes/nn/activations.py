"""Activation functions by name, and the base class for user-defined activation functions."""

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from deepnotes.equations.array import Array
from deepnotes.equations.ops import Ops
from deepnotes.nn import formulas
from deepnotes.nn.expressions import FULL, LONGEST_NAME, Expression, is_name
from deepnotes.nn.presets import default
from deepnotes.utils.arguments import number
from deepnotes.utils.errors import ArgumentError, NotAnExpressionError, look_up
from deepnotes.utils.wording import as_call, brief

Range: TypeAlias = Literal["real", "positive", "unit", "simplex"]
"""The range of the outputs.

- "real": any numbers
- "positive": numbers above 0
- "unit": numbers between 0 and 1
- "simplex": numbers between 0 and 1 that sum to 1 in each column
"""


@dataclass(frozen=True)
class Traits:
    """The properties of one of the library's activations."""

    range: Range = "real"
    """The range of the outputs."""
    initializer: str = "glorot_uniform"
    """The default initializer of the weights of a layer with this activation."""
    options: dict[str, float] = field(default_factory=dict)
    """The options by name, with their default values."""
    positive: bool = False
    """Whether the options must be above 0."""


LIBRARY: dict[str, Traits] = {
    "identity": Traits(),
    "sigmoid": Traits("unit"),
    "tanh": Traits(),
    "relu": Traits("real", "he_normal"),
    "leaky_relu": Traits("real", "he_normal", {"slope": 0.001}),
    "softmax": Traits("simplex"),
    "elu": Traits("real", "he_normal", {"alpha": 1.0}),
    "gelu": Traits("real", "he_normal"),
    "gelu_tanh": Traits("real", "he_normal"),
    "silu": Traits("real", "he_normal"),
    "softplus": Traits("positive", "he_normal"),
    "exp": Traits("positive"),
    "mish": Traits("real", "he_normal"),
    "selu": Traits("real", "lecun_normal"),
    "celu": Traits("real", "he_normal", {"alpha": 1.0}, positive=True),
    "relu6": Traits("real", "he_normal"),
    "hardswish": Traits("real", "he_normal"),
    "softsign": Traits(),
    "log_softmax": Traits(),
}


class ActivationFunction:
    """The base class of activations. To write one, derive from it and implement ``forward``.

    ``backward`` is derived from ``forward``; write it as well if you know a faster or more accurate form.
    :func:`deepnotes.check` compares ``backward`` with central differences.

    Attributes
    ----------
    range : {"real", "positive", "unit", "simplex"}
        The range of the outputs, see :data:`Range`; some losses accept only certain ranges.
    initializer : str, default "glorot_uniform"
        The default initializer of the weights of a layer with this activation.
    """

    range: Range = Traits.range
    initializer: str = Traits.initializer

    def forward(self, ops: Ops, Z: Array) -> Array:
        """Return ``A = g(Z)`` (N3), shape (n, m)."""
        raise NotImplementedError

    def backward(self, ops: Ops, dA: Array, Z: Array, A: Array) -> Array:
        """Return ``dZ = dA * g'(Z)`` (N12), of the shape of Z, (n, m).

        Raises
        ------
        NotAnExpressionError
            If ``forward`` uses something that cannot be differentiated.
        """
        dZ: Array = formulas.apply(formulas.activation_backward, self, ops.xp, dA, Z, A)
        return dZ

    def __repr__(self) -> str:
        return as_call(self)


@dataclass(frozen=True, init=False)
class Activation(ActivationFunction):
    """One of the library's activations, with its options.

    Parameters
    ----------
    name : str
        identity, sigmoid, tanh, relu, leaky_relu, softmax, elu, gelu, gelu_tanh, silu, softplus, exp, mish, selu, celu,
        relu6, hardswish, softsign or log_softmax.
    **options : float
        ``slope`` for leaky_relu (default 0.001, N9), ``alpha`` for elu and celu (default 1.0; above 0 for celu). Other
        default values can be selected with :class:`~deepnotes.defaults`.

    Raises
    ------
    UnknownNameError
        If there is no activation of this name; the message suggests the nearest match.
    ArgumentError
        If the activation has no such option, or the value of an option is not a finite number, or is out of its range.

    Examples
    --------
    >>> Activation("leaky_relu", slope=0.01)
    Activation('leaky_relu', slope=0.01)
    """

    name: str
    options: tuple[tuple[str, float], ...]

    def __init__(self, name: str, **options: float) -> None:
        traits = look_up("activation", name, LIBRARY)
        defaults = {option: default(f"{name}.{option}") for option in traits.options}
        limits = {"positive": True} if traits.positive else {"signed": True}
        values = update_options(name, defaults, options, **limits)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "options", tuple(values.items()))
        object.__setattr__(self, "range", traits.range)
        object.__setattr__(self, "initializer", traits.initializer)

    def forward(self, ops: Ops, Z: Array) -> Array:
        """Return ``A = g(Z)`` (N3), shape (n, m)."""
        A: Array = getattr(ops, self.name)(Z, **dict(self.options))
        return A

    def backward(self, ops: Ops, dA: Array, Z: Array, A: Array) -> Array:
        """Return ``dZ = dA * g'(Z)`` (N12), shape (n, m)."""
        dZ: Array = getattr(ops, f"{self.name}_backward")(dA, Z, A, **dict(self.options))
        return dZ

    def __repr__(self) -> str:
        return f"Activation({', '.join([repr(self.name), *(f'{k}={v!r}' for k, v in self.options)])})"


@dataclass(frozen=True)
class FormulaActivation(ActivationFunction):
    """An activation whose formula is stored as data; this is how a model file stores a user-defined activation.

    Parameters
    ----------
    name : str
        The name of the class that the formula was traced from.
    formula : Expression
        ``A = g(Z)`` for the argument Z.
    derivative : Expression
        ``dZ = dA * g'(Z)`` for the arguments dA, Z and A.
    range : {"real", "positive", "unit", "simplex"}
    initializer : str
        The default initializer of the weights of a layer with this activation.

    Raises
    ------
    ArgumentError
        If `name` is not an identifier, or an expression has other arguments, or does not have exactly one result, of
        the same shape as its arguments.
    """

    name: str
    formula: Expression
    derivative: Expression
    range: Range = Traits.range
    initializer: str = Traits.initializer

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise ArgumentError.of("name", brief(self.name), f"an identifier of at most {LONGEST_NAME} characters")
        for field_name, arrays in (("formula", ("Z",)), ("derivative", ("dA", "Z", "A"))):
            expression: Expression = getattr(self, field_name)
            shapes = [expression.kinds[i].shape for i in expression.results]
            if (expression.arrays, expression.numbers, shapes) != (arrays, (), [FULL]):
                wanted = f"an expression of {', '.join(arrays)} with one result of the same shape"
                given = brief(", ".join(expression.arrays + expression.numbers))
                raise ArgumentError(f"{field_name}: got an expression of {given}, wanted {wanted}")

    def forward(self, ops: Ops, Z: Array) -> Array:
        """Return ``A = g(Z)`` (N3), shape (n, m)."""
        (A,) = self.formula(ops.xp, Z)
        return A  # type: ignore[no-any-return]

    def backward(self, ops: Ops, dA: Array, Z: Array, A: Array) -> Array:
        """Return ``dZ = dA * g'(Z)`` (N12), shape (n, m)."""
        (dZ,) = self.derivative(ops.xp, dA, Z, A)
        return dZ  # type: ignore[no-any-return]

    def fingerprint(self) -> list[str]:
        """Return the digests of the expressions, which determine the activation; its name does not."""
        return [self.formula.digest, self.derivative.digest]

    def __repr__(self) -> str:
        return f"FormulaActivation({self.name!r}, of {len(self.formula.nodes)} operations)"


def as_formula(g: ActivationFunction, dtype: str, outputs: int) -> FormulaActivation:
    """Return an activation as data, for networks of this dtype and layers with this number of outputs.

    Raises
    ------
    NotAnExpressionError
        If attributes of the activation can change, or if its formula or derivative cannot be traced.
    """
    if isinstance(g, FormulaActivation):
        return g
    if not formulas.is_fixed(g):
        raise NotAnExpressionError(f"attributes that may change: {type(g).__name__} is not a frozen dataclass")
    forward, backward = formulas.activation(g, dtype, outputs), formulas.backward(g, dtype, outputs)
    return FormulaActivation(type(g).__name__, forward, backward, g.range, g.initializer)


def as_activation(activation: "str | ActivationFunction") -> ActivationFunction:
    """Return the activation with the given name; an activation object is returned unchanged."""
    return activation if isinstance(activation, ActivationFunction) else Activation(activation)


def update_options(name: str, defaults: dict[str, float], options: dict[str, Any], **limits: bool) -> dict[str, float]:
    """Return `defaults` updated by `options`.

    Parameters
    ----------
    name : str
        The name of the activation or loss, for error messages.
    defaults : dict of str to float
        The known options and their default values.
    options : dict
        The values that the user has specified.
    **limits : bool
        The limits of the values, see :func:`deepnotes.utils.arguments.number`.

    Raises
    ------
    ArgumentError
        If an option is unknown or its value is outside the limits.
    """
    for option in options:
        if option not in defaults:
            raise ArgumentError(f"{name} has no option {option!r}; its options: {', '.join(defaults) or 'none'}")
    return defaults | {option: number(f"{name}: {option}", value, **limits) for option, value in options.items()}
