"""Compile all kernels of this backend, and load everything that is loaded at first use."""

from collections.abc import Iterator, Sequence

import numpy as np

from deepnotes.backends import (
    Adam,
    Batches,
    Data,
    Dense,
    Loss,
    Plan,
    State,
    library_activations,
    library_losses,
    library_optimizers,
)
from deepnotes_cupy.base import DeviceBackend
from deepnotes_cupy.lowering import lower_activation, lower_loss, lower_plan, lower_update
from deepnotes_cupy.resident import BLOCKS, STATIC_BYTES, kernel, layer_rows
from deepnotes_cupy.sources import Kernel, kernels


def warmup(backend: DeviceBackend, dtypes: Sequence[str]) -> Iterator[str]:
    """Yield a short description of each item once it is ready; CuPy keeps compiled modules on disk."""
    for dtype in dtypes:
        with backend.device.section():
            programs = {x.source: x for x in (*kernels().values(), *_generated(dtype))}
            for program in programs.values():
                backend.device.prepare(program, dtype)
        yield f"kernels, {dtype}"
        plan = Plan(2, (Dense(4, "relu"), Dense(1)), dtype, 0, Loss("mean_squared_error"), Adam())
        if backend.driver != "graph" and backend.device.shared_bytes > STATIC_BYTES:
            parts = layer_rows(plan, lower_plan(plan)).parts
            with backend.device.section():
                for blocks in (1, BLOCKS)[: 1 + backend.device.clusters]:
                    backend.device.prepare(kernel(blocks, parts), dtype)
        trainer, inference = backend.compile(plan), backend.compile_inference(plan.layers, plan.layout, dtype)
        assert trainer is not None
        assert inference is not None
        names = ("theta", *plan.optimizer.slots)
        theta, *slots = (backend.from_numpy(np.zeros(plan.layout.size, dtype)) for _ in names)
        X, Y = (backend.from_samples(np.ones(shape, dtype)) for shape in ((2, 64), (1, 64)))
        state, rates = State(theta, tuple(slots)), np.full(32, 0.001)
        for _ in range(2):  # often enough that the steps are captured as graphs
            trainer.train(state, Batches(Data(X, Y), np.arange(64), 2, rates))
        yield f"training, {dtype}"
        inference.predict(theta, X)
        yield f"prediction, {dtype}"


def _generated(dtype: str) -> Iterator[Kernel]:
    """Yield the kernels of each part of the library, for all numbers of outputs; many of them are the same."""
    for outputs in (2, 64, 128, 129):  # see generated.registers
        activations = [lower_activation(g, dtype, outputs) for g in library_activations()]
        yield from (launch.kernel for g in activations for launch in (g.forward, g.forward_stage) if launch)
        yield from (lower_loss(loss, last, dtype, outputs).launch.kernel for loss, last in library_losses())
    yield from (lower_update(optimizer, dtype).launch.kernel for optimizer in library_optimizers())
