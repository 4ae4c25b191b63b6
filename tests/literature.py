"""Activations, losses and optimizers from the literature, each as its formula alone, as a user would write it.

The library has some of them, too; these are here to test what is written by users.
"""

from dataclasses import dataclass
from math import log
from typing import Any

import deepnotes as dn
from deepnotes.testing.own_parts import Focal, LogSoftmax, Mish


def number(xp: Any, value: float, like: Any) -> Any:
    """Return a number as a 0-d array, which every library's ``maximum`` accepts."""
    return xp.asarray(value, dtype=like.dtype)


def clipped(xp: Any, Z: Any, low: float, high: float) -> Any:
    """Return Z within limits."""
    return xp.minimum(xp.maximum(Z, number(xp, low, Z)), number(xp, high, Z))


def mean_over_outputs(xp: Any, L: Any) -> Any:
    """Return the mean over the outputs of each sample."""
    return xp.sum(L, axis=0, keepdims=True) / L.shape[0]


# --- activations ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HardSwish(dn.ActivationFunction):
    """``z min(max(z + 3, 0), 6) / 6`` (arXiv:1905.02244)."""

    def forward(self, ops: Any, Z: Any) -> Any:
        return Z * clipped(ops.xp, Z + 3, 0, 6) / 6


@dataclass(frozen=True)
class HardSigmoid(dn.ActivationFunction):
    """``min(max(z + 3, 0), 6) / 6``."""

    range = "unit"

    def forward(self, ops: Any, Z: Any) -> Any:
        return clipped(ops.xp, Z + 3, 0, 6) / 6


@dataclass(frozen=True)
class HardTanh(dn.ActivationFunction):
    """``min(max(z, -1), 1)``."""

    def forward(self, ops: Any, Z: Any) -> Any:
        return clipped(ops.xp, Z, -1, 1)


@dataclass(frozen=True)
class SoftSign(dn.ActivationFunction):
    """``z / (1 + |z|)``."""

    def forward(self, ops: Any, Z: Any) -> Any:
        return Z / (1 + abs(Z))


@dataclass(frozen=True)
class LogSigmoid(dn.ActivationFunction):
    """``-softplus(-z)``."""

    def forward(self, ops: Any, Z: Any) -> Any:
        return -ops.softplus(-Z)


@dataclass(frozen=True)
class TanhShrink(dn.ActivationFunction):
    """``z - tanh(z)``."""

    def forward(self, ops: Any, Z: Any) -> Any:
        return Z - ops.xp.tanh(Z)


@dataclass(frozen=True)
class SoftShrink(dn.ActivationFunction):
    """``z`` moved towards 0 by λ, and 0 where ``|z| <= λ``."""

    width: float = 0.4

    def forward(self, ops: Any, Z: Any) -> Any:
        return Z - clipped(ops.xp, Z, -self.width, self.width)


@dataclass(frozen=True)
class SquarePlus(dn.ActivationFunction):
    """``(z + sqrt(z² + b)) / 2`` (arXiv:2112.11687)."""

    b: float = 4.0

    def forward(self, ops: Any, Z: Any) -> Any:
        return 0.5 * (Z + ops.xp.sqrt(Z * Z + self.b))


@dataclass(frozen=True)
class Softmin(dn.ActivationFunction):
    """``e^-z`` over its sum over the outputs of a sample."""

    range = "simplex"

    def forward(self, ops: Any, Z: Any) -> Any:
        E = ops.xp.exp(-ops.xp.max(-Z, axis=0, keepdims=True) - Z)
        return E / ops.xp.sum(E, axis=0, keepdims=True)


@dataclass(frozen=True)
class RMSNorm(dn.ActivationFunction):
    """``z / sqrt(ε + mean of z²)`` over the outputs of a sample (arXiv:1910.07467)."""

    epsilon: float = 1e-5

    def forward(self, ops: Any, Z: Any) -> Any:
        return Z / ops.xp.sqrt(mean_over_outputs(ops.xp, Z * Z) + self.epsilon)


