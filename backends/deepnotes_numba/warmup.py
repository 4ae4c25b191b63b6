"""Compile everything that training and prediction call, by running a minimal plan."""

from collections.abc import Iterator, Sequence

import numpy as np

from deepnotes.backends import Adam, Array, Backend, Batches, Data, Dense, Loss, Plan, State, aligned


def warmup(backend: Backend, dtypes: Sequence[str]) -> Iterator[str]:
    """Yield a short description of each item once it is ready; cached items are ready at once."""
    for dtype in dtypes:
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
