"""Checks of one activation, loss or optimizer on any backend, within error bounds that follow from its formula.

The reference is the part itself, computed on arrays that carry error bounds (:mod:`deepnotes.backends.bounds`). So that
the backend computes it as in a network, from exactly known arguments, the part is put into a layer whose samples are
the columns of the identity matrix: then the weights are the logits, and their gradient is the derivative.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from deepnotes.backends.base import Backend
from deepnotes.backends.bounds import BoundedArray, Bounds
from deepnotes.backends.program import Batches, Data, State
from deepnotes.backends.registry import available_backends, get_backend
from deepnotes.equations.array import Array
from deepnotes.equations.ops import Ops
from deepnotes.nn.activations import ActivationFunction
from deepnotes.nn.layers import Dense
from deepnotes.nn.losses import LossFunction
from deepnotes.nn.optimizer_base import Optimizer
from deepnotes.nn.optimizers import SGD
from deepnotes.nn.plan import Plan, slots_at_start
from deepnotes.nn.steps import update_step
from deepnotes.testing.calls import Draw
from deepnotes.testing.checks import DTYPES, Trial
from deepnotes.testing.inputs import round_to_7_bits
from deepnotes.testing.runner import Result, attempt
from deepnotes.testing.training_cases import compile_inference, compile_program
from deepnotes.utils.errors import ArgumentError

Part: TypeAlias = ActivationFunction | LossFunction | Optimizer

SAMPLES = 64
OUTPUTS = (3, 1)
"""The numbers of outputs to check; with one, a formula may be another."""
UPDATES = 4
LARGE = 1e6
"""The largest values and derivatives of the samples of a step."""


@dataclass(frozen=True)
class Products(LossFunction):
    """``Σ a y``: its derivative with respect to the outputs is Y, so that the targets choose it."""

    name = "products"

    def value(self, ops: Ops, A: Array, Y: Array) -> Array:
        """Return the loss of each sample."""
        L: Array = ops.xp.sum(A * Y, axis=0, keepdims=True)
        return L

    def derivative(self, ops: Ops, A: Array, Y: Array) -> Array:
        """Return Y."""
        return Y


@dataclass(frozen=True)
class PartReport:
    """The result of :func:`check_part`.

    Attributes
    ----------
    part : str
    results : list of Result
        One for each backend and dtype; ``check`` is the name of the backend and the dtype.
    """

    part: str
    results: list[Result]

    @property
    def passed(self) -> bool:
        """Whether all errors are within their bounds."""
        return all(result.verdict == "passed" for result in self.results)

    def __str__(self) -> str:
        """Return a line for each backend and dtype, with the largest error as a multiple of its bound."""
        lines = [f"{self.part}: largest error / its bound"]
        for result in self.results:
            failed = "" if result.verdict == "passed" else f"  FAILED: {result.message}"
            lines.append(f"{result.check:20} {result.worst:.2f}  ({result.where}){failed}")
        return "\n".join(lines)


def check_part(part: Part, backends: Iterable[Backend | str] | None = None) -> PartReport:
    """Check an activation, a loss or an optimizer, such as one of your own, on some backends, in both dtypes.

    A backend computes it as in training and prediction, by the kernel that it generates if it does. The result and the
    derivative must be within error bounds that follow from the formula, see :mod:`deepnotes.backends.bounds`. Whether
    the derivative is that of the formula is checked by :func:`deepnotes.check`.

    Parameters
    ----------
    part : ActivationFunction, LossFunction or Optimizer
    backends : iterable of Backend or str, optional
        By default all that are available.

    Examples
    --------
    >>> import deepnotes as dn
    >>> report = check_part(dn.Activation("tanh"), ["numpy"])
    >>> report.passed, len(report.results)
    (True, 2)
    """
    if not isinstance(part, ActivationFunction | LossFunction | Optimizer):
        raise ArgumentError(f"part: got {type(part).__name__}, wanted an activation, a loss or an optimizer")
    results = []
    for backend in map(get_backend, available_backends() if backends is None else backends):
        for dtype in (dtype for dtype in DTYPES if dtype in backend.dtypes):
            trial = Trial(backend, type(part).__name__)
            compare = partial(compare_part, part=part, dtype=dtype)
            results.append(attempt(trial, f"{backend.name} {dtype}", compare))
    return PartReport(repr(part), results)


def compare_part(trial: Trial, part: Part, dtype: str) -> None:
    """Compare a part on a backend with the reference.

    Raises
    ------
    Failure
    """
    if isinstance(part, Optimizer):
        _compare_optimizer(trial, part, dtype)
        return
    for outputs in OUTPUTS:
        if isinstance(part, ActivationFunction):
            _compare_activation(trial, part, dtype, outputs)
            continue
        _compare_loss(trial, part, dtype, outputs * part.outputs_per_target)
        if part.targets == "simplex" and outputs > 1:
            _compare_loss(trial, part, dtype, outputs, class_indices=True)


def _compare_activation(trial: Trial, g: ActivationFunction, dtype: str, outputs: int) -> None:
    draw, bounds = Draw(trial.rng), trial.bounds(dtype)
    Z = _representable(trial, draw.real(outputs, SAMPLES)).astype(dtype)
    dA = draw.weights(outputs, SAMPLES).astype(dtype)
    A: Any = g.forward(bounds.ops, bounds.from_numpy(Z))
    dZ: Any = g.backward(bounds.ops, bounds.from_numpy(dA), bounds.from_numpy(Z), A)
    where = f"{dtype}, outputs: {outputs}"
    plan = _plan(Dense(outputs, g), dtype, Products())
    put = trial.backend.from_numpy
    found = compile_inference(trial.backend, plan).predict(put(_theta(Z)), put(np.eye(SAMPLES, dtype=dtype)))
    trial.compare(found, A, f"{where}: forward")
    _compare_step(trial, plan, Z, dA, (A, dZ), f"{where}: backward")


def _compare_loss(trial: Trial, loss: LossFunction, dtype: str, outputs: int, class_indices: bool = False) -> None:
    draw, bounds = Draw(trial.rng, special=False), trial.bounds(dtype)
    draw_outputs: dict[str, Callable[[int, int], np.ndarray]]
    draw_outputs = {"real": draw.real, "positive": draw.positive, "unit": draw.unit, "simplex": draw.distributions}
    draw_targets = draw_outputs | {"count": partial(draw.indices, 5), "unit": draw.bits}
    A = _representable(trial, draw_outputs[loss.outputs[0]](outputs, SAMPLES)).astype(dtype)
    labels = draw.indices(outputs, 1, SAMPLES)
    Y = np.eye(outputs)[:, labels[0]] if class_indices else draw_targets[loss.targets](outputs, SAMPLES)
    targets = labels if class_indices else Y.astype(dtype)
    bounded_A, bounded_Y = bounds.from_numpy(A), bounds.from_numpy(Y.astype(dtype))
    L: Any = loss.value(bounds.ops, bounded_A, bounded_Y)
    dA: Any = loss.derivative(bounds.ops, bounded_A, bounded_Y)
    where = f"{dtype}, outputs: {outputs}{', class indices' if class_indices else ''}"
    plan = _plan(Dense(outputs), dtype, loss, class_indices)
    put = trial.backend.from_numpy
    inference = compile_inference(trial.backend, plan)
    _, losses = inference.losses(put(_theta(A)), put(np.eye(SAMPLES, dtype=dtype)), put(targets), loss)
    trial.compare(losses, L, f"{where}: value")
    _compare_step(trial, plan, A, targets, (L, dA), f"{where}: derivative")


def _representable(trial: Trial, x: np.ndarray) -> np.ndarray:
    """Return `x`, rounded so that no product of the backend rounds it again."""
    rounded = round_to_7_bits(x)
    if trial.backend.matmul_precision == "float16":
        rounded[abs(rounded) < np.finfo(np.float16).smallest_normal] = 0.0
    return rounded


def _plan(layer: Dense, dtype: str, loss: LossFunction, class_indices: bool = False) -> Plan:
    """Return the plan of one layer; after one update, the momentum is the gradient."""
    return Plan(SAMPLES, (layer,), dtype, 0, loss, SGD(0.1, momentum=0.9), class_indices=class_indices)


def _theta(weights: np.ndarray) -> np.ndarray:
    """Return the flat parameters of a layer with these weights and with biases of 0."""
    return np.concatenate([weights.ravel(), np.zeros(len(weights), weights.dtype)])


def _compare_step(
    trial: Trial, plan: Plan, weights: np.ndarray, Y: np.ndarray, expected: tuple[BoundedArray, BoundedArray],
    where: str,
) -> None:  # fmt: skip
    """Compare the gradient of one step, on the samples whose expected value and derivative are neither large nor NaN.

    Compiled programs leave steps that may overflow to the equations.
    """
    bounds = trial.bounds(plan.dtype)
    good = [np.all(abs(x.value) + x.error <= LARGE, axis=0) for x in expected]
    order = np.flatnonzero(good[0] & good[1])
    trial.that(len(order) > 0, f"{where}: a sample with a finite error bound")
    X = np.eye(SAMPLES, dtype=plan.dtype)
    put = trial.backend.from_numpy
    state = State(put(_theta(weights)), (put(np.zeros(plan.layout.size, plan.dtype)),))
    batches = Batches(Data(put(X), put(Y)), order, len(order), np.array([0.1]))
    chunk = compile_program(trial.backend, plan).train(state, batches)
    trial.that(chunk.steps == 1, f"{where}: one update")
    dZ = expected[1][:, order]
    trial.compare(state.slots[0], _gradient(bounds, plan, dZ, X[:, order]), where)


def _gradient(bounds: Bounds, plan: Plan, dZ: BoundedArray, X: np.ndarray) -> Any:
    """Return the gradient of the only layer, flat."""
    gradients = {"W": bounds.ops.weight_gradient(dZ, bounds.from_numpy(X)), "b": bounds.ops.bias_gradient(dZ)}
    return plan.layout.join(bounds.xp, [gradients])


def _compare_optimizer(trial: Trial, optimizer: Optimizer, dtype: str) -> None:
    """Make some updates with known gradients: the loss of a layer without activation has the derivative Y."""
    draw, bounds = Draw(trial.rng), trial.bounds(dtype)
    plan = Plan(SAMPLES, (Dense(3),), dtype, 0, Products(), optimizer)
    theta = draw.weights(plan.layout.size).astype(dtype)
    X, Y = np.eye(SAMPLES, dtype=dtype), SAMPLES * round_to_7_bits(draw.weights(3, UPDATES * SAMPLES)).astype(dtype)
    rates = 0.1 / np.arange(1, UPDATES + 1)
    start = [values.astype(dtype) for values in slots_at_start(optimizer, plan.layout)]
    expected: Any = bounds.from_numpy(theta)
    slots: tuple[Any, ...] = tuple(map(bounds.from_numpy, start))
    decays = bounds.from_numpy(plan.layout.decays())
    for update, rate in enumerate(rates.tolist()):
        dZ: Any = bounds.from_numpy(Y[:, update * SAMPLES : (update + 1) * SAMPLES])
        # Recorded programs keep numbers as arrays of the dtype, so they are rounded.
        scalars = {name: bounds.xp.asarray(float(x)) for name, x in optimizer.scalars(update + 1, rate).items()}
        g = _gradient(bounds, plan, dZ, X)
        expected, slots = update_step(bounds.ops, plan, expected, decays, g, slots, scalars)
    put = trial.backend.from_numpy
    state = State(put(theta), tuple(map(put, start)))
    data = Data(put(np.tile(X, UPDATES)), put(Y))
    compile_program(trial.backend, plan).train(state, Batches(data, np.arange(UPDATES * SAMPLES), SAMPLES, rates))
    trial.compare(state.theta, expected, f"{dtype}: θ")
    for name, slot, expected_slot in zip(optimizer.slots, state.slots, slots, strict=True):
        trial.compare(slot, expected_slot, f"{dtype}: slot {name}")
