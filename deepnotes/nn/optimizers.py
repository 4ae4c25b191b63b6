"""Optimizers: their hyperparameters, the slots they keep between updates, and the equations of their updates."""

from collections import ChainMap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import sqrt
from typing import Any, NamedTuple

from deepnotes.equations.array import Array
from deepnotes.equations.ops import Ops
from deepnotes.nn.full_batch import LBFGS
from deepnotes.nn.optimizer_base import Optimizer
from deepnotes.nn.presets import default_of, in_dialect
from deepnotes.nn.protocols import LayoutLike
from deepnotes.nn.schedules import Rate, as_schedule
from deepnotes.utils.arguments import whole
from deepnotes.utils.errors import ArgumentError, look_up


@dataclass(frozen=True)
class SGD(Optimizer):
    """Gradient descent on mini-batches, with optional momentum and Nesterov momentum.

    Parameters
    ----------
    learning_rate : float or Schedule, default 0.01
    momentum : float, default 0.0
        Between 0 and 1.
    nesterov : bool, default False
    rate_in_velocity : bool, default False
        If True, the velocity is a sum of gradients, each times the learning rate of its update, as in Keras and
        scikit-learn. If False, the velocity is a sum of gradients, and the sum is multiplied by the current learning
        rate, as in PyTorch. The results are the same as long as the rate is constant.

    Raises
    ------
    ArgumentError
        If a value is out of its range.

    Notes
    -----
    The default values of all optimizers follow the notes; :class:`~deepnotes.defaults` selects others.
    """

    learning_rate: Rate = field(default_factory=default_of("SGD.learning_rate"))
    momentum: float = field(default_factory=default_of("SGD.momentum"))
    nesterov: bool = field(default_factory=default_of("SGD.nesterov"))
    rate_in_velocity: bool = field(default_factory=default_of("SGD.rate_in_velocity"), kw_only=True)

    def __post_init__(self) -> None:
        as_schedule(self.learning_rate)
        self._check("momentum", most=1)
        if self.nesterov is None:  # a default for scikit-learn: use Nesterov momentum if there is momentum
            object.__setattr__(self, "nesterov", self.momentum > 0)
        self._check_option("nesterov")
        self._check_option("rate_in_velocity")
        if self.nesterov and not self.momentum:
            raise ArgumentError("nesterov=True needs momentum above 0, got momentum=0")

    @property
    def _sums_gradients(self) -> bool:
        """Whether the velocity is a sum of gradients without the learning rates."""
        return not (self.momentum and self.rate_in_velocity)

    @property
    def slots(self) -> tuple[str, ...]:
        """``v``, the velocity, if there is momentum."""
        return ("v",) if self.momentum else ()

    def scalars(self, step: Any, rate: Any) -> dict[str, Any]:
        """Return the learning rate as ``rate``.

        If each gradient is multiplied by its rate before it is added to the velocity, return that rate as ``gain``, and
        1 as ``rate``.
        """
        return {"rate": rate} if self._sums_gradients else {"rate": rate**0, "gain": rate}

    def update(
        self, ops: Ops, theta: Array, g: Array, slots: tuple[Array, ...], decays: Array, scalars: Mapping[str, Any]
    ) -> tuple[Array, tuple[Array, ...]]:
        """Return the next θ and slots; shapes as in :meth:`Optimizer.update`."""
        if not self.momentum:
            return ops.gradient_descent(theta, g, scalars["rate"]), ()
        g = g if self._sums_gradients else scalars["gain"] * g
        theta, v = ops.momentum(theta, g, *slots, scalars["rate"], self.momentum, self.nesterov)
        return theta, (v,)


