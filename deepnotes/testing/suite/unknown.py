"""Layers, activations, losses and optimizers without kernels train with their equations."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deepnotes.equations.array import Array
from deepnotes.equations.ops import Ops
from deepnotes.nn.activations import ActivationFunction
from deepnotes.nn.layers import Dense, Layer
from deepnotes.nn.losses import LossFunction
from deepnotes.nn.optimizer_base import Optimizer
from deepnotes.nn.optimizers import Adam
from deepnotes.testing.checks import Trial, check
from deepnotes.testing.training_cases import TrainingCase, check_training


@dataclass(frozen=True)
class SignDescent(Optimizer):
    """``θ ← θ - rate sign(g)``."""

    learning_rate: float = 0.1

    def update(
        self, ops: Ops, theta: Array, g: Array, slots: tuple[Array, ...], decays: Array, scalars: Mapping[str, Any]
    ) -> tuple[Array, tuple[Array, ...]]:
        """Return the next θ."""
        return theta - scalars["rate"] * ops.xp.sign(g), ()


@dataclass(frozen=True)
class SlowAdam(Adam):
    """Adam at half its rate, derived from an optimizer that backends have kernels for."""

    def update(
        self, ops: Ops, theta: Array, g: Array, slots: tuple[Array, ...], decays: Array, scalars: Mapping[str, Any]
    ) -> tuple[Array, tuple[Array, ...]]:
        """Return the next θ and slots."""
        return super().update(ops, theta, g, slots, decays, {**scalars, "rate": 0.5 * scalars["rate"]})


class Square(ActivationFunction):
    """``a = z²``."""

    name = "relu"  # the name of a library function: backends must check the class, not the name

    def forward(self, ops: Ops, Z: Array) -> Array:
        """Return ``z²``."""
        return Z * Z

    def backward(self, ops: Ops, dA: Array, Z: Array, A: Array) -> Array:
        """Return ``dA 2z``."""
        return dA * (2 * Z)


class Quartic(LossFunction):
    """``Σ (a - y)⁴``."""

    name = "mean_squared_error"

    def value(self, ops: Ops, A: Array, Y: Array) -> Array:
        """Return the loss of each sample."""
        E = (A - Y) * (A - Y)
        L: Array = ops.xp.sum(E * E, axis=0, keepdims=True)
        return L

    def derivative(self, ops: Ops, A: Array, Y: Array) -> Array:
        """Return ``4 (a - y)³``."""
        E = A - Y
        return 4 * (E * E * E)


@dataclass(frozen=True)
class Doubled(Dense):
    """A dense layer whose weights count twice."""

    def linear(self, ops: Ops, parameters: Mapping[str, Array], A_prev: Array) -> Array:
        """Return ``Z = 2 W A_prev + b``."""
        Z: Array = ops.linear(2 * parameters["W"], A_prev, parameters["b"])
        return Z

    def backward_linear(
        self, ops: Ops, parameters: Mapping[str, Array], A_prev: Array, dZ: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Return ``dA_prev``, ``dW`` and ``db``."""
        gradients = {"W": 2 * ops.weight_gradient(dZ, A_prev), "b": ops.bias_gradient(dZ)}
        return ops.input_gradient(2 * parameters["W"], dZ), gradients


@check("programs.unknown_parts")
def unknown_parts(trial: Trial) -> None:
    """Parts without a kernel, including classes derived from parts with a kernel, train with their equations."""
    for dtype in trial.dtypes:
        layers: list[Layer] = [Dense(5, "tanh"), Dense(3)]
        for optimizer in (SignDescent(), SlowAdam(epsilon=1e-3)):
            check_training(
                trial, TrainingCase(layers, dtype, optimizer=optimizer), f"{dtype} {type(optimizer).__name__}"
            )
        for custom in ([Dense(5, Square()), Dense(3)], [Doubled(5, "tanh"), Dense(3)]):
            check_training(trial, TrainingCase(list(custom), dtype), f"{dtype} {custom[0]}")
        check_training(trial, TrainingCase(layers, dtype, Quartic()), f"{dtype} Quartic")