# --- losses -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LogCosh(dn.LossFunction):
    """The mean of ``log cosh(a - y)``."""

    name = "log_cosh"

    def value(self, ops: Any, A: Any, Y: Any) -> Any:
        E = abs(A - Y)
        return mean_over_outputs(ops.xp, E + ops.xp.log1p(ops.xp.exp(-2 * E)) - log(2))


@dataclass(frozen=True)
class Pinball(dn.LossFunction):
    """The quantile loss (Koenker and Bassett, Econometrica 46 (1978) 33)."""

    q: float = 0.8
    name = "pinball"

    def value(self, ops: Any, A: Any, Y: Any) -> Any:
        E = Y - A
        return mean_over_outputs(ops.xp, ops.xp.maximum(self.q * E, (self.q - 1) * E))


@dataclass(frozen=True)
class Tukey(dn.LossFunction):
    """Tukey's biweight (Beaton and Tukey, Technometrics 16 (1974) 147)."""

    c: float = 4.685
    name = "tukey"

    def value(self, ops: Any, A: Any, Y: Any) -> Any:
        R = clipped(ops.xp, (A - Y) / self.c, -1, 1)
        rest = 1 - R * R
        return mean_over_outputs(ops.xp, self.c**2 / 6 * (1 - rest * rest * rest))


@dataclass(frozen=True)
class KLDivergence(dn.LossFunction):
    """``Σ y log(y / a)`` of two distributions; 0 log 0 is 0."""

    name = "kl_divergence"
    outputs = ("simplex",)
    targets = "simplex"

    def value(self, ops: Any, A: Any, Y: Any) -> Any:
        xp = ops.xp
        safe = xp.where(Y > 0, Y, xp.ones_like(Y))
        return xp.sum(Y * (xp.log(safe) - xp.log(A)), axis=0, keepdims=True)


@dataclass(frozen=True)
class SquaredHinge(dn.LossFunction):
    """The mean of ``max(0, 1 - t a)²`` with ``t = 2 y - 1``."""

    name = "squared_hinge"
    targets = "unit"

    def value(self, ops: Any, A: Any, Y: Any) -> Any:
        margin = 1 - (2 * Y - 1) * A
        violated = ops.xp.maximum(margin, number(ops.xp, 0, margin))
        return mean_over_outputs(ops.xp, violated * violated)


@dataclass(frozen=True)
class SmoothL1(dn.LossFunction):
    """``e² / (2 β)`` where ``|e| < β``, else ``|e| - β / 2`` (arXiv:1504.08083)."""

    beta: float = 0.6
    name = "smooth_l1"

    def value(self, ops: Any, A: Any, Y: Any) -> Any:
        E = abs(A - Y)
        return mean_over_outputs(ops.xp, ops.xp.where(self.beta > E, 0.5 * E * E / self.beta, E - 0.5 * self.beta))


@dataclass(frozen=True)
class Charbonnier(dn.LossFunction):
    """The mean of ``sqrt(e² + ε²)`` (Charbonnier et al., ICIP 1994)."""

    epsilon: float = 0.1
    name = "charbonnier"

    def value(self, ops: Any, A: Any, Y: Any) -> Any:
        E = A - Y
        return mean_over_outputs(ops.xp, ops.xp.sqrt(E * E + self.epsilon**2))


@dataclass(frozen=True)
class GaussianNLL(dn.LossFunction):
    """The negative log-likelihood of normal targets with a known standard deviation σ, up to a constant."""

    sigma: float = 0.7
    name = "gaussian_nll"

    def value(self, ops: Any, A: Any, Y: Any) -> Any:
        R = (A - Y) / self.sigma
        return mean_over_outputs(ops.xp, 0.5 * R * R + log(self.sigma))


@dataclass(frozen=True)
class GammaDeviance(dn.LossFunction):
    """The mean of ``log a + y / a``: the negative log-likelihood of gamma-distributed targets, scaled and shifted."""

    name = "gamma"
    outputs = ("positive", "unit", "simplex")
    targets = "count"

    def value(self, ops: Any, A: Any, Y: Any) -> Any:
        return mean_over_outputs(ops.xp, ops.xp.log(A) + Y / A)


