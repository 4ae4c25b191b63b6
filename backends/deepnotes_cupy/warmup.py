"""Compile all that this backend compiles, and load what it loads at its first use."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from deepnotes.layers import Dense
from deepnotes.network import Network
from deepnotes_cupy.sources import kernels

if TYPE_CHECKING:
    from deepnotes_cupy.backend import CupyBackend


def warmup(backend: "CupyBackend", dtypes: Sequence[str]) -> Iterator[str]:
    """Yield a few words for each thing, as it is ready; CuPy keeps compiled modules on disk."""
    X, Y = np.ones((2, 64)), np.ones((1, 64))
    for dtype in dtypes:
        with backend.device.section():
            for kernel in kernels():
                backend.device.prepare(kernel, dtype)
        yield f"{len(kernels())} kernels, {dtype}"
        network = Network([Dense(4, "relu"), Dense(1)], inputs=2, backend=backend, dtype=dtype, seed=0)
        network.fit(X, Y, epochs=2, batch_size=2)  # enough steps for their graphs
        yield f"training, {dtype}"
        network.predict(X)
        yield f"prediction, {dtype}"
