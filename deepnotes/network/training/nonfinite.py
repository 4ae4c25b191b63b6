"""Diagnosis of a training step with non-finite numbers: the layer in which they occur first."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from deepnotes.backends.base import Backend
from deepnotes.backends.eager import EagerProgram
from deepnotes.backends.program import Data, State
from deepnotes.nn.steps import forward, sample_losses

if TYPE_CHECKING:
    from deepnotes.nn.plan import Plan


class Fault(NamedTuple):
    """The cause of non-finite numbers in a training step.

    Attributes
    ----------
    layer : int or None
        The index, from 1, of the layer in which they occur first; None if only the losses are not finite.
    description : str
        A description for an error message.
    """

    layer: int | None
    description: str


def first_fault(backend: Backend, plan: "Plan", state: State, data: Data, indices: np.ndarray) -> Fault:
    """Repeat a step on the host, layer by layer, to find the first layer with numbers that are not finite.

    If all outputs, losses and gradients are finite, the layer with the largest gradient is returned.

    Parameters
    ----------
    backend : Backend
        The backend that the state and the data are on.
    plan : Plan
    state : State
        The state before the step; it is not changed.
    data : Data
    indices : ndarray of int64
        The indices of the samples in the batch.
    """
    host: Any = Backend("host", np)  # a compiling backend would compile code that runs only once
    batch = EagerProgram(backend, plan).batch(data, indices)
    host_arrays: list[Any] = [None if array is None else backend.to_numpy(array) for array in batch]
    X, Y, w = host_arrays
    theta: Any = np.array(backend.to_numpy(state.theta))
    step: Any = np.asarray(state.step)
    faulty: list[int] = []

    def check(name: str, number: int, A: Any) -> None:
        if not np.isfinite(A).all():
            faulty.append(number)

    with np.errstate(all="ignore"):
        parameters = plan.layout.split(host.xp, theta)
        A, caches = forward(host.ops, plan.layers, parameters, X, plan.seed, step, check)
        if faulty:
            number = faulty[0]
            return Fault(number, f"the first non-finite output is that of layer {number}, {plan.layers[number - 1]!r}")
        targets = host.ops.one_hot(Y, A.shape[0], A.dtype) if plan.class_indices else Y
        losses: Any = sample_losses(host.ops, plan.layers, plan.loss, A, caches, targets)
        if not np.isfinite(losses).all():
            return Fault(None, "the outputs of all layers are finite")
        g: Any = EagerProgram(host, plan).gradients(State(theta, (), state.step), Data(X, Y, w)).flat
    for entry in sorted(plan.layout.entries.values(), key=lambda entry: -entry.layer):  # as in the backward pass
        if not np.isfinite(g[entry.start : entry.stop]).all():
            layer = plan.layers[entry.layer]
            kind = "gradient" if entry.parameter.trained else "update"
            return Fault(entry.layer + 1, f"the first non-finite {kind} is that of {entry.name} in {layer!r}")
    trained = [entry for entry in plan.layout.entries.values() if entry.parameter.trained]
    largest = max(trained, key=lambda entry: float(abs(g[entry.start : entry.stop]).max()))
    return Fault(largest.layer + 1, f"the largest gradient is that of {largest.name}")
