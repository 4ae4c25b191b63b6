"""Training cases for checks: layers, data and options, to train with a backend and with the equations."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deepnotes.backends.bounds import BoundedArray, Bounds, excess
from deepnotes.backends.eager import EagerInference, EagerProgram
from deepnotes.backends.inference import Inference
from deepnotes.backends.program import Batches, Chunk, Data, Program, State
from deepnotes.nn.layers import Embedding, Layer
from deepnotes.nn.losses import LossFunction, as_loss
from deepnotes.nn.optimizer_base import Optimizer
from deepnotes.nn.optimizers import SGD
from deepnotes.nn.plan import NOTES, Objective, Plan, slots_at_start
from deepnotes.testing.checks import Failure, Trial


@dataclass(frozen=True)
class TrainingCase:
    """The layers, data and options of a training run.

    Attributes
    ----------
    layers : list of Layer
    dtype : {"float32", "float64"}
    loss : str or LossFunction
    optimizer : Optimizer
    inputs, samples, batch : int
        The number of features, of samples, and of samples in a batch.
    call_sizes : tuple of int
        The number of samples, repetitions included, in each call of ``train``.
    rate : float
        The learning rate of the first update; later updates have smaller ones.
    l1, l2 : float
    clip : float, optional
    targets : {"real", "bits", "distributions", "labels"}
        Real numbers, zeros and ones, a probability distribution in each column, or class indices.
    weighted : bool
    objective : Objective
    layout : callable
        The layout of X in memory.
    seed : int
        The seed of data, parameters and dropout masks.
    """

    layers: list[Layer]
    dtype: str
    loss: str | LossFunction = "mean_squared_error"
    optimizer: Optimizer = field(default_factory=lambda: SGD(0.1))
    inputs: int = 5
    samples: int = 23
    batch: int = 8
    call_sizes: tuple[int, ...] = (23, 23)
    rate: float = 0.05
    l1: float = 0.0
    l2: float = 0.0
    clip: float | None = None
    targets: str = "real"
    weighted: bool = False
    objective: Objective = NOTES
    layout: Any = np.copy
    seed: int = 0

    @property
    def plan(self) -> Plan:
        """The plan from which Programs are compiled."""
        return Plan(
            self.inputs, tuple(self.layers), self.dtype, self.seed, as_loss(self.loss), self.optimizer, self.l2,
            self.clip, self.targets == "labels", self.objective, self.l1,
        )  # fmt: skip

    def theta(self) -> np.ndarray:
        """Return initial parameters, with biases that are not 0."""
        rng = np.random.default_rng(self.seed)
        layout = self.plan.layout
        return (layout.initial(rng) + rng.normal(0, 0.1, layout.size)).astype(self.dtype)

    def data(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Return X, Y and weights."""
        rng = np.random.default_rng([self.seed, 1])
        k, m = self.plan.layout.sizes[-1], self.samples
        X = self.layout(rng.normal(size=(self.inputs, m)).astype(self.dtype))
        if isinstance(self.layers[0], Embedding):
            for column, categories, _ in self.layers[0]:
                X[column] = rng.integers(0, categories, m)
        Y: np.ndarray = rng.normal(size=(k, m)) if self.targets == "real" else rng.uniform(size=(k, m))
        if self.targets == "bits":
            Y = Y.round()
        if self.targets == "distributions":
            Y = Y / Y.sum(axis=0)
        Y = rng.integers(0, k, (1, m)) if self.targets == "labels" else Y.astype(self.dtype)
        w = rng.uniform(0.1, 2, (1, m)).astype(self.dtype) if self.weighted else None
        return X, Y, w

    def orders(self) -> list[np.ndarray]:
        """Return the order of samples in each call of ``train``."""
        rng = np.random.default_rng([self.seed, 2])
        return [
            np.concatenate([rng.permutation(self.samples) for _ in range(-(-n // self.samples))])[:n]
            for n in self.call_sizes
        ]

    def rates(self, order: np.ndarray) -> np.ndarray:
        """Return a learning rate for each update of a call; all are different."""
        return self.rate / (1 + 0.1 * np.arange(-(-len(order) // self.batch)))


def compile_program(backend: Any, plan: Plan) -> Program:
    """Return the backend's own Program for a plan, or an EagerProgram if there is none."""
    return backend.compile(plan) or EagerProgram(backend, plan)


def compile_inference(backend: Any, plan: Plan) -> Inference:
    """Return the backend's own Inference for a plan, or an EagerInference if there is none."""
    inference = backend.compile_inference(plan.layers, plan.layout, plan.dtype)
    return inference or EagerInference(backend, plan.layers, plan.layout, plan.dtype)


def place_on(backend: Any, case: TrainingCase) -> tuple[State, Data]:
    """Return the initial parameters and the data on a backend."""
    X, Y, w = case.data()
    slots = [values.astype(case.dtype) for values in slots_at_start(case.optimizer, case.plan.layout)]
    state = State(backend.from_numpy(case.theta()), tuple(map(backend.from_numpy, slots)))
    return state, Data(*(None if a is None else backend.from_numpy(a) for a in (X, Y, w)))  # type: ignore[arg-type]


def train_bounded(bounds: Bounds, case: TrainingCase) -> tuple[State, list[tuple[BoundedArray, BoundedArray]]]:
    """Train with the equations, tracking error bounds; return the state, and each call's sums of losses and weights."""
    eager = EagerProgram(bounds, case.plan)
    state, data = place_on(bounds, case)
    sums = []
    for order in case.orders():
        loss_sum = weight_sum = bounds.rules.exact(np.zeros((), bounds.rules.wide))
        for update, rate in enumerate(case.rates(order).tolist()):
            batch = eager.batch(data, order[update * case.batch : (update + 1) * case.batch])
            gradient = eager.gradients(state, batch)
            cost, weight = gradient.cost, gradient.weight
            loss_sum, weight_sum = loss_sum + cost * weight, weight_sum + weight
            eager.update(state, gradient.flat, rate)
        sums.append((loss_sum, weight_sum))
    return state, sums


def train_on_backend(trial: Trial, case: TrainingCase) -> tuple[State, list[Chunk]]:
    """Train with the backend's Program; return the state and the result of each call."""
    program = compile_program(trial.backend, case.plan)
    state, data = place_on(trial.backend, case)
    chunks = []
    with np.errstate(all="ignore"):
        for order in case.orders():
            chunks.append(program.train(state, Batches(data, order, case.batch, case.rates(order))))
    return state, chunks


def train_by_epoch(program: Program, state: State, batches: Batches) -> list[Chunk]:
    """Do what :meth:`~deepnotes.backends.EpochProgram.train_epochs` does, with one call of ``train`` for each epoch."""
    chunks = []
    for order, rates in zip(batches.order, batches.rates, strict=True):
        chunks.append(program.train(state, batches._replace(order=order, rates=rates)))
        if chunks[-1].steps < len(rates):
            break
    return chunks


def check_training(trial: Trial, case: TrainingCase, where: str, random: bool = True) -> None:
    """Check the parameters, slots and reported losses of a whole training run against the equations.

    If the inputs are `random`, the bounds of sums are smaller; see :func:`~deepnotes.backends.bounds.sum_factor`.

    Raises
    ------
    Failure
    """
    with np.errstate(all="ignore"):
        expected, sums = train_bounded(trial.bounds(case.dtype, random), case)
    state, chunks = train_on_backend(trial, case)
    for call, (chunk, order, (loss_sum, weight_sum)) in enumerate(zip(chunks, case.orders(), sums, strict=True)):
        steps = -(-len(order) // case.batch)
        trial.that(chunk.steps == steps, f"{where}: {steps} updates in call {call}, got {chunk.steps}")
        check_number(trial, chunk.loss_sum, loss_sum, f"{where}: loss_sum of call {call}")
        check_number(trial, chunk.weight_sum, weight_sum, f"{where}: weight_sum of call {call}")
    total = sum(-(-len(order) // case.batch) for order in case.orders())
    trial.that(state.step == total, f"{where}: step {total} at the end, got {state.step}")
    trial.compare(state.theta, expected.theta, f"{where}: θ")  # type: ignore[arg-type]
    for name, slot, expected_slot in zip(case.optimizer.slots, state.slots, expected.slots, strict=True):
        trial.compare(slot, expected_slot, f"{where}: slot {name}")  # type: ignore[arg-type]


def check_number(trial: Trial, result: float, expected: BoundedArray, where: str) -> None:
    """Check a Python number against the reference.

    Raises
    ------
    Failure
    """
    if not isinstance(result, float):
        raise Failure(f"{where}: got {type(result).__name__}, wanted a float")
    times = float(excess(np.asarray(result), expected))
    trial.compared += 1
    if times > trial.worst:
        trial.worst, trial.where = times, where
    if times > 1:
        raise Failure(f"{where}: {result!r}, wanted {float(expected)!r} to within {float(expected.error):.3g}")


def check_gradients(trial: Trial, case: TrainingCase, where: str) -> None:
    """Check the cost, weight and gradient of a batch against the equations, and that the arguments stay unchanged.

    Raises
    ------
    Failure
    """
    bounds = trial.bounds(case.dtype)
    with np.errstate(all="ignore"):
        expected = EagerProgram(bounds, case.plan).gradients(*place_on(bounds, case))
        state, data = place_on(trial.backend, case)
        result = compile_program(trial.backend, case.plan).gradients(state, data)
    for name in ("cost", "weight", "flat", "square"):
        trial.compare(getattr(result, name), getattr(expected, name), f"{where}: {name}")
    trial.same(state.theta, case.theta(), f"{where}: θ afterwards")
    for x, before in zip(data, case.data(), strict=True):
        if x is not None:
            trial.same(x, before, f"{where}: the data afterwards")