@dataclass(frozen=True)
class RMSProp(Optimizer):
    """RMSProp (Hinton, lecture 6e, 2012).

    Parameters
    ----------
    learning_rate : float or Schedule, default 0.001
    rho : float, default 0.9
        The factor that multiplies the running mean square in each update.
    epsilon : float, default 1e-7
        Added to the root mean square.
    epsilon_inside : bool, default False
        Whether to add epsilon to the mean square before the root is taken, as Keras does.

    Raises
    ------
    ArgumentError
        If a value is out of its range.
    """

    learning_rate: Rate = field(default_factory=default_of("RMSProp.learning_rate"))
    rho: float = field(default_factory=default_of("RMSProp.rho"))
    epsilon: float = field(default_factory=default_of("RMSProp.epsilon"))
    epsilon_inside: bool = field(default_factory=default_of("RMSProp.epsilon_inside"), kw_only=True)

    def __post_init__(self) -> None:
        as_schedule(self.learning_rate)
        self._check("rho", below=1)
        self._check("epsilon", positive=True)
        self._check_option("epsilon_inside")

    @property
    def slots(self) -> tuple[str, ...]:
        """``s``, the running mean of the squared gradient."""
        return ("s",)

    def scalars(self, step: Any, rate: Any) -> dict[str, Any]:
        """Return the learning rate, and epsilon, which is constant."""
        return {"rate": rate, "epsilon": self.epsilon}

    def update(
        self, ops: Ops, theta: Array, g: Array, slots: tuple[Array, ...], decays: Array, scalars: Mapping[str, Any]
    ) -> tuple[Array, tuple[Array, ...]]:
        """Return the next θ and slots; shapes as in :meth:`Optimizer.update`."""
        update = ops.rmsprop_inside if self.epsilon_inside else ops.rmsprop
        theta, s = update(theta, g, *slots, scalars["rate"], self.rho, scalars["epsilon"])
        return theta, (s,)


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam (Kingma and Ba, arXiv:1412.6980).

    Parameters
    ----------
    learning_rate : float or Schedule, default 0.001
    beta1 : float, default 0.9
    beta2 : float, default 0.999
    epsilon : float, default 1e-8
        Added to the bias-corrected root mean square of the gradients.
    epsilon_hat : bool, default False
        Whether to add epsilon to the root before its bias correction, as in Keras and scikit-learn: the paper's ε̂ (end
        of its section 2).

    Raises
    ------
    ArgumentError
        If a value is out of its range.
    """

    learning_rate: Rate = field(default_factory=default_of("Adam.learning_rate"))
    beta1: float = field(default_factory=default_of("Adam.beta1"))
    beta2: float = field(default_factory=default_of("Adam.beta2"))
    epsilon: float = field(default_factory=default_of("Adam.epsilon"))
    epsilon_hat: bool = field(default_factory=default_of("Adam.epsilon_hat"), kw_only=True)

    def __post_init__(self) -> None:
        as_schedule(self.learning_rate)
        self._check("beta1", below=1)
        self._check("beta2", below=1)
        self._check("epsilon", positive=True)
        self._check_option("epsilon_hat")

    @property
    def slots(self) -> tuple[str, ...]:
        """``m`` and ``v``, the discounted sums of the gradients and of the squared gradients."""
        return ("m", "v")

    def scalars(self, step: Any, rate: Any) -> dict[str, Any]:
        """Return the rate and epsilon of update number `step` (counted from 1), with the bias corrections included.

        Let ``s1 = 1 + beta1 + ... + beta1^(step-1)``, the sum of the discounts in ``m``, and ``s2`` the same for
        ``beta2``. The returned ``rate'`` and ``epsilon'`` satisfy ``rate' m / (sqrt v + epsilon') =
        rate (m / s1) / (sqrt(v / s2) + epsilon)``. The paper computes in this order (end of its section 2) to save
        passes over the parameters. With `epsilon_hat`, epsilon is added to ``sqrt((1 - beta2) v)`` instead, so
        ``epsilon'`` is ``epsilon / sqrt(1 - beta2)``.
        """
        s1 = (1 - self.beta1**step) / (1 - self.beta1)
        s2 = (1 - self.beta2**step) / (1 - self.beta2)
        root = s2**0.5
        factor = root**0 / (1 - self.beta2) ** 0.5 if self.epsilon_hat else root
        return {"rate": rate * root / s1, "epsilon": self.epsilon * factor}

    def update(
        self, ops: Ops, theta: Array, g: Array, slots: tuple[Array, ...], decays: Array, scalars: Mapping[str, Any]
    ) -> tuple[Array, tuple[Array, ...]]:
        """Return the next θ and slots; shapes as in :meth:`Optimizer.update`."""
        theta, m, v = ops.adam(theta, g, *slots, scalars["rate"], scalars["epsilon"], self.beta1, self.beta2)
        return theta, (m, v)


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv:1711.05101); by default, biases do not decay.

    Parameters
    ----------
    learning_rate, beta1, beta2, epsilon, epsilon_hat
        As for :class:`Adam`.
    weight_decay : float, default 0.01
        Each update subtracts the fraction ``rate * weight_decay`` of each weight.
    decay_biases : bool, default False
        Whether weight decay also applies to biases, as in PyTorch and Keras.

    Raises
    ------
    ArgumentError
        If a value is out of its range.
    """

    weight_decay: float = field(default_factory=default_of("AdamW.weight_decay"))
    decay_biases: bool = field(default_factory=default_of("AdamW.decay_biases"), kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("weight_decay")
        self._check_option("decay_biases")

    def scalars(self, step: Any, rate: Any) -> dict[str, Any]:
        """Return the scalars of :class:`Adam`, and ``share``, the fraction of each weight that is subtracted."""
        return super().scalars(step, rate) | {"share": rate * self.weight_decay}

    def update(
        self, ops: Ops, theta: Array, g: Array, slots: tuple[Array, ...], decays: Array, scalars: Mapping[str, Any]
    ) -> tuple[Array, tuple[Array, ...]]:
        """Return the next θ and slots; shapes as in :meth:`Optimizer.update`."""
        if self.decay_biases:
            decays = ops.xp.ones_like(decays)
        theta = ops.weight_decay(theta, decays, scalars["share"])
        return super().update(ops, theta, g, slots, decays, scalars)


@dataclass(frozen=True)
class AMSGrad(Adam):
    """Adam whose denominator never decreases (Reddi et al., ICLR 2018); ``Adam(amsgrad=True)`` of PyTorch.

    Parameters
    ----------
    learning_rate, beta1, beta2, epsilon, epsilon_hat
        As for :class:`Adam`.

    Raises
    ------
    ArgumentError
        If a value is out of its range.
    """

    @property
    def slots(self) -> tuple[str, ...]:
        """``m`` and ``v`` of :class:`Adam`, and ``largest``, the largest ``v`` so far."""
        return ("m", "v", "largest")

    def update(
        self, ops: Ops, theta: Array, g: Array, slots: tuple[Array, ...], decays: Array, scalars: Mapping[str, Any]
    ) -> tuple[Array, tuple[Array, ...]]:
        """Return the next θ and slots; shapes as in :meth:`Optimizer.update`."""
        constants = scalars["rate"], scalars["epsilon"], self.beta1, self.beta2
        theta, m, v, largest = ops.amsgrad(theta, g, *slots, *constants)
        return theta, (m, v, largest)


@dataclass(frozen=True)
class NAdam(Optimizer):
    """Adam with Nesterov momentum (T. Dozat, ICLR workshop 2016), with the schedule of the momentum of PyTorch.

    Parameters
    ----------
    learning_rate : float or Schedule, default 0.002
    beta1, beta2, epsilon
        As for :class:`Adam`.
    momentum_decay : float, default 0.004
        The momentum of update number t is ``beta1 (1 - 0.96^(t momentum_decay) / 2)``.

    Raises
    ------
    ArgumentError
        If a value is out of its range.
    """

    learning_rate: Rate = field(default_factory=default_of("NAdam.learning_rate"))
    beta1: float = field(default_factory=default_of("NAdam.beta1"))
    beta2: float = field(default_factory=default_of("NAdam.beta2"))
    epsilon: float = field(default_factory=default_of("NAdam.epsilon"))
    momentum_decay: float = field(default_factory=default_of("NAdam.momentum_decay"))

    def __post_init__(self) -> None:
        as_schedule(self.learning_rate)
        self._check("beta1", below=1)
        self._check("beta2", below=1)
        self._check("epsilon", positive=True)
        self._check("momentum_decay")

    @property
    def slots(self) -> tuple[str, ...]:
        """``m`` and ``v``, the discounted sums of the gradients and of the squared gradients."""
        return ("m", "v")

    def scalars(self, step: Any, rate: Any) -> dict[str, Any]:
        """Return the factors of ``m`` and of the gradient, and epsilon, with the bias corrections included.

        With ``μ(t)``, the momentum of update t, and the products ``Π(t) = μ(1) ... μ(t)``, the paper's mean of the
        gradients is ``μ(t + 1) m' / (1 - Π(t + 1)) + (1 - μ(t)) g / (1 - Π(t))``, where ``m' = (1 - beta1) m``.
        """
        root = ((1 - self.beta2**step) / (1 - self.beta2)) ** 0.5
        product = _momentum_product(self, step)
        now, later = self._momentum(step), self._momentum(step + 1)
        return {
            "rate": rate * root * (1 - self.beta1) * later / (1 - product * later),
            "gain": rate * root * (1 - now) / (1 - product),
            "epsilon": self.epsilon * root,
        }

    def _momentum(self, step: Any) -> Any:
        return self.beta1 * (1 - 0.5 * 0.96 ** (step * self.momentum_decay))

    def update(
        self, ops: Ops, theta: Array, g: Array, slots: tuple[Array, ...], decays: Array, scalars: Mapping[str, Any]
    ) -> tuple[Array, tuple[Array, ...]]:
        """Return the next θ and slots; shapes as in :meth:`Optimizer.update`."""
        constants = (scalars[name] for name in ("rate", "gain", "epsilon"))
        theta, m, v = ops.nadam(theta, g, *slots, *constants, self.beta1, self.beta2)
        return theta, (m, v)


def _momentum_product(optimizer: NAdam, step: Any) -> Any:
    """Return the product of the momenta of the first `step` updates; it is 0 once it vanishes beside 1."""
    steps = step.tolist() if hasattr(step, "tolist") else step
    if isinstance(steps, list):
        return 0.0 * step + [_momentum_product(optimizer, each) for each in steps]
    products = _momentum_products(optimizer.beta1, optimizer.momentum_decay)
    while len(products) <= steps and products[-1]:
        product = products[-1] * optimizer._momentum(len(products))
        products.append(product if product > 1e-20 else 0.0)
    return products[steps] if steps < len(products) else 0.0


@lru_cache(maxsize=16)
def _momentum_products(beta1: float, momentum_decay: float) -> list[float]:
    """Return the list of the products of the first 0, 1, ... momenta that have been computed so far."""
    return [1.0]


@dataclass(frozen=True)
class RAdam(Optimizer):
    """Adam with rectified steps (Liu et al., arXiv:1908.03265): without a denominator while its variance is large.

    Parameters
    ----------
    learning_rate, beta1, beta2, epsilon
        As for :class:`Adam`.

    Raises
    ------
    ArgumentError
        If a value is out of its range.
    """

    learning_rate: Rate = field(default_factory=default_of("RAdam.learning_rate"))
    beta1: float = field(default_factory=default_of("RAdam.beta1"))
    beta2: float = field(default_factory=default_of("RAdam.beta2"))
    epsilon: float = field(default_factory=default_of("RAdam.epsilon"))

    def __post_init__(self) -> None:
        as_schedule(self.learning_rate)
        self._check("beta1", below=1)
        self._check("beta2", below=1)
        self._check("epsilon", positive=True)

    @property
    def slots(self) -> tuple[str, ...]:
        """``m`` and ``v``, the discounted sums of the gradients and of the squared gradients."""
        return ("m", "v")

    def scalars(self, step: Any, rate: Any) -> dict[str, Any]:
        """Return the factor of the adaptive step, that of the step without a denominator, and epsilon.

        The paper rectifies the adaptive step if ``v`` averages more than 4 gradients; here it is 5, as in PyTorch.
        Epsilon is added before the bias correction of the root, as in PyTorch.
        """
        most = 2 / (1 - self.beta2) - 1
        length = most - 2 * step * self.beta2**step / (1 - self.beta2**step)
        is_long = 1.0 * (length > 5)
        safe = is_long * length + (1 - is_long) * 6.0
        rectified = ((safe - 4) * (safe - 2) * most / ((most - 4) * (most - 2) * safe)) ** 0.5 if most > 5 else 0.0
        s1 = (1 - self.beta1**step) / (1 - self.beta1)
        root = ((1 - self.beta2**step) / (1 - self.beta2)) ** 0.5
        return {
            "rate": is_long * rectified * rate * root / s1,
            "gain": (1 - is_long) * rate / s1,
            "epsilon": self.epsilon / (1 - self.beta2) ** 0.5 * root**0,
        }

    def update(
        self, ops: Ops, theta: Array, g: Array, slots: tuple[Array, ...], decays: Array, scalars: Mapping[str, Any]
    ) -> tuple[Array, tuple[Array, ...]]:
        """Return the next θ and slots; shapes as in :meth:`Optimizer.update`."""
        constants = (scalars[name] for name in ("rate", "gain", "epsilon"))
        theta, m, v = ops.radam(theta, g, *slots, *constants, self.beta1, self.beta2)
        return theta, (m, v)


@dataclass(frozen=True)
class Adamax(Optimizer):
    """Adam with the infinity norm (Kingma and Ba, arXiv:1412.6980, section 7.1).

    Parameters
    ----------
    learning_rate : float or Schedule, default 0.002
    beta1, beta2
        As for :class:`Adam`; `beta2` is the factor of the norm.
    epsilon : float, default 1e-8
        Added to the absolute value of the gradient.

    Raises
    ------
    ArgumentError
        If a value is out of its range.
    """

    learning_rate: Rate = field(default_factory=default_of("Adamax.learning_rate"))
    beta1: float = field(default_factory=default_of("Adamax.beta1"))
    beta2: float = field(default_factory=default_of("Adamax.beta2"))
    epsilon: float = field(default_factory=default_of("Adamax.epsilon"))

    def __post_init__(self) -> None:
        as_schedule(self.learning_rate)
        self._check("beta1", below=1)
        self._check("beta2", below=1)
        self._check("epsilon", positive=True)

    @property
    def slots(self) -> tuple[str, ...]:
        """``m``, the discounted sum of the gradients, and ``u``, their discounted maximum."""
        return ("m", "u")

    def scalars(self, step: Any, rate: Any) -> dict[str, Any]:
        """Return the learning rate, divided by the sum of the discounts in ``m``."""
        return {"rate": rate * (1 - self.beta1) / (1 - self.beta1**step), "epsilon": self.epsilon}

    def update(
        self, ops: Ops, theta: Array, g: Array, slots: tuple[Array, ...], decays: Array, scalars: Mapping[str, Any]
    ) -> tuple[Array, tuple[Array, ...]]:
        """Return the next θ and slots; shapes as in :meth:`Optimizer.update`."""
        theta, m, u = ops.adamax(theta, g, *slots, scalars["rate"], scalars["epsilon"], self.beta1, self.beta2)
        return theta, (m, u)


@dataclass(frozen=True)
class Adagrad(Optimizer):
    """Steps divided by the root of the sum of all squared gradients (Duchi et al., JMLR 12 (2011) 2121).

    Parameters
    ----------
    learning_rate : float or Schedule, default 0.01
    epsilon : float, default 1e-10
        Added to the root.

    Raises
    ------
    ArgumentError
        If a value is out of its range.
    """

    learning_rate: Rate = field(default_factory=default_of("Adagrad.learning_rate"))
    epsilon: float = field(default_factory=default_of("Adagrad.epsilon"))

    def __post_init__(self) -> None:
        as_schedule(self.learning_rate)
        self._check("epsilon", positive=True)

    @property
    def slots(self) -> tuple[str, ...]:
        """``s``, the sum of the squared gradients."""
        return ("s",)

    def scalars(self, step: Any, rate: Any) -> dict[str, Any]:
        """Return the learning rate, and epsilon, which is constant."""
        return {"rate": rate, "epsilon": self.epsilon}

    def update(
        self, ops: Ops, theta: Array, g: Array, slots: tuple[Array, ...], decays: Array, scalars: Mapping[str, Any]
    ) -> tuple[Array, tuple[Array, ...]]:
        """Return the next θ and slots; shapes as in :meth:`Optimizer.update`."""
        theta, s = ops.adagrad(theta, g, *slots, scalars["rate"], scalars["epsilon"])
        return theta, (s,)


@dataclass(frozen=True)
class Adadelta(Optimizer):
    """Steps scaled by the ratio of the sizes of the last steps and the last gradients (Zeiler, arXiv:1212.5701).

    Parameters
    ----------
    learning_rate : float or Schedule, default 1.0
    rho : float, default 0.9
        The factor that multiplies the running mean squares in each update.
    epsilon : float, default 1e-6
        Added to the mean squares.

    Raises
    ------
    ArgumentError
        If a value is out of its range.
    """

    learning_rate: Rate = field(default_factory=default_of("Adadelta.learning_rate"))
    rho: float = field(default_factory=default_of("Adadelta.rho"))
    epsilon: float = field(default_factory=default_of("Adadelta.epsilon"))

    def __post_init__(self) -> None:
        as_schedule(self.learning_rate)
        self._check("rho", below=1)
        self._check("epsilon", positive=True)

    @property
    def slots(self) -> tuple[str, ...]:
        """``s`` and ``d``, the running means of the squared gradients and of the squared steps."""
        return ("s", "d")

    def scalars(self, step: Any, rate: Any) -> dict[str, Any]:
        """Return the learning rate, and epsilon, which is constant."""
        return {"rate": rate, "epsilon": self.epsilon}

    def update(
        self, ops: Ops, theta: Array, g: Array, slots: tuple[Array, ...], decays: Array, scalars: Mapping[str, Any]
    ) -> tuple[Array, tuple[Array, ...]]:
        """Return the next θ and slots; shapes as in :meth:`Optimizer.update`."""
        theta, s, d = ops.adadelta(theta, g, *slots, scalars["rate"], self.rho, scalars["epsilon"])
        return theta, (s, d)


@dataclass(frozen=True)
class Lion(Optimizer):
    """Steps by the sign of a momentum (Chen et al., arXiv:2302.06675); biases do not decay.

    Parameters
    ----------
    learning_rate : float or Schedule, default 1e-4
    beta1 : float, default 0.9
        The weight of the momentum in a step.
    beta2 : float, default 0.99
        The weight of the momentum in the next momentum.
    weight_decay : float, default 0.0
        Each update subtracts the fraction ``rate * weight_decay`` of each weight.

    Raises
    ------
    ArgumentError
        If a value is out of its range.
    """

    learning_rate: Rate = field(default_factory=default_of("Lion.learning_rate"))
    beta1: float = field(default_factory=default_of("Lion.beta1"))
    beta2: float = field(default_factory=default_of("Lion.beta2"))
    weight_decay: float = field(default_factory=default_of("Lion.weight_decay"))

    def __post_init__(self) -> None:
        as_schedule(self.learning_rate)
        self._check("beta1", below=1)
        self._check("beta2", below=1)
        self._check("weight_decay")

    @property
    def slots(self) -> tuple[str, ...]:
        """``m``, the momentum."""
        return ("m",)

    def scalars(self, step: Any, rate: Any) -> dict[str, Any]:
        """Return the learning rate, and ``share``, the fraction of each weight that is subtracted."""
        return {"rate": rate, "share": rate * self.weight_decay}

    def update(
        self, ops: Ops, theta: Array, g: Array, slots: tuple[Array, ...], decays: Array, scalars: Mapping[str, Any]
    ) -> tuple[Array, tuple[Array, ...]]:
        """Return the next θ and slots; shapes as in :meth:`Optimizer.update`."""
        theta = ops.weight_decay(theta, decays, scalars["share"])
        theta, m = ops.lion(theta, g, *slots, scalars["rate"], self.beta1, self.beta2)
        return theta, (m,)


@dataclass(frozen=True)
class Wrapper(Optimizer):
    """The base class of optimizers that add something to another one; whatever they do not define is the other's.

    Parameters
    ----------
    optimizer : Optimizer
    """

    optimizer: Optimizer

    @property
    def learning_rate(self) -> Rate:  # type: ignore[override]
        """The learning rate of the optimizer."""
        return self.optimizer.learning_rate

    @property
    def slots(self) -> tuple[str, ...]:
        """The slots of the optimizer."""
        return self.optimizer.slots

    def initial_slots(self, layout: LayoutLike) -> tuple[Any, ...]:
        """Return the initial slots of the optimizer."""
        return self.optimizer.initial_slots(layout)

    def scalars(self, step: Any, rate: Any) -> dict[str, Any]:
        """Return the scalars of the optimizer."""
        return self.optimizer.scalars(step, rate)

    def update_statistics(
        self, ops: Ops, theta: Array, changes: Array, slots: tuple[Array, ...], scalars: Mapping[str, Any]
    ) -> tuple[Array, tuple[Array, ...]]:
        """Return the next statistics, and their slots; see :meth:`Optimizer.update_statistics`."""
        return self.optimizer.update_statistics(ops, theta, changes, slots, scalars)


def with_slices(ops: Ops, flat: Array, slices: Iterable[tuple[int, int, Array]]) -> Array:
    """Return a flat buffer in which slices are replaced.

    Parameters
    ----------
    flat : Array, shape (p,)
    slices : iterable of (int, int, Array)
        The start and the stop of each slice, in ascending order, and its new numbers, of any shape.
    """
    parts, end = [], 0
    for start, stop, x in slices:
        parts += [flat[end:start]] * (start > end) + [ops.xp.reshape(x, (-1,))]
        end = stop
    return ops.xp.concat(parts + [flat[end:]] * (end < flat.shape[0]), axis=0)


class _Matrix(NamedTuple):
    """A weight matrix in the flat buffer."""

    start: int
    stop: int
    shape: tuple[int, int]


@dataclass(frozen=True)
class Muon(Optimizer):
    """Orthogonalized momentum for weights, Adam for all other parameters (K. Jordan et al., 2024).

    The momentum of each ``W`` is replaced by a matrix of the same shape whose singular values are nearly equal, see
    :func:`~deepnotes.equations.orthogonalize`. Every backend makes these updates eagerly.

    Parameters
    ----------
    learning_rate : float or Schedule, default 0.02
        That of the weights.
    momentum : float, default 0.95
        Between 0 and 1.
    nesterov : bool, default True
    weight_decay : float, default 0.0
        Each update subtracts the fraction ``rate * weight_decay`` of each weight.
    match_adamw : bool, default False
        Whether to multiply the update of a W of shape (n, n_prev) by ``0.2 sqrt(max(n, n_prev))``, so that it is as
        large as an update of AdamW (arXiv:2502.16982), instead of ``sqrt(max(1, n / n_prev))``.
    steps : int, default 5
        The number of steps of the orthogonalization.
    epsilon : float, default 1e-7
        The least norm of a momentum that it is divided by.
    adam_share : float, default 0.015
        The learning rate of the other parameters, as a share of `learning_rate`.
    beta1, beta2, adam_epsilon : float, default 0.9, 0.999, 1e-8
        The options of :class:`Adam` for the other parameters.
    matrices : tuple, optional
        Set by :meth:`for_layout`.

    Raises
    ------
    ArgumentError
        If a value is out of its range.
    """

    learning_rate: Rate = 0.02
    momentum: float = 0.95
    nesterov: bool = True
    weight_decay: float = 0.0
    match_adamw: bool = field(default=False, kw_only=True)
    steps: int = field(default=5, kw_only=True)
    epsilon: float = field(default=1e-7, kw_only=True)
    adam_share: float = field(default=0.015, kw_only=True)
    beta1: float = field(default=0.9, kw_only=True)
    beta2: float = field(default=0.999, kw_only=True)
    adam_epsilon: float = field(default=1e-8, kw_only=True)
    matrices: tuple[_Matrix, ...] | None = field(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        as_schedule(self.learning_rate)
        self._check("momentum", below=1)
        self._check("beta1", below=1)
        self._check("beta2", below=1)
        self._check("weight_decay")
        for name in ("epsilon", "adam_share", "adam_epsilon"):
            self._check(name, positive=True)
        for name in ("nesterov", "match_adamw"):
            self._check_option(name)
        object.__setattr__(self, "steps", whole("steps", self.steps))

    @property
    def slots(self) -> tuple[str, ...]:
        """``m``, the momentum, and ``v``, which only Adam uses."""
        return ("m", "v")

    def for_layout(self, layout: LayoutLike) -> "Muon":
        """Return the optimizer with the places and shapes of the weights: the parameters named ``W``."""
        weights = (e for e in layout.entries.values() if e.key == "W")
        return replace(self, matrices=tuple(_Matrix(e.start, e.stop, e.parameter.shape) for e in weights))

    def scalars(self, step: Any, rate: Any) -> dict[str, Any]:
        """Return the learning rate, ``share``, the fraction of each weight to subtract, and the scalars of Adam."""
        adam = Adam(self.learning_rate, self.beta1, self.beta2, self.adam_epsilon, epsilon_hat=False)
        of_adam = adam.scalars(step, rate * self.adam_share)
        share = rate * self.weight_decay
        return {"rate": rate, "share": share, "adam_rate": of_adam["rate"], "adam_epsilon": of_adam["epsilon"]}

    def update(
        self, ops: Ops, theta: Array, g: Array, slots: tuple[Array, ...], decays: Array, scalars: Mapping[str, Any]
    ) -> tuple[Array, tuple[Array, ...]]:
        """Return the next θ and slots; shapes as in :meth:`Optimizer.update`."""
        if self.matrices is None:
            raise ArgumentError("Muon needs the shapes of the parameters: call its method for_layout before update")
        m, v = slots
        constants = scalars["adam_rate"], scalars["adam_epsilon"], self.beta1, self.beta2
        by_adam, sums, v = ops.adam(theta, g, m, v, *constants)
        m = self.momentum * m + (1 - self.momentum) * g
        U = self.momentum * m + (1 - self.momentum) * g if self.nesterov else m
        kept = theta - scalars["share"] * theta
        weights = [
            (x.start, x.stop, kept[x.start : x.stop] - scalars["rate"] * self._step(ops, U, x)) for x in self.matrices
        ]
        momenta = [(x.start, x.stop, m[x.start : x.stop]) for x in self.matrices]
        return with_slices(ops, by_adam, weights), (with_slices(ops, sums, momenta), v)

    def _step(self, ops: Ops, U: Array, matrix: _Matrix) -> Array:
        """Return the step of one matrix for a learning rate of 1, flat."""
        start, stop, (n, n_prev) = matrix
        O = ops.orthogonalize(ops.xp.reshape(U[start:stop], (n, n_prev)), self.steps, self.epsilon)  # noqa: E741
        factor = 0.2 * sqrt(max(n, n_prev)) if self.match_adamw else sqrt(max(1, n / n_prev))
        return ops.xp.reshape(factor * O, (-1,))


LIBRARY: dict[str, type[Optimizer]] = {
    "sgd": SGD, "rmsprop": RMSProp, "adam": Adam, "adamw": AdamW, "amsgrad": AMSGrad, "nadam": NAdam, "radam": RAdam,
    "adamax": Adamax, "adagrad": Adagrad, "adadelta": Adadelta, "lion": Lion,
}  # fmt: skip


BY_MATRIX: dict[str, type[Optimizer]] = {"muon": Muon}
"""Optimizers whose updates depend on the shapes of the parameters; those of `LIBRARY` work element by element."""
FULL_BATCH: dict[str, type[Optimizer]] = {"lbfgs": LBFGS}
"""Optimizers that train on all samples as one batch."""
BY_NAME = ChainMap(FULL_BATCH, BY_MATRIX, LIBRARY)
"""All optimizers, by name; one that is added to a table is in here, too."""


def as_optimizer(optimizer: str | Optimizer, dialect: str | None = None, /, **options: Any) -> Optimizer:
    """Return the optimizer with the given name and options; an optimizer object is returned unchanged.

    Parameters
    ----------
    optimizer : str or Optimizer
    dialect : str, optional
        The dialect whose defaults apply, by default the current dialect; see :class:`~deepnotes.defaults`.
    **options : object
        The parameters of the optimizer; ignored if `optimizer` is an object.

    Raises
    ------
    UnknownNameError
        If there is no optimizer of this name.
    """
    if isinstance(optimizer, Optimizer):
        return optimizer
    with in_dialect(dialect):
        return look_up("optimizer", optimizer, BY_NAME)(**options)
