"""Compile all kernels of this backend, and load everything that is loaded at first use."""

from collections.abc import Iterator, Sequence

import numpy as np

from deepnotes.backends import Adam, Batches, Data, Dense, Loss, Plan, State
from deepnotes_cupy import resident
from deepnotes_cupy.base import DeviceBackend
from deepnotes_cupy.sources import kernels


def warmup(backend: DeviceBackend, dtypes: Sequence[str]) -> Iterator[str]:
    """Yield a short description of each item once it is ready; CuPy keeps compiled modules on disk."""
    for dtype in dtypes:
        with backend.device.section():
            for kernel in kernels().values():
                backend.device.prepare(kernel, dtype)
            if backend.driver != "graph" and backend.device.shared_bytes > resident.STATIC_BYTES:
                for blocks in (1, resident.BLOCKS)[: 1 + backend.device.clusters]:
                    backend.device.prepare(resident.kernel(blocks), dtype)
        yield f"{len(kernels())} kernels, {dtype}"
        plan = Plan(2, (Dense(4, "relu"), Dense(1)), dtype, 0, Loss("mean_squared_error"), Adam())
        program, inference = backend.compile(plan), backend.compile_inference(plan.layers, plan.layout, dtype)
        assert program is not None
        assert inference is not None
        names = ("theta", *plan.optimizer.slots)
        theta, *slots = (backend.from_numpy(np.zeros(plan.layout.size, dtype)) for _ in names)
        X, Y = (backend.from_samples(np.ones(shape, dtype)) for shape in ((2, 64), (1, 64)))
        state, rates = State(theta, tuple(slots)), np.full(32, 0.001)
        for _ in range(2):  # often enough that the steps are captured as graphs
            program.train(state, Batches(Data(X, Y), np.arange(64), 2, rates))
        yield f"training, {dtype}"
        inference.predict(theta, X)
        yield f"prediction, {dtype}"
