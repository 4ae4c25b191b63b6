"""Compile everything that training and prediction call: a minimal plan, and the kernels of the library's parts."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from deepnotes.backends import (
    Adam,
    Array,
    Backend,
    Batches,
    Data,
    Dense,
    Loss,
    Plan,
    State,
    aligned,
    fuses,
    library_activations,
    library_layers,
    library_losses,
    library_optimizers,
)
from deepnotes_numba.kernels import activation_kernels, layer_kernels, loss_kernel, statistics_kernel, update_kernel


def warmup(backend: Backend, dtypes: Sequence[str]) -> Iterator[str]:
    """Yield a short description of each item once it is ready; cached items are ready at once."""
    for dtype in dtypes:
        for g in library_activations():
            activation_kernels(g, dtype, 1, False)  # the same kernels as in place
        yield f"activations, {dtype}"
        for layer in library_layers():
            layer_kernels(layer, dtype, 2)  # of any number of inputs, but a gate has an even number
        yield f"layers, {dtype}"
        for loss, last in library_losses():
            loss_kernel(loss, fuses(last, loss), dtype, 1)
        yield f"losses, {dtype}"
        x: Any = np.ones(1, dtype)
        for optimizer in library_optimizers():
            update_kernel(optimizer, dtype)
            statistics_kernel(optimizer, dtype)
            optimizer.update(backend.ops, x, x, (x,) * len(optimizer.slots), x, optimizer.scalars(1, 0.1))
        yield f"updates, {dtype}"
        backend.ops.dropout_mask((1, 1), 0.5, 0, 0, 0, dtype)
        yield from _run_plan(backend, dtype)


def _run_plan(backend: Backend, dtype: str) -> Iterator[str]:
    plan = Plan(2, (Dense(1),), dtype, 0, Loss("mean_squared_error"), Adam())
    program, inference = backend.compile(plan), backend.compile_inference(plan.layers, plan.layout, dtype)
    assert program is not None
    assert inference is not None
    theta, *slots = (_zeros(backend, plan.layout.size, dtype) for _ in ("theta", *plan.optimizer.slots))
    X, x, Y = (backend.from_samples(np.ones(shape, dtype)) for shape in ((2, 2), (2, 1), (1, 2)))
    program.train(State(theta, tuple(slots)), Batches(Data(X, Y), np.arange(2), 2, np.array([0.001])))
    yield f"training, {dtype}"
    inference.predict(theta, X)
    yield f"prediction, {dtype}"
    inference.predict(theta, x)
    yield f"prediction of one sample, {dtype}"


def _zeros(backend: Backend, size: int, dtype: str) -> Array:
    x = aligned(size, np.dtype(dtype))
    x[...] = 0
    return backend.from_numpy(x)