# --- optimizers -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Own(dn.Optimizer):
    """The common settings of the optimizers below."""

    learning_rate: Any = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    epsilon: float = 1e-6


@dataclass(frozen=True)
class Lion(_Own):
    """Steps by the sign of a momentum (arXiv:2302.06675)."""

    @property
    def slots(self) -> tuple[str, ...]:
        return ("m",)

    def update(self, ops: Any, theta: Any, g: Any, slots: Any, decays: Any, scalars: Any) -> Any:
        (m,) = slots
        step = ops.xp.sign(self.beta1 * m + (1 - self.beta1) * g)
        return theta - scalars["rate"] * step, (self.beta2 * m + (1 - self.beta2) * g,)


@dataclass(frozen=True)
class AMSGrad(_Own):
    """Adam with the largest second moment so far (Reddi et al., ICLR 2018); three slots."""

    @property
    def slots(self) -> tuple[str, ...]:
        return "m", "v", "largest"

    def scalars(self, step: Any, rate: Any) -> dict[str, Any]:
        return {"rate": rate / (1 - self.beta1**step), "root": (1 - self.beta2**step) ** 0.5}

    def update(self, ops: Any, theta: Any, g: Any, slots: Any, decays: Any, scalars: Any) -> Any:
        m = self.beta1 * slots[0] + (1 - self.beta1) * g
        v = self.beta2 * slots[1] + (1 - self.beta2) * g * g
        largest = ops.xp.maximum(slots[2], v)
        denominator = ops.xp.sqrt(largest) / scalars["root"] + self.epsilon
        return theta - scalars["rate"] * (m / denominator), (m, v, largest)


@dataclass(frozen=True)
class CenteredRMSProp(_Own):
    """RMSProp with the variance instead of the mean square (arXiv:1308.0850)."""

    @property
    def slots(self) -> tuple[str, ...]:
        return "s", "mean"

    def update(self, ops: Any, theta: Any, g: Any, slots: Any, decays: Any, scalars: Any) -> Any:
        s = self.beta2 * slots[0] + (1 - self.beta2) * g * g
        mean = self.beta2 * slots[1] + (1 - self.beta2) * g
        return theta - scalars["rate"] * (g / (ops.xp.sqrt(s - mean * mean) + self.epsilon)), (s, mean)


@dataclass(frozen=True)
class SignSGD(_Own):
    """``θ ← θ - rate sign(g)`` (arXiv:1802.04434)."""

    def update(self, ops: Any, theta: Any, g: Any, slots: Any, decays: Any, scalars: Any) -> Any:
        return theta - scalars["rate"] * ops.xp.sign(g), ()


@dataclass(frozen=True)
class DecayingSGD(_Own):
    """Gradient descent with decoupled weight decay, of the weights alone."""

    decay: float = 0.1

    def update(self, ops: Any, theta: Any, g: Any, slots: Any, decays: Any, scalars: Any) -> Any:
        return theta - scalars["rate"] * (g + self.decay * (decays * theta)), ()


ACTIVATIONS: list[dn.ActivationFunction] = [
    Mish(), HardSwish(), HardSigmoid(), HardTanh(), SoftSign(), LogSigmoid(), TanhShrink(), SoftShrink(), LogSoftmax(),
    SquarePlus(),
]  # fmt: skip
COUPLED: list[dn.ActivationFunction] = [Softmin(), RMSNorm()]
"""Further activations whose outputs depend on each other; literature.npz has no values of theirs."""
LOSSES: list[dn.LossFunction] = [
    LogCosh(), Pinball(), Tukey(), Focal(), KLDivergence(), SquaredHinge(), SmoothL1(), Charbonnier(), GaussianNLL(),
    GammaDeviance(),
]  # fmt: skip
OPTIMIZERS: list[dn.Optimizer] = [Lion(), AMSGrad(), CenteredRMSProp(), SignSGD(), DecayingSGD()]
