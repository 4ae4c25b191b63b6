"""Compile all that this backend compiles, on the smallest network that calls it."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from deepnotes.layers import Dense
from deepnotes.network import Network

if TYPE_CHECKING:
    from deepnotes_numba import NumbaBackend


def warmup(backend: "NumbaBackend", dtypes: Sequence[str]) -> Iterator[str]:
    """Yield a few words for each thing, as it is ready; what the disk cache holds is ready at once."""
    X, Y = np.ones((2, 2)), np.ones((1, 2))
    for dtype in dtypes:
        network = Network([Dense(1)], inputs=2, backend=backend, dtype=dtype, seed=0)
        network.partial_fit(X, Y)
        yield f"training, {dtype}"
        network.predict(X)
        yield f"prediction, {dtype}"
        network.predict(X[:, :1])
        yield f"prediction of one sample, {dtype}"
