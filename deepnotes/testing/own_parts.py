"""Activations, losses and optimizers from the literature that the library does not have, written as users write theirs.

Each is its formula alone. Together, they use most operations that a formula may consist of.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deepnotes.equations.array import Array
from deepnotes.equations.ops import Ops
from deepnotes.nn.activations import ActivationFunction
from deepnotes.nn.losses import LossFunction
from deepnotes.nn.optimizer_base import Optimizer


@dataclass(frozen=True)
class Mish(ActivationFunction):
    """``z tanh(log(1 + e^z))`` (arXiv:1908.08681)."""

    def forward(self, ops: Ops, Z: Array) -> Array:
        """Return A."""
        A: Array = Z * ops.xp.tanh(ops.softplus(Z))
        return A


@dataclass(frozen=True)
class HardSwish(ActivationFunction):
    """``z min(max(z + 3, 0), 6) / 6`` (arXiv:1905.02244); two kinks."""

    def forward(self, ops: Ops, Z: Array) -> Array:
        """Return A."""
        zero, six = (ops.xp.asarray(x, dtype=Z.dtype) for x in (0, 6))
        A: Array = Z * ops.xp.minimum(ops.xp.maximum(Z + 3, zero), six) / 6
        return A


@dataclass(frozen=True)
class LogSoftmax(ActivationFunction):
    """``z - log Σ e^z``; each output depends on all logits of its sample."""

    def forward(self, ops: Ops, Z: Array) -> Array:
        """Return A."""
        D = Z - ops.xp.max(Z, axis=0, keepdims=True)
        A: Array = D - ops.xp.log(ops.xp.sum(ops.xp.exp(D), axis=0, keepdims=True))
        return A


@dataclass(frozen=True)
class SoftShrink(ActivationFunction):
    """``z`` moved towards 0 by `width`, and 0 where ``|z| <= width``; it has an option and a condition."""

    width: float = 0.4

    def forward(self, ops: Ops, Z: Array) -> Array:
        """Return A."""
        xp = ops.xp
        A: Array = xp.where(abs(Z) > self.width, Z - self.width * xp.sign(Z), xp.zeros_like(Z))
        return A


@dataclass(frozen=True)
class LogCosh(LossFunction):
    """The mean of ``log cosh(a - y)``, up to a constant."""

    name = "log_cosh"

    def value(self, ops: Ops, A: Array, Y: Array) -> Array:
        """Return the loss of each sample."""
        E = abs(A - Y)
        L: Array = ops.xp.sum(E + ops.xp.log1p(ops.xp.exp(-2 * E)), axis=0, keepdims=True) / A.shape[0]
        return L


@dataclass(frozen=True)
class Focal(LossFunction):
    """The focal loss of binary targets with γ = 2 (arXiv:1708.02002)."""

    name = "focal"
    outputs = ("unit",)
    targets = "unit"

    def value(self, ops: Ops, A: Array, Y: Array) -> Array:
        """Return the loss of each sample."""
        xp = ops.xp
        positive, negative = Y * (1 - A) * (1 - A) * xp.log(A), (1 - Y) * A * A * xp.log1p(-A)
        L: Array = -xp.sum(positive + negative, axis=0, keepdims=True) / A.shape[0]
        return L


@dataclass(frozen=True)
class KLDivergence(LossFunction):
    """``Σ y log(y / a)`` of two distributions, where 0 log 0 is 0."""

    name = "kl_divergence"
    outputs = ("simplex",)
    targets = "simplex"

    def value(self, ops: Ops, A: Array, Y: Array) -> Array:
        """Return the loss of each sample."""
        xp = ops.xp
        L: Array = xp.sum(Y * (xp.log(xp.where(Y > 0, Y, xp.ones_like(Y))) - xp.log(A)), axis=0, keepdims=True)
        return L


@dataclass(frozen=True)
class NesterovAdam(Optimizer):
    """Adam with Nesterov momentum (Dozat, ICLR 2016), with a constant momentum."""

    learning_rate: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    epsilon: float = 1e-3

    @property
    def slots(self) -> tuple[str, ...]:
        """The means of the gradient and of its square."""
        return "m", "v"

    def scalars(self, step: Any, rate: Any) -> dict[str, Any]:
        """Return the factors of the gradient and of its mean, and the root of the bias correction of v."""
        return {
            "of_g": rate * (1 - self.beta1) / (1 - self.beta1**step),
            "of_m": rate * self.beta1 / (1 - self.beta1 ** (step + 1)),
            "root": (1 - self.beta2**step) ** 0.5,
        }

    def update(
        self, ops: Ops, theta: Array, g: Array, slots: tuple[Array, ...], decays: Array, scalars: Mapping[str, Any]
    ) -> tuple[Array, tuple[Array, ...]]:
        """Return the next θ and slots."""
        m = self.beta1 * slots[0] + (1 - self.beta1) * g
        v = self.beta2 * slots[1] + (1 - self.beta2) * g * g
        size = ops.xp.sqrt(v) / scalars["root"] + self.epsilon
        return theta - (scalars["of_g"] * g + scalars["of_m"] * m) / size, (m, v)


@dataclass(frozen=True)
class Adamax(Optimizer):
    """Adam with the infinity norm (arXiv:1412.6980, section 7.1), and weight decay."""

    learning_rate: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    epsilon: float = 1e-3
    decay: float = 0.1

    @property
    def slots(self) -> tuple[str, ...]:
        """The mean of the gradient, and its largest size so far."""
        return "m", "u"

    def update(
        self, ops: Ops, theta: Array, g: Array, slots: tuple[Array, ...], decays: Array, scalars: Mapping[str, Any]
    ) -> tuple[Array, tuple[Array, ...]]:
        """Return the next θ and slots."""
        m = self.beta1 * slots[0] + (1 - self.beta1) * g
        u = ops.xp.maximum(self.beta2 * slots[1], abs(g) + self.epsilon)
        return theta - scalars["rate"] * (m / u + self.decay * decays * theta), (m, u)


OWN_PARTS: dict[str, ActivationFunction | LossFunction | Optimizer] = {
    "mish": Mish(),
    "hard_swish": HardSwish(),
    "log_softmax": LogSoftmax(),
    "soft_shrink": SoftShrink(),
    "log_cosh": LogCosh(),
    "focal": Focal(),
    "kl_divergence": KLDivergence(),
    "nesterov_adam": NesterovAdam(),
    "adamax": Adamax(),
}
"""The parts of the checks ``programs.own_parts.*``."""
