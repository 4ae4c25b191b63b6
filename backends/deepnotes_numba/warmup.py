"""Compile everything that training and prediction call: a minimal plan, and the kernels of the library's parts."""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import product
from typing import Any

import numpy as np

from deepnotes.backends import (
    ACTIVATIONS,
    LOSSES,
    OPTIMIZERS,
    SGD,
    Activation,
    Adam,
    Array,
    Backend,
    Batches,
    Data,
    Dense,
    Loss,
    Optimizer,
    Plan,
    State,
    aligned,
)
from deepnotes_numba.kernels import activation_kernels, loss_kernel, update_kernel


def warmup(backend: Backend, dtypes: Sequence[str]) -> Iterator[str]:
    """Yield a short description of each item once it is ready; cached items are ready at once."""
    for dtype in dtypes:
        for name, traits in ACTIVATIONS.items():
            for options in _options(traits.options):
                for in_place in (False, True):
                    activation_kernels(Activation(name, **options), dtype, 1, in_place)
        yield f"activations, {dtype}"
        for name, loss in LOSSES.items():
            for options in _options(loss.options):
                for fused in {False, loss.fused is not None}:
                    loss_kernel(Loss(name, **options), fused, dtype, 1)
        yield f"losses, {dtype}"
        x: Any = np.ones(1, dtype)
        for optimizer in _optimizers():
            update_kernel(optimizer, dtype)
            optimizer.update(backend.ops, x, x, (x,) * len(optimizer.slots), x, optimizer.scalars(1, 0.1))
        yield f"updates, {dtype}"
        backend.ops.dropout_mask((1, 1), 0.5, 0, 0, 0, dtype)
        yield from _run_plan(backend, dtype)


def _options(defaults: dict[str, float]) -> list[dict[str, float]]:
    """Return the defaults, and values for which an expression is not simplified, as it is for 1, for example."""
    return [defaults, dict.fromkeys(defaults, 0.3)]


def _optimizers() -> Iterator[Optimizer]:
    """Yield the optimizers of the library, with all combinations of their options that are True or False."""
    yield SGD()
    for kind in OPTIMIZERS.values():
        switches = [option.name for option in fields(kind) if option.type is bool]  # type: ignore[arg-type]
        momentum: dict[str, Any] = {"momentum": 0.9} if kind is SGD else {}
        for values in product((False, True), repeat=len(switches)):
            yield kind(**momentum, **dict(zip(switches, values, strict=True)))


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
