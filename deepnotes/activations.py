"""Activation functions by name, and the class a user derives from to write one."""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from deepnotes.array import Array
from deepnotes.errors import ArgumentError, unknown_name
from deepnotes.ops import Ops

Range: TypeAlias = Literal["real", "positive", "unit", "simplex"]
"""Where the outputs lie: anywhere, above 0, between 0 and 1, or between 0 and 1 with columns that sum to 1."""

LIBRARY: dict[str, tuple[Range, dict[str, float]]] = {
    "identity": ("real", {}),
    "sigmoid": ("unit", {}),
    "tanh": ("real", {}),
    "relu": ("real", {}),
    "leaky_relu": ("real", {"slope": 0.001}),
    "softmax": ("simplex", {}),
    "elu": ("real", {"alpha": 1.0}),
    "gelu": ("real", {}),
    "gelu_tanh": ("real", {}),
    "silu": ("real", {}),
    "softplus": ("positive", {}),
}
"""Each activation of the library: the range of its outputs, and its options with their defaults."""


class ActivationFunction:
    """The base class of activations; derive from it to write one, and give ``forward`` and ``backward``.

    Attributes
    ----------
    range : {"real", "positive", "unit", "simplex"}
        Where the outputs lie; some losses ask for it.
    """

    range: Range = "real"

    def forward(self, ops: Ops, Z: Array) -> Array:
        """Return ``A = g(Z)`` (N3), of the shape of Z, (n, m)."""
        raise NotImplementedError

    def backward(self, ops: Ops, dA: Array, Z: Array, A: Array) -> Array:
        """Return ``dZ = dA * g'(Z)`` (N12), of the shape of Z, (n, m)."""
        raise NotImplementedError


@dataclass(frozen=True, init=False)
class Activation(ActivationFunction):
    """One of the library's activations, with its options.

    Parameters
    ----------
    name : str
        identity, sigmoid, tanh, relu, leaky_relu, softmax, elu, gelu, gelu_tanh, silu or softplus.
    **options : float
        ``slope`` of leaky_relu (0.001, N9), ``alpha`` of elu (1.0).

    Raises
    ------
    UnknownNameError
        If `name` is none of them; the message has the nearest match.
    ArgumentError
        If an option is not one of the activation's.

    Examples
    --------
    >>> Activation("leaky_relu", slope=0.01)
    Activation('leaky_relu', slope=0.01)
    """

    name: str
    options: tuple[tuple[str, float], ...]

    def __init__(self, name: str, **options: float) -> None:
        if name not in LIBRARY:
            raise unknown_name("activation", name, LIBRARY)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "options", tuple(checked_options(name, LIBRARY[name][1], options).items()))
        object.__setattr__(self, "range", LIBRARY[name][0])

    def forward(self, ops: Ops, Z: Array) -> Array:
        """Return ``A = g(Z)`` (N3), of the shape of Z, (n, m)."""
        A: Array = getattr(ops, self.name)(Z, **dict(self.options))
        return A

    def backward(self, ops: Ops, dA: Array, Z: Array, A: Array) -> Array:
        """Return ``dZ = dA * g'(Z)`` (N12), of the shape of Z, (n, m)."""
        dZ: Array = getattr(ops, f"{self.name}_backward")(dA, Z, A, **dict(self.options))
        return dZ

    def __repr__(self) -> str:
        return f"Activation({', '.join([repr(self.name), *(f'{k}={v!r}' for k, v in self.options)])})"


def as_activation(activation: "str | ActivationFunction") -> ActivationFunction:
    """Return an activation given by name or by itself."""
    return activation if isinstance(activation, ActivationFunction) else Activation(activation)


def checked_options(name: str, defaults: dict[str, float], given: dict[str, Any]) -> dict[str, float]:
    """Return `defaults` updated by `given`, whose names and types are checked."""
    for option, value in given.items():
        if option not in defaults:
            raise ArgumentError(f"{name}: no option {option!r}; it has {', '.join(defaults) or 'none'}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ArgumentError(f"{name}: {option}={value!r}, wanted a number")
    return defaults | {option: float(value) for option, value in given.items()}
